//! Unix sockets that listen, and that leave nothing behind.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::task::{Context as TaskContext, Poll};

use rustix::fs::Mode;
#[cfg(not(target_vendor = "apple"))]
use rustix::net::SocketFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tokio::net::{UnixListener, UnixStream};

/// Connections that the kernel keeps for a listener while the client is slow to take them; sshd's number.
const BACKLOG: i32 = 128;

/// A listening Unix socket, whose path goes when it does.
#[derive(Debug)]
pub(super) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Listens at a path that does not exist yet, for this user only.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        let socket = unix_socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before `listen`, so nobody slips in before the mode is set.
        let listen = || {
            rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
            rustix::net::listen(&socket, BACKLOG)
        };
        if let Err(error) = listen() {
            let _ = fs::remove_file(path);
            return Err(error.into());
        }
        let path = path.to_path_buf();
        Ok(Self {
            listener: UnixListener::from_std(socket.into())?,
            path,
        })
    }

    /// The next connection.
    pub(super) fn poll_accept(&self, cx: &mut TaskContext<'_>) -> Poll<io::Result<UnixStream>> {
        self.listener.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

/// A Unix socket that does not block and that children do not get.
fn unix_socket() -> rustix::io::Result<OwnedFd> {
    #[cfg(not(target_vendor = "apple"))]
    {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
    }
    #[cfg(target_vendor = "apple")]
    {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
