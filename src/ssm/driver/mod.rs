//! The task behind an SSM session: owns the data channel and its socket, and replaces the socket.

mod backoff;
pub(super) mod clocks;
mod dialer;
mod ending;
pub(super) mod keepalive;
mod pump;
mod rate;
mod resume;
pub(super) mod silence;
mod verdict;

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::backoff::Backoff;
use self::clocks::{Clocks, Wakeups};
use self::dialer::Dialer;
use self::pump::{Connection, Goal, Stop};
use self::rate::DeliveryRate;
use self::resume::Gap;
use self::silence::{Patience, Silence};
use super::api::{self, Ssm, Ticket};
use super::error::{Disposition, Error, describe};
use super::protocol::data_channel::{Config, DataChannel, Established, Origin};
use super::session::{Journal, Options, SessionEvent, StartRequest, Status};
use super::stream::DriverEnd;

/// StartSession is called so often in a row when it is throttled, before that is an error.
const THROTTLED_STARTS: u32 = 3;

/// Where the outside world is told what happens.
#[derive(Debug)]
pub(super) struct Reports {
    pub(super) events: mpsc::Sender<SessionEvent>,
    pub(super) status: watch::Sender<Status>,
}

impl Reports {
    /// Tells an event; an owner that does not listen misses it.
    fn tell(&self, event: SessionEvent) {
        if self.events.try_send(event).is_err() {
            tracing::trace!("nobody listens to session events");
        }
    }
}

/// What tests replace.
pub(super) struct Surroundings {
    /// Makes the clocks of a session, in its task.
    pub(super) clocks: Box<dyn Fn() -> Box<dyn Clocks> + Send + Sync>,
    /// Between sockets that do not last, see [`Backoff`].
    pub(super) spacing: Duration,
    /// The longest wait of the back-off.
    pub(super) longest: Duration,
    /// Between attempts that wait for a person.
    pub(super) slowly: Duration,
    /// With an agent that says nothing.
    pub(super) patience: Patience,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            clocks: Box::new(clocks::system),
            spacing: backoff::SPACING,
            longest: backoff::LONGEST,
            slowly: verdict::SLOWLY,
            patience: Patience::default(),
        }
    }
}

/// One SSM session, over all its sockets.
#[derive(Debug)]
pub(super) struct Driver {
    dialer: Dialer,
    cancel: CancellationToken,
    channel: DataChannel,
    stream: DriverEnd,
    reports: Reports,
    established: Option<Established>,
    status_at: Option<Instant>,
    /// Invalid messages since there was progress in order, over all sockets.
    invalid: u32,
    /// The channel's count of messages in order at the last invalid one.
    progress: u64,
    backoff: Backoff,
    /// Set while no socket is known to work.
    gap: Option<Gap>,
    slowly: Duration,
    wakeups: Wakeups,
    rate: DeliveryRate,
    silence: Silence,
}

/// Starts SSM sessions until one completes its handshake, at most as often as `options` say.
///
/// # Errors
/// The last error; the sessions that failed have been terminated.
pub(super) async fn establish(
    ssm: &Ssm,
    request: &StartRequest,
    options: &Options,
    surroundings: &Surroundings,
    cancel: &CancellationToken,
    mut stream: DriverEnd,
    mut reports: Reports,
) -> Result<(Driver, Connection), Error> {
    let mark = options
        .journal
        .as_ref()
        .and_then(|journal| journal.reason());
    let reason = request.reason.as_deref().or(mark.as_deref());
    let mut attempt = 1;
    loop {
        let journal = options.journal.as_deref();
        let ticket = start(ssm, request, reason, journal, cancel).await?;
        tracing::debug!(
            session_id = ticket.session_id,
            attempt,
            "ssm session started"
        );
        let mut driver = Driver {
            channel: new_channel(options, ticket.is_local()),
            dialer: Dialer::new(ssm.clone(), options.clone(), ticket),
            cancel: cancel.clone(),
            stream,
            reports,
            established: None,
            status_at: None,
            invalid: 0,
            progress: 0,
            backoff: Backoff::new(surroundings.spacing, surroundings.longest),
            gap: None,
            slowly: surroundings.slowly,
            wakeups: Wakeups::new((surroundings.clocks)()),
            rate: DeliveryRate::new(now()),
            silence: Silence::new(surroundings.patience),
        };
        let (error, connection) = match driver.handshake(attempt).await {
            Ok(connection) => return Ok((driver, connection)),
            Err(failed) => failed,
        };
        driver.terminate(connection).await;
        if !may_retry(&error) || attempt >= options.handshake_attempts || cancel.is_cancelled() {
            return Err(error);
        }
        let reason = describe(&error);
        let target = &request.target;
        match error {
            Error::WebSocket(_) => tracing::warn!(
                target,
                attempt,
                reason,
                "no way to the message gateway: ended the SSM session, trying another"
            ),
            _ => tracing::warn!(
                target,
                attempt,
                reason,
                "an SSM session did not get through to the agent: ended it, trying another"
            ),
        }
        attempt += 1;
        (stream, reports) = (driver.stream, driver.reports);
    }
}

