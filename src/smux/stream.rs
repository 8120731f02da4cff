//! One stream of a session as a byte stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

use super::driver::Shared;
use super::frame::StreamId;
use super::session::Read;

/// One smux stream.
///
/// `shutdown` sends FIN and reading goes on; dropping sends FIN, after all that was written, and drops what comes.
/// (An agent, on FIN, closes its whole TCP connection once it has passed on what came before.) When the session is
/// lost a reader gets what had arrived, and then an error, never a clean end of file.
///
/// `flush` does not wait: the driver writes by itself as soon as the io lets it, and a caller who waited here would
/// not read meanwhile.
#[derive(Debug)]
pub struct SmuxStream {
    id: StreamId,
    shared: Arc<Shared>,
}

impl SmuxStream {
    pub(super) fn new(id: StreamId, shared: Arc<Shared>) -> Self {
        Self { id, shared }
    }

    /// The stream's number in its session.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Tells how much waits for the reader, whoever that is.
    pub fn unread(&self) -> Unread {
        Unread {
            id: self.id,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// What has arrived in a stream and was not read yet.
#[derive(Debug, Clone)]
pub struct Unread {
    id: StreamId,
    shared: Arc<Shared>,
}

impl Unread {
    /// How much that is now.
    pub fn bytes(&self) -> usize {
        self.shared.with(|state| state.core.unread_of(self.id))
    }
}

impl AsyncRead for SmuxStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let progress = ready!(poll_proceed(cx));
        let read = self.shared.with(|state| {
            let read = state.core.read(self.id, buf);
            if let Ok(Read::Blocked) = read {
                state.wakers.entry(self.id).or_default().read = Some(cx.waker().clone());
            }
            read
        })?;
        if read == Read::Blocked {
            return Poll::Pending;
        }
        progress.made_progress();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SmuxStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = ready!(poll_proceed(cx));
        let count = self.shared.with(|state| {
            let count = state.core.write(self.id, buf);
            if let Ok(0) = count {
                state.wakers.entry(self.id).or_default().write = Some(cx.waker().clone());
            }
            count
        })?;
        if count == 0 && !buf.is_empty() {
            return Poll::Pending;
        }
        progress.made_progress();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|state| state.core.shutdown(self.id));
        Poll::Ready(Ok(()))
    }
}

impl Drop for SmuxStream {
    fn drop(&mut self) {
        self.shared.with(|state| {
            state.wakers.remove(&self.id);
            state.core.close(self.id);
        });
    }
}
