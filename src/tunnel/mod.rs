//! SSM session, data channel and smux as plain byte streams: the only place that knows them all.
//!
//! One SSM session carries all streams of a tunnel, as smux. With agents before 3.0.222.0, which have no
//! smux, each stream is an SSM session of its own (`single`).

mod error;
mod single;
mod stream;
mod witness;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

pub use self::error::Error;
pub(crate) use self::error::update;
use self::single::Single;
pub use self::single::Told;
pub use self::stream::Stream;
pub use self::witness::{Asked, Testimony, Witness};
use crate::report::one_line;
use crate::smux::{self, SmuxSession};
use crate::ssm::{self, Journal, SessionEvent, Ssm, SsmSession, StartRequest};

/// How long the reason for an end may take to get from one task to another.
const REASON_PATIENCE: Duration = Duration::from_millis(300);

/// Where a tunnel leads.
#[derive(Debug, Clone)]
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
    /// What was told of the target's agent, over all tunnels to it; none where a tunnel is for one stream, to which it
    /// does not matter what the agent lacks.
    pub told: Option<Told>,
    /// Owns the tasks of every tunnel; to be waited for before the process exits, so that no SSM session
    /// is left behind, not even one that was still being started.
    pub tracker: TaskTracker,
}

impl Options {
    /// Why no session could be started: what the service says, or a witness who knows better.
    async fn why_not(&self, source: ssm::Error) -> Error {
        let error = Error::start(&self.target, self.ssm.flags(), source);
        let witness = self.witness.as_ref().filter(|_| error.is_offline());
        let Some(witness) = witness else {
            return error;
        };
        match witness.ask().await {
            Some(Testimony { cause, hint }) => Error::Absent { cause, hint },
            None => error,
        }
    }

