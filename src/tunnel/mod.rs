//! SSM session, data channel and smux as plain byte streams: the only place that knows them all.

mod witness;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

pub use self::witness::{Asked, Testimony, Witness};
use crate::report::one_line;
use crate::smux::{self, SmuxSession, SmuxStream};
use crate::ssm::{self, Disposition, Journal, SessionEvent, Ssm, SsmSession, StartRequest};

/// How long the reason for an end may take to get from one task to another.
const REASON_PATIENCE: Duration = Duration::from_millis(300);

/// Where a tunnel leads.
pub struct Options {
    /// Whom to ask for an SSM session.
    pub ssm: Ssm,
    /// The managed machine.
    pub target: String,
    /// The port on it that streams are connected to.
    pub port: u16,
    /// Is told of each SSM session.
    pub journal: Option<Arc<dyn Journal>>,
    /// Is asked about the target when the service cannot start a session to it.
    pub witness: Option<Arc<dyn Witness>>,
    /// Owns the tasks of every tunnel; to be waited for before the process exits, so that no SSM session
    /// is left behind, not even one that was still being started.
    pub tracker: TaskTracker,
}

/// Why there is no tunnel, or no stream in it.
#[derive(Debug, Error)]
pub enum Error {
    /// The SSM session could not be started.
    #[error("cannot reach {target}")]
    Session {
        /// The managed machine.
        target: String,
        /// Why not.
        #[source]
        source: ssm::Error,
    },
    /// The target is out of the service's reach, and it is known why.
    #[error("{cause}")]
    Absent {
        /// What is known of it.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
        /// What a person can do about it.
        hint: Option<String>,
    },
    /// The agent is from before sessions could carry several streams.
    #[error(
        "the SSM agent on {target} is too old ({version}): it carries one connection at a time"
    )]
    AgentTooOld {
        /// The managed machine.
        target: String,
        /// The agent's version.
        version: String,
    },
    /// The tunnel is gone.
    #[error("the tunnel to {target} was lost")]
    Lost {
        /// The managed machine.
        target: String,
        /// How.
        #[source]
        source: smux::Error,
    },
}

impl Options {
    /// Why no session could be started: what the service says, or a witness who knows better.
    async fn why_not(&self, source: ssm::Error) -> Error {
        let error = Error::Session {
            target: self.target.clone(),
            source,
        };
        let witness = self.witness.as_ref().filter(|_| error.is_offline());
        let Some(witness) = witness else {
            return error;
        };
        match witness.ask().await {
            Some(Testimony { cause, hint }) => Error::Absent { cause, hint },
            None => error,
        }
    }
}

impl Error {
    /// Whether waiting cannot heal it: somebody has to change something.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Session { source, .. } => match source {
                ssm::Error::Api(error) => {
                    error.is_credentials()
                        || error.disposition() == Disposition::Fatal
                        || matches!(error, ssm::api::Error::TargetNotConnected(_))
                }
                other => other.disposition() == Disposition::Fatal,
            },
            Self::Absent { .. } | Self::AgentTooOld { .. } => true,
            Self::Lost { .. } => false,
        }
    }

    /// Whether the target is known to be out of the service's reach for now. It may be starting up.
    pub fn is_offline(&self) -> bool {
        matches!(
            self,
            Self::Absent { .. }
                | Self::Session {
                    source: ssm::Error::Api(ssm::api::Error::TargetNotConnected(_)),
                    ..
                }
        )
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Session { source, .. } => source.hint().map(str::to_owned),
            Self::Absent { hint, .. } => hint.clone(),
            Self::AgentTooOld { .. } => Some(
                "update it there, to 3.0.222.0 or later: \
                 aws ssm send-command --document-name AWS-UpdateSSMAgent --instance-ids …"
                    .into(),
            ),
            Self::Lost { .. } => None,
        }
    }
}

/// What happens to a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The link was lost, and the SSM session is being resumed. Streams stay open, nothing moves in them.
    Lost {
        /// Why, for a person.
        reason: String,
    },
    /// An attempt to resume failed; another will follow.
    Retrying {
        /// What went wrong.
        error: String,
        /// What a person can do about it.
        hint: Option<&'static str>,
    },
    /// Streams make progress again.
    Resumed,
    /// The agent does not answer, although there is a link. Streams stay open, nothing moves in them.
    Silent {
        /// Since when.
        since: Instant,
    },
    /// The agent answers again.
    Heard,
    /// The tunnel is gone, and with it the streams.
    Over {
        /// Why, for a person.
        reason: String,
    },
}

