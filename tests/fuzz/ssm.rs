//! Messages of the data channel, alone and in both ends of a channel.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde_json::json;
use ssmshim::ssm::protocol::data_channel::{AgentOptions, Config, DataChannel, Event, Origin};
use ssmshim::ssm::protocol::handshake::HandshakeRequest;
use ssmshim::ssm::protocol::message::ClientMessage;
use ssmshim::ssm::protocol::payload::PayloadType;

use crate::Lengths;

const DIGEST_AT: usize = 80;

/// Every message of a short conversation, each by itself.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let mut all = exchange();
    // As the service writes it: short header, payload at 116.
    let mut closed = b"\0\0\0\x70channel_closed".to_vec();
    closed.resize(36, b' ');
    closed.extend_from_slice(b"\0\0\0\x01\0\0\x01\x8b\xcf\xe5\x68\0\0\0\0\0\0\0\0\0");
    closed.resize(112, 0);
    closed.extend_from_slice(b"\0\0\0\x10{\"Output\":\"bye\"}");
    all.push(sealed(&closed));
    all
}

/// The same, one after the other, each behind its length.
pub(crate) fn conversation() -> Vec<Vec<u8>> {
    let all = messages();
    let whole = all
        .iter()
        .flat_map(|message| Lengths::join(message))
        .collect();
    let mut corpus: Vec<_> = all.iter().map(|message| Lengths::join(message)).collect();
    corpus.push(whole);
    corpus
}

/// What two ends say to each other from handshake to flag.
fn exchange() -> Vec<Vec<u8>> {
    let now = Instant::now();
    let (mut client, mut agent) = (new_client(now), new_agent(now));
    let mut said = Vec::new();
    for turn in 0..6 {
        for _ in 0..10 {
            while let Some(frame) = agent.poll_transmit(now) {
                said.push(frame.to_vec());
                let _ = client.handle_input(now, frame);
            }
            while let Some(frame) = client.poll_transmit(now) {
                said.push(frame.to_vec());
                let _ = agent.handle_input(now, frame);
            }
            while client.poll_event().is_some() || agent.poll_event().is_some() {}
        }
        let kinds = [PayloadType::Output, PayloadType::Size, PayloadType::Flag];
        let payload = [&b"hello"[..], br#"{"cols":80,"rows":24}"#, b"\0\0\0\x02"][turn % 3];
        let _ = client.send(now, kinds[turn % 3], payload);
        let _ = agent.send(now, PayloadType::Output, payload);
    }
    assert!(client.is_established() && agent.is_established());
    said
}

fn origin() -> Origin {
    Origin {
        unix_time: Duration::from_secs(1_700_000_000),
        seed: 1,
    }
}

fn new_client(now: Instant) -> DataChannel {
    DataChannel::new(Config::client("1.2.764.0"), origin(), now)
}

fn new_agent(now: Instant) -> DataChannel {
    let properties = json!({"portNumber": "22", "type": "LocalPortForwarding"});
    let request = HandshakeRequest::port("3.3.987.0", properties);
    let options = AgentOptions::new(Some(request));
    DataChannel::new(Config::agent(options), origin(), now)
}

/// The message with the digest its payload has now, or nothing would get past it.
fn sealed(message: &[u8]) -> Vec<u8> {
    let mut sealed = message.to_vec();
    let payload_at = match message.get(3) {
        Some(112) => 116,
        _ => 120,
    };
    if let Some(payload) = message.get(payload_at..) {
        sealed[DIGEST_AT..DIGEST_AT + 32].copy_from_slice(digest(&SHA256, payload).as_ref());
    }
    sealed
}

/// What was decoded is encoded to the same again.
pub(crate) fn message(input: &[u8]) {
    let _ = ClientMessage::decode(Bytes::copy_from_slice(input));
    if let Ok(message) = ClientMessage::decode(sealed(input).into()) {
        let again = ClientMessage::decode(message.encode()).expect("our own bytes");
        assert_eq!(again, message);
    }
}

pub(crate) fn client(input: &[u8]) {
    channel(new_client, input);
}

pub(crate) fn agent(input: &[u8]) {
    channel(new_agent, input);
}

/// A channel keeps its bounds and goes on, whatever comes.
fn channel(new: fn(Instant) -> DataChannel, input: &[u8]) {
    let mut now = Instant::now();
    let mut channel = new(now);
    for (turn, message) in Lengths(input).enumerate() {
        let message = match turn % 8 {
            7 => message.to_vec(),
            _ => sealed(message),
        };
        let _ = channel.handle_input(now, message.into());
        let _ = channel.send(now, PayloadType::Output, b"x");
        if turn % 3 == 0 {
            while let Some(event) = channel.poll_event() {
                if let Event::Data(_, bytes) = event {
                    assert!(bytes.len() <= input.len());
                }
            }
        }
        for _ in 0..4 {
            let _ = channel.poll_transmit(now);
        }
        if let Some(due) = channel.poll_timeout() {
            now = now.max(due);
            channel.handle_timeout(now);
        }
        if turn % 5 == 4 {
            channel.on_reconnected(now);
        }
    }
}
