//! When the agent counts as silent although the socket lives. Pure.
//!
//! The service answers pings whether or not there is an agent behind it, so a socket that lives says
//! nothing of one that was killed, hangs, or is itself cut off. What tells is a message of ours that
//! nobody acknowledges while nothing else comes from the agent either.
//!
//! Silence is a state and not an end: an agent whose target takes nothing stops acknowledging for as
//! long as that lasts (protocol sheet §7), and one whose own socket fell into a black hole comes back
//! after about a hundred seconds, when its pong deadline and its reconnection are over (§2). Only
//! after that is there nobody left to wait for.

use std::time::{Duration, Instant};

/// How much silence is put up with.
#[derive(Debug, Clone, Copy)]
pub(in crate::ssm) struct Patience {
    /// Until the agent counts as silent: several times what a busy one needs.
    pub(in crate::ssm) silent: Duration,
    /// From then on, until the SSM session is given up.
    pub(in crate::ssm) given_up: Duration,
}

impl Default for Patience {
    /// Eight seconds, and 120 in all.
    fn default() -> Self {
        Self {
            silent: Duration::from_secs(8),
            given_up: Duration::from_secs(112),
        }
    }
}

/// What is known of the agent at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signs {
    /// When anything of its own last came in.
    pub(super) heard_at: Instant,
    /// It has been sent something that it has not acknowledged.
    pub(super) is_owing: bool,
    /// The socket is not itself under suspicion.
    pub(super) is_socket_alive: bool,
    /// How long the link may take to carry what was sent before.
    pub(super) queue: Duration,
}

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is silent, since this time.
    Silent { since: Instant },
    /// It is heard again.
    Heard,
    /// It has been silent for too long.
    GivenUp { lasted: Duration },
}

/// Watches the agent behind one socket.
#[derive(Debug)]
pub(super) struct Silence {
    patience: Patience,
    /// Since when it owes a sign of life.
    since: Option<Instant>,
    /// When it counts as silent.
    silent_at: Option<Instant>,
    /// When it is given up; set while it is silent.
    given_up_at: Option<Instant>,
}

