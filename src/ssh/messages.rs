//! Messages of the connection protocol (RFC 4254), read as far as a middleman needs to.
//!
//! A relay passes messages on as they came. [`Message::parse`] tells it what a message is and whom
//! it is for; the few constructors build the messages that a relay says in its own name.

use bytes::{Bytes, BytesMut};

use super::wire::{Reader, Truncated, WriteExt, msg};

/// Reason codes of `CHANNEL_OPEN_FAILURE` (RFC 4254 §5.1).
#[expect(missing_docs, reason = "the names are the RFC's")]
pub mod open_failure {
    pub const ADMINISTRATIVELY_PROHIBITED: u32 = 1;
    pub const CONNECT_FAILED: u32 = 2;
    pub const UNKNOWN_CHANNEL_TYPE: u32 = 3;
    pub const RESOURCE_SHORTAGE: u32 = 4;
}

/// One message numbered 80 or above: what it is, and the fields that decide where it goes.
///
/// `recipient` is the number that the *receiver* of the message gave the channel, `sender` the
/// number that its sender gave it (RFC 4254 §5.1). Names are opaque bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the RFC's")]
pub enum Message<'a> {
    GlobalRequest {
        name: &'a [u8],
        want_reply: bool,
    },
    /// `REQUEST_SUCCESS` or `REQUEST_FAILURE`: global replies carry no id, their order is their meaning.
    GlobalReply,
    Open {
        kind: &'a [u8],
        sender: u32,
        window: u32,
        max_packet: u32,
    },
    OpenConfirmation {
        recipient: u32,
        sender: u32,
        window: u32,
        max_packet: u32,
    },
    OpenFailure {
        recipient: u32,
    },
    WindowAdjust {
        recipient: u32,
        bytes: u32,
    },
    /// `CHANNEL_DATA` or `CHANNEL_EXTENDED_DATA`; `length` is what it takes from the window.
    Data {
        recipient: u32,
        length: u32,
    },
    Eof {
        recipient: u32,
    },
    Close {
        recipient: u32,
    },
    Request {
        recipient: u32,
        name: &'a [u8],
        want_reply: bool,
    },
    /// `CHANNEL_SUCCESS` or `CHANNEL_FAILURE`.
    Reply {
        recipient: u32,
    },
    /// A number that RFC 4254 does not define.
    Unknown,
    /// Its fields do not fill it, or do not fit in it.
    Malformed,
}

impl<'a> Message<'a> {
    /// The number that its receiver gave the channel it is for; none when it is for no channel that exists.
    pub fn recipient(&self) -> Option<u32> {
        match *self {
            Self::OpenConfirmation { recipient, .. }
            | Self::OpenFailure { recipient }
            | Self::WindowAdjust { recipient, .. }
            | Self::Data { recipient, .. }
            | Self::Eof { recipient }
            | Self::Close { recipient }
            | Self::Request { recipient, .. }
            | Self::Reply { recipient } => Some(recipient),
            Self::GlobalRequest { .. }
            | Self::GlobalReply
            | Self::Open { .. }
            | Self::Unknown
            | Self::Malformed => None,
        }
    }

    /// Reads the fields of `message` that are listed above. What may follow them is not looked at; after data
    /// and adjustments nothing may.
    pub fn parse(message: &'a [u8]) -> Self {
        Self::try_parse(message).unwrap_or(Self::Malformed)
    }

