//! How long to wait before the next attempt.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// No wait at first, then exponential with full jitter, up to 5 s, without end.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    delays: Option<ExponentialBackoff>,
}

impl Backoff {
    /// The wait before the next attempt.
    pub(super) fn next_delay(&mut self) -> Duration {
        let Some(delays) = &mut self.delays else {
            let builder = ExponentialBuilder::new()
                .with_min_delay(FIRST)
                .with_max_delay(LONGEST)
                .without_max_times();
            self.delays = Some(builder.build());
            return Duration::ZERO;
        };
        // Full jitter: many clients cut off by one event must not come back together.
        delays.next().unwrap_or(LONGEST).mul_f64(rand::random())
    }

    /// The next attempt is the first of a new series.
    pub(super) fn reset(&mut self) {
        self.delays = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_once_then_stays_below_five_seconds() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
        assert!(backoff.next_delay() <= FIRST);
        assert!((0..1000).all(|_| backoff.next_delay() <= LONGEST));
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
    }
}
