//! One end of a session and its faults, shared by the sockets of that end and whoever scripts them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::plan::Ending;
use super::script::{Rules, Script, Struck};
use crate::emulator::session::Peer;

/// The faults of one end of one session.
///
/// While there are none, the relay asks [`is_active`](Self::is_active) once a message and does what
/// it would do without this.
#[derive(Debug)]
pub(crate) struct Wire {
    script: Mutex<Script>,
    /// Whether the script has anything to say.
    active: AtomicBool,
    /// Rings when a cut may be due.
    changed: Notify,
}

impl Wire {
    pub(crate) fn new(side: Peer) -> Self {
        Self {
            script: Mutex::new(Script::new(side)),
            active: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// Follows a change of the rules.
    pub(super) fn load(&self, rules: &Rules) {
        self.with(|script| script.load(Instant::now(), rules));
        self.changed.notify_waiters();
    }

    /// Cuts the open socket; false when there is none.
    pub(super) fn cut_now(&self, how: Ending) -> bool {
        let is_cut = self.with(|script| script.cut(how));
        self.changed.notify_waiters();
        is_cut
    }

    /// Begins with a new socket and returns its number.
    pub(crate) fn attached(&self) -> u64 {
        self.with(|script| script.on_attached(Instant::now()))
    }

    /// Whether there is a socket to cut.
    pub(super) fn is_attached(&self) -> bool {
        self.lock().is_attached()
    }

    /// Notes that `socket` is gone.
    pub(crate) fn detached(&self, socket: u64) {
        self.with(|script| script.on_detached(socket));
    }

    /// Whether messages must pass through here.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Whether the socket is about to be cut, so that no more messages may pass.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_active() && self.lock().is_cut()
    }

    /// Whether another message may be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Counts a message of `length` bytes that passed over the socket.
    pub(crate) fn count(&self, from: Peer, length: usize) {
        let is_cut = self.with(|script| {
            script.count(from, length);
            script.is_cut()
        });
        if is_cut {
            self.changed.notify_waiters();
        }
    }

    /// Takes a message of this end; tells what was done to it.
    pub(super) fn take(&self, message: Bytes) -> Option<Struck> {
        self.with(|script| script.handle_input(Instant::now(), message))
    }

    /// The next message for the other end, or when to ask again.
    pub(crate) fn poll_transmit(&self) -> Result<Bytes, Option<Instant>> {
        self.with(|script| match script.poll_transmit(Instant::now()) {
            Some(message) => Ok(message),
            None => Err(script.poll_timeout()),
        })
    }

    /// Waits until `socket` is to be cut.
    pub(crate) async fn cut(&self, socket: u64) -> Ending {
        loop {
            // Registered before looking, so that no ring between the two is missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let (due, timeout) = self.with(|script| {
                let due = script.poll_cut(socket, Instant::now());
                (due, script.cut_timeout())
            });
            if let Some(how) = due {
                return how;
            }
            match timeout {
                Some(timeout) => {
                    // Whichever it was, the script is asked again.
                    let _ = tokio::time::timeout_at(timeout.into(), changed).await;
                }
                None => changed.await,
            }
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        let mut script = self.lock();
        let result = change(&mut script);
        self.active.store(script.is_active(), Ordering::Release);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