    fn try_parse(message: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(message);
        Ok(match reader.u8()? {
            msg::GLOBAL_REQUEST => Self::GlobalRequest {
                name: reader.string()?,
                want_reply: reader.bool()?,
            },
            msg::REQUEST_SUCCESS | msg::REQUEST_FAILURE => Self::GlobalReply,
            msg::CHANNEL_OPEN => Self::Open {
                kind: reader.string()?,
                sender: reader.u32()?,
                window: reader.u32()?,
                max_packet: reader.u32()?,
            },
            msg::CHANNEL_OPEN_CONFIRMATION => Self::OpenConfirmation {
                recipient: reader.u32()?,
                sender: reader.u32()?,
                window: reader.u32()?,
                max_packet: reader.u32()?,
            },
            msg::CHANNEL_OPEN_FAILURE => Self::OpenFailure {
                recipient: reader.u32()?,
            },
            msg::CHANNEL_WINDOW_ADJUST => {
                let (recipient, bytes) = (reader.u32()?, reader.u32()?);
                if !reader.is_empty() {
                    return Ok(Self::Malformed);
                }
                Self::WindowAdjust { recipient, bytes }
            }
            number @ (msg::CHANNEL_DATA | msg::CHANNEL_EXTENDED_DATA) => {
                let recipient = reader.u32()?;
                if number == msg::CHANNEL_EXTENDED_DATA {
                    let _type_code = reader.u32()?;
                }
                let length = reader.string()?.len() as u32;
                if !reader.is_empty() {
                    return Ok(Self::Malformed);
                }
                Self::Data { recipient, length }
            }
            msg::CHANNEL_EOF => Self::Eof {
                recipient: reader.u32()?,
            },
            msg::CHANNEL_CLOSE => Self::Close {
                recipient: reader.u32()?,
            },
            msg::CHANNEL_REQUEST => Self::Request {
                recipient: reader.u32()?,
                name: reader.string()?,
                want_reply: reader.bool()?,
            },
            msg::CHANNEL_SUCCESS | msg::CHANNEL_FAILURE => Self::Reply {
                recipient: reader.u32()?,
            },
            _ => Self::Unknown,
        })
    }
}

/// The same `CHANNEL_OPEN` or `CHANNEL_OPEN_CONFIRMATION` with another initial window.
///
/// Any other message comes back unchanged.
pub fn with_initial_window(message: Bytes, window: u32) -> Bytes {
    let offset = match Message::parse(&message) {
        Message::Open { kind, .. } => 1 + 4 + kind.len() + 4,
        Message::OpenConfirmation { .. } => 1 + 4 + 4,
        _ => return message,
    };
    let mut patched = BytesMut::from(message);
    patched[offset..offset + 4].copy_from_slice(&window.to_be_bytes());
    patched.freeze()
}

/// The same message for another channel: every message from `CHANNEL_OPEN_CONFIRMATION` to `CHANNEL_FAILURE` begins
/// with the number of its recipient.
///
/// Any other message, and one that ends before that number does, comes back unchanged.
pub fn with_recipient(message: Bytes, recipient: u32) -> Bytes {
    const FIELD: std::ops::Range<usize> = 1..5;
    let is_for_channel = message.first().is_some_and(|number| {
        (msg::CHANNEL_OPEN_CONFIRMATION..=msg::CHANNEL_FAILURE).contains(number)
    });
    if !is_for_channel || message.len() < FIELD.end {
        return message;
    }
    let mut patched = BytesMut::from(message);
    patched[FIELD].copy_from_slice(&recipient.to_be_bytes());
    patched.freeze()
}

/// The same `CHANNEL_OPEN` or `CHANNEL_OPEN_CONFIRMATION` from a sender that numbers the channel `sender`.
///
/// Any other message comes back unchanged.
pub fn with_sender(message: Bytes, sender: u32) -> Bytes {
    let offset = match Message::parse(&message) {
        Message::Open { kind, .. } => 1 + 4 + kind.len(),
        Message::OpenConfirmation { .. } => 1 + 4,
        _ => return message,
    };
    let mut patched = BytesMut::from(message);
    patched[offset..offset + 4].copy_from_slice(&sender.to_be_bytes());
    patched.freeze()
}

/// Appends the payload of the data message `next` to the one of `tail`.
///
/// Returns false, and changes nothing, when they are not data of the same kind for the same channel,
/// or when together they have more than `max_payload` bytes. A channel is a byte stream: where
/// messages begin and end in it means nothing (RFC 4254 §5.2), except in one of datagrams.
pub fn merge_data(tail: &mut Bytes, next: &[u8], max_payload: usize) -> bool {
    // Number and recipient, and for extended data its type code.
    let stream = match next.first() {
        Some(&msg::CHANNEL_DATA) => 1 + 4,
        Some(&msg::CHANNEL_EXTENDED_DATA) => 1 + 4 + 4,
        _ => return false,
    };
    let header = stream + 4;
    if tail.len() < header
        || next.len() < header
        || tail.len() + next.len() - 2 * header > max_payload
    {
        return false;
    }
    if tail[..stream] != next[..stream] {
        return false;
    }
    let mut merged = BytesMut::from(std::mem::take(tail));
    merged.extend_from_slice(&next[header..]);
    let length = (merged.len() - header) as u32;
    merged[stream..header].copy_from_slice(&length.to_be_bytes());
    *tail = merged.freeze();
    true
}

