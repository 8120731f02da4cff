//! What the client has asked and nobody has answered: kept, so that another upstream can be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;

use super::forwards::Forward;
use crate::ssh::messages::request_failure;

/// Requests kept to be made again, in bytes. More than that on the way to one upstream fails if that is lost.
const CAPACITY_BYTES: usize = 256 << 10;

/// What an entry costs beyond its message.
const ENTRY_BYTES: usize = 64;

/// Global requests without a reply that a client may have, those that cost nothing to keep among them.
const GLOBALS: usize = 1 << 18;

/// Upstreams that are asked the same: one that is lost each time may be so because of the question.
const MAX_TRIES: u8 = 4;

/// Open questions of the client, in the order in which it asked them.
///
/// Channel opens may be answered in any order. Global requests are answered in theirs, whoever answers, for their
/// replies carry no number (RFC 4254 §4).
#[derive(Debug, Default)]
pub(super) struct Ledger {
    next: u64,
    opens: BTreeMap<u64, Open>,
    /// `opens` by the client's number; a client that uses one twice is answered twice.
    by_number: BTreeSet<(u32, u64)>,
    globals: BTreeMap<u64, Global>,
    /// Said while there was no upstream, and wants no answer.
    said: BTreeMap<u64, Bytes>,
    /// `no-more-sessions@openssh.com`, and when it was said. Holds for every upstream.
    no_more_sessions: Option<(u64, Bytes)>,
    kept_bytes: usize,
}

/// A channel that the client asks for.
#[derive(Debug)]
struct Open {
    number: u32,
    message: Kept,
    asked_at: Instant,
}

/// A global request that wants a reply.
#[derive(Debug)]
struct Global {
    message: Kept,
    meaning: Meaning,
    /// The reply, while it waits for those to earlier requests.
    answer: Option<Bytes>,
}

/// What a global request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Whether anybody is there.
    Keepalive,
    /// A listener at the target.
    Forward(Forward),
    /// The end of one.
    Cancel(Forward),
    /// Nothing that matters here.
    Other,
}

/// A message that may be said again.
#[derive(Debug)]
struct Kept {
    /// None when there was no room for it.
    message: Option<Bytes>,
    tries: u8,
}

/// What the next upstream is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Replay {
    /// `CHANNEL_OPEN`, as the client said it.
    Open(Bytes),
    /// A global request, and its number here.
    Global(u64, Bytes),
    /// Anything that is not answered.
    Said(Bytes),
}

