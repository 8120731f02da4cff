//! Messages that a peer most probably has, and never acknowledged.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// From the suspicion to the first resend; then twice as long, four times …
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// No two resends are farther apart.
const LONGEST_WAIT: Duration = Duration::from_secs(32);
/// Resends passed over in silence after which a message is forgotten.
///
/// They are spread over a minute, each twice as far from the next as from the one before. Whoever lost every one of
/// them has lost a socket in just these moments, and has come back each time.
const CERTAIN: u32 = 6;
/// As many are enough when there is no more room.
const PROBABLE: u32 = 2;
/// How many times the bytes that may wait for acknowledgement may be in doubt beside them.
const ROOM: usize = 4;

/// Messages that a peer which acknowledges once has passed over in silence, as it does with what it has.
///
/// It was wrong to conclude that if each resend was lost and only what came after it was not. So they are kept, out of
/// the way of what is new, and sent again now and then: a peer that lacks one acknowledges it.
#[derive(Debug)]
pub(super) struct Doubts {
    messages: BTreeMap<u64, Doubt>,
    bytes: usize,
    limit_bytes: usize,
    /// Numbers to send again now; those acknowledged meanwhile are skipped.
    due: VecDeque<u64>,
}

#[derive(Debug)]
struct Doubt {
    frame: Bytes,
    /// Until the next resend.
    wait: Duration,
    due_at: Instant,
    /// Turn of the last resend, if it is not known yet what became of it.
    unjudged: Option<u64>,
    /// Resends that were passed over in silence.
    silences: u32,
}

impl Doubts {
    /// None, beside a buffer of so many bytes.
    pub(super) fn new(buffer_bytes: usize) -> Self {
        Self {
            messages: BTreeMap::new(),
            bytes: 0,
            limit_bytes: ROOM.saturating_mul(buffer_bytes),
            due: VecDeque::new(),
        }
    }

    /// Whether there is room for another message. For want of it, what was passed over in silence most often is
    /// forgotten a little early: else nothing new could be sent for a minute, and the peer would end the session.
    pub(super) fn makes_room(&mut self) -> bool {
        while self.bytes >= self.limit_bytes {
            let least_doubtful = self
                .messages
                .iter()
                .filter(|(_, doubt)| doubt.silences >= PROBABLE)
                .max_by_key(|(seq, doubt)| (doubt.silences, Reverse(**seq)))
                .map(|(seq, _)| *seq);
            match least_doubtful {
                Some(seq) => self.remove(seq),
                None => return false,
            };
        }
        true
    }

    /// Takes message `seq` in.
    pub(super) fn add(&mut self, seq: u64, frame: Bytes, now: Instant) {
        self.bytes += frame.len();
        let doubt = Doubt {
            frame,
            wait: FIRST_WAIT,
            due_at: now + FIRST_WAIT,
            unjudged: None,
            silences: 0,
        };
        self.messages.insert(seq, doubt);
    }

    /// Forgets message `seq`, which was acknowledged after all; false if it was not in doubt.
    pub(super) fn remove(&mut self, seq: u64) -> bool {
        let doubt = self.messages.remove(&seq);
        self.bytes -= doubt.as_ref().map_or(0, |doubt| doubt.frame.len());
        doubt.is_some()
    }

    /// Draws the conclusions from the acknowledgement of a message that was first sent in `turn`.
    pub(super) fn judge(&mut self, turn: u64) {
        let bytes = &mut self.bytes;
        self.messages.retain(|_, doubt| {
            if doubt.unjudged.take_if(|resend| *resend < turn).is_some() {
                doubt.silences += 1;
            }
            let is_kept = doubt.silences < CERTAIN;
            *bytes -= if is_kept { 0 } else { doubt.frame.len() };
            is_kept
        });
    }

    /// What was sent over the socket before may be lost, and its silence tells nothing.
    pub(super) fn on_reconnected(&mut self) {
        for doubt in self.messages.values_mut() {
            doubt.unjudged = None;
        }
    }

