//! The line between the two ends of a session, in one direction: a queue ordered by time. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Bytes under way at which the sender is no longer read.
///
/// More than any link here needs to carry its rate: 100 ms at 10 MiB a second.
const ROOM_BYTES: usize = 1 << 20;

/// Longest wait of a message for those that are to overtake it.
const OVERTAKEN: Duration = Duration::from_millis(200);

/// Messages under way.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// By arrival, then by the order in which they were put in.
    queue: BTreeMap<(Instant, u64), Bytes>,
    next: u64,
    bytes: usize,
    /// Arrival of the last message that keeps the order.
    last: Option<Instant>,
    /// When the link has sent what it was given.
    idle: Option<Instant>,
    /// Those that wait to be overtaken.
    held: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    frame: Bytes,
    places: u32,
    deadline: Instant,
}

impl Line {
    /// Puts in a message that takes `latency` and what the rate costs, and keeps the order.
    pub(super) fn send(
        &mut self,
        now: Instant,
        frame: Bytes,
        latency: Duration,
        bytes_per_second: Option<u64>,
    ) {
        let arrival = self.arrival(now, frame.len(), latency, bytes_per_second);
        self.last = Some(arrival);
        self.put(arrival, frame);
        self.overtake(arrival);
    }

    /// Puts in a message that arrives `delay` later than it would; those behind overtake it.
    pub(super) fn send_late(
        &mut self,
        now: Instant,
        frame: Bytes,
        latency: Duration,
        delay: Duration,
    ) {
        let arrival = self.arrival(now, frame.len(), latency, None) + delay;
        self.put(arrival, frame);
    }

    /// Puts in a message that arrives after the next `places`.
    pub(super) fn send_behind(&mut self, now: Instant, frame: Bytes, places: u32) {
        self.bytes += frame.len();
        self.held.push_back(Held {
            frame,
            places,
            deadline: now + OVERTAKEN,
        });
    }

    /// The next message that has arrived.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        while self.held.front().is_some_and(|held| held.deadline <= now)
            && let Some(held) = self.held.pop_front()
        {
            self.release(held, now);
        }
        let entry = self.queue.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let frame = entry.remove();
        self.bytes -= frame.len();
        Some(frame)
    }

    /// When the next message arrives.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let queued = self
            .queue
            .first_key_value()
            .map(|((arrival, _), _)| *arrival);
        let held = self.held.front().map(|held| held.deadline);
        queued.into_iter().chain(held).min()
    }

    /// Whether another message may be put in.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < ROOM_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.held.is_empty()
    }

    /// Loses all that is under way.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn arrival(
        &mut self,
        now: Instant,
        length: usize,
        latency: Duration,
        bytes_per_second: Option<u64>,
    ) -> Instant {
        let mut sent = now;
        if let Some(rate) = bytes_per_second.filter(|rate| *rate > 0) {
            let nanos = length as u128 * 1_000_000_000 / u128::from(rate);
            let busy = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            sent = self.idle.map_or(now, |idle| idle.max(now)) + busy;
            self.idle = Some(sent);
        }
        let arrival = sent + latency;
        self.last.map_or(arrival, |last| last.max(arrival))
    }

    fn put(&mut self, arrival: Instant, frame: Bytes) {
        self.bytes += frame.len();
        self.queue.insert((arrival, self.next), frame);
        self.next += 1;
    }

    /// Notes that a message went by those that wait for it, and lets go of those that wait no more.
    fn overtake(&mut self, arrival: Instant) {
        for held in &mut self.held {
            held.places = held.places.saturating_sub(1);
        }
        while let Some(index) = self.held.iter().position(|held| held.places == 0)
            && let Some(held) = self.held.remove(index)
        {
            self.release(held, arrival);
        }
    }

    fn release(&mut self, held: Held, arrival: Instant) {
        self.bytes -= held.frame.len();
        self.put(arrival, held.frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn arrived(line: &mut Line, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| line.poll_transmit(now))
            .map(|frame| frame[0])
            .collect()
    }

    #[test]
    fn latency_keeps_the_order_and_delay_does_not() {
        let start = Instant::now();
        let mut line = Line::default();
        line.send(start, Bytes::from_static(b"a"), millis(30), None);
        // A shorter way does not overtake.
        line.send(start, Bytes::from_static(b"b"), millis(10), None);
        line.send_late(start, Bytes::from_static(b"c"), NONE, millis(50));
        line.send(start, Bytes::from_static(b"d"), NONE, None);
        assert_eq!(arrived(&mut line, start + millis(29)), b"");
        assert_eq!(line.poll_timeout(), Some(start + millis(30)));
        assert_eq!(arrived(&mut line, start + millis(30)), b"abd");
        assert_eq!(arrived(&mut line, start + millis(80)), b"c");
        assert!(line.is_empty());
        assert_eq!(line.poll_timeout(), None);
    }

    #[test]
    fn messages_are_overtaken_by_others_or_by_time() {
        let start = Instant::now();
        let mut line = Line::default();
        line.send_behind(start, Bytes::from_static(b"a"), 2);
        for frame in [&b"b"[..], b"c", b"d"] {
            line.send(start, Bytes::from_static(frame), NONE, None);
        }
        assert_eq!(arrived(&mut line, start), b"bcad");
        line.send_behind(start, Bytes::from_static(b"e"), 2);
        line.send(start, Bytes::from_static(b"f"), NONE, None);
        assert_eq!(arrived(&mut line, start), b"f");
        assert_eq!(line.poll_timeout(), Some(start + OVERTAKEN));
        assert_eq!(arrived(&mut line, start + OVERTAKEN), b"e");
        assert!(line.is_empty() && line.bytes == 0);
    }

    #[test]
    fn a_rate_is_kept_and_fills_the_line() {
        let start = Instant::now();
        let mut line = Line::default();
        let frame = Bytes::from_static(&[0; 1000]);
        let mut sent = 0;
        while line.has_room() {
            line.send(start, frame.clone(), NONE, Some(100_000));
            sent += 1;
        }
        assert_eq!(sent, ROOM_BYTES / 1000 + 1);
        assert_eq!(
            arrived(&mut line, start + Duration::from_secs(1)).len(),
            100
        );
        assert!(line.has_room());
        line.clear();
        assert!(line.is_empty());
    }
}
