//! How `ssmshim connect` uses the SSM session of a daemon that runs already.
//!
//! Each daemon listens on a Unix socket ([`directory`]). Both ends look who is at the other one: only processes of the same
//! user get on. Whoever gets on can open a TCP connection to the port that the daemon leads to, and nothing else; who
//! may log in there, the sshd decides.
//!
//! ```text
//! client: {"version":1,"target":"web","port":22,"place":{…},"identity":"…"}     one line
//! daemon: {"answer":"mine","hold_seconds":30}  or  {"answer":"elsewhere"}        one line
//!         frames from here on (see `wire`)
//! daemon: notice opened                  within hold_seconds; before that nobody sends bytes
//! both:   bytes
//! client: notice eof                     no more bytes from here; those of the target still come
//! daemon: notice told                    something for the person, such as a pause
//! daemon: notice ended                   after the last byte, with the reason if there is one
//! ```
//!
//! A client that closes has gone, and its stream is ended. A daemon that closes without `ended` was killed.
//!
//! Everything is bounded: lines and frames by `wire`, a client that is slow to ask by [`service`], clients by
//! [`CLIENTS`], and one that ceases to read by [`carry`].

pub(super) mod carry;
pub(super) mod client;
pub(super) mod directory;
pub(super) mod herald;
pub(super) mod message;
mod service;
mod wire;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use self::directory::Directory;
use self::message::Demand;
use crate::report::one_line;
use crate::upstream::Visit;

/// Clients at the same time. Others wait to be accepted, and after a second go their own way.
const CLIENTS: usize = 256;

/// How long accepting pauses when the system is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Knows the ways that a daemon has.
pub(super) trait Find: Send + Sync {
    /// The way to the machine that is wanted, if there is one already. It is in use as long as the client is here.
    fn find(&self, demand: &Demand) -> Option<Visit>;
}

/// A daemon's socket, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    directory: Directory,
    name: String,
}

impl Control {
    /// Listens, and removes the sockets of dead daemons. Without a place for a socket there is none, and that is
    /// said: `connect` then goes its own way.
    pub(super) async fn open() -> Option<Self> {
        let opened = Directory::create().and_then(|directory| {
            let (listener, name) = directory.listen()?;
            Ok(Self {
                listener,
                directory,
                name,
            })
        });
        match opened {
            Ok(control) => {
                control.directory.sweep().await;
                Some(control)
            }
            Err(error) => {
                warn!(
                    error = one_line(&error),
                    "no socket for `ssmshim connect`, which will start SSM sessions of its own"
                );
                None
            }
        }
    }

    /// Serves clients until `stop`; returns when all are gone.
    pub(super) async fn run(self, ways: Arc<dyn Find>, stop: CancellationToken) {
        let clients = TaskTracker::new();
        let places = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let accepted = async {
                // Never closed, so there is a place in the end.
                let place = Arc::clone(&places).acquire_owned().await;
                (self.listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (ways, stop) = (Arc::clone(&ways), stop.clone());
            clients.spawn(async move {
                if let Err(error) = service::serve(stream, &*ways, &stop).await {
                    debug!(
                        error = one_line(&error),
                        "a client of the socket is turned away"
                    );
                }
                drop(place);
            });
        }
        // Who comes now goes its own way at once.
        drop(self);
        clients.close();
        clients.wait().await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.directory.remove(&self.name);
    }
}

/// Waits until `at`, or for ever.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// The clock of the runtime, which tests may hold.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
