//! The body of `acknowledge` messages.
//!
//! Every stream message costs one acknowledgement the other way, so both directions are cheap
//! here: the body is written without a serializer, and read without copying.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;

use super::message::{FLAG_FIN, FLAG_SYN, Header, MessageType};
use super::payload::PayloadType;

/// Confirmation of one stream message; selective, never cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledge {
    /// Type of the message confirmed.
    pub message_type: MessageType,
    /// Identifier of the message confirmed, in logical order.
    pub message_id: Uuid,
    /// Number of the message confirmed: all that a receiver goes by.
    pub sequence_number: i64,
}

impl Acknowledge {
    /// Encodes the whole `acknowledge` message: number 0, SYN and FIN, payload type 0.
    pub fn encode(&self, message_id: Uuid, created_date: u64) -> Bytes {
        let header = Header {
            message_type: MessageType::Acknowledge,
            created_date,
            sequence_number: 0,
            flags: FLAG_SYN | FLAG_FIN,
            message_id,
            payload_type: Some(PayloadType::Undefined),
        };
        header.encode(self.body().as_bytes())
    }

    /// The JSON body, its keys in the order of the official client.
    fn body(&self) -> StackText {
        let mut text = StackText::default();
        // Cannot fail: the longest body (32-byte type, 20-digit number) has 207 bytes.
        let _ = write!(
            text,
            "{{\"AcknowledgedMessageType\":\"{}\",\"AcknowledgedMessageId\":\"{}\",\
             \"AcknowledgedMessageSequenceNumber\":{},\"IsSequentialMessage\":true}}",
            self.message_type.name(),
            self.message_id.as_hyphenated(),
            self.sequence_number
        );
        text
    }
}

/// Reads the sequence number that an acknowledgement confirms.
///
/// Type and identifier are not looked at, as in both official ends.
///
/// # Errors
/// When `payload` is not the JSON of an acknowledgement.
pub fn acknowledged(payload: &[u8]) -> Result<i64, serde_json::Error> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "AcknowledgedMessageSequenceNumber")]
        sequence_number: i64,
    }
    Ok(serde_json::from_slice::<Body>(payload)?.sequence_number)
}

/// Text on the stack: an acknowledgement is built without an allocation of its own.
struct StackText {
    bytes: [u8; 256],
    length: usize,
}

impl Default for StackText {
    fn default() -> Self {
        Self {
            bytes: [0; 256],
            length: 0,
        }
    }
}

impl StackText {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Write for StackText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let room = self
            .bytes
            .get_mut(self.length..end)
            .ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::ClientMessage;
    use super::*;

    #[test]
    fn the_message_is_the_official_one() {
        let acknowledge = Acknowledge {
            message_type: MessageType::OutputStreamData,
            message_id: Uuid::parse_str("01234567-89ab-cdef-0011-223344556677").unwrap(),
            sequence_number: 42,
        };
        let message = ClientMessage::decode(acknowledge.encode(Uuid::nil(), 1)).unwrap();
        assert_eq!(message.header.flags, 3);
        assert_eq!(message.header.sequence_number, 0);
        assert_eq!(message.header.payload_type, Some(PayloadType::Undefined));
        assert_eq!(
            message.payload,
            r#"{"AcknowledgedMessageType":"output_stream_data","AcknowledgedMessageId":"01234567-89ab-cdef-0011-223344556677","AcknowledgedMessageSequenceNumber":42,"IsSequentialMessage":true}"#
        );
        assert_eq!(acknowledged(&message.payload).unwrap(), 42);
    }

    #[test]
    fn the_longest_body_fits() {
        let acknowledge = Acknowledge {
            message_type: MessageType::Other([b'x'; 32]),
            message_id: Uuid::max(),
            sequence_number: i64::MIN,
        };
        let body = acknowledge.body();
        assert_eq!(acknowledged(body.as_bytes()).unwrap(), i64::MIN);
    }

    #[test]
    fn order_and_unknown_keys_do_not_matter_but_the_number_does() {
        let body = br#"{"IsSequentialMessage":true,"X":{},"AcknowledgedMessageSequenceNumber":7}"#;
        assert_eq!(acknowledged(body).unwrap(), 7);
        for garbage in [
            &b""[..],
            b"{}",
            b"[]",
            b"\xff",
            br#"{"AcknowledgedMessageSequenceNumber":1e400}"#,
        ] {
            assert!(acknowledged(garbage).is_err());
        }
    }
}