    /// Of each SSM session.
    fn session(&self) -> ssm::Options {
        ssm::Options {
            tracker: self.tracker.clone(),
            journal: self.journal.clone(),
            ..ssm::Options::default()
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
        hint: Option<String>,
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

/// Any number of streams to one port of the target, in one SSM session if its agent can.
#[derive(Debug)]
pub struct Tunnel {
    target: String,
    port: u16,
    /// Names the SSM session, or the first, if it got so far.
    session_id: Option<String>,
    carrier: Carrier,
    /// How often the agent could not connect to the port.
    refusals: watch::Sender<u64>,
}

/// What carries the streams.
#[derive(Debug)]
enum Carrier {
    /// All of them.
    Multiplexed {
        session: SsmSession,
        smux: SmuxSession,
    },
    /// One each.
    Single(Single),
}

impl Tunnel {
    /// Starts an SSM session and smux on it, or learns from it that the agent knows no smux.
    ///
    /// # Errors
    /// [`Error::Session`] or [`Error::AgentTooOld`].
    pub async fn dial(options: &Options) -> Result<Self, Error> {
        let tunnel = Self::dial_as(options, options.session()).await?;
        match &tunnel.carrier {
            // One that could not connect to the port has not told its version.
            Carrier::Single(single) if tunnel.session_id.is_some() => {
                if let Some(told) = &options.told {
                    told.tell(&tunnel.target, single.version(), &options.ssm.flags());
                }
            }
            _ => {}
        }
        Ok(tunnel)
    }

    /// As [`Tunnel::dial`], for who judges the agent: one that does not answer in the first SSM session is not tried
    /// again, and nothing is said of its age.
    ///
    /// # Errors
    /// As [`Tunnel::dial`].
    pub async fn dial_once(options: &Options) -> Result<Self, Error> {
        let once = ssm::Options {
            handshake_attempts: 1,
            ..options.session()
        };
        Self::dial_as(options, once).await
    }

    async fn dial_as(options: &Options, session_options: ssm::Options) -> Result<Self, Error> {
        let request = StartRequest::port_forwarding(&options.target, options.port);
        let started = SsmSession::start(options.ssm.clone(), request, session_options).await;
        let refusals = watch::channel(0).0;
        let single = |version| Single::new(options.clone(), version, refusals.clone());
        let (session_id, carrier) = match started {
            Ok((session, stream)) if session.established().is_multiplexed => {
                let config = smux::Config {
                    keepalive: session
                        .established()
                        .needs_keepalive
                        .then(smux::Keepalive::default),
                    ..smux::Config::default()
                };
                let (smux, driver) = SmuxSession::client(stream, config);
                options.tracker.spawn(driver);
                let session_id = session.id().to_owned();
                (Some(session_id), Carrier::Multiplexed { session, smux })
            }
            Ok((session, _stream)) => {
                let version = session.established().peer_version.clone();
                let version = version.unwrap_or_default();
                let session_id = session.id().to_owned();
                // Its task ends it, and nobody has to wait for that.
                drop(session);
                (Some(session_id), Carrier::Single(single(version)))
            }
            // Only agents that carry one connection make it before they are asked to.
            Err(ref error) if single::is_refusal(error) => {
                let version = "before 3.0.222.0".to_owned();
                (None, Carrier::Single(single(version)))
            }
            Err(error) => return Err(options.why_not(error).await),
        };
        Ok(Self {
            target: options.target.clone(),
            port: options.port,
            session_id,
            carrier,
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

    /// Names the SSM session in the service; the first one, if each stream has its own and it got so far.
    pub fn session_id(&self) -> Option<&str> {
        self.session_id.as_deref()
    }

    /// Whether one SSM session carries all streams. Otherwise each costs a StartSession.
    pub fn is_multiplexed(&self) -> bool {
        matches!(self.carrier, Carrier::Multiplexed { .. })
    }

    /// Between us and the agent, with its time to process; none before the first message was acknowledged.
    pub fn round_trip(&self) -> Option<Duration> {
        match &self.carrier {
            Carrier::Multiplexed { session, .. } => session.status().round_trip,
            Carrier::Single(single) => single.round_trip(),
        }
    }

    /// The agent's version, if it has told one.
    pub fn agent_version(&self) -> Option<&str> {
        match &self.carrier {
            Carrier::Multiplexed { session, .. } => session.established().peer_version.as_deref(),
            Carrier::Single(single) => Some(single.version()),
        }
    }

    /// How often the agent has said that it could not connect to the port. It does not say for which stream.
    pub fn refusals(&self) -> watch::Receiver<u64> {
        self.refusals.subscribe()
    }

    /// Opens a stream. The agent connects to the port afterwards; when it cannot, the stream ends at once.
    ///
    /// # Errors
    /// [`Error::Lost`] or [`Error::Single`].
    pub async fn open(&self) -> Result<Stream, Error> {
        match &self.carrier {
            Carrier::Multiplexed { smux, .. } => match smux.open().await {
                Ok(stream) => Ok(stream.into()),
                Err(source) => Err(Error::Lost {
                    target: self.target.clone(),
                    source,
                }),
            },
            Carrier::Single(single) => single.open().await,
        }
    }

    /// Waits for the next event; [`Event::Over`] is the last one, and told again to who asks again.
    ///
    /// Somebody has to wait here all the time: [`Tunnel::refusals`] are counted meanwhile.
    pub async fn next_event(&self) -> Event {
        let (session, smux) = match &self.carrier {
            Carrier::Multiplexed { session, smux } => (session, smux),
            Carrier::Single(single) => return single.next_event().await,
        };
        let session_id = self.session_id();
        let mut over = pin!(over(session, smux));
        loop {
            let event = tokio::select! {
                biased;
                Some(event) = session.next_event() => event,
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

    /// Waits until the tunnel is gone; says why.
    pub async fn over(&self) -> String {
        match &self.carrier {
            Carrier::Multiplexed { session, smux } => over(session, smux).await,
            Carrier::Single(single) => single.over().await,
        }
    }

    /// Ends the SSM session in an orderly way and waits for it. Sessions that each carry a stream are told to end,
    /// and waited for by the tracker of the options; those of a tunnel that is over already end with their streams.
    pub async fn terminate(&self) {
        match &self.carrier {
            Carrier::Multiplexed { session, .. } => {
                let end = session.terminate().await;
                debug!(session_id = session.id(), %end, "terminated");
            }
            Carrier::Single(single) => single.terminate().await,
        }
    }
}

/// Waits until the SSM session is over, or the streams in it are; says why.
async fn over(session: &SsmSession, smux: &SmuxSession) -> String {
    let closed = session.closed();
    let mut closed = pin!(closed);
    let ended = tokio::select! {
        biased;
        error = &mut closed => return one_line(&*error),
        ended = smux.ended() => ended,
    };
    // The streams may have ended with the session, whose reason is the better one.
    match timeout(REASON_PATIENCE, closed).await {
        Ok(error) => one_line(&*error),
        Err(_) => one_line(&ended),
    }
}
