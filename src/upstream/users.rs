//! Who to log in as: one name, or several of which the target decides.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use crate::ssh::Memory;

/// The place of the accepted user while none is.
const NOBODY_YET: usize = usize::MAX;

/// Users on the target, the likeliest first.
///
/// Which one the target has accepted is remembered, so that only the first login costs several tries.
#[derive(Debug)]
pub struct Users {
    names: Vec<String>,
    accepted: AtomicUsize,
    /// Held by the login that finds out who is accepted.
    search: Mutex<()>,
    /// What logged them in.
    memory: Memory,
}

impl Users {
    /// `likeliest`, and then `others`; one that is there already is tried once.
    pub fn new(likeliest: impl Into<String>, others: impl IntoIterator<Item = String>) -> Self {
        let mut names = vec![likeliest.into()];
        for other in others {
            if !names.contains(&other) {
                names.push(other);
            }
        }
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
            NOBODY_YET => self.names.len(),
            _ => 1,
        }
    }

    /// What logged them in, and what did not.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Waits for the login that is finding out which of several users is accepted, or becomes that login.
    ///
    /// An sshd counts refusals by where clients come from, which is the agent for all of ours, and after some it
    /// takes no connections for a while (`PerSourcePenalties`). So no two logins try names at the same time.
    pub(super) async fn search(&self) -> Option<MutexGuard<'_, ()>> {
        let is_open =
            || self.names.len() > 1 && self.accepted.load(Ordering::Relaxed) == NOBODY_YET;
        if !is_open() {
            return None;
        }
        let guard = self.search.lock().await;
        is_open().then_some(guard)
    }

    /// In the order in which they are tried: the one accepted last, then the others. Never empty.
    pub(super) fn in_order(&self) -> Vec<&str> {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let mut order: Vec<(usize, &str)> =
            (0..).zip(self.names.iter().map(String::as_str)).collect();
        order.sort_by_key(|(place, _)| *place != accepted);
        order.into_iter().map(|(_, name)| name).collect()
    }

    /// Remembers that the target has accepted `user`.
    pub(super) fn accepted(&self, user: &str) {
        if let Some(place) = self.names.iter().position(|name| name == user) {
            self.accepted.store(place, Ordering::Relaxed);
        }
    }
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
        assert_eq!(Users::new("root", []).in_order(), ["root"]);
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
