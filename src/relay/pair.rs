//! The pure core of a relay: messages go in on one side and come out on the other.

use bytes::Bytes;
use thiserror::Error;

use super::credit::Limits;
use super::observer::Observer;
use super::queue::Queue;
use super::{BySide, Side};
use crate::ssh::messages::{
    Message, channel_failure, channel_open_failure, open_failure, request_failure,
    with_initial_window,
};
use crate::ssh::wire::Truncated;

/// Why a side cannot be served any longer. Each is that side's own doing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A message does not hold the fields it must hold.
    #[error("malformed connection message")]
    Malformed(#[from] Truncated),
    /// More data than the window allowed (RFC 4254 §5.2).
    #[error("channel {recipient} received more data than its window allows")]
    WindowOverrun {
        /// The receiver's number of the channel.
        recipient: u32,
    },
    /// A session was asked for after `no-more-sessions@openssh.com`.
    #[error("Possible attack: attempt to open a session after additional sessions disabled")]
    SessionAfterNoMoreSessions,
    /// A channel was accepted that nobody had asked for.
    #[error("channel {recipient} was accepted but not asked for")]
    UnexpectedConfirmation {
        /// The number that the other side would have given it.
        recipient: u32,
    },
}

/// What became of a message given to [`Pair::receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It was passed on, or dealt with here.
    Taken,
    /// Its number is not one of RFC 4254: the sender is to be told `SSH_MSG_UNIMPLEMENTED`.
    Unimplemented,
}

/// Joins a local connection and its upstream transport.
///
/// Messages are passed on as they came, but for four things. `hostkeys-00@openssh.com` stays here,
/// because the host key that the client sees is ours. `no-more-sessions@openssh.com` is kept by us
/// towards this client, so that the transport can serve the next one. Initial windows are
/// clamped and adjustments held back ([`Limits`]). And with no upstream to ask, [`Pair::refuse`] answers
/// requests with failure.
#[derive(Debug)]
pub struct Pair {
    limits: Limits,
    queues: BySide<Queue>,
    observer: Observer,
    no_more_sessions: bool,
}

