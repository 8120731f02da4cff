//! The targets that are up, each with those who log in there, from first use until nobody has used them for a while.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::broadcast::{self, error::RecvError};
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
    /// As many as there may be are in use.
    Full,
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
    title: String,
    link: Link,
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

    /// Whether the machine is up, or may come up: what is known of it still holds.
    pub(super) fn has(&self, link: &LinkKey) -> bool {
        let links = self.lock();
        links
            .up
            .get(link)
            .is_some_and(|member| !matches!(*member.link.state().borrow(), State::Down { .. }))
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
        if !links.up.contains_key(&link) {
            if links.up.len() >= TARGETS {
                let idle = links.take_idle().ok_or(NoRoom::Full)?;
                self.end(idle);
            }
            let member = self.launch(&plan.title, plan.tunnel, plan.news);
            links.up.insert(link.clone(), member);
        }
        let member = links.up.get_mut(&link).ok_or(NoRoom::Full)?;
        if let Some(upstream) = member.logins.get(&login) {
            return Ok(upstream.visit());
        }
        if member.logins.len() >= LOGINS {
            let idle = member.logins.iter().find(|(_, login)| login.is_idle());
            let (idle, upstream) = idle.ok_or(NoRoom::Full)?;
            upstream.close();
            let idle = idle.clone();
            member.logins.remove(&idle);
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

    fn launch(
        &self,
        title: &str,
        tunnel: tunnel::Options,
        account: broadcast::Sender<News>,
    ) -> Member {
        let link = Link::start(tunnel);
        let id = link.target().to_owned();
        let title = title.to_owned();
        let report = Report {
            target: id.clone(),
            title: title.clone(),
            what: What::Started,
        };
        // Nobody needs to listen.
        let _ = self.shared.reports.send(report);
        let reports = self.shared.reports.clone();
        let (stop, mut news) = (self.shared.stop.clone(), link.news());
        let heading = title.clone();
        self.shared.tasks.spawn(async move {
            loop {
                let news = tokio::select! {
                    () = stop.cancelled() => return,
                    news = news.recv() => news,
                };
                let news = match news {
                    Ok(news) => news,
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                };
                let _ = account.send(news.clone());
                let _ = reports.send(Report {
                    target: id.clone(),
                    title: heading.clone(),
                    what: What::News(news),
                });
            }
        });
        Member {
            title,
            link,
            logins: BTreeMap::new(),
        }
    }

    /// Ends `upstream` when nobody has used it for long enough, and its target with the last of them.
    async fn end_when_idle(self, link: LinkKey, login: LoginKey, upstream: Upstream) {
        loop {
            tokio::select! {
                () = self.shared.stop.cancelled() => return,
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
            upstream.close();
            member.logins.remove(&login);
            if member.logins.is_empty()
                && let Some(member) = links.up.remove(&link)
            {
                self.end(member);
            }
            return;
        }
    }

    /// Tells that it is over, and terminates the session in the background.
    fn end(&self, member: Member) {
        info!(target = member.link.target(), "idle, ended");
        let _ = self.shared.reports.send(Report {
            target: member.link.target().to_owned(),
            title: member.title,
            what: What::Idle,
        });
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
    /// Takes out one that nobody uses, if there is one.
    fn take_idle(&mut self) -> Option<Member> {
        let is_idle = |member: &Member| member.logins.values().all(Upstream::is_idle);
        let (key, _) = self.up.iter().find(|(_, member)| is_idle(member))?;
        let key = key.clone();
        self.up.remove(&key)
    }
}
