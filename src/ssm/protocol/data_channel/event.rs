//! What a data channel tells its owner: events, counters, errors.

use bytes::Bytes;
use serde_json::Value;
use thiserror::Error;

use super::super::handshake::{self, HandshakeRequest, SessionType};
use super::super::message::{self, MessageType};
use super::super::payload::{self, ChannelClosed, Flag, PayloadType, Size};
use super::super::reliability::outgoing::AcknowledgedUnsent;
use super::super::version;

/// The largest payload that is sent; the agent was seen to accept 1 MiB.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// What the owner of a [`DataChannel`](super::DataChannel) is told.
#[derive(Debug)]
pub enum Event {
    /// Client: the agent has asked; the answer is on its way.
    HandshakeRequest(HandshakeRequest),
    /// Data may be sent.
    Established(Established),
    /// There will be no stream; the owner ends the SSM session.
    HandshakeFailed(handshake::Error),
    /// Stream bytes: Output, StdErr, ExitCode, or a type not known here.
    Data(PayloadType, Bytes),
    /// A flag of the peer.
    Flag(Flag),
    /// Size of the terminal.
    Size(Size),
    /// The service asks for a pause; the client need not obey.
    Paused,
    /// The pause is over.
    Started,
    /// The SSM session is over; comes after all data that arrived before it.
    Closed(ChannelClosed),
}

/// What both ends know after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Established {
    /// Version of the other end; `None` without a handshake.
    pub peer_version: Option<String>,
    /// Kind of session, and the properties of its document; `None` without a handshake.
    pub session: Option<(SessionType, Value)>,
    /// Whether the stream is smux.
    pub is_multiplexed: bool,
    /// Whether an old peer wants smux keep-alives.
    pub needs_keepalive: bool,
    /// Client: text for the user, often empty.
    pub customer_message: String,
}

/// Counters since the beginning of the SSM session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Stream messages sent for the first time.
    pub sent: u64,
    /// Stream messages sent again.
    pub resent: u64,
    /// Stream messages of ours that were acknowledged.
    pub acknowledged: u64,
    /// Stream messages received in any order, without duplicates.
    pub received: u64,
    /// Stream messages received once more.
    pub duplicates: u64,
    /// Stream messages for which there was no room, or which came before we were ready.
    pub dropped: u64,
}

impl Established {
    pub(super) fn without_handshake() -> Self {
        Self {
            peer_version: None,
            session: None,
            is_multiplexed: false,
            needs_keepalive: false,
            customer_message: String::new(),
        }
    }

    pub(super) fn between(request: &HandshakeRequest, client_version: &str) -> Self {
        Self {
            peer_version: None,
            session: request
                .session()
                .map(|(kind, properties)| (kind, properties.clone())),
            is_multiplexed: request.is_multiplexed(client_version),
            needs_keepalive: !(version::client_needs_no_keepalive(client_version)
                && version::agent_needs_no_keepalive(&request.agent_version)),
            customer_message: String::new(),
        }
    }
}

/// Why input was refused; the channel stays usable, and the peer will send the message again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a valid message.
    #[error("invalid message")]
    Message(#[from] message::Error),
    /// An acknowledgement that cannot be read.
    #[error("invalid acknowledgement")]
    Acknowledge(#[source] serde_json::Error),
    /// An acknowledgement of something never sent.
    #[error(transparent)]
    AcknowledgedUnsent(#[from] AcknowledgedUnsent),
    /// A stream message with a negative number.
    #[error("negative sequence number {0}")]
    SequenceNumber(i64),
    /// A stream message of the direction we send in ourselves.
    #[error("{0} arrived at the end that sends it")]
    Direction(MessageType),
    /// A payload that is not what its type promises; it was acknowledged and dropped.
    #[error("invalid {kind:?} payload")]
    Payload {
        /// Type of the payload.
        kind: PayloadType,
        /// What is wrong with it.
        #[source]
        source: payload::Error,
    },
    /// A handshake message at the wrong time; it was acknowledged and dropped.
    #[error("unexpected {0:?}")]
    UnexpectedHandshake(PayloadType),
}

/// Why a message was not taken for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The outgoing buffer is full: try again when acknowledgements have come in.
    #[error("too much is unacknowledged")]
    Full,
    /// The handshake is not complete; the agent would throw the message away.
    #[error("the handshake is not complete")]
    NotEstablished,
    /// The SSM session is over.
    #[error("the SSM session is over")]
    Closed,
    /// Neither end can send an empty payload.
    #[error("the payload is empty")]
    Empty,
    /// More than [`MAX_PAYLOAD`] bytes.
    #[error("the payload has {0} bytes, more than {MAX_PAYLOAD}")]
    TooLarge(usize),
}
