//! The target: authenticated SSH transports over one tunnel, ready before they are needed.
//!
//! [`Upstream`] keeps a tunnel up as well as it can (`lifecycle`), logs transports in through it
//! (`login`), and keeps a few spare (`pool`).

mod error;
mod lifecycle;
mod login;
mod pool;
mod transport;
mod users;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

pub use self::error::Error;
pub use self::lifecycle::State;
pub use self::login::Login;
use self::pool::Pool;
pub use self::transport::Transport;
pub use self::users::Users;
use crate::report::one_line;
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
    state: watch::Receiver<State>,
    /// Told when somebody wants a transport and there is no tunnel: time to try again.
    wanted: Arc<Notify>,
    pool: Pool,
    /// Permits to be logging in.
    logins: Semaphore,
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

/// How long a port that nothing listens on is tried: as long as a restart of sshd takes.
const NO_SSHD_PATIENCE: Duration = Duration::from_secs(2);

/// First and longest pause between attempts to log in a spare transport when that fails.
const SPARE_PAUSE: Duration = Duration::from_secs(5);
const SPARE_PAUSE_MAX: Duration = Duration::from_secs(300);

impl Upstream {
    /// Begins to dial; returns at once.
    pub fn start(options: Options) -> Self {
        let stop = CancellationToken::new();
        let tasks = options.tunnel.tracker.clone();
        let wanted = Arc::new(Notify::new());
        let (publish, state) = watch::channel(State::Dialing);
        tasks.spawn(lifecycle::run(
            options.tunnel,
            publish,
            Arc::clone(&wanted),
            stop.clone(),
        ));
        let shared = Arc::new(Shared {
            login: options.login,
            hold: options.hold,
            state,
            wanted,
            pool: Pool::new(tasks.clone(), stop.clone()),
            logins: Semaphore::new(LOGINS),
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

    /// Waits until a transport is authenticated and spare: `ssh` would work now.
    ///
    /// # Errors
    /// As [`Upstream::lease`]; this can be called again.
    pub async fn ready(&self) -> Result<(), Error> {
        let transport = self.lease().await?;
        self.give_back(transport);
        Ok(())
    }

    /// A transport for one local connection: a spare one, or a new one.
    ///
    /// # Errors
    /// Why there is none: at once when waiting cannot heal it ([`Error::is_final`]), after
    /// [`Options::hold`] otherwise.
    pub async fn lease(&self) -> Result<Transport, Error> {
        match self.shared.pool.take().await {
            Some(transport) => Ok(transport),
            None => self.lease_new().await,
        }
    }

    /// A transport that logs in now, whatever is spare.
    ///
    /// # Errors
    /// As [`Upstream::lease`].
    pub async fn lease_new(&self) -> Result<Transport, Error> {
        self.shared.wanted.notify_one();
        let mut last_failure = None;
        let login = self.shared.log_in(&mut last_failure);
        match tokio::time::timeout(self.shared.hold, login).await {
            Ok(leased) => leased,
            Err(_) => Err(last_failure.unwrap_or_else(|| self.shared.why_not())),
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

    /// Keeps transports spare while the tunnel is up.
    async fn keep_spares(self) {
        let Shared { pool, stop, .. } = &*self.shared;
        let mut pause = SPARE_PAUSE;
        loop {
            let spare = async {
                pool.is_short().await;
                self.shared.log_in(&mut None).await
            };
            let spare = tokio::select! {
                () = stop.cancelled() => return,
                spare = spare => spare,
            };
            match spare {
                Ok(transport) => {
                    pause = SPARE_PAUSE;
                    pool.put(transport);
                }
                Err(error) => {
                    info!(reason = one_line(&error), ?pause, "no spare transport");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (2 * pause).min(SPARE_PAUSE_MAX);
                }
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
    async fn log_in(&self, last_failure: &mut Option<Error>) -> Result<Transport, Error> {
        let began = Instant::now();
        let mut pauses = ExponentialBuilder::new()
            .with_min_delay(LOGIN_PAUSE)
            .with_max_delay(LOGIN_PAUSE_MAX)
            .with_jitter()
            .without_max_times()
            .build();
        loop {
            let error = match self.attempt().await {
                Ok(transport) => {
                    *self.lock_banner() = transport.banner();
                    return Ok(transport);
                }
                Err(error) => error,
            };
            let is_closed = matches!(error, Error::NoSshd { .. });
            if error.is_final() || (is_closed && began.elapsed() >= NO_SSHD_PATIENCE) {
                return Err(error);
            }
            debug!(reason = one_line(&error), "trying to log in again");
            *last_failure = Some(error);
            tokio::time::sleep(pauses.next().unwrap_or(LOGIN_PAUSE_MAX)).await;
        }
    }

    async fn attempt(&self) -> Result<Transport, Error> {
        let tunnel = self.tunnel().await?;
        // Never closed, so there is a permit in the end.
        let _permit = self.logins.acquire().await;
        self.login.run(&tunnel).await
    }

    /// The tunnel, once it is up.
    ///
    /// A failure that is known already does not count: what was missing may be there by now.
    async fn tunnel(&self) -> Result<Arc<Tunnel>, Error> {
        let mut state = self.state.clone();
        let mut is_news = false;
        loop {
            let seen = state.borrow_and_update().clone();
            match seen {
                State::Up(tunnel) => return Ok(tunnel),
                State::Down(error) if is_news && error.is_final() => return Err(error),
                State::Stopped => return Err(Error::Stopped),
                State::Down(_) | State::Dialing => {}
            }
            is_news = true;
            if state.changed().await.is_err() {
                return Err(Error::Stopped);
            }
        }
    }

    fn lock_banner(&self) -> MutexGuard<'_, Option<String>> {
        self.banner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nobody was let through for the whole of the hold time.
    fn why_not(&self) -> Error {
        match &*self.state.borrow() {
            State::Down(error) => error.clone(),
            _ => Error::HeldTooLong { held: self.hold },
        }
    }
}
