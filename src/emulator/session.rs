//! One SSM session as the service keeps it: what was asked for, its tokens, its two ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::documents::Document;
use super::fault::Wire;
use super::gateway::outbox::Outbox;

/// Account that owns everything here.
pub(crate) const ACCOUNT: &str = "000000000000";

/// What StartSession was asked for, and when.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) target: String,
    pub(crate) document: Document,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) reason: Option<String>,
}

/// A session, from StartSession until both its ends were told that it is over.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    /// Which session of the emulator it is, from 1.
    pub(crate) number: u64,
    pub(crate) request: Request,
    pub(crate) started: SystemTime,
    /// Towards the client.
    pub(crate) client: Arc<Outbox>,
    /// Towards the agent.
    pub(crate) agent: Arc<Outbox>,
    /// What goes wrong at the client's end, and at the agent's.
    client_wire: Wire,
    agent_wire: Wire,
    state: Mutex<State>,
    /// Rings when the agent's data channel opens, and when an end was asked for.
    changed: Notify,
    /// Rings when a client's data channel opens.
    client_came: Notify,
    /// Rings when the agent has reported its task complete, or has lost its data channel in the end.
    agent_done: Notify,
    /// Cancelled when both ends were told that the session is over.
    gone: CancellationToken,
}

#[derive(Debug)]
struct State {
    status: Status,
    client_token: Option<String>,
    agent_token: Option<String>,
    /// Whether the agent's data channel was ever open.
    agent_seen: bool,
    last_input: Instant,
    ending: Option<Ending>,
}

/// Where a session stands, in the words of DescribeSessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Started; the client, the agent or both have not come yet.
    Connecting,
    /// Both ends have opened their data channel.
    Connected,
    /// The client is away; ResumeSession brings it back.
    Disconnected,
    /// Being ended.
    Terminating,
    /// Over.
    Terminated,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connecting => "Connecting",
            Self::Connected => "Connected",
            Self::Disconnected => "Disconnected",
            Self::Terminating => "Terminating",
            Self::Terminated => "Terminated",
        }
    }
}

/// Why a session ends, and what its user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) by: EndedBy,
    /// `Output` of the `channel_closed` message.
    pub(crate) output: String,
}

/// Who ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedBy {
    /// The agent reported its task complete.
    Agent,
    /// TerminateSession was called.
    Api,
    /// A time limit of the service passed.
    Timeout,
    /// A fault was injected.
    Fault,
    /// The emulator stops.
    Shutdown,
}

impl Session {
    /// Makes a session whose client is expected with the token returned.
    pub(crate) fn new(number: u64, request: Request) -> (Arc<Self>, String) {
        let token = random_token();
        let session = Arc::new(Self {
            id: format!("emulator-{}", random_suffix()),
            number,
            request,
            started: SystemTime::now(),
            client: Outbox::new(),
            agent: Outbox::new(),
            client_wire: Wire::new(Peer::Client),
            agent_wire: Wire::new(Peer::Agent),
            state: Mutex::new(State {
                status: Status::Connecting,
                client_token: Some(token.clone()),
                agent_token: None,
                agent_seen: false,
                last_input: Instant::now(),
                ending: None,
            }),
            changed: Notify::new(),
            client_came: Notify::new(),
            agent_done: Notify::new(),
            gone: CancellationToken::new(),
        });
        (session, token)
    }

    /// Path of the data channel's WebSocket, with the query that the service appends.
    pub(crate) fn stream_path(&self) -> String {
        format!(
            "/v1/data-channel/{}?role=publish_subscribe&cell-number=EMULATOR",
            self.id
        )
    }

    /// Towards `peer`.
    pub(crate) fn outbox(&self, peer: Peer) -> &Arc<Outbox> {
        match peer {
            Peer::Client => &self.client,
            Peer::Agent => &self.agent,
        }
    }

