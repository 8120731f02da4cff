//! A local Session Manager: the AWS API, the message gateway, and an agent, on one loopback port.
//!
//! ```text
//!  client                        the emulator                                     agent
//!    | -- POST / (AmazonSSM.*) --> api ---- hub: machines, sessions
//!    |                                        | interactive_shell
//!    |                             gateway: control channel <== WebSocket ========= |
//!    | == WebSocket ============>  gateway: data channels   <== WebSocket ========= | -- TCP --> localhost:port
//! ```
//!
//! # Parts
//!
//! - `http`: the port; `api`: AWS JSON 1.1; `documents`: what StartSession may ask for.
//! - `hub`, `session`, `node`: the service's memory, with a task for each session that sees it to
//!   its end.
//! - `gateway`: WebSockets. It passes messages between the two ends of a session as they are, and
//!   adds only the service's own: start and pause of publication, and `channel_closed`.
//! - `agent`: an agent for each machine, in this process but connected like any other, over the
//!   loopback port. A real amazon-ssm-agent can take its place.
//!
//! # Faults
//!
//! Whatever can go wrong can be made to, from Rust or by HTTP: see [`fault`].
//!
//! # Test knobs
//!
//! Any credentials are accepted, except an access key id or session token that contains `EXPIRED`
//! (answered with ExpiredTokenException) or `DENIED` (AccessDeniedException), and requests without
//! an `Authorization` header (UnrecognizedClientException). A session token that contains
//! `DENY.Operation`, `EXPIRE.Operation` or `THROTTLE.Operation` is refused for that operation alone.
//!
//! Beside Systems Manager, DescribeInstances of EC2, SendSSHPublicKey of EC2 Instance Connect and
//! GetCallerIdentity of STS are answered: set `AWS_ENDPOINT_URL` for all of them.
//!
//! # What is not emulated yet
//!
//! Shells and commands: the embedded agent runs Port sessions only, and StartSession says so.

mod agent;
mod api;
mod documents;
mod error;
pub mod fault;
mod fleet;
mod frame;
mod gateway;
mod http;
mod hub;
mod node;
mod pushed_keys;
mod session;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

pub use agent::{AgentVersion, VersionError};
pub use error::Error;
pub use fault::Faults;
pub use fleet::Details;
pub use session::Peer;

use fault::{Board, Plan};
use hub::Hub;
use node::Node;

/// Time for the embedded agents to connect at the start.
const AGENT_DEADLINE: Duration = Duration::from_secs(10);

/// How an emulator is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen: a loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Which version the embedded agents are: they say so, and have its ways.
    pub agent_version: AgentVersion,
    /// Whether the embedded agents pause after every message, as the real one does.
    pub pacing: Pacing,
    /// How the embedded agents make losses good.
    pub resend: Resend,
    /// Largest payload that the embedded agents send, in bytes. The real agent's is 1024.
    pub payload_bytes: usize,
    /// The machines, at least one; the first is [`Emulator::target`].
    pub instances: Vec<Instance>,
    /// Where the embedded agents dial for a port of the machine, instead of `localhost:port`.
    pub port_map: BTreeMap<u16, SocketAddr>,
    /// Time without client input after which a session ends. The service's default is 20 minutes.
    pub idle_timeout: Duration,
    /// Between pings of the embedded agents. Without an answer for so long and 6 s more they open
    /// another socket. The real agent's is 54 s.
    pub agent_ping: Duration,
    /// What goes wrong from the start. Without a seed there is a random one.
    pub faults: Plan,
    /// Where keys pushed by SendSSHPublicKey are kept for their minute, one file of authorized keys
    /// for each user; forgotten without it.
    pub pushed_keys: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            agent_version: AgentVersion::default(),
            pacing: Pacing::Real,
            resend: Resend::HeadOnly,
            payload_bytes: 1024,
            instances: vec![Instance::default()],
            port_map: BTreeMap::new(),
            idle_timeout: Duration::from_secs(20 * 60),
            agent_ping: Duration::from_secs(54),
            faults: Plan::default(),
            pushed_keys: None,
        }
    }
}

/// How fast the embedded agents send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pacing {
    /// One millisecond of pause after every message: about 1000 messages, 1 MiB, a second.
    #[default]
    Real,
    /// No pause.
    Off,
}

/// How the embedded agents make losses good, such as those of a client's reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resend {
    /// As the real agent: the oldest message every 100 ms, ten lost messages a second.
    ///
    /// With [`Pacing::Off`] thousands can be under way when a socket is cut, and take minutes.
    #[default]
    HeadOnly,
    /// All that was lost at once, as our own client does.
    Backlog,
}

