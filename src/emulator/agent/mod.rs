//! The embedded agent: one for each machine, connected to the gateway as a real one would be.
//!
//! It runs Port sessions, with the real agent's ways (sheet §3, §6.5, §6.6, §12): payloads of
//! 1 KiB and a pause of 1 ms after each, only the oldest message resent and that every 100 ms,
//! no half-close, targets dialled one after the other. What differs from version to version is in
//! `version`: each agent has the ways of the version that it says it is.
//!
//! Where it differs on purpose: the real agent tracks up to 100 000 unacknowledged messages and
//! then sends on without tracking; this one stops reading its sources at 4 MiB.

mod channel;
mod connect;
mod control;
mod port;
mod task;
mod version;
mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::Board;
use super::node::Node;
use super::socket;
use super::{Pacing, Resend};
use control::Control;
pub use version::{AgentVersion, VersionError};

/// Largest payload that can be configured: what a real agent was seen to take.
pub(crate) const PAYLOAD_LIMIT: usize = 1 << 20;

/// Wait before the control channel is opened again. The real agent waits 5 s and more; here the
/// gateway is on the same machine.
const RECONNECT: Duration = Duration::from_millis(500);

/// What all agents have in common.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The gateway's address.
    pub(crate) gateway: SocketAddr,
    /// What they say they are, and do.
    pub(crate) version: AgentVersion,
    pub(crate) pacing: Pacing,
    pub(crate) resend: Resend,
    pub(crate) payload_bytes: usize,
    /// Between pings.
    pub(crate) ping: Duration,
    /// Where to dial instead of `localhost:port`.
    pub(crate) port_map: BTreeMap<u16, SocketAddr>,
    /// The agent's own faults.
    pub(crate) faults: Arc<Board>,
}

/// One machine's agent.
pub(crate) struct Agent {
    instance_id: Arc<str>,
    settings: Arc<Settings>,
    stop: CancellationToken,
    /// When it is to stop for a while, and for how long.
    stops: watch::Receiver<Duration>,
}

impl Agent {
    pub(crate) fn new(node: &Node, settings: Arc<Settings>, stop: CancellationToken) -> Self {
        Self {
            instance_id: node.instance.id.as_str().into(),
            settings,
            stop,
            stops: node.stops(),
        }
    }

    /// Runs until told to stop for good; returns when the last session has ended.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        while let Some(away) = self.live().await {
            tracing::debug!(target_id = %self.instance_id, ?away, "the agent is away");
            let board = &self.settings.faults;
            board.note(|counters| counters.agents_stopped += 1);
            tokio::select! {
                () = tokio::time::sleep(away) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Keeps the control channel open and runs sessions until told to stop; returns for how long,
    /// if not for good. No session is left then.
    async fn live(&mut self) -> Option<Duration> {
        let (life, workers) = (self.stop.child_token(), TaskTracker::new());
        let mut control = Control::new(
            Arc::clone(&self.instance_id),
            Arc::clone(&self.settings),
            workers.clone(),
            life.clone(),
        );
        let mut stops = self.stops.clone();
        let away = tokio::select! {
            never = self.keep_connected(&mut control) => never,
            () = self.stop.cancelled() => None,
            changed = stops.changed() => changed.ok().map(|()| *stops.borrow_and_update()),
        };
        self.stops = stops;
        drop(control);
        life.cancel();
        workers.close();
        workers.wait().await;
        away
    }

    async fn keep_connected<T>(&self, control: &mut Control) -> T {
        loop {
            let path = format!("/v1/control-channel/{}", self.instance_id);
            let fields = json!({
                "Cookie": null,
                "AgentVersion": self.settings.version.to_string(),
                "PlatformType": "linux",
            });
            let gateway = self.settings.gateway;
            match connect::open(gateway, &path, "role=subscribe&stream=input", fields).await {
                Ok(mut socket) => {
                    let end = socket::drive(&mut socket, control).await;
                    tracing::debug!(target_id = %self.instance_id, %end, "control channel lost");
                }
                Err(error) => {
                    tracing::debug!(target_id = %self.instance_id, %error, "no control channel");
                }
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }
}
