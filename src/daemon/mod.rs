//! Wiring of the parts into a running daemon.

mod credentials;
pub mod demo;
mod instance_connect;
mod journal;
mod known_hosts;
mod terminal;
mod wanted;

use std::net::SocketAddr;
use std::sync::Arc;

use aws_config::{BehaviorVersion, Region};
use thiserror::Error;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::instance_connect::InstanceConnect;
use self::journal::{Journal, Place};
use self::terminal::Terminal;
use self::wanted::Inquirer;
use crate::aws::{self, Aws};
use crate::config::{self, Serve};
use crate::relay;
use crate::server::access::Rule;
use crate::server::authorized_keys::{self, AuthorizedKeys};
use crate::server::{self, ListenError, Server, host_key};
use crate::ssh::credential;
use crate::ssm::Ssm;
use crate::target::{self, Wanted};
use crate::tunnel;
use crate::upstream::{self, Login, News, State, Upstream};

/// An endpoint and its upstream, running.
pub struct Daemon {
    address: SocketAddr,
    target: String,
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
    Api(#[from] aws::Error),
    /// There is no such target, or none that can be reached.
    #[error(transparent)]
    Target(#[from] target::Error),
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
            Self::Target(error) => error.hint(),
            Self::Identity(error) => error.hint(),
            Self::Config(error) => error.hint(),
        }
    }
}

/// AWS as its environment describes it, but for the profile and the region if they are given.
///
/// # Errors
/// As [`Ssm::from_loader`] and [`Aws::new`].
pub async fn aws(profile: Option<&str>, region: Option<&str>) -> Result<Aws, aws::Error> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(profile) = profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    Aws::new(Ssm::from_loader(loader).await?)
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
        let aws = aws(config.profile.as_deref(), config.region.as_deref()).await?;
        let ssm = aws.ssm().clone();
        let ssm = match &config.ssmmessages_endpoint {
            Some(endpoint) => ssm.with_message_endpoint(endpoint.clone()),
            None => ssm,
        };
        let wanted = Arc::new(Wanted::find(&aws, &config.target).await?);
        let id = wanted.id().to_owned();
        let journal = journal(place(config, &ssm));
        let upstream = upstream::Options {
            login: Login {
                users: wanted::users(config, &wanted),
                credentials: credentials::gather(
                    &config.identity,
                    &config.certificate,
                    InstanceConnect::of(&aws, &id),
                    Arc::new(Terminal::new()),
                    &config.target,
                )?,
                verifier: Arc::new(known_hosts::of(config, &id)),
            },
            tunnel: tunnel::Options {
                ssm: ssm.clone(),
                target: id,
                port: config.ssh_port,
                journal: journal.clone().map(|journal| journal as _),
                witness: Some(Arc::new(Inquirer(wanted))),
                tracker: TaskTracker::new(),
            },
            hold: config.hold,
        };
        let daemon = Self::start(server, upstream).await?;
        if let Some(journal) = journal {
            let (news, stop) = (daemon.news(), daemon.stop.clone());
            daemon
                .tasks
                .spawn(journal::keep_swept(journal, aws, news, stop));
        }
        Ok(daemon)
    }

    async fn start(server: server::Options, upstream: upstream::Options) -> Result<Self, Error> {
        let target = upstream.tunnel.target.clone();
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
            target,
            upstream,
            stop,
            tasks,
        })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The id of the machine that is served.
    pub fn target(&self) -> &str {
        &self.target
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
