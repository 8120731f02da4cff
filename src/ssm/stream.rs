//! The bytes of an SSM session as one `AsyncRead + AsyncWrite`, and the driver's end of it.
//!
//! Two bounded queues under one lock that is held for moments only. Writes are kept as one run of
//! bytes until the driver can send: a keystroke leaves at once, bulk gathers into large messages.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Received bytes kept for a slow reader; beyond it messages stay unacknowledged in the core.
const INBOUND_BYTES: usize = 1 << 20;
/// Written bytes kept for the driver: several of the largest messages.
const OUTBOUND_BYTES: usize = 256 << 10;
/// Room made in advance for writes.
const OUTBOUND_CHUNK: usize = 64 << 10;

/// The stream of an SSM session: Output payloads, both ways.
///
/// Reading ends (EOF) when the SSM session is over. There is no half-close in Session Manager:
/// `shutdown` only ends writing here. Bytes written are not flushed to the wire by `flush`; the
/// driver sends them as soon as it can. Dropping the stream discards what is still received.
#[derive(Debug)]
pub struct DataStream {
    shared: Arc<Mutex<State>>,
}

/// The driver's end of a [`DataStream`].
#[derive(Debug)]
pub(super) struct DriverEnd {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    inbound: VecDeque<Bytes>,
    inbound_bytes: usize,
    outbound: BytesMut,
    /// The SSM session is over: read what is left, write nothing more.
    is_over: bool,
    /// `shutdown` was called.
    is_shut: bool,
    /// The stream was dropped.
    is_dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    driver: Option<Waker>,
}

/// Makes the two ends.
pub(super) fn pair() -> (DataStream, DriverEnd) {
    let shared = Arc::new(Mutex::new(State::default()));
    let stream = DataStream {
        shared: Arc::clone(&shared),
    };
    (stream, DriverEnd { shared })
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic elsewhere leaves queues of bytes behind, which are valid in any state.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Registers the current task, without cloning the same waker again.
fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot
        .as_ref()
        .is_some_and(|waker| waker.will_wake(cx.waker()))
    {
        *slot = Some(cx.waker().clone());
    }
}

impl DriverEnd {
    /// Registers the driver to be woken when there is something to send or room to deliver.
    pub(super) fn register(&self, cx: &Context<'_>) {
        register(&mut lock(&self.shared).driver, cx);
    }

    /// Whether received bytes are wanted.
    pub(super) fn has_room(&self) -> bool {
        let state = lock(&self.shared);
        state.is_dropped || state.inbound_bytes < INBOUND_BYTES
    }

    /// Hands received bytes to the reader.
    pub(super) fn deliver(&self, bytes: Bytes) {
        let mut state = lock(&self.shared);
        if !state.is_dropped {
            state.inbound_bytes += bytes.len();
            state.inbound.push_back(bytes);
            wake(&mut state.reader);
        }
    }

    /// Takes up to `limit` written bytes; `None` when there are none.
    pub(super) fn take(&self, limit: usize) -> Option<BytesMut> {
        let mut state = lock(&self.shared);
        let count = state.outbound.len().min(limit);
        if count == 0 {
            return None;
        }
        let taken = state.outbound.split_to(count);
        if state.outbound.len() <= OUTBOUND_BYTES / 2 {
            wake(&mut state.writer);
        }
        Some(taken)
    }

    /// Whether nothing waits to be sent.
    pub(super) fn is_drained(&self) -> bool {
        lock(&self.shared).outbound.is_empty()
    }
}

impl Drop for DriverEnd {
    /// Without a driver the SSM session is over.
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        state.is_over = true;
        wake(&mut state.reader);
        wake(&mut state.writer);
    }
}

impl AsyncRead for DataStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.shared);
        let was_high = state.inbound_bytes > INBOUND_BYTES / 2;
        let before = buffer.filled().len();
        while buffer.remaining() > 0
            && let Some(front) = state.inbound.front_mut()
        {
            let count = front.len().min(buffer.remaining());
            buffer.put_slice(&front[..count]);
            front.advance(count);
            if front.is_empty() {
                state.inbound.pop_front();
            }
            state.inbound_bytes -= count;
        }
        if was_high && state.inbound_bytes <= INBOUND_BYTES / 2 {
            wake(&mut state.driver);
        }
        let is_done = buffer.filled().len() > before || buffer.remaining() == 0;
        if is_done || (state.is_over && state.inbound.is_empty()) {
            return Poll::Ready(Ok(()));
        }
        register(&mut state.reader, cx);
        Poll::Pending
    }
}

impl AsyncWrite for DataStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.shared);
        if state.is_over || state.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = OUTBOUND_BYTES.saturating_sub(state.outbound.len());
        let count = bytes.len().min(room);
        if count == 0 && !bytes.is_empty() {
            register(&mut state.writer, cx);
            return Poll::Pending;
        }
        if state.outbound.capacity() - state.outbound.len() < count {
            state.outbound.reserve(count.max(OUTBOUND_CHUNK));
        }
        let was_empty = state.outbound.is_empty();
        state.outbound.extend_from_slice(&bytes[..count]);
        if was_empty {
            wake(&mut state.driver);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.shared).is_shut = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for DataStream {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        state.is_dropped = true;
        state.inbound.clear();
        state.inbound_bytes = 0;
        wake(&mut state.driver);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn writes_gather_until_they_are_taken() {
        let (mut stream, driver) = pair();
        stream.write_all(b"hello ").await.unwrap();
        stream.write_all(b"world").await.unwrap();
        assert_eq!(driver.take(8).unwrap(), "hello wo");
        assert_eq!(driver.take(8).unwrap(), "rld");
        assert!(driver.take(8).is_none());
        assert!(driver.is_drained());
    }

    #[tokio::test]
    async fn a_full_queue_makes_the_writer_wait() {
        let (mut stream, driver) = pair();
        stream.write_all(&vec![1; OUTBOUND_BYTES]).await.unwrap();
        let write = stream.write(b"more");
        tokio::pin!(write);
        assert!(poll!(&mut write).is_pending());
        driver.take(OUTBOUND_BYTES / 2).unwrap();
        assert_eq!(write.await.unwrap(), 4);
    }

    #[tokio::test]
    async fn reads_end_after_the_last_bytes_of_a_session_that_is_over() {
        let (mut stream, driver) = pair();
        driver.deliver(Bytes::from_static(b"last "));
        driver.deliver(Bytes::from_static(b"words"));
        drop(driver);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "last words");
        let error = stream.write(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_slow_reader_closes_the_room_and_opens_it_again() {
        let (mut stream, driver) = pair();
        while driver.has_room() {
            driver.deliver(Bytes::from(vec![0; 64 << 10]));
        }
        assert_eq!(stream.read(&mut [0; 100]).await.unwrap(), 100);
        assert!(driver.has_room());
        while driver.has_room() {
            driver.deliver(Bytes::from(vec![0; 64 << 10]));
        }
        drop(stream);
        assert!(driver.has_room(), "what nobody reads is discarded");
    }
}
