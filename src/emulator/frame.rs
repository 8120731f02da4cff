//! The messages that the service and the agent write beside the stream, and what the service
//! reads of the messages it relays.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::ssm::protocol::message::{
    ClientMessage, FLAG_FIN, FLAG_SYN, HEADER_LENGTH, HEADER_LENGTH_UNTYPED, Header, MessageType,
    OVERHEAD,
};
use crate::ssm::protocol::payload::{AgentSessionState, ChannelClosed, PayloadType};

/// Where the message type stands in a message (sheet §1).
const TYPE: std::ops::Range<usize> = 4..36;

/// Returns the message type of `frame`, without its padding; nothing when it is too short or not
/// text.
pub(crate) fn message_type(frame: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(frame.get(TYPE)?).ok()?;
    Some(name.trim_matches(|padding: char| padding == '\0' || padding.is_ascii_whitespace()))
}

/// Returns the payload type of `frame`, if it has one.
pub(crate) fn payload_type(frame: &[u8]) -> Option<u32> {
    let wire: [u8; 4] = frame
        .get(HEADER_LENGTH - 4..HEADER_LENGTH)?
        .try_into()
        .ok()?;
    Some(u32::from_be_bytes(wire))
}

/// Returns the payload of `frame`, found by the header length as both ends do.
pub(crate) fn payload(frame: &[u8]) -> Option<&[u8]> {
    let header = frame
        .first_chunk()
        .map(|length| u32::from_be_bytes(*length))?;
    let header = usize::try_from(header).ok()?;
    if header != HEADER_LENGTH_UNTYPED && header != HEADER_LENGTH {
        return None;
    }
    frame.get(header + 4..)
}

/// Returns the sequence number of `frame`; nothing when it is negative or there is none.
pub(crate) fn sequence_number(frame: &[u8]) -> Option<u64> {
    let wire: [u8; 8] = frame.get(48..56)?.try_into().ok()?;
    u64::try_from(i64::from_be_bytes(wire)).ok()
}

/// Returns the message id of `frame`, its halves put back in order.
pub(crate) fn message_id(frame: &[u8]) -> Option<Uuid> {
    let wire: [u8; 16] = frame.get(64..80)?.try_into().ok()?;
    Some(Uuid::from_u128(u128::from_be_bytes(wire).rotate_left(64)))
}

/// Checks what a client sent more strictly than any agent would, to find clients' mistakes.
///
/// # Errors
/// A sentence for the log.
pub(crate) fn verify(frame: &Bytes) -> Result<(), String> {
    let message = ClientMessage::decode(frame.clone()).map_err(|error| error.to_string())?;
    let header = &message.header;
    if header.payload_type.is_none() {
        return Err("header length is not 116".into());
    }
    if header.sequence_number < 0 {
        return Err(format!("sequence number {}", header.sequence_number));
    }
    if message.payload.is_empty() {
        return Err("empty payload".into());
    }
    let schema = &frame[TYPE.end..TYPE.end + 4];
    if schema != 1u32.to_be_bytes() {
        return Err(format!("schema version {schema:?}"));
    }
    let length = u32::try_from(message.payload.len()).unwrap_or(u32::MAX);
    if frame[HEADER_LENGTH..OVERHEAD] != length.to_be_bytes() {
        return Err("PayloadLength is not the length of the payload".into());
    }
    Ok(())
}

/// Builds a message of the control channel: no flags, no sequence.
pub(crate) fn control(kind: MessageType, payload: &str) -> Message {
    let header = header(kind, 0, Some(PayloadType::Undefined));
    Message::Binary(header.encode(payload.as_bytes()))
}

/// Builds `channel_closed`, which ends a session for either end.
///
/// Its header is 112 bytes long, as from the real service (sheet §1): there is no payload type.
pub(crate) fn channel_closed(session: &str, output: &str) -> Message {
    let header = header(MessageType::ChannelClosed, 0, None);
    let closed = ChannelClosed {
        message_id: header.message_id.to_string(),
        created_date: header.created_date.to_string(),
        destination_id: session.into(),
        session_id: session.into(),
        message_type: MessageType::ChannelClosed.name().into(),
        schema_version: 1,
        output: output.into(),
    };
    Message::Binary(header.encode(json(&closed).as_bytes()))
}

/// Which of the two headers a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderKind {
    /// 116 bytes.
    Typed,
    /// 112 bytes: there is no payload type.
    Untyped,
}

