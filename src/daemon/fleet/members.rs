//! The targets that are up, each with those who log in there, from first use until nobody has used them for a while.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::report::{Report, What};
use crate::tunnel;
use crate::upstream::{Link, Login, News, State, Upstream, Visit};

/// Targets at the same time. Each is an SSM session and an SSH connection or two.
const TARGETS: usize = 64;

/// Ways to log in at one target at the same time.
const LOGINS: usize = 16;

/// What belongs to a machine: who shares it shares the SSM session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkKey {
    pub(super) profile: Option<String>,
    pub(super) region: String,
    /// The machine's id.
    pub(super) id: String,
    /// The port of sshd.
    pub(super) port: u16,
}

/// What belongs to a login: who shares it shares spare transports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LoginKey {
    /// None leaves it to the platform.
    pub(super) user: Option<String>,
    /// What the host key may be known by besides the id. It is not to depend on who asked first.
    pub(super) known_as: Option<String>,
    pub(super) identity: Vec<PathBuf>,
    pub(super) certificate: Vec<PathBuf>,
}

/// All that it takes to start one.
pub(super) struct Plan {
    /// What the machine is called.
    pub(super) title: String,
    pub(super) tunnel: tunnel::Options,
    pub(super) login: Login,
    pub(super) hold: Duration,
    /// Is told what happens, too.
    pub(super) news: broadcast::Sender<News>,
}

/// Why there is not one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// As many targets as there may be are in use.
    Targets,
    /// As many ways to log in at this one are.
    Logins,
    /// All are being ended.
    Stopping,
}

/// A handle to all of them; clones share it.
#[derive(Clone)]
pub(super) struct Members {
    shared: Arc<Shared>,
}

