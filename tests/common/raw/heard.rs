//! What a server says, and how it is written down.

use ssmshim::ssh::wire::{Reader, Truncated, msg};

use super::PASSED_WINDOW;

/// A message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// `GLOBAL_REQUEST`.
    Global {
        name: String,
        want_reply: bool,
        rest: Vec<u8>,
    },
    /// `REQUEST_SUCCESS` with its data, or `REQUEST_FAILURE`.
    GlobalSuccess(Vec<u8>),
    GlobalFailure,
    /// `CHANNEL_OPEN`.
    Open {
        kind: String,
        sender: u32,
        window: u32,
        packet: u32,
        rest: Vec<u8>,
    },
    Confirmed {
        recipient: u32,
        sender: u32,
        window: u32,
        packet: u32,
        rest: Vec<u8>,
    },
    OpenFailed {
        recipient: u32,
        reason: u32,
        text: String,
        language: String,
    },
    Adjust {
        recipient: u32,
        bytes: u32,
    },
    Data {
        recipient: u32,
        bytes: Vec<u8>,
    },
    Extended {
        recipient: u32,
        kind: u32,
        bytes: Vec<u8>,
    },
    Eof(u32),
    Close(u32),
    Request {
        recipient: u32,
        name: String,
        want_reply: bool,
        rest: Vec<u8>,
    },
    Success(u32),
    Failure(u32),
    Other(Vec<u8>),
    /// The connection ended: with `SSH_MSG_DISCONNECT`, or without a word.
    End(Option<(u32, String)>),
}

impl Heard {
    pub(super) fn parse(message: &[u8]) -> Result<Self, Truncated> {
        fn text(reader: &mut Reader<'_>) -> Result<String, Truncated> {
            Ok(reader.string()?.escape_ascii().to_string())
        }
        let mut reader = Reader::new(&message[1..]);
        let reader = &mut reader;
        Ok(match message[0] {
            msg::GLOBAL_REQUEST => Self::Global {
                name: text(reader)?,
                want_reply: reader.bool()?,
                rest: reader.rest().to_vec(),
            },
            msg::REQUEST_SUCCESS => Self::GlobalSuccess(reader.rest().to_vec()),
            msg::REQUEST_FAILURE => Self::GlobalFailure,
            msg::CHANNEL_OPEN => Self::Open {
                kind: text(reader)?,
                sender: reader.u32()?,
                window: reader.u32()?,
                packet: reader.u32()?,
                rest: reader.rest().to_vec(),
            },
            msg::CHANNEL_OPEN_CONFIRMATION => Self::Confirmed {
                recipient: reader.u32()?,
                sender: reader.u32()?,
                window: reader.u32()?,
                packet: reader.u32()?,
                rest: reader.rest().to_vec(),
            },
            msg::CHANNEL_OPEN_FAILURE => Self::OpenFailed {
                recipient: reader.u32()?,
                reason: reader.u32()?,
                text: text(reader)?,
                language: text(reader)?,
            },
            msg::CHANNEL_WINDOW_ADJUST => Self::Adjust {
                recipient: reader.u32()?,
                bytes: reader.u32()?,
            },
            msg::CHANNEL_DATA => Self::Data {
                recipient: reader.u32()?,
                bytes: reader.string()?.to_vec(),
            },
            msg::CHANNEL_EXTENDED_DATA => Self::Extended {
                recipient: reader.u32()?,
                kind: reader.u32()?,
                bytes: reader.string()?.to_vec(),
            },
            msg::CHANNEL_EOF => Self::Eof(reader.u32()?),
            msg::CHANNEL_CLOSE => Self::Close(reader.u32()?),
            msg::CHANNEL_REQUEST => Self::Request {
                recipient: reader.u32()?,
                name: text(reader)?,
                want_reply: reader.bool()?,
                rest: reader.rest().to_vec(),
            },
            msg::CHANNEL_SUCCESS => Self::Success(reader.u32()?),
            msg::CHANNEL_FAILURE => Self::Failure(reader.u32()?),
            _ => Self::Other(message.to_vec()),
        })
    }

