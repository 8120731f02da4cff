//! Pace of data messages: the service ends a socket that carries many more than 1000 a second.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Bursts this long pass unpaced; the service tolerates an excess of about two seconds.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket, kept as the time at which it would be full again (GCRA).
#[derive(Debug)]
pub struct Pacer {
    interval: Duration,
    full_at: Instant,
}

impl Pacer {
    /// A full bucket of a tenth of a second that refills at `rate` messages a second.
    pub fn new(rate: NonZeroU32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate.get(),
            full_at: now,
        }
    }

    /// When the next message may leave; not after `now` when it may leave at once.
    pub fn next_at(&self) -> Instant {
        self.full_at.checked_sub(BURST).unwrap_or(self.full_at)
    }

    /// Takes one message out of the bucket, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.next_at() > now {
            return false;
        }
        self.charge(now);
        true
    }

    /// Takes one message out of the bucket, into debt if there is none: it has left anyway.
    pub fn charge(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_rate_over_ten_seconds_and_allows_one_burst() {
        let start = Instant::now();
        let mut pacer = Pacer::new(NonZeroU32::new(900).unwrap(), start);
        let at_once = std::iter::repeat_with(|| pacer.take(start)).take_while(|taken| *taken);
        assert!((90..=91).contains(&at_once.count()));
        let mut now = start;
        let mut sent = 0;
        while now < start + Duration::from_secs(10) {
            now = now.max(pacer.next_at());
            sent += u32::from(pacer.take(now));
        }
        assert!((8_990..=9_010).contains(&sent), "{sent}");
    }
}
