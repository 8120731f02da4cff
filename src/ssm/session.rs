//! One SSM session as a byte stream that outlives its sockets.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ssmshim::ssm::{Options, Ssm, SsmSession, StartRequest};
//!
//! let ssm = Ssm::from_env().await?;
//! let request = StartRequest::port_forwarding("i-0123456789abcdef0", 22);
//! let (session, stream) = SsmSession::start(ssm, request, Options::default()).await?;
//! // `stream` carries smux when `session.established().is_multiplexed`.
//! # drop(stream);
//! session.terminate().await;
//! # Ok(()) }
//! ```

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::api::Ssm;
use super::driver::keepalive::Intervals;
use super::driver::{self, Reports, Surroundings};
use super::error::Error;
use super::protocol::data_channel::{Config, Established, SERVICE_PACE, Statistics};
use super::protocol::reliability::{incoming, outgoing};
use super::protocol::version::CLIENT_VERSION;
use super::stream::{self, DataStream};

/// Events kept for an owner that is slow to take them; more are lost.
const EVENTS: usize = 64;

/// What to ask StartSession for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRequest {
    /// `i-…`, `mi-…`, `ecs:…` or another managed id.
    pub target: String,
    /// Session document; `None` is the default shell.
    pub document: Option<String>,
    /// Parameters of the document.
    pub parameters: Vec<(String, String)>,
    /// Shown in the service's history, up to 256 characters.
    pub reason: Option<String>,
}

impl StartRequest {
    /// A multiplexed session to `port` of `target`.
    pub fn port_forwarding(target: impl Into<String>, port: u16) -> Self {
        Self {
            target: target.into(),
            document: Some("AWS-StartPortForwardingSession".to_owned()),
            parameters: vec![
                ("portNumber".to_owned(), port.to_string()),
                ("localPortNumber".to_owned(), "0".to_owned()),
            ],
            reason: None,
        }
    }

    /// A session to `port` of `target` that is one connection: the connection's end is the session's.
    pub fn single_port(target: impl Into<String>, port: u16) -> Self {
        Self {
            target: target.into(),
            document: Some("AWS-StartSSHSession".to_owned()),
            parameters: vec![("portNumber".to_owned(), port.to_string())],
            reason: None,
        }
    }
}

/// Keeps account of the SSM sessions that exist in the service on our behalf.
///
/// Whatever is noted as started and never as ended may still be there after a crash, or after an
/// exit without a network, and is to be terminated later. Called by the session's task, which waits:
/// a small file is fine, a network is not.
pub trait Journal: fmt::Debug + Send + Sync {
    /// The Reason that StartSession is given, unless its caller has one. What nobody else could have given marks
    /// the sessions whose answer was lost together with this process.
    fn reason(&self) -> Option<String>;

    /// StartSession is about to be called. Until one of the next two there may be a session whose id nobody knows,
    /// and if neither comes, that stays so.
    fn starting(&self);

    /// StartSession has just answered with `session_id`; nothing else has happened with it yet.
    fn started(&self, session_id: &str);

    /// StartSession has failed, and has started nothing.
    fn not_started(&self);

    /// The service has confirmed that the SSM session is over.
    fn ended(&self, session_id: &str);

    /// The SSM session is given up, and the service has not confirmed its end: it is left to whoever reads the journal.
    fn abandoned(&self, session_id: &str);
}

/// How an SSM session is to behave. The defaults suit the real service.
#[derive(Debug, Clone)]
pub struct Options {
    /// ClientVersion; the agent chooses behaviour by it, see [`super::protocol::version`].
    pub client_version: String,
    /// Largest payload of one message; small writes are sent as they are. 16 KiB: at 900 messages
    /// a second more than most links carry, and short enough not to delay what comes after.
    pub max_payload: usize,
    /// Data messages a second; `None` is unlimited. The service tolerates about 1000; a gateway on
    /// loopback, which the emulator's is, has no such limit and is not paced.
    pub pace: Option<NonZeroU32>,
    /// Bounds of what is sent and not acknowledged.
    pub outgoing: outgoing::Limits,
    /// Bounds of what has arrived and cannot be passed on yet.
    pub incoming: incoming::Limits,
    /// Between WebSocket pings.
    pub ping_interval: Duration,
    /// How long a ping may go unanswered before the socket is given up.
    pub ping_deadline: Duration,
    /// For each handshake.
    pub handshake_deadline: Duration,
    /// SSM sessions tried before the agent counts as unresponsive.
    pub handshake_attempts: u32,
    /// For everything that ending the session takes.
    pub terminate_deadline: Duration,
    /// Owns the session's task; wait for it before the process exits, so that sessions dropped
    /// without [`SsmSession::terminate`] are ended too.
    pub tracker: TaskTracker,
    /// Is told of each session, also of those that never complete their handshake.
    pub journal: Option<Arc<dyn Journal>>,
}

impl Default for Options {
    fn default() -> Self {
        let config = Config::client(CLIENT_VERSION);
        Self {
            client_version: CLIENT_VERSION.to_owned(),
            max_payload: 16 << 10,
            pace: Some(SERVICE_PACE),
            outgoing: config.outgoing,
            incoming: config.incoming,
            ping_interval: Duration::from_secs(20),
            ping_deadline: Duration::from_secs(10),
            handshake_deadline: Duration::from_secs(10),
            handshake_attempts: 3,
            terminate_deadline: Duration::from_secs(5),
            tracker: TaskTracker::new(),
            journal: None,
        }
    }
}

