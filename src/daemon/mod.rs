//! Wiring of the parts into a running daemon.

pub mod connect;
mod control;
mod credentials;
pub mod demo;
pub mod fleet;
mod instance_connect;
mod journal;
mod known_hosts;
pub(crate) mod parts;
mod terminal;
mod wanted;

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::control::Control;
pub use self::fleet::{Fleet, Report, What};
use self::terminal::Terminal;
use crate::aws::credentials::Account;
use crate::aws::{self, Aws};
use crate::config::{self, Endpoint};
use crate::relay;
use crate::server::access::Rule;
use crate::server::authorized_keys::{self, AuthorizedKeys};
use crate::server::{self, ListenError, Server, host_key};
use crate::ssh::credential;
use crate::target;
use crate::upstream::{self, Link, State};

/// An endpoint and its targets, running.
pub struct Daemon {
    address: SocketAddr,
    fleet: Fleet,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The daemon cannot start.
#[derive(Debug, Error)]
pub enum Error {
    /// The port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The endpoint's own host key.
    #[error(transparent)]
    HostKey(#[from] host_key::Error),
    /// The list of those who may log in.
    #[error(transparent)]
    AuthorizedKeys(#[from] authorized_keys::LoadError),
    /// A key to log in with upstream.
    #[error(transparent)]
    Identity(#[from] credential::LoadError),
    /// The AWS configuration.
    #[error(transparent)]
    Api(#[from] aws::Error),
    /// There is no such target, or none that can be reached.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// Files have no place to be.
    #[error(transparent)]
    Config(#[from] config::UsageError),
}

impl Error {
    /// Whether the next attempt may succeed although nobody has mended anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Target(error) if error.is_passing())
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen(error) => error.hint(),
            Self::HostKey(error) => error.hint(),
            Self::AuthorizedKeys(error) => Some(error.hint()),
            Self::Api(error) => error.hint().map(str::to_owned),
            Self::Target(error) => error.hint(),
            Self::Identity(error) => error.hint(),
            Self::Config(error) => error.hint(),
        }
    }
}

/// AWS as its environment describes it, but for the profile and the region if they are given. Codes of MFA devices
/// are asked for at the terminal of this process.
///
/// # Errors
/// As [`Aws::of`].
pub async fn aws(profile: Option<&str>, region: Option<&str>) -> Result<Aws, aws::Error> {
    aws_of(profile, region, Terminal::new()).await
}

/// As [`aws`], with codes being asked for at `terminal`.
async fn aws_of(
    profile: Option<&str>,
    region: Option<&str>,
    terminal: Terminal,
) -> Result<Aws, aws::Error> {
    let account = Account {
        profile: profile.map(str::to_owned),
        region: region.map(str::to_owned),
    };
    Aws::of(&account, Arc::new(terminal)).await
}

impl Daemon {
    /// Opens the port and begins to reach the target, if there is one that is meant without being selected.
    ///
    /// # Errors
    /// What is missing on this machine, or that there is no such target; that it cannot be reached shows in
    /// [`Daemon::ready`].
    pub async fn serve(endpoint: &Endpoint) -> Result<Self, Error> {
        let access = match endpoint.access {
            config::Access::Owner => Rule::Owner,
            config::Access::Keys => {
                // Now rather than when the first client comes: a list that cannot be used is a mistake.
                let listed = AuthorizedKeys::load(&endpoint.authorized_keys)?;
                for refused in listed.refused() {
                    let path = endpoint.authorized_keys.display();
                    warn!(%path, "authorized keys, {refused}");
                }
                Rule::Keys(endpoint.authorized_keys.clone())
            }
        };
        let server = server::Options {
            listen: endpoint.listen,
            host_keys: host_key::load_or_create_all(&endpoint.host_key)?,
            access,
            limits: relay::Limits::default(),
        };
        let daemon = Self::start(server, Fleet::start(endpoint).await?).await?;
        if let Some(control) = Control::open().await {
            let fleet = Arc::new(daemon.fleet.clone());
            daemon.tasks.spawn(control.run(fleet, daemon.stop.clone()));
        }
        Ok(daemon)
    }

    async fn start(server: server::Options, fleet: Fleet) -> Result<Self, Error> {
        let server = match Server::bind(server, Arc::new(fleet.clone())).await {
            Ok(server) => server,
            Err(error) => {
                fleet.shutdown().await;
                return Err(error.into());
            }
        };
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let address = server.address();
        tasks.spawn(server.run(stop.clone()));
        tasks.close();
        Ok(Self {
            address,
            fleet,
            stop,
            tasks,
        })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The way to the machine that is served to those who select none.
    pub fn usual(&self) -> Option<&Link> {
        Some(self.fleet.usual()?.link())
    }

    /// All targets.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Waits until `ssh` would work; where login names have to select the target, it does at once.
    ///
    /// # Errors
    /// As [`Upstream::ready`](upstream::Upstream::ready).
    pub async fn ready(&self) -> Result<(), upstream::Error> {
        match self.fleet.usual() {
            Some(upstream) => upstream.ready().await,
            None => Ok(()),
        }
    }

    /// What the way to the usual target is doing, and each change of it.
    pub fn state(&self) -> Option<watch::Receiver<State>> {
        Some(self.fleet.usual()?.state())
    }

    /// What happens to the targets from now on.
    pub fn reports(&self) -> broadcast::Receiver<Report> {
        self.fleet.reports()
    }

    /// Says goodbye to all clients, closes the port, terminates the SSM sessions.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.fleet.shutdown().await;
    }
}
