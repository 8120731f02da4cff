//! `ClientMessage` (the agent's `AgentMessage`): the binary layout of one WebSocket message.
//!
//! | offset | size | field |
//! |---:|---:|---|
//! | 0 | 4 | HeaderLength: the offset of PayloadLength, 116, or 112 when PayloadType is left out |
//! | 4 | 32 | MessageType, ASCII, padded with spaces |
//! | 36 | 4 | SchemaVersion, 1 |
//! | 40 | 8 | CreatedDate, Unix milliseconds, never 0 |
//! | 48 | 8 | SequenceNumber, signed |
//! | 56 | 8 | Flags |
//! | 64 | 16 | MessageId, a UUID with its two halves swapped |
//! | 80 | 32 | PayloadDigest, SHA-256 of the payload |
//! | 112 | 4 | PayloadType |
//! | 116 | 4 | PayloadLength, written and never read: the payload ends with the frame |
//! | 120 | n | Payload |
//!
//! All integers are big-endian.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;
use uuid::Uuid;

use super::payload::PayloadType;

/// HeaderLength of a message with a PayloadType field.
pub const HEADER_LENGTH: usize = 116;
/// HeaderLength of a message of the service, which leaves the PayloadType field out.
pub const HEADER_LENGTH_UNTYPED: usize = 112;
/// Bytes before the payload in what both official ends write: header and PayloadLength.
pub const OVERHEAD: usize = HEADER_LENGTH + 4;
/// The largest message accepted, in bytes; the agent was seen to accept payloads of 1 MiB.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Flag bit of the first stream message of the agent.
pub const FLAG_SYN: u64 = 0x1;
/// Flag bit that, together with [`FLAG_SYN`], marks messages outside the sequence.
pub const FLAG_FIN: u64 = 0x2;

const SCHEMA_VERSION: u32 = 1;
const TYPE_BYTES: usize = 32;
const DIGEST_BYTES: usize = 32;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// Fewer bytes than the header announces.
    #[error("message of {0} bytes is shorter than its header")]
    Truncated(usize),
    /// More than [`MAX_MESSAGE`] bytes.
    #[error("message of {0} bytes exceeds the limit of {MAX_MESSAGE}")]
    TooLarge(usize),
    /// A HeaderLength other than 112 and 116.
    #[error("unknown header length {0}")]
    HeaderLength(u32),
    /// No MessageType.
    #[error("message has no type")]
    NoMessageType,
    /// CreatedDate is 0, which both official ends refuse.
    #[error("message has no creation date")]
    NoCreatedDate,
    /// The payload is not what the sender digested.
    #[error("payload digest does not match")]
    Digest,
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// Client to agent, sequenced.
    InputStreamData,
    /// Agent to client, sequenced.
    OutputStreamData,
    /// Confirms one sequenced message.
    Acknowledge,
    /// The service says that the SSM session is over.
    ChannelClosed,
    /// The service allows the stream again.
    StartPublication,
    /// The service asks to hold the stream.
    PausePublication,
    /// The agent tells the service about the state of the SSM session.
    AgentSessionState,
    /// Control channel: the service starts an SSM session at the agent.
    InteractiveShell,
    /// Control channel: the agent has finished an SSM session.
    AgentTaskComplete,
    /// Control channel: the service has noted the end.
    AgentTaskAcknowledge,
    /// Any other name, padded with spaces as on the wire.
    Other([u8; TYPE_BYTES]),
}

impl MessageType {
    const NAMES: [(Self, &'static str); 10] = [
        (Self::InputStreamData, "input_stream_data"),
        (Self::OutputStreamData, "output_stream_data"),
        (Self::Acknowledge, "acknowledge"),
        (Self::ChannelClosed, "channel_closed"),
        (Self::StartPublication, "start_publication"),
        (Self::PausePublication, "pause_publication"),
        (Self::AgentSessionState, "agent_session_state"),
        (Self::InteractiveShell, "interactive_shell"),
        (Self::AgentTaskComplete, "agent_task_complete"),
        (Self::AgentTaskAcknowledge, "agent_task_acknowledge"),
    ];

    /// The name on the wire, without padding.
    pub fn name(&self) -> &str {
        match self {
            Self::Other(bytes) => std::str::from_utf8(trim(bytes)).unwrap_or("?"),
            known => Self::NAMES
                .iter()
                .find_map(|(kind, name)| (kind == known).then_some(*name))
                .unwrap_or("?"),
        }
    }

    /// Whether messages of this type carry sequence numbers and want acknowledgements.
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::InputStreamData | Self::OutputStreamData)
    }

    /// Whether the service fills in digest and length wrongly, so that they must not be checked.
    fn is_exempt_from_checks(&self) -> bool {
        matches!(self, Self::StartPublication | Self::PausePublication)
    }

    fn decode(field: &[u8; TYPE_BYTES]) -> Result<Self, Error> {
        let name = trim(field);
        if name.is_empty() {
            return Err(Error::NoMessageType);
        }
        Ok(Self::NAMES
            .iter()
            .find_map(|(kind, known)| (known.as_bytes() == name).then_some(*kind))
            .unwrap_or_else(|| {
                let mut padded = [b' '; TYPE_BYTES];
                padded[..name.len()].copy_from_slice(name);
                Self::Other(padded)
            }))
    }

    fn encode(&self) -> [u8; TYPE_BYTES] {
        if let Self::Other(bytes) = self {
            return *bytes;
        }
        let mut field = [b' '; TYPE_BYTES];
        let name = self.name().as_bytes();
        field[..name.len()].copy_from_slice(name);
        field
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.name().chars() {
            write!(f, "{}", character.escape_default())?;
        }
        Ok(())
    }
}

