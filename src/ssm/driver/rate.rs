//! How fast the link carries what we send, as acknowledgements tell. Pure.

use std::time::{Duration, Instant};

/// Assumed until more is known, and at least: a modem.
const SLOWEST_BYTES_PER_S: u64 = 16 << 10;
/// Acknowledgements are counted over at least this long.
const WINDOW: Duration = Duration::from_millis(50);
/// Less than this under way, and it is we who are slow, not the link.
const BULK_BYTES: usize = 64 << 10;

/// Estimates the rate at which bytes of ours are acknowledged.
#[derive(Debug)]
pub(super) struct DeliveryRate {
    since: Instant,
    /// Count of all acknowledged bytes at `since`.
    base: u64,
    /// Whether there was always enough under way since then to see the link's limit.
    is_bulk: bool,
    bytes_per_s: Option<u64>,
}

impl DeliveryRate {
    /// Nothing is known.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            base: 0,
            is_bulk: false,
            bytes_per_s: None,
        }
    }

    /// Notes how many bytes were `acknowledged` in all, and how many are `in_flight`.
    pub(super) fn update(&mut self, now: Instant, acknowledged: u64, in_flight: usize) {
        let elapsed = now.saturating_duration_since(self.since);
        self.is_bulk &= in_flight >= BULK_BYTES;
        if elapsed < WINDOW || acknowledged == self.base {
            // A window that is empty and idle says nothing about the link.
            if in_flight == 0 {
                self.restart(now, acknowledged, false);
            }
            return;
        }
        let bytes = u128::from(acknowledged.saturating_sub(self.base));
        let sample = u64::try_from(bytes * 1000 / elapsed.as_millis()).unwrap_or(u64::MAX);
        self.bytes_per_s = match self.bytes_per_s {
            Some(known) if sample <= known && !self.is_bulk => Some(known),
            Some(known) if sample <= known => Some(known - known / 4 + sample / 4),
            _ => Some(sample),
        };
        self.restart(now, acknowledged, in_flight >= BULK_BYTES);
    }

    /// Goes on after a gap, in which nothing was measured.
    pub(super) fn skip_gap(&mut self, now: Instant, acknowledged: u64) {
        self.restart(now, acknowledged, false);
    }

    /// How long the link may need for `bytes`.
    pub(super) fn time_for(&self, bytes: usize) -> Duration {
        let rate = self.bytes_per_s.unwrap_or(0).max(SLOWEST_BYTES_PER_S);
        Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate)
    }

    fn restart(&mut self, now: Instant, acknowledged: u64, is_bulk: bool) {
        self.since = now;
        self.base = acknowledged;
        self.is_bulk = is_bulk;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MIB: usize = 1 << 20;

    /// Acknowledges `bytes_per_ms` for `ms`, with `in_flight` all the while.
    fn run(
        rate: &mut DeliveryRate,
        from: (Instant, u64),
        bytes_per_ms: u64,
        ms: u32,
        flight: usize,
    ) -> (Instant, u64) {
        let (start, base) = from;
        for step in (10..=ms).step_by(10) {
            rate.update(
                start + MS * step,
                base + bytes_per_ms * u64::from(step),
                flight,
            );
        }
        (start + MS * ms, base + bytes_per_ms * u64::from(ms))
    }

    #[test]
    fn an_unknown_link_is_taken_for_a_slow_one() {
        let rate = DeliveryRate::new(Instant::now());
        assert_eq!(rate.time_for(0), Duration::ZERO);
        assert_eq!(rate.time_for(MIB), Duration::from_secs(64));
    }

    #[test]
    fn bulk_tells_the_rate_up_and_down() {
        let start = Instant::now();
        let mut rate = DeliveryRate::new(start);
        let fast = run(&mut rate, (start, 0), 1000, 1000, MIB);
        assert_eq!(rate.time_for(1_000_000), MS * 1000);
        run(&mut rate, fast, 100, 5000, MIB);
        let slow = rate.time_for(1_000_000);
        assert!((MS * 9_000..MS * 10_100).contains(&slow), "{slow:?}");
    }

    #[test]
    fn keystrokes_do_not_make_a_link_slow() {
        let start = Instant::now();
        let mut rate = DeliveryRate::new(start);
        let after = run(&mut rate, (start, 0), 1000, 1000, MIB);
        run(&mut rate, after, 1, 5000, 150);
        assert_eq!(rate.time_for(1_000_000), MS * 1000);
    }
}
