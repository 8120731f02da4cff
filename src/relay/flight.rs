//! How much of a download may be under way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Before anything is known: what the agent delivers in a tenth of a second or less.
const FIRST_BYTES: u32 = 64 << 10;

/// The least, so that a packet's worth is always under way.
const LEAST_BYTES: u32 = 32 << 10;

/// The shortest round trip that is reckoned with: on a faster link it is the turns of tasks that take time.
const SHORTEST_ROUND_TRIP: Duration = Duration::from_millis(10);

/// The shortest time over which a rate is measured. What a busy machine takes late comes in one piece, and would
/// look like a fast link in a shorter one.
const SHORTEST_EPOCH: Duration = Duration::from_millis(100);

/// Epochs whose best counts: a source that pauses does not lose its allowance at once.
const EPOCHS: usize = 8;

/// How long the shortest round trip seen counts, at least: the way may have become longer.
const ROUND_TRIP_LIFE: Duration = Duration::from_secs(30);

/// What the target delivers in a round trip, and half as much again.
///
/// Less would slow a transfer down. More would wait at the agent, where it delays everything that comes after, and
/// is lost when the WebSocket is cut: the agent makes losses good at ten messages a second (protocol sheet §3.4),
/// so that a cut costs a tenth of a second for each KiB under way. A transfer that could go faster fills what it is
/// allowed in every round trip, and is allowed half as much again for the next.
#[derive(Debug)]
pub(super) struct Flight {
    allowed: u32,
    round_trip: Shortest,
    epoch: Option<Epoch>,
    /// Bytes a second in the last epochs.
    rates: VecDeque<f64>,
}

#[derive(Debug)]
struct Epoch {
    began: Instant,
    bytes: u64,
}

/// The shortest of the round trips seen lately.
#[derive(Debug, Default)]
struct Shortest {
    /// Of this stretch of time, which began then, and of the one before.
    current: Option<(Instant, Duration)>,
    previous: Option<Duration>,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            allowed: FIRST_BYTES,
            round_trip: Shortest::default(),
            epoch: None,
            rates: VecDeque::with_capacity(EPOCHS),
        }
    }
}

impl Flight {
    /// Bytes that all channels together may have under way.
    pub(super) fn allowed(&self) -> u32 {
        self.allowed
    }

    /// Notes a round trip measured at `now`.
    pub(super) fn on_round_trip(&mut self, round_trip: Duration, now: Instant) {
        self.round_trip.add(round_trip, now);
    }

    /// Notes `bytes` from the target at `now`.
    pub(super) fn on_delivered(&mut self, bytes: u32, now: Instant) {
        let length = (2 * self.round_trip.get()).max(SHORTEST_EPOCH);
        let epoch = self.epoch.get_or_insert(Epoch {
            began: now,
            bytes: 0,
        });
        let elapsed = now.saturating_duration_since(epoch.began);
        if elapsed >= length {
            let rate = epoch.bytes as f64 / elapsed.as_secs_f64();
            *epoch = Epoch {
                began: now,
                bytes: u64::from(bytes),
            };
            self.on_epoch(rate);
        } else {
            epoch.bytes += u64::from(bytes);
        }
    }

    /// Draws the conclusion from an epoch with `rate` bytes a second.
    fn on_epoch(&mut self, rate: f64) {
        if self.rates.len() == EPOCHS {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
        let best = self.rates.iter().copied().fold(0.0, f64::max);
        let round_trip = self.round_trip.get().max(SHORTEST_ROUND_TRIP);
        let allowed = 1.5 * best * round_trip.as_secs_f64();
        // The cast saturates.
        self.allowed = (allowed as u32).max(LEAST_BYTES);
    }
}

impl Shortest {
    fn add(&mut self, sample: Duration, now: Instant) {
        match &mut self.current {
            Some((began, shortest)) if now.saturating_duration_since(*began) < ROUND_TRIP_LIFE => {
                *shortest = sample.min(*shortest);
            }
            current => self.previous = current.replace((now, sample)).map(|(_, shortest)| shortest),
        }
    }

    /// Zero when none is known.
    fn get(&self) -> Duration {
        let current = self.current.map(|(_, shortest)| shortest);
        [current, self.previous]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link and a source behind it: what is allowed is delivered in a round trip, at `rate` bytes a second at most.
    /// Goes on for 10 s; returns what is allowed then.
    fn transfer(flight: &mut Flight, now: &mut Instant, round_trip: Duration, rate: f64) -> u32 {
        let end = *now + Duration::from_secs(10);
        let step = Duration::from_millis(1);
        let mut sent = 0.0;
        let mut history = VecDeque::new();
        let mut delivered = 0.0;
        while *now < end {
            *now += step;
            let now = *now;
            // What was delivered a round trip ago has been granted again since.
            history.push_back((now, delivered));
            while history
                .front()
                .is_some_and(|(at, _)| *at + round_trip < now)
            {
                history.pop_front();
            }
            let granted =
                history.front().map_or(0.0, |(_, bytes)| *bytes) + f64::from(flight.allowed());
            let bytes = (granted - delivered).clamp(0.0, rate * step.as_secs_f64());
            sent += bytes;
            let whole = (sent - delivered) as u32;
            if whole > 0 {
                delivered += f64::from(whole);
                flight.on_round_trip(round_trip, now);
                flight.on_delivered(whole, now);
            }
        }
        flight.allowed()
    }

    #[test]
    fn follows_rate_and_round_trip() {
        let millis = Duration::from_millis;
        // (round trip, rate, least and most that is allowed in the end)
        let cases = [
            (millis(100), 700e3, 100_000, 120_000),
            (millis(20), 700e3, 32 << 10, 32 << 10),
            (millis(200), 10e6, 2_800_000, 3_300_000),
            (millis(1), 200e6, 2_800_000, 3_300_000),
            (millis(1), 700e3, 32 << 10, 32 << 10),
        ];
        for (round_trip, rate, least, most) in cases {
            let allowed = transfer(
                &mut Flight::default(),
                &mut Instant::now(),
                round_trip,
                rate,
            );
            assert!(
                (least..=most).contains(&allowed),
                "{round_trip:?} {rate}: {allowed}"
            );
        }
    }

    #[test]
    fn a_slower_rate_is_noticed_and_a_pause_is_not() {
        let mut now = Instant::now();
        let round_trip = Duration::from_millis(50);
        let mut flight = Flight::default();
        let fast = transfer(&mut flight, &mut now, round_trip, 10e6);
        let slow = transfer(&mut flight, &mut now, round_trip, 1e6);
        assert!(slow < fast / 5, "{fast} {slow}");
        flight.on_delivered(1, now + Duration::from_secs(3600));
        assert_eq!(flight.allowed(), slow);
    }
}
