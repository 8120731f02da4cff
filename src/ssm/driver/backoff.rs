//! How long to wait before the next attempt to resume.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const FIRST: Duration = Duration::from_millis(200);
/// The longest wait, before jitter.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// A socket that lived this long was a good one: its loss is followed by an attempt at once.
const HEALTHY: Duration = Duration::from_secs(5);
/// Sockets that carry something but do not last are replaced this often at most.
pub(super) const SPACING: Duration = Duration::from_secs(1);

/// No wait at first, then exponential with full jitter, up to 5 s, without end.
#[derive(Debug)]
pub(super) struct Backoff {
    spacing: Duration,
    longest: Duration,
    /// The wait before the first attempt of a series.
    first: Duration,
    delays: Option<ExponentialBackoff>,
    at_least: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(SPACING, LONGEST)
    }
}

impl Backoff {
    /// As told above, up to `longest`, with sockets that do not last replaced no faster than one per
    /// `spacing`.
    pub(super) fn new(spacing: Duration, longest: Duration) -> Self {
        Self {
            spacing,
            longest,
            first: Duration::ZERO,
            delays: None,
            at_least: Duration::ZERO,
        }
    }

    /// The wait before the next attempt.
    pub(super) fn next_delay(&mut self) -> Duration {
        let Some(delays) = &mut self.delays else {
            let builder = ExponentialBuilder::new()
                .with_min_delay(FIRST.min(self.longest))
                .with_max_delay(self.longest)
                .without_max_times();
            self.delays = Some(builder.build());
            return std::mem::take(&mut self.first);
        };
        // Full jitter: many clients cut off by one event must not come back together.
        let jitter: f64 = rand::random();
        let delay = delays.next().unwrap_or(self.longest).mul_f64(jitter);
        let at_least = std::mem::take(&mut self.at_least);
        delay.max(at_least + at_least.mul_f64(jitter / 2.0))
    }

    /// The next wait is of this length at least, and of one and a half of it at most if it is long.
    pub(super) fn wait_at_least(&mut self, duration: Duration) {
        self.at_least = duration;
    }

    /// The next attempt is the first of a new series.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.spacing, self.longest);
    }

    /// Learns from a socket that was lost after having `lived` for so long.
    ///
    /// A good one begins a new series. One that was short-lived and yet of use does so too, but not
    /// at once. One that was of no use continues the series that it had ended: a service that takes
    /// every socket and drops it is not to be asked ever faster.
    pub(super) fn on_lost(&mut self, lived: Duration, was_useful: bool) {
        if lived >= HEALTHY {
            self.reset();
        } else if was_useful {
            self.reset();
            self.first = self.spacing.saturating_sub(lived);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn starts_at_once_then_stays_below_five_seconds() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
        assert!(backoff.next_delay() <= FIRST);
        assert!((0..1000).all(|_| backoff.next_delay() <= LONGEST));
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
    }

    #[test]
    fn a_wait_that_was_asked_for_is_kept_once() {
        let mut backoff = Backoff::default();
        backoff.next_delay();
        backoff.wait_at_least(MS * 20_000);
        let asked = backoff.next_delay();
        assert!((MS * 20_000..=MS * 30_000).contains(&asked), "{asked:?}");
        assert!(backoff.next_delay() <= LONGEST);
    }

    #[test]
    fn only_a_socket_that_lasted_or_was_of_use_begins_a_new_series() {
        let mut backoff = Backoff::default();
        let mut total = Duration::ZERO;
        for _ in 0..100 {
            total += backoff.next_delay();
            backoff.on_lost(MS * 100, false);
        }
        // A mean of 2.5 s, once it has grown.
        assert!(total > MS * 120_000, "{total:?}");
        backoff.on_lost(MS * 100, true);
        assert_eq!(backoff.next_delay(), MS * 900);
        backoff.on_lost(HEALTHY, false);
        assert_eq!(backoff.next_delay(), Duration::ZERO);
    }
}
