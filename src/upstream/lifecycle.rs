//! The life of the way to a target, as a state machine: when to dial, when to wait, what is over.
//!
//! ```text
//!            Dialled                LinkLost
//!  Dialing ----------->  Up  <------------------>  Resuming <--- LinkLost --- Silent
//!    ^  | DialFailed      |  TunnelLost  LinkResumed   | TunnelLost
//!    |  v                 +------> Redialing <---------+
//!  Waiting  <--- a pause --------------'                        Stop, from anywhere ---> Stopped
//! ```
//!
//! Silent is Up without an answer of the agent: `Silenced` leads to it, `Heard` back, and the tunnel may be lost there.
//!
//! Pure: events and time go in, actions and news come out; the tunnel itself is a handle `T` that is
//! only passed on. There is one dial at a time and one tunnel at a time, and each tunnel that was
//! handed in is handed out once to be terminated.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::Rng;

use super::backoff::{Backoff, Pace};
use super::error::Error;
use super::state::{Absence, News, Outage, State};
use crate::report::one_line;

/// However often it is asked for, the target is not dialled more often than this.
const DIAL_SPACING: Duration = Duration::from_secs(1);

/// A tunnel that lasts so long was a success: what comes after it is a new series of attempts.
const LASTING: Duration = Duration::from_secs(10);

/// What a silent agent is said to be.
const SILENCE: &str = "the SSM agent does not answer";

/// What has happened.
#[derive(Debug, Clone)]
pub(super) enum Event<T> {
    /// The dial has brought a tunnel.
    Dialled(T),
    /// The dial has failed.
    DialFailed(Error),
    /// The link of the tunnel is lost, and the SSM session being resumed.
    LinkLost { reason: String },
    /// An attempt to resume has failed.
    ResumeFailed { error: String, hint: Option<String> },
    /// There is a link again.
    LinkResumed,
    /// There is a link, but the agent owes an answer since then.
    Silenced { since: Instant },
    /// The agent answers again.
    Heard,
    /// The tunnel is gone.
    TunnelLost { reason: String },
    /// Somebody is waiting for a tunnel.
    Wanted,
    /// It is to end.
    Stop,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action<T> {
    /// Dial; the answer is [`Event::Dialled`] or [`Event::DialFailed`].
    Dial,
    /// Dial no longer.
    Abandon,
    /// End this tunnel in an orderly way, as far as that is possible.
    Terminate(T),
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Lifecycle<T, R> {
    stage: Stage<T>,
    /// Whether [`Self::state`] has changed since it was asked for.
    has_moved: bool,
    /// Since when nothing makes progress.
    absent_since: Option<Instant>,
    /// What was lost, once there was something to lose.
    outage: Option<Outage>,
    was_up: bool,
    /// When the last dial began.
    dialled_at: Instant,
    backoff: Backoff,
    rng: R,
    /// Taken after each event; there are at most two.
    actions: VecDeque<Action<T>>,
    /// Taken after each event; there is at most one.
    news: VecDeque<News>,
}

#[derive(Debug)]
enum Stage<T> {
    Dialing,
    Up {
        tunnel: T,
        since: Instant,
    },
    /// The agent does not answer.
    Silent {
        tunnel: T,
        /// When the tunnel came up.
        up_since: Instant,
    },
    Resuming {
        tunnel: T,
        /// When the tunnel came up.
        up_since: Instant,
        lost_at: Instant,
        failures: u32,
    },
    /// Between two dials.
    Waiting {
        until: Instant,
        /// Why the last dial failed; none after one that brought a tunnel.
        failure: Option<Error>,
    },
    Stopped,
}

impl<T: Clone, R: Rng> Lifecycle<T, R> {
    /// Begins with a dial; `rng` spreads the pauses.
    pub(super) fn new(now: Instant, rng: R) -> Self {
        Self {
            stage: Stage::Dialing,
            has_moved: true,
            absent_since: Some(now),
            outage: None,
            was_up: false,
            dialled_at: now,
            backoff: Backoff::default(),
            rng,
            actions: VecDeque::from([Action::Dial]),
            news: VecDeque::new(),
        }
    }

    /// Takes in what has happened. What does not fit the state changes nothing, but a tunnel that nobody
    /// waits for is terminated.
    pub(super) fn handle_event(&mut self, now: Instant, event: Event<T>) {
        match event {
            Event::Dialled(tunnel) => self.on_dialled(now, tunnel),
            Event::DialFailed(error) => self.on_dial_failed(now, error),
            Event::LinkLost { reason } => self.on_link_lost(now, reason),
            Event::ResumeFailed { error, hint } => self.on_resume_failed(error, hint),
            Event::LinkResumed => self.on_link_resumed(now),
            Event::Silenced { since } => self.on_silenced(now, since),
            Event::Heard => self.on_heard(now),
            Event::TunnelLost { reason } => self.on_tunnel_lost(now, reason),
            Event::Wanted => self.on_wanted(now),
            Event::Stop => self.on_stop(now),
        }
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Waiting { until, .. } if until <= now) {
            self.dial(now);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Waiting { until, .. } => Some(until),
            _ => None,
        }
    }

    /// The next thing to do.
    pub(super) fn poll_action(&mut self) -> Option<Action<T>> {
        self.actions.pop_front()
    }

    /// The next thing to tell.
    pub(super) fn poll_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Since when no stream can make progress, and why; none while they can.
    pub(super) fn absence(&self) -> Option<Absence> {
        self.absent_since.map(|since| Absence {
            since,
            is_silence: matches!(self.stage, Stage::Silent { .. }),
        })
    }

    /// Where it stands, if that has changed since it was asked last.
    pub(super) fn poll_state(&mut self) -> Option<State<T>> {
        std::mem::take(&mut self.has_moved).then(|| self.state())
    }

    /// Whether nothing will ever be done again, but what is to be taken yet.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.stage, Stage::Stopped)
    }

