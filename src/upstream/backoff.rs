//! How long to wait before the next attempt to dial.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// How patient to be with what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// It may pass by itself: a network, a service, a machine that is starting.
    Quick,
    /// Somebody has to change something, and may do so at any time.
    Slow,
}

impl Pace {
    /// The first and the longest pause.
    const fn bounds(self) -> (Duration, Duration) {
        match self {
            Self::Quick => (Duration::from_secs(1), Duration::from_secs(20)),
            Self::Slow => (Duration::from_secs(30), Duration::from_secs(300)),
        }
    }
}

/// Pauses that double with each failure, and differ from one process to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure: between half of what is due and all of it, so that many who lost the same
    /// machine do not come back together.
    pub(super) fn pause(&mut self, pace: Pace, rng: &mut impl Rng) -> Duration {
        let (first, longest) = pace.bounds();
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let due = first.saturating_mul(doubled).min(longest);
        due.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// The next failure is the first of a new series.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew() {
        let mut rng = StdRng::seed_from_u64(1);
        for pace in [Pace::Quick, Pace::Slow] {
            let (first, longest) = pace.bounds();
            let mut backoff = Backoff::default();
            let mut due = first;
            for _ in 0..40 {
                let pause = backoff.pause(pace, &mut rng);
                assert!(due / 2 <= pause && pause <= due, "{pause:?} of {due:?}");
                due = (2 * due).min(longest);
            }
            backoff.reset();
            assert!(backoff.pause(pace, &mut rng) <= first);
        }
    }
}