/// Builds `start_publication` or `pause_publication`.
///
/// Digest and length are those of an empty payload and there is one: they are wrong on the real
/// service too (sheet §1), and no reader may look at them.
pub(crate) fn publication(start: bool, kind_of_header: HeaderKind) -> Message {
    let kind = if start {
        MessageType::StartPublication
    } else {
        MessageType::PausePublication
    };
    let payload_type = match kind_of_header {
        HeaderKind::Typed => Some(PayloadType::Undefined),
        HeaderKind::Untyped => None,
    };
    let header = header(kind, 0, payload_type);
    let mut frame = BytesMut::from(header.encode(b""));
    frame.put_slice(br#"{"SchemaVersion":1}"#);
    Message::Binary(frame.freeze())
}

/// Builds `agent_session_state`.
pub(crate) fn session_state(session: &str, state: &str) -> Message {
    let header = header(
        MessageType::AgentSessionState,
        FLAG_SYN | FLAG_FIN,
        Some(PayloadType::Undefined),
    );
    let state = AgentSessionState {
        schema_version: 1,
        session_state: state.into(),
        session_id: session.into(),
    };
    Message::Binary(header.encode(json(&state).as_bytes()))
}

fn header(message_type: MessageType, flags: u64, payload_type: Option<PayloadType>) -> Header {
    Header {
        message_type,
        created_date: created_millis(),
        sequence_number: 0,
        flags,
        message_id: Uuid::new_v4(),
        payload_type,
    }
}

fn json(body: &impl serde::Serialize) -> String {
    serde_json::to_string(body).expect("structs of strings and numbers serialize")
}

/// The time as messages carry it; never 0.
fn created_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(message: Message) -> Vec<u8> {
        message.into_data().to_vec()
    }

    #[test]
    fn service_messages_have_the_layout_of_the_sheet() {
        let frame = bytes(channel_closed("s-1", "bye"));
        assert_eq!(frame[..4], [0, 0, 0, 112]);
        assert_eq!(&frame[4..36], b"channel_closed                  ");
        let payload = payload(&frame).unwrap();
        assert_eq!(
            frame[112..116],
            u32::try_from(payload.len()).unwrap().to_be_bytes()
        );
        let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
        assert_eq!(json["Output"], "bye");
        assert_eq!(json["SchemaVersion"], 1);
    }

    #[test]
    fn control_messages_have_every_field() {
        let frame = bytes(control(MessageType::InteractiveShell, "{}"));
        assert_eq!(frame.len(), 122);
        assert_eq!(frame[..4], [0, 0, 0, 116]);
        assert_eq!(frame[116..120], [0, 0, 0, 2]);
        assert_eq!(message_type(&frame), Some("interactive_shell"));
        assert_eq!(payload(&frame), Some(&b"{}"[..]));
    }

    #[test]
    fn publication_is_wrong_where_the_service_is() {
        let frame = bytes(publication(true, HeaderKind::Typed));
        assert_eq!(message_type(&frame), Some("start_publication"));
        assert_eq!(frame[116..120], [0; 4]);
        assert!(frame.len() > OVERHEAD);
        let short = bytes(publication(false, HeaderKind::Untyped));
        assert_eq!(short[..4], [0, 0, 0, 112]);
        assert_eq!(payload(&short), payload(&frame));
    }

    #[test]
    fn the_message_id_is_read_in_logical_order() {
        let mut frame = bytes(control(MessageType::Acknowledge, "{}"));
        frame[64..72].copy_from_slice(&[0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
        frame[72..80].copy_from_slice(&[0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10]);
        let id = message_id(&frame).unwrap();
        assert_eq!(id.to_string(), "fedcba98-7654-3210-8899-aabbccddeeff");
    }

    #[test]
    fn short_and_strange_frames_are_nothing() {
        assert_eq!(message_type(&[0; 20]), None);
        assert_eq!(message_type(&[0xff; 200]), None);
        assert_eq!(payload(&[0xff; 200]), None);
        assert_eq!(payload(&[0, 0, 0, 116]), None);
    }

    #[test]
    fn clients_mistakes_are_found() {
        let good = bytes(control(MessageType::InputStreamData, "hello"));
        assert_eq!(verify(&Bytes::from(good.clone())), Ok(()));
        let mistakes: [(&str, usize, u8); 6] = [
            ("header length", 3, 115),
            ("schema version", 39, 2),
            ("sequence number", 48, 0x80),
            ("payload digest", 80, !good[80]),
            ("PayloadLength", 119, 4),
            ("payload digest", 120, b'j'),
        ];
        for (expected, offset, value) in mistakes {
            let mut frame = good.clone();
            frame[offset] = value;
            let problem = verify(&Bytes::from(frame)).unwrap_err();
            assert!(problem.contains(expected), "{offset}: {problem}");
        }
        assert!(verify(&Bytes::from(good[..100].to_vec())).is_err());
        let empty = bytes(control(MessageType::InputStreamData, ""));
        assert!(verify(&Bytes::from(empty)).is_err());
        let closed = bytes(channel_closed("s-1", ""));
        assert!(verify(&Bytes::from(closed)).is_err());
    }
}