    /// Queues what is due at `now`; tells whether that is anything.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return false;
        }
        let due = self.messages.iter().filter(|(_, it)| it.due_at <= now);
        self.due.extend(due.map(|(seq, _)| *seq));
        true
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next needed; not while resends wait to be sent already.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if !self.due.is_empty() {
            return None;
        }
        self.messages.values().map(|doubt| doubt.due_at).min()
    }

    /// Whether [`transmit`](Self::transmit) would return a message.
    pub(super) fn has_transmit(&mut self) -> bool {
        while let Some(seq) = self.due.front() {
            if self.messages.contains_key(seq) {
                return true;
            }
            self.due.pop_front();
        }
        false
    }

    /// The next message to send again, which is then sent in `turn`.
    pub(super) fn transmit(&mut self, turn: u64, now: Instant) -> Option<Bytes> {
        if !self.has_transmit() {
            return None;
        }
        let doubt = self.messages.get_mut(&self.due.pop_front()?)?;
        doubt.unjudged = doubt.unjudged.or(Some(turn));
        doubt.wait = (doubt.wait * 2).min(LONGEST_WAIT);
        doubt.due_at = now + doubt.wait;
        Some(doubt.frame.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_message_in_doubt_is_sent_again_ever_more_rarely_and_then_forgotten() {
        let start = Instant::now();
        let mut doubts = Doubts::new(1000);
        doubts.add(7, Bytes::from_static(b"seven"), start);
        let mut after = Vec::new();
        for turn in (0..).step_by(2) {
            let Some(due) = doubts.poll_timeout() else {
                break;
            };
            assert!(!doubts.handle_timeout(due - Duration::from_nanos(1)));
            assert!(doubts.handle_timeout(due));
            assert_eq!(doubts.transmit(turn, due).unwrap(), "seven");
            assert_eq!(doubts.transmit(turn, due), None);
            after.push((due - start).as_secs());
            // What was sent before it says nothing of it.
            doubts.judge(turn);
            doubts.judge(turn + 1);
        }
        assert_eq!(after, [1, 3, 7, 15, 31, 63]);
        assert!(!doubts.remove(7));
        assert_eq!(doubts.bytes, 0);
    }

    #[test]
    fn what_is_acknowledged_after_all_is_not_sent_again() {
        let now = Instant::now();
        let mut doubts = Doubts::new(1000);
        for seq in [3, 4] {
            doubts.add(seq, Bytes::from_static(b"x"), now);
        }
        assert!(doubts.handle_timeout(now + SECOND));
        assert!(doubts.remove(3));
        assert!(doubts.has_transmit());
        assert!(doubts.transmit(1, now + SECOND).is_some());
        assert!(doubts.remove(4) && !doubts.remove(4));
        assert!(!doubts.has_transmit());
        assert_eq!((doubts.poll_timeout(), doubts.bytes), (None, 0));
    }

    #[test]
    fn silence_after_a_reconnect_tells_nothing_of_what_went_before_it() {
        let mut now = Instant::now();
        let mut doubts = Doubts::new(1000);
        doubts.add(0, Bytes::from_static(b"x"), now);
        for turn in 0..100 {
            now += LONGEST_WAIT;
            assert!(doubts.handle_timeout(now));
            assert!(doubts.transmit(turn, now).is_some());
            doubts.on_reconnected();
            doubts.judge(turn + 1);
        }
        assert!(doubts.remove(0));
    }

    #[test]
    fn there_is_room_for_a_few_buffers() {
        let now = Instant::now();
        let mut doubts = Doubts::new(1000);
        doubts.add(0, Bytes::from(vec![0; 3999]), now);
        assert!(doubts.makes_room());
        doubts.add(1, Bytes::from_static(b"x"), now);
        assert!(!doubts.makes_room());
        doubts.remove(0);
        assert!(doubts.makes_room());
    }

    #[test]
    fn what_was_passed_over_most_often_makes_room() {
        let start = Instant::now();
        let mut doubts = Doubts::new(1000);
        doubts.add(0, Bytes::from(vec![0; 2000]), start);
        doubts.add(1, Bytes::from(vec![0; 2000]), start + 2 * SECOND);
        for (turn, wait) in [(0, 1), (10, 3)] {
            assert!(!doubts.makes_room());
            let now = start + wait * SECOND;
            assert!(doubts.handle_timeout(now));
            while doubts.transmit(turn, now).is_some() {}
            doubts.judge(turn + 1);
        }
        assert!(doubts.makes_room());
        assert!(!doubts.remove(0) && doubts.remove(1));
    }
}
