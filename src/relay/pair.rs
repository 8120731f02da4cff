//! The pure core of a relay: messages go in on one side and come out on the other.

use bytes::Bytes;
use thiserror::Error;

use super::credit::Limits;
use super::observer::{Observer, Receiver};
use super::queue::Queue;
use super::{BySide, Side};
use crate::ssh::messages::{
    Message, channel_failure, channel_open_failure, open_failure, request_failure,
    with_initial_window,
};

/// Why a side cannot be served any longer. Each is that side's own doing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// Far more data than the window allowed (RFC 4254 §5.2).
    #[error("channel {recipient}: peer ignored channel window")]
    WindowOverrun {
        /// The receiver's number of the channel.
        recipient: u32,
    },
    /// A window of more than 2^32 - 1 bytes was granted (RFC 4254 §5.2).
    #[error("channel {recipient}: adjust overflows the window")]
    WindowOverflow {
        /// The number of the channel at the side that may send so much.
        recipient: u32,
    },
    /// It goes on sending requests in a key exchange that it does not complete.
    #[error("too many messages during a key exchange")]
    Flood,
}

/// The first number of those left to local extensions (RFC 4250 §4.1.1), such as OpenSSH's ping. sshd does not
/// answer them as it does other numbers that it does not know.
const LOCAL_EXTENSIONS: u8 = 192;

/// What became of a message given to [`Pair::receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It was passed on, or dealt with here.
    Taken,
    /// Its number is not one of RFC 4254: the sender is to be told `SSH_MSG_UNIMPLEMENTED`.
    Unimplemented,
}

/// Messages kept to be said again, in bytes. A client that has heard nothing has not asked for more.
const UNHEARD_CAPACITY_BYTES: usize = 64 << 10;

/// Joins a local connection and its upstream transport.
///
/// Messages are passed on as they came, even those that make no sense, for what to say to them is the other end's
/// affair. There are four exceptions. `hostkeys-00@openssh.com` stays here, because the host key that
/// the client sees is ours. `eow@openssh.com` reaches only a client that sshd would have told, by its name
/// (OpenSSH PROTOCOL §2.1). Initial windows are clamped and adjustments held back
/// ([`Limits`]). And with no upstream to ask, [`Pair::refuse`] answers requests with failure.
#[derive(Debug)]
pub struct Pair {
    limits: Limits,
    local_is_openssh: bool,
    queues: BySide<Queue>,
    observer: Observer,
    /// What was passed on to an upstream that has not reacted yet; none once it has, or when there is too much.
    unheard: Option<Vec<Bytes>>,
}