    /// What goes wrong at the end of `peer`.
    pub(crate) fn wire(&self, peer: Peer) -> &Wire {
        match peer {
            Peer::Client => &self.client_wire,
            Peer::Agent => &self.agent_wire,
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.lock().status
    }

    /// Replaces the client's token, as ResumeSession does; nothing when the session is ending.
    pub(crate) fn renew_client_token(&self) -> Option<String> {
        let mut state = self.lock();
        if state.ending.is_some() {
            return None;
        }
        state.last_input = Instant::now();
        state.client_token = Some(random_token());
        state.client_token.clone()
    }

    /// Replaces the agent's token; nothing when the session is ending.
    pub(crate) fn renew_agent_token(&self) -> Option<String> {
        let mut state = self.lock();
        if state.ending.is_some() {
            return None;
        }
        state.agent_token = Some(random_token());
        state.agent_token.clone()
    }

    /// Uses up a token and tells whose it was; nothing when it is wrong, used or replaced.
    pub(crate) fn redeem(&self, presented: &str) -> Option<Peer> {
        let mut state = self.lock();
        if state.client_token.as_deref() == Some(presented) {
            state.client_token = None;
            Some(Peer::Client)
        } else if state.agent_token.as_deref() == Some(presented) {
            state.agent_token = None;
            Some(Peer::Agent)
        } else {
            None
        }
    }

    /// Notes that an end opened its data channel.
    pub(crate) fn attached(&self, peer: Peer) {
        let mut state = self.lock();
        match peer {
            Peer::Agent => {
                state.agent_seen = true;
                self.changed.notify_waiters();
            }
            Peer::Client => self.client_came.notify_one(),
        }
        let both = state.agent_seen && self.client.is_attached();
        if state.ending.is_none() && both {
            state.status = Status::Connected;
        }
    }

    /// Notes that an end lost its data channel and has not come back.
    pub(crate) fn detached(&self, peer: Peer) {
        let mut state = self.lock();
        match peer {
            Peer::Client if state.status == Status::Connected => {
                state.status = Status::Disconnected;
            }
            Peer::Client => {}
            // While the session goes on, it comes back.
            Peer::Agent if state.ending.is_some() => self.agent_done.notify_one(),
            Peer::Agent => {}
        }
    }

    /// Notes input of the client, which is what the idle timeout counts.
    pub(crate) fn touch(&self) {
        self.lock().last_input = Instant::now();
    }

    /// Asks for the end of the session; the first to ask gives the reason.
    pub(crate) fn end(&self, by: EndedBy, output: impl Into<String>) {
        let mut state = self.lock();
        if by == EndedBy::Agent {
            self.agent_done.notify_one();
        }
        if state.ending.is_none() {
            state.status = Status::Terminating;
            state.ending = Some(Ending {
                by,
                output: output.into(),
            });
            self.changed.notify_waiters();
        }
    }

    /// Notes that both ends have been told.
    pub(crate) fn over(&self) {
        self.lock().status = Status::Terminated;
        self.client.abandon();
        self.agent.abandon();
        self.gone.cancel();
    }

    /// Waits until both ends have been told that the session is over.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Waits until the agent has come or the session is ending.
    pub(crate) async fn agent_arrived(&self) {
        self.wait(|state| state.agent_seen.then_some(())).await;
    }

    /// Waits for the reason to end: asked for, or no input of the client for `idle`.
    pub(crate) async fn ending(&self, idle: Duration) -> Ending {
        loop {
            let deadline = self.lock().last_input + idle;
            let asked = self.wait(|state| state.ending.clone());
            match tokio::time::timeout_at(deadline, asked).await {
                Ok(Some(ending)) => return ending,
                // `wait` gives up only once an ending is set; the next turn finds it.
                Ok(None) => {}
                Err(_) if self.lock().last_input + idle <= Instant::now() => {
                    self.end(EndedBy::Timeout, "Session timed out: no input");
                }
                Err(_) => {}
            }
        }
    }

    /// Waits until the client has come, if it never has.
    pub(crate) async fn client_came(&self) {
        if !self.client.was_attached() {
            self.client_came.notified().await;
        }
    }

    /// Waits until the agent has reported the end or left.
    pub(crate) async fn agent_done(&self) {
        self.agent_done.notified().await;
    }

    /// Waits until `condition` gives a value, or nothing when the session is ending without one.
    async fn wait<T>(&self, condition: impl Fn(&State) -> Option<T>) -> Option<T> {
        loop {
            // Registered before looking, so that no ring between the two is missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.lock();
                let value = condition(&state);
                if value.is_some() || state.ending.is_some() {
                    return value;
                }
            }
            changed.await;
        }
    }

