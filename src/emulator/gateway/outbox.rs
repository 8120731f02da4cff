//! What waits to be sent to one end of a session.
//!
//! An outbox outlives the WebSockets that empty it: the end it serves comes, goes and comes again
//! while the session lasts. Messages for an end that has not come yet are held, messages for one
//! that went away are dropped (the other end's resend loop recovers them, as with the real
//! service), and a full outbox makes the giver stop reading its own socket, which is back-pressure
//! for that direction alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio_tungstenite::tungstenite::Message;

/// Bytes at which an outbox stops asking for more.
///
/// One message beyond it is always accepted, so the bound is this plus the largest message, and
/// the same again for the batch its receiver has taken out.
const ROOM_BYTES: usize = 256 * 1024;

/// Charge of a message beside its payload: the frame header and the queue's own slot.
const MESSAGE_OVERHEAD: usize = 64;

/// A byte-bounded queue of WebSocket messages towards one end.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    presence: Presence,
    /// Counts attachments, so that a replaced socket notices.
    generation: u64,
    queue: VecDeque<Message>,
    bytes: usize,
    taker: Option<Waker>,
    /// Those waiting for room: normally one, briefly two while a socket replaces another.
    givers: Vec<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Nobody has come yet: messages are held.
    Awaited,
    /// A socket is open: messages are queued for it.
    Here,
    /// The socket was lost: messages are dropped.
    Away,
    /// No more messages are taken; what is queued is still sent.
    Closed,
}

impl Outbox {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                presence: Presence::Awaited,
                generation: 0,
                queue: VecDeque::new(),
                bytes: 0,
                taker: None,
                givers: Vec::new(),
            }),
        })
    }

    /// Makes the caller the one who empties this outbox, in place of whoever did before.
    ///
    /// What was queued for a lost socket is gone; what was held for the first one is kept. Returns
    /// nothing once the outbox is closed, unless nobody has come before: what is held is then said,
    /// and it is the reason.
    pub(crate) fn attach(self: &Arc<Self>) -> Option<Receiver> {
        let mut state = self.lock();
        match state.presence {
            Presence::Closed if state.generation > 0 => return None,
            Presence::Closed => {}
            Presence::Awaited => state.presence = Presence::Here,
            Presence::Here | Presence::Away => {
                state.clear();
                state.presence = Presence::Here;
            }
        }
        state.generation += 1;
        let generation = state.generation;
        state.wake_taker();
        drop(state);
        Some(Receiver {
            outbox: Arc::clone(self),
            generation,
            batch: VecDeque::new(),
        })
    }

    /// Queues `message`, whether or not there is room; returns whether it will be sent.
    ///
    /// Callers that can wait ask [`poll_room`](Self::poll_room) first. Those that cannot (the few
    /// messages of the service itself) are bounded by their number.
    pub(crate) fn push(&self, message: Message) -> bool {
        let mut state = self.lock();
        let keep = match state.presence {
            Presence::Here => true,
            Presence::Awaited => state.bytes < ROOM_BYTES,
            Presence::Away | Presence::Closed => false,
        };
        if keep {
            state.bytes += message.len() + MESSAGE_OVERHEAD;
            state.queue.push_back(message);
            state.wake_taker();
        }
        keep
    }

    /// Waits until a message can be pushed within the bound; an absent end is always ready.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.presence != Presence::Here || state.bytes < ROOM_BYTES {
            return Poll::Ready(());
        }
        if !state.givers.iter().any(|giver| giver.will_wake(cx.waker())) {
            state.givers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Refuses further messages; the receiver sends what is queued and then ends.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.presence = Presence::Closed;
        state.wake_givers();
        state.wake_taker();
    }

    /// Forgets what was held for somebody who never came.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        if state.generation == 0 {
            state.clear();
        }
    }

    /// Whether a socket is attached.
    pub(crate) fn is_attached(&self) -> bool {
        self.lock().presence == Presence::Here
    }

    /// Whether a socket was ever attached.
    pub(crate) fn was_attached(&self) -> bool {
        self.lock().generation > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
        self.wake_givers();
    }

    fn wake_taker(&mut self) {
        if let Some(taker) = self.taker.take() {
            taker.wake();
        }
    }

    fn wake_givers(&mut self) {
        for giver in self.givers.drain(..) {
            giver.wake();
        }
    }
}