impl Pair {
    /// A pair through which nothing has passed yet, for a client that calls itself OpenSSH or does not.
    pub fn new(limits: Limits, local_is_openssh: bool) -> Self {
        Self {
            limits,
            local_is_openssh,
            queues: BySide::default(),
            observer: Observer::default(),
            unheard: Some(Vec::new()),
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

    /// Whether upstream has not been told anything: it can serve another client as if it were new.
    pub fn is_untouched(&self) -> bool {
        self.unheard.as_ref().is_some_and(Vec::is_empty) && self.is_drained(Side::Upstream)
    }

    /// Takes back what upstream was told, to say it to another one; false when it may have heard it.
    ///
    /// For a transport that had died unnoticed while it was spare.
    pub fn take_back(&mut self) -> bool {
        let Some(messages) = &mut self.unheard else {
            return false;
        };
        self.queues.upstream.push_front(std::mem::take(messages));
        true
    }

    /// Takes `message`, numbered 80 or above, from `from`.
    ///
    /// # Errors
    /// See [`enum@Error`]; `from` is to be disconnected.
    pub fn receive(&mut self, from: Side, message: Bytes) -> Result<Received, Error> {
        let parsed = Message::parse(&message);
        let to = from.other();
        if self.queues[to].is_flooded() {
            return Err(Error::Flood);
        }
        if from == Side::Upstream && !matches!(parsed, Message::GlobalRequest { .. }) {
            self.unheard = None;
        }
        match parsed {
            Message::GlobalRequest { name, .. } => {
                let is_ours = from == Side::Upstream && name == b"hostkeys-00@openssh.com";
                if !is_ours {
                    self.queues[to].push_control(message);
                }
            }
            Message::Open {
                kind,
                sender: number,
                window,
                max_packet,
            } => {
                let receiver = Receiver {
                    number,
                    window,
                    max_packet,
                };
                let window = self.observer.on_open(from, kind, receiver, self.limits);
                self.queues[to].push_control(with_initial_window(message, window));
            }
            Message::OpenConfirmation {
                recipient,
                sender: number,
                window,
                max_packet,
            } => {
                let receiver = Receiver {
                    number,
                    window,
                    max_packet,
                };
                let shown = self
                    .observer
                    .on_confirmation(from, recipient, receiver, self.limits);
                let message = match shown {
                    Some(window) => with_initial_window(message, window),
                    None => message,
                };
                self.queues[to].push_control(message);
            }
            Message::OpenFailure { recipient } => {
                self.observer.on_open_failure(from, recipient);
                self.queues[to].push_control(message);
            }
            Message::WindowAdjust { recipient, bytes } => {
                let limit = self.observer.limit(self.limits);
                match self.observer.channel(to, recipient) {
                    // After its CLOSE it means nothing.
                    Some(channel) if channel.ends[from].has_closed => {}
                    Some(channel) => {
                        let adjustment = channel.ends[from].credit.grant(bytes, limit);
                        let adjustment =
                            adjustment.map_err(|_| Error::WindowOverflow { recipient })?;
                        self.queues[to].adjust(recipient, adjustment);
                    }
                    None => self.queues[to].push_control(message),
                }
            }
            Message::Data { recipient, length } => {
                let limit = self.observer.limit(self.limits);
                match self.observer.channel(to, recipient) {
                    Some(channel) => {
                        let cost = channel.window_cost(length);
                        let overrun = channel.ends[to].credit.receive(cost, limit);
                        overrun.map_err(|_| Error::WindowOverrun { recipient })?;
                        self.queues[to].push_data(recipient, message, channel.max_merged(to));
                    }
                    None => self.queues[to].push_control(message),
                }
            }
            Message::Close { recipient } => {
                self.queues[to].forget_adjustment(recipient);
                if self.observer.on_close(from, recipient) {
                    // It does not listen any more, and may wait for the place of this channel.
                    self.queues[to].discard(recipient);
                }
                self.queues[to].push(recipient, message);
            }
            Message::Request {
                recipient, name, ..
            } => {
                let is_foreign =
                    from == Side::Upstream && name == b"eow@openssh.com" && !self.local_is_openssh;
                if !is_foreign {
                    self.queues[to].push(recipient, message);
                }
            }
            Message::Eof { recipient } | Message::Reply { recipient } => {
                self.queues[to].push(recipient, message);
            }
            Message::GlobalReply | Message::Malformed => self.queues[to].push_control(message),
            Message::Unknown if message[0] >= LOCAL_EXTENSIONS => {
                self.queues[to].push_control(message);
            }
            Message::Unknown => return Ok(Received::Unimplemented),
        }
        Ok(Received::Taken)
    }

    /// The next message for `to`. Its connection has taken it once this returns: credit for it is released.
    pub fn next_message(&mut self, to: Side) -> Option<Bytes> {
        let popped = self.queues[to].pop()?;
        if let Some(recipient) = popped.data_of
            && let Message::Data { length, .. } = Message::parse(&popped.message)
        {
            self.observer.on_forwarded(to, length);
            let limit = self.observer.limit(self.limits);
            if let Some(channel) = self.observer.channel(to, recipient) {
                let cost = channel.window_cost(length);
                let end = &mut channel.ends[to];
                let adjustment = end.credit.forward(cost, limit);
                if !end.has_closed {
                    let sender = channel.ends[to.other()].number;
                    self.queues[to.other()].adjust(sender, adjustment);
                }
            }
        }
        if to == Side::Upstream {
            self.remember(&popped.message);
        }
        Some(popped.message)
    }

    /// There is no upstream: answers what waits for it with failure.
    ///
    /// `reason` is the text of the channel open failures, for the person at the client.
    pub fn refuse(&mut self, reason: &str) {
        while let Some(popped) = self.queues.upstream.pop() {
            let parsed = Message::parse(&popped.message);
            if let Message::Open { sender, .. } = parsed {
                self.observer.on_open_failure(Side::Upstream, sender);
            }
            if let Some(answer) = refusal_of(parsed, reason) {
                self.queues.local.push_control(answer);
            }
        }
    }

    /// Keeps what upstream is told until it reacts. Only requests that stand for themselves can be said again.
    fn remember(&mut self, message: &Bytes) {
        let Some(unheard) = &mut self.unheard else {
            return;
        };
        let stands_for_itself = matches!(
            Message::parse(message),
            Message::Open { .. } | Message::GlobalRequest { .. }
        );
        let bytes: usize = unheard.iter().map(Bytes::len).sum();
        if stands_for_itself && bytes + message.len() <= UNHEARD_CAPACITY_BYTES {
            unheard.push(message.clone());
        } else {
            self.unheard = None;
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
