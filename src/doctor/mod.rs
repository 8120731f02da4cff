//! `ssmshim doctor`: what a connection needs, checked one by one, in the order in which it is needed.
//!
//! | module | what lives there |
//! |---|---|
//! | `check` | subjects, verdicts, the report; pure |
//! | `examination` | one check after the other, and those that an earlier one stands in the way of |
//! | `computer`, `listener` | configuration, state directory, the local port and who has it, our host key, who may log in |
//! | `account` | region, credentials, who they are, what they may ask |
//! | `network`, `clock` | proxy, DNS, TCP and TLS of both endpoints; the time |
//! | `machine` | the target and its agent |
//! | `trial` | an SSM session started, resumed and ended for the permissions |
//! | `session` | data channel and handshake |
//! | `login`, `witness` | keys, sshd, host key, authentication |
//! | `speed`, `command` | round trip and throughput, by commands in SSH channels |
//!
//! Nothing is changed but for what AWS writes down: host keys are judged and not remembered, and every SSM session
//! is ended, also when the examination is given up half-way ([`Doctor::finish`]). A failure stops only those checks
//! that need what failed. What is wrong is said, and what to do about it, by the errors of the parts themselves, so
//! that `serve` says the same.

mod account;
mod check;
mod clock;
mod command;
mod computer;
mod examination;
mod listener;
mod login;
mod machine;
mod network;
mod session;
mod speed;
mod trial;
mod witness;

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio_util::task::TaskTracker;

pub use self::check::{Check, Report, Subject, Verdict};
use self::examination::{Examination, Step, both, seen};
use self::login::Means;
use self::trial::Trial;
use crate::aws::Aws;
use crate::config::{Access, Endpoint, Overrides, Serve, UsageError};
use crate::daemon::parts;
use crate::target::Machine;
use crate::tunnel::{self, Tunnel};

/// What to examine.
#[derive(Debug)]
pub struct Order {
    config: Result<Config, UsageError>,
    /// The file that it was read from.
    file: Option<PathBuf>,
    /// Whether a target is meant; without one, all that does not need one is examined.
    has_target: bool,
}

/// What `serve` would be, and how it would reach its target.
#[derive(Debug, Clone)]
struct Config {
    listen: SocketAddr,
    access: Access,
    authorized_keys: PathBuf,
    host_key: PathBuf,
    /// Its target is empty where none is meant.
    serve: Serve,
}

impl Order {
    /// What `serve` would be given.
    pub fn new(overrides: Overrides) -> Self {
        let file = overrides.file();
        let mut has_target = overrides.values.target.is_some();
        let config = Endpoint::resolve(overrides).and_then(|endpoint| {
            has_target = endpoint.target.is_some();
            let wanted = endpoint.target.as_deref().unwrap_or_default();
            Ok(Config {
                listen: endpoint.listen,
                access: endpoint.access,
                authorized_keys: endpoint.authorized_keys.clone(),
                host_key: endpoint.host_key.clone(),
                serve: endpoint.toward(wanted)?,
            })
        });
        Self {
            config,
            file,
            has_target,
        }
    }

    /// Whether a target is examined.
    pub fn has_target(&self) -> bool {
        self.has_target
    }
}

/// Examines what [`Order`] says.
#[derive(Debug)]
pub struct Doctor {
    order: Order,
    /// Owns whatever has to be ended.
    tracker: TaskTracker,
}

impl Doctor {
    /// Nothing happens yet.
    pub fn new(order: Order) -> Self {
        Self {
            order,
            tracker: TaskTracker::new(),
        }
    }

    /// Makes all checks, and tells each as soon as it is made. Takes some seconds when all is well; nothing waits
    /// without limit but for a person who is asked for a passphrase.
    ///
    /// May be dropped at any time, before [`Doctor::finish`].
    pub async fn examine(&self, mut tell: impl FnMut(&Check)) -> Report {
        let mut examination = Examination::new(&mut tell);
        let examined = self.all(&mut examination).await;
        if let Err(because) = examined {
            let last = match self.order.has_target {
                true => Subject::Upload,
                false => Subject::DescribeSessions,
            };
            examination.skip_through(last, because);
        }
        examination.into_report()
    }

    /// Waits until every SSM session of the examination is ended.
    pub async fn finish(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    async fn all(&self, examination: &mut Examination<'_>) -> Step<()> {
        let config = computer::examine(examination, &self.order).await?;
        let (aws, credentials) = account::examine(examination, &config).await;
        let reached = network::examine(examination, &config, seen(&aws)).await;
        let clock = clock::examine(examination, reached.api).await;
        // Calls need all of it.
        let callable = both(seen(&aws), credentials).and_then(|(aws, ())| clock.map(|()| aws));
        let target = self.order.has_target.then_some(config.target.as_str());
        let known = account::examine_permissions(examination, &config, callable, target).await;
        let callable = callable.and_then(|aws| known.map(|()| aws));
        match target {
            Some(target) => {
                self.examine_target(examination, &config, callable, reached.gateway, target)
                    .await;
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn examine_target(
        &self,
        examination: &mut Examination<'_>,
        config: &Serve,
        aws: Step<&Aws>,
        gateway: Step<()>,
        target: &str,
    ) {
        let machine = machine::examine(examination, aws, target).await;
        let options = both(aws, seen(&machine))
            .map(|(aws, machine)| self.tunnel_options(config, aws, machine));
        let trial = seen(&options).map(|options| Trial {
            ssm: options.ssm.clone(),
            target: options.target.clone(),
            port: options.port,
            journal: options.journal.clone(),
        });
        let startable = trial::examine(examination, trial, &self.tracker).await;
        let dialable = seen(&options)
            .and_then(|options| startable.map(|()| options))
            .and_then(|options| gateway.map(|()| options));
        let is_age_known = seen(&machine).is_ok_and(|machine| machine.agent_version.is_some());
        let tunnel = session::examine(examination, dialable, is_age_known).await;
        let means = || {
            both(aws, seen(&machine)).map(|(aws, machine)| Means {
                config,
                aws,
                machine,
            })
        };
        let keys = login::examine_keys(examination, means()).await;
        let connection = login::examine(examination, means(), seen(&tunnel), keys).await;
        let speed = speed::examine(examination, connection);
        match &tunnel {
            Ok(tunnel) => login::attended(tunnel, speed).await,
            Err(_) => speed.await,
        }
        if let Ok(tunnel) = tunnel {
            Tunnel::terminate(&tunnel).await;
        }
    }

    fn tunnel_options(&self, config: &Serve, aws: &Aws, machine: &Machine) -> tunnel::Options {
        let ssm = match &config.ssmmessages_endpoint {
            Some(endpoint) => aws.ssm().clone().with_message_endpoint(endpoint.clone()),
            None => aws.ssm().clone(),
        };
        tunnel::Options {
            journal: parts::journal(config, &ssm),
            ssm,
            target: machine.id.clone(),
            port: config.ssh_port,
            // That it is there was seen before.
            witness: None,
            told: None,
            tracker: self.tracker.clone(),
        }
    }
}
