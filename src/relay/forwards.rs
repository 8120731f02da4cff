//! Listeners that the client has at the target, and how they come to life again on another transport.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ssh::messages::global_request;
use crate::ssh::wire::{Reader, Truncated, WriteExt as _};

/// First and longest pause before a listener is asked for again. The sshd that had it may hold it for a while.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a listener is asked for before it is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Listeners that are remembered, in bytes of their addresses and paths.
const CAPACITY_BYTES: usize = 64 << 10;

/// What a listener costs beyond its address.
const ENTRY_BYTES: usize = 64;

/// A listener at the target whose connections come to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Forward {
    /// `tcpip-forward` (RFC 4254 §7.1).
    Tcp {
        /// The address to bind, in the client's words.
        address: Vec<u8>,
        /// The port; zero until the target has chosen one.
        port: u32,
    },
    /// `streamlocal-forward@openssh.com` (OpenSSH PROTOCOL §2.4).
    Unix {
        /// The path of the socket.
        path: Vec<u8>,
    },
}

/// A global request about a listener.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It is to be there.
    Listen(Forward),
    /// It is to be there no more.
    Cancel(Forward),
}

/// All listeners of one client.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    entries: BTreeMap<u64, Entry>,
    next_id: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    forward: Forward,
    state: State,
}

/// What upstream has of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It listens.
    Held,
    /// There is no upstream.
    Lost,
    /// Upstream has been asked for it.
    Asked { attempt: Attempt },
    /// Upstream has refused it, and will be asked again.
    Refused { attempt: Attempt, retry_at: Instant },
    /// Upstream has been asked for it, but the client wants it no more.
    Unwanted,
}

/// How far the attempts to get a listener back have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempt {
    pause: Duration,
    give_up_at: Instant,
}

/// What becomes of upstream's reply to a request of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It listens again.
    Restored(Forward),
    /// It is asked for again later.
    Waits,
    /// It is given up.
    GivenUp(Forward),
    /// It listens, but nobody wants it: upstream is to be told this.
    Undo(Bytes),
}

impl Forward {
    /// The bytes that it takes to remember it.
    fn cost(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Self::Tcp { address, .. } => address.len(),
                Self::Unix { path } => path.len(),
            }
    }

    /// The request for it, with a reply wanted.
    fn request(&self) -> Bytes {
        match self {
            Self::Tcp { address, port } => global_request("tcpip-forward", |fields| {
                fields.put_string(address).put_uint32(*port);
            }),
            Self::Unix { path } => global_request("streamlocal-forward@openssh.com", |fields| {
                fields.put_string(path);
            }),
        }
    }

    /// The request for its end, with a reply wanted.
    fn cancellation(&self) -> Bytes {
        match self {
            Self::Tcp { address, port } => global_request("cancel-tcpip-forward", |fields| {
                fields.put_string(address).put_uint32(*port);
            }),
            Self::Unix { path } => {
                global_request("cancel-streamlocal-forward@openssh.com", |fields| {
                    fields.put_string(path);
                })
            }
        }
    }

    /// The listener that was granted with `reply`: it names the port where the target was to choose it.
    pub(super) fn granted(self, reply: &[u8]) -> Self {
        match self {
            Self::Tcp { address, port: 0 } => {
                let port = reply.get(1..).map(Reader::new);
                let port = port.and_then(|mut fields| fields.u32().ok());
                let port = port.unwrap_or_default();
                Self::Tcp { address, port }
            }
            other => other,
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, port } if address.is_empty() => write!(f, "*:{port}"),
            Self::Tcp { address, port } => write!(f, "{}:{port}", address.escape_ascii()),
            Self::Unix { path } => write!(f, "{}", path.escape_ascii()),
        }
    }
}

