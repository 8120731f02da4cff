//! The pair between two scripted sides.

mod away;
mod chance;
mod forwards;
mod passing;
mod redial;

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::credit::Limits;
use super::{Error, Pair, Received, Side};
use crate::ssh::messages::Message;
use crate::ssh::wire::{WriteExt, msg};
use crate::upstream::Absence;

const LIMITS: Limits = Limits {
    connection_bytes: 64 << 10,
    channel_min_bytes: 8 << 10,
    channel_max_bytes: 32 << 10,
};

/// How long a channel waits for an upstream that is away.
const HOLD: Duration = Duration::from_secs(30);

/// A pair and a clock.
struct Scripted {
    pair: Pair,
    now: Instant,
}

impl Scripted {
    /// A pair that waits for its first upstream.
    fn alone(local_is_openssh: bool) -> Self {
        Self::with(LIMITS, local_is_openssh)
    }

    /// [`Scripted::alone`] with limits of one's own.
    fn with(limits: Limits, local_is_openssh: bool) -> Self {
        let now = Instant::now();
        Self {
            pair: Pair::new(limits, HOLD, local_is_openssh, now),
            now,
        }
    }

    /// A pair that has its first upstream.
    fn joined(local_is_openssh: bool) -> Self {
        let mut scripted = Self::alone(local_is_openssh);
        scripted.gain();
        scripted
    }

    fn receive(&mut self, from: Side, message: Bytes) -> Result<Received, Error> {
        self.pair.receive(self.now, from, message)
    }

    /// The client says `message`.
    fn local(&mut self, message: Bytes) {
        assert_eq!(self.receive(Side::Local, message), Ok(Received::Taken));
    }

    /// Upstream says `message`.
    fn upstream(&mut self, message: Bytes) {
        assert_eq!(self.receive(Side::Upstream, message), Ok(Received::Taken));
    }

    /// What the client is told.
    fn local_hears(&mut self) -> Vec<Bytes> {
        drain(self, Side::Local)
    }

    /// What upstream is told.
    fn upstream_hears(&mut self) -> Vec<Bytes> {
        drain(self, Side::Upstream)
    }

    fn lose(&mut self) {
        self.pair.lose_upstream(self.now, "gone");
    }

    fn gain(&mut self) {
        self.pair.gain_upstream(self.now);
    }

    /// The way to upstream is interrupted, since a while ago; or the agent is silent.
    fn set_away(&mut self, ago: Duration, is_silence: bool) {
        let since = self.now - ago;
        let absence = Absence { since, is_silence };
        self.pair.set_absence(self.now, Some(absence));
    }

    /// It goes on.
    fn resume(&mut self) {
        self.pair.set_absence(self.now, None);
    }

    /// Lets time pass.
    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.pair.handle_timeout(self.now);
    }
}

impl Deref for Scripted {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.pair
    }
}

impl DerefMut for Scripted {
    fn deref_mut(&mut self) -> &mut Pair {
        &mut self.pair
    }
}

/// A pair with one session channel, 10 at the client and 20 at the server.
fn with_channel(client_window: u32, server_window: u32) -> Scripted {
    let mut pair = Scripted::joined(true);
    pair.local(open("session", 10, client_window));
    drain(&mut pair, Side::Upstream);
    pair.upstream(confirmation(10, 20, server_window));
    drain(&mut pair, Side::Local);
    pair
}

/// [`with_channel`] whose client has asked for a terminal.
fn with_terminal() -> Scripted {
    let mut pair = with_channel(1 << 20, 1 << 20);
    pair.local(request(20, "pty-req"));
    drain(&mut pair, Side::Upstream);
    pair
}

fn build(number: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut message = vec![number];
    fill(&mut message);
    message.into()
}

fn open(kind: &str, sender: u32, window: u32) -> Bytes {
    build(msg::CHANNEL_OPEN, |m| {
        m.put_string(kind)
            .put_uint32(sender)
            .put_uint32(window)
            .put_uint32(32768);
    })
}

fn confirmation(recipient: u32, sender: u32, window: u32) -> Bytes {
    build(msg::CHANNEL_OPEN_CONFIRMATION, |m| {
        m.put_uint32(recipient)
            .put_uint32(sender)
            .put_uint32(window)
            .put_uint32(32768);
    })
}

fn data(recipient: u32, payload: &[u8]) -> Bytes {
    build(msg::CHANNEL_DATA, |m| {
        m.put_uint32(recipient).put_string(payload);
    })
}

fn global(name: &str, want_reply: bool) -> Bytes {
    build(msg::GLOBAL_REQUEST, |m| {
        m.put_string(name).put_bool(want_reply);
    })
}

fn request(recipient: u32, name: &str) -> Bytes {
    build(msg::CHANNEL_REQUEST, |m| {
        m.put_uint32(recipient).put_string(name).put_bool(true);
    })
}

fn eof(recipient: u32) -> Bytes {
    build(msg::CHANNEL_EOF, |m| {
        m.put_uint32(recipient);
    })
}

fn close(recipient: u32) -> Bytes {
    build(msg::CHANNEL_CLOSE, |m| {
        m.put_uint32(recipient);
    })
}

fn drain(pair: &mut Pair, to: Side) -> Vec<Bytes> {
    std::iter::from_fn(|| pair.next_message(to)).collect()
}

/// A request of ours for a listener, or of the client's.
fn listen(address: &str, port: u32) -> Bytes {
    build(msg::GLOBAL_REQUEST, |m| {
        m.put_string("tcpip-forward")
            .put_bool(true)
            .put_string(address)
            .put_uint32(port);
    })
}

fn success() -> Bytes {
    Bytes::from_static(&[msg::REQUEST_SUCCESS])
}

fn failure() -> Bytes {
    Bytes::from_static(&[msg::REQUEST_FAILURE])
}

/// What is said on standard error by `message`.
fn stderr_of(message: &[u8]) -> String {
    assert_eq!(message[0], msg::CHANNEL_EXTENDED_DATA, "{message:?}");
    assert!(matches!(Message::parse(message), Message::Data { .. }));
    String::from_utf8(message[13..].to_vec()).unwrap()
}
