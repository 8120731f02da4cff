//! `ssmshim connect`: one connection to the target's port, through a running daemon or an SSM session of its own.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::broadcast;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::control::carry::{self, Sink, Source, carry};
use super::control::client::{self, Way};
use super::control::herald::{Happening, Herald};
use super::control::message::{Demand, Identity};
use super::control::{due, now};
use super::fleet::account;
use super::journal::keep_swept;
use super::terminal::Terminal;
use super::wanted::Inquirer;
use crate::aws::{self, Aws};
use crate::config::Serve;
use crate::report::one_line;
use crate::ssm::Ssm;
use crate::target::{self, Wanted};
use crate::tunnel::{self, Tunnel};
use crate::upstream::{News, RawStream};

/// First and longest pause between attempts to find the target, and to reach it.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How much longer than `--hold` is waited all in all: a daemon that holds us back for as long began a little later,
/// and is about to say why.
const REASON_PATIENCE: Duration = Duration::from_millis(500);

/// How often it is looked whether a person is being asked.
const PATIENCE_STEP: Duration = Duration::from_millis(100);

/// How long somebody who is to be told why there is no connection waits for what was started to be ended.
const TIDYING: Duration = Duration::from_secs(1);

/// There is no connection, or no more.
#[derive(Debug, Error)]
pub enum Error {
    /// The AWS configuration.
    #[error(transparent)]
    Api(#[from] aws::Error),
    /// There is no such target, or none that can be reached.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// It cannot be reached.
    #[error(transparent)]
    Tunnel(#[from] tunnel::Error),
    /// It did not answer, and nobody said why not.
    #[error("no connection to {target} within {} s", held.as_secs())]
    HeldTooLong {
        /// The machine.
        target: String,
        /// How long it was waited for.
        held: Duration,
    },
    /// The connection was refused, or ended before its time.
    #[error(transparent)]
    Ended(#[from] carry::Error),
    /// The running daemon could not open one, or ended it before its time.
    #[error(transparent)]
    Daemon(#[from] client::Error),
}

impl Error {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Api(error) => error.hint().map(str::to_owned),
            Self::Target(error) => error.hint(),
            Self::Tunnel(error) => error.hint(),
            Self::HeldTooLong { target, .. } => Some(format!(
                "`ssmshim doctor {target}` looks for what is in the way; --hold SECONDS waits longer"
            )),
            Self::Ended(error) => error.hint(),
            Self::Daemon(error) => error.hint(),
        }
    }
}

/// The two ends of whoever wants the connection, and how to reach the person behind them.
pub struct Local<R, W, T> {
    /// Bytes for the target.
    pub from: R,
    /// Where its bytes go. Each write is flushed.
    pub to: W,
    /// Is told of what a person, or what stands in for one, needs to know.
    pub tell: T,
}

/// Something to know of a connection that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// It is open.
    Opened,
    /// It stands still, or moves again after that was told.
    Pause(&'a str),
}

/// Connects to the target's port and carries bytes until either side ends the connection, or until `stop`, which also
/// has to come when nobody takes the bytes any more.
///
/// No SSM session is left behind, but for one whose end the service does not confirm in time: that is written down, and
/// the next start ends it.
///
/// A daemon that runs already is asked first, by the name of the target as it was given, then by its id: it
/// has an SSM session, and a stream in that costs one round trip.
///
/// # Errors
/// Why there is no connection, or why it ended before its time.
pub async fn connect<R, W, T>(
    config: &Serve,
    local: Local<R, W, T>,
    stop: &CancellationToken,
) -> Result<(), Error>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
    T: Fn(Said<'_>),
{
    let attempt = Attempt {
        config,
        tasks: TaskTracker::new(),
        over: CancellationToken::new(),
        news: broadcast::Sender::new(1),
    };
    let found = tokio::select! {
        () = stop.cancelled() => Ok(None),
        found = attempt.find() => found.map(Some),
    };
    let (connected, patience) = match found {
        Ok(Some(found)) => (carry_through(found, local, stop).await, Duration::MAX),
        Ok(None) => (Ok(()), Duration::MAX),
        Err(error) => (Err(error), TIDYING),
    };
    attempt.tidy(patience).await;
    connected
}

/// Carries bytes through what was `found`.
async fn carry_through(
    found: Found,
    local: Local<impl AsyncRead + Send + Unpin, impl AsyncWrite + Send + Unpin, impl Fn(Said<'_>)>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let Local { from, to, tell } = local;
    let (from, to) = (Input(from), Output(to));
    tell(Said::Opened);
    match found {
        Found::Daemon(way) => {
            let tell = |text: &str| tell(Said::Pause(text));
            Ok(way.carry(from, to, tell, stop.cancelled()).await?)
        }
        Found::Tunnel(tunnel, stream) => {
            let carried = tokio::select! {
                carried = carry(stream, from, to, stop.cancelled()) => carried,
                never = tell_pauses(&tunnel, &tell) => match never {},
            };
            tunnel.terminate().await;
            Ok(carried?)
        }
    }
}

/// One connection, and what has to be tidied up after it.
struct Attempt<'a> {
    config: &'a Serve,
    tasks: TaskTracker,
    over: CancellationToken,
    /// That there is a tunnel, for the sweep.
    news: broadcast::Sender<News>,
}

/// A way to the target.
enum Found {
    /// Of a daemon, with a stream in it.
    Daemon(Way),
    /// Of our own.
    Tunnel(Arc<Tunnel>, RawStream),
}

impl Attempt<'_> {
    /// Waits until what was started is ended by its own task, but no longer than `patience`.
    async fn tidy(&self, patience: Duration) {
        self.over.cancel();
        self.tasks.close();
        // What takes longer is written down.
        let _ = timeout(patience, self.tasks.wait()).await;
    }

    /// A way to the target, looked for as long as `--hold` says.
    async fn find(&self) -> Result<Found, Error> {
        let Serve {
            target,
            profile,
            region,
            hold,
            ..
        } = self.config;
        let too_long = || Error::HeldTooLong {
            target: target.clone(),
            held: *hold,
        };
        let (begun, held) = (Instant::now(), hold.saturating_add(REASON_PATIENCE));
        let aws = super::aws_of(profile.as_deref(), region.as_deref(), Terminal::behind());
        let aws = timeout(held, aws).await.map_err(|_| too_long())??;
        let left = held.saturating_sub(begun.elapsed());
        let mut last_failure = None;
        tokio::select! {
            found = self.seek(&aws, &mut last_failure) => found,
            () = patience(left, aws.ssm()) => Err(last_failure.unwrap_or_else(too_long)),
        }
    }

    /// Looks for a way until there is one, or is known to be none; `last_failure` is what spoke against it last.
    async fn seek(&self, aws: &Aws, last_failure: &mut Option<Error>) -> Result<Found, Error> {
        let config = self.config;
        let mut demand = Demand {
            target: config.target.trim().to_owned(),
            port: config.ssh_port,
            place: account::place(config, aws.ssm()),
            identity: Identity::of_environment(),
        };
        if let Some(way) = shared(&demand).await? {
            return Ok(Found::Daemon(way));
        }
        // An id is tried unseen, which saves a call.
        let find = || Wanted::find(aws, &demand.target);
        let wanted = persist(find, target::Error::is_passing, last_failure).await?;
        if wanted.id() != demand.target {
            wanted.id().clone_into(&mut demand.target);
            if let Some(way) = shared(&demand).await? {
                return Ok(Found::Daemon(way));
            }
        }
        let options = self.options(aws, demand, wanted);
        let may_pass = |error: &tunnel::Error| !error.is_final();
        let (tunnel, stream) = persist(|| dial(&options), may_pass, last_failure).await?;
        // Where nobody is left to sweep for, nobody listens.
        let _ = self.news.send(News::Up { gap: None });
        Ok(Found::Tunnel(tunnel, stream))
    }

    /// How to start an SSM session of our own. From now on it is written down, and what others have left is ended when
    /// there is a tunnel.
    fn options(&self, aws: &Aws, demand: Demand, wanted: Wanted) -> tunnel::Options {
        let ssm = match &self.config.ssmmessages_endpoint {
            Some(endpoint) => aws.ssm().clone().with_message_endpoint(endpoint.clone()),
            None => aws.ssm().clone(),
        };
        let journal = account::journal(demand.place);
        if let Some(journal) = &journal {
            let (journal, aws) = (Arc::downgrade(journal), aws.clone());
            let (news, over) = (self.news.subscribe(), self.over.clone());
            self.tasks.spawn(keep_swept(journal, aws, news, over));
        }
        tunnel::Options {
            ssm,
            target: demand.target,
            port: demand.port,
            journal: journal.map(|journal| journal as _),
            witness: Some(Arc::new(Inquirer(Arc::new(wanted)))),
            told: None,
            tracker: self.tasks.clone(),
        }
    }
}

/// Waits until `left` is over. The time for which `ssm` has a person asked does not count.
async fn patience(mut left: Duration, ssm: &Ssm) {
    while !left.is_zero() {
        let step = left.min(PATIENCE_STEP);
        sleep(step).await;
        if !ssm.is_asking() {
            left -= step;
        }
    }
}

/// A way that a running daemon has to what is wanted, with an open stream in it.
///
/// # Errors
/// The daemon has such a way and cannot use it for now. Where that is so for good, there is none.
async fn shared(demand: &Demand) -> Result<Option<Way>, Error> {
    let Some(mut way) = client::ask(demand).await else {
        return Ok(None);
    };
    match way.opened().await {
        Ok(()) => Ok(Some(way)),
        Err(refusal) if refusal.is_final => {
            info!(
                reason = one_line(&refusal.error),
                "the running daemon has no use of its way to the target"
            );
            Ok(None)
        }
        Err(refusal) => Err(refusal.error.into()),
    }
}

/// Tries until it succeeds or is known to be in vain; `last_failure` is what spoke against it last.
async fn persist<T, E, F>(
    attempt: impl Fn() -> F,
    may_pass: impl Fn(&E) -> bool,
    last_failure: &mut Option<Error>,
) -> Result<T, Error>
where
    E: Into<Error> + std::error::Error,
    F: Future<Output = Result<T, E>>,
{
    let mut pauses = ExponentialBuilder::new()
        .with_min_delay(PAUSE)
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        match attempt().await {
            Err(error) if may_pass(&error) => {
                debug!(reason = one_line(&error), "trying again");
                *last_failure = Some(error.into());
                sleep(pauses.next().unwrap_or(PAUSE_MAX)).await;
            }
            result => return result.map_err(Into::into),
        }
    }
}

/// A tunnel with a stream in it.
async fn dial(options: &tunnel::Options) -> Result<(Arc<Tunnel>, RawStream), tunnel::Error> {
    let tunnel = Arc::new(Tunnel::dial(options).await?);
    let stream = RawStream::open(Arc::clone(&tunnel)).await?;
    Ok((tunnel, stream))
}

/// Tells of the pauses of `tunnel` that last.
async fn tell_pauses(tunnel: &Tunnel, tell: &impl Fn(Said<'_>)) -> Infallible {
    let mut herald = Herald::default();
    loop {
        let told = tokio::select! {
            event = tunnel.next_event() => match event {
                // The stream ends with it, and that will be told.
                tunnel::Event::Over { .. } => pending().await,
                event => Happening::of_tunnel(event)
                    .and_then(|happened| herald.handle(now(), happened)),
            },
            () = due(herald.poll_timeout()) => herald.handle_timeout(now()),
        };
        if let Some(text) = told {
            tell(Said::Pause(&text));
        }
    }
}

/// A byte stream whose other end says by `stop` that it has gone.
struct Input<R>(R);

impl<R: AsyncRead + Send + Unpin> Source for Input<R> {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).await
    }

    async fn gone(&mut self) {
        pending().await
    }
}

struct Output<W>(W);

impl<W: AsyncWrite + Send + Unpin> Sink for Output<W> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }
}
