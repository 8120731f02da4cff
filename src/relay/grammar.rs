//! Which requests an sshd cannot read.
//!
//! It ends the connection over them, OpenSSH's without a word. To tell that from an sshd that is lost, what is well
//! known of their fields is checked here; what to make of a request is never decided by it.

use crate::ssh::messages::Message;
use crate::ssh::wire::{Reader, Truncated};

/// A field of a request (RFC 4251 §5).
#[derive(Clone, Copy)]
enum Field {
    Bool,
    Uint32,
    /// No NUL, for it becomes a C string.
    Text,
    /// Terminal modes (RFC 4254 §8).
    Modes,
}
use Field::{Bool, Modes, Text, Uint32};

/// Fields of channel types (RFC 4254 §6.1, §7.2; OpenSSH PROTOCOL §2.3, §2.4).
const OPENS: &[(&[u8], &[Field])] = &[
    (b"session", &[]),
    (b"direct-tcpip", &[Text, Uint32, Text, Uint32]),
    (b"direct-streamlocal@openssh.com", &[Text, Text, Uint32]),
    (b"tun@openssh.com", &[Uint32, Uint32]),
];

/// Fields of global requests (RFC 4254 §7.1; OpenSSH PROTOCOL §2.4). sshd does not mind what follows them.
const GLOBALS: &[(&[u8], &[Field])] = &[
    (b"tcpip-forward", &[Text, Uint32]),
    (b"cancel-tcpip-forward", &[Text, Uint32]),
    (b"streamlocal-forward@openssh.com", &[Text]),
    (b"cancel-streamlocal-forward@openssh.com", &[Text]),
];

/// Fields of requests for sessions (RFC 4254 §6, RFC 4335, OpenSSH PROTOCOL §2.1).
const REQUESTS: &[(&[u8], &[Field])] = &[
    (b"pty-req", &[Text, Uint32, Uint32, Uint32, Uint32, Modes]),
    (b"window-change", &[Uint32, Uint32, Uint32, Uint32]),
    (b"x11-req", &[Bool, Text, Text, Uint32]),
    (b"env", &[Text, Text]),
    (b"shell", &[]),
    (b"exec", &[Text]),
    (b"subsystem", &[Text]),
    (b"signal", &[Text]),
    (b"break", &[Uint32]),
    (b"auth-agent-req@openssh.com", &[]),
    (b"eow@openssh.com", &[]),
];

/// Whether `message` of a client is one that an sshd can read, as far as that is known here.
pub(super) fn is_readable(message: &[u8]) -> bool {
    let (name, header, table, may_go_on) = match Message::parse(message) {
        Message::Malformed => return false,
        Message::GlobalRequest { name, .. } => (name, 1 + 4 + name.len() + 1, GLOBALS, true),
        Message::Open { kind, .. } => (kind, 1 + 4 + kind.len() + 12, OPENS, false),
        Message::Request { name, .. } => (name, 1 + 4 + 4 + name.len() + 1, REQUESTS, false),
        _ => return true,
    };
    if name.contains(&0) {
        return false;
    }
    let known = table.iter().find(|(known, _)| *known == name);
    known.is_none_or(|(_, fields)| {
        let mut reader = Reader::new(message.get(header..).unwrap_or_default());
        let all = fields.iter().all(|field| field.read(&mut reader).is_ok());
        all && (may_go_on || reader.is_empty())
    })
}

impl Field {
    fn read(self, reader: &mut Reader<'_>) -> Result<(), Truncated> {
        match self {
            Bool => reader.bool().map(drop),
            Uint32 => reader.u32().map(drop),
            Modes => read_modes(reader.string()?),
            Text if reader.string()?.contains(&0) => Err(Truncated),
            Text => Ok(()),
        }
    }
}

/// Opcodes up to 159 have a value, the others and zero end the list.
fn read_modes(modes: &[u8]) -> Result<(), Truncated> {
    let mut rest = modes;
    while let Some((1..160, value)) = rest.split_first() {
        rest = value.get(4..).ok_or(Truncated)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::wire::{WriteExt as _, msg};

    fn message(number: u8, fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut message = vec![number];
        fields(&mut message);
        message
    }

    #[test]
    fn requests_are_read_to_their_end() {
        let readable = [
            message(msg::CHANNEL_OPEN, |m| {
                m.put_string("direct-tcpip").put_raw(&[0; 12]);
                m.put_string("host")
                    .put_uint32(1)
                    .put_string("")
                    .put_uint32(2);
            }),
            message(msg::CHANNEL_REQUEST, |m| {
                m.put_uint32(1).put_string("pty-req").put_bool(true);
                m.put_string("xterm").put_raw(&[0; 16]).put_string([0, 1]);
            }),
            message(msg::CHANNEL_REQUEST, |m| {
                m.put_uint32(1).put_string("shell").put_bool(true);
            }),
        ];
        for whole in readable {
            assert!(is_readable(&whole));
            for end in 1..whole.len() {
                assert!(!is_readable(&whole[..end]), "{whole:?} to {end}");
            }
            assert!(!is_readable(&[&whole[..], b"x"].concat()));
        }
    }

    #[test]
    fn what_may_follow_and_what_nobody_knows_is_left_alone() {
        let forward = message(msg::GLOBAL_REQUEST, |m| {
            m.put_string("tcpip-forward").put_bool(true);
            m.put_string("").put_uint32(1).put_raw(b"more");
        });
        let unknown = message(msg::CHANNEL_REQUEST, |m| {
            m.put_uint32(1)
                .put_string("a@b")
                .put_bool(true)
                .put_raw(b"x");
        });
        assert!(is_readable(&forward) && is_readable(&unknown));
        assert!(is_readable(&[msg::CHANNEL_EOF, 0, 0, 0, 1]));
        assert!(is_readable(&[192]));
    }

    #[test]
    fn texts_have_no_nul() {
        let exec = |command: &str| {
            message(msg::CHANNEL_REQUEST, |m| {
                m.put_uint32(1)
                    .put_string("exec")
                    .put_bool(true)
                    .put_string(command);
            })
        };
        assert!(is_readable(&exec("true")));
        assert!(!is_readable(&exec("tr\0ue")));
        let name = message(msg::GLOBAL_REQUEST, |m| {
            m.put_string("a\0b").put_bool(true);
        });
        assert!(!is_readable(&name));
    }

    #[test]
    fn modes_are_read_to_their_end() {
        let readable: [&[u8]; 4] = [b"", &[0, 53], &[53, 0, 0, 0, 1, 160, 1], &[53, 0, 0, 0, 1]];
        for modes in readable {
            assert!(read_modes(modes).is_ok(), "{modes:?}");
        }
        for modes in [&[53][..], &[53, 0, 0, 0, 1, 72, 0, 0]] {
            assert!(read_modes(modes).is_err(), "{modes:?}");
        }
    }
}
