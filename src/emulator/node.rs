//! The emulated machines: what is configured of each, and whether its agent is connected.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::Instance;
use super::gateway::outbox::Outbox;
use super::session::random_token;

/// A machine that sessions can be started to.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) instance: Instance,
    /// Towards the agent, on its control channel.
    pub(crate) control: Arc<Outbox>,
    state: Mutex<State>,
    online: watch::Sender<bool>,
    /// How long the embedded agent is to be away; set when it is to stop.
    stops: watch::Sender<Duration>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<String>,
    agent: Option<AgentInfo>,
}

/// What an agent said of itself when it opened its control channel.
#[derive(Debug, Clone)]
pub(crate) struct AgentInfo {
    pub(crate) version: String,
    pub(crate) platform: String,
    pub(crate) seen: SystemTime,
}

impl Node {
    pub(crate) fn new(instance: Instance) -> Self {
        Self {
            instance,
            control: Outbox::new(),
            state: Mutex::default(),
            online: watch::Sender::new(false),
            stops: watch::Sender::default(),
        }
    }

    /// Gives a token for the control channel; an earlier unused one is void.
    pub(crate) fn issue_token(&self) -> String {
        let token = random_token();
        self.lock().token = Some(token.clone());
        token
    }

    /// Uses the control channel's token up; false when it is wrong or used.
    pub(crate) fn redeem(&self, presented: &str) -> bool {
        let mut state = self.lock();
        let valid = state.token.as_deref() == Some(presented);
        if valid {
            state.token = None;
        }
        valid
    }

    /// Notes that the agent's control channel is open.
    pub(crate) fn connected(&self, version: String, platform: String) {
        self.lock().agent = Some(AgentInfo {
            version,
            platform,
            seen: SystemTime::now(),
        });
        self.online.send_replace(true);
    }

    /// Notes that the agent's control channel is gone, unless another has replaced it.
    pub(crate) fn disconnected(&self) {
        self.online.send_replace(self.control.is_attached());
    }

    /// Notes a sign of life.
    pub(crate) fn touch(&self) {
        if let Some(agent) = &mut self.lock().agent {
            agent.seen = SystemTime::now();
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        *self.online.borrow()
    }

    /// What the agent said last; nothing when none ever came.
    pub(crate) fn agent(&self) -> Option<AgentInfo> {
        self.lock().agent.clone()
    }

    /// Makes the embedded agent stop and come back after `away`; it counts as gone at once.
    pub(crate) fn stop_agent(&self, away: Duration) {
        self.online.send_replace(false);
        self.stops.send_replace(away);
    }

    /// Tells the embedded agent when it is to stop, and for how long.
    pub(crate) fn stops(&self) -> watch::Receiver<Duration> {
        self.stops.subscribe()
    }

    /// Waits until an agent is connected.
    pub(crate) async fn wait_online(&self) {
        // The sender is part of `self`, so the wait cannot fail.
        let _ = self.online.subscribe().wait_for(|online| *online).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
