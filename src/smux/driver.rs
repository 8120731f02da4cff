//! The task that owns a session's io, and the handles that reach the session through it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::debug;

use super::frame::StreamId;
use super::session::{Core, Event, Role};
use super::{Config, Error, SmuxStream};

/// Size of an input block; a read takes what is left of the current one.
const READ_BYTES: usize = 64 * 1024;

/// A block with less room than this is replaced.
const MIN_READ_BYTES: usize = 8 * 1024;

/// Frames are added to the output while it holds less than this.
///
/// With frames of at most 32 KiB it never holds more than 48 KiB. What has been framed cannot be overtaken, so a
/// larger output would only make interactive streams wait longer.
const OUTPUT_BYTES: usize = 16 * 1024;

/// Turns of reading and writing before other tasks get theirs, for an io that is always ready.
const TURNS: usize = 32;

/// A handle to a smux session. The session lives as long as one of its handles or streams, or until its io fails.
#[derive(Debug, Clone)]
pub struct SmuxSession {
    handle: Arc<Handle>,
}

/// What all clones of one [`SmuxSession`] share, so that the last one to go is noticed.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl SmuxSession {
    /// Starts the side that opens streams.
    ///
    /// The future is the driver; nothing moves until it is polled, and dropping it ends all streams with
    /// [`Error::Stopped`]. It returns `Ok` once every handle and stream is gone, their last bytes are written and the
    /// io is shut down, and the error that ended the session otherwise.
    pub fn client<IO>(
        io: IO,
        config: Config,
    ) -> (
        Self,
        impl Future<Output = Result<(), Error>> + Send + 'static,
    )
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::start(Role::Client, io, config)
    }

    /// Starts the side that accepts streams; otherwise as [`client`](Self::client).
    pub fn server<IO>(
        io: IO,
        config: Config,
    ) -> (
        Self,
        impl Future<Output = Result<(), Error>> + Send + 'static,
    )
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::start(Role::Server, io, config)
    }

    fn start<IO>(role: Role, io: IO, config: Config) -> (Self, Driver<IO>) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                core: Core::new(role, config, Instant::now().into_std()),
                wakers: BTreeMap::new(),
                driver: None,
                write_blocked: false,
                read_paused: false,
                has_handles: true,
            }),
            incoming: Notify::new(),
            openable: Notify::new(),
            ended: Notify::new(),
        });
        let handle = Arc::new(Handle {
            shared: Arc::clone(&shared),
        });
        let driver = Driver {
            shared,
            io,
            input: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            write_error: None,
            timer: None,
        };
        (Self { handle }, driver)
    }

    /// Opens a stream. Does not wait for the peer, which sends no answer.
    ///
    /// # Errors
    /// [`Error::StreamIdsExhausted`], or why the session is over.
    pub async fn open(&self) -> Result<SmuxStream, Error> {
        let shared = &self.handle.shared;
        loop {
            let openable = shared.openable.notified();
            if let Some(id) = shared.with(|state| state.core.open())? {
                return Ok(SmuxStream::new(id, Arc::clone(shared)));
            }
            openable.await;
        }
    }

    /// Waits for the next stream that the peer opens; `None` when the session is over, or for ever on a client.
    pub async fn accept(&self) -> Option<SmuxStream> {
        let shared = &self.handle.shared;
        loop {
            let incoming = shared.incoming.notified();
            let (id, more, ended) = shared.with(|state| {
                let id = state.core.accept();
                (id, state.core.has_incoming(), state.core.end().is_some())
            });
            if more {
                shared.incoming.notify_one();
            }
            if let Some(id) = id {
                return Some(SmuxStream::new(id, Arc::clone(shared)));
            }
            if ended {
                return None;
            }
            incoming.await;
        }
    }

    /// Why the session is over, if it is.
    pub fn end(&self) -> Option<Error> {
        self.handle.shared.with(|state| state.core.end().cloned())
    }

    /// Waits until the session is over and returns why.
    pub async fn ended(&self) -> Error {
        loop {
            let ended = self.handle.shared.ended.notified();
            if let Some(error) = self.end() {
                return error;
            }
            ended.await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.with(|state| {
            state.has_handles = false;
            state.core.refuse_incoming();
        });
    }
}

/// The session, and who waits for it.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    incoming: Notify,
    openable: Notify,
    ended: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) core: Core,
    pub(super) wakers: BTreeMap<StreamId, Wakers>,
    /// Set while the driver sleeps and taken to wake it, so that it is woken once.
    driver: Option<Waker>,
    /// The driver waits for the io to take output; more output is no news to it.
    write_blocked: bool,
    /// The driver does not read, because the core did not want input.
    read_paused: bool,
    has_handles: bool,
}

/// Who waits for one stream.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    pub(super) read: Option<Waker>,
    pub(super) write: Option<Waker>,
}