/// Starts an SSM session, and again when the service has too much to do, after the time that it asks for. The `journal`
/// knows of each that may have been started.
///
/// # Errors
/// [`api::Error`], or [`Error::Terminated`] when it is not wanted any more.
async fn start(
    ssm: &Ssm,
    request: &StartRequest,
    reason: Option<&str>,
    journal: Option<&dyn Journal>,
    cancel: &CancellationToken,
) -> Result<Ticket, Error> {
    let mut attempt = 1;
    loop {
        let turn = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Terminated),
            turn = ssm.turn(&request.target) => turn,
        };
        let mut turn = turn?;
        if let Some(journal) = journal {
            journal.starting();
        }
        // Never cancelled half-way: a session whose id we do not learn could not be terminated.
        let answer = ssm
            .start_session_in(
                &mut turn,
                &request.target,
                request.document.as_deref(),
                &request.parameters,
                reason,
            )
            .await;
        if let Some(journal) = journal {
            match &answer {
                Ok(ticket) => journal.started(&ticket.session_id),
                Err(error) if error.is_unanswered() => {}
                Err(_) => journal.not_started(),
            }
        }
        let Err(error @ api::Error::Throttled { .. }) = answer else {
            return Ok(answer?);
        };
        // For all who wait for a turn: they would be told the same.
        let wait = verdict::throttled_start(error.retry_after(), attempt, &mut rand::rng());
        turn.put_off(wait);
        if attempt == THROTTLED_STARTS {
            return Err(error.into());
        }
        tracing::warn!(
            target = request.target,
            ?wait,
            "StartSession was throttled, waiting"
        );
        attempt += 1;
    }
}

fn new_channel(options: &Options, is_local: bool) -> DataChannel {
    let config = Config {
        outgoing: options.outgoing,
        incoming: options.incoming,
        pace: options.pace.filter(|_| !is_local),
        ..Config::client(options.client_version.clone())
    };
    DataChannel::new(config, Origin::system(), now())
}

/// Whether a new SSM session may fare better: the agent was not ready, or the network hiccupped.
fn may_retry(error: &Error) -> bool {
    match error {
        Error::HandshakeTimeout { .. } | Error::LostInHandshake(_) => true,
        Error::WebSocket(error) => error.disposition() == Disposition::Resume,
        _ => false,
    }
}

/// The clock of the runtime, which tests may hold.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Driver {
    /// Names the SSM session.
    pub(super) fn session_id(&self) -> &str {
        &self.dialer.ticket.session_id
    }

    /// What the handshake has brought.
    pub(super) fn established(&self) -> Option<&Established> {
        self.established.as_ref()
    }

    /// Keeps the session going until it ends, and says why it did.
    pub(super) async fn run(mut self, mut connection: Connection) -> Error {
        loop {
            match self.serve(&mut connection, Goal::Forever, None).await {
                Stop::Lost(reason) => {
                    let gap = self.on_lost(&connection, reason);
                    drop(connection);
                    match self.resume(gap).await {
                        Ok(resumed) => connection = resumed,
                        Err(error) if error.is_end_of_session() => return self.end(error),
                        Err(error) => {
                            self.terminate(None).await;
                            return self.end(error);
                        }
                    }
                }
                Stop::Closed(text) => return self.end(Error::Closed(text)),
                Stop::Silent { lasted } => {
                    // Nobody is there to take last words.
                    drop(connection);
                    self.terminate(None).await;
                    return self.end(Error::Silent { lasted });
                }
                Stop::HandshakeFailed(error) => {
                    self.terminate(Some(connection)).await;
                    return self.end(error.into());
                }
                Stop::Damaged { count, last } => {
                    self.terminate(Some(connection)).await;
                    return self.end(Error::Damaged { count, last });
                }
                Stop::Cancelled | Stop::Reached | Stop::Deadline => {
                    self.terminate(Some(connection)).await;
                    return Error::Terminated;
                }
            }
        }
    }

    /// Opens the first socket and waits for the end of the handshake, in the `attempt`-th SSM session, from 1.
    async fn handshake(&mut self, attempt: u32) -> Result<Connection, (Error, Option<Connection>)> {
        let cancel = self.cancel.clone();
        let opened = tokio::select! {
            () = cancel.cancelled() => Err(Error::Terminated),
            opened = self.dialer.open() => opened,
        };
        let mut connection = opened.map_err(|error| (error, None))?;
        let deadline = now() + self.dialer.options.handshake_deadline;
        let stop = self
            .serve(&mut connection, Goal::Established, Some(deadline))
            .await;
        let error = match stop {
            Stop::Reached => return Ok(connection),
            Stop::Deadline => Error::HandshakeTimeout {
                attempts: attempt,
                deadline: self.dialer.options.handshake_deadline,
            },
            Stop::Cancelled => Error::Terminated,
            Stop::Lost(reason) => Error::LostInHandshake(reason),
            Stop::Closed(text) => Error::Closed(text),
            Stop::Silent { lasted } => Error::Silent { lasted },
            Stop::HandshakeFailed(error) => Error::Handshake(error),
            Stop::Damaged { count, last } => Error::Damaged { count, last },
        };
        Err((error, Some(connection)))
    }
}

#[cfg(test)]
mod tests;