/// An emulated machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Instance {
    /// Managed instance id: `i-…`, `mi-…`, or anything that StartSession takes as a target.
    pub id: String,
    /// Computer name, as DescribeInstanceInformation tells it.
    pub name: String,
    /// Whether an embedded agent serves it. Without one it is offline until a foreign agent
    /// connects.
    pub agent: bool,
    /// What else AWS tells of it.
    pub details: Details,
}

impl Default for Instance {
    fn default() -> Self {
        Self {
            id: "i-0123456789abcdef0".into(),
            name: "emulated".into(),
            agent: true,
            details: Details::default(),
        }
    }
}

/// A running local Session Manager.
///
/// Dropping it stops its tasks without waiting for them; [`shutdown`](Self::shutdown) waits.
#[derive(Debug)]
pub struct Emulator {
    hub: Arc<Hub>,
    target: String,
}

impl Emulator {
    /// Binds the port and starts everything; returns once sessions can be started.
    ///
    /// # Errors
    /// [`Error`] when the options make no sense, the port cannot be had, or the embedded agents do
    /// not come up.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let target = check(&options)?;
        let listener = TcpListener::bind(options.listen)
            .await
            .map_err(|source| Error::listen(options.listen, source))?;
        let addr = listener
            .local_addr()
            .map_err(|source| Error::listen(options.listen, source))?;
        let nodes = options.instances.iter().cloned().map(Node::new).collect();
        let board = Arc::new(Board::new(options.faults.seed.unwrap_or_else(rand::random)));
        let hub = Hub::new(addr, nodes, options.idle_timeout, Arc::clone(&board));
        if let Some(directory) = options.pushed_keys {
            hub.pushed_keys.keep_in(directory);
        }
        let emulator = Self { hub, target };
        let hub = &emulator.hub;
        hub.tasks.spawn(http::serve(Arc::clone(hub), listener));

        let settings = Arc::new(agent::Settings {
            gateway: addr,
            version: options.agent_version,
            pacing: options.pacing,
            resend: options.resend,
            payload_bytes: options.payload_bytes,
            ping: options.agent_ping,
            port_map: options.port_map,
            faults: board,
        });
        for node in hub.nodes.values().filter(|node| node.instance.agent) {
            let agent = agent::Agent::new(node, Arc::clone(&settings), hub.stop.clone());
            hub.tasks.spawn(agent.run());
        }
        let online = async {
            for node in hub.nodes.values().filter(|node| node.instance.agent) {
                node.wait_online().await;
            }
        };
        tokio::time::timeout(AGENT_DEADLINE, online)
            .await
            .map_err(|_| Error::AgentAbsent)?;
        emulator.faults().apply(options.faults)?;
        tracing::info!(endpoint = %emulator.endpoint(), target = %emulator.target, "emulator is up");
        Ok(emulator)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.hub.addr
    }

    /// The API's URL, for `AWS_ENDPOINT_URL_SSM`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.hub.addr)
    }

    /// Id of the first machine.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What goes wrong, and what was seen.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.hub))
    }

    /// Ends every session, closes every connection, and waits for all tasks.
    pub async fn shutdown(self) {
        self.hub.end_sessions();
        self.hub.session_tasks.wait().await;
        self.hub.stop.cancel();
        self.hub.tasks.close();
        self.hub.tasks.wait().await;
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.hub.stop.cancel();
    }
}

/// Checks what cannot work and returns the first machine's id.
fn check(options: &Options) -> Result<String, Error> {
    if !options.listen.ip().is_loopback() {
        return Err(Error::NotLoopback {
            listen: options.listen,
        });
    }
    if !(1..=agent::PAYLOAD_LIMIT).contains(&options.payload_bytes) {
        return Err(Error::PayloadBytes {
            bytes: options.payload_bytes,
            limit: agent::PAYLOAD_LIMIT,
        });
    }
    let mut faults = options.faults.faults.iter();
    faults.try_for_each(fault::Fault::check)?;
    let mut ids = BTreeSet::new();
    for Instance { id, .. } in &options.instances {
        if !api::is_target(id) {
            return Err(Error::InvalidInstance { id: id.clone() });
        }
        if !ids.insert(id) {
            return Err(Error::DuplicateInstance { id: id.clone() });
        }
    }
    match options.instances.first() {
        Some(first) => Ok(first.id.clone()),
        None => Err(Error::NoInstance),
    }
}
