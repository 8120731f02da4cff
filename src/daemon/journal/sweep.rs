//! Ending the SSM sessions of processes that could not do it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Weak;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{Files, Journal, Record};
use crate::aws::Aws;
use crate::ssm::{Journal as _, Ssm, api};
use crate::upstream::News;

/// Estates taken up at once; each is an open file.
const ESTATES: usize = 64;

/// The longest record that is read: thousands of sessions.
const RECORD_BYTES: u64 = 1 << 20;

/// What nobody can read is kept so long, for somebody to look at.
const CURIOSITY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Ends what others have left behind and what this process had to give up, whenever there is a new tunnel, until
/// `stop`. Nothing is asked before the first one: who starts is in a hurry. Failures are for the next time.
///
/// The journal is not kept alive by it: its record is gone as soon as whoever starts sessions is.
pub(in crate::daemon) async fn keep_swept(
    journal: Weak<Journal>,
    aws: Aws,
    mut news: broadcast::Receiver<News>,
    stop: CancellationToken,
) {
    let sweeping = async {
        let ssm = aws.ssm();
        loop {
            match news.recv().await {
                Ok(News::Up { .. }) | Err(RecvError::Lagged(_)) => {}
                Ok(_) => continue,
                Err(RecvError::Closed) => return,
            }
            let Some(journal) = journal.upgrade() else {
                return;
            };
            match aws.caller_identity().await {
                Ok(caller) => journal.identify(caller.account),
                Err(error) => debug!(%error, "whose sessions these are is not known"),
            }
            sweep(&journal.directory, &journal.record(), ssm).await;
            for session_id in journal.given_up() {
                if terminate(ssm, &session_id).await {
                    journal.ended(&session_id);
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = sweeping => {}
    }
}

/// Ends the sessions of the dead, as far as the owner of the record `own` sees them.
pub(super) async fn sweep(directory: &Path, own: &Record, ssm: &Ssm) {
    let directory = directory.to_owned();
    let found = tokio::task::spawn_blocking(move || estates(&directory)).await;
    for estate in found.unwrap_or_default() {
        estate.settle(own, ssm).await;
    }
}

/// What a dead process has left.
struct Estate {
    files: Files,
    record: Record,
    /// Nobody else settles it meanwhile.
    _lock: File,
}

/// The estates in `directory` that can be read. What cannot be is told, and left alone.
fn estates(directory: &Path) -> Vec<Estate> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            warn!(%error, path = %directory.display(), "cannot look for SSM sessions left behind");
            return Vec::new();
        }
    };
    let ids = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        Uuid::try_parse(name.to_str()?.strip_suffix(".lock")?).ok()
    });
    ids.filter_map(|id| claim(Files::new(directory, id)))
        .take(ESTATES)
        .collect()
}

/// Takes up the estate in `files`, if its owner is dead and nobody else has taken it up.
fn claim(files: Files) -> Option<Estate> {
    let lock = OpenOptions::new().write(true).open(&files.lock).ok()?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return None,
        Err(TryLockError::Error(error)) => {
            debug!(%error, path = %files.lock.display(), "cannot tell whether its owner lives");
            return None;
        }
    }
    // Somebody may have settled it between the two calls.
    let same = |there: std::fs::Metadata| there.ino() == lock.metadata().map_or(0, |it| it.ino());
    if !std::fs::metadata(&files.lock).is_ok_and(same) {
        return None;
    }
    match read(&files.record) {
        Ok(record) if record.is_ours_to_judge() => Some(Estate {
            files,
            record,
            _lock: lock,
        }),
        // Whoever could have ended those has not been here for long, and by now they have ended by themselves.
        Ok(_) if age(&files.record).is_some_and(|age| age > CURIOSITY) => {
            files.remove();
            None
        }
        Ok(_) => None,
        // Its owner died before it wrote anything, or while it tidied up.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files.remove();
            None
        }
        Err(error) => {
            let path = files.record.display();
            if age(&files.record).is_some_and(|age| age > CURIOSITY) {
                info!(%error, %path, "removing an old record of SSM sessions that cannot be read");
                files.remove();
            } else {
                warn!(
                    %error,
                    %path,
                    "cannot read which SSM sessions were left behind; if there are any, they end by themselves"
                );
            }
            None
        }
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let mut text = Vec::new();
    File::open(path)?
        .take(RECORD_BYTES)
        .read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn age(path: &Path) -> Option<Duration> {
    let written = std::fs::metadata(path).ok()?.modified().ok()?;
    SystemTime::now().duration_since(written).ok()
}

impl Estate {
    /// Ends its sessions and removes its files; keeps what could not be done for the next time.
    async fn settle(mut self, own: &Record, ssm: &Ssm) {
        let is_stale = self.record.is_stale(SystemTime::now());
        let is_visible = match self.record.is_visible_to(own) {
            Some(is_visible) => is_visible,
            None => self.is_known_to(ssm).await,
        };
        let is_settled = is_visible && self.end_sessions(ssm).await;
        if is_settled || is_stale {
            self.files.remove();
        } else if let Err(error) = self.files.write(&self.record) {
            debug!(%error, "cannot update a record of sessions");
        }
    }

    /// Whether the account of `ssm` has sessions that bear its mark, as those of no other process do.
    async fn is_known_to(&self, ssm: &Ssm) -> bool {
        let found = ssm.sessions_started_for(&self.record.reason).await;
        found.is_ok_and(|found| !found.is_empty())
    }

    /// Says whether nothing is left.
    async fn end_sessions(&mut self, ssm: &Ssm) -> bool {
        let mut open = std::mem::take(&mut self.record.sessions);
        // The answer to a StartSession may have been lost with the process.
        let is_complete = match ssm.sessions_started_for(&self.record.reason).await {
            Ok(found) => {
                open.extend(found);
                true
            }
            // Not everybody may list sessions.
            Err(api::Error::AccessDenied { .. }) => true,
            Err(error) => {
                debug!(%error, "cannot list sessions yet");
                false
            }
        };
        for session_id in open {
            if !terminate(ssm, &session_id).await {
                self.record.sessions.insert(session_id);
            }
        }
        is_complete && self.record.sessions.is_empty()
    }
}

/// Says whether the service has confirmed that the session is over.
async fn terminate(ssm: &Ssm, session_id: &str) -> bool {
    match ssm.terminate_session(session_id).await {
        Ok(()) => {
            info!(session_id, "ended an SSM session that was left behind");
            true
        }
        Err(error @ api::Error::AccessDenied { .. }) => {
            warn!(%error, session_id, "cannot end an SSM session that was left behind");
            false
        }
        Err(error) => {
            debug!(%error, session_id, "cannot end an SSM session that was left behind yet");
            false
        }
    }
}
