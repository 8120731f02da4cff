//! What goes over the boundary of the core, beside the messages.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

#[cfg(doc)]
use super::Core;
use super::request::{ChannelRequest, ChannelType, GlobalRequest};
use crate::ssh::wire::Truncated;

/// Reason codes of a refused open (RFC 4254 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFailure {
    /// The other end could not be reached; OpenSSH also answers so to an unknown channel type.
    ConnectFailed,
    /// There are too many channels.
    ResourceShortage,
}

impl OpenFailure {
    pub(super) fn code(self) -> u32 {
        match self {
            Self::ConnectFailed => 2,
            Self::ResourceShortage => 4,
        }
    }
}

/// Our number of a channel: the peer's *recipient channel*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub(super) u32);

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of the two streams towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// `SSH_MSG_CHANNEL_DATA`.
    Stdout,
    /// `SSH_MSG_CHANNEL_EXTENDED_DATA` of type 1.
    Stderr,
}

/// How a process ended (RFC 4254 §6.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// `exit-status`.
    Status(u32),
    /// `exit-signal`.
    Signal {
        /// Name without `SIG`.
        name: String,
        /// Whether a core was dumped.
        core_dumped: bool,
    },
}

/// A channel that this side opens towards the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarded {
    /// `forwarded-tcpip` (RFC 4254 §7.2).
    Tcpip {
        /// Address of the forward, as the client asked for it.
        address: Vec<u8>,
        /// Port that was connected to.
        port: u32,
        /// Address of who connected.
        originator: String,
        /// Port of who connected.
        originator_port: u32,
    },
    /// `forwarded-streamlocal@openssh.com`.
    Streamlocal {
        /// Path of the socket that was connected to.
        path: Vec<u8>,
    },
    /// `auth-agent@openssh.com`.
    Agent,
    /// `x11` (RFC 4254 §6.3.2).
    X11 {
        /// Address of who connected.
        originator: String,
        /// Port of who connected.
        originator_port: u32,
    },
}

/// What a message of the peer means to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer opens a channel: [`Core::confirm`] or [`Core::refuse`] it.
    Opening(ChannelId, ChannelType),
    /// The peer took a channel that [`Core::open`] offered.
    Opened(ChannelId),
    /// The peer refused it; the number is free again.
    Refused(ChannelId),
    /// Bytes, to be reported by [`Core::consumed`] once they are out of our hands.
    Data(ChannelId, Bytes),
    /// No more data comes on the channel.
    Eof(ChannelId),
    /// The peer may be sent more than before.
    Writable(ChannelId),
    /// The peer closed the channel. It takes no more data, but an [`Core::exit`] still, before [`Core::close`] ends the matter.
    Closed(ChannelId),
    /// To be answered by [`Core::respond`], in the order of the events.
    Request(ChannelId, ChannelRequest),
    /// To be answered by [`Core::respond_global`], in the order of the events.
    Global(GlobalRequest),
}

/// Whether a message was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was acted upon.
    Taken,
    /// Its number means nothing here: the transport answers `SSH_MSG_UNIMPLEMENTED` (RFC 4253 §11.4).
    Unimplemented,
}

/// The peer broke the protocol; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// A message ended before its last field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A message went on after its last field.
    #[error("SSH message is longer than its fields")]
    TrailingBytes,
    /// A message named a channel that is not open.
    #[error("message {number} for channel {channel}, which is not open")]
    NoSuchChannel {
        /// Message number.
        number: u8,
        /// Recipient channel it named.
        channel: u32,
    },
    /// More data came than the window allowed.
    #[error("data of {length} bytes into a window of {window}")]
    WindowOverrun {
        /// Bytes of the message.
        length: usize,
        /// Bytes that were allowed.
        window: u32,
    },
    /// A data message was larger than the maximum packet size.
    #[error("data of {0} bytes exceeds the maximum packet size")]
    OversizedData(usize),
    /// The window was opened beyond 2^32 - 1 bytes (RFC 4254 §5.2).
    #[error("window adjusted beyond its limit")]
    WindowOverflow,
    /// A session was opened after `no-more-sessions@openssh.com`.
    #[error("session opened after the client said that none would follow")]
    UnexpectedSession,
}