/// The right to empty an [`Outbox`], held by one socket; dropping it detaches.
#[derive(Debug)]
pub(crate) struct Receiver {
    outbox: Arc<Outbox>,
    generation: u64,
    /// Taken out in one go, so that the lock is held once a batch and not once a message.
    batch: VecDeque<Message>,
}

impl Receiver {
    /// Takes the next message; `None` when the outbox was closed or another socket took over.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        if let Some(message) = self.batch.pop_front() {
            return Poll::Ready(Some(message));
        }
        let mut state = self.outbox.lock();
        if state.generation != self.generation {
            return Poll::Ready(None);
        }
        std::mem::swap(&mut self.batch, &mut state.queue);
        state.bytes = 0;
        state.wake_givers();
        match self.batch.pop_front() {
            Some(message) => Poll::Ready(Some(message)),
            None if state.presence == Presence::Closed => Poll::Ready(None),
            None => {
                state.taker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits until another socket has taken this one's place.
    pub(crate) fn poll_replaced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.outbox.lock();
        if state.generation != self.generation {
            return Poll::Ready(());
        }
        state.taker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether another socket has taken this one's place.
    pub(crate) fn is_replaced(&self) -> bool {
        self.outbox.lock().generation != self.generation
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        if state.generation == self.generation {
            if state.presence == Presence::Here {
                state.presence = Presence::Away;
            }
            state.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Message {
        Message::binary(vec![0; length])
    }

    fn ready<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
        match poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn holds_for_the_first_and_drops_for_the_absent() {
        let outbox = Outbox::new();
        assert!(outbox.push(message(1)));
        let mut first = outbox.attach().unwrap();
        assert_eq!(ready(|cx| first.poll_next(cx)), Some(Some(message(1))));
        assert_eq!(ready(|cx| first.poll_next(cx)), None);
        assert!(outbox.push(message(2)));
        drop(first);
        assert!(!outbox.push(message(3)));
        let mut second = outbox.attach().unwrap();
        assert_eq!(ready(|cx| second.poll_next(cx)), None);
    }

    #[test]
    fn a_newer_socket_replaces_an_older() {
        let outbox = Outbox::new();
        let mut old = outbox.attach().unwrap();
        let mut new = outbox.attach().unwrap();
        assert!(old.is_replaced());
        assert_eq!(ready(|cx| old.poll_next(cx)), Some(None));
        drop(old);
        assert!(outbox.is_attached());
        assert!(outbox.push(message(1)));
        assert_eq!(ready(|cx| new.poll_next(cx)), Some(Some(message(1))));
    }

    #[test]
    fn a_full_outbox_makes_the_giver_wait() {
        let outbox = Outbox::new();
        let mut receiver = outbox.attach().unwrap();
        while ready(|cx| outbox.poll_room(cx)).is_some() {
            outbox.push(message(1024));
        }
        assert!(ready(|cx| receiver.poll_next(cx)).flatten().is_some());
        assert!(ready(|cx| outbox.poll_room(cx)).is_some());
    }

    #[test]
    fn closing_sends_what_is_queued_and_then_ends() {
        let outbox = Outbox::new();
        let mut receiver = outbox.attach().unwrap();
        outbox.push(message(1));
        outbox.close();
        assert!(!outbox.push(message(2)));
        assert_eq!(ready(|cx| receiver.poll_next(cx)), Some(Some(message(1))));
        assert_eq!(ready(|cx| receiver.poll_next(cx)), Some(None));
        assert!(outbox.attach().is_none());
    }

    #[test]
    fn whoever_comes_too_late_hears_why() {
        let outbox = Outbox::new();
        outbox.push(message(1));
        outbox.close();
        let mut late = outbox.attach().unwrap();
        assert_eq!(ready(|cx| late.poll_next(cx)), Some(Some(message(1))));
        assert_eq!(ready(|cx| late.poll_next(cx)), Some(None));
        assert!(outbox.attach().is_none());
    }

    #[test]
    fn nothing_is_kept_for_ever() {
        let outbox = Outbox::new();
        outbox.push(message(1));
        outbox.close();
        outbox.abandon();
        assert_eq!(outbox.lock().bytes, 0);
        assert_eq!(
            ready(|cx| outbox.attach().unwrap().poll_next(cx)),
            Some(None)
        );
    }
}
