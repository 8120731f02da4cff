//! From a target in somebody's words to a machine that can be reached.
//!
//! Who asks for the same at the same time shares one search. What was found is remembered as long as the machine is up;
//! that there is nothing, for a moment only, so that a flood of logins is no flood of calls.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::account::Account;
use super::error::Error;
use super::members::{LinkKey, Members};
use crate::aws::Aws;
use crate::config::Serve;
use crate::report::one_line;
use crate::target::{self, Machine, Wanted};

/// Words remembered. They come from clients, so there must be an end; those of machines that are up are no more than
/// a few for each.
const NAMES: usize = 256;

/// Searches at the same time; the others wait for their turn.
const SEARCHES: usize = 4;

/// How long one may take. A client waits for it, and has two minutes to log in.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long somebody at the daemon's terminal has for an answer meanwhile.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// How long it is remembered that there is nothing.
const FAILURE_REMEMBERED: Duration = Duration::from_secs(3);

/// How long the list of what there is may take, for those who have asked for something else.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// A machine, and how to reach it.
#[derive(Clone)]
pub(super) struct Found {
    /// As far as it is known; `wanted` will know more.
    pub(super) machine: Machine,
    pub(super) account: Arc<Account>,
    pub(super) wanted: Arc<Wanted>,
}

impl Found {
    pub(super) fn new(wanted: Wanted, account: Arc<Account>) -> Self {
        Self {
            machine: wanted.known(),
            account,
            wanted: Arc::new(wanted),
        }
    }
}

/// Looks for targets.
pub(super) struct Finder {
    names: Mutex<BTreeMap<String, Arc<Name>>>,
    searches: Semaphore,
}

/// What is known of one way to name a target. The lock is held by who searches; the others wait for it.
type Name = tokio::sync::Mutex<Option<Outcome>>;

enum Outcome {
    Found(Box<Found>, LinkKey),
    Failed(Error, Instant),
}

impl Outcome {
    fn found(config: &Serve, found: &Found) -> Self {
        Self::Found(Box::new(found.clone()), link_key(config, found))
    }

    fn holds(&self, members: &Members) -> bool {
        match self {
            Self::Found(_, link) => members.has(link),
            Self::Failed(_, at) => at.elapsed() < FAILURE_REMEMBERED,
        }
    }
}

impl Finder {
    pub(super) fn new() -> Self {
        Self {
            names: Mutex::default(),
            searches: Semaphore::new(SEARCHES),
        }
    }

    /// What `name` means, by `config`; `open` gives the account that is asked.
    ///
    /// # Errors
    /// Why it means nothing.
    pub(super) async fn find<A>(
        &self,
        name: &str,
        config: &Serve,
        members: &Members,
        open: A,
    ) -> Result<Found, Error>
    where
        A: Future<Output = Result<Arc<Account>, Error>>,
    {
        let place = self.place(name, members)?;
        let mut outcome = place.lock().await;
        match &*outcome {
            Some(known) if known.holds(members) => match known {
                Outcome::Found(found, _) => return Ok((**found).clone()),
                Outcome::Failed(error, _) => return Err(error.clone()),
            },
            _ => {}
        }
        let searched = self.search(config, open).await;
        if let (Err(error), Some(Outcome::Found(found, link))) = (&searched, &*outcome)
            && may_pass(error)
            && members.is_coming_back(link)
        {
            debug!(name, reason = one_line(error), "held until it is back");
            return Ok((**found).clone());
        }
        *outcome = Some(match &searched {
            Ok(found) => Outcome::found(config, found),
            Err(error) => Outcome::Failed(error.clone(), Instant::now()),
        });
        searched
    }

    /// Remembers that `name` means `found`.
    pub(super) fn learn(&self, name: &str, config: &Serve, found: &Found) {
        let outcome = Outcome::found(config, found);
        let name = (name.to_owned(), Arc::new(Name::new(Some(outcome))));
        self.lock().extend([name]);
    }

    /// What is known of machines that are up, under each name that they were asked for by.
    pub(super) fn known(&self, members: &Members) -> Vec<(String, Found, LinkKey)> {
        let names = self.lock();
        let known = names.iter().filter_map(|(name, place)| {
            // Who holds the lock is searching.
            let outcome = place.try_lock().ok()?;
            match outcome.as_ref()? {
                Outcome::Found(found, link) if members.has(link) => {
                    Some((name.clone(), (**found).clone(), link.clone()))
                }
                Outcome::Found(..) | Outcome::Failed(..) => None,
            }
        });
        known.collect()
    }

    async fn search<A>(&self, config: &Serve, open: A) -> Result<Found, Error>
    where
        A: Future<Output = Result<Arc<Account>, Error>>,
    {
        let account = within(PATIENCE, open).await?;
        // Before the clock of the search runs, and before it takes anybody's turn: somebody may have to type a code.
        let aws = &account.aws;
        let limits = [PATIENCE, ANSWER_PATIENCE];
        answered(aws.prepare(), || aws.ssm().is_asking(), limits).await?;
        let (_permit, mut searched) = within(PATIENCE, async {
            // Never closed, so there is a permit in the end.
            let permit = self.searches.acquire().await;
            Ok((permit, search(config, &account).await))
        })
        .await?;
        // What there is instead takes its own time.
        if let Err(Error::Unknown { online: others, .. }) = &mut searched {
            *others = online(&account.aws).await;
        }
        searched
    }

