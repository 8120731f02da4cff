//! What a journal says.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The format. A record of another one is left alone.
const VERSION: u32 = 1;

/// How long sessions of a dead process are tried to be ended. The service ends them by itself after 20 minutes without
/// input, an hour at most.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// The SSM sessions of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    machine: Machine,
    pub(super) place: Place,
    /// The number of the account, once it is known: a profile, or the lack of one, may mean another one tomorrow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<String>,
    /// The Reason given to StartSession, which only sessions of this process have.
    pub(super) reason: String,
    /// Started, and not known to be over.
    pub(super) sessions: BTreeSet<String>,
    /// Seconds since 1970 when the process was first found dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dead_since: Option<u64>,
}

/// Where sessions are: only there may they be ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::daemon) struct Place {
    /// AWS region.
    pub(in crate::daemon) region: String,
    /// Replaces the endpoint of the region.
    pub(in crate::daemon) endpoint: Option<String>,
    /// Of the AWS configuration.
    pub(in crate::daemon) profile: Option<String>,
}

/// Where a process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    host: String,
    /// Names the run of the kernel, where that can be told.
    boot: Option<String>,
}

impl Machine {
    fn this() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Self {
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            boot: boot.ok().map(|id| id.trim().to_owned()),
        }
    }

    /// Whether a lock that nobody holds here is held nowhere. A home directory may be shared by machines
    /// that do not see each other's locks.
    fn shares_locks_with(&self, other: &Self) -> bool {
        match (&self.boot, &other.boot) {
            // Names are not enough: a copy of this computer has the same, and other locks.
            (Some(here), Some(there)) => here == there,
            _ => self.host == other.host,
        }
    }
}

impl Record {
    /// Of this process, which has no sessions yet.
    pub(super) fn new(place: Place, reason: String) -> Self {
        Self {
            version: VERSION,
            machine: Machine::this(),
            place,
            account: None,
            reason,
            sessions: BTreeSet::new(),
            dead_since: None,
        }
    }

    /// Whether a process here may judge whether its owner is alive, and understands it.
    pub(super) fn is_ours_to_judge(&self) -> bool {
        self.version == VERSION && Machine::this().shares_locks_with(&self.machine)
    }

    /// Whether its sessions can be seen with the credentials of `own`, at the same place; none where that cannot be
    /// told.
    ///
    /// Another account says of them what it says of those that are over, so nothing may be concluded there. Where an
    /// account is not known, the ids of sessions tell: they begin with the name of who has started them.
    pub(super) fn is_visible_to(&self, own: &Self) -> Option<bool> {
        if self.place != own.place {
            return Some(false);
        }
        if let (Some(account), Some(own)) = (&self.account, &own.account) {
            return Some(account == own);
        }
        // A process that was killed while it started its first session knows of none.
        self.starters().next()?;
        own.starters().next()?;
        let is_own = |starter| own.starters().any(|own| own == starter);
        Some(self.starters().any(is_own))
    }

    /// Who has started its sessions, as far as their ids tell.
    fn starters(&self) -> impl Iterator<Item = &str> {
        let sessions = self.sessions.iter();
        sessions.filter_map(|session| Some(session.rsplit_once('-')?.0))
    }

    /// Notes that its owner is dead at `now`; says whether that has been so for too long to matter.
    pub(super) fn is_stale(&mut self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let since = *self.dead_since.get_or_insert(now);
        now.saturating_sub(since) > PATIENCE.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn record() -> Record {
        let place = Place {
            region: "eu-central-1".into(),
            endpoint: None,
            profile: Some("work".into()),
        };
        Record::new(place, "ssmshim 1".into())
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut written = record();
        written.sessions.insert("user-0123".into());
        let text = serde_json::to_string(&written).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), written);
        // What a later version adds is passed over.
        let text = text.replacen('{', "{\"more\":1,", 1);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), written);
    }

    #[test]
    fn an_account_sees_its_own_sessions() {
        let of = |account: Option<&str>, sessions: &[&str]| Record {
            account: account.map(str::to_owned),
            sessions: sessions.iter().map(|&id| id.to_owned()).collect(),
            ..record()
        };
        let alice = of(Some("1"), &["alice-01"]);
        let is_visible_to =
            |account, sessions: &[&str]| alice.is_visible_to(&of(account, sessions));
        assert_eq!(is_visible_to(Some("1"), &[]), Some(true));
        assert_eq!(is_visible_to(Some("2"), &["alice-02"]), Some(false));
        assert_eq!(
            is_visible_to(None, &["i-am-bob-01", "alice-02"]),
            Some(true)
        );
        assert_eq!(is_visible_to(None, &["bob-01"]), Some(false));
        assert_eq!(is_visible_to(None, &["alic-e-01"]), Some(false));
        assert_eq!(is_visible_to(None, &["nonsense"]), None);
        assert_eq!(is_visible_to(None, &[]), None);
        assert_eq!(of(None, &[]).is_visible_to(&alice), None);
        let elsewhere = Record {
            place: Place {
                profile: None,
                ..alice.place.clone()
            },
            ..alice.clone()
        };
        assert_eq!(alice.is_visible_to(&elsewhere), Some(false));
    }

    #[test]
    fn a_machine_judges_what_it_sees_the_locks_of() {
        let machine = |host: &str, boot: Option<&str>| Machine {
            host: host.into(),
            boot: boot.map(str::to_owned),
        };
        let here = machine("desk", Some("1"));
        assert!(
            !here.shares_locks_with(&machine("desk", Some("2"))),
            "rebooted, or a copy of it that runs beside it"
        );
        assert!(here.shares_locks_with(&machine("desk", None)));
        assert!(here.shares_locks_with(&machine("container", Some("1"))));
        assert!(!here.shares_locks_with(&machine("other", Some("2"))));
        assert!(!machine("a", None).shares_locks_with(&machine("b", None)));
        assert!(record().is_ours_to_judge());
        let later = Record {
            version: VERSION + 1,
            ..record()
        };
        assert!(!later.is_ours_to_judge());
    }

    #[test]
    fn it_is_given_up_a_day_after_it_was_found() {
        let mut record = record();
        let found = SystemTime::now();
        assert!(!record.is_stale(found));
        assert!(!record.is_stale(found + PATIENCE));
        assert!(record.is_stale(found + PATIENCE + Duration::from_secs(2)));
        // A clock that was set back proves nothing.
        assert!(!record.is_stale(found - PATIENCE));
    }
}
