//! A stream in a tunnel, however it is carried.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::DropGuard;

use crate::smux::{SmuxStream, Unread};
use crate::ssm::DataStream;

/// A connection to the target's port, as a byte stream. Dropping it closes the connection.
#[derive(Debug)]
pub struct Stream(Carried);

#[derive(Debug)]
enum Carried {
    /// One of many in an SSM session.
    Multiplexed(SmuxStream),
    /// An SSM session of its own, which ends when the guard is dropped.
    Single {
        stream: DataStream,
        _release: DropGuard,
    },
    /// Nothing: the agent could not connect to the port.
    Refused,
}

impl From<SmuxStream> for Stream {
    fn from(stream: SmuxStream) -> Self {
        Self(Carried::Multiplexed(stream))
    }
}

impl Stream {
    /// Tells how much waits for the reader; none where that is nobody else's concern, the SSM session being its own.
    pub fn unread(&self) -> Option<Unread> {
        match &self.0 {
            Carried::Multiplexed(stream) => Some(stream.unread()),
            Carried::Single { .. } | Carried::Refused => None,
        }
    }

    /// The stream of an SSM session that is released with it.
    pub(super) fn single(stream: DataStream, release: DropGuard) -> Self {
        Self(Carried::Single {
            stream,
            _release: release,
        })
    }

    /// A stream that has ended before it began.
    pub(super) fn refused() -> Self {
        Self(Carried::Refused)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Carried::Multiplexed(stream) => Pin::new(stream).poll_read(cx, buffer),
            Carried::Single { stream, .. } => Pin::new(stream).poll_read(cx, buffer),
            Carried::Refused => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Carried::Multiplexed(stream) => Pin::new(stream).poll_write(cx, bytes),
            Carried::Single { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
            Carried::Refused => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Carried::Multiplexed(stream) => Pin::new(stream).poll_flush(cx),
            Carried::Single { stream, .. } => Pin::new(stream).poll_flush(cx),
            Carried::Refused => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Carried::Multiplexed(stream) => Pin::new(stream).poll_shutdown(cx),
            Carried::Single { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Carried::Refused => Poll::Ready(Ok(())),
        }
    }
}
