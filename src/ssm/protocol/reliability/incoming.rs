//! Reorder buffer: messages that came before their turn.

use std::collections::BTreeMap;

/// How much may be held, in messages and in bytes.
///
/// The agent resends one message per 100 ms, so after a loss new messages pile up here for long:
/// the bounds are generous, and what exceeds them is dropped unacknowledged and comes again.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Messages held, and also the farthest number ahead that is accepted.
    pub messages: usize,
    /// Bytes held, payloads and [`MESSAGE_COST`] for each message.
    pub bytes: usize,
}

/// Charged for each held message besides its payload: header of the frame, bookkeeping.
pub const MESSAGE_COST: usize = 256;

/// What to do about a message that has just arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<T> {
    /// It is the next one: process it, then whatever [`Incoming::next_in_order`] returns.
    InOrder(T),
    /// It came early and is held: acknowledge it now.
    Held,
    /// It was there before: acknowledge it again, the first acknowledgement was lost.
    Duplicate,
    /// No room: drop it and say nothing.
    Dropped,
}

/// Messages of one direction, put back into their order.
#[derive(Debug)]
pub struct Incoming<T> {
    expected: u64,
    early: BTreeMap<u64, (T, usize)>,
    limits: Limits,
    /// Bytes charged: held here, and in order but not yet consumed.
    bytes: usize,
    /// Messages charged, likewise.
    messages: usize,
}

impl<T> Incoming<T> {
    /// An empty buffer that expects number 0.
    pub fn new(limits: Limits) -> Self {
        Self {
            expected: 0,
            early: BTreeMap::new(),
            limits,
            bytes: 0,
            messages: 0,
        }
    }

    /// The number of the next message in order.
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// Numbers held before their turn, in order.
    pub fn held(&self) -> impl ExactSizeIterator<Item = (u64, &T)> {
        self.early.iter().map(|(seq, (message, _))| (*seq, message))
    }

    /// Whether a message of `payload_bytes`, `ahead` of the one expected, can be taken.
    ///
    /// The expected one always can once all before it were consumed: else a full buffer of early
    /// messages would wait for ever for the one it has no room for.
    fn has_room(&self, ahead: u64, payload_bytes: usize) -> bool {
        let fits = self.messages < self.limits.messages
            && self.bytes.saturating_add(payload_bytes + MESSAGE_COST) <= self.limits.bytes;
        let all_consumed = self.messages == self.early.len();
        ahead < self.limits.messages as u64 && (fits || (ahead == 0 && all_consumed))
    }

    /// Sorts in message `seq` with `payload_bytes` of payload.
    ///
    /// Exceeds the limits by one message at most.
    /// A message in order is charged to the limits until [`release`](Self::release).
    pub fn arrive(&mut self, seq: u64, message: T, payload_bytes: usize) -> Arrival<T> {
        if seq < self.expected || self.early.contains_key(&seq) {
            return Arrival::Duplicate;
        }
        let ahead = seq - self.expected;
        if !self.has_room(ahead, payload_bytes) {
            return Arrival::Dropped;
        }
        self.messages += 1;
        self.bytes += payload_bytes + MESSAGE_COST;
        if ahead > 0 {
            self.early.insert(seq, (message, payload_bytes));
            return Arrival::Held;
        }
        self.expected += 1;
        Arrival::InOrder(message)
    }

    /// Takes the next message in order out of those held; it stays charged until released.
    pub fn next_in_order(&mut self) -> Option<T> {
        let (message, _) = self.early.remove(&self.expected)?;
        self.expected += 1;
        Some(message)
    }

    /// Ends the charge for an in-order message: it was consumed.
    pub fn release(&mut self, payload_bytes: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(payload_bytes + MESSAGE_COST);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        messages: 8,
        bytes: 8 * (MESSAGE_COST + 10),
    };

    #[test]
    fn holds_early_messages_and_releases_them_in_order() {
        let mut incoming = Incoming::new(LIMITS);
        assert_eq!(incoming.arrive(2, 'c', 1), Arrival::Held);
        assert_eq!(incoming.arrive(2, 'c', 1), Arrival::Duplicate);
        assert_eq!(incoming.arrive(1, 'b', 1), Arrival::Held);
        assert_eq!(incoming.next_in_order(), None);
        assert_eq!(incoming.arrive(0, 'a', 1), Arrival::InOrder('a'));
        assert_eq!(incoming.next_in_order(), Some('b'));
        assert_eq!(incoming.next_in_order(), Some('c'));
        assert_eq!(incoming.next_in_order(), None);
        assert_eq!(incoming.arrive(1, 'b', 1), Arrival::Duplicate);
        assert_eq!(incoming.expected(), 3);
    }

    #[test]
    fn drops_what_exceeds_messages_bytes_or_distance() {
        let mut incoming = Incoming::new(LIMITS);
        assert_eq!(incoming.arrive(u64::MAX, 0, 1), Arrival::Dropped);
        assert_eq!(incoming.arrive(8, 0, 1), Arrival::Dropped);
        assert_eq!(incoming.arrive(1, 0, LIMITS.bytes), Arrival::Dropped);
        for seq in 0..8 {
            assert_eq!(incoming.arrive(seq, 0, 10), Arrival::InOrder(0));
        }
        assert_eq!(incoming.arrive(8, 0, 10), Arrival::Dropped);
        incoming.release(10);
        assert_eq!(incoming.arrive(8, 0, 10), Arrival::InOrder(0));
    }

    #[test]
    fn a_buffer_full_of_early_messages_still_takes_the_missing_one() {
        let mut incoming = Incoming::new(LIMITS);
        for seq in 1..8 {
            assert_eq!(incoming.arrive(seq, seq, 11), Arrival::Held);
        }
        assert_eq!(incoming.arrive(0, 0, 11), Arrival::InOrder(0));
        incoming.release(11);
        assert_eq!(std::iter::from_fn(|| incoming.next_in_order()).count(), 7);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_arrival_order_gives_each_number_once_in_order(
            arrivals in proptest::collection::vec((0_u64..30, 0_usize..40), 0..400)
        ) {
            let mut incoming = Incoming::new(LIMITS);
            let mut out = Vec::new();
            for (seq, size) in arrivals {
                if let Arrival::InOrder(first) = incoming.arrive(seq, (seq, size), size) {
                    out.push(first.0);
                    incoming.release(first.1);
                    while let Some((seq, size)) = incoming.next_in_order() {
                        out.push(seq);
                        incoming.release(size);
                    }
                }
                prop_assert!(incoming.bytes <= LIMITS.bytes + 40 + MESSAGE_COST);
                prop_assert!(incoming.messages <= LIMITS.messages + 1);
            }
            let expected: Vec<u64> = (0..incoming.expected()).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
