//! What can go wrong in the transport, and whose fault it is.

use thiserror::Error;

use super::super::host_key;
use super::super::wire::Truncated;

/// Reason codes of `SSH_MSG_DISCONNECT` (RFC 4253 §11.1).
#[expect(missing_docs, reason = "the names are the RFC's")]
pub mod reason {
    pub const PROTOCOL_ERROR: u32 = 2;
    pub const KEY_EXCHANGE_FAILED: u32 = 3;
    pub const MAC_ERROR: u32 = 5;
    pub const COMPRESSION_ERROR: u32 = 6;
    pub const SERVICE_NOT_AVAILABLE: u32 = 7;
    pub const PROTOCOL_VERSION_NOT_SUPPORTED: u32 = 8;
    pub const HOST_KEY_NOT_VERIFIABLE: u32 = 9;
    pub const CONNECTION_LOST: u32 = 10;
    pub const BY_APPLICATION: u32 = 11;
    pub const TOO_MANY_CONNECTIONS: u32 = 12;
    pub const AUTH_CANCELLED_BY_USER: u32 = 13;
    pub const NO_MORE_AUTH_METHODS_AVAILABLE: u32 = 14;
    pub const ILLEGAL_USER_NAME: u32 = 15;
}

/// Why a transport stopped. None of these can be recovered from: the connection ends.
#[derive(Debug, Error)]
pub enum Error {
    /// The other end does not speak SSH. `seen` is the beginning of what it sent, made printable.
    #[error("the other end does not speak SSH, it sent: {seen}")]
    NotSsh {
        /// At most 80 printable characters.
        seen: String,
    },
    /// The other end speaks another major version of SSH.
    #[error("SSH protocol version not supported: {version}")]
    UnsupportedVersion {
        /// Its identification string, made printable.
        version: String,
    },
    /// The two lists of one algorithm kind have nothing in common.
    #[error("no common {kind} algorithm; the other end offers: {offered}")]
    NoCommonAlgorithm {
        /// What was being negotiated, for a person.
        kind: &'static str,
        /// The list of the other end, made printable.
        offered: String,
    },
    /// A packet has an impossible length or padding.
    #[error("invalid SSH packet: {0}")]
    InvalidPacket(&'static str),
    /// A packet was changed on its way, or the keys differ.
    #[error("SSH packet is corrupt")]
    Corrupt,
    /// A message is not what its number says.
    #[error("invalid SSH message {number}: {problem}")]
    InvalidMessage {
        /// The message number.
        number: u8,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A message that may not be sent at this time.
    #[error("SSH message {number} received {when}")]
    UnexpectedMessage {
        /// The message number.
        number: u8,
        /// The state it arrived in.
        when: &'static str,
    },
    /// The public value or ciphertext of the other end is unusable, or the shared secret is zero.
    #[error("SSH key exchange failed: {0}")]
    KeyExchange(&'static str),
    /// The signature over the exchange hash or the host key itself is wrong.
    #[error("SSH host key: {0}")]
    HostKey(#[from] host_key::Error),
    /// The other end presented another host key when keys were exchanged again.
    #[error("SSH host key changed during the connection")]
    HostKeyChanged,
    /// A compressed payload is invalid, or too large when decompressed.
    #[error("SSH compression: {0}")]
    Compression(&'static str),
    /// More packets were sent with one key than may be.
    #[error("SSH sequence numbers are used up")]
    SequenceExhausted,
    /// The other end makes us answer and does not read the answers.
    #[error("the other end does not read")]
    NotReading,
    /// `send` was called while `can_send` is false: a mistake of the caller.
    #[error("SSH message sent out of turn")]
    NotReady,
    /// `send` was called with an empty message or one larger than a packet: a mistake of the caller.
    #[error("SSH message of {0} bytes does not fit a packet")]
    InvalidSize(usize),
    /// The cryptographic library refused to work.
    #[error("cryptographic operation failed")]
    Crypto,
}

impl Error {
    /// What the other end is told about this error: a reason code, and sshd's words where it has some.
    pub fn farewell(&self) -> (u32, String) {
        match self {
            Self::InvalidPacket(_) | Self::Corrupt => {
                (reason::PROTOCOL_ERROR, "Packet corrupt".to_owned())
            }
            other => (other.reason(), other.to_string()),
        }
    }

    fn reason(&self) -> u32 {
        match self {
            Self::UnsupportedVersion { .. } => reason::PROTOCOL_VERSION_NOT_SUPPORTED,
            Self::NoCommonAlgorithm { .. } | Self::KeyExchange(_) => reason::KEY_EXCHANGE_FAILED,
            Self::Compression(_) => reason::COMPRESSION_ERROR,
            Self::HostKey(_) | Self::HostKeyChanged => reason::HOST_KEY_NOT_VERIFIABLE,
            Self::SequenceExhausted | Self::NotReady | Self::InvalidSize(_) | Self::Crypto => {
                reason::BY_APPLICATION
            }
            Self::NotSsh { .. }
            | Self::InvalidPacket(_)
            | Self::Corrupt
            | Self::InvalidMessage { .. }
            | Self::UnexpectedMessage { .. }
            | Self::NotReading => reason::PROTOCOL_ERROR,
        }
    }

    /// Says that message `number` ended before its fields did.
    pub(super) fn truncated(number: u8) -> impl Fn(Truncated) -> Self {
        move |_| Self::InvalidMessage {
            number,
            problem: "shorter than its fields",
        }
    }
}

impl From<aws_lc_rs::error::Unspecified> for Error {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Crypto
    }
}
