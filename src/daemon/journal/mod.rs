//! The SSM sessions that exist on our behalf, written down for those who come after us.
//!
//! A process that is killed, or that exits without a network, leaves its SSM session behind. Each process
//! therefore keeps a record of its own in the state directory, and holds a lock beside it. The lock goes with
//! the process, whatever ends it, and unlike a process id it is never somebody else's: a record without a
//! holder is an estate, and whoever finds it ends the sessions in it (`sweep`).
//!
//! ```text
//! sessions/UUID.lock     empty; locked while the process lives
//! sessions/UUID.json     the record: which sessions, where they are; no secrets
//! ```

mod record;
mod sweep;

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{debug, warn};
use uuid::Uuid;

pub(super) use self::record::Place;
use self::record::Record;
pub(super) use self::sweep::keep_swept;
use crate::ssm;

/// The journal of this process.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    files: Files,
    reason: String,
    state: Mutex<State>,
    /// Locked as long as this process lives.
    _lock: File,
}

#[derive(Debug)]
struct State {
    record: Record,
    /// Sessions that may have been started, of which nobody knows the ids: by calls that are under way or have never
    /// been answered.
    unknown: usize,
    /// Sessions of the record that are given up: to be ended when the service can be reached again.
    abandoned: BTreeSet<String>,
    /// That the record cannot be written has been told.
    is_failing: bool,
}

impl Journal {
    /// Begins a journal in `directory` for sessions at `place`.
    ///
    /// # Errors
    /// The directory cannot be written to, or has no locks. Without a lock no record may be kept: others
    /// would take its owner for dead.
    pub(super) fn begin(directory: &Path, place: Place) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let id = Uuid::new_v4();
        let files = Files::new(directory, id);
        let record = Record::new(place, format!("ssmshim {id}"));
        let locked = take_lock(&files).and_then(|lock| files.write(&record).map(|()| lock));
        let lock = locked.inspect_err(|_| files.remove())?;
        Ok(Self {
            directory: directory.to_owned(),
            files,
            reason: record.reason.clone(),
            state: Mutex::new(State {
                record,
                unknown: 0,
                abandoned: BTreeSet::new(),
                is_failing: false,
            }),
            _lock: lock,
        })
    }

    /// Notes whose sessions these are.
    fn identify(&self, account: String) {
        if self.lock().record.account.as_ref() != Some(&account) {
            self.change(|state| state.record.account = Some(account));
        }
    }

    fn record(&self) -> Record {
        self.lock().record.clone()
    }

    /// The sessions of this process that are to be ended yet.
    fn given_up(&self) -> Vec<String> {
        self.lock().abandoned.iter().cloned().collect()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        match self.files.write(&state.record) {
            Ok(()) => state.is_failing = false,
            Err(error) if state.is_failing => debug!(%error, "still no record of sessions"),
            Err(error) => {
                state.is_failing = true;
                warn!(
                    %error,
                    path = %self.files.record.display(),
                    "cannot write down which SSM sessions are open; if ssmshim is killed, they end by \
                     themselves when they have idled for long enough"
                );
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Journal {
    /// Takes the record away, unless a session may still be open: one whose id is not in it is found by its reason.
    fn drop(&mut self) {
        let is_over = {
            let state = self.lock();
            state.record.sessions.is_empty() && state.unknown == 0
        };
        if is_over {
            self.files.remove();
        }
    }
}

impl ssm::Journal for Journal {
    fn reason(&self) -> Option<String> {
        Some(self.reason.clone())
    }

    fn starting(&self) {
        self.lock().unknown += 1;
    }

    fn started(&self, session_id: &str) {
        self.change(|state| {
            state.record.sessions.insert(session_id.to_owned());
            state.unknown = state.unknown.saturating_sub(1);
        });
    }

    fn not_started(&self) {
        let mut state = self.lock();
        state.unknown = state.unknown.saturating_sub(1);
    }

    fn ended(&self, session_id: &str) {
        self.change(|state| {
            state.record.sessions.remove(session_id);
            state.abandoned.remove(session_id);
        });
    }

    fn abandoned(&self, session_id: &str) {
        self.lock().abandoned.insert(session_id.to_owned());
    }
}

/// The files of one journal.
#[derive(Debug, Clone)]
struct Files {
    record: PathBuf,
    lock: PathBuf,
    /// What is being written, until it is whole.
    draft: PathBuf,
}

impl Files {
    fn new(directory: &Path, id: Uuid) -> Self {
        Self {
            record: directory.join(format!("{id}.json")),
            lock: directory.join(format!("{id}.lock")),
            draft: directory.join(format!(".{id}.draft")),
        }
    }

    /// Replaces the record as a whole. It is not forced to the disk: what a crash of the machine undoes is told when it
    /// is read.
    fn write(&self, record: &Record) -> io::Result<()> {
        let _left_by_a_failure = std::fs::remove_file(&self.draft);
        let mut file = create(&self.draft)?;
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
        std::fs::rename(&self.draft, &self.record)
    }

    /// Removes all of them, the lock last: without one there is no record.
    fn remove(&self) {
        for path in [&self.draft, &self.record, &self.lock] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    debug!(%error, path = %path.display(), "cannot remove a record of sessions");
                }
                _ => {}
            }
        }
    }
}

/// Puts a lock at its place; from its first moment there it is held.
fn take_lock(files: &Files) -> io::Result<File> {
    let lock = create(&files.draft)?;
    lock.try_lock()?;
    std::fs::rename(&files.draft, &files.lock)?;
    Ok(lock)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests;