struct Shared {
    links: Mutex<Links>,
    /// How long one that nobody uses is kept.
    idle: Duration,
    reports: broadcast::Sender<Report>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Links {
    up: BTreeMap<LinkKey, Member>,
    is_stopping: bool,
}

struct Member {
    link: Link,
    /// Cancelled when nobody uses it any more, which is told after all that has happened to it.
    idle: CancellationToken,
    logins: BTreeMap<LoginKey, Upstream>,
}

impl Members {
    /// None yet. Who is not used for `idle` is ended in `tasks`, until `stop`.
    pub(super) fn new(
        idle: Duration,
        reports: broadcast::Sender<Report>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                links: Mutex::default(),
                idle,
                reports,
                stop,
                tasks,
            }),
        }
    }

    /// The login `login` at `link`, if it is up.
    pub(super) fn visit(&self, link: &LinkKey, login: &LoginKey) -> Option<Visit> {
        let links = self.lock();
        Some(links.up.get(link)?.logins.get(login)?.visit())
    }

    /// Some login at `link`, if it is up: for those who want its tunnel and no login.
    pub(super) fn any_visit(&self, link: &LinkKey) -> Option<Visit> {
        let links = self.lock();
        Some(links.up.get(link)?.logins.values().next()?.visit())
    }

    /// Whether what is known of the machine still holds: it is up, or will be. One that is said to be out of reach may
    /// have been replaced by another of its name.
    pub(super) fn has(&self, link: &LinkKey) -> bool {
        let links = self.lock();
        let Some(member) = links.up.get(link) else {
            return false;
        };
        match &*member.link.state().borrow() {
            State::Down { error, is_final } => !is_final && !error.is_offline(),
            _ => true,
        }
    }

    /// Whether somebody is let in somewhere, and uses that.
    pub(super) fn are_of_use(&self) -> bool {
        let links = self.lock();
        let mut up = links.up.values();
        up.any(|member| member.link.has_served() && member.idle_since().is_none())
    }

    /// Whether the machine was of use before and is being tried again.
    pub(super) fn is_coming_back(&self, link: &LinkKey) -> bool {
        let links = self.lock();
        links.up.get(link).is_some_and(|member| {
            let state = member.link.state();
            let is_over = matches!(*state.borrow(), State::Down { is_final: true, .. });
            member.link.has_served() && !is_over
        })
    }

    /// The login `login` at `link`, started by `plan` unless it is there.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(super) fn start(
        &self,
        link: LinkKey,
        login: LoginKey,
        plan: Plan,
    ) -> Result<Visit, NoRoom> {
        let mut links = self.lock();
        if links.is_stopping {
            return Err(NoRoom::Stopping);
        }
        if links.up.len() >= TARGETS && !links.up.contains_key(&link) {
            let idle = links.take_idle().ok_or(NoRoom::Targets)?;
            self.end(idle);
        }
        let member = links
            .up
            .entry(link.clone())
            .or_insert_with(|| self.launch(&plan.title, plan.tunnel, plan.news));
        if let Some(upstream) = member.logins.get(&login) {
            return Ok(upstream.visit());
        }
        if member.logins.len() >= LOGINS {
            let idle = member.logins.iter();
            let idle = idle.filter_map(|(key, login)| Some((login.idle_since()?, key)));
            let (_, idle) = idle.min().ok_or(NoRoom::Logins)?;
            let idle = idle.clone();
            if let Some(upstream) = member.logins.remove(&idle) {
                upstream.close();
            }
        }
        let upstream = Upstream::start(member.link.clone(), plan.login, plan.hold);
        let visit = upstream.visit();
        member.logins.insert(login.clone(), upstream.clone());
        let watch = self.clone().end_when_idle(link, login, upstream);
        self.shared.tasks.spawn(watch);
        Ok(visit)
    }

    /// Ends all, and lets none begin.
    pub(super) async fn shutdown(&self) {
        let up = {
            let mut links = self.lock();
            links.is_stopping = true;
            std::mem::take(&mut links.up)
        };
        join_all(up.values().map(|member| member.link.shutdown())).await;
    }

    /// Begins to reach a target; what happens to it is told from its start to its end.
    fn launch(
        &self,
        title: &str,
        tunnel: tunnel::Options,
        account: broadcast::Sender<News>,
    ) -> Member {
        let title = title.to_owned();
        let (link, mut news) = Link::start(tunnel);
        let (target, port) = (link.target().to_owned(), link.port());
        let reports = self.shared.reports.clone();
        let tell = move |what| {
            // Nobody needs to listen.
            let _ = reports.send(Report {
                target: target.clone(),
                port,
                title: title.clone(),
                what,
            });
        };
        tell(What::Started);
        let idle = CancellationToken::new();
        let (stop, ended) = (self.shared.stop.clone(), idle.clone());
        self.shared.tasks.spawn(async move {
            loop {
                let news = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    news = news.recv() => news,
                    () = ended.cancelled() => return tell(What::Idle),
                };
                match news {
                    Ok(news) => {
                        let _ = account.send(news.clone());
                        tell(What::News(news));
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) if ended.is_cancelled() => return tell(What::Idle),
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Member {
            link,
            idle,
            logins: BTreeMap::new(),
        }
    }

    /// Ends `upstream` when nobody has used it for long enough, and its target with the last of them.
    async fn end_when_idle(self, link: LinkKey, login: LoginKey, upstream: Upstream) {
        loop {
            tokio::select! {
                () = self.shared.stop.cancelled() => return,
                () = upstream.closed() => return,
                () = upstream.idle_for(self.shared.idle) => {}
            }
            let mut links = self.lock();
            let Some(member) = links.up.get_mut(&link) else {
                return;
            };
            let is_it = |there: &Upstream| there.is_same(&upstream);
            if !member.logins.get(&login).is_some_and(is_it) {
                return;
            }
            // Somebody may have come between the two.
            if !upstream.is_idle() {
                continue;
            }
            member.logins.remove(&login);
            if !member.logins.is_empty() {
                upstream.close();
            } else if let Some(member) = links.up.remove(&link) {
                // Its logins end with it.
                self.end(member);
            }
            return;
        }
    }

    /// Tells that it is over, and terminates the session in the background.
    fn end(&self, member: Member) {
        info!(target = member.link.target(), "idle, ended");
        member.idle.cancel();
        let link = member.link;
        self.shared
            .tasks
            .spawn(async move { link.shutdown().await });
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.shared
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Links {
    /// Takes out the one that nobody has used for longest, if there is one.
    fn take_idle(&mut self) -> Option<Member> {
        let idle = self.up.iter();
        let idle = idle.filter_map(|(key, member)| Some((member.idle_since()?, key)));
        let (_, key) = idle.min()?;
        let key = key.clone();
        self.up.remove(&key)
    }
}

impl Member {
    /// Since when nobody uses it; none while somebody does.
    fn idle_since(&self) -> Option<Instant> {
        let idle: Option<Vec<_>> = self.logins.values().map(Upstream::idle_since).collect();
        idle?.into_iter().max()
    }
}

#[cfg(test)]
mod tests {
    use aws_config::{BehaviorVersion, Region};
    use aws_credential_types::Credentials;

    use super::*;
    use crate::ssh::PinnedKey;
    use crate::ssm::Ssm;
    use crate::upstream::Users;

    /// An API where nobody listens.
    async fn nowhere() -> Ssm {
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new("any", "any", None, None, "test"))
            .endpoint_url("http://127.0.0.1:1");
        Ssm::from_loader(loader).await.unwrap()
    }

    fn members(idle: Duration, reports: &broadcast::Sender<Report>) -> Members {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Members::new(idle, reports.clone(), tasks, stop)
    }

    fn start(members: &Members, ssm: &Ssm, id: usize, user: usize) -> Result<Visit, NoRoom> {
        let link = LinkKey {
            profile: None,
            region: ssm.region().to_owned(),
            id: format!("i-{id}"),
            port: 22,
        };
        let login = LoginKey {
            user: Some(format!("user-{user}")),
            known_as: None,
            identity: Vec::new(),
            certificate: Vec::new(),
        };
        let plan = Plan {
            title: link.id.clone(),
            tunnel: tunnel::Options {
                ssm: ssm.clone(),
                target: link.id.clone(),
                port: link.port,
                journal: None,
                witness: None,
                told: Some(tunnel::Told::default()),
                tracker: TaskTracker::new(),
            },
            login: Login {
                users: Users::new("me", []),
                credentials: Vec::new(),
                verifier: Arc::new(PinnedKey::new(*b"any")),
            },
            hold: Duration::from_secs(1),
            news: broadcast::Sender::new(1),
        };
        members.start(link, login, plan)
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_and_idle_ones_make_way() {
        let ssm = nowhere().await;
        let reports = broadcast::Sender::new(1024);
        let members = members(Duration::from_secs(3600), &reports);
        let mut visits: Vec<_> = (0..TARGETS)
            .map(|id| start(&members, &ssm, id, 0).unwrap())
            .collect();
        assert_eq!(
            start(&members, &ssm, TARGETS, 0).err(),
            Some(NoRoom::Targets)
        );
        // Another handle to one that is there takes no room.
        drop(start(&members, &ssm, 0, 0).unwrap());
        visits.pop();
        visits.push(start(&members, &ssm, TARGETS, 0).unwrap());

        let users: Vec<_> = (1..LOGINS)
            .map(|user| start(&members, &ssm, 0, user).unwrap())
            .collect();
        assert_eq!(start(&members, &ssm, 0, LOGINS).err(), Some(NoRoom::Logins));
        drop(users);
        start(&members, &ssm, 0, LOGINS).unwrap();

        members.shutdown().await;
        assert_eq!(start(&members, &ssm, 0, 0).err(), Some(NoRoom::Stopping));
    }

    #[tokio::test]
    async fn users_share_a_link_and_the_last_one_takes_it_along() {
        let ssm = nowhere().await;
        let reports = broadcast::Sender::new(1024);
        let mut told = reports.subscribe();
        let members = members(Duration::ZERO, &reports);
        let (alice, bob) = (start(&members, &ssm, 0, 0), start(&members, &ssm, 0, 1));
        let (alice, bob) = (alice.unwrap(), bob.unwrap());
        assert!(!alice.is_same(&bob));
        let begun = told.recv().await.unwrap();
        assert!(matches!(begun.what, What::Started));
        drop(alice);
        let is_gone = |report: &Report| matches!(report.what, What::Idle);
        drop(bob);
        while !is_gone(&told.recv().await.unwrap()) {}
        assert!(members.lock().up.is_empty());
        assert_eq!(begun.target, "i-0");
    }
}
