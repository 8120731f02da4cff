//! Agent forwarding: the socket where processes of a connection find the client's ssh-agent.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::task::{Context as TaskContext, Poll};

use rand::distr::{Alphanumeric, SampleString as _};
use tokio::net::UnixStream;

use super::unix::UnixSocket;

/// Letters of chance in the name of the directory; sshd's number.
const RANDOM_LETTERS: usize = 10;

/// Names that are tried: one that is taken is bad luck, and a second one no chance any more.
const ATTEMPTS: usize = 4;

/// A socket for this user only, in a directory of its own; both are gone with it.
#[derive(Debug)]
pub(super) struct AgentSocket {
    // Dropped, and thereby removed, before its directory.
    socket: UnixSocket,
    directory: Directory,
}

impl AgentSocket {
    /// Listens where sshd does: `/tmp/ssh-<random>/agent.<pid>`, whatever `TMPDIR` says.
    pub(super) fn listen() -> io::Result<Self> {
        let directory = Directory::create("/tmp".as_ref())?;
        let socket = UnixSocket::listen(&directory.socket())?;
        Ok(Self { socket, directory })
    }

    /// The value for `SSH_AUTH_SOCK`.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.socket()
    }

    /// The next process that wants the agent.
    pub(super) fn poll_accept(&self, cx: &mut TaskContext<'_>) -> Poll<io::Result<UnixStream>> {
        self.socket.poll_accept(cx)
    }
}

/// A new directory that nobody else can enter.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn create(parent: &Path) -> io::Result<Self> {
        let mut taken = io::ErrorKind::AlreadyExists.into();
        for _ in 0..ATTEMPTS {
            let letters = Alphanumeric.sample_string(&mut rand::rng(), RANDOM_LETTERS);
            let path = parent.join(format!("ssh-{letters}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    fn socket(&self) -> PathBuf {
        self.0.join(format!("agent.{}", std::process::id()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn socket_and_directory_are_private_and_leave_together() {
        let (one, two) = (
            AgentSocket::listen().unwrap(),
            AgentSocket::listen().unwrap(),
        );
        assert_ne!(one.path(), two.path());
        let path = one.path();
        let directory = path.parent().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(directory), mode(&path)), (0o700, 0o600));
        drop(one);
        assert!(!directory.exists() && two.path().exists());
    }
}