    /// Our number of the channel that the message is for.
    pub(crate) fn channel(&self) -> Option<u32> {
        match self {
            Self::Confirmed { recipient, .. }
            | Self::OpenFailed { recipient, .. }
            | Self::Adjust { recipient, .. }
            | Self::Data { recipient, .. }
            | Self::Extended { recipient, .. }
            | Self::Request { recipient, .. }
            | Self::Eof(recipient)
            | Self::Close(recipient)
            | Self::Success(recipient)
            | Self::Failure(recipient) => Some(*recipient),
            _ => None,
        }
    }

    /// Whether it comes when a command ends or closes its input: when sshd hears of that is chance.
    pub(crate) fn is_end_of_command(&self) -> bool {
        matches!(self, Self::Request { name, .. }
            if name.starts_with("exit-") || name == "eow@openssh.com")
    }

    /// Takes in the data that follows on the same stream; false when it is something else.
    pub(crate) fn absorb(&mut self, next: &Self) -> bool {
        match (self, next) {
            (
                Self::Data { recipient, bytes },
                Self::Data {
                    recipient: same,
                    bytes: more,
                },
            ) if recipient == same => bytes.extend_from_slice(more),
            (
                Self::Extended {
                    recipient,
                    kind,
                    bytes,
                },
                Self::Extended {
                    recipient: same,
                    kind: same_kind,
                    bytes: more,
                },
            ) if recipient == same && kind == same_kind => bytes.extend_from_slice(more),
            _ => return false,
        }
        true
    }

    /// The message as it is recorded.
    ///
    /// Windows above what the relay passes on in any case are shown as that (README, limits). The number that the
    /// server gives a channel is left out: sshd takes the first that is free, and whether the one of a
    /// channel that both sides have closed is free yet depends on how much it reads at once.
    pub(crate) fn to_text(&self) -> String {
        const fn clamped(window: u32) -> u32 {
            if window > PASSED_WINDOW {
                PASSED_WINDOW
            } else {
                window
            }
        }
        fn shown(bytes: &[u8]) -> String {
            if bytes.len() <= 1024 {
                return bytes.escape_ascii().to_string();
            }
            let hash = crate::common::files::sha256_of(bytes);
            format!("{} bytes, sha256 {hash}", bytes.len())
        }
        match self {
            Self::Global {
                name,
                want_reply,
                rest,
            } => {
                format!("GLOBAL_REQUEST {name} {want_reply} {}", shown(rest))
            }
            Self::GlobalSuccess(data) => format!("REQUEST_SUCCESS {}", shown(data)),
            Self::GlobalFailure => "REQUEST_FAILURE".to_owned(),
            Self::Open {
                kind,
                window,
                packet,
                rest,
                ..
            } => format!(
                "OPEN {kind} window {} packet {packet} {}",
                clamped(*window),
                shown(rest)
            ),
            Self::Confirmed {
                recipient,
                window,
                packet,
                rest,
                ..
            } => format!(
                "OPEN_CONFIRMATION {recipient} window {} packet {packet} {}",
                clamped(*window),
                shown(rest)
            ),
            Self::OpenFailed {
                recipient,
                reason,
                text,
                language,
            } => {
                format!("OPEN_FAILURE {recipient} reason {reason} {text:?} {language:?}")
            }
            Self::Adjust { recipient, bytes } => format!("WINDOW_ADJUST {recipient} {bytes}"),
            Self::Data { recipient, bytes } => format!("DATA {recipient} {}", shown(bytes)),
            Self::Extended {
                recipient,
                kind,
                bytes,
            } => {
                format!("EXTENDED_DATA {recipient} type {kind} {}", shown(bytes))
            }
            Self::Eof(recipient) => format!("EOF {recipient}"),
            Self::Close(recipient) => format!("CLOSE {recipient}"),
            Self::Request {
                recipient,
                name,
                want_reply,
                rest,
            } => {
                format!("REQUEST {recipient} {name} {want_reply} {}", shown(rest))
            }
            Self::Success(recipient) => format!("SUCCESS {recipient}"),
            Self::Failure(recipient) => format!("FAILURE {recipient}"),
            Self::Other(message) => format!("message {}", shown(message)),
            Self::End(None) => "the connection ended without a word".to_owned(),
            Self::End(Some((reason, text))) => format!("DISCONNECT reason {reason} {text:?}"),
        }
    }
}
