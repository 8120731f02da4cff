//! The target: authenticated SSH transports over one tunnel, ready before they are needed.
//!
//! A [`Link`] keeps a tunnel up as well as it can (`lifecycle` decides, `driver` does). An [`Upstream`] stands on one and
//! logs transports in through it (`login`), one way and as one user, and keeps a few spare (`pool`). Several of them
//! share a link: `alice` and `bob` on the same machine have one SSM session. A [`Visit`] is an upstream in use.

mod backoff;
mod driver;
mod error;
mod lifecycle;
mod link;
mod login;
mod pool;
mod raw;
mod refusals;
mod state;
mod transport;
mod users;
mod visit;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::backoff::{Backoff, Pace};
pub use self::error::Error;
pub use self::link::Link;
pub use self::login::Login;
use self::pool::Pool;
pub use self::raw::{Origin, RawStream};
pub use self::state::{Absence, News, Outage, State};
pub use self::transport::Transport;
pub use self::users::Users;
pub use self::visit::Visit;
use self::visit::Visitors;
use crate::report::one_line;
use crate::ssh::Attendance;
use crate::tunnel::Tunnel;

/// A handle to one way of logging in at a target; clones share it.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    login: Login,
    hold: Duration,
    pool: Pool,
    /// Told when a login has succeeded: time to try one for a spare again.
    logged_in: Notify,
    /// How the last login has ended of which spare ones can learn.
    tried: watch::Sender<Option<Result<(), Error>>>,
    /// What sshd said before the last login, for those who log in here.
    banner: Mutex<Option<String>>,
    visitors: Visitors,
    /// Whether it has ever been of use: a login has succeeded, or a raw stream was opened.
    has_served: AtomicBool,
    /// Ends with the link, or before.
    stop: CancellationToken,
}

/// First and longest pause between attempts to log in that may yet succeed: a busy or restarting sshd.
const LOGIN_PAUSE: Duration = Duration::from_millis(100);
const LOGIN_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How long one is kept at which nobody has ever been let in: until a passphrase or a user is typed again.
const FAILURE_KEPT: Duration = Duration::from_secs(10);

/// As long as a restart of sshd takes: so long a port that nothing listens on is tried, and logins that nobody waits
/// for may fail before that is told.
const RESTART_PATIENCE: Duration = Duration::from_secs(2);

impl Upstream {
    /// Begins to log in through `link`; returns at once. [`Upstream::lease`] waits for a transport for `hold`.
    pub fn start(link: Link, login: Login, hold: Duration) -> Self {
        let stop = link.stop().child_token();
        let shared = Arc::new(Shared {
            pool: Pool::new(link.tasks().clone(), stop.clone()),
            link,
            login,
            hold,
            logged_in: Notify::new(),
            tried: watch::Sender::new(None),
            banner: Mutex::default(),
            visitors: Visitors::none(),
            has_served: AtomicBool::new(false),
            stop,
        });
        let upstream = Self { shared };
        let keeper = upstream.clone().keep_spares();
        upstream.shared.link.tasks().spawn(keeper);
        upstream
    }

    /// The way to the target, which others may share.
    pub fn link(&self) -> &Link {
        &self.shared.link
    }