/// `CHANNEL_WINDOW_ADJUST` (RFC 4254 §5.2).
pub fn window_adjust(recipient: u32, bytes: u32) -> Bytes {
    let mut message = Vec::with_capacity(9);
    message
        .put_byte(msg::CHANNEL_WINDOW_ADJUST)
        .put_uint32(recipient)
        .put_uint32(bytes);
    message.into()
}

/// `CHANNEL_OPEN_FAILURE` with a reason code of [`open_failure`] and a text for people.
pub fn channel_open_failure(recipient: u32, reason: u32, description: &str) -> Bytes {
    let mut message = Vec::with_capacity(17 + description.len());
    message
        .put_byte(msg::CHANNEL_OPEN_FAILURE)
        .put_uint32(recipient)
        .put_uint32(reason)
        .put_string(description)
        .put_string("");
    message.into()
}

/// `REQUEST_FAILURE`, the answer to a global request that is not granted (RFC 4254 §4).
pub fn request_failure() -> Bytes {
    Bytes::from_static(&[msg::REQUEST_FAILURE])
}

/// `CHANNEL_FAILURE`, the answer to a channel request that is not granted (RFC 4254 §5.4).
pub fn channel_failure(recipient: u32) -> Bytes {
    let mut message = Vec::with_capacity(5);
    message.put_byte(msg::CHANNEL_FAILURE).put_uint32(recipient);
    message.into()
}

/// `CHANNEL_EXTENDED_DATA` of standard error (RFC 4254 §5.2); all of `text` counts against the window.
pub fn stderr(recipient: u32, text: &str) -> Bytes {
    /// `SSH_EXTENDED_DATA_STDERR`.
    const STDERR: u32 = 1;
    let mut message = Vec::with_capacity(13 + text.len());
    message
        .put_byte(msg::CHANNEL_EXTENDED_DATA)
        .put_uint32(recipient)
        .put_uint32(STDERR)
        .put_string(text);
    message.into()
}

/// `CHANNEL_EOF` (RFC 4254 §5.3).
pub fn channel_eof(recipient: u32) -> Bytes {
    let mut message = Vec::with_capacity(5);
    message.put_byte(msg::CHANNEL_EOF).put_uint32(recipient);
    message.into()
}

/// `CHANNEL_CLOSE` (RFC 4254 §5.3).
pub fn channel_close(recipient: u32) -> Bytes {
    let mut message = Vec::with_capacity(5);
    message.put_byte(msg::CHANNEL_CLOSE).put_uint32(recipient);
    message.into()
}

/// The channel request `exit-signal` (RFC 4254 §6.10): the command died of `signal`, a name without `SIG`,
/// and left no core; `text` says more.
pub fn exit_signal(recipient: u32, signal: &str, text: &str) -> Bytes {
    let mut message = Vec::with_capacity(40 + text.len());
    message
        .put_byte(msg::CHANNEL_REQUEST)
        .put_uint32(recipient)
        .put_string("exit-signal")
        .put_bool(false)
        .put_string(signal)
        .put_bool(false)
        .put_string(text)
        .put_string("");
    message.into()
}

/// A global request that wants a reply; `fields` are those of its own (RFC 4254 §4).
pub fn global_request(name: &str, fields: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut message = Vec::with_capacity(10 + name.len());
    message
        .put_byte(msg::GLOBAL_REQUEST)
        .put_string(name)
        .put_bool(true);
    fields(&mut message);
    message.into()
}

/// `SSH_MSG_DEBUG` that the receiver should show (RFC 4253 §11.3).
pub fn debug(text: &str) -> Bytes {
    let mut message = Vec::with_capacity(10 + text.len());
    message
        .put_byte(msg::DEBUG)
        .put_bool(true)
        .put_string(text)
        .put_string("");
    message.into()
}

/// `SSH_MSG_IGNORE` of nothing (RFC 4253 §11.2): no more than a sign of life.
pub fn ignore() -> Bytes {
    Bytes::from_static(&[msg::IGNORE, 0, 0, 0, 0])
}

