//! Clients that do what they must not, against our server.

use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use ssmshim::server::access::{Access, Owner};
use ssmshim::ssh::transport::{self, Config, Event, Transport, reason};
use ssmshim::ssh::wire::{WriteExt as _, msg};
use ssmshim::ssh::{Error, Phase};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::endpoint::Endpoint;

fn everybody() -> Access {
    Access::from(Owner {
        owner: 1000,
        peer: Some(1000),
    })
}

type Served = tokio::task::JoinHandle<Vec<Result<String, Error>>>;

/// A client that sends what it is told.
struct Client {
    stream: TcpStream,
    transport: Transport,
}

impl Client {
    /// A client past the key exchange, and the server.
    async fn connect() -> (Self, Served) {
        let endpoint = Endpoint::new().await;
        let mut client = Self {
            stream: TcpStream::connect(endpoint.address()).await.unwrap(),
            transport: Transport::client(Config::default(), Instant::now()),
        };
        let served = endpoint.serve(1, everybody());
        loop {
            match client.event().await {
                Some(Event::HostKey { .. }) => {
                    client.transport.accept_host_key(Instant::now()).unwrap();
                }
                Some(Event::Established) => return (client, served),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn send(&mut self, message: &[u8]) {
        self.transport.send(message).unwrap();
        self.write().await;
    }

    async fn write(&mut self) {
        while !self.transport.output().is_empty() {
            let written = self.stream.write(self.transport.output()).await.unwrap();
            self.transport.output().advance(written);
        }
    }

    /// The next event; none at the end of the stream.
    async fn event(&mut self) -> Option<Event> {
        let mut input = [0; 4096];
        loop {
            if let Some(event) = self.transport.poll_event() {
                return Some(event);
            }
            self.write().await;
            let length = self
                .stream
                .read(&mut input)
                .await
                .ok()
                .filter(|length| *length > 0)?;
            self.transport
                .handle_input(Instant::now(), &input[..length])
                .unwrap();
        }
    }

    async fn message(&mut self) -> Bytes {
        match self.event().await {
            Some(Event::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    }
}

fn service(name: &str) -> Vec<u8> {
    let mut message = vec![msg::SERVICE_REQUEST];
    message.put_string(name);
    message
}

fn none() -> Vec<u8> {
    let mut message = vec![msg::USERAUTH_REQUEST];
    message
        .put_string("me")
        .put_string("ssh-connection")
        .put_string("none");
    message
}

fn open() -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_OPEN];
    message
        .put_string("session")
        .put_uint32(0)
        .put_uint32(1)
        .put_uint32(1);
    message
}

#[tokio::test]
async fn what_breaks_the_order_ends_the_connection() {
    let login = || service("ssh-userauth");
    let cases: [(&str, Vec<Vec<u8>>, u32); 6] = [
        (
            "another service after the right one",
            vec![login(), service("ssh-evil")],
            reason::SERVICE_NOT_AVAILABLE,
        ),
        (
            "another service",
            vec![service("ssh-evil")],
            reason::SERVICE_NOT_AVAILABLE,
        ),
        (
            "authentication without the service",
            vec![none()],
            reason::PROTOCOL_ERROR,
        ),
        ("a channel at once", vec![open()], reason::PROTOCOL_ERROR),
        (
            "a channel before authentication",
            vec![login(), open()],
            reason::PROTOCOL_ERROR,
        ),
        (
            "success by the client",
            vec![login(), vec![msg::USERAUTH_SUCCESS]],
            reason::PROTOCOL_ERROR,
        ),
    ];
    for (case, messages, expected) in cases {
        let (mut client, served) = Client::connect().await;
        for message in &messages {
            client.send(message).await;
        }
        let reason = loop {
            match client.event().await {
                Some(Event::Disconnected { reason, .. }) => break reason,
                Some(Event::Message(message)) => {
                    assert_eq!(message[0], msg::SERVICE_ACCEPT, "{case}")
                }
                other => panic!("{case}: {other:?}"),
            }
        };
        assert_eq!(reason, expected, "{case}");
        let error = served.await.unwrap().pop().unwrap().unwrap_err();
        let is_told = matches!(
            error,
            Error::Client(_) | Error::Transport(transport::Error::UnexpectedMessage { .. })
        );
        assert!(is_told, "{case}: {error}");
    }
}

#[tokio::test]
async fn requests_after_success_change_nothing() {
    let (mut client, served) = Client::connect().await;
    // Twice, as paramiko does.
    for _ in 0..2 {
        client.send(&service("ssh-userauth")).await;
        assert_eq!(client.message().await[0], msg::SERVICE_ACCEPT);
    }
    client.send(&none()).await;
    assert_eq!(client.message().await[0], msg::USERAUTH_SUCCESS);
    client.transport.authenticated();

    let mut other = none();
    other[5..7].copy_from_slice(b"ro");
    client.send(&other).await;
    // Refused as unknown, which the transport of this client keeps to itself.
    client.send(&service("ssh-userauth")).await;
    let mut question = vec![msg::GLOBAL_REQUEST];
    question.put_string("are you there").put_bool(true);
    client.send(&question).await;
    assert_eq!(client.message().await[0], msg::REQUEST_FAILURE);

    drop(client);
    assert_eq!(served.await.unwrap()[0].as_ref().unwrap(), "me");
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let mut noise = b"SSH-2.0-noise\r\n".to_vec();
    noise.extend(crate::noise(2000));
    let cases: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-1.5-old\r\n",
        &noise,
        b"\0\0\0\0",
    ];
    for bytes in cases {
        let endpoint = Endpoint::new().await;
        let mut stream = TcpStream::connect(endpoint.address()).await.unwrap();
        let served = endpoint.serve(1, everybody());
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // The end may come as a reset, because not all was read.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"SSH-2.0-"), "{answer:?}");
        let error = served.await.unwrap().pop().unwrap().unwrap_err();
        assert!(matches!(error, Error::Transport(_)), "{error}");
    }
}

#[tokio::test]
async fn silent_clients_are_not_waited_for() {
    let mut endpoint = Endpoint::new().await;
    endpoint.config.deadline = Duration::from_millis(50);
    let mut stream = TcpStream::connect(endpoint.address()).await.unwrap();
    let served = endpoint.serve(1, everybody());
    let mut greeting = Vec::new();
    stream.read_to_end(&mut greeting).await.unwrap();
    let error = served.await.unwrap().pop().unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            Error::TimedOut {
                phase: Phase::KeyExchange,
                ..
            }
        ),
        "{error}"
    );
}
