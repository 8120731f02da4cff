//! Which messages of the peer to acknowledge now, and which to acknowledge once more.
//!
//! The agent resends only its oldest unacknowledged message, ten times a second. Each lost
//! acknowledgement therefore costs a tenth of a second before it gets to what was really lost, unless
//! we repeat it before it is asked for.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::pacer::Pacer;

/// Acknowledgements waiting for the wire; beyond it new ones are left to the peer's resend.
const MAX_PENDING: usize = 65_536;
/// Acknowledgements remembered, to be repeated after a reconnect that may have swallowed them.
const RECENT: usize = 1024;
/// Repeated acknowledgements a second on a paced channel: with fresh ones and data beside them they
/// must not add up to what the service ends a socket for.
const REPEAT_PACE: NonZeroU32 = NonZeroU32::new(500).expect("not zero");
/// Duplicates at this distance are the agent's resends, one per 100 ms; closer ones come from a peer
/// that resends everything, and nothing is to be guessed from them.
const RESEND_DISTANCE: Duration = Duration::from_millis(50);
/// The most acknowledgements repeated for one duplicate.
const LONGEST_RUN: u64 = 256;

/// What an acknowledgement is made of; encoded only when it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Number of the message.
    pub seq: u64,
    /// Its MessageId.
    pub id: Uuid,
}

/// The acknowledgements of one end, fresh and repeated.
#[derive(Debug)]
pub struct Acknowledging {
    fresh: VecDeque<Received>,
    /// Sent, and when, latest last.
    recent: VecDeque<(Received, Instant)>,
    /// To be repeated, lowest number first: that is the order in which the agent's head moves.
    repeats: BTreeMap<u64, Uuid>,
    /// `None` is unlimited.
    pacer: Option<Pacer>,
    /// Set while the pacer holds repeats back.
    repeat_at: Option<Instant>,
    /// The last duplicate that was looked into, and how many were repeated for it.
    run: Option<Run>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    seq: u64,
    at: Instant,
    length: u64,
}

impl Acknowledging {
    /// Nothing to acknowledge; repeats are paced from `now` on if `is_paced`.
    pub fn new(is_paced: bool, now: Instant) -> Self {
        Self {
            fresh: VecDeque::new(),
            recent: VecDeque::new(),
            repeats: BTreeMap::new(),
            pacer: is_paced.then(|| Pacer::new(REPEAT_PACE, now)),
            repeat_at: None,
            run: None,
        }
    }

    /// Acknowledges a message as soon as possible.
    pub fn acknowledge(&mut self, received: Received) {
        if self.fresh.len() < MAX_PENDING {
            self.fresh.push_back(received);
        }
    }

    /// Looks into a duplicate of message `seq`, of which the acknowledgement was lost on a link that
    /// we did not see breaking: probably those after it were lost too.
    ///
    /// Repeats the next one, then two, four and so on, as the duplicates go on to come.
    pub fn on_duplicate(&mut self, seq: u64, now: Instant) {
        let length = match self.run {
            Some(run) if now < run.at + RESEND_DISTANCE => return,
            Some(run) if seq > run.seq => (run.length * 2).min(LONGEST_RUN),
            _ => 1,
        };
        self.run = Some(Run {
            seq,
            at: now,
            length,
        });
        let is_next = |next: &&Received| (1..=length).contains(&next.seq.wrapping_sub(seq));
        let next = self.recent.iter().map(|(sent, _)| sent).filter(is_next);
        self.repeats.extend(next.map(|next| (next.seq, next.id)));
    }

