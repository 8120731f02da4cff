//! The pure core of a relay: messages go in on one side and come out on the other.

mod away;
mod globals;
mod redial;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use self::globals::Owed;
use super::absence::Absence;
use super::credit::Limits;
use super::flight::Flight;
use super::forwards::Forwards;
use super::grammar;
use super::ledger::Ledger;
use super::numbering::Numbering;
use super::observer::{Channel, Kind, Observer, Receiver};
use super::queue::{CONTROL_CAPACITY_BYTES, EXCHANGE_CAPACITY_BYTES, Queue};
use super::withdrawn::{self, Withdrawn};
use super::{BySide, Side};
use crate::ssh::messages::{Message, with_initial_window, with_sender};

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
    /// It goes on sending requests in a key exchange that it does not complete, or does not hear the answers.
    #[error("too many requests at once")]
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

/// What somebody besides the client may like to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A listener of the client is there again.
    ForwardRestored {
        /// Where it listens.
        address: String,
    },
    /// A listener of the client cannot be had again; its user is told.
    ForwardGivenUp {
        /// Where it listened.
        address: String,
    },
}

/// Events kept for [`Pair::poll_event`]. More than that happens only where nobody polls.
const EVENTS: usize = 1024;

/// Joins a local connection to one upstream transport after another.
///
/// While there is one, messages are passed on as they came, even those that make no sense, for what to say to them is
/// the other end's affair. There are few exceptions. `hostkeys-00@openssh.com` stays here, because the host key that
/// the client sees is ours. `eow@openssh.com` reaches only a client that sshd would have told, by its name
/// (OpenSSH PROTOCOL §2.1). Initial windows are clamped and adjustments held back ([`Limits`]).
///
/// An upstream that is lost takes its channels with it, and nothing else ([`Pair::lose_upstream`]): what the client has
/// asked and nobody has answered, and the listeners it has at the target, are asked for again at the next one
/// ([`Pair::gain_upstream`]). In between, and while the way to upstream is interrupted ([`Pair::set_absence`]),
/// keepalives are answered here, and channels asked for are refused once that has lasted too long
/// ([`Pair::refuse_overdue`]). With no upstream in sight, [`Pair::refuse`] answers everything, with failure.
#[derive(Debug)]
pub struct Pair {
    limits: Limits,
    /// How long a channel that the client asks for waits for an upstream that is away.
    hold: Duration,
    flight: Flight,
    local_is_openssh: bool,
    queues: BySide<Queue>,
    observer: Observer,
    ledger: Ledger,
    forwards: Forwards,
    numbering: Numbering,
    /// The upstream of the time; none before the first, and between two.
    joined: Option<Joined>,
    absence: Option<Absence>,
    /// Channels of an upstream that is gone, until the client closes them: the client's numbers by those that it uses.
    zombies: BTreeMap<u32, u32>,
    /// Channels that an upstream now gone has asked for and the client has not answered yet.
    orphans: BTreeSet<u32>,
    /// Channels that the client was refused and the joined upstream may open yet.
    withdrawn: Withdrawn,
    /// Requests of the joined upstream that the client owes a reply to.
    questions: u64,
    /// Requests of earlier ones that it does.
    stale_questions: u64,
    /// What the client's user is to be told on the next channel that has a standard error.
    notices: VecDeque<String>,
    events: VecDeque<Event>,
}

/// What is known of one upstream transport.
#[derive(Debug, Default)]
struct Joined {
    /// What its next replies to global requests are for.
    owed: VecDeque<Owed>,
    /// It has been told something.
    is_told: bool,
    /// It has been told something that makes no sense.
    is_offended: bool,
}