    /// What the tunnel is doing now, and each change of it.
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.link.state()
    }

    /// What happens from now on, as [`Link::news`].
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.shared.link.news()
    }

    /// Since when no stream can make progress, as [`Link::absence`].
    pub fn absence(&self) -> watch::Receiver<Option<Absence>> {
        self.shared.link.absence()
    }

    /// Whether both handles lead to the same transports.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Notes that somebody uses it, until that is dropped.
    pub fn visit(&self) -> Visit {
        Visit::to(self.clone())
    }

    /// Whether nobody uses it.
    pub fn is_idle(&self) -> bool {
        self.shared.visitors.are_gone()
    }

    /// Since when nobody uses it; none while somebody does.
    pub fn idle_since(&self) -> Option<Instant> {
        self.shared.visitors.gone_since()
    }

    /// Waits until it is closed, or its link ends.
    pub async fn closed(&self) {
        self.shared.stop.cancelled().await;
    }

    /// Waits until nobody has used it for the whole of `span`. Where it was never of use, there is little to keep: who
    /// tries again does so soon.
    pub async fn idle_for(&self, span: Duration) {
        let patience = || match self.shared.has_served() {
            true => span,
            false => span.min(FAILURE_KEPT),
        };
        self.shared.visitors.gone_for(patience).await;
    }

    /// How long a client's wish is kept while nothing can be heard of the target.
    pub fn hold(&self) -> Duration {
        self.shared.hold
    }

    /// Why nobody is let through now, for one whose patience is at its end.
    pub fn why_not(&self) -> Error {
        self.shared.link.why_not(self.shared.hold, None)
    }

    /// Between us and the agent, as [`Link::round_trip`].
    pub fn round_trip(&self) -> Option<Duration> {
        self.shared.link.round_trip()
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
    /// [`Upstream::hold`] otherwise.
    pub async fn lease(&self) -> Result<Transport, Error> {
        let Shared { pool, .. } = &*self.shared;
        self.held(async |last_failure, attendance| {
            self.shared.link.tunnel(last_failure).await?;
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
    async fn held<T>(
        &self,
        seek: impl AsyncFnOnce(&mut Option<Error>, Option<&Attendance>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.shared.link.want();
        let mut last_failure = None;
        let attendance = Attendance::default();
        let seek = seek(&mut last_failure, Some(&attendance));
        match tokio::time::timeout(self.shared.hold, seek).await {
            Ok(leased) => leased,
            Err(_) if attendance.is_asking() => Err(Error::Unanswered),
            Err(_) => Err(self.shared.link.why_not(self.shared.hold, last_failure)),
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

    /// Closes all spare transports; the link goes on, for others. Those that are in use stay until their users leave.
    pub fn close(&self) {
        self.shared.stop.cancel();
    }

    /// Keeps transports spare while the tunnel is up, and tells when that is not possible.
    async fn keep_spares(self) {
        let Shared { pool, stop, .. } = &*self.shared;
        // The first login finds out what fits, and whoever waits for it does not share the way there with another.
        let mut tried = self.shared.tried.subscribe();
        // Who was refused is about to leave, which may be the end of this; but a refusal is to be told.
        let first = tokio::select! {
            biased;
            first = tried.wait_for(Option::is_some) => first.ok().and_then(|first| first.clone()),
            () = stop.cancelled() => return,
        };
        let mut refusal = first.and_then(Result::err).filter(Error::befalls_all);
        let mut backoff = Backoff::default();
        let mut trouble = Trouble::new(&self.shared.link);
        let mut failing_since = None;
        let mut died_young = 0;
        loop {
            // From now on: somebody may answer while nobody is asked here.
            let mut logged_in = pin!(self.shared.logged_in.notified());
            logged_in.as_mut().enable();
            let spare = async {
                // A login just like it was refused just now: once more is no use, and sshd counts.
                if let Some(refusal) = refusal.take() {
                    return Err(refusal);
                }
                pool.is_short_of(self.shared.ready()).await;
                self.shared.log_in(&mut None, None).await
            };
            let spare = tokio::select! {
                biased;
                spare = spare => spare,
                () = stop.cancelled() => return,
            };
            let error = match spare {
                Ok(transport) => {
                    failing_since = None;
                    pool.put(transport);
                    trouble.is_over();
                    let earlier = std::mem::replace(&mut died_young, pool.died_young());
                    if died_young == earlier {
                        backoff.reset();
                        continue;
                    }
                    // This one will hardly last either, and sshd is not to be worn out.
                    let pause = backoff.pause(Pace::Quick, &mut rand::rng());
                    info!(?pause, "spare transports end as soon as they are there");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => continue,
                    }
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
            let since = *failing_since.get_or_insert_with(Instant::now);
            let is_to_be_told = match error {
                // Of the tunnel others tell.
                Error::Tunnel(_) => false,
                Error::Login { .. } => error.is_final() || since.elapsed() >= RESTART_PATIENCE,
                _ => true,
            };
            if is_to_be_told {
                trouble.tell(error, self.shared.has_served());
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
    /// What waiting cannot heal, or that nothing listens on the port; without `attendance`, whatever sshd has against it.
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
            let tunnel = self.link.tunnel(last_failure).await?;
            let mut absence = self.link.absence();
            absence.mark_unchanged();
            let error = match self.attempt(&tunnel, attendance.cloned()).await {
                Ok(transport) => {
                    self.serves();
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
                if since.elapsed() >= RESTART_PATIENCE {
                    return Err(error);
                }
            }
            // A client has little patience. Without one there is all the time, and sshd is not to be worn out.
            if attendance.is_none() && matches!(error, Error::Login { .. }) {
                return Err(error);
            }
            debug!(reason = one_line(&error), "trying to log in again");
            *last_failure = Some(error);
            tokio::time::sleep(pauses.next().unwrap_or(LOGIN_PAUSE_MAX)).await;
        }
    }

    /// How many transports are to be kept ready.
    fn ready(&self) -> usize {
        match self.link.is_multiplexed() {
            Some(false) => pool::READY_SINGLE,
            _ => pool::READY,
        }
    }

    async fn attempt(
        &self,
        tunnel: &Tunnel,
        attendance: Option<Attendance>,
    ) -> Result<Transport, Error> {
        let _permit = self.link.login_permit().await;
        let outcome = self.login.run(tunnel, attendance).await;
        let lesson = match &outcome {
            // Who has had to answer would have to answer for a spare one too.
            Ok(Transport { connection, .. })
                if connection.took_person() && !connection.took_touch() =>
            {
                None
            }
            Ok(_) => Some(Ok(())),
            Err(error) => Some(Err(error.clone())),
        };
        if lesson.is_some() {
            self.tried.send_replace(lesson);
        }
        outcome
    }

    /// Notes that it is of use.
    fn serves(&self) {
        self.has_served.store(true, Ordering::Relaxed);
        self.link.serves();
    }

    fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    fn lock_banner(&self) -> MutexGuard<'_, Option<String>> {
        self.banner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one login tells of a link that others may share. What it has told is taken back when it ends.
struct Trouble<'a> {
    link: &'a Link,
    /// The target is said to be down.
    is_told: bool,
}

impl<'a> Trouble<'a> {
    fn new(link: &'a Link) -> Self {
        Self {
            link,
            is_told: false,
        }
    }

    /// Tells of `error`, which is the target's unless others are let in and this login never was.
    fn tell(&mut self, error: Error, has_served: bool) {
        if self.link.has_served() && !has_served {
            self.is_over();
            self.link.tell(News::LoginRefused(error));
        } else {
            self.is_told = true;
            self.link.tell(News::Down(error));
        }
    }

    /// Logging in works, or nobody tries any more.
    fn is_over(&mut self) {
        if std::mem::take(&mut self.is_told) {
            self.link.tell(News::LoggedIn);
        }
    }
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        // Others still come and go; where the link itself is down or ends, its own news say so.
        let is_up = matches!(*self.link.state().borrow(), State::Up(_));
        if is_up && self.link.has_served() && !self.link.stop().is_cancelled() {
            self.is_over();
        }
    }
}
