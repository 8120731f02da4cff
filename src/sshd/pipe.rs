//! The way between one channel and the task that serves it, both directions bounded.
//!
//! ```text
//! driver: PipeEnd ── push, eof ──────────> inbound  ──> next()   task: Pipe
//!                 <─ consumed ──────────── when the next chunk is asked for
//!                 <─ transmit ──────────── outbound <── send()
//! ```
//!
//! Inbound is bounded by the window that the channel core granted, for it is renewed only by what was consumed; outbound by
//! [`OUTBOUND_BYTES`]. Neither end waits for a lock that is held over anything but memory operations.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;

use super::channel::{ChannelId, Exit, Stream};

/// Outbound bytes above which [`Pipe::send`] waits: four messages, so that the driver never idles between two reads of a process.
const OUTBOUND_BYTES: usize = 128 * 1024;

/// Messages below this size are copied together: a queue of single bytes would cost a hundred times the window that bounds it.
const SMALL_BYTES: usize = 4 * 1024;

/// The channel is closed, the connection over, or the stream no longer read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

/// Tells the driver which pipes have something for it.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<Vec<ChannelId>>,
    driver: AtomicWaker,
}

impl Bell {
    /// Has `waker` woken by the next ring; what rang before is in [`Self::take`].
    pub(super) fn listen(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// The channels that have rung since the last call.
    pub(super) fn take(&self) -> Vec<ChannelId> {
        std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ring(&self, id: ChannelId) {
        self.rung
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(id);
        self.driver.wake();
    }
}

/// Makes the pipe of channel `id`.
pub(super) fn pipe(id: ChannelId, bell: &Arc<Bell>) -> (PipeEnd, Pipe) {
    let shared = Arc::new(Shared {
        id,
        bell: Arc::clone(bell),
        state: Mutex::default(),
    });
    (
        PipeEnd {
            shared: Arc::clone(&shared),
        },
        Pipe { shared },
    )
}

#[derive(Debug)]
struct Shared {
    id: ChannelId,
    bell: Arc<Bell>,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves plain data, each field valid by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state by `change` and lets the driver look at it.
    fn tell<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let rung = std::mem::replace(&mut state.rung, true);
        drop(state);
        if !rung {
            self.bell.ring(self.id);
        }
        result
    }
}

#[derive(Debug, Default)]
struct State {
    /// Whether the driver has been told and has not looked yet.
    rung: bool,
    /// Whether the channel or the connection is over.
    closed: bool,
    /// Whether the connection is over.
    gone: bool,

    inbound: ByteQueue,
    /// Whether nothing follows what `inbound` holds.
    inbound_ended: bool,
    /// Whether the task wants no more: what comes is thrown away.
    discarding: bool,
    /// Bytes of the chunk that the task works on.
    held: usize,
    /// Bytes the task is done with, not yet told to the driver.
    consumed: usize,

    outbound: VecDeque<(Stream, Bytes)>,
    outbound_bytes: usize,
    /// Whether the peer reads no more of standard output.
    unread: bool,
    wishes: Wishes,

    readers: Wakers,
    writers: Wakers,
    watchers: Wakers,
}

impl State {
    fn is_unread(&self, stream: Stream) -> bool {
        self.closed || (self.unread && stream == Stream::Stdout)
    }
}

/// What the task asks the driver to do for the channel, beside sending data.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// The answer to the peer's open: yes, or why not.
    pub(super) answer: Option<Result<(), String>>,
    /// How the process ended.
    pub(super) exit: Option<Exit>,
    /// To say that input is no longer read.
    pub(super) end_of_write: bool,
    /// To send EOF after the last data.
    pub(super) finish: bool,
    /// To close after the last data.
    pub(super) close: bool,
}

/// The task's end. Dropping it closes the channel, after what was sent.
#[derive(Debug)]
pub(super) struct Pipe {
    shared: Arc<Shared>,
}

impl Pipe {
    /// Accepts the channel that the peer opens.
    pub(super) fn accept(&self) {
        self.shared.tell(|state| state.wishes.answer = Some(Ok(())));
    }

    /// Refuses the channel that the peer opens.
    pub(super) fn refuse(&self, reason: String) {
        self.shared
            .tell(|state| state.wishes.answer = Some(Err(reason)));
    }

