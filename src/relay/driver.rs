//! Drives a [`Pair`] over two connections, in one task.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Sleep, timeout};
use tracing::{debug, info, warn};

use super::Side;
use super::credit::Limits;
use super::end::{self, End};
use super::observer::Observer;
use super::pair::{self, Event, Pair, Received};
use crate::ssh::transport::reason::{BY_APPLICATION, PROTOCOL_ERROR};
use crate::ssh::{self, Connection, Farewell};
use crate::upstream::Absence;

/// Messages taken from one side before the other has its turn.
const BATCH: usize = 32;

/// Rounds through both sides before other tasks have their turn.
const ROUNDS: usize = 16;

/// How long the last words of a side that is gone may take to reach the other side.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How long it may take until it is known here that the tunnel is over, whose streams have ended.
const REASON_PATIENCE: Duration = Duration::from_millis(300);

/// A local connection, and what has passed through it.
pub struct Relay<L> {
    local: Connection<L>,
    pair: Pair,
    alarm: Alarm,
}

/// How a local client and its upstream parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// The client left and upstream never heard of it: it can serve the next one.
    Untouched,
    /// The client has left, or upstream has left it: both are done with.
    Over,
    /// Upstream is gone, and the client stays for another one.
    Lost,
}

impl<L> Relay<L>
where
    L: AsyncRead + AsyncWrite + Unpin,
{
    /// Takes over `local`, which has just logged in. A channel that it asks for waits for `hold` while its upstream
    /// is away.
    pub fn new(local: Connection<L>, limits: Limits, hold: Duration) -> Self {
        Self {
            pair: Pair::new(limits, hold, is_openssh(local.peer_version()), now()),
            local,
            alarm: Alarm::new(),
        }
    }

    /// What is known of the channels.
    pub fn observer(&self) -> &Observer {
        self.pair.observer()
    }

    /// Whether the client has listeners at the target, which only an upstream keeps up.
    pub fn has_forwards(&self) -> bool {
        self.pair.has_forwards()
    }

    /// Whether the client has asked for something that takes an upstream, and waits.
    pub fn is_asking(&self) -> bool {
        self.pair.is_asking()
    }

    /// Serves the local side alone until `upstream` is there: its messages are held, within bounds.
    ///
    /// Returns `None` when the local client leaves first.
    pub async fn hold<T>(&mut self, upstream: impl Future<Output = T>) -> Option<T> {
        let mut upstream = pin!(upstream);
        let held = poll_fn(|cx| match upstream.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Ok(result)),
            Poll::Pending => self.poll_local(cx).map(Err),
        });
        match held.await {
            Ok(result) => Some(result),
            Err(end) => {
                self.reprove_local(&end).await;
                None
            }
        }
    }

    /// There is no upstream: answers what was held with failure.
    pub fn refuse(&mut self, reason: &str) {
        self.pair.refuse(reason);
    }

    /// Serves the local side alone until it asks for something that takes an upstream.
    ///
    /// Returns false when the local client leaves instead.
    pub async fn idle(&mut self) -> bool {
        let waiting = poll_fn(|cx| {
            let end = self.poll_local(cx);
            if self.pair.is_asking() {
                return Poll::Ready(Ok(()));
            }
            end.map(Err)
        });
        match waiting.await {
            Ok(()) => true,
            Err(end) => {
                self.reprove_local(&end).await;
                false
            }
        }
    }

    /// Says goodbye to the local client, with a reason for the person there.
    pub async fn dismiss(mut self, reason: &str) {
        self.local.disconnect(BY_APPLICATION, reason);
        self.local.finish().await;
    }

    /// Passes messages on between the local client and `upstream` until one of them is gone.
    ///
    /// `absence` tells since when `upstream` can make no progress, while it cannot: the client is kept in good faith
    /// meanwhile, and a channel that it has asked for is refused in the end, for the reason that `why_away` gives.
    /// `round_trip` tells how long a message to the target and its answer take, if that is known.
    ///
    /// When upstream is gone, open channels have been ended, and whatever else the client wants of an upstream is
    /// kept for the next one. But where sshd said goodbye, or left after a malformed message of the client, that is
    /// for the client.
    pub async fn join<U>(
        &mut self,
        upstream: &mut Connection<U>,
        mut absence: watch::Receiver<Option<Absence>>,
        round_trip: impl Fn() -> Option<Duration>,
        why_away: impl Fn() -> String,
    ) -> Parting
    where
        U: AsyncRead + AsyncWrite + Unpin,
    {
        self.pair.gain_upstream(now());
        let (side, end) = loop {
            let known = *absence.borrow_and_update();
            self.pair.set_absence(now(), known);
            tokio::select! {
                biased;
                // That it is over is told before what comes then.
                Ok(()) = absence.changed() => {}
                ended = poll_fn(|cx| {
                    if let Some(round_trip) = round_trip() {
                        self.pair.set_round_trip(now(), round_trip);
                    }
                    self.poll_both(cx, upstream, &why_away)
                }) => break ended,
            }
        };
        debug!(?side, ?end, "relay ends");
        if side == Side::Local {
            self.reprove_local(&end).await;
            return self.part_from_upstream(upstream).await;
        }
        let farewell = upstream.farewell();
        let is_goodbye = farewell.is_some_and(|farewell| !end::is_of_damage(farewell));
        let is_answer = matches!(end, End::Gone(None)) && self.pair.has_offended();
        if is_goodbye || is_answer {
            self.tell_local(farewell).await;
            return Parting::Over;
        }
        // When the tunnel breaks, its streams may end as if sshd had closed them, just before it is known.
        let is_away = |known: &Option<_>| known.is_some();
        let end = match end {
            End::Gone(None) => match timeout(REASON_PATIENCE, absence.wait_for(is_away)).await {
                Ok(Ok(_)) => End::Gone(Some(ssh::Error::Ended)),
                _ => End::Gone(None),
            },
            end => end,
        };
        let cause = end::cause(&end, upstream.farewell());
        info!(cause, ?end, "upstream lost");
        self.pair.lose_upstream(now(), &cause);
        reprove_upstream(upstream, &end).await;
        Parting::Lost
    }

    /// Tells a client that broke the rules which one, where sshd does.
    async fn reprove_local(&mut self, end: &End) {
        let End::Misbehaved(error) = end else { return };
        if !matches!(error, pair::Error::WindowOverflow { .. }) {
            self.local.disconnect(PROTOCOL_ERROR, &error.to_string());
        }
        self.local.finish().await;
    }

    /// Passes on what the local client said last; then upstream is untouched, or is left.
    async fn part_from_upstream<U>(&mut self, upstream: &mut Connection<U>) -> Parting
    where
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { pair, .. } = self;
        let drained = poll_fn(|cx| {
            // What comes from upstream is for nobody, but must be read for the rest to move on.
            let moved = match pump(cx, upstream, pair, Side::Upstream) {
                Ok(moved) => moved,
                Err(end) => return Poll::Ready(Err(end)),
            };
            while pair.next_message(Side::Local).is_some() {}
            let flushed = upstream.poll_flush(cx).is_ready();
            ready_or_again(cx, pair.is_drained(Side::Upstream) && flushed, moved).map(Ok)
        });
        let result: Result<Result<(), End>, _> = tokio::time::timeout(LAST_WORDS, drained).await;
        if matches!(result, Ok(Ok(()))) && self.pair.is_untouched() {
            return Parting::Untouched;
        }
        upstream.disconnect(BY_APPLICATION, "disconnected by user");
        upstream.finish().await;
        Parting::Over
    }

    /// Passes on what upstream said last, and its goodbye if it said one.
    async fn tell_local(&mut self, farewell: Option<&Farewell>) {
        let Self { local, pair, .. } = self;
        let drained = poll_fn(|cx| {
            let Ok(moved) = pump(cx, local, pair, Side::Local) else {
                return Poll::Ready(());
            };
            while pair.next_message(Side::Upstream).is_some() {}
            ready_or_again(cx, pair.is_drained(Side::Local), moved)
        });
        let _too_late = tokio::time::timeout(LAST_WORDS, drained).await;
        if let Some(farewell) = farewell {
            local.disconnect(farewell.reason, &farewell.description);
        }
        local.finish().await;
    }

    /// Serves the local side alone; ready when it is gone.
    fn poll_local(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..ROUNDS {
            match pump(cx, &mut self.local, &mut self.pair, Side::Local) {
                Ok(true) => {}
                Ok(false) if self.is_timed_out(cx) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_both<U>(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &mut Connection<U>,
        why_away: &impl Fn() -> String,
    ) -> Poll<(Side, End)>
    where
        U: AsyncRead + AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS {
            let mut progress = false;
            match pump(cx, &mut self.local, &mut self.pair, Side::Local) {
                Ok(moved) => progress |= moved,
                Err(end) => return Poll::Ready((Side::Local, end)),
            }
            match pump(cx, upstream, &mut self.pair, Side::Upstream) {
                Ok(moved) => progress |= moved,
                Err(end) => return Poll::Ready((Side::Upstream, end)),
            }
            if self.pair.is_overdue(now()) {
                self.pair.refuse_overdue(now(), &why_away());
                progress = true;
            }
            if !progress && !self.is_timed_out(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Keeps the core's timer and tells what it has to say; true when something was due.
    fn is_timed_out(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(event) = self.pair.poll_event() {
            tell_log(&event);
        }
        let is_due = self.alarm.poll(cx, self.pair.poll_timeout()).is_ready();
        if is_due {
            self.pair.handle_timeout(now());
        }
        is_due
    }
}

/// A timer that is set again only when its time has changed.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Alarm {
    fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            at: None,
        }
    }

    /// Ready when it is `at`.
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        if self.at != at {
            self.at = at;
            if let Some(at) = at {
                self.sleep.as_mut().reset(at.into());
            }
        }
        match at {
            Some(_) => self.sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// Now, on the clock of the runtime, which tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn tell_log(event: &Event) {
    match event {
        Event::ForwardRestored { address } => info!(address, "the target listens again"),
        Event::ForwardGivenUp { address } => {
            warn!(
                address,
                "the target does not listen any more: refused for two minutes"
            );
        }
    }
}

/// Tells an upstream that broke the rules which one, as far as it can be told at once.
async fn reprove_upstream<U>(upstream: &mut Connection<U>, end: &End)
where
    U: AsyncRead + AsyncWrite + Unpin,
{
    if let End::Misbehaved(error) = end {
        upstream.disconnect(PROTOCOL_ERROR, &error.to_string());
        poll_fn(|cx| {
            let _told_or_not = upstream.poll_flush(cx);
            Poll::Ready(())
        })
        .await;
    }
}

/// Whether sshd would take the client with this identification for one of its own kind.
fn is_openssh(version: &str) -> bool {
    version
        .strip_prefix("SSH-2.0-")
        .is_some_and(|software| software.starts_with("OpenSSH"))
}

/// Ready when `done`; otherwise pending, and polled again soon when something `moved`.
fn ready_or_again(cx: &Context<'_>, done: bool, moved: bool) -> Poll<()> {
    if done {
        return Poll::Ready(());
    }
    if moved {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

/// Reads what `connection` has and writes what waits for it; true when anything moved.
///
/// Leaves the waker wherever it could not go on, so a pending caller is woken for either direction.
fn pump<IO>(
    cx: &mut Context<'_>,
    connection: &mut Connection<IO>,
    pair: &mut Pair,
    side: Side,
) -> Result<bool, End>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let has_read = read_batch(cx, connection, pair, side)?;
    match write_all(cx, connection, pair, side) {
        Ok(has_written) => Ok(has_read || has_written),
        // What the other end said last may still be there to read.
        Err(_) if has_read => Ok(true),
        Err(error) => Err(End::Gone(Some(error))),
    }
}

/// Takes in up to [`BATCH`] messages; true when there was one.
fn read_batch<IO>(
    cx: &mut Context<'_>,
    connection: &mut Connection<IO>,
    pair: &mut Pair,
    side: Side,
) -> Result<bool, End>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut has_read = false;
    for _ in 0..BATCH {
        // A key exchange ends only by reading, and nothing can be written before it has.
        if !pair.may_receive(side) && connection.can_send() {
            break;
        }
        let message = match connection.poll_recv(cx) {
            Poll::Ready(Ok(Some(message))) => message,
            Poll::Ready(Ok(None)) => return Err(End::Gone(None)),
            Poll::Ready(Err(error)) => return Err(End::Gone(Some(error))),
            Poll::Pending => break,
        };
        has_read = true;
        match pair.receive(now(), side, message) {
            Ok(Received::Taken) => {}
            Ok(Received::Unimplemented) => connection
                .reject_last()
                .map_err(|error| End::Gone(Some(error)))?,
            Err(error) => return Err(End::Misbehaved(error)),
        }
    }
    Ok(has_read)
}

/// Hands over what waits for `side` as long as there is room; true when there was something.
fn write_all<IO>(
    cx: &mut Context<'_>,
    connection: &mut Connection<IO>,
    pair: &mut Pair,
    side: Side,
) -> Result<bool, ssh::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut has_written = false;
    while connection.poll_ready(cx)?.is_ready() {
        let Some(message) = pair.next_message(side) else {
            break;
        };
        has_written = true;
        connection.start_send(&message)?;
    }
    match connection.poll_flush(cx) {
        Poll::Ready(flushed) => flushed.map(|()| has_written),
        Poll::Pending => Ok(has_written),
    }
}
