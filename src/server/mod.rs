//! The local endpoint: an SSH server on loopback whose connections are relayed upstream.

pub mod access;
pub mod authorized_keys;
mod connection;
mod early;
mod half_open;
pub mod host_key;
mod redial;
mod targets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use self::half_open::{HalfOpen, Place};
pub use self::targets::{Refusal, Selected, Targets};
use crate::relay;
use crate::report::one_line;
use crate::ssh::{self, HostKey, ServerConfig, transport};

/// How the endpoint behaves.
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients know us by, one key for each algorithm.
    pub host_keys: Vec<HostKey>,
    /// Who may log in.
    pub access: access::Rule,
    /// How much is held for a connection.
    pub limits: relay::Limits,
}

/// The endpoint cannot be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

impl ListenError {
    /// `source` came of an attempt to listen on `address`.
    pub(crate) fn new(address: SocketAddr, source: std::io::Error) -> Self {
        Self { address, source }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let port = self.address.port();
        match self.source.kind() {
            std::io::ErrorKind::AddrInUse => Some(format!(
                "something listens there already; another ssmshim? See `ss -ltnp 'sport = :{port}'`, \
                 or choose another port with --listen {}:0",
                self.address.ip()
            )),
            std::io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 belong to root; choose one above".into())
            }
            std::io::ErrorKind::AddrNotAvailable => {
                Some("this machine has no such address; try --listen 127.0.0.1:2222".into())
            }
            _ => None,
        }
    }
}

/// A listening endpoint.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections of an endpoint have in common.
struct Shared {
    login: ServerConfig,
    access: access::Rule,
    limits: relay::Limits,
    targets: Arc<dyn Targets>,
    /// Permits to accept a client and look up who it is.
    lookups: Arc<Semaphore>,
    /// Permits to seek a transport for a client that has not logged in.
    early_leases: Semaphore,
}

/// A client that has just come.
struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    /// Given back when it is known who it is.
    lookup: Option<OwnedSemaphorePermit>,
    place: Place,
}

/// Clients that may have a transport sought for them before they have logged in. More than a few at
/// once are not people, and each could cost the target a login.
const EARLY_LEASES: usize = 4;

/// Clients that are looked up at the same time. In a flood the others wait in the kernel's backlog, where they cost
/// nothing; a client that is in is not slowed down by hundreds of threads that read the kernel's tables, nor
/// pushed out by newcomers before it had its chance.
const LOOKUPS: usize = 4;

/// How long accepting pauses when the system is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Server {
    /// Opens the port. Clients that come before [`Server::run`] wait in its backlog.
    ///
    /// # Errors
    /// [`ListenError`], which names the address and a way out.
    pub async fn bind(options: Options, targets: Arc<dyn Targets>) -> Result<Self, ListenError> {
        let address = options.listen;
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Ok(Self {
            address: listener.local_addr().map_err(failed)?,
            listener,
            shared: Arc::new(Shared {
                login: ServerConfig::with_keys(
                    options.host_keys.into_iter().map(Arc::new).collect(),
                ),
                access: options.access,
                limits: options.limits,
                targets,
                lookups: Arc::new(Semaphore::new(LOOKUPS)),
                early_leases: Semaphore::new(EARLY_LEASES),
            }),
        })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves clients until `stop`, then says goodbye to each and returns when all have left.
    pub async fn run(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let half_open = HalfOpen::default();
        loop {
            let (lookup, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                next = self.accept() => next,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let arrival = Arrival {
                        stream,
                        peer,
                        lookup,
                        place: half_open.enter(&stop),
                    };
                    self.serve(arrival, &connections, &stop);
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }

    /// The next client, once it can be looked up.
    async fn accept(
        &self,
    ) -> (
        Option<OwnedSemaphorePermit>,
        std::io::Result<(TcpStream, SocketAddr)>,
    ) {
        // The semaphore is never closed.
        let lookup = Arc::clone(&self.shared.lookups).acquire_owned().await.ok();
        (lookup, self.listener.accept().await)
    }

    fn serve(&self, arrival: Arrival, connections: &TaskTracker, stop: &CancellationToken) {
        let peer = arrival.peer;
        let shared = Arc::clone(&self.shared);
        let port = self.address.port();
        let stop = stop.clone();
        connections.spawn(async move {
            match connection::serve(shared, arrival, stop).await {
                Ok(()) => {}
                Err(ssh::Error::Transport(transport::Error::NotSsh { seen })) => {
                    warn!(%peer, seen, "a client does not speak SSH; hint: ssh -p {port}");
                }
                Err(error) => {
                    debug!(%peer, reason = one_line(&error), "login did not succeed");
                }
            }
        });
    }
}