impl Ledger {
    /// Whether a message of this length is kept beside those that are.
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.kept_bytes + length + ENTRY_BYTES <= CAPACITY_BYTES
    }

    /// Bytes of the messages that are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// The client asks for a channel that it numbers `number`.
    pub(super) fn open(&mut self, number: u32, message: Option<Bytes>, now: Instant) {
        let id = self.next_id();
        let message = self.keep(message);
        let open = Open {
            number,
            message,
            asked_at: now,
        };
        self.opens.insert(id, open);
        self.by_number.insert((number, id));
    }

    /// The client makes a global request that wants a reply; returns its number here.
    pub(super) fn ask(&mut self, message: Option<Bytes>, meaning: Meaning) -> u64 {
        let id = self.next_id();
        let message = self.keep(message);
        let global = Global {
            message,
            meaning,
            answer: None,
        };
        self.globals.insert(id, global);
        id
    }

    /// The client says something that wants no answer, and there is no upstream to hear it.
    pub(super) fn say(&mut self, message: Bytes) {
        let id = self.next_id();
        self.kept_bytes += message.len() + ENTRY_BYTES;
        self.said.insert(id, message);
    }

    /// The client says `message`, that it will open no more sessions.
    pub(super) fn say_no_more_sessions(&mut self, message: Bytes) {
        let id = self.next_id();
        self.no_more_sessions.get_or_insert((id, message));
    }

    /// The channel that the client numbers `number` is opened or refused.
    pub(super) fn on_opened(&mut self, number: u32) {
        let first = self.by_number.range((number, 0)..).next().copied();
        if let Some((found, id)) = first
            && found == number
        {
            self.by_number.remove(&(number, id));
            if let Some(open) = self.opens.remove(&id) {
                self.forget(&open.message);
            }
        }
    }

    /// When the channel was asked for that has waited longest.
    pub(super) fn oldest_open(&self) -> Option<Instant> {
        let (_, open) = self.opens.first_key_value()?;
        Some(open.asked_at)
    }

    /// Forgets the channel that has waited longest; returns the client's number of it.
    pub(super) fn forget_oldest_open(&mut self) -> Option<u32> {
        let (id, open) = self.opens.pop_first()?;
        self.by_number.remove(&(open.number, id));
        self.forget(&open.message);
        Some(open.number)
    }

    /// What request `id` means, if it has no answer yet.
    pub(super) fn meaning(&self, id: u64) -> Option<&Meaning> {
        let global = self.globals.get(&id)?;
        global.answer.is_none().then_some(&global.meaning)
    }

    /// The client has cancelled `forward` without waiting for an answer: what it asked before leaves nothing behind.
    pub(super) fn disown(&mut self, forward: &Forward, is_joined: bool) {
        for global in self.globals.values_mut() {
            if global.answer.is_none() && global.meaning == Meaning::Forward(forward.clone()) {
                global.meaning = Meaning::Other;
                if is_joined {
                    // The cancellation goes to this upstream only, so another one is not to be asked.
                    self.kept_bytes -= global.message.cost();
                    global.message.message = None;
                }
            }
        }
    }

    /// Whether more requests wait than any honest client has.
    pub(super) fn is_flooded(&self) -> bool {
        self.globals.len() >= GLOBALS
    }

    /// Request `id` is answered with `reply`, unless it has been.
    pub(super) fn answer(&mut self, id: u64, reply: Bytes) {
        if let Some(global) = self.globals.get_mut(&id) {
            global.answer.get_or_insert(reply);
        }
    }

    /// Answers every keepalive as sshd does, with failure.
    pub(super) fn answer_keepalives(&mut self) {
        for global in self.globals.values_mut() {
            if global.meaning == Meaning::Keepalive {
                global.answer.get_or_insert_with(request_failure);
            }
        }
    }

    /// The next reply for the client, when it is known.
    pub(super) fn poll_answer(&mut self) -> Option<Bytes> {
        let first = self.globals.first_entry()?;
        first.get().answer.as_ref()?;
        let global = first.remove();
        self.forget(&global.message);
        global.answer
    }

    /// Whether a global request has no answer yet.
    pub(super) fn is_asking_globally(&self) -> bool {
        !self.globals.is_empty()
    }

    /// Whether there is something to tell an upstream other than that the client is there.
    pub(super) fn has_business(&self) -> bool {
        let is_open = |global: &Global| {
            global.answer.is_none() && !matches!(global.meaning, Meaning::Keepalive)
        };
        !self.opens.is_empty() || !self.said.is_empty() || self.globals.values().any(is_open)
    }

    /// An upstream is gone. What cannot be asked again fails: returns the client's numbers of such channels.
    pub(super) fn on_lost(&mut self) -> Vec<u32> {
        for global in self.globals.values_mut() {
            if !global.message.can_be_said_again() {
                global.answer.get_or_insert_with(request_failure);
            }
        }
        let failed = self.opens.values();
        let failed = failed.filter(|open| !open.message.can_be_said_again());
        let failed: Vec<_> = failed.map(|open| open.number).collect();
        for number in &failed {
            self.on_opened(*number);
        }
        failed
    }

    /// All that another upstream is to be told, in the order in which it was said.
    pub(super) fn replay(&mut self) -> Vec<Replay> {
        let mut all = BTreeMap::new();
        for (&id, open) in &mut self.opens {
            if let Some(message) = open.message.again() {
                all.insert(id, Replay::Open(message));
            }
        }
        for (&id, global) in &mut self.globals {
            if global.answer.is_none()
                && let Some(message) = global.message.again()
            {
                all.insert(id, Replay::Global(id, message));
            }
        }
        for (id, message) in self.take_said() {
            all.insert(id, Replay::Said(message));
        }
        if let Some((id, message)) = &self.no_more_sessions {
            all.insert(*id, Replay::Said(message.clone()));
        }
        all.into_values().collect()
    }

    /// There is no upstream to ask: global requests are answered with failure, and what wanted no answer is
    /// dropped. Returns the client's numbers of the channels that it asked for.
    pub(super) fn refuse(&mut self) -> Vec<u32> {
        self.take_said();
        for global in self.globals.values_mut() {
            global.answer.get_or_insert_with(request_failure);
        }
        for open in std::mem::take(&mut self.opens).into_values() {
            self.forget(&open.message);
        }
        let by_number = std::mem::take(&mut self.by_number);
        let mut in_order: Vec<_> = by_number.into_iter().collect();
        in_order.sort_unstable_by_key(|(_, id)| *id);
        in_order.into_iter().map(|(number, _)| number).collect()
    }

    fn take_said(&mut self) -> BTreeMap<u64, Bytes> {
        let said = std::mem::take(&mut self.said);
        let bytes: usize = said
            .values()
            .map(|message| message.len() + ENTRY_BYTES)
            .sum();
        self.kept_bytes -= bytes;
        said
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn keep(&mut self, message: Option<Bytes>) -> Kept {
        let kept = Kept { message, tries: 0 };
        self.kept_bytes += kept.cost();
        kept
    }

    fn forget(&mut self, message: &Kept) {
        self.kept_bytes -= message.cost();
    }
}

