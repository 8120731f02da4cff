//! Drives one WebSocket: reads and writes in one task, neither waiting for the other.

use std::fmt;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// Largest message taken from a socket: 1 MiB of payload and its header.
///
/// The real agent has no limit of its own (sheet §12); the relay needs one.
pub(crate) const MESSAGE_LIMIT: usize = (1 << 20) + 4096;

/// Messages handled in one direction before the other has its turn.
const BATCH: usize = 128;

/// Longest wait for the peer's half of the closing handshake.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// The settings of every WebSocket here, at both ends.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(64 * 1024)
        .write_buffer_size(64 * 1024)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT))
}

/// What stands behind a WebSocket: takes its messages and gives it others.
pub(crate) trait Leg {
    /// Waits until one more message may be taken; while it waits the socket is not read.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Takes a message that is neither ping, pong nor close; breaking ends the socket, for the
    /// reason given.
    fn receive(&mut self, message: Message) -> ControlFlow<String>;

    /// Notes a pong.
    fn pong(&mut self) {}

    /// Works on what was received, whether or not the socket can be written to.
    fn advance(&mut self, _cx: &mut Context<'_>) {}

    /// Gives the next message to send; `None` closes the socket.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>>;
}

/// Why a WebSocket is over.
#[derive(Debug)]
pub(crate) enum End {
    /// The leg had no more to send.
    Finished,
    /// The leg refused what was received.
    Refused(String),
    /// The peer said goodbye, or its connection ended.
    Closed,
    /// The connection failed, or the peer broke the WebSocket protocol.
    Lost(WsError),
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => formatter.write_str("closed here"),
            Self::Refused(reason) => write!(formatter, "refused: {reason}"),
            Self::Closed => formatter.write_str("closed by the peer"),
            Self::Lost(error) => write!(formatter, "lost: {error}"),
        }
    }
}

/// Runs `leg` on `socket` until either has had enough.
///
/// Messages are fed while more are queued and flushed when the queue runs dry.
pub(crate) async fn drive<IO, L>(socket: &mut WebSocketStream<IO>, leg: &mut L) -> End
where
    IO: AsyncRead + AsyncWrite + Unpin,
    L: Leg,
{
    let mut dirty = false;
    poll_fn(|cx| {
        let read = match read_batch(socket, leg, cx) {
            Ok(pass) => pass,
            Err(end) => return Poll::Ready(end),
        };
        leg.advance(cx);
        let written = match write_batch(socket, leg, &mut dirty, cx) {
            Ok(pass) => pass,
            Err(end) => return Poll::Ready(end),
        };
        if read == Pass::More || written == Pass::More {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

/// How a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// By its own limit: another turn is due at once.
    More,
    /// Waiting for something; the waker is registered.
    Waiting,
}

fn read_batch<IO, L>(
    socket: &mut WebSocketStream<IO>,
    leg: &mut L,
    cx: &mut Context<'_>,
) -> Result<Pass, End>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    L: Leg,
{
    for _ in 0..BATCH {
        if leg.poll_room(cx).is_pending() {
            return Ok(Pass::Waiting);
        }
        match socket.poll_next_unpin(cx) {
            Poll::Pending => return Ok(Pass::Waiting),
            Poll::Ready(None | Some(Ok(Message::Close(_)))) => return Err(End::Closed),
            Poll::Ready(Some(Err(error))) => return Err(End::Lost(error)),
            // The pong is queued by tungstenite itself and leaves with the next read or write.
            Poll::Ready(Some(Ok(Message::Ping(_)))) => {}
            Poll::Ready(Some(Ok(Message::Pong(_)))) => leg.pong(),
            Poll::Ready(Some(Ok(message))) => {
                if let ControlFlow::Break(reason) = leg.receive(message) {
                    return Err(End::Refused(reason));
                }
            }
        }
    }
    Ok(Pass::More)
}

fn write_batch<IO, L>(
    socket: &mut WebSocketStream<IO>,
    leg: &mut L,
    dirty: &mut bool,
    cx: &mut Context<'_>,
) -> Result<Pass, End>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    L: Leg,
{
    for _ in 0..BATCH {
        match socket.poll_ready_unpin(cx) {
            Poll::Pending => return Ok(Pass::Waiting),
            Poll::Ready(ready) => ready.map_err(End::Lost)?,
        }
        match leg.poll_send(cx) {
            Poll::Ready(Some(message)) => {
                socket.start_send_unpin(message).map_err(End::Lost)?;
                *dirty = true;
            }
            Poll::Ready(None) => return Err(End::Finished),
            Poll::Pending => {
                if *dirty && let Poll::Ready(flushed) = socket.poll_flush_unpin(cx) {
                    flushed.map_err(End::Lost)?;
                    *dirty = false;
                }
                return Ok(Pass::Waiting);
            }
        }
    }
    Ok(Pass::More)
}

/// Says goodbye and waits a moment for the answer, so that the last messages are not cut off by
/// a reset.
pub(crate) async fn close<IO>(mut socket: WebSocketStream<IO>, code: CloseCode, reason: &str)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let frame = CloseFrame {
        code,
        reason: reason.into(),
    };
    let mut sent = false;
    let goodbye = async {
        // Refused when the peer was first; what is left then is to flush the answer to its goodbye.
        let _ = socket.feed(Message::Close(Some(frame))).await;
        // Reading goes on while the goodbye is written: the peer may be in the middle of a write
        // and read nothing before it is done.
        poll_fn(|cx| {
            if !sent {
                sent = socket.poll_flush_unpin(cx).is_ready();
            }
            loop {
                match ready!(socket.poll_next_unpin(cx)) {
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => return Poll::Ready(()),
                }
            }
        })
        .await
    };
    // Either way the connection is dropped next.
    let _ = tokio::time::timeout(CLOSE_DEADLINE, goodbye).await;
}
