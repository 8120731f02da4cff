//! One session at the agent, from the task to its outcome.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::channel::{Channel, PortEnd, Verdict};
use super::connect::{self, Socket};
use super::port::{Dial, run_basic, run_mux};
use super::task::Task;
use super::version::{Keepalive, Port, Ways};
use crate::emulator::socket;

/// Tries to open a data channel, at the start and after each loss (sheet §5).
const TRIES: u32 = 6;

/// What is reported when a session has ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: Status,
    /// For the user, through `channel_closed`.
    pub(super) output: String,
}

/// `FinalTaskStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Success,
    Failed,
    Cancelled,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

impl Outcome {
    fn new(status: Status, output: impl Into<String>) -> Self {
        Self {
            status,
            output: output.into(),
        }
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Closed => Self::new(Status::Cancelled, ""),
            Verdict::Terminated | Verdict::PortEnded(Ok(())) => Self::new(Status::Success, ""),
            Verdict::HandshakeFailed(text) | Verdict::PortEnded(Err(text)) => {
                Self::new(Status::Failed, text)
            }
        }
    }
}

/// Runs a session to its end, or until it is cancelled.
pub(super) async fn run(
    task: Task,
    instance_id: Arc<str>,
    settings: Arc<Settings>,
    cancel: CancellationToken,
) -> Outcome {
    if task.session_type != "Port" {
        let text = format!("Session type {} is not emulated", task.session_type);
        return Outcome::new(Status::Failed, text);
    }
    tokio::select! {
        outcome = serve(task, &instance_id, &settings) => outcome,
        () = cancel.cancelled() => Outcome::new(Status::Cancelled, ""),
    }
}

async fn serve(task: Task, instance_id: &str, settings: &Settings) -> Outcome {
    let ways = settings.version.ways();
    if ways.port == Port::Unknown {
        // In the real one's words.
        let text = "Plugin with name Port not found. Step name: Port";
        return Outcome::new(Status::Failed, text);
    }
    let dial = match Dial::resolve(&task.properties, settings).await {
        Ok(dial) => dial,
        Err(text) => return Outcome::new(Status::Failed, text),
    };
    let forwards = task.properties["type"] == "LocalPortForwarding";
    let (channel, port) = Channel::new(task.session_id.clone(), task.properties, settings);
    let gateway = Gateway {
        settings,
        instance_id,
        session_id: &task.session_id,
    };
    let (outcome, ()) = tokio::join!(
        gateway.carry(channel),
        run_port(port, &dial, forwards, ways)
    );
    outcome
}

/// Runs the Port session once the handshake is complete.
///
/// Ends when the channel does, because the channel's end of the pipe is then gone.
async fn run_port(port: PortEnd, dial: &Dial, forwards: bool, ways: Ways) {
    let PortEnd {
        established,
        pipe,
        mut ended,
    } = port;
    let Ok(established) = established.await else {
        return;
    };
    let run = async {
        if established.is_multiplexed && ways.port == Port::Multiplexed {
            let keepalive = match ways.keepalive {
                Keepalive::Always => true,
                Keepalive::Never => false,
                Keepalive::ByClient => established.needs_keepalive,
            };
            run_mux(pipe, dial, keepalive)
                .await
                .map_err(|error| error.to_string())
        } else {
            run_basic(pipe, dial, forwards && ways.port != Port::Single).await
        }
    };
    let result = tokio::select! {
        result = run => result,
        () = ended.closed() => return,
    };
    // Nobody to tell when the channel has just ended by itself.
    let _ = ended.send(result);
}

/// Where a session's data channel is opened.
struct Gateway<'a> {
    settings: &'a Settings,
    instance_id: &'a str,
    session_id: &'a str,
}

impl Gateway<'_> {
    /// Carries the channel over one socket after the other until it has a verdict.
    async fn carry(&self, mut channel: Channel) -> Outcome {
        loop {
            let mut socket = match self.open().await {
                Ok(socket) => socket,
                Err(error) if error.is_final() => return Outcome::from(Verdict::Closed),
                Err(error) => {
                    tracing::warn!(session_id = self.session_id, %error, "no data channel");
                    return Outcome::new(Status::Failed, "The agent lost its data channel");
                }
            };
            channel.on_connected();
            let end = socket::drive(&mut socket, &mut channel).await;
            if let Some(verdict) = channel.verdict() {
                let outcome = Outcome::from(verdict.clone());
                drop(channel);
                socket::close(socket, CloseCode::Normal, "").await;
                return outcome;
            }
            tracing::debug!(session_id = self.session_id, %end, "data channel lost");
            channel.on_lost();
        }
    }

    /// Opens the data channel: tries at once, then again after 100 to 200 ms, doubling to 5 s.
    async fn open(&self) -> Result<Socket, connect::Error> {
        let path = format!("/v1/data-channel/{}", self.session_id);
        let mut delay = Duration::from_millis(rand::rng().random_range(100..200));
        let mut tries = 0;
        loop {
            tries += 1;
            let fields = json!({ "ClientInstanceId": self.instance_id, "ClientId": "" });
            let query = "role=publish_subscribe";
            match connect::open(self.settings.gateway, &path, query, fields).await {
                Err(error) if tries < TRIES && !error.is_final() => {
                    tracing::debug!(session_id = self.session_id, %error, "trying again");
                }
                result => return result,
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(5));
        }
    }
}
