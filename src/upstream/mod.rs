//! The target: authenticated SSH transports over one tunnel, ready before they are needed.
//!
//! [`Upstream`] keeps a tunnel up as well as it can (`lifecycle` decides, `driver` does), logs transports in through
//! it (`login`), and keeps a few spare (`pool`).

mod backoff;
mod driver;
mod error;
mod lifecycle;
mod login;
mod pool;
mod state;
mod transport;
mod users;

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use self::backoff::{Backoff, Pace};
use self::driver::Outlets;
pub use self::error::Error;
pub use self::login::Login;
use self::pool::Pool;
pub use self::state::{Absence, News, Outage, State};
pub use self::transport::Transport;
pub use self::users::Users;
use crate::report::one_line;
use crate::ssh::Attendance;
use crate::tunnel::{self, Tunnel};

/// What an upstream needs to know.
pub struct Options {
    /// How to get a byte stream to the target's sshd.
    pub tunnel: tunnel::Options,
    /// How to log in there.
    pub login: Login,
    /// How long [`Upstream::lease`] waits for a transport.
    pub hold: Duration,
}

/// A handle to the target; clones share it.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    login: Login,
    hold: Duration,
    target: String,
    state: watch::Receiver<State>,
    news: broadcast::Sender<News>,
    absence: watch::Receiver<Option<Absence>>,
    /// Told when somebody wants a transport and there is no tunnel: time to try again.
    wanted: Arc<Notify>,
    pool: Pool,
    /// Permits to be logging in.
    logins: Semaphore,
    /// Told when a login has succeeded: time to try one for a spare again.
    logged_in: Notify,
    /// Whether a login has come to an end of which spare ones can learn.
    has_tried: watch::Sender<bool>,
    /// What sshd said before the last login, for those who log in here.
    banner: Mutex<Option<String>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Logins under way at the same time: fewer than the ten from which sshd begins to drop connections
/// (`MaxStartups 10:30:100`).
const LOGINS: usize = 8;

/// First and longest pause between attempts to log in that may yet succeed: a busy or restarting sshd.
const LOGIN_PAUSE: Duration = Duration::from_millis(100);
const LOGIN_PAUSE_MAX: Duration = Duration::from_secs(2);

/// News kept for those who are slow to take them.
const NEWS: usize = 64;

/// How long a port that nothing listens on is tried: as long as a restart of sshd takes.
const NO_SSHD_PATIENCE: Duration = Duration::from_secs(2);

