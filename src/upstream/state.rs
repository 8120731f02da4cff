//! What is told of the way to the target: where it stands, and what happens to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::Error;
use crate::tunnel::Tunnel;

/// Where the way to the target stands.
#[derive(Debug, Clone)]
pub enum State<T = Arc<Tunnel>> {
    /// The first tunnel is being dialled, or dialled again.
    Dialing,
    /// Streams can be opened, and make progress.
    Up(T),
    /// There is a link, but the agent at its other end does not answer. Streams stay open; nothing moves in them.
    Silent {
        /// Still whole, as far as anybody knows.
        tunnel: T,
        /// Since when.
        outage: Outage,
    },
    /// The link was lost and the SSM session is being resumed. Streams stay open; nothing moves in them.
    Resuming {
        /// Still whole.
        tunnel: T,
        /// What was lost, and what hinders.
        outage: Outage,
    },
    /// The tunnel is gone, with everything in it, and another is being dialled or soon will be.
    Redialing(Outage),
    /// The last attempt failed; another follows in a while, or as soon as somebody asks.
    Down {
        /// What is wrong.
        error: Error,
        /// Whether waiting alone will not heal it.
        is_final: bool,
    },
    /// It has been shut down.
    Stopped,
}

/// A time in which nothing can be heard of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    /// When it began.
    pub since: Instant,
    /// Whether there is a link all the while, and it is the agent that does not answer.
    pub is_silence: bool,
}

/// A time without progress, after there was some.
#[derive(Debug, Clone)]
pub struct Outage {
    /// When it was noticed.
    pub since: Instant,
    /// What happened, for a person.
    pub reason: String,
    /// What was wrong with the last attempt to heal it.
    pub last_error: Option<String>,
    /// What a person can do about that.
    pub hint: Option<String>,
}

/// What a user would tell a friend about the way to the target.
#[derive(Debug, Clone)]
pub enum News {
    /// What was up is not any more.
    Lost {
        /// Why.
        reason: String,
        /// Whether the SSM session is being resumed, so that nothing is lost but time. Otherwise another one is
        /// started, and open channels end.
        is_resuming: bool,
    },
    /// The agent does not answer although there is a link; what waits for it goes on waiting.
    Silent {
        /// For how long so far.
        lasted: Duration,
    },
    /// The agent answers again, and everything goes on where it was.
    Heard {
        /// How long it did not.
        lasted: Duration,
    },
    /// An attempt to resume failed; another will follow.
    Retrying {
        /// Which attempt it was, from 1.
        attempt: u32,
        /// What went wrong.
        error: String,
        /// What a person can do about it.
        hint: Option<String>,
    },
    /// Everything goes on where it was.
    Resumed {
        /// How long nothing moved.
        gap: Duration,
        /// How many attempts it took.
        attempts: u32,
    },
    /// The target cannot be reached, or not logged in to, for now.
    Down(Error),
    /// There is a new tunnel.
    Up {
        /// How long there was none; none for the first.
        gap: Option<Duration>,
    },
    /// Logging in works again, after [`News::Down`] with an error of that.
    LoggedIn,
    /// One who has never been let in is not, where others are: a mistyped user, most likely. The target is well.
    LoginRefused(Error),
}
