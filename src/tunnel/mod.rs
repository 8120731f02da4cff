//! SSM session, data channel and smux as plain byte streams: the only place that knows them all.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::report::one_line;
use crate::smux::{self, SmuxSession, SmuxStream};
use crate::ssm::{self, Disposition, SessionEvent, Ssm, SsmSession, StartRequest};

/// Where a tunnel leads.
pub struct Options {
    /// Whom to ask for an SSM session.
    pub ssm: Ssm,
    /// The managed machine.
    pub target: String,
    /// The port on it that streams are connected to.
    pub port: u16,
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
            Self::AgentTooOld { .. } => true,
            Self::Lost { .. } => false,
        }
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Session { source, .. } => source.hint().map(str::to_owned),
            Self::AgentTooOld { .. } => Some(
                "update it there, to 3.0.222.0 or later: \
                 aws ssm send-command --document-name AWS-UpdateSSMAgent --instance-ids …"
                    .into(),
            ),
            Self::Lost { .. } => None,
        }
    }
}

/// What carries the streams of a tunnel, at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// There is a WebSocket.
    Connected {
        /// Of these there was one before.
        resumes: u32,
    },
    /// There is none: the SSM session is being resumed. Streams stay open, nothing moves in them.
    Resuming {
        /// When that was noticed.
        since: Instant,
        /// Why, for a person.
        reason: String,
        /// Attempts that have failed.
        attempts: u32,
        /// What was wrong with the last of them, and what a person can do about it.
        last_error: Option<(String, Option<&'static str>)>,
    },
}

/// An SSM session that carries any number of streams to one port of the target.
#[derive(Debug)]
pub struct Tunnel {
    target: String,
    port: u16,
    session: Arc<SsmSession>,
    smux: SmuxSession,
    link: watch::Receiver<Link>,
    refusals: watch::Receiver<u64>,
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
            ..ssm::Options::default()
        };
        let request = StartRequest::port_forwarding(&options.target, options.port);
        let (session, stream) = SsmSession::start(options.ssm.clone(), request, session_options)
            .await
            .map_err(|source| Error::Session {
                target: options.target.clone(),
                source,
            })?;
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
        let session = Arc::new(session);
        let (publish, link) = watch::channel(Link::Connected { resumes: 0 });
        let (count, refusals) = watch::channel(0);
        tasks.spawn(observe(Arc::clone(&session), publish, count));
        Ok(Self {
            target: options.target.clone(),
            port: options.port,
            session,
            smux,
            link,
            refusals,
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

    /// Whether there is a WebSocket, and each change of that.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// Between us and the agent, with its time to process; none before the first message was acknowledged.
    pub fn round_trip(&self) -> Option<Duration> {
        self.session.status().round_trip
    }

    /// How often the agent has said that it could not connect to the port. It does not say for which stream.
    pub fn refusals(&self) -> watch::Receiver<u64> {
        self.refusals.clone()
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

    /// Waits until the SSM session is over, or the streams in it are; says why.
    pub async fn lost(&self) -> String {
        tokio::select! {
            error = self.session.closed() => one_line(&*error),
            error = self.smux.ended() => one_line(&error),
        }
    }

    /// Ends the SSM session in an orderly way and waits for it.
    pub async fn terminate(&self) {
        let end = self.session.terminate().await;
        debug!(session_id = self.session.id(), %end, "terminated");
    }
}

/// Publishes what happens to the session, until it is over.
async fn observe(
    session: Arc<SsmSession>,
    link: watch::Sender<Link>,
    refusals: watch::Sender<u64>,
) {
    let session_id = session.id();
    let mut resumes = 0;
    while let Some(event) = session.next_event().await {
        match event {
            SessionEvent::Lost { reason } => {
                warn!(session_id, reason, "connection lost, resuming");
                link.send_replace(Link::Resuming {
                    since: Instant::now(),
                    reason,
                    attempts: 0,
                    last_error: None,
                });
            }
            SessionEvent::Retrying {
                attempt,
                error,
                hint,
            } => {
                warn!(session_id, attempt, error, hint, "not resumed yet");
                link.send_modify(|link| {
                    if let Link::Resuming {
                        attempts,
                        last_error,
                        ..
                    } = link
                    {
                        *attempts = attempt;
                        *last_error = Some((error, hint));
                    }
                });
            }
            SessionEvent::Resumed { gap } => {
                info!(session_id, ?gap, "resumed");
                resumes += 1;
                link.send_replace(Link::Connected { resumes });
            }
            SessionEvent::ConnectToPortError => {
                refusals.send_modify(|count| *count += 1);
            }
            SessionEvent::Closed { text } => {
                info!(session_id, text, "closed by the service");
            }
        }
    }
}
