//! What the parts of the service share: the machines, the sessions, the tasks.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::Board;
use super::frame;
use super::node::Node;
use super::pushed_keys::PushedKeys;
use super::session::{EndedBy, Request, Session};
use crate::ssm::protocol::message::MessageType;

/// Sessions open at once: what a real agent takes (sheet §10).
const OPEN_SESSIONS: usize = 1000;

/// Ended sessions that DescribeSessions still shows.
const HISTORY: usize = 1000;

/// Time between two tries to make an agent begin a session.
///
/// A real agent drops what comes in the moment before it is ready, silently (sheet §9.2).
const START_RETRY: Duration = Duration::from_millis(1500);

/// Time for the agent to open its data channel.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Time for the agent to report the end of a session that the service ended.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// Time for a client that has not come yet to hear why its session is over already.
const LATE_CLIENT: Duration = Duration::from_secs(5);

/// The service's shared state.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) addr: SocketAddr,
    pub(crate) nodes: BTreeMap<String, Node>,
    /// What goes wrong.
    pub(crate) faults: Arc<Board>,
    sessions: Mutex<Sessions>,
    idle_timeout: Duration,
    pub(crate) pushed_keys: PushedKeys,
    /// Every task of the emulator but those of the sessions.
    pub(crate) tasks: TaskTracker,
    /// One task a session: the one that ends it.
    pub(crate) session_tasks: TaskTracker,
    /// Opens no more sessions and waits for nobody who has not come.
    closing: CancellationToken,
    /// Stops everything.
    pub(crate) stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Sessions {
    open: BTreeMap<String, Arc<Session>>,
    /// Newest first.
    history: VecDeque<Ended>,
}

/// A session that is over.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) session: Arc<Session>,
    pub(crate) ended: SystemTime,
    pub(crate) output: String,
}

/// Why a session was not opened: there are [`OPEN_SESSIONS`] already, or the emulator stops.
#[derive(Debug)]
pub(crate) struct NoRoom;

impl Hub {
    pub(crate) fn new(
        addr: SocketAddr,
        nodes: Vec<Node>,
        idle_timeout: Duration,
        faults: Arc<Board>,
    ) -> Arc<Self> {
        Arc::new(Self {
            addr,
            nodes: nodes
                .into_iter()
                .map(|node| (node.instance.id.clone(), node))
                .collect(),
            faults,
            sessions: Mutex::default(),
            idle_timeout,
            pushed_keys: PushedKeys::default(),
            tasks: TaskTracker::new(),
            session_tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Opens a session and returns it with the client's token.
    pub(crate) fn open(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<(Arc<Session>, String), NoRoom> {
        let (session, token) = Session::new(self.faults.number(), request);
        {
            let mut sessions = self.lock();
            if sessions.open.len() >= OPEN_SESSIONS || self.closing.is_cancelled() {
                return Err(NoRoom);
            }
            sessions
                .open
                .insert(session.id.clone(), Arc::clone(&session));
        }
        // Once it is among the open ones, so that no change of the faults can pass it by.
        self.faults.brief(&session);
        self.faults.note(|counters| counters.sessions += 1);
        let hub = Arc::clone(self);
        let supervised = Arc::clone(&session);
        self.session_tasks
            .spawn(async move { hub.supervise(&supervised).await });
        Ok((session, token))
    }

    /// Finds an open session.
    pub(crate) fn session(&self, id: &str) -> Option<Arc<Session>> {
        self.lock().open.get(id).cloned()
    }

    /// Whether `id` is a session that was open once.
    pub(crate) fn was_open(&self, id: &str) -> bool {
        self.lock()
            .history
            .iter()
            .any(|ended| ended.session.id == id)
    }

    /// The open sessions, newest first.
    pub(crate) fn open_sessions(&self) -> Vec<Arc<Session>> {
        let mut open: Vec<_> = self.lock().open.values().cloned().collect();
        open.sort_by_key(|session| std::cmp::Reverse(session.started));
        open
    }

    /// The ended sessions, newest first.
    pub(crate) fn history(&self) -> Vec<Ended> {
        self.lock().history.iter().cloned().collect()
    }

    /// Ends every session and opens no more.
    pub(crate) fn end_sessions(&self) {
        self.closing.cancel();
        self.session_tasks.close();
        for session in self.open_sessions() {
            session.end(EndedBy::Shutdown, "The emulator was stopped");
        }
    }

    /// Starts `session` at the agent, waits for its end, and takes leave of both ends.
    async fn supervise(&self, session: &Session) {
        let is_heard = !self.faults.on_start();
        if let Some(node) = self.nodes.get(&session.request.target).filter(|_| is_heard) {
            let started = tokio::time::timeout(START_DEADLINE, start_at_agent(node, session));
            if started.await.is_err() {
                session.end(EndedBy::Timeout, "The agent did not open its data channel");
            }
        }
        let ending = session.ending(self.idle_timeout).await;
        tracing::info!(session_id = %session.id, by = ?ending.by, "session is ending");

        session
            .client
            .push(frame::channel_closed(&session.id, &ending.output));
        session.client.close();
        session
            .agent
            .push(frame::channel_closed(&session.id, &ending.output));
        if ending.by != EndedBy::Agent {
            if !session.agent.is_attached()
                && let Some(node) = self.nodes.get(&session.request.target)
            {
                node.control
                    .push(frame::channel_closed(&session.id, &ending.output));
            }
            // An agent that does not answer is not waited for.
            let _ = tokio::time::timeout(END_DEADLINE, session.agent_done()).await;
        }
        session.agent.close();
        if ending.by == EndedBy::Agent {
            tokio::select! {
                _ = tokio::time::timeout(LATE_CLIENT, session.client_came()) => {}
                () = self.closing.cancelled() => {}
            }
        }
        session.over();
        self.retire(&session.id, ending.output);
    }

    fn retire(&self, id: &str, output: String) {
        {
            let mut sessions = self.lock();
            let Some(session) = sessions.open.remove(id) else {
                return;
            };
            sessions.history.truncate(HISTORY - 1);
            sessions.history.push_front(Ended {
                session,
                ended: SystemTime::now(),
                output,
            });
        }
        self.faults.note(|counters| counters.sessions_over += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the agent to begin, again and again until its data channel opens.
///
/// A real agent refuses a session id that it has already; so does the embedded one.
async fn start_at_agent(node: &Node, session: &Session) {
    let task = frame::control(MessageType::InteractiveShell, &session.start_task());
    loop {
        node.control.push(task.clone());
        let arrived = tokio::time::timeout(START_RETRY, session.agent_arrived());
        if arrived.await.is_ok() {
            return;
        }
        tracing::debug!(session_id = %session.id, "the agent did not come: telling it again");
    }
}
