//! Spare transports: authenticated, idle, each kept alive by a task of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::Transport;
use crate::ssh::messages::{Message, channel_open_failure, open_failure, request_failure};

/// Transports kept ready: many a tool opens a second connection while the first one is open.
pub(super) const READY: usize = 2;

/// The same where each costs an SSM session of its own.
pub(super) const READY_SINGLE: usize = 1;

/// Transports kept at the most; more than that are closed when they come back.
const CAPACITY: usize = 4;

/// One that the target ends sooner than that was of no use to anybody.
const YOUNG: Duration = Duration::from_secs(10);

/// Spare transports, the newest on top.
pub(super) struct Pool {
    spares: Arc<Mutex<Vec<Spare>>>,
    next_id: AtomicU64,
    died_young: Arc<AtomicU64>,
    changed: Arc<Notify>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Asks the task that keeps a spare for it.
struct Spare {
    id: u64,
    ask: oneshot::Sender<oneshot::Sender<Transport>>,
}

impl Pool {
    /// An empty pool whose tasks run in `tasks` until `stop`.
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            spares: Arc::default(),
            next_id: AtomicU64::default(),
            died_young: Arc::default(),
            changed: Arc::new(Notify::new()),
            tasks,
            stop,
        }
    }

    /// A spare that is still alive, if there is one.
    pub(super) async fn take(&self) -> Option<Transport> {
        loop {
            let spare = self.lock().pop()?;
            self.changed.notify_one();
            let (answer, transport) = oneshot::channel();
            if spare.ask.send(answer).is_ok()
                && let Ok(transport) = transport.await
            {
                return Some(transport);
            }
        }
    }

    /// Adds a transport that has no trace of anybody.
    pub(super) fn put(&self, transport: Transport) {
        if self.stop.is_cancelled() || transport.retires_at() <= Instant::now() {
            return;
        }
        let mut spares = self.lock();
        if spares.len() >= CAPACITY {
            return;
        }
        let (ask, asked) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        spares.push(Spare { id, ask });
        drop(spares);
        let spares = Arc::clone(&self.spares);
        let changed = Arc::clone(&self.changed);
        let died_young = Arc::clone(&self.died_young);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let since = Instant::now();
            if keep(transport, asked, stop).await == Fate::Died && since.elapsed() < YOUNG {
                died_young.fetch_add(1, Ordering::Relaxed);
            }
            lock(&spares).retain(|spare| spare.id != id);
            changed.notify_one();
        });
        self.changed.notify_one();
    }

    /// How many have been ended by the target within ten seconds.
    pub(super) fn died_young(&self) -> u64 {
        self.died_young.load(Ordering::Relaxed)
    }

    /// Waits until there are fewer spares than `ready`.
    pub(super) async fn is_short_of(&self, ready: usize) {
        while self.lock().len() >= ready {
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Spare>> {
        lock(&self.spares)
    }
}

fn lock(spares: &Mutex<Vec<Spare>>) -> std::sync::MutexGuard<'_, Vec<Spare>> {
    spares.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has become of a spare transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Somebody has it.
    Taken,
    /// We have closed it.
    Closed,
    /// The target has ended it, or it was lost.
    Died,
}

/// Answers what sshd asks of an idle connection, until somebody wants it, it ends, or it is too old.
async fn keep(
    mut transport: Transport,
    mut asked: oneshot::Receiver<oneshot::Sender<Transport>>,
    stop: CancellationToken,
) -> Fate {
    let retires_at = transport.retires_at();
    loop {
        let message = tokio::select! {
            biased;
            answer = &mut asked => {
                if let Ok(answer) = answer {
                    // Whoever asked may have left meanwhile; then the transport ends here.
                    let _left = answer.send(transport);
                }
                return Fate::Taken;
            }
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(retires_at) => break,
            message = transport.connection.recv() => message,
        };
        let answer = match &message {
            Ok(Some(message)) => answer_to(message),
            Ok(None) => {
                debug!("a spare transport was closed by the target");
                return Fate::Died;
            }
            Err(error) => {
                debug!(%error, "a spare transport was lost");
                return Fate::Died;
            }
        };
        if let Some(answer) = answer
            && transport.connection.send(&answer).await.is_err()
        {
            return Fate::Died;
        }
    }
    transport.connection.close().await;
    Fate::Closed
}

/// What an idle client says to sshd: keepalives are answered, channels refused, the rest ignored.
fn answer_to(message: &[u8]) -> Option<bytes::Bytes> {
    match Message::parse(message) {
        Message::GlobalRequest {
            want_reply: true, ..
        } => Some(request_failure()),
        Message::Open { sender, .. } => Some(channel_open_failure(
            sender,
            open_failure::ADMINISTRATIVELY_PROHIBITED,
            "open failed",
        )),
        _ => None,
    }
}
