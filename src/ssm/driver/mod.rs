//! The task behind an SSM session: owns the data channel and its socket, and replaces the socket.

mod backoff;
pub(super) mod keepalive;
mod pump;

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::backoff::Backoff;
use self::pump::{Connection, Goal, Stop};
use super::api::{self, Ssm, Ticket};
use super::error::{Disposition, Error, describe};
use super::protocol::data_channel::{Config, DataChannel, Established, Origin};
use super::protocol::payload::{Flag, MESSAGE_SCHEMA_VERSION, OpenDataChannelInput, PayloadType};
use super::protocol::version;
use super::session::{Options, SessionEvent, StartRequest, Status};
use super::stream::DriverEnd;
use super::websocket;

/// Last words may take this long before the session is terminated.
const DRAIN: Duration = Duration::from_secs(1);
/// The agent may take this long to acknowledge the TerminateSession flag.
const FLAG_WAIT: Duration = Duration::from_millis(500);
/// Refusals of a socket by 401 or 403 that a resume puts up with. The ticket is fresh, so the cause
/// is rather credentials on their change, or a service that does not know the ticket yet.
const MAX_REFUSALS: u32 = 10;
/// Attempts at TerminateSession, as far as the deadline allows.
const TERMINATE_ATTEMPTS: u32 = 3;

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

/// One SSM session, over all its sockets.
#[derive(Debug)]
pub(super) struct Driver {
    ssm: Ssm,
    options: Options,
    cancel: CancellationToken,
    ticket: Ticket,
    /// ClientId, the same in every opening of this session.
    client_id: Uuid,
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
}

