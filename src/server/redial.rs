//! When to look for another upstream.

use std::time::{Duration, Instant};

/// First and longest pause between attempts that no client waits for.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A transport that lasted this long did not die of what its client wants of it.
const LASTING: Duration = Duration::from_secs(10);

/// Spreads out the attempts of one client to get an upstream, of which each costs the target a login.
#[derive(Debug)]
pub(super) struct Redial {
    pause: Duration,
    joined_at: Option<Instant>,
}

impl Redial {
    pub(super) fn new() -> Self {
        Self {
            pause: Duration::ZERO,
            joined_at: None,
        }
    }

    /// There is an upstream.
    pub(super) fn on_joined(&mut self, now: Instant) {
        self.joined_at = Some(now);
    }

    /// It is gone, or there was none to be had: how long to wait before the next attempt.
    pub(super) fn on_lost(&mut self, now: Instant) -> Duration {
        let joined_at = self.joined_at.take();
        if joined_at.is_some_and(|at| now.saturating_duration_since(at) >= LASTING) {
            self.pause = Duration::ZERO;
        }
        let pause = self.pause;
        self.pause = (2 * pause).clamp(PAUSE, PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_at_once_and_the_next_ones_ever_later() {
        let now = Instant::now();
        let mut redial = Redial::new();
        let pauses: Vec<_> = (0..8).map(|_| redial.on_lost(now).as_secs()).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_transport_that_lasted_begins_anew() {
        let mut now = Instant::now();
        let mut redial = Redial::new();
        for _ in 0..3 {
            redial.on_joined(now);
            assert_eq!(redial.on_lost(now + LASTING), Duration::ZERO);
            now += LASTING;
        }
        redial.on_joined(now);
        assert_eq!(redial.on_lost(now), PAUSE);
    }
}
