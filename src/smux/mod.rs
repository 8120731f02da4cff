//! smux v1: many streams over one byte stream.
//!
//! The client opens streams with SYN, both sides send data with PSH, FIN says "no more data from me", NOP keeps
//! alive. There is no preface, no acknowledgement, no reset, and no flow control: what a reader does not take,
//! somebody holds. Every queue here is therefore bounded, and each bound has its reason:
//!
//! | queue | bound | when full |
//! |---|---|---|
//! | bytes written to a stream, not yet framed | [`Config::send_buffer_bytes`] | the writer waits |
//! | frames not yet taken by the io | under 50 KiB | no more are framed |
//! | bytes received, not yet read: client role | [`Config::stream_receive_bytes`] a stream | reading pauses shortly, then that stream alone is reset |
//! | bytes received, not yet read: server role | [`Config::session_receive_bytes`] in all | reading pauses |
//! | streams opened by the peer, not yet accepted | 1024 | reading pauses |
//! | streams dropped here, last bytes not yet framed | 1024 | `open` waits |
//!
//! The roles differ on purpose. A client that ceased to read would freeze every stream of its SSM session, and
//! acknowledgements and pongs with them. The layers above it (SSH windows) bound what a stream can have in
//! flight, so a stream whose reader stays behind is a fault of that stream, and it is reset alone. It has
//! [`Config::overrun_grace`] to catch up: a reader that is merely slower than the io needs a few milliseconds, and
//! must not be cut off for it. The server keeps the bucket of the official library, warts included, because the
//! agent we stand in for does.
//!
//! A queue may pass its bound by what one read of the io brings, 64 KiB.
//!
//! [`frame`] is the codec and [`session`] the protocol, both pure; [`SmuxSession`] and [`SmuxStream`] are handles
//! to a session run by its driver, one task that owns the io.

mod driver;
#[cfg(test)]
mod driver_tests;
pub mod frame;
mod queue;
pub mod session;
#[cfg(test)]
mod session_tests;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use driver::SmuxSession;
pub use frame::StreamId;
pub use stream::{SmuxStream, Unread};

/// Sizes and times of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Longest payload of a frame while only one stream is open; at most 65 535.
    ///
    /// 32 KiB, as the official library sends.
    pub max_frame_bytes: usize,
    /// Longest payload of a frame while several streams are open.
    ///
    /// A frame cannot be interrupted, so this is what a keystroke waits for behind each bulk stream. 8 KiB take 9 ms
    /// on the slowest link we have (1 KiB messages, 900 a second) and cost 0.1 % in headers.
    pub shared_frame_bytes: usize,
    /// Bytes a stream takes from its writer ahead of the io.
    pub send_buffer_bytes: usize,
    /// Bytes a stream of the client holds for its reader: 8 MiB, four SSH channel windows.
    pub stream_receive_bytes: usize,
    /// How long a reader of the client may take to halve what waits for it, once that is over
    /// [`stream_receive_bytes`](Self::stream_receive_bytes), before its stream is reset.
    ///
    /// Nothing is read from the io meanwhile. One second is far below every deadline of the service and the agent
    /// (pong 60 s), and far above what a reader that works needs for 4 MiB.
    pub overrun_grace: Duration,
    /// Bytes all streams of the server hold for their readers before the io is left unread: 4 MiB, as in the
    /// official library.
    pub session_receive_bytes: usize,
    /// When to send NOP, and when to give the peer up.
    ///
    /// Off by default: both official ends switch it off, because a NOP counts as client input and would keep an idle
    /// SSM session from timing out. Needed only towards agents older than 3.1.1511, which give up after 30 s.
    pub keepalive: Option<Keepalive>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_frame_bytes: 32 * 1024,
            shared_frame_bytes: 8 * 1024,
            send_buffer_bytes: 64 * 1024,
            stream_receive_bytes: 8 * 1024 * 1024,
            overrun_grace: Duration::from_secs(1),
            session_receive_bytes: 4 * 1024 * 1024,
            keepalive: None,
        }
    }
}

/// Keepalive times of the official library, when it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// A NOP is sent this often.
    pub interval: Duration,
    /// The session ends when no byte has arrived for this long, unless reading is paused.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
        }
    }
}

/// Why a session, or one stream of it, is over.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The peer does not speak smux v1; there is no way to resynchronize.
    #[error("peer does not speak smux v1")]
    Protocol(#[from] frame::DecodeError),
    /// The io below failed.
    #[error("byte stream below smux failed")]
    Io(#[source] Arc<io::Error>),
    /// The io below ended while this side still used the session.
    #[error("byte stream below smux ended")]
    Ended,
    /// Nothing arrived for [`Keepalive::timeout`].
    #[error("smux peer has been silent for too long")]
    KeepaliveTimeout,
    /// The driver was dropped before the session was over.
    #[error("smux session was stopped")]
    Stopped,
    /// All 2^31 stream ids of this side have been used.
    #[error("smux stream ids are exhausted")]
    StreamIdsExhausted,
    /// The stream's reader left [`Config::stream_receive_bytes`] waiting for [`Config::overrun_grace`].
    #[error("smux stream received more than its reader took")]
    ReceiveOverrun,
    /// The stream's sending side has been shut down.
    #[error("smux stream is shut down for writing")]
    SendClosed,
    /// No such stream, or no longer.
    #[error("unknown smux stream")]
    UnknownStream,
}

impl Error {
    /// The kind that makes a loss look like one to whoever reads the stream: never a clean end of file.
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Protocol(_) => io::ErrorKind::InvalidData,
            Self::Ended => io::ErrorKind::UnexpectedEof,
            Self::KeepaliveTimeout => io::ErrorKind::TimedOut,
            Self::ReceiveOverrun => io::ErrorKind::ConnectionReset,
            Self::SendClosed => io::ErrorKind::BrokenPipe,
            Self::UnknownStream => io::ErrorKind::NotConnected,
            Self::Io(_) | Self::Stopped | Self::StreamIdsExhausted => {
                io::ErrorKind::ConnectionAborted
            }
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}
