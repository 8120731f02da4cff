//! Where the sockets of daemons are, and whose they are.
//!
//! They lie in a directory of their own, `$XDG_RUNTIME_DIR/ssmshim` or `control` in the state directory, that nobody
//! else may look into: whoever can connect to a socket can use the tunnel behind it. Names are random, so daemons do
//! not get in each other's way. A socket is put at its place only when somebody listens on it; one that
//! refuses to connect is therefore left by a dead daemon, and is removed by whoever notices.
//!
//! The directory is opened once and looked at as it was opened; everything in it is reached through `/proc/self/fd`,
//! which also leaves the length of its path out of the 108 bytes that the address of a socket may have.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tracing::debug;
use uuid::Uuid;

use crate::config;

/// Ends the name of each socket.
const SUFFIX: &str = ".sock";
/// Begins the name of one on which nobody listens yet.
const DRAFT: &str = ".new-";
/// A draft older than this is left by somebody who was killed over it.
const DRAFT_LIFE: Duration = Duration::from_secs(60);
/// Sockets looked at; more daemons than anybody runs.
const SOCKETS: usize = 64;

/// There is no directory that can be trusted.
#[derive(Debug, Error)]
pub(in crate::daemon) enum Error {
    /// It is somebody else's.
    #[error("{} belongs to uid {owner}, not to you", path.display())]
    Foreign {
        /// The directory or socket.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others may look into it.
    #[error("{} is open to others (mode {mode:o}); chmod 700 it", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It cannot be made or read.
    #[error("{}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no home directory to have it in.
    #[error(transparent)]
    Config(#[from] config::UsageError),
}

impl Error {
    /// Whether it is just not there.
    fn is_absence(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A directory that is ours alone.
#[derive(Debug)]
pub(super) struct Directory {
    handle: OwnedFd,
    path: PathBuf,
}

/// What connecting to a socket has brought.
#[derive(Debug)]
pub(super) enum Knock {
    /// Somebody who runs as we do listens.
    Opened(UnixStream),
    /// Nobody listens any more.
    Dead,
}

impl Directory {
    /// The directory for a new daemon, made if need be.
    ///
    /// # Errors
    /// Why there is none, not even in the state directory.
    pub(super) fn create() -> Result<Self, Error> {
        // It is made by whoever logs us in; when it is not there, nobody has.
        match runtime_path().map(|path| Self::make(&path, false)) {
            Some(Ok(directory)) => return Ok(directory),
            Some(Err(error)) => debug!(%error, "no place for a socket, trying another"),
            None => {}
        }
        Self::make(&state_path()?, true)
    }

    /// The directories in which daemons may have put their sockets, and what is wrong with others.
    pub(super) fn existing() -> (Vec<Self>, Vec<Error>) {
        let paths = runtime_path().into_iter().chain(state_path().ok());
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        for path in paths {
            match Self::open(&path) {
                Ok(directory) => found.push(directory),
                Err(error) if error.is_absence() => {}
                Err(error) => refused.push(error),
            }
        }
        (found, refused)
    }

    fn make(path: &Path, is_recursive: bool) -> Result<Self, Error> {
        let made = DirBuilder::new()
            .recursive(is_recursive)
            .mode(0o700)
            .create(path);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(path, error)),
            _ => Self::open(path),
        }
    }

    fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let handle = rustix::fs::open(path, flags, Mode::empty());
        let handle = handle.map_err(|error| failed(path, error))?;
        let found = rustix::fs::fstat(&handle).map_err(|error| failed(path, error))?;
        check_owner(path, &found)?;
        let mode = found.st_mode & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::Open {
                path: path.to_owned(),
                mode,
            });
        }
        Ok(Self {
            handle,
            path: path.to_owned(),
        })
    }

    /// Listens on a new socket.
    ///
    /// # Errors
    /// Of the system.
    pub(super) fn listen(&self) -> Result<(UnixListener, String), Error> {
        let name = format!("{}{SUFFIX}", Uuid::new_v4().simple());
        let draft = format!("{DRAFT}{name}");
        let listening = UnixListener::bind(self.reach(&draft)).and_then(|listener| {
            std::fs::rename(self.reach(&draft), self.reach(&name))?;
            Ok(listener)
        });
        match listening {
            Ok(listener) => Ok((listener, name)),
            Err(error) => {
                self.remove(&draft);
                Err(failed(&self.path, error))
            }
        }
    }

    /// The names of the sockets, the newest first: of two daemons that have the same target, that one was
    /// started for a reason.
    pub(super) fn sockets(&self) -> Vec<String> {
        let mut sockets: Vec<_> = self
            .names()
            .filter(|name| !name.starts_with('.') && name.ends_with(SUFFIX))
            .filter_map(|name| Some((self.stat(&name)?.st_mtime, name)))
            .take(SOCKETS)
            .collect();
        sockets.sort_unstable_by(|a, b| b.cmp(a));
        sockets.into_iter().map(|(_, name)| name).collect()
    }

    /// Connects to the socket `name`; one on which nobody listens is removed.
    ///
    /// # Errors
    /// The socket, or who listens on it, is somebody else's; or it cannot be reached.
    pub(super) async fn knock(&self, name: &str) -> Result<Knock, Error> {
        let path = self.path.join(name);
        let Some(found) = self.stat(name) else {
            return Ok(Knock::Dead);
        };
        check_owner(&path, &found)?;
        match UnixStream::connect(self.reach(name)).await {
            Ok(stream) => {
                check_peer(&path, &stream)?;
                Ok(Knock::Opened(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                debug!(path = %path.display(), "removing the socket of a dead daemon");
                self.remove(name);
                Ok(Knock::Dead)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Knock::Dead),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// Removes what dead daemons have left.
    pub(super) async fn sweep(&self) {
        for name in self.sockets() {
            if let Err(error) = self.knock(&name).await {
                debug!(%error, "cannot tell whether it is in use");
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        for name in self.names().filter(|name| name.starts_with(DRAFT)) {
            let made = self.stat(&name).map(|found| found.st_mtime);
            let made = made.and_then(|at| u64::try_from(at).ok());
            if made.is_some_and(|at| now.saturating_sub(at) > DRAFT_LIFE.as_secs()) {
                self.remove(&name);
            }
        }
    }

    /// Removes the socket `name`.
    pub(super) fn remove(&self, name: &str) {
        let removed = rustix::fs::unlinkat(&self.handle, name, AtFlags::empty());
        if let Err(error) = removed
            && error != rustix::io::Errno::NOENT
        {
            debug!(%error, path = %self.path.join(name).display(), "cannot remove a socket");
        }
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let entries = std::fs::read_dir(self.reach("")).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
    }

    /// What `name` is, if it is a socket.
    fn stat(&self, name: &str) -> Option<Stat> {
        let found = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_socket = FileType::from_raw_mode(found.st_mode) == FileType::Socket;
        is_socket.then_some(found)
    }

    /// A path to `name` in the very directory that was looked at.
    fn reach(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }
}

/// Whether who is at the other end of `stream`, which `path` led to, runs as we do.
///
/// # Errors
/// [`Error::Foreign`]; or the system does not tell.
pub(super) fn check_peer(path: &Path, stream: &UnixStream) -> Result<(), Error> {
    let peer = stream.peer_cred().map_err(|error| failed(path, error))?;
    check_uid(path, peer.uid())
}

fn check_owner(path: &Path, found: &Stat) -> Result<(), Error> {
    check_uid(path, found.st_uid)
}

fn check_uid(path: &Path, owner: u32) -> Result<(), Error> {
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::Foreign {
        path: path.to_owned(),
        owner,
    })
}

fn failed(path: &Path, error: impl Into<io::Error>) -> Error {
    Error::Io {
        path: path.to_owned(),
        source: error.into(),
    }
}

/// In the directory for what lives as long as the user is logged in, if there is one and it is this user's: after
/// `sudo` it may be another's. Where the variable is missing, as in jobs of cron, it is where systemd puts it.
fn runtime_path() -> Option<PathBuf> {
    let us = rustix::process::geteuid().as_raw();
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = named
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| format!("/run/user/{us}").into());
    let owner = std::fs::metadata(&runtime).ok()?.uid();
    (owner == us).then(|| runtime.join("ssmshim"))
}

fn state_path() -> Result<PathBuf, config::UsageError> {
    Ok(config::state_directory()?.join("control"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener as Listener;

    use super::*;

    fn directory() -> (tempfile::TempDir, Directory) {
        let outer = tempfile::tempdir().unwrap();
        // Longer than the address of a socket may be.
        let path = outer.path().join("x".repeat(120)).join("control");
        let directory = Directory::make(&path, true).unwrap();
        (outer, directory)
    }

    #[tokio::test]
    async fn a_socket_lives_as_long_as_its_listener() {
        let (_outer, directory) = directory();
        let (listener, name) = directory.listen().unwrap();
        assert_eq!(directory.sockets(), std::slice::from_ref(&name));
        let knocked = directory.knock(&name).await.unwrap();
        assert!(matches!(knocked, Knock::Opened(_)));
        directory.sweep().await;
        assert_eq!(directory.sockets().len(), 1, "it is in use");

        drop(listener);
        directory.sweep().await;
        assert_eq!(directory.sockets().len(), 0, "it is not");
        assert!(matches!(directory.knock(&name).await, Ok(Knock::Dead)));
    }

    #[tokio::test]
    async fn only_old_drafts_are_swept() {
        let (_outer, directory) = directory();
        let names = ["young", "old"].map(|name| format!("{DRAFT}{name}{SUFFIX}"));
        for name in &names {
            drop(Listener::bind(directory.reach(name)).unwrap());
        }
        let long_ago = rustix::fs::Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: long_ago,
            last_modification: long_ago,
        };
        rustix::fs::utimensat(&directory.handle, &*names[1], &times, AtFlags::empty()).unwrap();
        directory.sweep().await;
        assert_eq!(directory.names().collect::<Vec<_>>(), [names[0].clone()]);
    }

    #[test]
    fn a_directory_that_others_can_use_is_refused() {
        let (_outer, directory) = directory();
        for mode in [0o755, 0o710, 0o1777] {
            fs::set_permissions(&directory.path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = Directory::open(&directory.path).unwrap_err();
            assert!(matches!(refused, Error::Open { .. }), "{refused}");
        }
        fs::set_permissions(&directory.path, fs::Permissions::from_mode(0o700)).unwrap();
        let link = directory.path.with_file_name("link");
        symlink(&directory.path, &link).unwrap();
        assert!(matches!(Directory::open(&link), Err(Error::Io { .. })));
        let missing = Directory::open(&directory.path.join("missing")).unwrap_err();
        assert!(missing.is_absence());
    }

    #[test]
    fn nobody_else_is_taken_for_us() {
        let us = rustix::process::geteuid().as_raw();
        assert!(check_uid(Path::new("x"), us).is_ok());
        let refused = check_uid(Path::new("x"), us ^ 1).unwrap_err();
        assert!(matches!(refused, Error::Foreign { .. }), "{refused}");
    }

    #[tokio::test]
    async fn what_is_no_socket_is_passed_over() {
        let (_outer, directory) = directory();
        fs::write(directory.reach("file.sock"), "").unwrap();
        symlink("/dev/null", directory.reach("link.sock")).unwrap();
        assert!(directory.sockets().is_empty());
        assert!(matches!(
            directory.knock("file.sock").await,
            Ok(Knock::Dead)
        ));
        assert!(fs::exists(directory.reach("file.sock")).unwrap());
    }
}
