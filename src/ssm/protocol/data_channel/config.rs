//! Role, bounds and origin of a data channel.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use super::super::handshake::HandshakeRequest;
use super::super::reliability::outgoing::Strategy;
use super::super::reliability::{incoming, outgoing};

/// Data messages a second that the real service tolerates for long.
pub const SERVICE_PACE: NonZeroU32 = NonZeroU32::new(900).expect("not zero");

/// Which end this is.
#[derive(Debug, Clone)]
pub enum Role {
    /// The session-manager-plugin's place.
    Client {
        /// ClientVersion of the handshake, see [`version`](super::super::version).
        version: String,
    },
    /// The agent's place.
    Agent(AgentOptions),
}

/// How the agent's end behaves.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The request that opens the session; `None` for sessions without a handshake.
    pub handshake: Option<HandshakeRequest>,
    /// CustomerMessage of HandshakeComplete.
    pub customer_message: String,
    /// Acknowledge a message once its event is taken, as agents from 3.0.655.0 on do. Earlier ones
    /// acknowledge it first, and lose it when they are not ready.
    pub processes_first: bool,
    /// Acknowledge duplicates again, as agents from 3.2.1041.0 on do.
    pub acknowledges_duplicates: bool,
    /// How lost messages are resent; the real agent's way is [`Strategy::HeadOnly`].
    pub strategy: Strategy,
}

impl AgentOptions {
    /// The behaviour of a recent agent with this `handshake`.
    pub fn new(handshake: Option<HandshakeRequest>) -> Self {
        Self {
            handshake,
            customer_message: String::new(),
            processes_first: true,
            acknowledges_duplicates: true,
            strategy: Strategy::HeadOnly,
        }
    }
}

/// Role and bounds of a [`DataChannel`](super::DataChannel).
#[derive(Debug, Clone)]
pub struct Config {
    /// Which end this is.
    pub role: Role,
    /// Unacknowledged messages of ours.
    pub outgoing: outgoing::Limits,
    /// Messages of the peer that are early or not yet taken.
    pub incoming: incoming::Limits,
    /// Data messages a second; `None` is unlimited.
    pub pace: Option<NonZeroU32>,
}

impl Config {
    /// The client's end with its default bounds.
    ///
    /// 1 MiB in flight fills 14 MB/s (900 messages of 16 KiB a second) over 70 ms, and is little
    /// enough to stay inside the agent's 4 MiB smux bucket; 4096 messages bound tiny ones.
    pub fn client(version: impl Into<String>) -> Self {
        Self {
            role: Role::Client {
                version: version.into(),
            },
            outgoing: outgoing::Limits {
                messages: 4096,
                bytes: 1 << 20,
            },
            incoming: INCOMING,
            pace: None,
        }
    }

    /// The agent's end with the bounds of the real agent, and 64 MiB.
    pub fn agent(options: AgentOptions) -> Self {
        Self {
            role: Role::Agent(options),
            outgoing: outgoing::Limits {
                messages: 100_000,
                bytes: 64 << 20,
            },
            incoming: INCOMING,
            pace: None,
        }
    }
}

/// As many messages as the agent holds, and 32 MiB.
const INCOMING: incoming::Limits = incoming::Limits {
    messages: 100_000,
    bytes: 32 << 20,
};

/// What a core cannot find out by itself: the date, and a source of identifiers.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// Unix time of the `now` that the channel is made with.
    pub unix_time: Duration,
    /// Seed for message identifiers.
    pub seed: u64,
}

impl Origin {
    /// Asks the system; for drivers, not for tests.
    pub fn system() -> Self {
        Self {
            unix_time: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or(Duration::from_millis(1)),
            seed: rand::random(),
        }
    }
}