impl Wish {
    /// Reads the global request `message`; none when it is about something else, or malformed.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        Self::try_parse(message).ok().flatten()
    }

    fn try_parse(message: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut reader = Reader::new(message);
        let _number = reader.u8()?;
        let name = reader.string()?;
        let _want_reply = reader.bool()?;
        let is_cancel = name.starts_with(b"cancel-");
        let forward = match name {
            b"tcpip-forward" | b"cancel-tcpip-forward" => Forward::Tcp {
                address: reader.string()?.to_vec(),
                port: reader.u32()?,
            },
            b"streamlocal-forward@openssh.com" | b"cancel-streamlocal-forward@openssh.com" => {
                Forward::Unix {
                    path: reader.string()?.to_vec(),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(if is_cancel {
            Self::Cancel(forward)
        } else {
            Self::Listen(forward)
        }))
    }
}

impl Forwards {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Remembers `forward`, which upstream `has`; returns it when there is no room left.
    pub(super) fn add(&mut self, forward: Forward, has: bool) -> Option<Forward> {
        if let Some(id) = self.find(&forward) {
            if has
                && let Some(entry) = self.entries.get_mut(&id)
                && matches!(entry.state, State::Refused { .. })
            {
                entry.state = State::Held;
            }
            return None;
        }
        if self.bytes + forward.cost() > CAPACITY_BYTES {
            return Some(forward);
        }
        self.bytes += forward.cost();
        let state = if has { State::Held } else { State::Lost };
        self.entries.insert(self.next_id, Entry { forward, state });
        self.next_id += 1;
        None
    }

    /// The client cancels `forward`; true when that is done: upstream need not be asked.
    pub(super) fn cancel(&mut self, forward: &Forward) -> bool {
        let Some(id) = self.find(forward) else {
            return false;
        };
        let is_known_upstream = self
            .entries
            .get(&id)
            .is_some_and(|entry| matches!(entry.state, State::Held | State::Asked { .. }));
        if !is_known_upstream {
            self.remove(id);
        }
        !is_known_upstream
    }

    /// The client cancels `forward` and wants no reply: upstream hears that after all that it has been asked so far.
    pub(super) fn forget(&mut self, forward: &Forward) {
        if let Some(id) = self.find(forward) {
            self.remove(id);
        }
    }

    /// Upstream has answered the client's cancellation of `forward`; returns whether it is gone.
    pub(super) fn on_cancelled(&mut self, forward: &Forward, is_success: bool) -> bool {
        let Some(id) = self.find(forward) else {
            return is_success;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return is_success;
        };
        match entry.state {
            State::Held if !is_success => return false,
            State::Asked { .. } => entry.state = State::Unwanted,
            _ => self.remove(id),
        }
        true
    }

    /// There is no upstream any more.
    pub(super) fn on_lost(&mut self) {
        self.entries
            .retain(|_, entry| entry.state != State::Unwanted);
        for entry in self.entries.values_mut() {
            entry.state = State::Lost;
        }
        self.bytes = self
            .entries
            .values()
            .map(|entry| entry.forward.cost())
            .sum();
    }

    /// There is another upstream: what to ask it for, with the numbers that replies are to be given to.
    pub(super) fn ask_again(&mut self, now: Instant) -> Vec<(u64, Bytes)> {
        let attempt = Attempt {
            pause: RETRY,
            give_up_at: now + PATIENCE,
        };
        let asked = self.entries.iter_mut().map(|(&id, entry)| {
            entry.state = State::Asked { attempt };
            (id, entry.forward.request())
        });
        asked.collect()
    }

    /// Upstream has replied to request `id` of ours; none when that is of no importance any more.
    pub(super) fn on_reply(&mut self, id: u64, is_success: bool, now: Instant) -> Option<Outcome> {
        let entry = self.entries.get_mut(&id)?;
        let attempt = match entry.state {
            State::Asked { attempt } => attempt,
            State::Unwanted => {
                let undo = is_success.then(|| Outcome::Undo(entry.forward.cancellation()));
                self.remove(id);
                return undo;
            }
            State::Held | State::Lost | State::Refused { .. } => return None,
        };
        if is_success {
            entry.state = State::Held;
            return Some(Outcome::Restored(entry.forward.clone()));
        }
        let retry_at = now + attempt.pause;
        if retry_at > attempt.give_up_at {
            let given_up = entry.forward.clone();
            self.remove(id);
            return Some(Outcome::GivenUp(given_up));
        }
        let attempt = Attempt {
            pause: (2 * attempt.pause).min(RETRY_MAX),
            ..attempt
        };
        entry.state = State::Refused { attempt, retry_at };
        Some(Outcome::Waits)
    }

    /// When something is to be asked for again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let times = self.entries.values().filter_map(|entry| match entry.state {
            State::Refused { retry_at, .. } => Some(retry_at),
            _ => None,
        });
        times.min()
    }

    /// What to ask for again now.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<(u64, Bytes)> {
        let mut due = Vec::new();
        for (&id, entry) in &mut self.entries {
            if let State::Refused { attempt, retry_at } = entry.state
                && retry_at <= now
            {
                entry.state = State::Asked { attempt };
                due.push((id, entry.forward.request()));
            }
        }
        due
    }

    fn find(&self, forward: &Forward) -> Option<u64> {
        let mut entries = self.entries.iter();
        entries
            .find(|(_, entry)| entry.forward == *forward && entry.state != State::Unwanted)
            .map(|(&id, _)| id)
    }

    fn remove(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.bytes -= entry.forward.cost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u32) -> Forward {
        Forward::Tcp {
            address: b"localhost".to_vec(),
            port,
        }
    }

    fn held(forward: &Forward) -> Forwards {
        let mut forwards = Forwards::default();
        assert_eq!(forwards.add(forward.clone(), true), None);
        forwards
    }

    #[test]
    fn requests_are_read_and_written() {
        let unix = Forward::Unix {
            path: b"/tmp/socket".to_vec(),
        };
        for forward in [tcp(80), unix] {
            let listen = Wish::parse(&forward.request());
            assert_eq!(listen, Some(Wish::Listen(forward.clone())));
            let cancel = Wish::parse(&forward.cancellation());
            assert_eq!(cancel, Some(Wish::Cancel(forward)));
        }
        let request = tcp(80).request();
        let hex = b"P\0\0\0\x0dtcpip-forward\x01\0\0\0\x09localhost\0\0\0\x50";
        assert_eq!(request, &hex[..]);
        for end in 0..request.len() {
            assert_eq!(Wish::parse(&request[..end]), None);
        }
        let other = global_request("tcpip-forward@example.com", |_| {});
        assert_eq!(Wish::parse(&other), None);
    }

    #[test]
    fn the_port_that_the_target_chose_is_asked_for_again() {
        let granted = tcp(0).granted(b"\x51\0\0\x9c\x40");
        assert_eq!(granted, tcp(40_000));
        assert_eq!(tcp(0).granted(b"\x51"), tcp(0), "a reply without one");
        assert_eq!(tcp(7).granted(b"\x51\0\0\x9c\x40"), tcp(7));
        let mut forwards = held(&granted);
        forwards.on_lost();
        let asked = forwards.ask_again(Instant::now());
        assert_eq!(asked, [(0, tcp(40_000).request())]);
    }

    #[test]
    fn a_refused_listener_is_asked_for_ever_more_rarely_and_then_given_up() {
        let mut now = Instant::now();
        let began = now;
        let mut forwards = held(&tcp(80));
        forwards.on_lost();
        forwards.ask_again(now);
        let mut pauses = Vec::new();
        let given_up = loop {
            match forwards.on_reply(0, false, now) {
                Some(Outcome::Waits) => {}
                other => break other,
            }
            let at = forwards.poll_timeout().unwrap();
            pauses.push(at - now);
            assert!(
                forwards
                    .handle_timeout(at - Duration::from_nanos(1))
                    .is_empty()
            );
            now = at;
            assert_eq!(forwards.handle_timeout(now).len(), 1);
            assert_eq!(forwards.poll_timeout(), None, "until it is answered");
        };
        assert_eq!(given_up, Some(Outcome::GivenUp(tcp(80))));
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[pauses.len() - 1]), (RETRY, RETRY_MAX));
        assert!(now - began <= PATIENCE && now - began + RETRY_MAX > PATIENCE);
        assert!(forwards.is_empty());
        assert_eq!(forwards.bytes, 0);
    }

    #[test]
    fn a_listener_that_is_back_is_known_as_before() {
        let mut forwards = held(&tcp(80));
        forwards.on_lost();
        forwards.ask_again(Instant::now());
        let outcome = forwards.on_reply(0, true, Instant::now());
        assert_eq!(outcome, Some(Outcome::Restored(tcp(80))));
        assert!(!forwards.cancel(&tcp(80)), "upstream is to be asked");
        assert!(!forwards.on_cancelled(&tcp(80), false));
        assert!(forwards.on_cancelled(&tcp(80), true));
        assert!(forwards.is_empty());
    }

    #[test]
    fn a_listener_that_upstream_has_not_is_cancelled_here() {
        let now = Instant::now();
        let mut forwards = held(&tcp(80));
        forwards.on_lost();
        forwards.ask_again(now);
        forwards.on_reply(0, false, now);
        assert!(!forwards.cancel(&tcp(81)), "never heard of");
        assert!(forwards.cancel(&tcp(80)));
        assert!(forwards.is_empty());
        assert_eq!(forwards.poll_timeout(), None);
    }

    /// Refused, cancelled by the client, asked for again before that was answered, and then granted.
    #[test]
    fn a_listener_granted_after_its_end_is_undone() {
        let mut now = Instant::now();
        let mut forwards = held(&tcp(80));
        forwards.on_lost();
        forwards.ask_again(now);
        assert!(!forwards.cancel(&tcp(80)));
        forwards.on_reply(0, false, now);
        now += RETRY;
        assert_eq!(forwards.handle_timeout(now).len(), 1);
        assert!(
            forwards.on_cancelled(&tcp(80), false),
            "it is gone for the client"
        );
        let outcome = forwards.on_reply(0, true, now);
        assert_eq!(outcome, Some(Outcome::Undo(tcp(80).cancellation())));
        assert!(forwards.is_empty());
    }

    #[test]
    fn there_is_room_for_many_and_an_end_to_it() {
        let mut forwards = Forwards::default();
        let mut port = 0;
        while forwards.add(tcp(port), true).is_none() {
            port += 1;
        }
        assert!((500..2000).contains(&port), "{port}");
        assert_eq!(forwards.add(tcp(0), true), None, "known already");
    }
}