impl Options {
    pub(super) fn keepalive(&self) -> Intervals {
        Intervals {
            ping: self.ping_interval,
            deadline: self.ping_deadline,
        }
    }
}

/// What happens to an SSM session while it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The socket is gone; resuming begins.
    Lost {
        /// Why, for a person.
        reason: String,
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
    /// A new socket carries the session on.
    Resumed {
        /// How long there was none.
        gap: Duration,
    },
    /// The agent does not acknowledge what it is sent, and says nothing else, although the socket lives. It may be
    /// stalled, cut off, or dead; after two minutes of that the session is ended.
    Silent {
        /// Since when an answer is due.
        since: Instant,
    },
    /// The agent is heard again.
    Heard,
    /// The agent could not connect to the port; for which stream is not said.
    ConnectToPortError,
    /// The service has ended the session.
    Closed {
        /// Its words, or the agent's; may be empty.
        text: String,
    },
}

/// A snapshot for people and metrics, at most a quarter of a second old while there is traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether there is a socket from which something has come.
    pub is_connected: bool,
    /// Sockets since the first.
    pub resumes: u32,
    /// How long there was no socket, the last time.
    pub last_gap: Option<Duration>,
    /// How long there was none, the longest time.
    pub longest_gap: Option<Duration>,
    /// Between us and the agent, with its time to process.
    pub round_trip: Option<Duration>,
    /// Between us and the message gateway, as pings tell.
    pub gateway_round_trip: Option<Duration>,
    /// Messages of ours waiting for acknowledgement.
    pub unacknowledged: usize,
    /// Messages of the agent that wait for one before them. The agent repeats lost ones at ten a
    /// second: while this is not 0 after a resume, the stream towards us stands still.
    pub held: usize,
    /// Counters of messages.
    pub messages: Statistics,
}

/// A running SSM session. Dropping it terminates it in the background.
#[derive(Debug)]
pub struct SsmSession {
    id: String,
    established: Established,
    events: Mutex<mpsc::Receiver<SessionEvent>>,
    status: watch::Receiver<Status>,
    end: watch::Receiver<Option<Arc<Error>>>,
    cancel: CancellationToken,
    _terminate_on_drop: DropGuard,
}

impl SsmSession {
    /// Starts a session and waits until data can be sent.
    ///
    /// When the agent does not answer in time, the session is terminated and another is tried.
    /// May be dropped at any time: what was started is then terminated by the task that runs in
    /// the tracker of `options`.
    ///
    /// # Errors
    /// [`enum@Error`]; no session is left behind then.
    pub async fn start(
        ssm: Ssm,
        request: StartRequest,
        options: Options,
    ) -> Result<(Self, DataStream), Error> {
        Self::start_in(Surroundings::default(), ssm, request, options).await
    }

    /// As [`start`](Self::start), in other surroundings.
    pub(super) async fn start_in(
        surroundings: Surroundings,
        ssm: Ssm,
        request: StartRequest,
        options: Options,
    ) -> Result<(Self, DataStream), Error> {
        let (stream, driver_end) = stream::pair();
        let (events_tx, events) = mpsc::channel(EVENTS);
        let (status_tx, status) = watch::channel(Status::default());
        let (end_tx, end) = watch::channel(None);
        let (ready_tx, ready) = oneshot::channel();
        let reports = Reports {
            events: events_tx,
            status: status_tx,
        };
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let tracker = options.tracker.clone();
        let guard = cancel.clone().drop_guard();
        tracker.spawn(async move {
            let established = driver::establish(
                &ssm,
                &request,
                &options,
                &surroundings,
                &token,
                driver_end,
                reports,
            );
            let (driver, connection) = match established.await {
                Ok(started) => started,
                Err(error) => {
                    let _ = ready_tx.send(Err(error));
                    return;
                }
            };
            let id = driver.session_id().to_owned();
            let span = tracing::info_span!("ssm", session_id = %id);
            let hello = driver
                .established()
                .cloned()
                .map(|established| (id, established));
            // Nobody waits any more: the guard is gone too, and the driver finds that out itself.
            let _ = ready_tx.send(hello.ok_or(Error::Terminated));
            let error = driver.run(connection).instrument(span).await;
            end_tx.send_replace(Some(Arc::new(error)));
        });
        let (id, established) = ready.await.unwrap_or(Err(Error::Terminated))?;
        let session = Self {
            id,
            established,
            events: Mutex::new(events),
            status,
            end,
            cancel,
            _terminate_on_drop: guard,
        };
        Ok((session, stream))
    }

    /// Names the session in the service, its history and its logs.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the handshake has brought.
    pub fn established(&self) -> &Established {
        &self.established
    }

    /// The next event; `None` when the session is over and all were taken.
    ///
    /// An owner that does not ask misses events beyond the first 64.
    pub async fn next_event(&self) -> Option<SessionEvent> {
        self.events.lock().await.recv().await
    }

    /// How the session is doing.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Waits for the end of the session and says why it came.
    pub async fn closed(&self) -> Arc<Error> {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or_else(|| Arc::new(Error::Terminated)),
            // The runtime has stopped.
            Err(_) => Arc::new(Error::Terminated),
        }
    }

    /// Ends the session: sends what was written, tells agent and service, and waits for it, within
    /// the deadline of the options. Whether the service has confirmed it, the journal is told.
    pub async fn terminate(&self) -> Arc<Error> {
        self.cancel.cancel();
        self.closed().await
    }
}
