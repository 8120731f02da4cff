//! One task for each connection: messages in, to the core, to the pipes; wishes and data out.
//!
//! It never stops reading: what a channel sends waits in that channel's pipe, bounded by its window. A client that asks and asks and
//! does not read the answers is cut off, for there is no window for those.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use tracing::debug;

use super::Context;
use super::channel::{
    self, ChannelId, ChannelRequest, ChannelType, Core, Event, OpenFailure, Verdict,
};
use super::forward::{self, Listeners, Socket};
use super::pipe::{self, Bell, Pipe, PipeEnd};
use super::session::Session;

/// Bytes of unsent control messages above which the client is cut off: 60 000 opened channels, or the grants for 60 GB.
const MAX_BACKLOG_BYTES: usize = 1024 * 1024;

/// Messages taken in, or given out, before the other direction has its turn.
const TURN: usize = 64;

/// Forwarded connections that wait for the client's answer; more of them wait in the kernel.
const MAX_UNANSWERED: usize = 64;

/// Messages numbered 80 and up, both ways: what the driver needs of an SSH connection.
pub(super) trait Link {
    /// Why the link cannot go on.
    type Error;

    /// The next message; none when the peer has gone.
    fn poll_recv(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Option<Bytes>, Self::Error>>;
    /// Ready when a message can be sent.
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>>;
    /// Sends a message, after [`Self::poll_ready`].
    fn start_send(&mut self, message: &[u8]) -> Result<(), Self::Error>;
    /// Ready when all is written.
    fn poll_flush(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>>;
    /// Answers the message received last with `SSH_MSG_UNIMPLEMENTED`.
    fn reject_last(&mut self) -> Result<(), Self::Error>;
}

/// Why a connection ended early.
#[derive(Debug)]
pub(super) enum Failure<E> {
    /// The link failed.
    Link(E),
    /// The client broke the connection protocol.
    Protocol(channel::Error),
    /// The client does not read the answers to what it asks.
    Unread,
}

/// The state of one connection above its transport.
pub(super) struct Driver<L> {
    link: L,
    context: Arc<Context>,
    core: Core,
    bell: Arc<Bell>,
    channels: BTreeMap<ChannelId, Served>,
    /// Channels that have something to send, each once, in the order of their turns.
    sending: VecDeque<ChannelId>,
    listeners: Listeners,
    /// Forwarded connections that the client has been offered.
    offered: BTreeMap<ChannelId, Socket>,
    /// Where messages are formatted.
    message: Vec<u8>,
}

/// One channel and the task behind it.
struct Served {
    pipe: PipeEnd,
    session: Option<Session>,
    /// Whether the channel is in [`Driver::sending`].
    queued: bool,
    finish: bool,
    close: bool,
}

impl<L: Link> Driver<L> {
    pub(super) fn new(link: L, context: Arc<Context>) -> Self {
        Self {
            link,
            context,
            core: Core::default(),
            bell: Arc::default(),
            channels: BTreeMap::new(),
            sending: VecDeque::new(),
            listeners: Listeners::default(),
            offered: BTreeMap::new(),
            message: Vec::new(),
        }
    }

    /// The connection beneath, to be closed.
    pub(super) fn into_link(self) -> L {
        self.link
    }

    /// Does all that can be done now; ready when the client has gone.
    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Failure<L::Error>>> {
        loop {
            let mut worked = false;
            for _ in 0..TURN {
                match self.link.poll_recv(cx).map_err(Failure::Link)? {
                    Poll::Ready(Some(message)) => self.take(&message)?,
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => break,
                }
                worked = true;
            }
            self.bell.listen(cx.waker());
            for id in self.bell.take() {
                self.attend(id);
                worked = true;
            }
            for _ in 0..TURN {
                if !self.has_output() {
                    break;
                }
                if self
                    .link
                    .poll_ready(cx)
                    .map_err(Failure::Link)?
                    .is_pending()
                {
                    break;
                }
                self.send_one().map_err(Failure::Link)?;
                worked = true;
            }
            if !worked {
                if !self.has_output() {
                    let _ = self.link.poll_flush(cx).map_err(Failure::Link)?;
                }
                if self.poll_accept(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        }
    }

    /// Hands one message to the core, and acts on what it means.
    fn take(&mut self, message: &Bytes) -> Result<(), Failure<L::Error>> {
        if self
            .core
            .handle_message(message)
            .map_err(Failure::Protocol)?
            == Verdict::Unimplemented
        {
            self.link.reject_last().map_err(Failure::Link)?;
        }
        while let Some(event) = self.core.poll_event() {
            self.act(event);
        }
        if self.core.backlog_bytes() > MAX_BACKLOG_BYTES {
            return Err(Failure::Unread);
        }
        Ok(())
    }

    fn act(&mut self, event: Event) {
        match event {
            Event::Opening(id, kind) => {
                debug!(channel = %id, %kind, "channel opened by the client");
                let pipe = self.serve(id);
                if kind == ChannelType::Session {
                    self.core.confirm(id);
                    if let Some(served) = self.channels.get_mut(&id) {
                        served.session = Some(Session::new(Arc::clone(&self.context), id, pipe));
                    }
                } else {
                    forward::connect(&self.context, kind, pipe);
                }
            }
            Event::Opened(id) => {
                if let Some(socket) = self.offered.remove(&id) {
                    let pipe = self.serve(id);
                    forward::serve(&self.context, socket, pipe);
                }
            }
            Event::Refused(id) => drop(self.offered.remove(&id)),
            Event::Data(id, data) => {
                let length = data.len();
                let consumed = self
                    .channels
                    .get(&id)
                    .map_or(length, |served| served.pipe.push(data));
                if consumed > 0 {
                    self.core.consumed(id, consumed);
                }
            }
            Event::Eof(id) => {
                if let Some(served) = self.channels.get(&id) {
                    served.pipe.eof();
                }
            }
            Event::Writable(id) => self.queue(id),
            Event::Closed(id) => {
                debug!(channel = %id, "channel closed by the client");
                // Our CLOSE follows when the task has ended: the exit status must come before it.
                if let Some(served) = self.channels.get_mut(&id) {
                    served.pipe.close();
                    served.session = None;
                }
                self.forget(id);
            }
            Event::Request(id, request) => {
                let success = match (request, self.channels.get_mut(&id)) {
                    (ChannelRequest::EndOfWrite, Some(served)) => {
                        served.pipe.end_of_write();
                        self.core.unread(id);
                        // OpenSSH never asks for a reply, and does not know the request in those who do.
                        false
                    }
                    (
                        request,
                        Some(Served {
                            session: Some(session),
                            ..
                        }),
                    ) => session.request(request, &mut self.listeners),
                    _ => false,
                };
                self.core.respond(id, success);
                self.finish(id);
            }
            Event::Global(request) => {
                let success = self.listeners.request(request);
                self.core.respond_global(success.as_deref());
            }
        }
    }

    /// Makes the pipe of a channel and returns the task's end.
    fn serve(&mut self, id: ChannelId) -> Pipe {
        let (end, pipe) = pipe::pipe(id, &self.bell);
        self.channels.insert(
            id,
            Served {
                pipe: end,
                session: None,
                queued: false,
                finish: false,
                close: false,
            },
        );
        pipe
    }

    /// Does what a channel's task wishes.
    fn attend(&mut self, id: ChannelId) {
        let Some(served) = self.channels.get_mut(&id) else {
            return;
        };
        let (wishes, consumed) = served.pipe.wishes();
        served.finish |= wishes.finish;
        served.close |= wishes.close;
        match wishes.answer {
            Some(Ok(())) => self.core.confirm(id),
            Some(Err(reason)) => {
                self.core.refuse(id, OpenFailure::ConnectFailed, &reason);
                self.channels.remove(&id);
                return;
            }
            None => {}
        }
        if consumed > 0 {
            self.core.consumed(id, consumed);
        }
        if let Some(exit) = wishes.exit {
            self.core.exit(id, &exit);
        }
        if wishes.end_of_write {
            self.core.end_of_write(id);
        }
        self.queue(id);
        self.finish(id);
    }

    /// Gives the channel a turn if it has data.
    fn queue(&mut self, id: ChannelId) {
        if let Some(served) = self.channels.get_mut(&id)
            && !served.queued
            && !served.pipe.is_drained()
        {
            served.queued = true;
            self.sending.push_back(id);
        }
    }

    /// Sends EOF and CLOSE when they are wished for and all data has gone.
    fn finish(&mut self, id: ChannelId) {
        let Some(served) = self.channels.get_mut(&id) else {
            return;
        };
        if !(served.finish || served.close) || !served.pipe.is_drained() {
            return;
        }
        if std::mem::take(&mut served.finish) {
            self.core.eof(id);
        }
        if served.close {
            self.core.close(id);
            // What the peer still says is thrown away; its CLOSE ends the matter in the core.
            self.channels.remove(&id);
            self.forget(id);
        }
    }

    /// Closes the display of a session that both sides have closed.
    fn forget(&mut self, id: ChannelId) {
        if !self.core.knows(id) {
            self.listeners.close_display(id);
        }
    }

    fn has_output(&self) -> bool {
        self.core.backlog_bytes() > 0 || !self.sending.is_empty()
    }

    /// Sends one control message, or else one data message of the channel whose turn it is.
    fn send_one(&mut self) -> Result<(), L::Error> {
        if let Some(message) = self.core.poll_transmit() {
            return self.link.start_send(&message);
        }
        let Some(id) = self.sending.pop_front() else {
            return Ok(());
        };
        let Some(served) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        served.queued = false;
        let (core, message) = (&mut self.core, &mut self.message);
        let taken = served
            .pipe
            .transmit(|stream, data| core.data(id, stream, data, message));
        if taken == 0 {
            // The window is shut: WINDOW_ADJUST gives it the next turn.
            return Ok(());
        }
        self.link.start_send(&self.message)?;
        self.queue(id);
        self.finish(id);
        Ok(())
    }

    /// Offers the next forwarded connection to the client.
    fn poll_accept(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if self.offered.len() >= MAX_UNANSWERED {
            // An answer is a message, which brings us back here.
            return Poll::Pending;
        }
        let (forwarded, socket) = std::task::ready!(self.listeners.poll_accept(cx));
        if let Some(id) = self.core.open(&forwarded) {
            debug!(channel = %id, "channel offered for a forwarded connection");
            self.offered.insert(id, socket);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
