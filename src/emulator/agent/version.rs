//! Which version of amazon-ssm-agent is emulated, and what agents of that version do. Pure.
//!
//! Read from the tags of the agent's own repository; each field of [`Ways`] says which version
//! changed it. What a client switches on by an agent's version is in
//! [`ssm::protocol::version`](crate::ssm::protocol::version), which has the official client's
//! comparisons: the two tables need not agree, and the tests here say where they do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// A version of amazon-ssm-agent: four numbers, as in `3.3.1142.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentVersion([u32; 4]);

impl Default for AgentVersion {
    /// 3.3.1142.0, recent enough for every gate of a client.
    fn default() -> Self {
        Self([3, 3, 1142, 0])
    }
}

impl fmt::Display for AgentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch, build] = self.0;
        write!(f, "{major}.{minor}.{patch}.{build}")
    }
}

/// Not a version of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a version of amazon-ssm-agent: four numbers with dots between, such as 3.3.1142.0")]
pub struct VersionError;

impl FromStr for AgentVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut components = text.split('.');
        let mut numbers = [0; 4];
        for number in &mut numbers {
            let component = components.next().ok_or(VersionError)?;
            // `parse` alone would take a sign.
            if !component.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(VersionError);
            }
            *number = component.parse().map_err(|_| VersionError)?;
        }
        match components.next() {
            None => Ok(Self(numbers)),
            Some(_) => Err(VersionError),
        }
    }
}

/// What a version's Port sessions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// There are none: until 2.3.662.0.
    Unknown,
    /// One connection, whose end is the session's, whatever the document's type: from 2.3.672.0.
    Single,
    /// One connection at a time, dialled again on the client's next bytes in documents of type
    /// LocalPortForwarding: from 2.3.707.0.
    Redialled,
    /// smux in such documents, for clients that know it: from 3.0.222.0.
    Multiplexed,
}

/// Whether an agent's smux has keep-alives, which end a session without frames for 30 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keepalive {
    /// Whatever the client is.
    Always,
    /// Never: 3.1.1446.0 alone.
    Never,
    /// For clients that are not known to do without: from 3.1.1575.0.
    ByClient,
}

/// What agents of one version do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ways {
    /// Port sessions.
    pub(super) port: Port,
    /// A TerminateSession flag ends the session: from 2.3.756.0. It is ignored before.
    pub(super) takes_terminate_flag: bool,
    /// A message is acknowledged once it is processed, from 3.0.655.0, and refused while the
    /// session's handler is not ready. Before, it is acknowledged first, and lost if there is no
    /// handler yet; on the other hand nothing is written twice then (sheet §12).
    pub(super) processes_first: bool,
    /// The sources are not read during a pause: from 3.0.732.0.
    pub(super) pauses_sources: bool,
    /// Time for what is unacknowledged when the session ends: 2 s from 3.0.732.0.
    pub(super) drain: Duration,
    /// The document's `host` counts: from 3.1.1188.0. Before, all is dialled on the machine itself.
    pub(super) dials_hosts: bool,
    /// smux keep-alives.
    pub(super) keepalive: Keepalive,
    /// What was acknowledged is acknowledged again: from 3.2.1041.0.
    pub(super) acknowledges_duplicates: bool,
    /// A socket without pongs is given up: from 3.3.987.0.
    pub(super) awaits_pongs: bool,
}

