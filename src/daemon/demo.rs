//! The demo: emulator, embedded sshd and daemon in one process, joined by nothing but loopback sockets.

use std::collections::BTreeMap;
use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use russh::keys::{Algorithm, PrivateKey};
use thiserror::Error;
use tokio_util::task::TaskTracker;

use super::{Daemon, Fleet};
use crate::config::state_directory;
use crate::emulator::{self, Emulator, Pacing, Resend};
use crate::relay;
use crate::server::access::Rule;
use crate::server::{self, host_key};
use crate::ssh::verifier::PinnedKey;
use crate::ssh::{Credential, HostKey};
use crate::sshd::{self, Sshd};
use crate::ssm::Ssm;
use crate::tunnel;
use crate::upstream::{Login, Users};

/// How the demo runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address of the endpoint.
    pub listen: SocketAddr,
    /// Whether the emulated agent is as slow as the real one.
    pub pacing: Pacing,
    /// How it makes losses good.
    pub resend: Resend,
}

/// The far end of a demo: all that would be in AWS.
pub struct Demo {
    emulator: Emulator,
    sshd: Sshd,
    target: String,
}

/// The demo cannot start.
#[derive(Debug, Error)]
pub enum Error {
    /// The endpoint.
    #[error(transparent)]
    Daemon(#[from] super::Error),
    /// The emulated Session Manager.
    #[error(transparent)]
    Emulator(#[from] emulator::Error),
    /// The embedded SSH server.
    #[error(transparent)]
    Sshd(#[from] sshd::Error),
    /// A key that lives as long as the demo could not be made.
    #[error("cannot make a key")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Daemon(error) => error.hint(),
            Self::Emulator(error) => Some(error.hint().to_owned()),
            Self::Sshd(_) | Self::Key(_) => None,
        }
    }
}

/// The target's sshd as the demo's agent sees it.
const SSH_PORT: u16 = 22;

/// How long a client waits for the target.
const HOLD: Duration = Duration::from_secs(30);

impl Demo {
    /// Starts everything; the daemon begins to dial at once.
    ///
    /// # Errors
    /// See [`enum@Error`].
    pub async fn start(options: Options) -> Result<(Self, Daemon), Error> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let key = |error: Box<dyn std::error::Error + Send + Sync>| Error::Key(error);
        let target_key = Arc::new(HostKey::generate().map_err(|error| key(error.into()))?);
        let verifier = PinnedKey::new(target_key.public_blob());
        let user_key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)
            .map_err(|error| key(error.into()))?;
        let sshd = Sshd::start(sshd::Options {
            listen: loopback,
            host_key: target_key,
            authorized_keys: vec![user_key.public_key().clone()],
            // Whoever gives this process another home wants it for what runs in it, too.
            environment: env::var_os("HOME")
                .map(|home| ("HOME".to_owned(), home))
                .into_iter()
                .collect(),
        })
        .await?;
        let emulator = Emulator::start(emulator::Options {
            listen: loopback,
            pacing: options.pacing,
            resend: options.resend,
            port_map: BTreeMap::from([(SSH_PORT, sshd.addr())]),
            ..emulator::Options::default()
        })
        .await?;
        let target = emulator.target().to_owned();
        let ssm = emulated(&emulator.endpoint()).await?;
        let server = server::Options {
            listen: options.listen,
            host_keys: demo_host_keys()?,
            access: Rule::Owner,
            limits: relay::Limits::default(),
        };
        let login = Login {
            users: Users::new("demo", []),
            credentials: vec![Credential::Key {
                key: Arc::new(user_key),
                certificate: None,
                label: "demo key".into(),
            }],
            verifier: Arc::new(verifier),
        };
        let tunnel = tunnel::Options {
            ssm,
            target: target.clone(),
            port: SSH_PORT,
            journal: None,
            witness: None,
            told: Some(tunnel::Told::default()),
            tracker: TaskTracker::new(),
        };
        let fleet = Fleet::of_one(tunnel, login, HOLD);
        let demo = Self {
            emulator,
            sshd,
            target,
        };
        match Daemon::start(server, fleet).await {
            Ok(daemon) => Ok((demo, daemon)),
            Err(error) => {
                demo.shutdown().await;
                Err(error.into())
            }
        }
    }

    /// The id of the emulated instance.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Stops emulator and sshd. The daemon is shut down before them.
    pub async fn shutdown(self) {
        self.emulator.shutdown().await;
        self.sshd.shutdown().await;
    }
}

/// The API of an emulator, with credentials that mean nothing anywhere else.
async fn emulated(endpoint: &str) -> Result<Ssm, super::Error> {
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("demo", "demo", None, None, "demo"))
        .endpoint_url(endpoint);
    Ok(Ssm::from_loader(loader).await?)
}

/// The endpoint's host keys are those that `serve` uses, so that clients need to learn them once.
fn demo_host_keys() -> Result<Vec<HostKey>, super::Error> {
    let path = state_directory()?.join("host_key");
    Ok(host_key::load_or_create_all(&path)?)
}
