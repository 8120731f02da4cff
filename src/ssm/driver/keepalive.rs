//! When to send a WebSocket ping, and when silence means that the socket is dead. Pure.

use std::time::{Duration, Instant};

/// How a socket is watched.
#[derive(Debug, Clone, Copy)]
pub(in crate::ssm) struct Intervals {
    /// Between pings, whether there is traffic or not: middle-boxes look at both directions.
    pub(in crate::ssm) ping: Duration,
    /// How long a ping may stay without any answer.
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
    ping_at: Instant,
    /// Set while a ping is unanswered.
    dead_at: Option<Instant>,
}

impl Keepalive {
    /// Starts with a ping at once, as the official client does.
    pub(in crate::ssm) fn new(intervals: Intervals, now: Instant) -> Self {
        Self {
            intervals,
            ping_at: now,
            dead_at: None,
        }
    }

    /// Notes that anything arrived: the socket is alive.
    pub(in crate::ssm) fn on_heard(&mut self) {
        self.dead_at = None;
    }

    /// Asks for a sign of life within `deadline`, for example after the computer has slept.
    pub(in crate::ssm) fn suspect(&mut self, now: Instant, deadline: Duration) {
        self.ping_at = now;
        self.dead_at = Some(now + deadline);
    }

    /// What is due at `now`; a ping counts as sent.
    pub(in crate::ssm) fn poll(&mut self, now: Instant) -> Due {
        if self.dead_at.is_some_and(|dead_at| dead_at <= now) {
            return Due::Dead;
        }
        if self.ping_at > now {
            return Due::Nothing;
        }
        self.ping_at = now + self.intervals.ping;
        self.dead_at.get_or_insert(now + self.intervals.deadline);
        Due::Ping
    }

    /// When [`poll`](Self::poll) is next needed.
    pub(in crate::ssm) fn poll_timeout(&self) -> Instant {
        self.dead_at
            .map_or(self.ping_at, |dead_at| dead_at.min(self.ping_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pings_regularly_and_notices_silence() {
        let start = Instant::now();
        let intervals = Intervals {
            ping: SECOND * 20,
            deadline: SECOND * 10,
        };
        let mut keepalive = Keepalive::new(intervals, start);
        assert_eq!(keepalive.poll(start), Due::Ping);
        assert_eq!(keepalive.poll(start), Due::Nothing);
        assert_eq!(keepalive.poll_timeout(), start + SECOND * 10);
        keepalive.on_heard();
        assert_eq!(keepalive.poll_timeout(), start + SECOND * 20);
        assert_eq!(keepalive.poll(start + SECOND * 20), Due::Ping);
        assert_eq!(keepalive.poll(start + SECOND * 29), Due::Nothing);
        assert_eq!(keepalive.poll(start + SECOND * 30), Due::Dead);
    }

    #[test]
    fn a_suspected_socket_has_less_time() {
        let start = Instant::now();
        let intervals = Intervals {
            ping: SECOND * 20,
            deadline: SECOND * 10,
        };
        let mut keepalive = Keepalive::new(intervals, start);
        assert_eq!(keepalive.poll(start), Due::Ping);
        keepalive.on_heard();
        keepalive.suspect(start + SECOND, SECOND * 3);
        assert_eq!(keepalive.poll(start + SECOND), Due::Ping);
        assert_eq!(keepalive.poll(start + SECOND * 4), Due::Dead);
    }
}
