//! A client that shares nothing with ours but the WebSocket.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{DEADLINE, Emulator, Parsed, call, message};

pub(super) const OUTPUT: u32 = 1;
pub(super) const HANDSHAKE_REQUEST: u32 = 5;
pub(super) const HANDSHAKE_RESPONSE: u32 = 6;
pub(super) const HANDSHAKE_COMPLETE: u32 = 7;
pub(super) const FLAG: u32 = 10;

/// What StartSession and ResumeSession answer.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) session_id: String,
    pub(super) url: String,
    pub(super) token: String,
}

impl Ticket {
    pub(super) fn new(answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        Self {
            session_id: text("SessionId"),
            url: text("StreamUrl"),
            token: text("TokenValue"),
        }
    }
}

pub(super) async fn start(emulator: &Emulator, document: &str, port: u16) -> Ticket {
    let answer = call(
        emulator,
        "StartSession",
        json!({
            "Target": emulator.target(),
            "DocumentName": document,
            "Parameters": { "portNumber": [port.to_string()] },
        }),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    Ticket::new(&answer.json())
}

pub(super) async fn resume(emulator: &Emulator, session_id: &str) -> Ticket {
    let answer = call(
        emulator,
        "ResumeSession",
        json!({ "SessionId": session_id }),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    Ticket::new(&answer.json())
}

/// How a socket ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a close frame.
    Close(u16, String),
    /// The TCP connection was closed.
    Fin,
    /// The TCP connection was reset.
    Reset,
}

/// One data channel, with the numbers that outlive its sockets.
pub(super) struct Client {
    socket: WebSocketStream<TcpStream>,
    pub(super) next_sent: i64,
    pub(super) next_received: i64,
    /// What came before its turn.
    early: Vec<Parsed>,
    /// Numbers that the agent has acknowledged.
    pub(super) acknowledged: Vec<i64>,
}

impl Client {
    pub(super) async fn open(ticket: &Ticket) -> Self {
        Self {
            socket: connect(ticket).await,
            next_sent: 0,
            next_received: 0,
            early: Vec::new(),
            acknowledged: Vec::new(),
        }
    }

    /// Goes on with another socket; the old one is cut without a goodbye.
    pub(super) async fn reopen(&mut self, ticket: &Ticket) {
        self.socket = connect(ticket).await;
    }

    pub(super) async fn send_raw(&mut self, frame: Vec<u8>) {
        self.socket.send(Message::binary(frame)).await.unwrap();
    }

    pub(super) async fn send(&mut self, payload_type: u32, payload: &[u8]) {
        let sequence = self.next_sent;
        self.next_sent += 1;
        self.send_raw(message(
            "input_stream_data",
            sequence,
            0,
            payload_type,
            payload,
        ))
        .await;
    }

    pub(super) async fn acknowledge(&mut self, received: &Parsed) {
        let body = format!(
            r#"{{"AcknowledgedMessageType":"output_stream_data","AcknowledgedMessageId":"{}","AcknowledgedMessageSequenceNumber":{},"IsSequentialMessage":true}}"#,
            received.id, received.sequence
        );
        self.send_raw(message("acknowledge", 0, 3, 0, body.as_bytes()))
            .await;
    }

    /// The next binary message of any kind; nothing when the socket has ended.
    pub(super) async fn receive_raw(&mut self) -> Option<Parsed> {
        loop {
            let next = tokio::time::timeout(DEADLINE, self.socket.next()).await;
            match next.expect("no message in time") {
                Some(Ok(Message::Binary(frame))) => return Some(Parsed::new(&frame)),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next stream message in order, acknowledged; or the first `channel_closed`.
    pub(super) async fn receive(&mut self) -> Parsed {
        loop {
            let turn = self.next_received;
            if let Some(at) = self.early.iter().position(|early| early.sequence == turn) {
                self.next_received += 1;
                return self.early.swap_remove(at);
            }
            let received = self.receive_raw().await.expect("the socket has ended");
            match received.kind.as_str() {
                "output_stream_data" => {
                    self.acknowledge(&received).await;
                    let is_new = received.sequence >= turn
                        && !self
                            .early
                            .iter()
                            .any(|early| early.sequence == received.sequence);
                    if is_new {
                        self.early.push(received);
                    }
                }
                "acknowledge" => {
                    let number = received.json()["AcknowledgedMessageSequenceNumber"].as_i64();
                    self.acknowledged.push(number.unwrap());
                }
                "channel_closed" => return received,
                "start_publication" | "pause_publication" => {}
                other => panic!("unexpected {other}"),
            }
        }
    }

    /// Output bytes until there are `length` of them.
    pub(super) async fn receive_output(&mut self, length: usize) -> Vec<u8> {
        let mut output = Vec::new();
        while output.len() < length {
            let received = self.receive().await;
            assert_eq!(
                (received.kind.as_str(), received.payload_type),
                ("output_stream_data", OUTPUT),
                "{received:?}"
            );
            output.extend_from_slice(&received.payload);
        }
        output
    }

    /// Answers the handshake as a client of `version` and returns the request.
    pub(super) async fn shake_hands(&mut self, version: &str) -> Value {
        let request = self.receive().await;
        assert_eq!((request.sequence, request.flags), (0, 1));
        assert_eq!(request.payload_type, HANDSHAKE_REQUEST);
        let response = json!({
            "ClientVersion": version,
            "ProcessedClientActions": [
                { "ActionType": "SessionType", "ActionStatus": 1, "ActionResult": null, "Error": "" },
            ],
            "Errors": null,
        });
        self.send(HANDSHAKE_RESPONSE, response.to_string().as_bytes())
            .await;
        let complete = self.receive().await;
        assert_eq!(complete.payload_type, HANDSHAKE_COMPLETE);
        assert!(complete.json()["HandshakeTimeToComplete"].is_u64());
        request.json()
    }

    /// Reads on until the socket ends, and tells how.
    pub(super) async fn end(&mut self) -> End {
        loop {
            let next = tokio::time::timeout(DEADLINE, self.socket.next()).await;
            match next.expect("the socket does not end") {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return End::Close(frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(_)) => {}
                Some(Err(Error::Io(error))) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                    return End::Reset;
                }
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => {
                    return End::Fin;
                }
                Some(Err(error)) => panic!("{error:?}"),
            }
        }
    }

    /// The next data message, acknowledged by nobody.
    pub(super) async fn receive_raw_data(&mut self) -> Parsed {
        loop {
            let received = self.receive_raw().await.expect("the socket has ended");
            if received.kind == "output_stream_data" {
                return received;
            }
        }
    }

    /// Waits for the next acknowledgement.
    pub(super) async fn receive_acknowledgement(&mut self) {
        loop {
            let received = self.receive_raw().await.expect("the socket has ended");
            if received.kind == "acknowledge" {
                return;
            }
        }
    }

    /// Whether nothing at all comes for `time`.
    pub(super) async fn hears_nothing(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.socket.next())
            .await
            .is_err()
    }

    /// Whether neither data nor an end come for `time`.
    pub(super) async fn hears_nothing_new(&mut self, time: Duration) -> bool {
        let next = async {
            loop {
                match self.receive_raw().await {
                    Some(received) if received.kind.ends_with("_publication") => {}
                    _ => return,
                }
            }
        };
        tokio::time::timeout(time, next).await.is_err()
    }

    pub(super) async fn ping(&mut self) {
        self.socket
            .send(Message::Ping("keepalive".into()))
            .await
            .unwrap();
        loop {
            let next = tokio::time::timeout(DEADLINE, self.socket.next()).await;
            match next.expect("no pong in time") {
                Some(Ok(Message::Pong(payload))) => {
                    assert_eq!(&payload[..], b"keepalive");
                    return;
                }
                Some(Ok(_)) => {}
                end => panic!("{end:?}"),
            }
        }
    }
}

async fn connect(ticket: &Ticket) -> WebSocketStream<TcpStream> {
    let addr = ticket.url.strip_prefix("ws://").unwrap();
    let (addr, _) = addr.split_once('/').unwrap();
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(&ticket.url, stream)
        .await
        .unwrap();
    let opening = json!({
        "MessageSchemaVersion": "1.0",
        "RequestId": "5ae5ee0b-3f4c-4a8c-a1c5-0a8a3a2b7a11",
        "TokenValue": ticket.token,
        "ClientId": "5ae5ee0b-3f4c-4a8c-a1c5-0a8a3a2b7a12",
        "ClientVersion": "1.2.764.0",
    });
    socket
        .send(Message::text(opening.to_string()))
        .await
        .unwrap();
    socket
}

/// An smux v1 frame: version, command, length and stream id, the last two little-endian.
pub(super) fn smux(command: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut frame = vec![1, command];
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&stream.to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}
