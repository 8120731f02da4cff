//! Round trip and retransmission time-out.

use std::time::Duration;

/// Estimate of the round trip and the time-out that follows from it.
///
/// The formula is that of both official ends (which is RFC 6298's with other constants). What is
/// ours: the first sample replaces the initial guess (RFC 6298 §2.2), and messages sent more than
/// once give no sample (§3, Karn), which the caller sees to.
#[derive(Debug, Clone)]
pub struct RttEstimator {
    srtt: Duration,
    rttvar: Duration,
    floor: Duration,
    ceiling: Duration,
    sampled: bool,
}

const INITIAL_SRTT: Duration = Duration::from_millis(100);
const INITIAL_RTO: Duration = Duration::from_millis(200);
const MINIMUM_MARGIN: Duration = Duration::from_millis(10);

impl RttEstimator {
    /// An estimate before the first sample: 100 ms, and a time-out of 200 ms.
    ///
    /// The time-out never leaves `floor..=ceiling`.
    pub fn new(floor: Duration, ceiling: Duration) -> Self {
        Self {
            srtt: INITIAL_SRTT,
            rttvar: Duration::ZERO,
            floor,
            ceiling: ceiling.max(floor),
            sampled: false,
        }
    }

    /// Folds one measured round trip into the estimate.
    pub fn sample(&mut self, round_trip: Duration) {
        if !self.sampled {
            self.sampled = true;
            self.srtt = round_trip;
            self.rttvar = round_trip / 2;
            return;
        }
        let deviation = self.srtt.abs_diff(round_trip);
        self.rttvar = self.rttvar * 3 / 4 + deviation / 4;
        self.srtt = self.srtt * 7 / 8 + round_trip / 8;
    }

    /// The smoothed round trip.
    pub fn round_trip(&self) -> Duration {
        self.srtt
    }

    /// Whether anything was measured yet.
    pub fn is_measured(&self) -> bool {
        self.sampled
    }

    /// How long to wait for an acknowledgement before the message counts as lost.
    pub fn timeout(&self) -> Duration {
        let timeout = if self.sampled {
            self.srtt + (self.rttvar * 4).max(MINIMUM_MARGIN)
        } else {
            INITIAL_RTO
        };
        timeout.clamp(self.floor, self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn starts_at_200_ms_and_follows_the_samples() {
        let mut rtt = RttEstimator::new(Duration::ZERO, MS * 1000);
        assert_eq!(rtt.timeout(), MS * 200);
        rtt.sample(MS * 40);
        assert_eq!((rtt.round_trip(), rtt.timeout()), (MS * 40, MS * 120));
        rtt.sample(MS * 80);
        // RTTVAR = 3/4·20 + 1/4·40 = 25, SRTT = 7/8·40 + 1/8·80 = 45
        assert_eq!((rtt.round_trip(), rtt.timeout()), (MS * 45, MS * 145));
    }

    #[test]
    fn stays_between_floor_and_ceiling_for_any_sample() {
        let mut rtt = RttEstimator::new(MS * 100, MS * 1000);
        rtt.sample(Duration::ZERO);
        assert_eq!(rtt.timeout(), MS * 100);
        rtt.sample(Duration::from_secs(3600));
        assert_eq!(rtt.timeout(), MS * 1000);
    }
}