    /// Payload of the `interactive_shell` message that makes an agent begin (sheet §9.3).
    pub(crate) fn start_task(&self) -> String {
        let content = json!({
            "DocumentName": self.request.document.name(),
            "DocumentContent": self.request.document.content(),
            "SessionId": self.id,
            "Parameters": self.request.parameters,
            "RunAsUser": "",
            "SessionOwner": owner(),
        });
        json!({
            "SchemaVersion": 1,
            "TaskId": self.id,
            "Topic": "aws.ssm.startSession",
            "Content": content.to_string(),
        })
        .to_string()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two ends of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Who called StartSession.
    Client,
    /// The machine.
    Agent,
}

impl Peer {
    /// The end at the other end.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Agent,
            Self::Agent => Self::Client,
        }
    }
}

/// ARN of the one principal that exists here.
pub(crate) fn owner() -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/emulator")
}

/// A one-time secret, as long as the service's are opaque.
pub(crate) fn random_token() -> String {
    use base64::Engine as _;
    let bytes: [u8; 48] = rand::rng().random();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The random part of a session id: 26 characters of base32, as the service writes it.
fn random_suffix() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = rand::rng();
    (0..26)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> (Arc<Session>, String) {
        Session::new(
            1,
            Request {
                target: "i-0123456789abcdef0".into(),
                document: Document::PortForwarding,
                parameters: BTreeMap::from([("portNumber".into(), "8080".into())]),
                reason: None,
            },
        )
    }

    #[test]
    fn tokens_serve_once() {
        let (session, token) = session();
        let agent = session.renew_agent_token().unwrap();
        assert_eq!(session.redeem("wrong"), None);
        assert_eq!(session.redeem(&token), Some(Peer::Client));
        assert_eq!(session.redeem(&token), None);
        assert_eq!(session.redeem(&agent), Some(Peer::Agent));
        let second = session.renew_client_token().unwrap();
        let third = session.renew_client_token().unwrap();
        assert_eq!(session.redeem(&second), None);
        assert_eq!(session.redeem(&third), Some(Peer::Client));
        session.end(EndedBy::Api, "");
        assert_eq!(session.renew_client_token(), None);
    }

    #[test]
    fn the_first_ending_gives_the_reason() {
        let (session, _) = session();
        session.end(EndedBy::Agent, "connection refused");
        session.end(EndedBy::Api, "");
        let ending = session.lock().ending.clone().unwrap();
        assert_eq!(ending.output, "connection refused");
        assert_eq!(session.status(), Status::Terminating);
    }

    #[test]
    fn the_task_is_json_within_json() {
        let (session, _) = session();
        let task: serde_json::Value = serde_json::from_str(&session.start_task()).unwrap();
        let content: serde_json::Value =
            serde_json::from_str(task["Content"].as_str().unwrap()).unwrap();
        assert_eq!(content["SessionId"], session.id.as_str());
        assert_eq!(content["Parameters"]["portNumber"], "8080");
        assert_eq!(content["DocumentContent"]["sessionType"], "Port");
    }

    /// Who was away once is waited for all the same.
    #[tokio::test]
    async fn an_agent_is_done_only_once_the_session_is_ending() {
        use futures_util::poll;
        let (session, _) = session();
        session.detached(Peer::Agent);
        session.attached(Peer::Agent);
        session.end(EndedBy::Api, "");
        let mut done = std::pin::pin!(session.agent_done());
        assert!(poll!(&mut done).is_pending());
        session.detached(Peer::Agent);
        assert!(poll!(&mut done).is_ready());
    }

    #[tokio::test]
    async fn silence_ends_a_session() {
        let (session, _) = session();
        let ending = session.ending(Duration::from_millis(20)).await;
        assert_eq!(ending.by, EndedBy::Timeout);
    }
}