    fn place(&self, name: &str, members: &Members) -> Result<Arc<Name>, Error> {
        let mut names = self.lock();
        if let Some(place) = names.get(name) {
            return Ok(Arc::clone(place));
        }
        if names.len() >= NAMES {
            // Who asks holds another handle.
            names.retain(|_, place| {
                Arc::strong_count(place) > 1
                    || place.try_lock().is_ok_and(|outcome| {
                        outcome.as_ref().is_some_and(|known| known.holds(members))
                    })
            });
        }
        if names.len() >= NAMES {
            // All of them hold. What is forgotten is looked for again.
            let idle = names.iter().filter(|(_, one)| Arc::strong_count(one) == 1);
            let least = idle.min_by_key(|(_, one)| is_found(one));
            let least = least.map(|(name, _)| name.clone());
            names.remove(&least.ok_or(Error::TooMany)?);
        }
        let place = Arc::new(Name::default());
        names.insert(name.to_owned(), Arc::clone(&place));
        Ok(place)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Name>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn within<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match timeout(patience, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Late { after: patience }),
    }
}

/// Whether a search that failed like that says nothing against the machine that the name has meant so far.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Setup(error) => !matches!(
            **error,
            super::super::Error::Target(target::Error::Ambiguous { .. })
        ),
        Error::Late { .. } | Error::Unanswered => true,
        Error::Nameless
        | Error::Unknown { .. }
        | Error::TooMany
        | Error::TooManyLogins
        | Error::OnlyOne { .. }
        | Error::Stopping => false,
    }
}

/// Whether a machine is known by it.
fn is_found(name: &Name) -> bool {
    let outcome = name.try_lock();
    outcome.is_ok_and(|outcome| matches!(*outcome, Some(Outcome::Found(..))))
}

/// What the machine is kept under.
pub(super) fn link_key(config: &Serve, found: &Found) -> LinkKey {
    LinkKey {
        profile: config.profile.clone(),
        region: found.account.aws.region().to_owned(),
        id: found.machine.id.clone(),
        port: config.ssh_port,
    }
}

/// Waits until there are credentials, or none to be had: whoever needs them first tells why.
///
/// # Errors
/// It takes longer than the first of the `limits`, or, while somebody `is_asking` a person, than the second.
async fn answered<T>(
    prepare: impl Future<Output = T>,
    is_asking: impl Fn() -> bool,
    [usual, attended]: [Duration; 2],
) -> Result<(), Error> {
    let mut prepare = pin!(prepare);
    match timeout(usual, &mut prepare).await {
        Ok(_told_later) => Ok(()),
        Err(_) if !is_asking() => Err(Error::Late { after: usual }),
        Err(_) => match timeout(attended.saturating_sub(usual), prepare).await {
            Ok(_told_later) => Ok(()),
            Err(_) => Err(Error::Unanswered),
        },
    }
}

async fn search(config: &Serve, account: &Arc<Account>) -> Result<Found, Error> {
    match target::resolve(&account.aws, &config.target).await {
        Ok(machine) => {
            let wanted = Wanted::of(&account.aws, machine);
            Ok(Found::new(wanted, Arc::clone(account)))
        }
        Err(error @ target::Error::Unknown { .. }) => Err(Error::Unknown {
            source: Arc::new(error),
            online: Vec::new(),
        }),
        Err(error) => Err(super::super::Error::from(error).into()),
    }
}

/// What is online instead, as far as that can be told.
async fn online(aws: &Aws) -> Vec<String> {
    match timeout(LIST_PATIENCE, target::list(aws, None)).await {
        Ok(Ok(listing)) => {
            let online = listing.machines.iter().filter(|one| one.is_online());
            online.map(Machine::title).collect()
        }
        Ok(Err(error)) => {
            debug!(reason = one_line(&error), "cannot say what is there");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::broadcast;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn a_person_has_more_time_than_a_service() {
        let limits = [Duration::from_millis(1), Duration::from_millis(2)];
        assert!(answered(ready(()), || true, limits).await.is_ok());
        let late = answered(pending::<()>(), || false, limits).await;
        assert!(matches!(late, Err(Error::Late { .. })), "{late:?}");
        let unanswered = answered(pending::<()>(), || true, limits).await;
        assert!(
            matches!(unanswered, Err(Error::Unanswered)),
            "{unanswered:?}"
        );
    }

    #[test]
    fn only_what_may_pass_is_waited_for() {
        let failed = |error: target::Error| Error::from(super::super::super::Error::from(error));
        let unknown = target::Error::Unknown {
            wanted: "web".into(),
            region: "eu-west-1".into(),
            account: None,
            flags: String::new(),
        };
        let unknown = Error::Unknown {
            source: Arc::new(unknown),
            online: Vec::new(),
        };
        let offline = target::Error::Offline {
            title: "i-1 (web)".into(),
            task: None,
            last_ping: None,
        };
        let ambiguous = target::Error::Ambiguous {
            wanted: "web".into(),
            count: 2,
            candidates: Vec::new(),
        };
        for (error, expected) in [
            (failed(offline), true),
            (Error::Late { after: PATIENCE }, true),
            (failed(ambiguous), false),
            (unknown, false),
        ] {
            assert_eq!(may_pass(&error), expected, "{error}");
        }
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_makes_way() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let members = Members::new(Duration::ZERO, broadcast::Sender::new(1), tasks, stop);
        let finder = Finder::new();
        let mut waiting = Vec::new();
        for n in 0..NAMES {
            let place = finder.place(&format!("name-{n}"), &members).unwrap();
            *place.lock().await = Some(Outcome::Failed(Error::Nameless, Instant::now()));
            waiting.push(place);
        }
        let refused = finder.place("one more", &members);
        assert!(matches!(refused, Err(Error::TooMany)));
        // A name that is there takes no room.
        drop(finder.place("name-0", &members).unwrap());
        waiting.remove(7);
        finder.place("one more", &members).unwrap();
        let names = finder.lock();
        assert_eq!(names.len(), NAMES);
        assert!(!names.contains_key("name-7") && names.contains_key("name-0"));
    }
}