/// Strips what both official readers strip: NULs and white space at either end.
fn trim(field: &[u8]) -> &[u8] {
    let is_padding = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    let start = field.iter().position(|byte| !is_padding(byte));
    let end = field.iter().rposition(|byte| !is_padding(byte));
    match (start, end) {
        (Some(start), Some(end)) => &field[start..=end],
        _ => &[],
    }
}

/// Everything of a message but the payload and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the message is about.
    pub message_type: MessageType,
    /// When the message was made, in Unix milliseconds; never 0, and the same in every resend.
    pub created_date: u64,
    /// Position in the stream, from 0; 0 in messages outside the sequence.
    pub sequence_number: i64,
    /// [`FLAG_SYN`] and [`FLAG_FIN`]; receivers ignore them.
    pub flags: u64,
    /// Identifier in its logical order, as acknowledgements quote it.
    pub message_id: Uuid,
    /// Kind of the payload; `None` is the short header of the service.
    pub payload_type: Option<PayloadType>,
}

impl Header {
    /// Encodes the header and `payload`, with its digest, in one allocation.
    pub fn encode(&self, payload: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(OVERHEAD + payload.len());
        let header_length = match self.payload_type {
            Some(_) => HEADER_LENGTH,
            None => HEADER_LENGTH_UNTYPED,
        };
        frame.put_u32(header_length as u32);
        frame.put_slice(&self.message_type.encode());
        frame.put_u32(SCHEMA_VERSION);
        frame.put_u64(self.created_date);
        frame.put_i64(self.sequence_number);
        frame.put_u64(self.flags);
        frame.put_slice(&swap_halves(self.message_id.as_bytes()));
        frame.put_slice(digest(&SHA256, payload).as_ref());
        if let Some(payload_type) = self.payload_type {
            frame.put_u32(payload_type.code());
        }
        frame.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        frame.put_slice(payload);
        frame.freeze()
    }
}

/// One message of the data channel or the control channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientMessage {
    /// Everything but the payload.
    pub header: Header,
    /// The payload, sharing the memory of the frame it was decoded from.
    pub payload: Bytes,
}

impl ClientMessage {
    /// Decodes one WebSocket message and checks it as the official client does.
    ///
    /// The payload is cut by HeaderLength and by the end of the frame; PayloadLength is not looked
    /// at. The digest is checked unless the payload is empty or the message is a
    /// `start_publication` or `pause_publication`, which the service fills in wrongly.
    ///
    /// # Errors
    /// [`enum@Error`] when the bytes are no valid message; the frame is then best dropped, and its
    /// sender will send it again.
    pub fn decode(frame: Bytes) -> Result<Self, Error> {
        if frame.len() > MAX_MESSAGE {
            return Err(Error::TooLarge(frame.len()));
        }
        let mut fields = Fields { rest: &frame };
        let header_length = u32::from_be_bytes(fields.take()?);
        if ![HEADER_LENGTH, HEADER_LENGTH_UNTYPED].contains(&(header_length as usize)) {
            return Err(Error::HeaderLength(header_length));
        }
        let message_type = MessageType::decode(&fields.take()?)?;
        let _schema_version: [u8; 4] = fields.take()?;
        let created_date = u64::from_be_bytes(fields.take()?);
        let sequence_number = i64::from_be_bytes(fields.take()?);
        let flags = u64::from_be_bytes(fields.take()?);
        let message_id = Uuid::from_bytes(swap_halves(&fields.take()?));
        let payload_digest: [u8; DIGEST_BYTES] = fields.take()?;
        let payload_type = match header_length as usize {
            HEADER_LENGTH => Some(PayloadType::from_code(u32::from_be_bytes(fields.take()?))),
            _ => None,
        };
        let _payload_length: [u8; 4] = fields.take()?;
        let payload = frame.slice_ref(fields.rest);
        if !message_type.is_exempt_from_checks() {
            if created_date == 0 {
                return Err(Error::NoCreatedDate);
            }
            if !payload.is_empty() && digest(&SHA256, &payload).as_ref() != payload_digest {
                return Err(Error::Digest);
            }
        }
        let header = Header {
            message_type,
            created_date,
            sequence_number,
            flags,
            message_id,
            payload_type,
        };
        Ok(Self { header, payload })
    }

    /// Encodes the message, its digest computed anew.
    pub fn encode(&self) -> Bytes {
        self.header.encode(&self.payload)
    }
}

/// Takes fields of fixed size off the front of a frame.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (field, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Error::Truncated(self.rest.len()))?;
        self.rest = rest;
        Ok(*field)
    }
}

/// Exchanges the halves of a UUID: the wire has its last eight bytes first.
fn swap_halves(id: &[u8; 16]) -> [u8; 16] {
    let mut swapped = *id;
    swapped.rotate_left(8);
    swapped
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