    /// Repeats the acknowledgements sent at `since` or later and those of `held` messages, after a
    /// reconnect that may have swallowed them.
    pub fn repeat(&mut self, since: Instant, held: impl Iterator<Item = Received>) {
        let (again, certain) = std::mem::take(&mut self.recent)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, at)| *at >= since);
        self.recent = certain.into();
        let again = again.into_iter().map(|(sent, _)| sent).chain(held);
        self.repeats
            .extend(again.map(|again| (again.seq, again.id)));
        for fresh in &self.fresh {
            self.repeats.remove(&fresh.seq);
        }
        while self.repeats.len() > MAX_PENDING {
            self.repeats.pop_last();
        }
        self.repeat_at = None;
        self.run = None;
    }

    /// The next fresh one for the wire; these are never held back.
    pub fn transmit(&mut self, now: Instant) -> Option<Received> {
        let fresh = self.fresh.pop_front()?;
        self.remember(fresh, now);
        Some(fresh)
    }

    /// The next repeated one for the wire, when its pace allows it; it is charged to that of `data`.
    pub fn transmit_repeat(&mut self, now: Instant, data: Option<&mut Pacer>) -> Option<Received> {
        let entry = self.repeats.first_entry()?;
        if let Some(pacer) = &mut self.pacer {
            if !pacer.take(now) {
                self.repeat_at = Some(pacer.next_at());
                return None;
            }
            if let Some(data) = data {
                data.charge(now);
            }
        }
        let (seq, id) = entry.remove_entry();
        let again = Received { seq, id };
        self.remember(again, now);
        Some(again)
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.repeat_at = None;
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.repeat_at
    }

    /// Whether there is nothing to acknowledge.
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.repeats.is_empty()
    }

    /// How many wait for the wire.
    pub fn len(&self) -> usize {
        self.fresh.len() + self.repeats.len()
    }

    fn remember(&mut self, sent: Received, now: Instant) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((sent, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn received(seq: u64) -> Received {
        Received {
            seq,
            id: Uuid::nil(),
        }
    }

    /// One end that has acknowledged messages 0 to `count`.
    fn acknowledging(count: u64, now: Instant) -> Acknowledging {
        let mut acknowledging = Acknowledging::new(false, now);
        for seq in 0..count {
            acknowledging.acknowledge(received(seq));
        }
        assert_eq!(drain(&mut acknowledging, now).len(), count as usize);
        acknowledging
    }

    fn drain(acknowledging: &mut Acknowledging, now: Instant) -> Vec<u64> {
        let mut next = || {
            let fresh = acknowledging.transmit(now);
            fresh.or_else(|| acknowledging.transmit_repeat(now, None))
        };
        std::iter::from_fn(&mut next)
            .map(|received| received.seq)
            .collect()
    }

    #[test]
    fn duplicates_bring_ever_more_of_what_follows_them() {
        let mut now = Instant::now();
        let mut acknowledging = acknowledging(1000, now);
        let mut head = 0;
        let mut ticks = 0;
        while head < 1000 {
            acknowledging.on_duplicate(head, now);
            acknowledging.acknowledge(received(head));
            let again = drain(&mut acknowledging, now);
            assert_eq!(again[0], head);
            assert!(again.windows(2).all(|pair| pair[1] == pair[0] + 1));
            head = again.last().unwrap() + 1;
            now += MS * 100;
            ticks += 1;
        }
        assert!(ticks <= 12, "{ticks}");
    }

    #[test]
    fn a_peer_that_resends_all_is_answered_message_by_message() {
        let now = Instant::now();
        let mut acknowledging = acknowledging(1000, now);
        for seq in 0..500 {
            acknowledging.on_duplicate(seq, now);
        }
        assert_eq!(drain(&mut acknowledging, now), [1]);
    }

    #[test]
    fn a_duplicate_that_comes_alone_brings_one_more() {
        let now = Instant::now();
        let mut acknowledging = acknowledging(1000, now);
        for tick in 0..10 {
            acknowledging.on_duplicate(7, now + MS * 100 * tick);
            assert_eq!(drain(&mut acknowledging, now), [8]);
        }
    }

    #[test]
    fn a_reconnect_repeats_what_is_recent_and_held_in_order_and_once() {
        let now = Instant::now();
        let mut acknowledging = acknowledging(5, now);
        acknowledging.acknowledge(received(3));
        acknowledging.repeat(now, [9, 7].into_iter().map(received));
        assert_eq!(drain(&mut acknowledging, now), [3, 0, 1, 2, 4, 7, 9]);
        acknowledging.repeat(now, std::iter::empty());
        assert_eq!(drain(&mut acknowledging, now), [0, 1, 2, 3, 4, 7, 9]);
    }

    #[test]
    fn what_has_long_arrived_is_not_repeated() {
        let start = Instant::now();
        let mut acknowledging = acknowledging(3, start);
        acknowledging.acknowledge(received(3));
        drain(&mut acknowledging, start + MS * 10);
        acknowledging.repeat(start + MS, std::iter::empty());
        assert_eq!(drain(&mut acknowledging, start + MS * 20), [3]);
        // It is known all the same, should a duplicate come.
        acknowledging.on_duplicate(0, start + MS * 100);
        assert_eq!(drain(&mut acknowledging, start + MS * 100), [1]);
    }

    #[test]
    fn all_queues_are_bounded() {
        let now = Instant::now();
        let mut acknowledging = Acknowledging::new(true, now);
        for seq in 0..100_000 {
            acknowledging.acknowledge(received(seq));
        }
        assert_eq!(acknowledging.len(), MAX_PENDING);
        drain(&mut acknowledging, now);
        assert_eq!(acknowledging.recent.len(), RECENT);
        acknowledging.repeat(now, (0..100_000).map(received));
        assert_eq!(acknowledging.len(), MAX_PENDING);
    }
}
