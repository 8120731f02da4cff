//! Wiring of the parts into a running daemon.

mod credentials;
pub mod demo;
mod journal;
mod known_hosts;
mod terminal;

use std::net::SocketAddr;
use std::sync::Arc;

use aws_config::{BehaviorVersion, Region};
use thiserror::Error;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::journal::{Journal, Place};
use self::terminal::Terminal;
use crate::config::{self, Serve, StrictHostKey};
use crate::relay;
use crate::server::access::Rule;
use crate::server::authorized_keys::{self, AuthorizedKeys};
use crate::server::{self, ListenError, Server, host_key};
use crate::ssh::credential;
use crate::ssh::known_hosts::{KnownHosts, Mode};
use crate::ssm::{self, Ssm};
use crate::tunnel;
use crate::upstream::{self, Login, News, State, Upstream};

/// An endpoint and its upstream, running.
pub struct Daemon {
    address: SocketAddr,
    upstream: Upstream,
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
    Api(#[from] ssm::api::Error),
    /// Files have no place to be.
    #[error(transparent)]
    Config(#[from] config::UsageError),
}

impl Error {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen(error) => error.hint(),
            Self::HostKey(error) => error.hint(),
            Self::AuthorizedKeys(error) => Some(error.hint()),
            Self::Api(error) => error.hint().map(str::to_owned),
            Self::Identity(error) => error.hint(),
            Self::Config(error) => error.hint(),
        }
    }
}

/// The API as the AWS environment describes it, but for what the configuration says.
async fn ssm(config: &Serve) -> Result<Ssm, ssm::api::Error> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = &config.region {
        loader = loader.region(Region::new(region.clone()));
    }
    Ssm::from_loader(loader).await
}

/// Where the sessions of `ssm` are.
fn place(config: &Serve, ssm: &Ssm) -> Place {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    Place {
        region: ssm.region().to_owned(),
        endpoint: variable("AWS_ENDPOINT_URL_SSM").or_else(|| variable("AWS_ENDPOINT_URL")),
        profile: config.profile.clone().or_else(|| variable("AWS_PROFILE")),
    }
}

/// A journal of the sessions at `place`, if one can be kept.
fn journal(place: Place) -> Option<Arc<Journal>> {
    let directory = config::state_directory().ok()?.join("sessions");
    match Journal::begin(&directory, place) {
        Ok(journal) => Some(Arc::new(journal)),
        Err(error) => {
            warn!(
                %error,
                path = %directory.display(),
                "cannot write down which SSM sessions are open; if ssmshim is killed, they end by themselves when \
                 they have idled for long enough"
            );
            None
        }
    }
}

impl Daemon {
    /// Opens the port and begins to reach the target.
    ///
    /// # Errors
    /// What is missing on this machine; that the target cannot be reached shows in [`Daemon::ready`].
    pub async fn serve(config: &Serve) -> Result<Self, Error> {
        let access = match config.access {
            config::Access::Owner => Rule::Owner,
            config::Access::Keys => {
                Rule::Keys(Arc::new(AuthorizedKeys::load(&config.authorized_keys)?))
            }
        };
        let server = server::Options {
            listen: config.listen,
            host_keys: host_key::load_or_create_all(&config.host_key)?,
            access,
            limits: relay::Limits::default(),
        };
        let mode = match config.strict_host_key {
            StrictHostKey::Yes => Mode::Yes,
            StrictHostKey::AcceptNew => Mode::AcceptNew,
            StrictHostKey::Off => Mode::Off,
        };
        let known_hosts = known_hosts::files(&config.known_hosts);
        let ssm = ssm(config).await?;
        let journal = journal(place(config, &ssm));
        let upstream = upstream::Options {
            login: Login {
                user: config.user.clone(),
                credentials: credentials::gather(
                    &config.identity,
                    &config.certificate,
                    Arc::new(Terminal::new()),
                    &config.target,
                )?,
                verifier: Arc::new(
                    KnownHosts::new(known_hosts, &config.target, mode).on_port(config.ssh_port),
                ),
            },
            tunnel: tunnel::Options {
                ssm: ssm.clone(),
                target: config.target.clone(),
                port: config.ssh_port,
                journal: journal.clone().map(|journal| journal as _),
                tracker: TaskTracker::new(),
            },
            hold: config.hold,
        };
        let daemon = Self::start(server, upstream).await?;
        if let Some(journal) = journal {
            let (news, stop) = (daemon.news(), daemon.stop.clone());
            daemon
                .tasks
                .spawn(journal::keep_swept(journal, ssm, news, stop));
        }
        Ok(daemon)
    }

    async fn start(server: server::Options, upstream: upstream::Options) -> Result<Self, Error> {
        let upstream = Upstream::start(upstream);
        let server = match Server::bind(server, upstream.clone()).await {
            Ok(server) => server,
            Err(error) => {
                upstream.shutdown().await;
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
            upstream,
            stop,
            tasks,
        })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until `ssh` would work.
    ///
    /// # Errors
    /// As [`Upstream::ready`].
    pub async fn ready(&self) -> Result<(), upstream::Error> {
        self.upstream.ready().await
    }

    /// What the way to the target is doing, and each change of it.
    pub fn state(&self) -> watch::Receiver<State> {
        self.upstream.state()
    }

    /// What happens to the way to the target from now on.
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.upstream.news()
    }

    /// Says goodbye to all clients, closes the port, terminates the SSM session.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.upstream.shutdown().await;
    }
}
