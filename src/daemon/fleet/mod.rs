//! The targets that login names lead to.
//!
//! | module | what lives there |
//! |---|---|
//! | `name` | what a login name means; pure |
//! | `finder` | from a target in somebody's words to a machine |
//! | `account` | one AWS for each profile and region |
//! | `members` | the targets that are up, from first use until nobody has used them for a while |
//! | `offers` | which of them serves somebody who wants a raw stream |
//! | `error` | why a name leads nowhere, and how its client is told |
//! | `report` | what happens to targets, for those who tell people |

pub(super) mod account;
mod error;
mod finder;
mod members;
mod name;
mod offers;
mod report;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::account::Accounts;
pub(super) use self::account::{journal, place};
pub use self::error::Error;
use self::finder::{Finder, Found, link_key};
use self::members::{LinkKey, LoginKey, Members, NoRoom, Plan};
use self::name::Wish;
pub use self::report::{Report, What};
use super::credentials::Keyring;
use super::instance_connect::InstanceConnect;
use super::known_hosts;
use super::wanted::{self, Inquirer};
use crate::config::{Endpoint, Serve};
use crate::server::{self, Targets};
use crate::target::Wanted;
use crate::tunnel;
use crate::upstream::{Login, State, Upstream, Visit};

/// Reports kept for those who are slow to take them.
const REPORTS: usize = 256;

/// All targets of an endpoint; clones share them.
#[derive(Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
}

struct Shared {
    /// How targets are found; without, there is the usual one and no other.
    ways: Option<Ways>,
    /// Where names lead that select nothing. As somebody who stays, it is never idle.
    usual: Option<Visit>,
    members: Members,
    reports: broadcast::Sender<Report>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How targets are found and logged in to.
struct Ways {
    endpoint: Endpoint,
    accounts: Accounts,
    finder: Finder,
    keyring: Keyring,
}

impl Fleet {
    /// Begins to reach the target of `endpoint`, if it has one; others follow when they are selected.
    ///
    /// # Errors
    /// There is no such target, or what is needed to log in there is missing.
    pub(super) async fn start(endpoint: &Endpoint) -> Result<Self, super::Error> {
        let mut fleet = Shared::new(endpoint.idle);
        let ways = Ways {
            endpoint: endpoint.clone(),
            accounts: Accounts::default(),
            finder: Finder::new(),
            keyring: Keyring::default(),
        };
        if let Some(target) = &endpoint.target {
            fleet.usual = fleet.begin(&ways, target).await?;
        }
        fleet.ways = Some(ways);
        Ok(Self {
            shared: Arc::new(fleet),
        })
    }

    /// One target, for every name that selects no other.
    pub(super) fn of_one(tunnel: tunnel::Options, login: Login, hold: Duration) -> Self {
        let mut fleet = Shared::new(Duration::MAX);
        let link = LinkKey {
            profile: None,
            region: tunnel.ssm.region().to_owned(),
            id: tunnel.target.clone(),
            port: tunnel.port,
        };
        let plan = Plan {
            title: tunnel.target.clone(),
            tunnel,
            login,
            hold,
            news: broadcast::Sender::new(1),
        };
        let login = LoginKey {
            user: None,
            known_as: None,
            identity: Vec::new(),
            certificate: Vec::new(),
        };
        // There is room for the first.
        fleet.usual = fleet.members.start(link, login, plan).ok();
        Self {
            shared: Arc::new(fleet),
        }
    }

    /// Where names lead that select nothing.
    pub fn usual(&self) -> Option<&Upstream> {
        self.shared.usual.as_deref()
    }

    /// Whether somebody is let in at one of the targets, and uses it.
    pub fn is_of_use(&self) -> bool {
        self.shared.members.are_of_use()
    }

    /// Names that the configuration has for targets.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        let ways = self.shared.ways.iter();
        ways.flat_map(|ways| ways.endpoint.aliases())
    }

    /// What happens to all targets from now on.
    pub fn reports(&self) -> broadcast::Receiver<Report> {
        self.shared.reports.subscribe()
    }