impl Pair {
    /// A pair that waits for its first upstream since `now`, for a client that calls itself OpenSSH or does not.
    ///
    /// A channel that the client asks for waits for `hold`, while an upstream that it has is away.
    pub fn new(limits: Limits, hold: Duration, local_is_openssh: bool, now: Instant) -> Self {
        Self {
            limits,
            hold,
            flight: Flight::default(),
            local_is_openssh,
            queues: BySide::default(),
            observer: Observer::default(),
            ledger: Ledger::default(),
            forwards: Forwards::default(),
            numbering: Numbering::default(),
            joined: None,
            absence: Some(Absence::new(now)),
            zombies: BTreeMap::new(),
            orphans: BTreeSet::new(),
            withdrawn: Withdrawn::default(),
            questions: 0,
            stale_questions: 0,
            notices: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// What is known of the channels.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Whether messages of `from` have room. When not, its connection is to be left unread for a while.
    pub fn may_receive(&self, from: Side) -> bool {
        let is_waiting = self.joined.is_none();
        let is_ledger_full = is_waiting && self.ledger.kept_bytes() >= CONTROL_CAPACITY_BYTES;
        !is_ledger_full && !self.queues[from.other()].is_full()
    }

    /// Whether nothing waits for `to`.
    pub fn is_drained(&self, to: Side) -> bool {
        self.queues[to].is_empty()
    }

    /// Whether the joined upstream has not been told anything: it can serve another client as if it were new.
    pub fn is_untouched(&self) -> bool {
        self.joined.as_ref().is_some_and(|joined| !joined.is_told)
            && self.is_drained(Side::Upstream)
    }

    /// Notes how long a message to the target and its answer take now.
    pub fn set_round_trip(&mut self, now: Instant, round_trip: Duration) {
        self.flight.on_round_trip(round_trip, now);
    }

    /// Whether the client has sent the joined upstream a message that cannot be read: if that one leaves, it may well
    /// be for that, as sshd does without a word, and another login would end no better.
    pub fn has_offended(&self) -> bool {
        self.joined
            .as_ref()
            .is_some_and(|joined| joined.is_offended)
    }

    /// Takes `message`, numbered 80 or above, from `from`.
    ///
    /// # Errors
    /// See [`enum@Error`]; `from` is to be disconnected.
    pub fn receive(&mut self, now: Instant, from: Side, message: Bytes) -> Result<Received, Error> {
        if self.is_flooded_by(from) {
            return Err(Error::Flood);
        }
        match from {
            Side::Local if self.is_for_the_dead(&message) => Ok(Received::Taken),
            Side::Local if self.joined.is_none() => Ok(self.hold(now, message)),
            Side::Local => {
                self.note_offence(&message);
                self.pass(now, from, message)
            }
            Side::Upstream => {
                let message = self.numbering.for_local(message);
                match self.withdrawn.receiver_of(message) {
                    withdrawn::Receiver::Client(message) => self.pass(now, from, message),
                    withdrawn::Receiver::Nobody(answer) => {
                        if let Some(answer) = answer {
                            self.queues.upstream.push_control(answer);
                        }
                        Ok(Received::Taken)
                    }
                }
            }
        }
    }

    /// The next message for `to`. Its connection has taken it once this returns: credit for it is released.
    pub fn next_message(&mut self, to: Side) -> Option<Bytes> {
        let popped = self.queues[to].pop()?;
        if let Some(recipient) = popped.data_of
            && let Message::Data { length, .. } = Message::parse(&popped.message)
        {
            self.observer.on_forwarded(to, length);
            let limit = self.observer.limit(self.limits(to));
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
        if to == Side::Local {
            return Some(popped.message);
        }
        if let Some(joined) = &mut self.joined {
            joined.is_told = true;
        }
        Some(self.numbering.for_upstream(popped.message))
    }

    /// What has happened that is of interest to others.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn report(&mut self, event: Event) {
        if self.events.len() < EVENTS {
            self.events.push_back(event);
        }
    }

    /// What may be under way to `to`: what the target delivers in time is known, what the client does is its own affair.
    fn limits(&self, to: Side) -> Limits {
        match to {
            Side::Local => self.limits.within(self.flight.allowed()),
            Side::Upstream => self.limits,
        }
    }

    fn is_flooded_by(&self, from: Side) -> bool {
        let is_waiting = self.joined.is_none();
        // What is answered here waits for the client itself.
        let is_unheard =
            from == Side::Local && (self.queues.local.is_flooded() || self.ledger.is_flooded());
        is_unheard
            || self.queues[from.other()].is_flooded()
            || (is_waiting && self.ledger.kept_bytes() >= EXCHANGE_CAPACITY_BYTES)
    }

    /// Passes `message` on between the client and the joined upstream.
    fn pass(&mut self, now: Instant, from: Side, message: Bytes) -> Result<Received, Error> {
        let parsed = Message::parse(&message);
        let to = from.other();
        match parsed {
            Message::GlobalRequest { .. } if from == Side::Local => self.ask(now, message),
            Message::GlobalRequest { name, want_reply } => {
                if name != b"hostkeys-00@openssh.com" {
                    self.questions += u64::from(want_reply);
                    self.queues[to].push_control(message);
                }
            }
            Message::GlobalReply => self.on_global_reply(now, from, message),
            Message::Open { sender, .. } => {
                if from == Side::Local {
                    let kept = self.ledger.has_room(message.len());
                    self.ledger.open(sender, kept.then(|| message.clone()), now);
                }
                self.pass_open(from, message);
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
                let shown =
                    self.observer
                        .on_confirmation(from, recipient, receiver, self.limits(from));
                let mut message = match shown {
                    Some(window) => with_initial_window(message, window),
                    None => message,
                };
                if from == Side::Local && shown.is_some() {
                    message = self.numbered_for_upstream(message, number);
                }
                if from == Side::Upstream {
                    self.ledger.on_opened(recipient);
                    self.zombies.remove(&number);
                }
                self.queues[to].push_control(message);
            }
            Message::OpenFailure { recipient } => {
                self.observer.on_open_failure(from, recipient);
                if from == Side::Upstream {
                    self.ledger.on_opened(recipient);
                    self.withdrawn.release(recipient);
                }
                self.queues[to].push_control(message);
            }
            Message::WindowAdjust { recipient, bytes } => {
                let limit = self.observer.limit(self.limits(from));
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
                let limit = self.observer.limit(self.limits(to));
                match self.observer.channel(to, recipient) {
                    Some(channel) => {
                        let cost = channel.window_cost(length);
                        let overrun = channel.ends[to].credit.receive(cost, limit);
                        overrun.map_err(|_| Error::WindowOverrun { recipient })?;
                        self.queues[to].push_data(recipient, message, channel.max_merged(to));
                        match from {
                            Side::Local => self.on_typed(now, recipient),
                            Side::Upstream => self.flight.on_delivered(length, now),
                        }
                    }
                    None => self.queues[to].push_control(message),
                }
            }
            Message::Close { recipient } => {
                self.queues[to].forget_adjustment(recipient);
                let channel = self.observer.channel(to, recipient);
                let clients = channel.map(|channel| channel.ends.local.number);
                if self.observer.on_close(from, recipient) {
                    if let Some(number) = clients {
                        self.withdrawn.release(number);
                    }
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
                if is_foreign {
                    return Ok(Received::Taken);
                }
                let is_start = name == b"exec" || name == b"shell";
                if let Some(channel) = self.observer.channel(to, recipient) {
                    note_request(channel, from, name);
                }
                self.queues[to].push(recipient, message);
                if from == Side::Local && is_start {
                    self.tell_notices();
                }
            }
            Message::Eof { recipient } => {
                if let Some(channel) = self.observer.channel(to, recipient) {
                    channel.has_eof |= from == Side::Upstream;
                }
                self.queues[to].push(recipient, message);
            }
            Message::Reply { recipient } => self.queues[to].push(recipient, message),
            Message::Malformed => self.queues[to].push_control(message),
            Message::Unknown if message[0] >= LOCAL_EXTENSIONS => {
                self.queues[to].push_control(message);
            }
            Message::Unknown => return Ok(Received::Unimplemented),
        }
        Ok(Received::Taken)
    }

    /// Upstream is about to be told `message` of the client's.
    fn note_offence(&mut self, message: &[u8]) {
        if let Some(joined) = &mut self.joined {
            joined.is_offended |= !grammar::is_readable(message);
        }
    }

    /// Passes a `CHANNEL_OPEN` on, its window clamped.
    fn pass_open(&mut self, from: Side, message: Bytes) {
        let Message::Open {
            kind,
            sender: number,
            window,
            max_packet,
        } = Message::parse(&message)
        else {
            return;
        };
        let receiver = Receiver {
            number,
            window,
            max_packet,
        };
        if from == Side::Upstream {
            self.zombies.remove(&number);
        }
        let window = self.observer.on_open(
            from,
            kind,
            receiver,
            self.limits(from),
            self.limits.channel_min_bytes,
        );
        let mut message = with_initial_window(message, window);
        if from == Side::Local {
            message = self.numbered_for_upstream(message, number);
        }
        self.queues[from.other()].push_control(message);
    }

    /// The message by which the client names a channel `number`, as upstream is to see it.
    fn numbered_for_upstream(&mut self, message: Bytes, number: u32) -> Bytes {
        match self.withdrawn.number_for_upstream(number) {
            same if same == number => message,
            alias => with_sender(message, alias),
        }
    }
}

/// Takes note of what `from` asks of `channel`, or tells of it.
fn note_request(channel: &mut Channel, from: Side, name: &[u8]) {
    match (from, name) {
        (Side::Local, b"pty-req") => channel.has_pty |= channel.kind == Kind::Session,
        (Side::Upstream, b"exit-status" | b"exit-signal") => channel.has_exit = true,
        _ => {}
    }
}