impl Kept {
    fn cost(&self) -> usize {
        self.message
            .as_ref()
            .map_or(0, |message| message.len() + ENTRY_BYTES)
    }

    fn can_be_said_again(&self) -> bool {
        self.message.is_some() && self.tries < MAX_TRIES
    }

    /// The message, for one more upstream.
    fn again(&mut self) -> Option<Bytes> {
        self.tries += 1;
        self.message.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ssh::messages::request_success;

    fn message(text: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn replies_come_in_the_order_of_their_requests() {
        let mut ledger = Ledger::default();
        let first = ledger.ask(message("first"), Meaning::Other);
        let second = ledger.ask(message("second"), Meaning::Keepalive);
        ledger.answer_keepalives();
        assert_eq!(ledger.meaning(second), None, "it has its answer");
        assert_eq!(ledger.poll_answer(), None, "the first one comes first");
        ledger.answer(first, request_success());
        ledger.answer(first, request_failure());
        assert_eq!(ledger.poll_answer(), Some(request_success()));
        assert_eq!(ledger.poll_answer(), Some(request_failure()));
        assert_eq!(ledger.poll_answer(), None);
        assert_eq!(ledger.kept_bytes(), 0);
    }

    #[test]
    fn what_is_unanswered_is_said_again_in_its_order() {
        let mut ledger = Ledger::default();
        ledger.open(1, message("open 1"), Instant::now());
        let global = ledger.ask(message("global"), Meaning::Other);
        ledger.say_no_more_sessions(Bytes::from_static(b"no more"));
        ledger.say_no_more_sessions(Bytes::from_static(b"no more"));
        ledger.open(2, message("open 2"), Instant::now());
        ledger.say(Bytes::from_static(b"said"));
        let no_more = || Replay::Said(Bytes::from_static(b"no more"));
        let first = ledger.replay();
        assert_eq!(first.len(), 5, "{first:?}");
        assert_eq!(
            first[1],
            Replay::Global(global, Bytes::from_static(b"global"))
        );
        assert_eq!(first[2], no_more());
        ledger.on_opened(1);
        ledger.answer(global, request_failure());
        let open = Replay::Open(Bytes::from_static(b"open 2"));
        assert_eq!(ledger.replay(), [no_more(), open]);
    }

    #[test]
    fn a_number_used_twice_is_answered_twice() {
        let mut ledger = Ledger::default();
        ledger.open(1, message("a"), Instant::now());
        ledger.open(1, message("b"), Instant::now());
        ledger.on_opened(1);
        assert_eq!(ledger.replay(), [Replay::Open(Bytes::from_static(b"b"))]);
        ledger.on_opened(7);
        assert_eq!(ledger.refuse(), [1]);
        assert!(!ledger.has_business());
        assert_eq!(ledger.kept_bytes(), 0);
    }

    #[test]
    fn what_was_not_kept_or_asked_too_often_fails() {
        let mut ledger = Ledger::default();
        assert!(!ledger.has_room(CAPACITY_BYTES));
        ledger.open(1, None, Instant::now());
        ledger.open(2, message("open"), Instant::now());
        ledger.ask(None, Meaning::Other);
        assert_eq!(ledger.on_lost(), [1]);
        assert_eq!(ledger.poll_answer(), Some(request_failure()));
        for _ in 1..MAX_TRIES {
            ledger.replay();
            assert!(ledger.on_lost().is_empty());
        }
        ledger.replay();
        assert_eq!(ledger.on_lost(), [2]);
        assert_eq!(ledger.kept_bytes(), 0);
    }

    #[test]
    fn the_channel_that_has_waited_longest_is_the_first_to_be_forgotten() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        assert_eq!(ledger.oldest_open(), None);
        ledger.open(1, message("a"), now);
        ledger.open(1, message("b"), now + Duration::from_secs(1));
        assert_eq!(ledger.oldest_open(), Some(now));
        assert_eq!(ledger.forget_oldest_open(), Some(1));
        assert_eq!(ledger.replay(), [Replay::Open(Bytes::from_static(b"b"))]);
        assert_eq!(ledger.forget_oldest_open(), Some(1));
        assert_eq!(ledger.forget_oldest_open(), None);
        assert!(!ledger.has_business());
        assert_eq!(ledger.kept_bytes(), 0);
    }
}