    /// The next bytes from the peer; none at EOF, and after a close once everything that had come is taken.
    ///
    /// A chunk counts as consumed when the next one is asked for. One task at a time reads.
    pub(super) async fn next(&self) -> Option<Bytes> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.held > 0 {
                drop(state);
                self.shared
                    .tell(|state| state.consumed += std::mem::take(&mut state.held));
                state = self.shared.lock();
            }
            if let Some(chunk) = state.inbound.pop() {
                state.held = chunk.len();
                return Poll::Ready(Some(chunk));
            }
            if state.inbound_ended || state.closed || state.discarding {
                return Poll::Ready(None);
            }
            state.readers.register(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Throws away what the peer sends from now on, so that it never waits for a reader that is gone.
    pub(super) fn discard(&self) {
        self.shared.tell(|state| {
            state.discarding = true;
            state.consumed += std::mem::take(&mut state.held) + state.inbound.clear();
            state.readers.wake();
        });
    }

    /// Queues `data` once there is room.
    ///
    /// # Errors
    /// [`Closed`] when nothing more is read at the other end.
    pub(super) async fn send(&self, stream: Stream, data: Bytes) -> Result<(), Closed> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.is_unread(stream) {
                return Poll::Ready(Err(Closed));
            }
            if state.outbound_bytes < OUTBOUND_BYTES {
                return Poll::Ready(Ok(()));
            }
            state.writers.register(cx.waker());
            Poll::Pending
        })
        .await?;
        if !data.is_empty() {
            self.shared.tell(|state| {
                // It may have become so since we looked.
                if !state.is_unread(stream) {
                    state.outbound_bytes += data.len();
                    state.outbound.push_back((stream, data));
                }
            });
        }
        Ok(())
    }

    /// Sends EOF after what was sent: the other direction goes on.
    pub(super) fn finish(&self) {
        self.shared.tell(|state| state.wishes.finish = true);
    }

    /// Reports how the process ended.
    pub(super) fn exit(&self, exit: Exit) {
        self.shared.tell(|state| state.wishes.exit = Some(exit));
    }

    /// Tells the peer that its input is no longer read.
    pub(super) fn end_of_write(&self) {
        self.shared.tell(|state| state.wishes.end_of_write = true);
    }

    /// Waits until the peer has closed the channel or the connection is over.
    pub(super) async fn closed(&self) {
        self.until(|state| state.closed).await;
    }

    /// Waits until the connection is over, which the end of the channel alone does not mean.
    pub(super) async fn gone(&self) {
        self.until(|state| state.gone).await;
    }

    /// Waits until nothing more of `stream` is read at the other end.
    pub(super) async fn unread(&self, stream: Stream) {
        self.until(|state| state.is_unread(stream)).await;
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if reached(&state) {
                return Poll::Ready(());
            }
            state.watchers.register(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.discard();
        self.shared.tell(|state| state.wishes.close = true);
    }
}

/// The driver's end. Dropping it before the task's end tells the task that the connection is over.
#[derive(Debug)]
pub(super) struct PipeEnd {
    shared: Arc<Shared>,
}

impl PipeEnd {
    /// Passes `data` to the task; returns how many bytes count as consumed at once, the task having no use for them.
    pub(super) fn push(&self, data: Bytes) -> usize {
        let mut state = self.shared.lock();
        if state.discarding {
            return data.len();
        }
        state.inbound.push(data);
        state.readers.wake();
        0
    }

    /// Passes the peer's EOF.
    pub(super) fn eof(&self) {
        let mut state = self.shared.lock();
        state.inbound_ended = true;
        state.readers.wake();
    }

    /// Passes that the peer reads no more of standard output: what waits is dropped, and whoever writes learns of it.
    pub(super) fn end_of_write(&self) {
        let mut state = self.shared.lock();
        state.unread = true;
        state
            .outbound
            .retain(|(stream, _)| *stream == Stream::Stderr);
        state.outbound_bytes = state.outbound.iter().map(|(_, data)| data.len()).sum();
        state.writers.wake();
        state.watchers.wake();
    }

    /// Tells the task that the channel is closed; its wishes are still heard.
    pub(super) fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.outbound.clear();
        state.outbound_bytes = 0;
        state.readers.wake();
        state.writers.wake();
        state.watchers.wake();
    }

    /// What the task asks for since the last call, and how many bytes it has consumed.
    pub(super) fn wishes(&self) -> (Wishes, usize) {
        let mut state = self.shared.lock();
        state.rung = false;
        (
            std::mem::take(&mut state.wishes),
            std::mem::take(&mut state.consumed),
        )
    }

    /// Whether everything that was queued has been transmitted.
    pub(super) fn is_drained(&self) -> bool {
        self.shared.lock().outbound.is_empty()
    }

    /// Has `format` transmit from the front of the queue; it returns how many bytes it took. Returns the same.
    pub(super) fn transmit(&self, format: impl FnOnce(Stream, &[u8]) -> usize) -> usize {
        let mut state = self.shared.lock();
        let Some((stream, data)) = state.outbound.front_mut() else {
            return 0;
        };
        let taken = format(*stream, data);
        data.advance(taken);
        if data.is_empty() {
            state.outbound.pop_front();
        }
        state.outbound_bytes -= taken;
        if taken > 0 && state.outbound_bytes < OUTBOUND_BYTES {
            state.writers.wake();
        }
        taken
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.shared.lock().gone = true;
        self.close();
    }
}

/// Tasks to be woken; rarely more than one.
#[derive(Debug, Default)]
struct Wakers(Vec<Waker>);

impl Wakers {
    fn register(&mut self, waker: &Waker) {
        if !self.0.iter().any(|known| known.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }

    fn wake(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

/// Bytes in the chunks they came in, small ones copied together.
#[derive(Debug, Default)]
struct ByteQueue {
    chunks: VecDeque<Bytes>,
    /// What follows the last chunk.
    tail: BytesMut,
}

impl ByteQueue {
    fn push(&mut self, data: Bytes) {
        if data.len() < SMALL_BYTES {
            self.tail.extend_from_slice(&data);
        } else {
            if !self.tail.is_empty() {
                self.chunks.push_back(self.tail.split().freeze());
            }
            self.chunks.push_back(data);
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.chunks
            .pop_front()
            .or_else(|| (!self.tail.is_empty()).then(|| self.tail.split().freeze()))
    }

    fn clear(&mut self) -> usize {
        let length = self.tail.len() + self.chunks.iter().map(Bytes::len).sum::<usize>();
        *self = Self::default();
        length
    }
}