/// An SSM session that carries any number of streams to one port of the target.
#[derive(Debug)]
pub struct Tunnel {
    target: String,
    port: u16,
    session: SsmSession,
    smux: SmuxSession,
    /// How often the agent could not connect to the port.
    refusals: watch::Sender<u64>,
}

impl Tunnel {
    /// Starts an SSM session and smux on it.
    ///
    /// # Errors
    /// [`Error::Session`].
    pub async fn dial(options: &Options) -> Result<Self, Error> {
        let tasks = &options.tracker;
        let session_options = ssm::Options {
            tracker: tasks.clone(),
            journal: options.journal.clone(),
            ..ssm::Options::default()
        };
        let request = StartRequest::port_forwarding(&options.target, options.port);
        let started = SsmSession::start(options.ssm.clone(), request, session_options).await;
        let (session, stream) = match started {
            Ok(started) => started,
            Err(source) => return Err(options.why_not(source).await),
        };
        let established = session.established();
        if !established.is_multiplexed {
            let version = established.peer_version.clone().unwrap_or_default();
            session.terminate().await;
            return Err(Error::AgentTooOld {
                target: options.target.clone(),
                version,
            });
        }
        let config = smux::Config {
            keepalive: established.needs_keepalive.then(smux::Keepalive::default),
            ..smux::Config::default()
        };
        let (smux, driver) = SmuxSession::client(stream, config);
        tasks.spawn(driver);
        Ok(Self {
            target: options.target.clone(),
            port: options.port,
            session,
            smux,
            refusals: watch::channel(0).0,
        })
    }

    /// The managed machine.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The port on it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Names the SSM session in the service.
    pub fn session_id(&self) -> &str {
        self.session.id()
    }

    /// Between us and the agent, with its time to process; none before the first message was acknowledged.
    pub fn round_trip(&self) -> Option<Duration> {
        self.session.status().round_trip
    }

    /// How often the agent has said that it could not connect to the port. It does not say for which stream.
    pub fn refusals(&self) -> watch::Receiver<u64> {
        self.refusals.subscribe()
    }

    /// Opens a stream. The agent connects to the port afterwards; when it cannot, the stream ends at once.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn open(&self) -> Result<SmuxStream, Error> {
        self.smux.open().await.map_err(|source| Error::Lost {
            target: self.target.clone(),
            source,
        })
    }

    /// Waits for the next event; [`Event::Over`] is the last one, and told again to who asks again.
    ///
    /// Somebody has to wait here all the time: [`Tunnel::refusals`] are counted meanwhile.
    pub async fn next_event(&self) -> Event {
        let session_id = self.session_id();
        let mut over = pin!(self.over());
        loop {
            let event = tokio::select! {
                biased;
                Some(event) = self.session.next_event() => event,
                reason = &mut over => return Event::Over { reason },
            };
            match event {
                SessionEvent::Lost { reason } => {
                    info!(session_id, reason, "connection lost, resuming");
                    return Event::Lost { reason };
                }
                SessionEvent::Retrying {
                    attempt,
                    error,
                    hint,
                } => {
                    info!(session_id, attempt, error, "not resumed yet");
                    return Event::Retrying { error, hint };
                }
                SessionEvent::Resumed { gap } => {
                    info!(session_id, ?gap, "resumed");
                    return Event::Resumed;
                }
                SessionEvent::Silent { since } => {
                    info!(session_id, "the agent does not answer");
                    return Event::Silent { since };
                }
                SessionEvent::Heard => {
                    info!(session_id, "the agent answers again");
                    return Event::Heard;
                }
                SessionEvent::ConnectToPortError => {
                    self.refusals.send_modify(|count| *count += 1);
                }
                SessionEvent::Closed { text } => {
                    info!(session_id, text, "closed by the service");
                }
            }
        }
    }

    /// Waits until the SSM session is over, or the streams in it are; says why.
    async fn over(&self) -> String {
        let closed = self.session.closed();
        let mut closed = pin!(closed);
        let ended = tokio::select! {
            biased;
            error = &mut closed => return one_line(&*error),
            ended = self.smux.ended() => ended,
        };
        // The streams may have ended with the session, whose reason is the better one.
        match timeout(REASON_PATIENCE, closed).await {
            Ok(error) => one_line(&*error),
            Err(_) => one_line(&ended),
        }
    }

    /// Ends the SSM session in an orderly way and waits for it.
    pub async fn terminate(&self) {
        let end = self.session.terminate().await;
        debug!(session_id = self.session.id(), %end, "terminated");
    }
}