impl Shared {
    /// Works on the session and then, outside the lock, wakes everybody for whom that changed something.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = work(&mut state);
        let mut woken = Vec::new();
        let (mut incoming, mut openable, mut ended) = (false, false, false);
        while let Some(event) = state.core.poll_event() {
            match event {
                Event::Incoming => incoming = true,
                Event::Openable => openable = true,
                Event::Readable(id) => {
                    woken.extend(state.wakers.get_mut(&id).and_then(|w| w.read.take()));
                }
                Event::Writable(id) => {
                    woken.extend(state.wakers.get_mut(&id).and_then(|w| w.write.take()));
                }
                Event::Ended => ended = true,
            }
        }
        if state.driver.is_some() && state.concerns_driver() {
            woken.extend(state.driver.take());
        }
        drop(state);
        for waker in woken {
            waker.wake();
        }
        if incoming {
            self.incoming.notify_one();
        }
        if openable || ended {
            self.openable.notify_waiters();
        }
        if ended {
            self.incoming.notify_waiters();
            self.ended.notify_waiters();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; if something did, the core would still be a valid one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a sleeping driver has something to do that its io will not wake it for.
    fn concerns_driver(&self) -> bool {
        (self.core.has_transmit() && !self.write_blocked)
            || (self.read_paused && self.core.wants_input())
            || self.is_over()
    }

    fn is_over(&self) -> bool {
        !self.has_handles && self.core.is_idle()
    }
}

/// Moves bytes between the io and the core, and decides nothing.
struct Driver<IO> {
    shared: Arc<Shared>,
    io: IO,
    input: BytesMut,
    output: BytesMut,
    unflushed: bool,
    /// The io takes no more; the session ends once what it still gives has been read.
    write_error: Option<Error>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<IO> Future for Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.poll_run(cx));
        if let Err(error) = &result {
            debug!(%error, "smux session ended");
            self.shared.with(|state| state.core.fail(error.clone()));
        }
        Poll::Ready(result)
    }
}

impl<IO> Drop for Driver<IO> {
    fn drop(&mut self) {
        self.shared.with(|state| state.core.fail(Error::Stopped));
    }
}

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut can = Can {
            read: true,
            write: self.write_error.is_none(),
            flush: self.write_error.is_none(),
        };
        for _ in 0..TURNS {
            let is_over = self.shared.with(|state| {
                state.driver = None;
                if can.write {
                    while self.output.len() < OUTPUT_BYTES
                        && state.core.poll_transmit(&mut self.output)
                    {}
                }
                state.is_over()
            });
            if is_over && self.output.is_empty() && self.write_error.is_none() {
                return Pin::new(&mut self.io).poll_shutdown(cx).map_err(lost);
            }
            self.poll_output(cx, &mut can);
            if can.read && self.shared.with(|state| state.core.wants_input()) {
                can.read = self.poll_read(cx)?.is_ready();
            }
            self.poll_timer(cx)?;
            if self.poll_idle(cx, &can).is_pending() {
                // With the write side broken, what had arrived before is still worth reading; that is done now.
                return self
                    .write_error
                    .take()
                    .map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes once, or flushes when there is nothing to write.
    fn poll_output(&mut self, cx: &mut Context<'_>, can: &mut Can) {
        let done = if !self.output.is_empty() && can.write {
            let done = self.poll_write(cx);
            can.write = done.is_ready();
            done
        } else if self.output.is_empty() && self.unflushed && can.flush {
            let done = self.poll_flush(cx);
            can.flush = done.is_ready();
            done
        } else {
            return;
        };
        if let Poll::Ready(Err(error)) = done {
            self.write_error = Some(lost(error));
            self.output.clear();
            (can.write, can.flush) = (false, false);
        }
    }

    /// Writes once.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.output.advance(count);
        self.unflushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Reads once and feeds the core.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.input.capacity() < MIN_READ_BYTES {
            // Takes the block back if no slice of it is left, and makes a new one otherwise.
            self.input.reserve(READ_BYTES);
        }
        let count = ready!(pin!(self.io.read_buf(&mut self.input)).poll(cx)).map_err(lost)?;
        if count == 0 {
            return Poll::Ready(Err(Error::Ended));
        }
        let input = self.input.split().freeze();
        let now = Instant::now().into_std();
        Poll::Ready(
            self.shared
                .with(|state| state.core.handle_input(now, input)),
        )
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        loop {
            let Some(due) = self.shared.with(|state| state.core.poll_timeout()) else {
                return Ok(());
            };
            let due = Instant::from_std(due);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            let now = Instant::now().into_std();
            self.shared.with(|state| state.core.handle_timeout(now))?;
        }
    }

    /// Pending, with the driver's waker left behind, when only the io or a handle can give it something to do.
    fn poll_idle(&mut self, cx: &mut Context<'_>, can: &Can) -> Poll<()> {
        self.shared.with(|state| {
            state.write_blocked = !can.write;
            state.read_paused = !state.core.wants_input();
            let has_work = (can.read && !state.read_paused)
                || (can.write && !self.output.is_empty())
                || (can.flush && self.unflushed && self.output.is_empty())
                || state.concerns_driver();
            if has_work {
                return Poll::Ready(());
            }
            state.driver = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

/// What the io has not refused to do in this poll. Where it has, it will wake the driver.
struct Can {
    read: bool,
    write: bool,
    flush: bool,
}

fn lost(error: io::Error) -> Error {
    Error::Io(Arc::new(error))
}
