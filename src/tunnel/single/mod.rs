//! Tunnels to agents before 3.0.222.0, whose sessions carry one connection: each stream has an SSM session
//! of its own.
//!
//! The sessions are of the document AWS-StartSSHSession. In those of a port forwarding the end of the
//! connection is kept from us: the agent says nothing and dials again on our next bytes. Here it is the
//! session's end (protocol sheet §6.5).

mod links;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::links::{Key, Links};
use super::{Error, Event, Options, Stream, error};
use crate::report::one_line;
use crate::ssm::protocol::version::agent_multiplexes;
use crate::ssm::{self, SsmSession, StartRequest};

/// Events kept for an owner that is slow to take them; more are lost.
const EVENTS: usize = 64;

/// What old agents say, when a session ends, of a port that nothing listens on.
const REFUSED: &str = "Unable to connect to specified port";

/// What was told of agents that are too old. Clones share it, so that it is told once however often they dial.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<Option<String>>>);

impl Told {
    /// Tells what an agent of this version costs; once, and then at each redial only to those who look closely.
    pub(super) fn tell(&self, target: &str, version: &str, flags: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_deref() == Some(version) {
            return info!(target, version, "the SSM agent is still too old");
        }
        *told = Some(version.to_owned());
        warn!(
            target,
            version,
            "the SSM agent is too old for several connections in a session: each takes a session of its own, and \
             longer to open, and one at most is kept ready; {}",
            error::update(target, flags)
        );
    }
}

/// Whether a session has ended because nothing listens on the port.
pub(super) fn is_refusal(error: &ssm::Error) -> bool {
    matches!(error, ssm::Error::Closed(text) if text.contains(REFUSED))
}

/// A tunnel whose streams are SSM sessions.
#[derive(Debug)]
pub(super) struct Single {
    options: Options,
    /// The agent's version.
    version: String,
    shared: Arc<Shared>,
    events: tokio::sync::Mutex<mpsc::Receiver<Event>>,
}

/// What the sessions' tasks tell.
#[derive(Debug)]
struct Shared {
    sessions: Mutex<Sessions>,
    events: mpsc::Sender<Event>,
    /// Why no more streams are to be had.
    over: watch::Sender<Option<String>>,
    refusals: watch::Sender<u64>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Sessions {
    links: Links,
    open: BTreeMap<Key, Weak<SsmSession>>,
}

impl Single {
    /// A tunnel to where `options` say, through an agent of `version`.
    pub(super) fn new(options: Options, version: String, refusals: watch::Sender<u64>) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        Self {
            options,
            version,
            shared: Arc::new(Shared {
                sessions: Mutex::default(),
                events: sender,
                over: watch::Sender::default(),
                refusals,
                stop: CancellationToken::new(),
            }),
            events: tokio::sync::Mutex::new(events),
        }
    }

    /// The agent's.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Starts an SSM session for one stream. When nothing listens on the port, the stream ends at once.
    ///
    /// # Errors
    /// [`Error::Single`]; if it is one that waiting cannot heal the tunnel is over then, and the streams
    /// that it has are not. Otherwise the next may open.
    pub(super) async fn open(&self) -> Result<Stream, Error> {
        let Options {
            ssm, target, port, ..
        } = &self.options;
        let request = StartRequest::single_port(target, *port);
        let started = SsmSession::start(ssm.clone(), request, self.options.session()).await;
        let (session, stream) = match started {
            Ok(started) => started,
            Err(error) if is_refusal(&error) => {
                self.shared.note_refusal();
                return Ok(Stream::refused());
            }
            Err(source) => {
                let error = Error::Single {
                    target: target.clone(),
                    version: self.version.clone(),
                    flags: ssm.flags(),
                    source,
                };
                if error.is_final() {
                    self.shared.over.send_replace(Some(one_line(&error)));
                }
                return Err(error);
            }
        };
        let version = session.established().peer_version.as_deref();
        if version.is_some_and(agent_multiplexes) {
            // This stream goes on, and the next tunnel carries all that follow.
            let reason = "the SSM agent was updated".to_owned();
            self.shared.over.send_replace(Some(reason));
        }
        let session = Arc::new(session);
        let key = {
            let mut sessions = self.shared.lock();
            let (key, events) = sessions.links.add();
            sessions.open.insert(key, Arc::downgrade(&session));
            self.shared.tell(events);
            key
        };
        let released = CancellationToken::new();
        let attend = Arc::clone(&self.shared).attend(key, session, released.clone());
        self.options.tracker.spawn(attend);
        Ok(Stream::single(stream, released.drop_guard()))
    }

    /// Of the session that answers fastest.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        let sessions = self.shared.lock();
        let open = sessions.open.values().filter_map(Weak::upgrade);
        open.filter_map(|session| session.status().round_trip).min()
    }

    /// Waits for the next event; [`Event::Over`] is the last one, and told again.
    pub(super) async fn next_event(&self) -> Event {
        let mut events = self.events.lock().await;
        tokio::select! {
            biased;
            Some(event) = events.recv() => event,
            reason = self.over() => Event::Over { reason },
        }
    }

    /// Waits until no more streams are to be had; says why.
    pub(super) async fn over(&self) -> String {
        let mut over = self.shared.over.subscribe();
        let reason = over.wait_for(Option::is_some).await;
        reason
            .ok()
            .and_then(|reason| reason.clone())
            .unwrap_or_default()
    }

    /// Ends all streams, unless the tunnel is over: those it has left then are their owners'. Waits for none of
    /// them: their tasks are in the tracker of the options.
    pub(super) async fn terminate(&self) {
        if self.shared.over.borrow().is_none() {
            self.shared.stop.cancel();
        }
    }
}

impl Shared {
    /// Listens to a session until it is over or its stream was dropped, and ends it.
    async fn attend(
        self: Arc<Self>,
        key: Key,
        session: Arc<SsmSession>,
        released: CancellationToken,
    ) {
        loop {
            let event = tokio::select! {
                biased;
                () = released.cancelled() => break,
                () = self.stop.cancelled() => break,
                event = session.next_event() => event,
            };
            let Some(event) = event else { break };
            debug!(session_id = session.id(), ?event, "session of a stream");
            // Under the lock, so that what happens to two sessions is told in its order.
            let mut sessions = self.lock();
            let events = sessions.links.on_event(key, &event);
            self.tell(events);
        }
        let end = session.terminate().await;
        if is_refusal(&end) {
            self.note_refusal();
        }
        let mut sessions = self.lock();
        sessions.open.remove(&key);
        let events = sessions.links.on_end(key, &one_line(&*end));
        self.tell(events);
    }

    fn note_refusal(&self) {
        self.refusals.send_modify(|count| *count += 1);
    }

    /// Tells the owner; never waits.
    fn tell(&self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Over { reason } => {
                    self.over.send_replace(Some(reason));
                }
                // Who does not listen misses it.
                event => drop(self.events.try_send(event)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
