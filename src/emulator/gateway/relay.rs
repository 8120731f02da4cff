//! One end's view of a session: takes what it sends, gives it what the other end sent.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::outbox::{Outbox, Receiver};
use crate::emulator::fault::{Board, Wire};
use crate::emulator::frame;
use crate::emulator::session::{Peer, Session};
use crate::emulator::socket::Leg;

/// One end's data channel.
///
/// Both ends have one of these, with the session's two outboxes between them crosswise: what this
/// end sends goes to the other's outbox, and while that is full this socket is not read. The other
/// direction does not notice.
pub(super) struct DataLeg {
    faults: Arc<Board>,
    session: Arc<Session>,
    peer: Peer,
    /// What the other end gets.
    towards: Arc<Outbox>,
    receiver: Receiver,
    /// Rings when a message that a fault holds back is due.
    timer: Pin<Box<Sleep>>,
}

impl DataLeg {
    pub(super) fn new(
        faults: Arc<Board>,
        session: Arc<Session>,
        peer: Peer,
        receiver: Receiver,
    ) -> Self {
        Self {
            faults,
            towards: Arc::clone(session.outbox(peer.other())),
            session,
            peer,
            receiver,
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    fn wire(&self) -> &Wire {
        self.session.wire(self.peer)
    }

    /// Whether the same end has opened another data channel since.
    pub(super) fn is_replaced(&self) -> bool {
        self.receiver.is_replaced()
    }

    /// Waits until it is replaced, and does nothing else.
    pub(super) async fn replaced(&mut self) {
        poll_fn(|cx| self.receiver.poll_replaced(cx)).await;
    }

    /// Passes a message to the other end, as it is.
    ///
    /// Every message between the two ends goes through here, once, in its direction's order, and
    /// when there are faults through them.
    fn pass(&self, frame: Bytes) {
        if self.wire().is_active() {
            self.wire().count(self.peer, frame.len());
            self.faults.send(self.wire(), frame);
        } else {
            self.push(frame);
        }
    }

    fn push(&self, frame: Bytes) {
        if !self.towards.push(Message::Binary(frame)) {
            tracing::trace!(from = ?self.peer, "dropped: the other end is away");
        }
    }

    /// Pushes what faults have let pass, as far as the other end has room.
    fn pump(&mut self, cx: &mut Context<'_>) {
        let had_room = self.wire().has_room();
        while self.towards.poll_room(cx).is_ready() {
            match self.wire().poll_transmit() {
                Ok(frame) => self.push(frame),
                Err(None) => break,
                Err(Some(due)) => {
                    self.timer.as_mut().reset(due.into());
                    if self.timer.as_mut().poll(cx).is_pending() {
                        break;
                    }
                }
            }
        }
        if !had_room && self.wire().has_room() {
            // The socket was not read for want of it.
            cx.waker().wake_by_ref();
        }
    }

    fn take_from_client(&self, frame: Bytes) -> ControlFlow<String> {
        if let Err(problem) = frame::verify(&frame) {
            return ControlFlow::Break(problem);
        }
        match frame::message_type(&frame) {
            Some("input_stream_data") => {
                self.session.touch();
                self.pass(frame);
            }
            Some("acknowledge") => self.pass(frame),
            other => tracing::debug!(kind = other, "ignored a message of the client"),
        }
        ControlFlow::Continue(())
    }

    fn take_from_agent(&self, frame: Bytes) -> ControlFlow<String> {
        match frame::message_type(&frame) {
            Some("output_stream_data" | "acknowledge") => self.pass(frame),
            Some("agent_session_state") => {
                let state = frame::payload(&frame).map(String::from_utf8_lossy);
                tracing::debug!(state = state.as_deref(), "the agent tells its state");
            }
            other => tracing::debug!(kind = other, "ignored a message of the agent"),
        }
        ControlFlow::Continue(())
    }
}

impl Leg for DataLeg {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.wire().is_active() {
            false => self.towards.poll_room(cx),
            // A cut wakes the task; `advance` does when there is room again.
            true if self.wire().is_cut() || !self.wire().has_room() => Poll::Pending,
            true => Poll::Ready(()),
        }
    }

    fn receive(&mut self, message: Message) -> ControlFlow<String> {
        match (message, self.peer) {
            (Message::Binary(frame), Peer::Client) => self.take_from_client(frame),
            (Message::Binary(frame), Peer::Agent) => self.take_from_agent(frame),
            _ => ControlFlow::Break("a text message in an open data channel".into()),
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>) {
        if self.wire().is_active() {
            self.pump(cx);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        if self.wire().is_cut() {
            return Poll::Pending;
        }
        let next = self.receiver.poll_next(cx);
        if let Poll::Ready(Some(message)) = &next
            && self.wire().is_active()
        {
            self.wire().count(self.peer.other(), message.len());
        }
        next
    }
}
