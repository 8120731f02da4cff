//! Who to log in as: one name, or several of which the target decides.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::ssh::Memory;

/// The place of the accepted user while none is.
const NOBODY_YET: usize = usize::MAX;

/// Users on the target, the likeliest first.
///
/// Which one the target has accepted is remembered, so that only the first login costs several tries.
#[derive(Debug)]
pub struct Users {
    names: Names,
    accepted: AtomicUsize,
    /// Held by the login that finds out who is accepted.
    search: Mutex<()>,
    /// What logged them in.
    memory: Memory,
}

/// Never empty.
type Names = Shared<BoxFuture<'static, Arc<Vec<String>>>>;

impl Users {
    /// `likeliest`, and then `others`; one that is there already is tried once.
    pub fn new(likeliest: impl Into<String>, others: impl IntoIterator<Item = String>) -> Self {
        let names = [likeliest.into()].into_iter().chain(others);
        Self::of(ready(distinct(names)).boxed().shared())
    }

    /// Those that `ask` comes to, which is asked at once, and waited for by the first login. Where it did not come to
    /// any, that login asks again, for by then the target has been reached; `fallback` if there are none then either.
    pub fn awaited<Asked>(fallback: String, mut ask: impl FnMut() -> Asked + Send + 'static) -> Self
    where
        Asked: Future<Output = Option<Vec<String>>> + Send + 'static,
    {
        // Ends with the last who may want to know.
        let early = AbortOnDropHandle::new(tokio::spawn(ask()));
        let names = async move {
            let names = match early.await {
                Ok(Some(names)) => Some(names),
                _ => ask().await,
            };
            let mut names = names.unwrap_or_default();
            if names.is_empty() {
                names.push(fallback);
            }
            distinct(names)
        };
        Self::of(names.boxed().shared())
    }

    fn of(names: Names) -> Self {
        // So that those who are known from the beginning are.
        let _known = names.clone().now_or_never();
        Self {
            names,
            accepted: AtomicUsize::new(NOBODY_YET),
            search: Mutex::default(),
            memory: Memory::default(),
        }
    }

    /// How many of them may be the right one: one when the target has accepted somebody.
    pub(super) fn open(&self) -> usize {
        match self.accepted.load(Ordering::Relaxed) {
            NOBODY_YET => self.known().len().max(1),
            _ => 1,
        }
    }

    /// What logged them in, and what did not.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Waits until it is known who there is, and then for the login that is finding out which of several users is accepted;
    /// or becomes that login.
    ///
    /// An sshd counts refusals by where clients come from, which is the agent for all of ours, and after some it
    /// takes no connections for a while (`PerSourcePenalties`). So no two logins try names at the same time.
    pub(super) async fn search(&self) -> Option<MutexGuard<'_, ()>> {
        self.names.clone().await;
        let is_open = || self.open() > 1;
        if !is_open() {
            return None;
        }
        let guard = self.search.lock().await;
        is_open().then_some(guard)
    }

    /// In the order in which they are tried: the one accepted last, then the others. None before they are known, for
    /// which [`Users::search`] waits.
    pub(crate) fn in_order(&self) -> Vec<&str> {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let mut order: Vec<(usize, &str)> =
            (0..).zip(self.known().iter().map(String::as_str)).collect();
        order.sort_by_key(|(place, _)| *place != accepted);
        order.into_iter().map(|(_, name)| name).collect()
    }

    /// Remembers that the target has accepted `user`.
    pub(super) fn accepted(&self, user: &str) {
        if let Some(place) = self.known().iter().position(|name| name == user) {
            self.accepted.store(place, Ordering::Relaxed);
        }
    }

    fn known(&self) -> &[String] {
        self.names.peek().map_or(&[], |names| names)
    }
}

fn distinct(names: impl IntoIterator<Item = String>) -> Arc<Vec<String>> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    Arc::new(distinct)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accepted_one_is_tried_first() {
        let names = ["ec2-user", "admin", "ec2-user", "me"].map(str::to_owned);
        let users = Users::new("ubuntu", names);
        assert_eq!(users.in_order(), ["ubuntu", "ec2-user", "admin", "me"]);
        users.accepted("admin");
        users.accepted("nobody");
        assert_eq!(users.in_order(), ["admin", "ubuntu", "ec2-user", "me"]);
    }

    #[tokio::test]
    async fn who_is_not_known_yet_is_waited_for() {
        let (tell, told) = tokio::sync::oneshot::channel::<Vec<String>>();
        let mut told = Some(told);
        let users = Users::awaited("me".into(), move || {
            let told = told.take().expect("asked once");
            async { told.await.ok() }
        });
        let search = users.search();
        tokio::pin!(search);
        let early = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(early, &mut search).await.is_err());
        tell.send(vec!["ubuntu".into(), "me".into()]).unwrap();
        assert!(search.await.is_some());
        assert_eq!(users.in_order(), ["ubuntu", "me"]);
    }

    #[tokio::test]
    async fn who_logs_in_asks_again_and_no_further() {
        for (answers, expected) in [
            ([None, Some(vec!["ubuntu".to_owned()])], "ubuntu"),
            ([None, None], "me"),
            ([Some(Vec::new()), None], "me"),
        ] {
            let mut answers = answers.into_iter();
            let users = Users::awaited("me".into(), move || {
                ready(answers.next().expect("asked twice at the most"))
            });
            assert!(users.search().await.is_none());
            assert!(users.search().await.is_none());
            assert_eq!(users.in_order(), [expected]);
        }
    }

    #[tokio::test]
    async fn one_login_searches_and_the_others_wait_for_it() {
        let users = Users::new("ubuntu", ["me".to_owned()]);
        let search = users.search().await;
        assert!(search.is_some());
        let waiting = users.search();
        tokio::pin!(waiting);
        let early = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(early, &mut waiting).await.is_err());
        users.accepted("me");
        drop(search);
        assert!(waiting.await.is_none());
        assert!(Users::new("me", []).search().await.is_none());
    }
}
