//! The emulator from outside: HTTP and messages written by hand, byte by byte, so that a mistake
//! of our own codec cannot hide at both ends.

mod api;
mod faults;
mod foreign_agent;
mod foreign_client;
mod gateway;
mod sdk;
mod sessions;

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Emulator, Instance, Options, Pacing, Resend};

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// An `Authorization` header as a caller's SDK would write it, with `access_key`.
fn authorization(access_key: &str) -> String {
    format!(
        "Authorization: AWS4-HMAC-SHA256 Credential={access_key}/20260101/us-east-1/ssm/aws4_request, \
         SignedHeaders=host, Signature=00\r\n"
    )
}

/// An answer, as far as tests look at it.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn kind(&self) -> String {
        self.json()["__type"].as_str().unwrap().to_owned()
    }
}

/// Sends `request` as it is and reads the answer until the connection ends.
async fn exchange(addr: SocketAddr, request: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// Calls an operation with `headers` of the caller's own.
async fn call_with(emulator: &Emulator, operation: &str, headers: &str, body: &str) -> Answer {
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Amz-Target: AmazonSSM.{operation}\r\n\
         Content-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    exchange(emulator.hub.addr, &request).await
}

async fn call(emulator: &Emulator, operation: &str, body: Value) -> Answer {
    let headers = authorization("AKIAEXAMPLE");
    call_with(emulator, operation, &headers, &body.to_string()).await
}

/// A message in the layout of sheet §1, with every number where the sheet has it.
fn message(kind: &str, sequence: i64, flags: u64, payload_type: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 116];
    frame.extend_from_slice(format!("{kind:<32}").as_bytes());
    frame.extend_from_slice(&[0, 0, 0, 1]);
    frame.extend_from_slice(&1_700_000_000_000_u64.to_be_bytes());
    frame.extend_from_slice(&sequence.to_be_bytes());
    frame.extend_from_slice(&flags.to_be_bytes());
    // 01234567-89ab-cdef-0011-223344556677, its halves swapped.
    frame.extend_from_slice(&0x0011_2233_4455_6677_u64.to_be_bytes());
    frame.extend_from_slice(&0x0123_4567_89ab_cdef_u64.to_be_bytes());
    frame.extend_from_slice(digest(&SHA256, payload).as_ref());
    frame.extend_from_slice(&payload_type.to_be_bytes());
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A message taken apart.
#[derive(Debug, Clone, PartialEq)]
struct Parsed {
    kind: String,
    sequence: i64,
    flags: u64,
    /// In logical order, hyphenated.
    id: String,
    payload_type: u32,
    payload: Vec<u8>,
}

impl Parsed {
    fn new(frame: &[u8]) -> Self {
        let number = |at: usize| u64::from_be_bytes(frame[at..at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        let start = usize::try_from(word(0)).unwrap() + 4;
        let (high, low) = (number(72), number(64));
        Self {
            kind: String::from_utf8(frame[4..36].to_vec())
                .unwrap()
                .trim_end()
                .to_owned(),
            sequence: i64::from_be_bytes(frame[48..56].try_into().unwrap()),
            flags: number(56),
            id: format!(
                "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                high >> 32,
                high >> 16 & 0xffff,
                high & 0xffff,
                low >> 48,
                low & 0xffff_ffff_ffff
            ),
            payload_type: if start == 120 { word(112) } else { 0 },
            payload: frame[start..].to_vec(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

/// A TCP server on a free port that serves connections with `serve`, until the test ends.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// Sends back what it gets.
async fn echo(mut stream: TcpStream) {
    let (mut reader, mut writer) = stream.split();
    // The other side may leave at any time.
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
}

/// A port at which nobody listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

async fn emulator(pacing: Pacing) -> Emulator {
    Emulator::start(Options {
        pacing,
        ..Options::default()
    })
    .await
    .unwrap()
}

/// Two machines, of which only the first has an agent.
async fn emulator_with_offline() -> Emulator {
    Emulator::start(Options {
        pacing: Pacing::Off,
        instances: vec![
            Instance::default(),
            Instance {
                id: "mi-0aaaaaaaaaaaaaaaa".into(),
                name: "foreign".into(),
                agent: false,
                ..Instance::default()
            },
        ],
        ..Options::default()
    })
    .await
    .unwrap()
}