    fn state(&self) -> State<T> {
        match (&self.stage, &self.outage) {
            (Stage::Up { tunnel, .. }, _) => State::Up(tunnel.clone()),
            (Stage::Resuming { tunnel, .. }, Some(outage)) => State::Resuming {
                tunnel: tunnel.clone(),
                outage: outage.clone(),
            },
            (Stage::Silent { tunnel, .. }, Some(outage)) => State::Silent {
                tunnel: tunnel.clone(),
                outage: outage.clone(),
            },
            (
                Stage::Waiting {
                    failure: Some(error),
                    ..
                },
                _,
            ) => State::Down {
                is_final: self.is_final(error),
                error: error.clone(),
            },
            (Stage::Stopped, _) => State::Stopped,
            (_, Some(outage)) => State::Redialing(outage.clone()),
            (_, None) => State::Dialing,
        }
    }

    fn on_dialled(&mut self, now: Instant, tunnel: T) {
        if !matches!(self.stage, Stage::Dialing) {
            return self.actions.push_back(Action::Terminate(tunnel));
        }
        let gap = self.outage.take().map(|outage| now - outage.since);
        self.enter(Stage::Up { tunnel, since: now });
        self.absent_since = None;
        self.was_up = true;
        self.news.push_back(News::Up { gap });
    }

    fn on_dial_failed(&mut self, now: Instant, error: Error) {
        if !matches!(self.stage, Stage::Dialing) {
            return;
        }
        let pace = match self.is_final(&error) {
            true => Pace::Slow,
            false => Pace::Quick,
        };
        let pause = self.backoff.pause(pace, &mut self.rng);
        if let Some(outage) = &mut self.outage {
            outage.last_error = Some(one_line(&error));
            outage.hint = error.hint();
        }
        self.news.push_back(News::Down(error.clone()));
        self.enter(Stage::Waiting {
            until: self.not_too_soon(now + pause),
            failure: Some(error),
        });
    }

    fn on_link_lost(&mut self, now: Instant, reason: String) {
        let (tunnel, up_since) = match &self.stage {
            Stage::Up { tunnel, since } => (tunnel.clone(), *since),
            Stage::Silent { tunnel, up_since } => (tunnel.clone(), *up_since),
            _ => return,
        };
        self.enter(Stage::Resuming {
            tunnel,
            up_since,
            lost_at: now,
            failures: 0,
        });
        self.lose(now, reason, true);
    }

    fn on_resume_failed(&mut self, error: String, hint: Option<String>) {
        let Stage::Resuming { failures, .. } = &mut self.stage else {
            return;
        };
        *failures = failures.saturating_add(1);
        self.has_moved = true;
        if let Some(outage) = &mut self.outage {
            outage.last_error = Some(error.clone());
            outage.hint.clone_from(&hint);
        }
        self.news.push_back(News::Retrying {
            attempt: *failures,
            error,
            hint,
        });
    }