impl Silence {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            since: None,
            silent_at: None,
            given_up_at: None,
        }
    }

    /// The socket is lost: what the agent may have said since is on its way to the next one.
    pub(super) fn on_lost(&mut self) {
        *self = Self::new(self.patience);
    }

    /// Draws the conclusions from `signs`.
    pub(super) fn update(&mut self, now: Instant, signs: Signs) -> Option<Change> {
        let is_owing_still = signs.is_owing && self.since.is_some_and(|at| at >= signs.heard_at);
        if !is_owing_still {
            let was_silent = self.given_up_at.take().is_some();
            self.since = signs.is_owing.then_some(now);
            self.silent_at = self
                .since
                .map(|since| since + self.patience.silent + signs.queue);
            return was_silent.then_some(Change::Heard);
        }
        let since = self.since?;
        match self.given_up_at {
            // Noticed far too late: the process was stopped, and the agent is asked anew.
            Some(at) if at + self.patience.silent < now => {
                self.given_up_at = Some(now + self.patience.silent);
                None
            }
            Some(at) if at <= now && signs.is_socket_alive => Some(Change::GivenUp {
                lasted: now.saturating_duration_since(since),
            }),
            None if signs.is_socket_alive && self.silent_at.is_some_and(|at| at <= now) => {
                // Counted from now: a process that was stopped for long has not been waiting.
                self.given_up_at = Some(now + self.patience.given_up);
                Some(Change::Silent { since })
            }
            _ => None,
        }
    }

    /// When [`update`](Self::update) is next needed, if nothing else happens.
    ///
    /// None while it waits for the socket to prove that it lives: that has a timer of its own.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.given_up_at.or(self.silent_at).filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A watch, a clock, and what is known of the agent.
    struct Watched {
        silence: Silence,
        now: Instant,
        signs: Signs,
    }

    impl Watched {
        /// An agent that was heard a second ago and has just been sent something.
        fn new() -> Self {
            let heard_at = Instant::now();
            let mut watched = Self {
                silence: Silence::new(Patience::default()),
                now: heard_at + SECOND,
                signs: Signs {
                    heard_at,
                    is_owing: true,
                    is_socket_alive: true,
                    queue: Duration::ZERO,
                },
            };
            assert_eq!(watched.update(), None);
            watched
        }

        fn update(&mut self) -> Option<Change> {
            self.silence.update(self.now, self.signs)
        }

        /// Lets the timer fire, and says after how long it did.
        fn fire(&mut self) -> (Duration, Option<Change>) {
            let at = self.silence.poll_timeout(self.now).expect("a timer runs");
            let after = at - std::mem::replace(&mut self.now, at);
            (after, self.update())
        }
    }

    #[test]
    fn nobody_is_silent_who_owes_nothing() {
        let mut watched = Watched::new();
        watched.signs.is_owing = false;
        watched.signs.heard_at = watched.now;
        assert_eq!(watched.update(), None);
        assert_eq!(watched.silence.poll_timeout(watched.now), None);
        watched.now += SECOND * 3600;
        assert_eq!(watched.update(), None);
        // What is owed now is not owed since it was heard last.
        watched.signs.is_owing = true;
        assert_eq!(watched.update(), None);
        assert_eq!(watched.fire().0, SECOND * 8);
    }

    #[test]
    fn silence_is_told_once_and_given_up_in_the_end() {
        let mut watched = Watched::new();
        let since = watched.now;
        assert_eq!(watched.fire(), (SECOND * 8, Some(Change::Silent { since })));
        assert_eq!(watched.update(), None);
        let lasted = SECOND * 120;
        let given_up = Some(Change::GivenUp { lasted });
        assert_eq!(watched.fire(), (SECOND * 112, given_up));
    }

    #[test]
    fn a_word_of_the_agent_ends_it_even_while_more_is_owed() {
        for is_owing in [false, true] {
            let mut watched = Watched::new();
            watched.fire();
            watched.now += SECOND * 60;
            watched.signs.heard_at = watched.now;
            watched.signs.is_owing = is_owing;
            assert_eq!(watched.update(), Some(Change::Heard));
            assert_eq!(watched.update(), None);
            let timer = watched.silence.poll_timeout(watched.now);
            assert_eq!(timer, is_owing.then_some(watched.now + SECOND * 8));
        }
    }

    /// It acknowledges one message in seven seconds: slow, and there.
    #[test]
    fn a_slow_agent_is_not_silent() {
        let mut watched = Watched::new();
        for _ in 0..100 {
            watched.now += SECOND * 7;
            assert_eq!(watched.update(), None);
            watched.signs.heard_at = watched.now;
            assert_eq!(watched.update(), None);
        }
    }

    #[test]
    fn a_long_queue_has_more_time() {
        let mut watched = Watched::new();
        watched.signs.heard_at = watched.now + SECOND;
        watched.now += SECOND;
        watched.signs.queue = SECOND * 5;
        assert_eq!(watched.update(), None);
        assert_eq!(watched.fire().0, SECOND * 13);
    }

    #[test]
    fn a_socket_under_suspicion_is_waited_for() {
        let mut watched = Watched::new();
        watched.signs.is_socket_alive = false;
        assert_eq!(watched.fire(), (SECOND * 8, None));
        assert_eq!(watched.silence.poll_timeout(watched.now), None);
        watched.signs.is_socket_alive = true;
        assert!(matches!(watched.update(), Some(Change::Silent { .. })));
    }

    #[test]
    fn a_new_socket_begins_anew() {
        let mut watched = Watched::new();
        watched.fire();
        watched.silence.on_lost();
        watched.now += SECOND * 1000;
        assert_eq!(watched.update(), None);
        assert_eq!(watched.fire().0, SECOND * 8);
    }

    /// A process that was stopped meanwhile asks anew before it gives up.
    #[test]
    fn a_jump_of_the_clock_is_not_a_long_silence() {
        let mut watched = Watched::new();
        watched.now += SECOND * 1000;
        assert!(matches!(watched.update(), Some(Change::Silent { .. })));
        assert_eq!(watched.fire().0, SECOND * 112);
    }
}
