//! The driver of an SSH connection: a byte stream below, messages numbered 80 and up above.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tracing::debug;

use super::auth::printable;
use super::error::{Error, Phase};
use super::transport::{self, Event, Transport};
use super::wire::msg;

/// Output above which [`Connection::poll_ready`] waits for the stream to take some.
const OUTPUT_LOW_WATER: usize = 64 * 1024;
/// Bytes read at once before the peer has authenticated itself or us.
const EARLY_READ_BYTES: usize = 4 * 1024;
/// Bytes read at once afterwards.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of messages that [`Connection::send`] takes in while it waits. With that much unread, the
/// other end is made to wait as well.
const INBOX_BYTES: usize = 1024 * 1024;
/// Bytes of messages taken in while a login waits for something else; with that much unread, no more is read.
const EARLY_INBOX_BYTES: usize = 64 * 1024;
/// Time [`Connection::close`] gives to the last bytes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest farewell kept, in bytes.
const MAX_FAREWELL_BYTES: usize = 1024;

/// How the other end took its leave (SSH_MSG_DISCONNECT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// The reason code ([`transport::reason`]).
    pub reason: u32,
    /// Its words, free of control characters.
    pub description: String,
}

/// An authenticated SSH connection over `IO`, passing messages numbered 80 and up.
///
/// Belongs to one task. [`Connection::poll_recv`] does all the work that is due, so it must be
/// polled whenever the task runs, also to finish a rekey that [`Connection::poll_ready`] waits
/// for. Memory: 64 KiB to read into, 64 KiB and one message of output, and what the transport
/// holds of one read.
pub struct Connection<IO> {
    io: IO,
    transport: Transport,
    phase: Phase,
    /// What the stream is read into.
    input: Box<[u8]>,
    timer: Pin<Box<Sleep>>,
    /// The time `timer` is set to; none when the transport waits for nothing.
    timer_at: Option<Instant>,
    /// Messages taken in while sending.
    inbox: VecDeque<Bytes>,
    inbox_bytes: usize,
    /// No more messages come.
    has_ended: bool,
    /// What ended the connection, told once the messages before it have been taken.
    failure: Option<Error>,
    farewell: Option<Farewell>,
    /// The stream takes no more output; input may still hold the reason.
    write_failure: Option<io::Error>,
    /// A task that waits in `poll_ready` for something that happens in `poll_recv`.
    waiting: Option<Waker>,
    pub(super) user: String,
    pub(super) banners: Vec<String>,
    pub(super) took_person: bool,
    pub(super) accepted: String,
    pub(super) took_touch: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    pub(super) fn new(io: IO, transport: Transport) -> Self {
        Self {
            io,
            transport,
            phase: Phase::KeyExchange,
            input: vec![0; EARLY_READ_BYTES].into_boxed_slice(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            timer_at: None,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            has_ended: false,
            failure: None,
            farewell: None,
            write_failure: None,
            waiting: None,
            user: String::new(),
            banners: Vec::new(),
            took_person: false,
            accepted: String::new(),
            took_touch: false,
        }
    }

    /// The name that the client logged in with.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The authentication method, and which key, that the server has accepted. Empty on a server.
    pub fn accepted(&self) -> &str {
        &self.accepted
    }

    /// Whether somebody did something for the login that they would have to do again for another
    /// one: a code that fits once, a touch of a security key.
    pub fn took_person(&self) -> bool {
        self.took_person
    }

    /// Whether a security key was touched for the login. Another key may do where nobody is there to touch it.
    pub fn took_touch(&self) -> bool {
        self.took_touch
    }

    /// What the server had to say before the user was authenticated, free of control characters.
    /// Empty on a server.
    pub fn banners(&self) -> &[String] {
        &self.banners
    }

    /// The session identifier (RFC 4253 §7.2).
    pub fn session_id(&self) -> &[u8] {
        self.transport.session_id()
    }

    /// The identification string of the other end, made printable.
    pub fn peer_version(&self) -> &str {
        self.transport.peer_version()
    }

    /// Sequence number of the last packet that the other end answered with `SSH_MSG_UNIMPLEMENTED`.
    pub fn refused_sequence(&self) -> Option<u32> {
        self.transport.refused_sequence()
    }

    /// How the other end took its leave, once it has.
    pub fn farewell(&self) -> Option<&Farewell> {
        self.farewell.as_ref()
    }

    /// Receives the next message numbered 80 and up; none after the other end has ended the
    /// connection with SSH_MSG_DISCONNECT, or has closed it between two packets.
    ///
    /// Also writes output that is pending, changes keys, and keeps the timers.
    ///
    /// # Errors
    /// Any [`Error`] ends the connection; afterwards the result is none.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        if let Some(message) = self.inbox.pop_front() {
            self.inbox_bytes -= message.len();
            return Poll::Ready(Ok(Some(message)));
        }
        loop {
            let Some(message) = ready!(self.poll_message(cx))? else {
                return Poll::Ready(Ok(None));
            };
            if !self.is_stray(&message) {
                return Poll::Ready(Ok(Some(message)));
            }
            self.on_stray(&message);
        }
    }

    /// Waits until a message can be sent: no key exchange is going on, and less than 64 KiB wait to
    /// be written. A key exchange ends in [`Connection::poll_recv`].
    ///
    /// # Errors
    /// [`Error::Ended`] after the end, [`Error::Io`] when the stream takes no more.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.has_ended {
            return Poll::Ready(Err(Error::Ended));
        }
        // Less than that is left to gather, so that many small messages make one write.
        if self.transport.output().len() >= OUTPUT_LOW_WATER {
            let _ = self.poll_write_out(cx);
        }
        self.check_writable()?;
        if self.is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the keys permit a message now: false during a key exchange, however little waits to
    /// be written.
    ///
    /// A relay that stops receiving while it cannot send must go on calling
    /// [`Connection::poll_recv`] when this is false, for that is what ends the key exchange.
    pub fn can_send(&self) -> bool {
        self.transport.can_send()
    }

    /// Queues one message, after [`Connection::poll_ready`].
    ///
    /// # Errors
    /// [`Error::Transport`] when called out of turn or with a message that fits no packet.
    pub fn start_send(&mut self, message: &[u8]) -> Result<(), Error> {
        Ok(self.transport.send(message)?)
    }

    /// Waits until everything queued has been written and the stream is flushed.
    ///
    /// # Errors
    /// [`Error::Io`] when the stream takes no more.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let written = self.poll_write_out(cx);
        self.check_writable()?;
        ready!(written);
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        Poll::Ready(flushed.map_err(|source| self.io_error(source)))
    }

    /// Answers the message received last with SSH_MSG_UNIMPLEMENTED. To be called before the next
    /// [`Connection::poll_recv`], and not together with [`Connection::send`], which reads ahead.
    ///
    /// # Errors
    /// As [`Connection::start_send`].
    pub fn reject_last(&mut self) -> Result<(), Error> {
        Ok(self.transport.reject_last()?)
    }

    /// Queues SSH_MSG_DISCONNECT, after which nothing can be sent.
    pub fn disconnect(&mut self, reason: u32, text: &str) {
        self.transport.disconnect(reason, text);
    }

    /// Receives the next message: [`Connection::poll_recv`] as a future.
    ///
    /// # Errors
    /// As [`Connection::poll_recv`].
    pub async fn recv(&mut self) -> Result<Option<Bytes>, Error> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Sends one message and begins to write it.
    ///
    /// Goes on reading while it waits, up to 1 MiB of messages for [`Connection::recv`].
    ///
    /// # Errors
    /// As [`Connection::poll_ready`] and [`Connection::start_send`].
    pub async fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        poll_fn(|cx| {
            loop {
                if self.poll_ready(cx)?.is_ready() {
                    return Poll::Ready(Ok::<_, Error>(()));
                }
                // A key exchange ends by reading only, and little comes until then.
                if self.inbox_bytes >= INBOX_BYTES && self.transport.can_send() {
                    return Poll::Pending;
                }
                match ready!(self.poll_message(cx))? {
                    Some(stray) if self.is_stray(&stray) => self.on_stray(&stray),
                    Some(message) => {
                        self.inbox_bytes += message.len();
                        self.inbox.push_back(message);
                    }
                    None => return Poll::Ready(Err(Error::Ended)),
                }
            }
        })
        .await?;
        self.start_send(message)?;
        // What the stream does not take now goes with the next call.
        poll_fn(|cx| {
            let _ = self.poll_write_out(cx);
            Poll::Ready(())
        })
        .await;
        Ok(())
    }

    /// Waits until everything sent has been written: [`Connection::poll_flush`] as a future.
    ///
    /// # Errors
    /// As [`Connection::poll_flush`].
    pub async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says goodbye, writes what is queued, and shuts the stream down, within two seconds.
    pub async fn close(mut self) {
        self.disconnect(transport::reason::BY_APPLICATION, "closed");
        self.finish().await;
    }

    /// Writes what is queued and shuts the stream down, within two seconds.
    pub async fn finish(&mut self) {
        let last_words = poll_fn(|cx| {
            ready!(self.poll_flush(cx))?;
            let shut = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
            Poll::Ready(shut.map_err(|source| self.io_error(source)))
        });
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE_TIMEOUT, last_words).await {
            debug!(%error, "last words not delivered");
        }
    }

    /// The core, for logging in.
    pub(super) fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// How far the connection has come.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Goes on to the next phase. With the last one come the large buffers.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        if phase == Phase::Connection {
            // Taken in before the end of authentication, and too late for it.
            self.inbox.clear();
            self.inbox_bytes = 0;
            self.input = vec![0; READ_BYTES].into_boxed_slice();
        }
    }

    /// Receives the next message of any number while logging in.
    ///
    /// # Errors
    /// Any [`Error`] ends the connection, and so does its end.
    pub(super) async fn recv_any(&mut self) -> Result<Bytes, Error> {
        if let Some(message) = self.inbox.pop_front() {
            self.inbox_bytes -= message.len();
            return Ok(message);
        }
        match poll_fn(|cx| self.poll_message(cx)).await? {
            Some(message) => Ok(message),
            None => Err(self.early_end()),
        }
    }

    /// Runs `work` while the login waits for it. What comes meanwhile is kept for [`Connection::recv_any`].
    ///
    /// # Errors
    /// As [`Connection::recv_any`], and then `work` is not finished.
    pub(super) async fn attending<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            while self.inbox_bytes < EARLY_INBOX_BYTES {
                let Some(message) = ready!(self.poll_message(cx))? else {
                    return Poll::Ready(Err(self.early_end()));
                };
                self.inbox_bytes += message.len();
                self.inbox.push_back(message);
            }
            Poll::Pending
        })
        .await
    }

    /// Runs until the transport has something to say other than a message.
    ///
    /// # Errors
    /// As [`Connection::recv_any`].
    pub(super) async fn recv_event(&mut self) -> Result<Event, Error> {
        match poll_fn(|cx| self.poll_event(cx)).await? {
            Some(event) => Ok(event),
            None => Err(self.early_end()),
        }
    }

    /// What the end of the connection means before it is up.
    fn early_end(&self) -> Error {
        let phase = self.phase;
        match &self.farewell {
            Some(farewell) => Error::Refused {
                phase,
                reason: farewell.reason,
                description: farewell.description.clone(),
            },
            None => self.lost(),
        }
    }

    /// What it means that the other end went away without a word, or with words that are not SSH's.
    fn lost(&self) -> Error {
        match self.transport.preamble() {
            Some(said) => Error::TurnedAway { said },
            None => Error::ConnectionLost { phase: self.phase },
        }
    }

    /// The next message of any number; none after the end.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        loop {
            match ready!(self.poll_event(cx))? {
                Some(Event::Message(message)) => return Poll::Ready(Ok(Some(message))),
                Some(_) => {}
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// The next event of the transport, for which bytes are read as needed; none after the end.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, Error>> {
        loop {
            if self.has_ended {
                return Poll::Ready(Ok(None));
            }
            if let Some(event) = self.transport.poll_event() {
                if let Event::Disconnected {
                    reason,
                    description,
                } = event
                {
                    debug!(reason, "the other end disconnected");
                    self.farewell = Some(Farewell {
                        reason,
                        description: printable(description.as_bytes(), MAX_FAREWELL_BYTES),
                    });
                    return Poll::Ready(self.end(None));
                }
                return Poll::Ready(Ok(Some(event)));
            }
            if let Some(failure) = self.failure.take() {
                // The transport may have queued the reason: worth one try.
                let _ = self.poll_write_out(cx);
                return Poll::Ready(self.end(Some(failure)));
            }
            if let Err(error) = self.poll_timers(cx) {
                self.failure = Some(error);
                continue;
            }
            let _ = self.poll_write_out(cx);
            self.wake_if_ready();
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(self.on_eof()),
                Ok(length) => {
                    let taken = self.transport.handle_input(now(), &self.input[..length]);
                    self.failure = taken.err().map(Error::from);
                }
                Err(error) => self.failure = Some(self.io_error(error)),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(&mut self.input);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes output until the stream takes no more; ready when none is left.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.write_failure.is_some() {
            return Poll::Ready(());
        }
        let output = self.transport.output();
        while !output.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, output)) {
                Ok(0) => self.write_failure = Some(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    output.advance(written);
                    continue;
                }
                Err(error) => self.write_failure = Some(error),
            }
            // The other end may have said why before it closed: reading goes on.
            output.clear();
            break;
        }
        Poll::Ready(())
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        loop {
            let at = self.transport.poll_timeout();
            if self.timer_at != at {
                self.timer_at = at;
                if let Some(at) = at {
                    self.timer.as_mut().reset(at.into());
                }
            }
            if at.is_none() || self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.timer_at = None;
            self.transport.handle_timeout(now())?;
        }
    }

    fn on_eof(&mut self) -> Result<Option<Event>, Error> {
        if self.phase == Phase::Connection && !self.transport.is_within_packet() {
            return self.end(None);
        }
        self.end(Some(self.lost()))
    }

    fn end(&mut self, failure: Option<Error>) -> Result<Option<Event>, Error> {
        self.has_ended = true;
        self.wake();
        failure.map_or(Ok(None), Err)
    }

    fn is_stray(&self, message: &[u8]) -> bool {
        self.phase == Phase::Connection && message.first().is_none_or(|number| *number < 80)
    }

    /// Deals with a message that the layers below let through and that comes after authentication.
    fn on_stray(&mut self, message: &[u8]) {
        // RFC 4252 §5.1: requests sent before the client knew of its success are silently ignored.
        // A transport that is a client's lets none through.
        if message.first() == Some(&msg::USERAUTH_REQUEST) {
            return;
        }
        // A service request, or what answers nothing. Fails only when the connection is over, which the next call tells.
        let _ = self.transport.reject_last();
    }

    fn is_ready(&mut self) -> bool {
        self.transport.can_send() && self.transport.output().len() < OUTPUT_LOW_WATER
    }

    fn wake_if_ready(&mut self) {
        if self.waiting.is_some() && (self.write_failure.is_some() || self.is_ready()) {
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    fn check_writable(&self) -> Result<(), Error> {
        match &self.write_failure {
            // An io::Error cannot be cloned; its kind is what matters.
            Some(error) => Err(self.io_error(error.kind().into())),
            None => Ok(()),
        }
    }

    fn io_error(&self, source: io::Error) -> Error {
        Error::Io {
            phase: self.phase,
            source,
        }
    }
}

impl<IO> fmt::Debug for Connection<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("phase", &self.phase)
            .field("user", &self.user)
            .field("has_ended", &self.has_ended)
            .finish_non_exhaustive()
    }
}

/// Now, on the clock of the runtime, which tests can pause.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
