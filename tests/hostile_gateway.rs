//! A message gateway that sends what no gateway should: told in one line, and the daemon tries again.
//!
//! The service here is written from the protocol's description alone and shares no code with ours.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use common::daemon::{Daemon, aws_environment};
use common::sshd::make_key;
use common::world::serve_args;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept};

/// A message as the agent would send it, to be spoilt in one place.
#[derive(Clone)]
struct Frame {
    header_length: u32,
    message_type: &'static str,
    created: u64,
    sequence: i64,
    payload_type: u32,
    payload: Vec<u8>,
    digest: Option<[u8; 32]>,
}

impl Frame {
    fn handshake_request(payload: &str) -> Self {
        Self {
            header_length: 116,
            message_type: "output_stream_data",
            created: 1_700_000_000_000,
            sequence: 0,
            payload_type: 5,
            payload: payload.into(),
            digest: None,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.payload);
        let mut bytes = self.header_length.to_be_bytes().to_vec();
        bytes.extend_from_slice(format!("{:32}", self.message_type).as_bytes());
        bytes.extend_from_slice(&1_u32.to_be_bytes());
        bytes.extend_from_slice(&self.created.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&1_u64.to_be_bytes());
        bytes.extend_from_slice(b"0123456789abcdef");
        bytes.extend_from_slice(
            self.digest
                .as_ref()
                .map_or(digest.as_ref(), |digest| &digest[..]),
        );
        bytes.extend_from_slice(&self.payload_type.to_be_bytes());
        bytes.extend_from_slice(
            &u32::try_from(self.payload.len())
                .expect("small")
                .to_be_bytes(),
        );
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// A right request: the session type that was asked for.
const HANDSHAKE: &str = r#"{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType",
"ActionParameters":{"SessionType":"Port","Properties":{"portNumber":"22","type":"LocalPortForwarding"}}}]}"#;

/// An endpoint that grants every session and leads it to `gateway`; returns its URL. Asked about the target, it
/// says in the same answer that it is online.
fn service(gateway: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("a bound socket").port();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            thread::spawn(move || {
                while read_request(&mut socket) {
                    let body = format!(
                        "{{\"SessionId\":\"test-0123456789abcdef0\",\"TokenValue\":\"token\",\
                         \"StreamUrl\":\"ws://127.0.0.1:{gateway}/v1/data-channel/test\",\
                         \"InstanceInformationList\":[{{\"InstanceId\":\"i-0123456789abcdef0\",\
                         \"PingStatus\":\"Online\"}}]}}"
                    );
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n\
                         Content-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if socket.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    format!("http://127.0.0.1:{port}")
}

/// Reads one request with its body; `false` at the end of the connection.
fn read_request(socket: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    socket.read_exact(&mut vec![0; length]).is_ok()
}

/// A gateway that treats every data channel with `speak`; returns its port.
fn gateway(speak: impl Fn(&mut WebSocket<TcpStream>) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("a bound socket").port();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let speak = speak.clone();
            thread::spawn(move || {
                let Ok(mut channel) = accept(socket) else {
                    return;
                };
                // The first message opens the channel: a text with the token.
                let opened = channel.read().is_ok_and(|message| message.is_text());
                assert!(opened, "the channel is opened with a text");
                speak(&mut channel);
                // Until the other side leaves.
                while channel.read().is_ok() {}
            });
        }
    });
    port
}

/// Runs `serve` against a gateway that sends `messages`, and returns what it tells as the error.
fn error_after(messages: Vec<Message>) -> String {
    let gateway = gateway(move |channel| {
        for message in &messages {
            // The other side may have left already, which is its right.
            let _ = channel.send(message.clone());
        }
    });
    let home = tempfile::tempdir().expect("a temporary directory");
    let identity = home.path().join("identity");
    make_key(&identity);
    let args = serve_args("i-0123456789abcdef0", "22", &identity);
    let args: Vec<_> = args
        .iter()
        .map(String::as_str)
        // What may yet heal is told after the hold time, which need not be long here.
        .chain(["--listen", "127.0.0.1:0", "--hold", "2"])
        .collect();
    let mut daemon = Daemon::launch(home.path(), &args, &aws_environment(&service(gateway)));
    let error = daemon.told("error: ");
    common::note(&error);
    assert!(!daemon.told("hint: ").is_empty(), "{error}");
    daemon.assert_up();
    assert!(daemon.memory().peak < 96 << 10, "{:?}", daemon.memory());
    error
}

fn binary(frame: &Frame) -> Message {
    Message::binary(frame.bytes())
}

#[test]
fn messages_that_cannot_be_read() {
    if !common::have("ssh-keygen") {
        return;
    }
    let right = Frame::handshake_request(HANDSHAKE);
    let cases = [
        (
            "no JSON in the handshake",
            binary(&Frame::handshake_request("{")),
        ),
        ("three bytes", Message::binary(vec![1, 2, 3])),
        ("nothing", Message::binary(Vec::new())),
        (
            "a header beyond the end",
            binary(&Frame {
                header_length: u32::MAX,
                ..right.clone()
            }),
        ),
        (
            "a header of length 0",
            binary(&Frame {
                header_length: 0,
                ..right.clone()
            }),
        ),
        (
            "a date of 0",
            binary(&Frame {
                created: 0,
                ..right.clone()
            }),
        ),
        (
            "a wrong digest",
            binary(&Frame {
                digest: Some([7; 32]),
                ..right.clone()
            }),
        ),
        (
            "an empty type",
            binary(&Frame {
                message_type: "",
                ..right
            }),
        ),
        ("64 MiB in one message", Message::binary(vec![0; 64 << 20])),
    ];
    for (name, message) in cases {
        let error = error_after(vec![message, Message::Close(None)]);
        common::note(&format!("{name}: {error}"));
        assert!(!error.is_empty() && !error.contains('\n'));
    }
}

/// What the service says at the end of a session is for the person.
#[test]
fn text_of_the_service_is_passed_on() {
    if !common::have("ssh-keygen") {
        return;
    }
    let payload = r#"{"MessageId":"m","CreatedDate":"d","DestinationId":"i","SessionId":"s",
"MessageType":"channel_closed","SchemaVersion":1,"Output":"the policy of this account forbids it"}"#;
    let closed = Frame {
        message_type: "channel_closed",
        payload_type: 0,
        ..Frame::handshake_request(payload)
    };
    let error = error_after(vec![binary(&closed)]);
    assert!(
        error.contains("the policy of this account forbids it"),
        "{error}"
    );
}

#[test]
fn unsupported_session_types_are_told() {
    if !common::have("ssh-keygen") {
        return;
    }
    let shell = HANDSHAKE.replace("\"Port\"", "\"Standard_Stream\"");
    let error = error_after(vec![
        binary(&Frame::handshake_request(&shell)),
        Message::Close(None),
    ]);
    common::note(&error);
}