impl AgentVersion {
    /// What agents of this version do.
    pub(super) fn ways(self) -> Ways {
        let since = |major, minor, patch| self >= Self([major, minor, patch, 0]);
        Ways {
            port: match self {
                _ if since(3, 0, 222) => Port::Multiplexed,
                _ if since(2, 3, 707) => Port::Redialled,
                _ if since(2, 3, 672) => Port::Single,
                _ => Port::Unknown,
            },
            takes_terminate_flag: since(2, 3, 756),
            processes_first: since(3, 0, 655),
            pauses_sources: since(3, 0, 732),
            drain: match since(3, 0, 732) {
                true => Duration::from_secs(2),
                false => Duration::ZERO,
            },
            dials_hosts: since(3, 1, 1188),
            keepalive: match self {
                _ if since(3, 1, 1575) => Keepalive::ByClient,
                _ if since(3, 1, 1446) && !since(3, 1, 1476) => Keepalive::Never,
                _ => Keepalive::Always,
            },
            acknowledges_duplicates: since(3, 2, 1041),
            awaits_pongs: since(3, 3, 987),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssm::protocol::version as client;

    fn ways(version: &str) -> Ways {
        version.parse::<AgentVersion>().unwrap().ways()
    }

    #[test]
    fn versions_are_four_numbers() {
        for good in ["2.3.722.0", "3.3.1142.0", "3.10.0.1"] {
            assert_eq!(good.parse::<AgentVersion>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "3.3",
            "3.3.1142.0.1",
            "3.3.x.0",
            "3.+3.1.0",
            "3..1.0",
            "v3.3.1.0",
            "99999999999.0.0.0",
        ] {
            assert_eq!(bad.parse::<AgentVersion>(), Err(VersionError), "{bad}");
        }
    }

    /// Each gate, at the last tag before it and at the first behind.
    #[test]
    fn every_gate_is_where_the_tags_have_it() {
        type Gate = fn(&Ways) -> bool;
        let gates: [(&str, &str, Gate); 12] = [
            ("2.3.662.0", "2.3.672.0", |it| it.port != Port::Unknown),
            ("2.3.701.0", "2.3.707.0", |it| it.port == Port::Redialled),
            ("2.3.722.0", "2.3.756.0", |it| it.takes_terminate_flag),
            ("3.0.196.0", "3.0.222.0", |it| it.port == Port::Multiplexed),
            ("3.0.603.0", "3.0.655.0", |it| it.processes_first),
            ("3.0.655.0", "3.0.732.0", |it| it.pauses_sources),
            ("3.0.655.0", "3.0.732.0", |it| it.drain > Duration::ZERO),
            ("3.1.1141.0", "3.1.1188.0", |it| it.dials_hosts),
            ("3.1.1374.0", "3.1.1446.0", |it| {
                it.keepalive == Keepalive::Never
            }),
            ("3.1.1511.0", "3.1.1575.0", |it| {
                it.keepalive == Keepalive::ByClient
            }),
            ("3.2.985.0", "3.2.1041.0", |it| it.acknowledges_duplicates),
            ("3.3.859.0", "3.3.987.0", |it| it.awaits_pongs),
        ];
        for (last_without, first_with, has) in gates {
            assert!(!has(&ways(last_without)), "{last_without}");
            assert!(has(&ways(first_with)), "{first_with}");
        }
        assert_eq!(ways("3.1.1476.0").keepalive, Keepalive::Always);
        assert_eq!(ways("3.1.1476.0").port, Port::Multiplexed);
    }

    /// What both ends decide on their own they must decide alike.
    #[test]
    fn clients_expect_of_a_version_what_it_does() {
        for version in [
            "2.3.662.0",
            "2.3.672.0",
            "2.3.722.0",
            "2.3.756.0",
            "3.0.196.0",
            "3.0.222.0",
            "3.0.603.0",
            "3.0.655.0",
            "3.1.1511.0",
            "3.1.1575.0",
            "3.2.985.0",
            "3.2.1041.0",
            "3.3.1142.0",
        ] {
            let ways = ways(version);
            assert_eq!(
                client::agent_multiplexes(version),
                ways.port == Port::Multiplexed,
                "{version}"
            );
            assert_eq!(
                client::agent_takes_terminate_flag(version),
                ways.takes_terminate_flag,
                "{version}"
            );
            assert_eq!(
                client::agent_acknowledges_duplicates(version),
                ways.acknowledges_duplicates,
                "{version}"
            );
            assert_eq!(
                client::agent_loses_early_data(version),
                !ways.processes_first,
                "{version}"
            );
            // The client may send keep-alives that nobody needs, but never lack them.
            assert!(
                !client::agent_needs_no_keepalive(version) || ways.keepalive != Keepalive::Always,
                "{version}"
            );
        }
    }
}
