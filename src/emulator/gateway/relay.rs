//! One end's view of a session: takes what it sends, gives it what the other end sent.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

use super::outbox::{Outbox, Receiver};
use crate::emulator::frame;
use crate::emulator::session::{Peer, Session};
use crate::emulator::socket::Leg;

/// One end's data channel.
///
/// Both ends have one of these, with the session's two outboxes between them crosswise: what this
/// end sends goes to the other's outbox, and while that is full this socket is not read. The other
/// direction does not notice.
pub(super) struct DataLeg {
    session: Arc<Session>,
    peer: Peer,
    /// What the other end gets.
    towards: Arc<Outbox>,
    receiver: Receiver,
}

impl DataLeg {
    pub(super) fn new(session: Arc<Session>, peer: Peer, receiver: Receiver) -> Self {
        let towards = match peer {
            Peer::Client => &session.agent,
            Peer::Agent => &session.client,
        };
        Self {
            towards: Arc::clone(towards),
            session,
            peer,
            receiver,
        }
    }

    /// Whether the same end has opened another data channel since.
    pub(super) fn is_replaced(&self) -> bool {
        self.receiver.is_replaced()
    }

    /// Passes a message to the other end, as it is.
    ///
    /// Every message between the two ends goes through here, once, in its direction's order: the
    /// place for faults (dropping, delaying, doubling, reordering).
    fn pass(&self, frame: Bytes) {
        if !self.towards.push(Message::Binary(frame)) {
            tracing::trace!(from = ?self.peer, "dropped: the other end is away");
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
        self.towards.poll_room(cx)
    }

    fn receive(&mut self, message: Message) -> ControlFlow<String> {
        match (message, self.peer) {
            (Message::Binary(frame), Peer::Client) => self.take_from_client(frame),
            (Message::Binary(frame), Peer::Agent) => self.take_from_agent(frame),
            _ => ControlFlow::Break("a text message in an open data channel".into()),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.receiver.poll_next(cx)
    }
}
