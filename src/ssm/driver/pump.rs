//! One socket, read and written in the same poll so that neither waits for the other.

use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::time::{Sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::super::error::without_full_stop;
use super::super::protocol::data_channel::{self, DEAF_AFTER, Event};
use super::super::protocol::handshake;
use super::super::protocol::payload::{Flag, PayloadType};
use super::super::session::SessionEvent;
use super::super::websocket::WebSocket;
use super::keepalive::{Due, Intervals, Keepalive};
use super::rate::DeliveryRate;
use super::silence::{Change, Signs};
use super::{Driver, now};

/// Messages read before writing gets its turn; their acknowledgements leave in one flush.
const READ_BATCH: usize = 64;
/// Turns of reading and writing before other tasks get theirs.
const ROUNDS: usize = 8;
/// Invalid messages without progress in order after which the session is given up: the agent
/// resends a message byte by byte as it was, so one that is invalid stays so on any socket.
const MAX_INVALID: u32 = 100;
/// After a sleep the socket has this long to show that it lives.
const WAKE_DEADLINE: Duration = Duration::from_secs(3);
/// The longest time that the link is thought to need for what was sent before, when the agent is listened for.
const LONGEST_QUEUE: Duration = Duration::from_secs(10);
/// Between updates of the status.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// One socket of an SSM session.
#[derive(Debug)]
pub(crate) struct Connection {
    websocket: WebSocket,
    keepalive: Keepalive,
    opened_at: Instant,
    /// The driver's count of messages that got through before this socket.
    pub(super) progress_before: u64,
    /// The socket's count of send buffers that emptied, as seen last.
    relieved: u64,
    is_ping_due: bool,
    is_flush_due: bool,
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    pub(super) fn new(websocket: WebSocket, intervals: Intervals, dialled_in: Duration) -> Self {
        let now = now();
        Self {
            websocket,
            keepalive: Keepalive::new(intervals, dialled_in, now),
            opened_at: now,
            progress_before: 0,
            relieved: 0,
            is_ping_due: false,
            is_flush_due: false,
            timer: Box::pin(sleep_until(now.into())),
        }
    }

    /// How long it has been open.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened_at)
    }

    /// Sleeps until `deadline` at the latest; the timer may fire early and is then set anew.
    fn poll_timer(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(deadline);
        if deadline < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx)
    }
}

/// What [`Driver::serve`] is to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// Nothing but an end.
    Forever,
    /// The end of the handshake.
    Established,
    /// Everything written is acknowledged.
    Drained,
}

/// Why [`Driver::serve`] has stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The goal is reached.
    Reached,
    /// The deadline came first.
    Deadline,
    /// The session is to be terminated.
    Cancelled,
    /// The socket is of no more use.
    Lost(String),
    /// The SSM session is over.
    Closed(String),
    /// The agent has said nothing for too long, although the socket lives.
    Silent {
        /// How long.
        lasted: Duration,
    },
    /// There will be no stream.
    HandshakeFailed(handshake::Error),
    /// Too many messages were invalid.
    Damaged {
        /// How many, without progress in order.
        count: u32,
        /// What was wrong with the last.
        last: data_channel::Error,
    },
}

