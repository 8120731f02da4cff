//! When to send a WebSocket ping, and when silence means that the socket is dead. Pure.
//!
//! Any frame is a sign of life, and so is a full send buffer that empties. A socket is given up when
//! a ping stays without any such sign for its deadline, counted from when the ping was due: in a
//! black hole it may never leave. Two rhythms:
//!
//! - Idle, a ping every 20 s, with up to 10 s for the answer.
//! - Traffic that falls silent for a second is looked into with a ping that has less time, so that a
//!   black hole during a transfer, in either direction, is noticed within 4 s. One answer ends that.
//!
//! Deadlines follow the measured round trip of pings, and leave room for what the link has to carry
//! before them: a slow link and a slow agent are no reason to give a socket up.

use std::time::{Duration, Instant};

/// Traffic that pauses longer is asked for a sign of life.
const QUIET: Duration = Duration::from_secs(1);
/// The shortest deadline of a ping that follows traffic.
const PROBE_DEADLINE: Duration = Duration::from_millis(2500);
/// The shortest deadline of an idle ping. With the ping's interval it stays below 30 s.
const IDLE_DEADLINE: Duration = Duration::from_secs(5);
/// Round trips until a ping that follows traffic counts as unanswered; twice as many when idle.
const ROUND_TRIPS: u32 = 4;

/// How a socket is watched.
#[derive(Debug, Clone, Copy)]
pub(in crate::ssm) struct Intervals {
    /// Between pings, whether there is traffic or not: middle-boxes look at both directions.
    pub(in crate::ssm) ping: Duration,
    /// The longest that a ping may stay without any answer.
    pub(in crate::ssm) deadline: Duration,
}

/// What is due now.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::ssm) enum Due {
    Nothing,
    Ping,
    Dead,
}

/// Watches one socket.
#[derive(Debug)]
pub(in crate::ssm) struct Keepalive {
    intervals: Intervals,
    /// Between us and the gateway, rather too long than too short.
    round_trip: Duration,
    /// When the next idle ping is due.
    ping_at: Instant,
    /// When silence after traffic is to be looked into.
    probe_at: Option<Instant>,
    /// Set while a ping is unanswered.
    dead_at: Option<Instant>,
    /// When the only ping on its way was handed to the socket; two would be mistaken for each other.
    sent_at: Option<Instant>,
    /// Pings on their way.
    unanswered: u32,
}

impl Keepalive {
    /// Starts with a ping at once, as the official client does.
    ///
    /// `dialled_in` is how long it took to open the socket: several round trips.
    pub(in crate::ssm) fn new(intervals: Intervals, dialled_in: Duration, now: Instant) -> Self {
        Self {
            intervals,
            round_trip: dialled_in,
            ping_at: now,
            probe_at: None,
            dead_at: None,
            sent_at: None,
            unanswered: 0,
        }
    }

    /// Notes that the other side lives: a frame has arrived, or a full send buffer has emptied.
    pub(in crate::ssm) fn on_sign_of_life(&mut self) {
        self.dead_at = None;
        self.probe_at = None;
    }

    /// Notes that messages have arrived or left. Should nothing follow, that is looked into.
    pub(in crate::ssm) fn on_traffic(&mut self, now: Instant) {
        if self.dead_at.is_none() {
            self.probe_at.get_or_insert(now + QUIET);
        }
    }

    /// Notes that a ping was handed to the socket.
    pub(in crate::ssm) fn on_ping_sent(&mut self, now: Instant) {
        self.unanswered += 1;
        self.sent_at = (self.unanswered == 1).then_some(now);
    }

