//! What servers took and what they refused, so that later logins begin with what will do.
//!
//! A server gives a connection few tries (OpenSSH six, `MaxAuthTries`), and bars a client for a while that wasted
//! several connections (`PerSourcePenalties`). Who found out once which key fits does not try the others again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a refusal counts: somebody may have changed `authorized_keys` meanwhile. Until then what was refused is
/// offered last, so that nobody is locked out: a key that is new there is asked for so much later at most.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// Refusals kept for one user: as many as an agent has keys that are offered, several times over.
const REFUSALS: usize = 256;

/// Users kept; who is tried beyond that is tried without memory.
const USERS: usize = 64;

/// What is offered, told apart from login to login.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// The public key or certificate.
    Key(Vec<u8>),
    /// A key that is another one each time, by who has it accepted.
    Made(String),
    /// The method: a password, or somebody who answers.
    Method(&'static str),
}

/// How likely an offer does, the likeliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Prospect {
    /// It did the last time, and nobody has to answer for it.
    Proven,
    /// Nothing is known.
    Open,
    /// It was refused in a login that went well with something else.
    Poor,
}

/// What logged in, and what did not, by user; clones share it. For one server.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    users: Arc<Mutex<BTreeMap<String, Verdicts>>>,
}

#[derive(Debug, Default)]
struct Verdicts {
    /// All of what the last login took, which may be several things.
    accepted: BTreeSet<Mark>,
    refused: BTreeMap<Mark, Instant>,
}

impl Memory {
    /// Notes what a login as `user` at `now` has `accepted`, and what was `refused` on the way.
    ///
    /// Of logins that fail nothing is kept: whoever changes something at the server then expects the usual order.
    pub(super) fn note(
        &self,
        user: &str,
        accepted: BTreeSet<Mark>,
        refused: impl IntoIterator<Item = Mark>,
        now: Instant,
    ) {
        let mut users = self.lock();
        if users.len() >= USERS && !users.contains_key(user) {
            return;
        }
        let verdicts = users.entry(user.to_owned()).or_default();
        verdicts.refused.retain(|mark, at| {
            now.saturating_duration_since(*at) < REMEMBERED && !accepted.contains(mark)
        });
        for mark in refused {
            if verdicts.refused.len() < REFUSALS && !accepted.contains(&mark) {
                verdicts.refused.insert(mark, now);
            }
        }
        verdicts.accepted = accepted;
    }

    /// What can be expected of `mark` for `user` at `now`.
    pub(super) fn prospect(&self, user: &str, mark: &Mark, now: Instant) -> Prospect {
        let users = self.lock();
        let Some(verdicts) = users.get(user) else {
            return Prospect::Open;
        };
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < REMEMBERED;
        if verdicts.refused.get(mark).is_some_and(is_recent) {
            return Prospect::Poor;
        }
        // A person is asked after all that is new, for there may be a key by now that needs no answer.
        let is_person = matches!(mark, Mark::Method(_));
        match verdicts.accepted.contains(mark) && !is_person {
            true => Prospect::Proven,
            false => Prospect::Open,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Verdicts>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Mark {
        Mark::Key(name.into())
    }

    fn order(memory: &Memory, user: &str, marks: &[Mark], now: Instant) -> Vec<Mark> {
        let mut marks = marks.to_vec();
        marks.sort_by_key(|mark| memory.prospect(user, mark, now));
        marks
    }

    #[test]
    fn what_did_comes_first_and_what_was_refused_last() {
        let memory = Memory::default();
        let now = Instant::now();
        let made = Mark::Made("pushed".into());
        let person = Mark::Method("password");
        let all = [key("a"), key("b"), made.clone(), person.clone()];
        assert_eq!(order(&memory, "me", &all, now), all);
        memory.note("me", [made.clone()].into(), [key("a")], now);
        let expected = [made.clone(), key("b"), person.clone(), key("a")];
        assert_eq!(order(&memory, "me", &all, now), expected);
        assert_eq!(order(&memory, "you", &all, now), all);
        // Whoever is asked is asked after what is new and before what was refused.
        let keys = [key("a"), key("b")];
        memory.note("me", [person.clone()].into(), keys, now);
        let all = [key("a"), key("b"), key("new"), person.clone()];
        let expected = [key("new"), person, key("a"), key("b")];
        assert_eq!(order(&memory, "me", &all, now), expected);
    }

    #[test]
    fn a_refusal_is_forgotten_after_a_while_or_a_success() {
        let memory = Memory::default();
        let now = Instant::now();
        memory.note("me", [key("b")].into(), [key("a")], now);
        let prospect = |name: &str, now| memory.prospect("me", &key(name), now);
        assert_eq!(prospect("a", now), Prospect::Poor);
        assert_eq!(prospect("a", now + REMEMBERED), Prospect::Open);
        memory.note("me", [key("a")].into(), [], now);
        assert_eq!(prospect("a", now), Prospect::Proven);
        assert_eq!(prospect("b", now), Prospect::Open);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let memory = Memory::default();
        let now = Instant::now();
        for user in 0..2 * USERS {
            let marks = (0..2 * REFUSALS).map(|number| key(&number.to_string()));
            memory.note(&user.to_string(), BTreeSet::new(), marks, now);
        }
        let users = memory.lock();
        assert_eq!(users.len(), USERS);
        assert!(users.values().all(|known| known.refused.len() == REFUSALS));
    }
}
