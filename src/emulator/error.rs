//! Why an emulator does not start.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use super::fault::PlanError;

/// Why an emulator does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Another program listens there.
    #[error("cannot listen on {listen}, it is taken by another program")]
    PortTaken {
        /// The address asked for.
        listen: SocketAddr,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address asked for.
        listen: SocketAddr,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The address is reachable from other machines, and nothing here is authenticated.
    #[error("refusing to listen on {listen}: it is not a loopback address")]
    NotLoopback {
        /// The address asked for.
        listen: SocketAddr,
    },
    /// No machine was configured.
    #[error("no instance to emulate")]
    NoInstance,
    /// A machine's id is not one that StartSession could name.
    #[error("invalid instance id {id:?}")]
    InvalidInstance {
        /// The id in question.
        id: String,
    },
    /// Two machines have the same id.
    #[error("instance id {id} is given twice")]
    DuplicateInstance {
        /// The id in question.
        id: String,
    },
    /// The payload size is not one that can be sent.
    #[error("payload size {bytes} is not between 1 and {limit}")]
    PayloadBytes {
        /// The size asked for.
        bytes: usize,
        /// The largest possible.
        limit: usize,
    },
    /// The embedded agents did not connect in time.
    #[error("the embedded agent did not connect")]
    AgentAbsent,
    /// A fault to start with makes no sense.
    #[error("a fault makes no sense")]
    Fault(#[from] PlanError),
}

impl Error {
    pub(crate) fn listen(listen: SocketAddr, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::AddrInUse {
            Self::PortTaken { listen, source }
        } else {
            Self::Listen { listen, source }
        }
    }

    /// What to do about it, for the `hint:` line.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::PortTaken { .. } => "choose another port with --listen, or port 0 for a free one",
            Self::Listen { .. } => "listen on an address of this machine: --listen 127.0.0.1:0",
            Self::NotLoopback { .. } => "anyone who reaches it could log in: use 127.0.0.1",
            Self::NoInstance => "name at least one, such as i-0123456789abcdef0",
            Self::InvalidInstance { .. } => {
                "1 to 400 letters, digits and . _ : / - make an id, such as i-0123456789abcdef0"
            }
            Self::DuplicateInstance { .. } => "give each instance an id of its own",
            Self::PayloadBytes { .. } => "the real agent sends 1024",
            Self::Fault(_) => "see the examples in the documentation of emulator::fault",
            Self::AgentAbsent => "the machine may be overloaded: try again",
        }
    }
}