    /// Notes the answer to a ping.
    pub(in crate::ssm) fn on_pong(&mut self, now: Instant) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if let Some(sent_at) = self.sent_at.take() {
            // Up at once, down slowly: what counts is what a ping may take.
            let sample = now.saturating_duration_since(sent_at);
            self.round_trip = sample.max((self.round_trip * 3 + sample) / 4);
        }
    }

    /// The round trip to the gateway and back, as far as pings have told.
    pub(in crate::ssm) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Whether the socket is under suspicion: a ping is unanswered, and nothing else has come since.
    pub(in crate::ssm) fn is_awaiting(&self) -> bool {
        self.dead_at.is_some()
    }

    /// Asks for a sign of life within `deadline`, for example after the computer has slept.
    pub(in crate::ssm) fn suspect(&mut self, now: Instant, deadline: Duration) {
        self.ping_at = now;
        self.dead_at = Some(now + deadline);
    }

    /// What is due at `now`; a ping counts as sent. `queue` is how long the link may take to carry
    /// what was sent before.
    pub(in crate::ssm) fn poll(&mut self, now: Instant, queue: Duration) -> Due {
        if self.dead_at.is_some_and(|dead_at| dead_at <= now) {
            return Due::Dead;
        }
        let is_probe = self.probe_at.is_some_and(|at| at <= now);
        if !is_probe && self.ping_at > now {
            return Due::Nothing;
        }
        self.probe_at = None;
        self.ping_at = now + self.intervals.ping;
        let patience = match is_probe {
            true => PROBE_DEADLINE.max(self.round_trip * ROUND_TRIPS),
            false => IDLE_DEADLINE.max(self.round_trip * ROUND_TRIPS * 2),
        };
        let patience = patience.saturating_add(queue).min(self.intervals.deadline);
        self.dead_at.get_or_insert(now + patience);
        Due::Ping
    }

    /// When [`poll`](Self::poll) is next needed.
    pub(in crate::ssm) fn poll_timeout(&self) -> Instant {
        [self.dead_at, self.probe_at]
            .into_iter()
            .flatten()
            .fold(self.ping_at, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    const NO_QUEUE: Duration = Duration::ZERO;

    fn watch(round_trip: Duration) -> (Keepalive, Instant) {
        let start = Instant::now();
        let intervals = Intervals {
            ping: SECOND * 20,
            deadline: SECOND * 10,
        };
        let mut keepalive = Keepalive::new(intervals, round_trip, start);
        assert_eq!(keepalive.poll(start, NO_QUEUE), Due::Ping);
        keepalive.on_ping_sent(start);
        (keepalive, start)
    }

    /// As [`watch`], with the first ping answered.
    fn answered(round_trip: Duration) -> (Keepalive, Instant) {
        let (mut keepalive, start) = watch(round_trip);
        let now = start + round_trip;
        keepalive.on_sign_of_life();
        keepalive.on_pong(now);
        (keepalive, now)
    }

    /// Follows the timers from `now` until the socket is dead, with one more ping on the way.
    fn dies_after(keepalive: &mut Keepalive, now: Instant, queue: Duration) -> Duration {
        let ping = keepalive.poll_timeout();
        assert_eq!(keepalive.poll(ping, queue), Due::Ping);
        let dead = keepalive.poll_timeout();
        assert_eq!(keepalive.poll(dead - MS, queue), Due::Nothing);
        assert_eq!(keepalive.poll(dead, queue), Due::Dead);
        dead - now
    }

    #[test]
    fn idle_silence_is_noticed_within_thirty_seconds() {
        let (mut keepalive, now) = answered(MS * 50);
        assert_eq!(keepalive.poll(now, NO_QUEUE), Due::Nothing);
        let took = dies_after(&mut keepalive, now, NO_QUEUE);
        assert!((SECOND * 24..SECOND * 26).contains(&took), "{took:?}");
    }

    #[test]
    fn silence_after_traffic_is_noticed_within_four_seconds() {
        let (mut keepalive, start) = answered(MS * 50);
        let mut now = start;
        for _ in 0..100 {
            now += MS * 100;
            keepalive.on_sign_of_life();
            keepalive.on_traffic(now);
            assert_eq!(keepalive.poll(now, NO_QUEUE), Due::Nothing);
        }
        assert_eq!(dies_after(&mut keepalive, now, NO_QUEUE), MS * 3500);
    }

    #[test]
    fn a_message_into_a_dead_link_is_noticed_too_and_repeats_do_not_defer_it() {
        let (mut keepalive, now) = answered(MS * 50);
        let sent = now + SECOND * 5;
        for repeat in 0..4 {
            keepalive.on_traffic(sent + MS * 200 * repeat);
        }
        assert_eq!(dies_after(&mut keepalive, sent, NO_QUEUE), MS * 3500);
    }

    #[test]
    fn one_answer_ends_the_inquiry() {
        let (mut keepalive, now) = answered(MS * 50);
        keepalive.on_traffic(now);
        let probe = now + QUIET;
        assert_eq!(keepalive.poll(probe, NO_QUEUE), Due::Ping);
        keepalive.on_ping_sent(probe);
        keepalive.on_sign_of_life();
        keepalive.on_pong(probe + MS * 50);
        assert_eq!(keepalive.poll_timeout(), probe + SECOND * 20);
    }

    #[test]
    fn an_agent_that_takes_nothing_costs_pings_but_not_the_socket() {
        let (mut keepalive, start) = answered(MS * 50);
        let mut pings = 0;
        for step in 0..600 {
            let now = start + MS * 100 * step;
            if step % 20 == 0 {
                // The core probes the oldest message every two seconds.
                keepalive.on_traffic(now);
            }
            match keepalive.poll(now, NO_QUEUE) {
                Due::Nothing => {}
                Due::Ping => {
                    pings += 1;
                    keepalive.on_ping_sent(now);
                    keepalive.on_sign_of_life();
                    keepalive.on_pong(now + MS * 50);
                }
                Due::Dead => panic!("given up after {:?}", now - start),
            }
        }
        assert!((25..=35).contains(&pings), "{pings}");
    }

    #[test]
    fn a_long_round_trip_and_a_long_queue_have_more_time() {
        let (mut keepalive, now) = answered(SECOND * 2);
        keepalive.on_traffic(now);
        assert_eq!(dies_after(&mut keepalive, now, NO_QUEUE), SECOND * 9);
        let (mut keepalive, now) = answered(MS * 50);
        keepalive.on_traffic(now);
        assert_eq!(dies_after(&mut keepalive, now, SECOND * 3), MS * 6500);
        let (mut keepalive, now) = answered(MS * 50);
        keepalive.on_traffic(now);
        assert_eq!(dies_after(&mut keepalive, now, SECOND * 60), SECOND * 11);
    }

    #[test]
    fn the_first_answer_is_awaited_as_long_as_the_dial_suggests() {
        let (mut keepalive, start) = watch(SECOND);
        assert_eq!(keepalive.poll_timeout(), start + SECOND * 8);
        assert_eq!(keepalive.poll(start + SECOND * 8, NO_QUEUE), Due::Dead);
    }

    #[test]
    fn the_round_trip_rises_at_once_and_falls_slowly() {
        let (mut keepalive, start) = answered(MS * 100);
        assert_eq!(keepalive.round_trip(), MS * 100);
        for (sample, estimate) in [(MS * 500, MS * 500), (MS * 100, MS * 400)] {
            keepalive.on_ping_sent(start);
            keepalive.on_pong(start + sample);
            assert_eq!(keepalive.round_trip(), estimate);
        }
        // Two on their way: which of them is answered cannot be told.
        keepalive.on_ping_sent(start);
        keepalive.on_ping_sent(start);
        keepalive.on_pong(start + SECOND * 9);
        keepalive.on_pong(start + SECOND * 9);
        assert_eq!(keepalive.round_trip(), MS * 400);
    }

    #[test]
    fn a_suspected_socket_has_less_time() {
        let (mut keepalive, now) = answered(MS * 50);
        keepalive.suspect(now + SECOND, SECOND * 3);
        assert_eq!(keepalive.poll(now + SECOND, NO_QUEUE), Due::Ping);
        assert_eq!(keepalive.poll(now + SECOND * 4, NO_QUEUE), Due::Dead);
    }
}