/// Starts SSM sessions until one completes its handshake, at most as often as `options` say.
///
/// # Errors
/// The last error; the sessions that failed have been terminated.
pub(super) async fn establish(
    ssm: &Ssm,
    request: &StartRequest,
    options: &Options,
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
        // Never cancelled half-way: a session whose id we do not learn could not be terminated.
        let ticket = ssm
            .start_session(
                &request.target,
                request.document.as_deref(),
                &request.parameters,
                reason,
            )
            .await?;
        tracing::debug!(
            session_id = ticket.session_id,
            attempt,
            "ssm session started"
        );
        if let Some(journal) = &options.journal {
            journal.started(&ticket.session_id);
        }
        let mut driver = Driver {
            ssm: ssm.clone(),
            options: options.clone(),
            cancel: cancel.clone(),
            client_id: Uuid::new_v4(),
            channel: new_channel(options, ticket.is_local()),
            ticket,
            stream,
            reports,
            established: None,
            status_at: None,
            invalid: 0,
            progress: 0,
            backoff: Backoff::default(),
        };
        let (error, connection) = match driver.handshake().await {
            Ok(connection) => return Ok((driver, connection)),
            Err(failed) => failed,
        };
        driver.terminate(connection).await;
        if !may_retry(&error) || attempt >= options.handshake_attempts || cancel.is_cancelled() {
            return Err(error);
        }
        tracing::debug!(%error, "trying again with a new ssm session");
        attempt += 1;
        (stream, reports) = (driver.stream, driver.reports);
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

/// Whether a failed resume is not worth another, with the `refusals` of the socket counted so far.
fn is_final(error: &Error, refusals: &mut u32) -> bool {
    if let Error::WebSocket(websocket::Error::Refused(401 | 403)) = error {
        *refusals += 1;
        return *refusals >= MAX_REFUSALS;
    }
    error.disposition() != Disposition::Resume
}

/// The clock of the runtime, which tests may hold.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Driver {
    /// Names the SSM session.
    pub(super) fn session_id(&self) -> &str {
        &self.ticket.session_id
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
                    let lost_at = now();
                    self.on_lost(&connection, reason);
                    drop(connection);
                    match self.resume(lost_at).await {
                        Ok(resumed) => connection = resumed,
                        Err(error) if error.is_end_of_session() => return self.end(error),
                        Err(error) => {
                            self.terminate(None).await;
                            return self.end(error);
                        }
                    }
                }
                Stop::Closed(text) => return self.end(Error::Closed(text)),
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

    /// Opens the first socket and waits for the end of the handshake.
    async fn handshake(&mut self) -> Result<Connection, (Error, Option<Connection>)> {
        let cancel = self.cancel.clone();
        let opened = tokio::select! {
            () = cancel.cancelled() => Err(Error::Terminated),
            opened = self.open() => opened,
        };
        let mut connection = opened.map_err(|error| (error, None))?;
        let deadline = now() + self.options.handshake_deadline;
        let stop = self
            .serve(&mut connection, Goal::Established, Some(deadline))
            .await;
        let error = match stop {
            Stop::Reached => return Ok(connection),
            Stop::Deadline => Error::HandshakeTimeout {
                attempts: self.options.handshake_attempts,
                deadline: self.options.handshake_deadline,
            },
            Stop::Cancelled => Error::Terminated,
            Stop::Lost(reason) => Error::LostInHandshake(reason),
            Stop::Closed(text) => Error::Closed(text),
            Stop::HandshakeFailed(error) => Error::Handshake(error),
            Stop::Damaged { count, last } => Error::Damaged { count, last },
        };
        Err((error, Some(connection)))
    }

    /// Opens a socket with the current ticket and says who we are; there is no reply to that.
    async fn open(&self) -> Result<Connection, Error> {
        let credentials = self.ssm.credentials().await?;
        let url = &self.ticket.stream_url;
        let mut websocket = websocket::dial(url, self.ssm.region(), &credentials).await?;
        let open = OpenDataChannelInput {
            message_schema_version: MESSAGE_SCHEMA_VERSION.to_owned(),
            request_id: Uuid::new_v4().to_string(),
            token_value: self.ticket.token.expose().clone(),
            client_id: self.client_id.to_string(),
            client_version: self.options.client_version.clone(),
        };
        let text = serde_json::to_string(&open).expect("a struct of strings serializes");
        websocket
            .send(Message::text(text))
            .await
            .map_err(|error| websocket::Error::Upgrade(Box::new(error)))?;
        Ok(Connection::new(websocket, self.options.keepalive()))
    }

    fn on_lost(&mut self, connection: &Connection, reason: String) {
        tracing::debug!(reason, "websocket lost, resuming");
        if connection.was_healthy() {
            self.backoff.reset();
        }
        self.reports
            .status
            .send_modify(|status| status.is_connected = false);
        self.reports.tell(SessionEvent::Lost { reason });
    }

    /// Replaces the socket, for as long as the session is not refused.
    ///
    /// # Errors
    /// Why the session is given up: refused, or [`Error::Terminated`] when cancelled.
    async fn resume(&mut self, lost_at: Instant) -> Result<Connection, Error> {
        let mut attempt = 0_u32;
        let mut refusals = 0_u32;
        let cancel = self.cancel.clone();
        loop {
            let delay = self.backoff.next_delay();
            attempt = attempt.saturating_add(1);
            let tried = tokio::select! {
                () = cancel.cancelled() => return Err(Error::Terminated),
                tried = async { sleep(delay).await; self.try_resume().await } => tried,
            };
            let error = match tried {
                Ok(connection) => {
                    let gap = now().saturating_duration_since(lost_at);
                    self.on_resumed(gap, attempt);
                    return Ok(connection);
                }
                Err(error) => error,
            };
            if is_final(&error, &mut refusals) {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "cannot resume yet");
            self.reports.tell(SessionEvent::Retrying {
                attempt,
                error: describe(&error),
                hint: error.hint(),
            });
        }
    }

    async fn try_resume(&mut self) -> Result<Connection, Error> {
        let Ticket {
            session_id,
            stream_url,
            ..
        } = &self.ticket;
        self.ticket = self.ssm.resume_session(session_id, stream_url).await?;
        self.open().await
    }

    fn on_resumed(&mut self, gap: Duration, attempt: u32) {
        tracing::debug!(
            gap_ms = gap.as_millis() as u64,
            attempt,
            "websocket resumed"
        );
        self.channel.on_reconnected(now());
        self.reports.status.send_modify(|status| {
            status.is_connected = true;
            status.resumes += 1;
        });
        self.reports.tell(SessionEvent::Resumed { gap });
    }

    /// Notes the end of a session that is over by itself.
    fn end(self, error: Error) -> Error {
        if error.is_end_of_session() {
            self.confirm_end();
        }
        tracing::debug!(%error, "ssm session is over");
        self.reports
            .status
            .send_modify(|status| status.is_connected = false);
        if let Error::Closed(text) = &error {
            self.reports
                .tell(SessionEvent::Closed { text: text.clone() });
        }
        error
    }

    /// Ends the SSM session: last words, flag, API; all within the deadline of the options.
    async fn terminate(&mut self, connection: Option<Connection>) {
        let deadline = self.options.terminate_deadline;
        let is_over = timeout(deadline, self.terminate_gracefully(connection)).await;
        if is_over.unwrap_or(false) {
            self.confirm_end();
        } else {
            tracing::warn!("the ssm session may go on until it idles out: no confirmation in time");
            if let Some(journal) = &self.options.journal {
                journal.abandoned(&self.ticket.session_id);
            }
        }
        self.reports
            .status
            .send_modify(|status| status.is_connected = false);
    }

    /// Ends the SSM session, and says whether the service has confirmed that it is over.
    async fn terminate_gracefully(&mut self, connection: Option<Connection>) -> bool {
        // What was cancelled was the session, not its end.
        self.cancel = CancellationToken::new();
        let ssm = self.ssm.clone();
        let session_id = self.ticket.session_id.clone();
        let Some(mut connection) = connection else {
            return terminate_by_api(&ssm, &session_id).await;
        };
        let mut stop = None;
        if self.channel.is_established() {
            let drained = now() + DRAIN;
            stop = Some(
                self.serve(&mut connection, Goal::Drained, Some(drained))
                    .await,
            );
        }
        if self.channel.is_closed() {
            return true;
        }
        if !matches!(stop, Some(Stop::Lost(_))) {
            self.queue_terminate_flag();
            let acknowledged = now() + FLAG_WAIT;
            let (is_over, _) = tokio::join!(
                terminate_by_api(&ssm, &session_id),
                self.serve(&mut connection, Goal::Drained, Some(acknowledged)),
            );
            is_over || self.channel.is_closed()
        } else {
            terminate_by_api(&ssm, &session_id).await
        }
    }

    /// The service has said that the SSM session is over.
    fn confirm_end(&self) {
        if let Some(journal) = &self.options.journal {
            journal.ended(&self.ticket.session_id);
        }
    }

    fn queue_terminate_flag(&mut self) {
        let peer = self
            .established
            .as_ref()
            .and_then(|it| it.peer_version.as_deref());
        if peer.is_some_and(version::agent_takes_terminate_flag) {
            let flag = Flag::TerminateSession.encode();
            if let Err(error) = self.channel.send(now(), PayloadType::Flag, &flag) {
                tracing::debug!(%error, "cannot send the terminate flag");
            }
        }
    }
}

/// Calls TerminateSession, a few times if need be, and says whether it has succeeded.
async fn terminate_by_api(ssm: &Ssm, session_id: &str) -> bool {
    let mut backoff = Backoff::default();
    for _ in 0..TERMINATE_ATTEMPTS {
        sleep(backoff.next_delay()).await;
        match ssm.terminate_session(session_id).await {
            Ok(()) => {
                tracing::debug!(session_id, "ssm session terminated");
                return true;
            }
            Err(error @ api::Error::AccessDenied { .. }) => {
                tracing::warn!(%error, session_id, "cannot terminate the ssm session");
                return false;
            }
            Err(error) => tracing::debug!(%error, session_id, "cannot terminate yet"),
        }
    }
    false
}

#[cfg(test)]
mod tests;