/// `REQUEST_SUCCESS` with nothing more to say.
pub fn request_success() -> Bytes {
    Bytes::from_static(&[msg::REQUEST_SUCCESS])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(recipient: u32, payload: &[u8]) -> Bytes {
        let mut message = Vec::new();
        message
            .put_byte(msg::CHANNEL_DATA)
            .put_uint32(recipient)
            .put_string(payload);
        message.into()
    }

    #[test]
    fn the_initial_window_is_replaced_and_nothing_else() {
        let mut open = Vec::new();
        open.put_byte(msg::CHANNEL_OPEN)
            .put_string("session")
            .put_uint32(7)
            .put_uint32(0x7fff_ffff)
            .put_uint32(32768);
        let mut expected = open.clone();
        expected[16..20].copy_from_slice(&4096_u32.to_be_bytes());
        assert_eq!(with_initial_window(open.into(), 4096), expected);
        let untouched = data(1, b"abc");
        assert_eq!(with_initial_window(untouched.clone(), 1), untouched);
    }

    #[test]
    fn channel_numbers_are_replaced_and_nothing_else() {
        let renumbered = with_recipient(data(1, b"abc"), 0x0102_0304);
        assert_eq!(renumbered, data(0x0102_0304, b"abc"));
        for short in [&[msg::CHANNEL_EOF, 0, 0, 0][..], &[msg::CHANNEL_OPEN; 9]] {
            assert_eq!(with_recipient(Bytes::copy_from_slice(short), 7), short);
        }
        for (number, offset) in [(msg::CHANNEL_OPEN, 12), (msg::CHANNEL_OPEN_CONFIRMATION, 5)] {
            let mut message = vec![number];
            if number == msg::CHANNEL_OPEN {
                message.put_string("session");
            } else {
                message.put_uint32(9);
            }
            message.put_uint32(1).put_uint32(2).put_uint32(3);
            let mut expected = message.clone();
            expected[offset..offset + 4].copy_from_slice(&[1, 2, 3, 4]);
            assert_eq!(with_sender(message.into(), 0x0102_0304), expected);
        }
        assert_eq!(with_sender(data(1, b"abc"), 5), data(1, b"abc"));
    }

    #[test]
    fn messages_of_our_own_are_those_of_the_rfcs() {
        let cases: [(Bytes, &[u8]); 6] = [
            (stderr(3, "hi"), b"_\0\0\0\x03\0\0\0\x01\0\0\0\x02hi"),
            (channel_eof(3), b"`\0\0\0\x03"),
            (channel_close(3), b"a\0\0\0\x03"),
            (
                exit_signal(3, "HUP", "why"),
                b"b\0\0\0\x03\0\0\0\x0bexit-signal\0\0\0\0\x03HUP\0\0\0\0\x03why\0\0\0\0",
            ),
            (
                global_request("a@b", |fields| fields.push(9)),
                b"P\0\0\0\x03a@b\x01\x09",
            ),
            (debug("hi"), b"\x04\x01\0\0\0\x02hi\0\0\0\0"),
        ];
        for (message, bytes) in cases {
            assert_eq!(message, bytes);
        }
    }

    #[test]
    fn small_data_of_one_channel_is_merged() {
        let mut tail = data(3, b"ab");
        assert!(merge_data(&mut tail, &data(3, b"cd"), 4));
        assert_eq!(tail, data(3, b"abcd"));
        assert!(!merge_data(&mut tail, &data(4, b"x"), 100));
        assert!(!merge_data(&mut tail, &data(3, b"e"), 4));
        assert_eq!(tail, data(3, b"abcd"));
    }

    #[test]
    fn stderr_is_merged_with_stderr_only() {
        let stderr = |payload: &[u8]| {
            let mut message = Vec::new();
            message
                .put_byte(msg::CHANNEL_EXTENDED_DATA)
                .put_uint32(3)
                .put_uint32(1)
                .put_string(payload);
            Bytes::from(message)
        };
        let mut tail = stderr(b"ab");
        assert!(!merge_data(&mut tail, &data(3, b"x"), 100));
        assert!(merge_data(&mut tail, &stderr(b"cd"), 100));
        assert_eq!(tail, stderr(b"abcd"));
    }

    #[test]
    fn a_message_cut_short_or_too_long_is_malformed() {
        let whole = data(3, b"abcd");
        for end in 0..whole.len() {
            assert_eq!(Message::parse(&whole[..end]), Message::Malformed, "{end}");
        }
        let long = [&whole[..], b"x"].concat();
        assert_eq!(Message::parse(&long), Message::Malformed);
    }

    #[test]
    fn numbers_nobody_defined_are_unknown() {
        assert_eq!(Message::parse(&[101]), Message::Unknown);
        assert_eq!(Message::parse(&[255, 1]), Message::Unknown);
    }
}