impl Upstream {
    /// Begins to dial; returns at once.
    pub fn start(options: Options) -> Self {
        let stop = CancellationToken::new();
        let tasks = options.tunnel.tracker.clone();
        let wanted = Arc::new(Notify::new());
        let target = options.tunnel.target.clone();
        let (publish_state, state) = watch::channel(State::Dialing);
        let (publish_absence, absence) = watch::channel(Some(Absence {
            since: Instant::now().into_std(),
            is_silence: false,
        }));
        let news = broadcast::Sender::new(NEWS);
        tasks.spawn(driver::run(
            options.tunnel,
            Outlets {
                state: publish_state,
                absence: publish_absence,
                news: news.clone(),
            },
            Arc::clone(&wanted),
            stop.clone(),
        ));
        let shared = Arc::new(Shared {
            login: options.login,
            hold: options.hold,
            target,
            state,
            news,
            absence,
            wanted,
            pool: Pool::new(tasks.clone(), stop.clone()),
            logins: Semaphore::new(LOGINS),
            logged_in: Notify::new(),
            has_tried: watch::Sender::new(false),
            banner: Mutex::default(),
            stop,
            tasks,
        });
        let upstream = Self { shared };
        upstream.shared.tasks.spawn(upstream.clone().keep_spares());
        upstream
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

    /// How long a client's wish is kept while nothing can be heard of the target.
    pub fn hold(&self) -> Duration {
        self.shared.hold
    }

    /// Why nobody is let through now, for one whose patience is at its end.
    pub fn why_not(&self) -> Error {
        self.shared.why_not(None)
    }

    /// Between us and the agent, with its time to process, as measured last; none without a tunnel.
    pub fn round_trip(&self) -> Option<Duration> {
        match &*self.shared.state.borrow() {
            State::Up(tunnel) | State::Silent { tunnel, .. } | State::Resuming { tunnel, .. } => {
                tunnel.round_trip()
            }
            _ => None,
        }
    }

    /// Waits until a transport is authenticated and spare: `ssh` would work now.
    ///
    /// # Errors
    /// As [`Upstream::lease`]; this can be called again.
    pub async fn ready(&self) -> Result<(), Error> {
        let transport = self.lease().await?;
        self.give_back(transport);
        Ok(())
    }

    /// A transport for one local connection: a spare one, or a new one. None is handed out while nothing can
    /// make progress on it.
    ///
    /// # Errors
    /// Why there is none: at once when waiting cannot heal it ([`Error::is_final`]), after
    /// [`Options::hold`] otherwise.
    pub async fn lease(&self) -> Result<Transport, Error> {
        let Shared { pool, .. } = &*self.shared;
        self.held(async |last_failure, attendance| {
            self.shared.tunnel(last_failure).await?;
            match pool.take().await {
                Some(transport) => Ok(transport),
                None => self.shared.log_in(last_failure, attendance).await,
            }
        })
        .await
    }

    /// A transport that logs in now, whatever is spare.
    ///
    /// # Errors
    /// As [`Upstream::lease`].
    pub async fn lease_new(&self) -> Result<Transport, Error> {
        self.held(async |last_failure, attendance| {
            self.shared.log_in(last_failure, attendance).await
        })
        .await
    }

    /// Runs `seek`, which notes its setbacks and may ask people, for as long as a client waits.
    async fn held(
        &self,
        seek: impl AsyncFnOnce(&mut Option<Error>, Option<&Attendance>) -> Result<Transport, Error>,
    ) -> Result<Transport, Error> {
        self.shared.wanted.notify_one();
        let mut last_failure = None;
        let attendance = Attendance::default();
        let seek = seek(&mut last_failure, Some(&attendance));
        match tokio::time::timeout(self.shared.hold, seek).await {
            Ok(leased) => leased,
            Err(_) if attendance.is_asking() => Err(Error::Unanswered),
            Err(_) => Err(self.shared.why_not(last_failure)),
        }
    }

    /// Takes back a transport whose client asked nothing of it. What sshd keeps of one that did (groups, limits,
    /// its message of the day already told) is not for the next client.
    pub fn give_back(&self, transport: Transport) {
        self.shared.pool.put(transport);
    }

    /// What the target's sshd says to those who log in, as far as it is known yet.
    pub fn banner(&self) -> Option<String> {
        self.shared.lock_banner().clone()
    }

    /// Closes all spare transports and the tunnel, terminates the SSM session, and waits for that.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Keeps transports spare while the tunnel is up, and tells when that is not possible.
    async fn keep_spares(self) {
        let Shared { pool, stop, .. } = &*self.shared;
        // The first login finds out what fits, and whoever waits for it does not share the way there with another.
        let mut has_tried = self.shared.has_tried.subscribe();
        tokio::select! {
            () = stop.cancelled() => return,
            _ = has_tried.wait_for(|has_tried| *has_tried) => {}
        }
        let mut backoff = Backoff::default();
        let mut is_failing = false;
        loop {
            // From now on: somebody may answer while nobody is asked here.
            let mut logged_in = pin!(self.shared.logged_in.notified());
            logged_in.as_mut().enable();
            let spare = async {
                pool.is_short().await;
                self.shared.log_in(&mut None, None).await
            };
            let spare = tokio::select! {
                () = stop.cancelled() => return,
                spare = spare => spare,
            };
            let error = match spare {
                Ok(transport) => {
                    backoff.reset();
                    pool.put(transport);
                    if std::mem::take(&mut is_failing) {
                        self.shared.tell(News::LoggedIn);
                    }
                    continue;
                }
                Err(error) if error.needs_person() => {
                    debug!(reason = one_line(&error), "no spare transport");
                    // What somebody answers then may do for spare ones as well.
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = logged_in => continue,
                    }
                }
                Err(error) => error,
            };
            let pace = match error.is_final() {
                true => Pace::Slow,
                false => Pace::Quick,
            };
            let pause = backoff.pause(pace, &mut rand::rng());
            info!(reason = one_line(&error), ?pause, "no spare transport");
            // Of the tunnel others tell.
            if !matches!(error, Error::Tunnel(_)) {
                is_failing = true;
                self.shared.tell(News::Down(error));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.shared.logged_in.notified() => {}
            }
        }
    }
}