impl Driver {
    /// Moves messages over `connection` until something else is called for.
    pub(super) async fn serve(
        &mut self,
        connection: &mut Connection,
        goal: Goal,
        deadline: Option<Instant>,
    ) -> Stop {
        let cancel = self.cancel.clone();
        let expired = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Stop::Cancelled,
            stop = poll_fn(|cx| self.poll(connection, goal, cx)) => stop,
            () = expired => Stop::Deadline,
        }
    }

    fn poll(
        &mut self,
        connection: &mut Connection,
        goal: Goal,
        cx: &mut Context<'_>,
    ) -> Poll<Stop> {
        self.stream.register(cx);
        if self.channel.is_closed() {
            // The socket has told all it had to tell; the reader may be still to take it.
            return match self.take_events() {
                ControlFlow::Break(stop) => Poll::Ready(stop),
                ControlFlow::Continue(()) => Poll::Pending,
            };
        }
        for _ in 0..ROUNDS {
            let now = now();
            if let Poll::Ready(slept) = self.wakeups.poll(cx) {
                tracing::info!(slept_s = slept.as_secs(), "woken up, asking for life");
                connection.keepalive.suspect(now, WAKE_DEADLINE);
            }
            self.channel.handle_timeout(now);
            let read = self.read(connection, now, cx);
            if let ControlFlow::Break(stop) = self.take_events() {
                return Poll::Ready(stop);
            }
            let has_more = match read {
                ControlFlow::Continue(count) => count == READ_BATCH,
                // The last messages of a socket may say why it was closed.
                ControlFlow::Break(_) if self.channel.is_closed() => return Poll::Pending,
                ControlFlow::Break(stop) => return Poll::Ready(stop),
            };
            // Only after reading: a process that was stopped for long has signs of life waiting.
            if let ControlFlow::Break(stop) = self.watch(connection, now) {
                return Poll::Ready(stop);
            }
            if let ControlFlow::Break(stop) = self.write(connection, now, cx) {
                return Poll::Ready(stop);
            }
            // Only after writing: what has just been sent is owed from now on.
            if goal == Goal::Forever
                && let ControlFlow::Break(stop) = self.listen(connection, now)
            {
                return Poll::Ready(stop);
            }
            self.report_status(connection, now);
            if self.has_reached(goal) {
                return Poll::Ready(Stop::Reached);
            }
            let deaf = self.channel.deaf_at().filter(|at| *at > now);
            let silence = self.silence.poll_timeout(now);
            let deadline = [self.channel.poll_timeout(), silence, deaf]
                .into_iter()
                .flatten()
                .fold(connection.keepalive.poll_timeout(), Instant::min);
            if !has_more && connection.poll_timer(deadline, cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn has_reached(&self, goal: Goal) -> bool {
        match goal {
            Goal::Forever => false,
            Goal::Established => self.established.is_some(),
            Goal::Drained => self.stream.is_drained() && self.channel.unacknowledged() == 0,
        }
    }

    /// Looks whether a ping is due, or the socket is dead.
    fn watch(&mut self, connection: &mut Connection, now: Instant) -> ControlFlow<Stop> {
        let relieved = connection.websocket.get_ref().relieved();
        if std::mem::replace(&mut connection.relieved, relieved) != relieved {
            connection.keepalive.on_sign_of_life();
        }
        let in_flight = self.channel.bytes_in_flight();
        let acknowledged = self.channel.bytes_acknowledged();
        self.rate.update(now, acknowledged, in_flight);
        let queue = self.rate.time_for(in_flight);
        match connection.keepalive.poll(now, queue) {
            Due::Nothing => {}
            Due::Ping => connection.is_ping_due = true,
            Due::Dead => {
                // Perhaps the link has become slower than we thought: the next socket has more time.
                self.rate = DeliveryRate::new(now);
                return ControlFlow::Break(Stop::Lost("no answer to a ping".to_owned()));
            }
        }
        ControlFlow::Continue(())
    }

    /// Looks whether the agent is deaf or silent, or is heard again.
    fn listen(&mut self, connection: &Connection, now: Instant) -> ControlFlow<Stop> {
        let queue = self.rate.time_for(self.channel.bytes_in_flight());
        let signs = Signs {
            heard_at: self.channel.peer_heard_at(),
            is_owing: self.channel.is_awaiting_peer(),
            is_socket_alive: !connection.keepalive.is_awaiting(),
            queue: queue.min(LONGEST_QUEUE),
        };
        if signs.is_socket_alive && self.channel.deaf_at().is_some_and(|at| at <= now) {
            tracing::debug!("the agent does not hear us");
            return ControlFlow::Break(Stop::Silent { lasted: DEAF_AFTER });
        }
        match self.silence.update(now, signs) {
            Some(Change::Silent { since }) => {
                tracing::debug!("the agent does not answer");
                self.reports.tell(SessionEvent::Silent { since });
            }
            Some(Change::Heard) => {
                tracing::debug!("the agent answers again");
                self.reports.tell(SessionEvent::Heard);
            }
            Some(Change::GivenUp { lasted }) => return ControlFlow::Break(Stop::Silent { lasted }),
            None => {}
        }
        ControlFlow::Continue(())
    }

    /// Reads what is there, at most a batch.
    fn read(
        &mut self,
        connection: &mut Connection,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> ControlFlow<Stop, usize> {
        for count in 0..READ_BATCH {
            let item = match Pin::new(&mut connection.websocket).poll_next(cx) {
                Poll::Ready(item) => item,
                Poll::Pending => return ControlFlow::Continue(count),
            };
            connection.keepalive.on_sign_of_life();
            let reason = match item {
                Some(Ok(Message::Close(Some(close)))) => {
                    let reason = without_full_stop(&close.reason).escape_debug().to_string();
                    format!("closed by the service: {} {reason}", u16::from(close.code))
                }
                Some(Ok(Message::Close(None))) | None => "closed by the service".to_owned(),
                Some(Ok(message)) => {
                    match message {
                        Message::Binary(frame) => {
                            connection.keepalive.on_traffic(now);
                            self.on_frame(now, frame)?;
                        }
                        Message::Pong(_) => connection.keepalive.on_pong(now),
                        _ => {}
                    }
                    // A session of whose end this is the first word has not gone on.
                    if !self.channel.is_closed() {
                        self.on_heard();
                    }
                    continue;
                }
                Some(Err(error)) => error.to_string(),
            };
            return ControlFlow::Break(Stop::Lost(reason));
        }
        ControlFlow::Continue(READ_BATCH)
    }

    fn on_frame(&mut self, now: Instant, frame: Bytes) -> ControlFlow<Stop> {
        let Err(error) = self.channel.handle_input(now, frame) else {
            return ControlFlow::Continue(());
        };
        let progress = self.channel.in_order();
        if std::mem::replace(&mut self.progress, progress) != progress {
            self.invalid = 0;
        }
        self.invalid += 1;
        if self.invalid.is_power_of_two() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, count = self.invalid, "message dropped");
        }
        if self.invalid < MAX_INVALID {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(Stop::Damaged {
            count: self.invalid,
            last: error,
        })
    }

    /// Passes on what the channel has for us, as far as there is room for data.
    fn take_events(&mut self) -> ControlFlow<Stop> {
        while self.stream.has_room()
            && let Some(event) = self.channel.poll_event()
        {
            match event {
                Event::Data(PayloadType::Output, bytes) => self.stream.deliver(bytes),
                Event::Data(kind, bytes) => {
                    tracing::debug!(?kind, bytes = bytes.len(), "payload of a command ignored");
                }
                Event::HandshakeRequest(request) => {
                    tracing::debug!(agent_version = ?request.agent_version, "handshake requested");
                }
                Event::Established(established) => self.established = Some(established),
                Event::HandshakeFailed(error) => {
                    return ControlFlow::Break(Stop::HandshakeFailed(error));
                }
                Event::Closed(closed) => return ControlFlow::Break(Stop::Closed(closed.output)),
                Event::Flag(Flag::ConnectToPortError) => {
                    tracing::debug!("the agent could not connect to the port");
                    self.reports.tell(SessionEvent::ConnectToPortError);
                }
                Event::Flag(flag) => tracing::debug!(?flag, "flag ignored"),
                Event::Paused => tracing::debug!("the service asks for a pause"),
                Event::Started => tracing::debug!("the service allows the stream again"),
                Event::Size(_) => {}
            }
        }
        ControlFlow::Continue(())
    }

    /// Feeds the socket while it takes messages and there are any, then flushes.
    fn write(
        &mut self,
        connection: &mut Connection,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> ControlFlow<Stop> {
        let lost = |error: tokio_tungstenite::tungstenite::Error| Stop::Lost(error.to_string());
        loop {
            match Pin::new(&mut connection.websocket).poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return ControlFlow::Break(lost(error)),
                Poll::Pending => return ControlFlow::Continue(()),
            }
            let message = if std::mem::take(&mut connection.is_ping_due) {
                connection.keepalive.on_ping_sent(now);
                Message::Ping(Bytes::from_static(b"keepalive"))
            } else if let Some(frame) = self.next_frame(now) {
                connection.keepalive.on_traffic(now);
                Message::Binary(frame)
            } else {
                break;
            };
            if let Err(error) = Pin::new(&mut connection.websocket).start_send(message) {
                return ControlFlow::Break(lost(error));
            }
            connection.is_flush_due = true;
        }
        if connection.is_flush_due {
            match Pin::new(&mut connection.websocket).poll_flush(cx) {
                Poll::Ready(Ok(())) => connection.is_flush_due = false,
                Poll::Ready(Err(error)) => return ControlFlow::Break(lost(error)),
                Poll::Pending => {}
            }
        }
        ControlFlow::Continue(())
    }

    /// The next message of the channel, made of written bytes if it has none of its own.
    ///
    /// Bytes become a message only when it can leave, so that under load they gather into large ones.
    fn next_frame(&mut self, now: Instant) -> Option<Bytes> {
        if let Some(frame) = self.channel.poll_transmit(now) {
            return Some(frame);
        }
        if self.channel.unsent() > 0 || self.channel.capacity() == 0 {
            return None;
        }
        let bytes = self.stream.take(self.dialer.options.max_payload)?;
        if let Err(error) = self.channel.send(now, PayloadType::Output, &bytes) {
            // Not reached: there is capacity, and `max_payload` is within the channel's bounds.
            tracing::error!(%error, "written bytes were not taken");
        }
        self.channel.poll_transmit(now)
    }

    fn report_status(&mut self, connection: &Connection, now: Instant) {
        if self.status_at.is_some_and(|at| now < at + STATUS_INTERVAL) {
            return;
        }
        self.status_at = Some(now);
        let is_connected = self.gap.is_none();
        self.reports.status.send_modify(|status| {
            status.is_connected = is_connected;
            status.round_trip = self.channel.round_trip();
            status.gateway_round_trip = Some(connection.keepalive.round_trip());
            status.unacknowledged = self.channel.unacknowledged();
            status.held = self.channel.held();
            status.messages = self.channel.statistics();
        });
    }
}
