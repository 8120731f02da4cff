//! An embedded SSH server, the far end of `demo` and `emulator`: logs clients in by public key, as the user that runs this process.
//!
//! It does what OpenSSH's sshd does, down to the order of messages where clients can see it, with `AcceptEnv LANG LC_*`,
//! `GatewayPorts no`, `StreamLocalBindMask 0177`, `Subsystem sftp internal-sftp`, `X11Forwarding yes` and without `MaxSessions`.
//! The user name that a client gives is of no account.
//!
//! ```text
//! ssh::Connection ── messages 80+ ── driver (one task each connection) ── channel::Core
//!                                      │ pipe, bounded, one each channel
//!                                      ├── session ── process (pipes or terminal) | sftp (a thread)
//!                                      └── forward ── sockets, also of an agent or a display
//! ```

mod agent;
pub mod channel;
mod driver;
mod forward;
mod pipe;
mod process;
mod pump;
mod session;
mod sftp;
mod terminal;
mod unix;
mod x11;
mod xauth;

use std::ffi::OsString;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use russh::keys::PublicKey;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info, info_span, warn};

use self::driver::{Driver, Failure, Link};
use crate::account::Account;
use crate::ssh::auth::server::{Policy, Verdict};
use crate::ssh::host_key::HostKey;
use crate::ssh::transport::reason;
use crate::ssh::{self, Connection, ServerConfig};

/// How long to wait after a connection could not be accepted: descriptors have run out, and some may be free then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How an [`Sshd`] is started.
#[derive(Clone)]
pub struct Options {
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// Who the server is.
    pub host_key: Arc<HostKey>,
    /// Who may log in.
    pub authorized_keys: Vec<PublicKey>,
    /// Variables of every process, before those that the server sets by itself; sshd's `SetEnv`.
    pub environment: Vec<(String, OsString)>,
}

/// The server could not start.
#[derive(Debug, Error)]
pub enum Error {
    /// The address is not ours or in use.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A running server. Dropping it without [`Self::shutdown`] ends it too, without waiting.
#[derive(Debug)]
pub struct Sshd {
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Sshd {
    /// Listens, and serves whoever connects from then on.
    ///
    /// # Errors
    /// [`Error::Listen`] when that is not possible.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let listen = |source| Error::Listen {
            address: options.listen,
            source,
        };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let acceptor = Acceptor {
            listener,
            config: Arc::new(ServerConfig::new(options.host_key)),
            authorized_keys: options.authorized_keys.into(),
            account: Arc::new(Account::current()),
            environment: options.environment.into(),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
        };
        let stop = shutdown.clone();
        tasks.spawn(async move { stop.run_until_cancelled(acceptor.run()).await });
        info!(%address, "embedded sshd listens");
        Ok(Self {
            address,
            shutdown,
            tasks,
        })
    }

    /// Where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, takes leave of all clients, hangs up on their processes, and waits until all tasks are done.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The task that takes connections.
struct Acceptor {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    authorized_keys: Arc<[PublicKey]>,
    account: Arc<Account>,
    environment: Arc<[(String, OsString)]>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Acceptor {
    async fn run(self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let span = info_span!("sshd", %peer);
                    if let Err(error) = self.serve(stream, peer, &span) {
                        debug!(parent: &span, %error, "the client had gone");
                    }
                }
                Err(error) => {
                    warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, span: &tracing::Span) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // A client whose machine has gone is noticed in the end (sshd's `TCPKeepAlive`).
        rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
        let context = Arc::new(Context {
            account: Arc::clone(&self.account),
            environment: Arc::clone(&self.environment),
            peer,
            local: stream.local_addr()?,
            tasks: self.tasks.clone(),
            shutdown: self.shutdown.clone(),
        });
        let config = Arc::clone(&self.config);
        let mut authorized = Authorized {
            keys: Arc::clone(&self.authorized_keys),
        };
        let connection = async move {
            let shutdown = context.shutdown.clone();
            let accepted = shutdown
                .run_until_cancelled(Connection::accept(stream, &config, &mut authorized))
                .await;
            match accepted {
                Some(Ok(connection)) => {
                    info!(user = connection.user(), "logged in");
                    serve(connection, context).await;
                }
                Some(Err(error)) => info!(%error, "not logged in"),
                None => {}
            }
        };
        self.tasks.spawn(connection.instrument(span.clone()));
        Ok(())
    }
}

/// Serves one authenticated connection until it or the server ends.
async fn serve(connection: Connection<TcpStream>, context: Arc<Context>) {
    let shutdown = context.shutdown.clone();
    let mut driver = Driver::new(connection, context);
    let ended = shutdown
        .run_until_cancelled(poll_fn(|cx| driver.poll(cx)))
        .await;
    let mut connection = driver.into_link();
    match ended {
        Some(Ok(())) => return debug!("the client has gone"),
        Some(Err(Failure::Link(error))) => return info!(%error, "connection lost"),
        Some(Err(Failure::Protocol(error))) => {
            warn!(%error, "the client broke the protocol");
            connection.disconnect(reason::PROTOCOL_ERROR, &error.to_string());
        }
        Some(Err(Failure::Unread)) => {
            warn!("the client does not read what it is told");
            connection.disconnect(reason::BY_APPLICATION, "too many unread replies");
        }
        None => connection.disconnect(reason::BY_APPLICATION, "server stops"),
    }
    connection.close().await;
}

/// What the parts of one connection share.
struct Context {
    account: Arc<Account>,
    environment: Arc<[(String, OsString)]>,
    peer: SocketAddr,
    local: SocketAddr,
    /// Everything that runs for the server.
    tasks: TaskTracker,
    /// Cancelled when the server stops.
    shutdown: CancellationToken,
}

/// Lets in who holds one of the keys.
struct Authorized {
    keys: Arc<[PublicKey]>,
}

impl Policy for Authorized {
    fn methods(&self) -> &[&'static str] {
        &["publickey"]
    }

    fn publickey(&mut self, _user: &str, key: &PublicKey, _algorithm: &str) -> Verdict {
        // The comment is no part of the key.
        if self
            .keys
            .iter()
            .any(|known| known.key_data() == key.key_data())
        {
            Verdict::Accept
        } else {
            Verdict::Reject
        }
    }
}

impl Link for Connection<TcpStream> {
    type Error = ssh::Error;

    fn poll_recv(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Option<Bytes>, ssh::Error>> {
        Self::poll_recv(self, cx)
    }

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), ssh::Error>> {
        Self::poll_ready(self, cx)
    }

    fn start_send(&mut self, message: &[u8]) -> Result<(), ssh::Error> {
        Self::start_send(self, message)
    }

    fn poll_flush(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), ssh::Error>> {
        Self::poll_flush(self, cx)
    }

    fn reject_last(&mut self) -> Result<(), ssh::Error> {
        Self::reject_last(self)
    }
}