impl Pair {
    /// A pair through which nothing has passed yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            queues: BySide::default(),
            observer: Observer::default(),
            no_more_sessions: false,
        }
    }

    /// What is known of the channels.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Whether messages of `from` have room. When not, its connection is to be left unread for a while.
    pub fn may_receive(&self, from: Side) -> bool {
        !self.queues[from.other()].is_full()
    }

    /// Whether nothing waits for `to`.
    pub fn is_drained(&self, to: Side) -> bool {
        self.queues[to].is_empty()
    }

    /// Whether the upstream transport is as good as new: all is said and nothing is left of this client.
    pub fn leaves_no_trace(&self) -> bool {
        self.observer.leaves_no_trace() && self.is_drained(Side::Upstream)
    }

    /// Takes `message`, numbered 80 or above, from `from`.
    ///
    /// # Errors
    /// See [`enum@Error`]; `from` is to be disconnected.
    pub fn receive(&mut self, from: Side, message: Bytes) -> Result<Received, Error> {
        let parsed = Message::parse(&message)?;
        let to = from.other();
        match parsed {
            Message::GlobalRequest { name, want_reply } => {
                if self.keeps_global_request(from, name, want_reply) {
                    return Ok(Received::Taken);
                }
                self.observer.on_global_request(from, name, want_reply);
                self.queues[to].push_control(message);
            }
            Message::GlobalReply => {
                self.observer.on_global_reply(from);
                self.queues[to].push_control(message);
            }
            Message::Open {
                kind,
                sender,
                window,
            } => {
                if from == Side::Local && self.no_more_sessions && kind == b"session" {
                    return Err(Error::SessionAfterNoMoreSessions);
                }
                let window = self
                    .observer
                    .on_open(from, kind, sender, window, self.limits);
                self.queues[to].push_control(with_initial_window(message, window));
            }
            Message::OpenConfirmation {
                recipient,
                sender,
                window,
            } => {
                let window = self
                    .observer
                    .on_confirmation(from, recipient, sender, window, self.limits)
                    .ok_or(Error::UnexpectedConfirmation { recipient })?;
                self.queues[to].push_control(with_initial_window(message, window));
            }
            Message::OpenFailure { recipient } => {
                self.observer.on_open_failure(from, recipient);
                self.queues[to].push_control(message);
            }
            Message::WindowAdjust { recipient, bytes } => self.grant(from, recipient, bytes),
            Message::Data { recipient, length } => {
                let Some(channel) = self.observer.channel(to, recipient) else {
                    // The other side decides what it thinks of data for no channel.
                    self.queues[to].push_control(message);
                    return Ok(Received::Taken);
                };
                let cost = channel.window_cost(length);
                let overrun = channel.credit[to].receive(cost);
                overrun.map_err(|_| Error::WindowOverrun { recipient })?;
                self.queues[to].push_data(recipient, message, channel.is_datagram);
            }
            Message::Close { recipient } => {
                self.queues[to].forget_adjustment(recipient);
                self.observer.on_close(from, recipient);
                self.queues[to].push(recipient, message);
            }
            Message::Request {
                recipient, name, ..
            } => {
                self.observer.on_channel_request(from, name);
                self.queues[to].push(recipient, message);
            }
            Message::Eof { recipient } | Message::Reply { recipient } => {
                self.queues[to].push(recipient, message);
            }
            Message::Unknown => return Ok(Received::Unimplemented),
        }
        Ok(Received::Taken)
    }

    /// The next message for `to`. Its connection has taken it once this returns: credit for it is released.
    pub fn next_message(&mut self, to: Side) -> Option<Bytes> {
        let popped = self.queues[to].pop()?;
        if let Some(recipient) = popped.data_of
            && let Ok(Message::Data { length, .. }) = Message::parse(&popped.message)
        {
            self.observer.on_forwarded(to, length);
            let limit = self.observer.limit(self.limits);
            if let Some(channel) = self.observer.channel(to, recipient) {
                let cost = channel.window_cost(length);
                let adjustment = channel.credit[to].forward(cost, limit);
                let sender = channel.numbers[to.other()];
                if !channel.closed[to] {
                    self.queues[to.other()].adjust(sender, adjustment);
                }
            }
        }
        Some(popped.message)
    }

    /// There is no upstream: answers what waits for it with failure.
    ///
    /// `reason` is the text of the channel open failures, for the person at the client.
    pub fn refuse(&mut self, reason: &str) {
        while let Some(popped) = self.queues.upstream.pop() {
            let Ok(parsed) = Message::parse(&popped.message) else {
                continue;
            };
            if let Message::GlobalRequest { .. } = parsed {
                self.observer.on_global_reply(Side::Upstream);
            }
            if let Message::Open { sender, .. } = parsed {
                self.observer.on_open_failure(Side::Upstream, sender);
            }
            if let Some(answer) = refusal_of(parsed, reason) {
                self.queues.local.push_control(answer);
            }
        }
    }

    /// `from` adds `bytes` to the window of the channel that the other side numbers `recipient`.
    fn grant(&mut self, from: Side, recipient: u32, bytes: u32) {
        let to = from.other();
        let limit = self.observer.limit(self.limits);
        // For no channel of ours, or one that its receiver has closed, it means nothing.
        if let Some(channel) = self.observer.channel(to, recipient)
            && !channel.closed[from]
        {
            let adjustment = channel.credit[from].grant(bytes, limit);
            self.queues[to].adjust(recipient, adjustment);
        }
    }

    /// Whether a global request ends here; see the type's description.
    fn keeps_global_request(&mut self, from: Side, name: &[u8], want_reply: bool) -> bool {
        match (from, name) {
            (Side::Upstream, b"hostkeys-00@openssh.com") => true,
            (Side::Local, b"no-more-sessions@openssh.com") if !want_reply => {
                self.no_more_sessions = true;
                true
            }
            _ => false,
        }
    }
}

/// The answer that says no to `message`, if it wants one.
fn refusal_of(message: Message<'_>, reason: &str) -> Option<Bytes> {
    match message {
        Message::GlobalRequest {
            want_reply: true, ..
        } => Some(request_failure()),
        Message::Open { sender, .. } => Some(channel_open_failure(
            sender,
            open_failure::CONNECT_FAILED,
            reason,
        )),
        Message::Request {
            recipient,
            want_reply: true,
            ..
        } => Some(channel_failure(recipient)),
        _ => None,
    }
}