    fn on_link_resumed(&mut self, now: Instant) {
        let (tunnel, up_since, lost_at, failures) = match &self.stage {
            Stage::Resuming {
                tunnel,
                up_since,
                lost_at,
                failures,
            } => (tunnel.clone(), *up_since, *lost_at, *failures),
            _ => return,
        };
        self.enter(Stage::Up {
            tunnel,
            since: up_since,
        });
        self.absent_since = None;
        self.outage = None;
        self.news.push_back(News::Resumed {
            gap: now - lost_at,
            attempts: failures.saturating_add(1),
        });
    }

    fn on_silenced(&mut self, now: Instant, since: Instant) {
        let (tunnel, up_since) = match &self.stage {
            Stage::Up { tunnel, since } => (tunnel.clone(), *since),
            _ => return,
        };
        self.enter(Stage::Silent { tunnel, up_since });
        self.note_outage(since, SILENCE.to_owned());
        let lasted = now.saturating_duration_since(since);
        self.news.push_back(News::Silent { lasted });
    }

    fn on_heard(&mut self, now: Instant) {
        let (tunnel, since) = match &self.stage {
            Stage::Silent { tunnel, up_since } => (tunnel.clone(), *up_since),
            _ => return,
        };
        self.enter(Stage::Up { tunnel, since });
        self.absent_since = None;
        if let Some(outage) = self.outage.take() {
            let lasted = now.saturating_duration_since(outage.since);
            self.news.push_back(News::Heard { lasted });
        }
    }

    fn on_tunnel_lost(&mut self, now: Instant, reason: String) {
        let (tunnel, up_since) = match &self.stage {
            Stage::Up { tunnel, since } => (tunnel.clone(), *since),
            Stage::Silent { tunnel, up_since } => (tunnel.clone(), *up_since),
            Stage::Resuming {
                tunnel, up_since, ..
            } => (tunnel.clone(), *up_since),
            _ => return,
        };
        self.actions.push_back(Action::Terminate(tunnel));
        self.lose(now, reason, false);
        if now - up_since >= LASTING {
            self.backoff.reset();
        }
        // Counted from the last dial: one that was long ago costs no wait.
        let pause = self.backoff.pause(Pace::Quick, &mut self.rng);
        let until = self.not_too_soon(self.dialled_at + pause);
        if until <= now {
            return self.dial(now);
        }
        self.enter(Stage::Waiting {
            until,
            failure: None,
        });
    }

    fn on_wanted(&mut self, now: Instant) {
        let soonest = self.dialled_at + DIAL_SPACING;
        if let Stage::Waiting { until, .. } = &mut self.stage {
            *until = soonest.min(*until);
        }
        self.handle_timeout(now);
    }

    fn on_stop(&mut self, now: Instant) {
        match self.enter(Stage::Stopped) {
            Stage::Dialing => self.actions.push_back(Action::Abandon),
            Stage::Up { tunnel, .. }
            | Stage::Silent { tunnel, .. }
            | Stage::Resuming { tunnel, .. } => {
                self.actions.push_back(Action::Terminate(tunnel));
            }
            Stage::Waiting { .. } | Stage::Stopped => {}
        }
        self.absent_since.get_or_insert(now);
    }

    /// Goes over to `stage` and returns the one before.
    fn enter(&mut self, stage: Stage<T>) -> Stage<T> {
        self.has_moved = true;
        std::mem::replace(&mut self.stage, stage)
    }

    fn dial(&mut self, now: Instant) {
        self.enter(Stage::Dialing);
        self.dialled_at = now;
        self.actions.push_back(Action::Dial);
    }

    /// Notes that something was lost. What was lost before goes on being lost.
    fn lose(&mut self, now: Instant, reason: String, is_resuming: bool) {
        self.note_outage(now, reason.clone());
        self.news.push_back(News::Lost {
            reason,
            is_resuming,
        });
    }

    /// Nothing makes progress since `since`, or since before that.
    fn note_outage(&mut self, since: Instant, reason: String) {
        self.outage = Some(Outage {
            since: *self.absent_since.get_or_insert(since),
            reason,
            last_error: None,
            hint: None,
        });
    }

    /// Whether waiting alone will not heal it. A machine that was there before is rather starting anew.
    fn is_final(&self, error: &Error) -> bool {
        error.is_final() && !(self.was_up && error.is_offline())
    }

    fn not_too_soon(&self, at: Instant) -> Instant {
        at.max(self.dialled_at + DIAL_SPACING)
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
