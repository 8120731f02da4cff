//! The way to one target, whoever logs in there: a tunnel that is kept up, and what is told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit, broadcast, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::driver::{self, Outlets};
use super::error::Error;
use super::state::{Absence, News, Outage, State};
use crate::ssm::Ssm;
use crate::tunnel::{self, Tunnel};

/// The way to a target; clones share it.
///
/// Several [`Upstream`](super::Upstream)s may stand on it, one for each way to log in there: they share the SSM session
/// and no transport.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    target: String,
    port: u16,
    ssm: Ssm,
    state: watch::Receiver<State>,
    news: broadcast::Sender<News>,
    absence: watch::Receiver<Option<Absence>>,
    /// Told when somebody wants a transport and there is no tunnel: time to try again.
    wanted: Arc<Notify>,
    /// Permits to be logging in.
    logins: Semaphore,
    /// Whether anybody has ever been let in.
    has_served: AtomicBool,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Logins under way at the same time: fewer than the ten from which sshd begins to drop connections
/// (`MaxStartups 10:30:100`).
const LOGINS: usize = 8;

/// How long the end of a link is waited for: a second more than that of its SSM session may take. A StartSession that
/// hangs, which is never given up half-way, would take longer.
const PARTING: Duration = Duration::from_secs(6);

/// News kept for those who are slow to take them.
const NEWS: usize = 64;

impl Link {
    /// Begins to dial; returns at once, with all that happens from then on: who asked for the news later could miss
    /// the first.
    pub fn start(options: tunnel::Options) -> (Self, broadcast::Receiver<News>) {
        let stop = CancellationToken::new();
        let tasks = options.tracker.clone();
        let wanted = Arc::new(Notify::new());
        let (target, port, ssm) = (options.target.clone(), options.port, options.ssm.clone());
        let (publish_state, state) = watch::channel(State::Dialing);
        let (publish_absence, absence) = watch::channel(Some(Absence {
            since: Instant::now().into_std(),
            is_silence: false,
        }));
        let (news, told) = broadcast::channel(NEWS);
        tasks.spawn(driver::run(
            options,
            Outlets {
                state: publish_state,
                absence: publish_absence,
                news: news.clone(),
            },
            Arc::clone(&wanted),
            stop.clone(),
        ));
        let link = Self {
            shared: Arc::new(Shared {
                target,
                port,
                ssm,
                state,
                news,
                absence,
                wanted,
                logins: Semaphore::new(LOGINS),
                has_served: AtomicBool::new(false),
                stop,
                tasks,
            }),
        };
        (link, told)
    }

    /// The managed machine.
    pub fn target(&self) -> &str {
        &self.shared.target
    }

    /// The port of its sshd.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// What the tunnel is doing now, and each change of it.
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.clone()
    }

    /// What happens from now on. Who does not keep up misses what is older than the last 64.
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.shared.news.subscribe()
    }

    /// Since when no stream can make progress and why, and each change of that; none while they can.
    ///
    /// The link may have been lost earlier than it was noticed. An absence that ends with another
    /// tunnel has the same beginning as one that ends with the same.
    pub fn absence(&self) -> watch::Receiver<Option<Absence>> {
        self.shared.absence.clone()
    }

    /// Between us and the agent, with its time to process, as measured last; none without a tunnel.
    pub fn round_trip(&self) -> Option<Duration> {
        self.present().and_then(|tunnel| tunnel.round_trip())
    }

    /// Whether one SSM session carries all transports; none without a tunnel.
    pub(super) fn is_multiplexed(&self) -> Option<bool> {
        self.present().map(|tunnel| tunnel.is_multiplexed())
    }

    /// The tunnel, whether or not it has a link.
    fn present(&self) -> Option<Arc<Tunnel>> {
        match &*self.shared.state.borrow() {
            State::Up(tunnel) | State::Silent { tunnel, .. } | State::Resuming { tunnel, .. } => {
                Some(Arc::clone(tunnel))
            }
            _ => None,
        }
    }

    /// Ends every upstream on it, closes the tunnel, terminates the SSM session, and waits for all that within reason.
    /// What takes longer goes on as long as the process does, and the journal has it.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if timeout(PARTING, self.shared.tasks.wait()).await.is_err() {
            warn!(
                target = self.shared.target,
                "the service does not answer; the SSM session that it may have begun ends when it does, or with the \
                 next start of ssmshim"
            );
        }
    }

    /// Somebody waits for the tunnel: if there is none, it is time to try again.
    pub(super) fn want(&self) {
        self.shared.wanted.notify_one();
    }

    pub(super) fn tell(&self, news: News) {
        // Nobody needs to listen.
        let _ = self.shared.news.send(news);
    }

    /// Owns what is done on behalf of the target.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.shared.tasks
    }

    /// Ends with the link.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.shared.stop
    }

    /// Whether it has ever been of use to anybody.
    pub fn has_served(&self) -> bool {
        self.shared.has_served.load(Ordering::Relaxed)
    }

    /// Notes that it is of use.
    pub(super) fn serves(&self) {
        self.shared.has_served.store(true, Ordering::Relaxed);
    }

    /// Waits until one more login may be under way.
    pub(super) async fn login_permit(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so there is a permit in the end.
        self.shared.logins.acquire().await.ok()
    }

    /// The tunnel, once it is up and has a link; what goes wrong meanwhile is noted in `last_failure`.
    ///
    /// A failure that is known already does not count: what was missing may be there by now.
    ///
    /// # Errors
    /// What waiting cannot heal.
    pub(super) async fn tunnel(
        &self,
        last_failure: &mut Option<Error>,
    ) -> Result<Arc<Tunnel>, Error> {
        let mut state = self.state();
        let mut is_news = false;
        loop {
            let seen = state.borrow_and_update().clone();
            match seen {
                State::Up(tunnel) => return Ok(tunnel),
                State::Down {
                    error,
                    is_final: true,
                } if is_news => return Err(error),
                State::Down { error, .. } => *last_failure = Some(error),
                State::Stopped => return Err(Error::Stopped),
                State::Dialing
                | State::Silent { .. }
                | State::Resuming { .. }
                | State::Redialing(_) => {}
            }
            if state.changed().await.is_err() {
                return Err(Error::Stopped);
            }
            is_news = true;
        }
    }

    /// Why nobody was let through although they have waited for `held`.
    pub(super) fn why_not(&self, held: Duration, last_failure: Option<Error>) -> Error {
        match &*self.shared.state.borrow() {
            State::Dialing | State::Resuming { .. } | State::Redialing(_)
                if self.shared.ssm.is_asking() =>
            {
                Error::Unanswered
            }
            State::Resuming { outage, .. } => self.away(outage, true),
            State::Silent { outage, .. } => Error::Silent {
                target: self.shared.target.clone(),
                lasted: since(outage),
            },
            State::Redialing(outage) => self.away(outage, false),
            State::Down { error, .. } => error.clone(),
            State::Dialing | State::Up(_) | State::Stopped => {
                last_failure.unwrap_or(Error::HeldTooLong { held })
            }
        }
    }

    fn away(&self, outage: &Outage, is_resuming: bool) -> Error {
        Error::Away {
            target: self.shared.target.clone(),
            gone: since(outage),
            is_resuming,
            reason: outage.last_error.as_ref().unwrap_or(&outage.reason).clone(),
            hint: outage.hint.clone(),
        }
    }
}

/// How long an outage has lasted.
fn since(outage: &Outage) -> Duration {
    Instant::now().saturating_duration_since(Instant::from_std(outage.since))
}