    /// The upstream that the login name `name` selects, started if need be.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn select(&self, name: &str) -> Result<Visit, Error> {
        let Shared { ways, usual, .. } = &*self.shared;
        let is_alias = |name: &str| {
            let ways = ways.as_ref();
            ways.is_some_and(|ways| ways.endpoint.has_alias(name))
        };
        match (name::read(name, is_alias, usual.is_some()), usual) {
            (Wish::Usual, Some(usual)) => Ok(self.successor(usual).await),
            (Wish::Usual, None) => Err(Error::Nameless),
            (Wish::Target { target, user }, _) => self.find(target, user).await,
        }
    }

    /// What the name of the usual target means by now: a machine that is out of reach may have been replaced.
    async fn successor(&self, usual: &Visit) -> Visit {
        let is_offline =
            matches!(&*usual.state().borrow(), State::Down { error, .. } if error.is_offline());
        let ways = self.shared.ways.as_ref().filter(|_| is_offline);
        let found = match ways.and_then(|ways| ways.endpoint.target.as_deref()) {
            Some(name) if name != usual.link().target() => self.find(name, None).await.ok(),
            _ => None,
        };
        found.unwrap_or_else(|| usual.clone())
    }

    /// The upstream for `target`, an alias or in any other form that a target has, started if need be. With `user`,
    /// that one logs in there, whoever is configured.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn find(&self, target: &str, user: Option<&str>) -> Result<Visit, Error> {
        if target.trim().is_empty() {
            return Err(Error::Nameless);
        }
        let Shared {
            members,
            tasks,
            stop,
            ..
        } = &*self.shared;
        let Some(ways) = &self.shared.ways else {
            return self.only(target);
        };
        let mut config = ways.endpoint.toward(target).map_err(super::Error::from)?;
        if let Some(user) = user {
            config.user = Some(user.to_owned());
        }
        let account = async {
            let account = ways.accounts.open(&config, tasks, stop).await;
            Ok(account.map_err(super::Error::from)?)
        };
        let found = ways.finder.find(target, &config, members, account).await?;
        let (link, login) = (link_key(&config, &found), login_key(&config));
        if let Some(visit) = members.visit(&link, &login) {
            return Ok(visit);
        }
        let plan = ways.plan(&config, &found)?;
        let started = members.start(link, login, plan);
        started.map_err(|no_room| match no_room {
            NoRoom::Targets => Error::TooMany,
            NoRoom::Logins => Error::TooManyLogins,
            NoRoom::Stopping => Error::Stopping,
        })
    }

    /// The one target that there is, if it is `target`. Whoever logs in there is the same.
    fn only(&self, target: &str) -> Result<Visit, Error> {
        let usual = self.shared.usual.as_ref().ok_or(Error::Stopping)?;
        match usual.link().target() {
            id if id == target => Ok(usual.clone()),
            id => Err(Error::OnlyOne { id: id.to_owned() }),
        }
    }

    /// Ends all targets, and waits until their sessions are terminated.
    pub(super) async fn shutdown(&self) {
        self.shared.members.shutdown().await;
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Targets for Fleet {
    fn usual(&self) -> Option<Visit> {
        self.shared.usual.clone()
    }

    fn select<'a>(&'a self, name: &'a str) -> server::Selected<'a> {
        Box::pin(async move {
            let selected = Self::select(self, name).await;
            selected.map_err(|error| error.refusal(self.aliases()))
        })
    }
}

impl Drop for Shared {
    /// What still runs has nobody to run for.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn new(idle: Duration) -> Self {
        let (reports, tasks) = (broadcast::Sender::new(REPORTS), TaskTracker::new());
        let stop = CancellationToken::new();
        let members = Members::new(idle, reports.clone(), tasks.clone(), stop.clone());
        Self {
            ways: None,
            usual: None,
            members,
            reports,
            stop,
            tasks,
        }
    }

    /// Begins to reach `target`, as one that is used from now on.
    async fn begin(&self, ways: &Ways, target: &str) -> Result<Option<Visit>, super::Error> {
        let config = ways.endpoint.toward(target)?;
        let account = ways.accounts.open(&config, &self.tasks, &self.stop);
        let account = account.await?;
        let wanted = Wanted::find(&account.aws, &config.target).await?;
        let found = Found::new(wanted, account);
        let link = link_key(&config, &found);
        // It is known by its own name from now on, and by its id where that means the same.
        for name in [target, &found.machine.id] {
            let same = ways.endpoint.toward(name)?;
            if link_key(&same, &found) == link {
                ways.finder.learn(name, &same, &found);
            }
        }
        let plan = ways.plan(&config, &found)?;
        // There is room for the first.
        Ok(self.members.start(link, login_key(&config), plan).ok())
    }
}

impl Ways {
    /// How to reach the machine and to log in there.
    fn plan(&self, config: &Serve, found: &Found) -> Result<Plan, super::Error> {
        let Found {
            machine,
            account,
            wanted,
        } = found;
        let ephemeral = InstanceConnect::of(&account.aws, &machine.id);
        Ok(Plan {
            title: machine.title(),
            login: Login {
                users: wanted::users(config, wanted),
                credentials: self.keyring.gather(
                    &config.identity,
                    &config.certificate,
                    ephemeral,
                    &config.target,
                )?,
                verifier: Arc::new(known_hosts::of(config, &machine.id)),
            },
            tunnel: tunnel::Options {
                ssm: account.ssm.clone(),
                target: machine.id.clone(),
                port: config.ssh_port,
                journal: account.journal.clone().map(|journal| journal as _),
                witness: Some(Arc::new(Inquirer(Arc::clone(wanted)))),
                told: Some(tunnel::Told::default()),
                tracker: TaskTracker::new(),
            },
            hold: config.hold,
            news: account.news.clone(),
        })
    }
}

/// What a login is kept under.
fn login_key(config: &Serve) -> LoginKey {
    LoginKey {
        user: config.user.clone(),
        known_as: known_hosts::name(config),
        identity: config.identity.clone(),
        certificate: config.certificate.clone(),
    }
}