impl Shared {
    /// Logs in a new transport, waiting for the tunnel if need be, and trying again as long as that
    /// may help; `last_failure` is what spoke against it last.
    ///
    /// # Errors
    /// What waiting cannot heal, or that nothing listens on the port.
    async fn log_in(
        &self,
        last_failure: &mut Option<Error>,
        attendance: Option<&Attendance>,
    ) -> Result<Transport, Error> {
        let mut closed_since = None;
        let mut pauses = ExponentialBuilder::new()
            .with_min_delay(LOGIN_PAUSE)
            .with_max_delay(LOGIN_PAUSE_MAX)
            .with_jitter()
            .without_max_times()
            .build();
        loop {
            let tunnel = self.tunnel(last_failure).await?;
            let mut absence = self.absence.clone();
            absence.mark_unchanged();
            let error = match self.attempt(&tunnel, attendance.cloned()).await {
                Ok(transport) => {
                    *self.lock_banner() = transport.banner();
                    // One that took somebody says nothing about those that nobody waits for.
                    if !transport.connection.took_person() {
                        self.logged_in.notify_waiters();
                    }
                    return Ok(transport);
                }
                Err(error) => error,
            };
            if error.is_final() {
                return Err(error);
            }
            // What hangs or breaks while the link is away says nothing about sshd.
            if absence.has_changed().is_ok_and(|changed| changed) {
                debug!(reason = one_line(&error), "a login was interrupted");
                closed_since = None;
                continue;
            }
            if matches!(error, Error::NoSshd { .. }) {
                let since = *closed_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= NO_SSHD_PATIENCE {
                    return Err(error);
                }
            }
            debug!(reason = one_line(&error), "trying to log in again");
            *last_failure = Some(error);
            tokio::time::sleep(pauses.next().unwrap_or(LOGIN_PAUSE_MAX)).await;
        }
    }

    async fn attempt(
        &self,
        tunnel: &Tunnel,
        attendance: Option<Attendance>,
    ) -> Result<Transport, Error> {
        // Never closed, so there is a permit in the end.
        let _permit = self.logins.acquire().await;
        let outcome = self.login.run(tunnel, attendance).await;
        // Who has had to answer would have to answer for a spare one too.
        let may_do_alone = match &outcome {
            Ok(Transport { connection, .. }) => {
                !connection.took_person() || connection.took_touch()
            }
            Err(_) => true,
        };
        if may_do_alone {
            self.has_tried.send_replace(true);
        }
        outcome
    }

    /// The tunnel, once it is up and has a link; what goes wrong meanwhile is noted in `last_failure`.
    ///
    /// A failure that is known already does not count: what was missing may be there by now.
    ///
    /// # Errors
    /// What waiting cannot heal.
    async fn tunnel(&self, last_failure: &mut Option<Error>) -> Result<Arc<Tunnel>, Error> {
        let mut state = self.state.clone();
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

    fn tell(&self, news: News) {
        // Nobody needs to listen.
        let _ = self.news.send(news);
    }

    fn lock_banner(&self) -> MutexGuard<'_, Option<String>> {
        self.banner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nobody was let through for the whole of the hold time.
    fn why_not(&self, last_failure: Option<Error>) -> Error {
        match &*self.state.borrow() {
            State::Resuming { outage, .. } => self.away(outage, true),
            State::Silent { outage, .. } => Error::Silent {
                target: self.target.clone(),
                lasted: since(outage),
            },
            State::Redialing(outage) => self.away(outage, false),
            State::Down { error, .. } => error.clone(),
            State::Dialing | State::Up(_) | State::Stopped => {
                last_failure.unwrap_or(Error::HeldTooLong { held: self.hold })
            }
        }
    }

    fn away(&self, outage: &Outage, is_resuming: bool) -> Error {
        Error::Away {
            target: self.target.clone(),
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
