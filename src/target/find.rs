//! The machine that a selector means, or why there is none.

use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use thiserror::Error;

use super::machine::{Machine, printable};
use super::selector::Selector;
use crate::aws;

/// Machines that an ambiguous name lists.
const CANDIDATES: usize = 10;

/// Why there is no machine to start a session to.
#[derive(Debug, Error)]
pub enum Error {
    /// Several machines answer to it.
    #[error("`{}` means {count} machines", printable(wanted))]
    Ambiguous {
        /// What was typed.
        wanted: String,
        /// How many there are.
        count: usize,
        /// The first ten of them, described.
        candidates: Vec<String>,
    },
    /// None answers to it.
    #[error(
        "no machine `{}` in {region}{}",
        printable(wanted),
        of_account(account)
    )]
    Unknown {
        /// What was typed.
        wanted: String,
        /// Where was looked.
        region: String,
        /// The account that was asked, if that is known.
        account: Option<String>,
        /// What commands are told to look there too; see [`Ssm::flags`](crate::ssm::Ssm::flags).
        flags: String,
    },
    /// Its agent does not answer.
    #[error("{title} is not connected to Systems Manager{}", since(*last_ping))]
    Offline {
        /// The machine.
        title: String,
        /// Of a container, which is offline for reasons of its own: the command that shows them.
        task: Option<String>,
        /// How long ago the agent was last heard of, and when that was.
        last_ping: Option<(Duration, SystemTime)>,
    },
    /// The instance does not run.
    #[error("{title} is {}", printable(state))]
    NotRunning {
        /// The machine.
        title: String,
        /// Its id.
        id: String,
        /// Its state in EC2.
        state: String,
        /// What commands are told to find it.
        flags: String,
    },
    /// EC2 knows the instance, Systems Manager does not.
    #[error("{title} is running, but Systems Manager does not know it")]
    NotManaged {
        /// The machine.
        title: String,
    },
    /// AWS could not be asked.
    #[error("cannot look for `{}`", printable(wanted))]
    Api {
        /// What was typed.
        wanted: String,
        /// What came instead of an answer.
        #[source]
        source: aws::Error,
    },
}

impl Error {
    /// Whether AWS could not be asked, and may be before long.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Api { source, .. } if source.is_passing())
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Ambiguous {
                count, candidates, ..
            } => {
                let more = match count.saturating_sub(candidates.len()) {
                    0 => String::new(),
                    more => format!(", and {more} more"),
                };
                format!("name one by its id: {}{more}", candidates.join(", "))
            }
            Self::Unknown { flags, .. } => format!(
                "`ssmshim targets{flags}` lists what is there; --region and --profile look elsewhere"
            ),
            Self::Offline {
                task: Some(command),
                ..
            } => format!(
                "see that the task runs and was started with execute command enabled: {command}"
            ),
            Self::Offline { .. } => {
                "see that the machine runs, that amazon-ssm-agent does, and that it reaches the endpoints \
                 ssm and ssmmessages of its region"
                    .into()
            }
            Self::NotRunning {
                id, state, flags, ..
            } if state == "stopped" => {
                format!("aws ec2 start-instances --instance-ids {id}{flags}")
            }
            Self::NotRunning { .. } => "wait until it runs, or choose another".into(),
            Self::NotManaged { .. } => {
                "give it a role with the policy AmazonSSMManagedInstanceCore, and see that \
                 amazon-ssm-agent runs there and reaches the endpoints ssm and ssmmessages"
                    .into()
            }
            Self::Api { source, .. } => return source.hint().map(str::to_owned),
        })
    }
}

/// The machine among `machines` that `selector` means; they are taken to have its tag.
///
/// Where several have the name, the one that is online is meant, if it is the only one: an instance
/// that was replaced stays on the list for days.
///
/// # Errors
/// [`Error::Unknown`] in `region`, or [`Error::Ambiguous`].
pub fn find<'a>(
    wanted: &str,
    selector: &Selector,
    machines: &'a [Machine],
    region: &str,
) -> Result<&'a Machine, Error> {
    let ranked = |machine: &'a Machine| Some((rank(selector, machine)?, machine));
    let ranked: Vec<_> = machines.iter().filter_map(ranked).collect();
    let best = ranked.iter().map(|(rank, _)| *rank).min();
    let meant: Vec<_> = ranked
        .into_iter()
        .filter(|(rank, _)| Some(*rank) == best)
        .map(|(_, machine)| machine)
        .collect();
    let online: Vec<_> = meant.iter().filter(|machine| machine.is_online()).collect();
    match (&meant[..], &online[..]) {
        ([], _) => Err(Error::Unknown {
            wanted: wanted.to_owned(),
            region: region.to_owned(),
            account: None,
            flags: String::new(),
        }),
        ([one], _) => Ok(one),
        (_, [one]) => Ok(one),
        _ => Err(Error::Ambiguous {
            wanted: wanted.to_owned(),
            count: meant.len(),
            candidates: meant
                .iter()
                .take(CANDIDATES)
                .map(|machine| describe(machine))
                .collect(),
        }),
    }
}

/// How well the machine fits, 0 best; `None` when it does not.
fn rank(selector: &Selector, machine: &Machine) -> Option<u8> {
    match selector {
        Selector::Id(id) => (machine.id == id.as_str()).then_some(0),
        Selector::Tag { .. } => Some(0),
        Selector::Address(address) => {
            let own = machine.address.as_ref()?.parse();
            (own == Ok(*address)).then_some(0)
        }
        Selector::Name(name) => rank_name(name, machine),
    }
}

fn rank_name(name: &str, machine: &Machine) -> Option<u8> {
    if machine.name.as_deref() == Some(name) {
        return Some(0);
    }
    let full = [&machine.computer_name, &machine.dns_name];
    let full: Vec<_> = full.into_iter().flatten().collect();
    if full.iter().any(|full| full.eq_ignore_ascii_case(name)) {
        return Some(1);
    }
    let first_label = |full: &&String| {
        let label = full.split('.').next().unwrap_or_default();
        label.eq_ignore_ascii_case(name)
    };
    full.iter().any(first_label).then_some(2)
}

/// The machine in a list of candidates.
fn describe(machine: &Machine) -> String {
    let mut words: Vec<String> = Vec::new();
    words.extend(machine.name.as_deref().map(printable));
    words.extend(machine.address.as_deref().map(printable));
    words.push(
        match (machine.ping, &machine.state) {
            _ if machine.is_online() => "online",
            (Some(_), _) => "offline",
            (None, Some(state)) => state,
            (None, None) => "not managed",
        }
        .to_owned(),
    );
    format!("{} ({})", machine.id, words.join(", "))
}

fn of_account(account: &Option<String>) -> String {
    let account = account.as_deref().map(printable);
    account.map_or_else(String::new, |account| format!(" of account {account}"))
}

fn since(last_ping: Option<(Duration, SystemTime)>) -> String {
    let Some((ago, at)) = last_ping else {
        return String::new();
    };
    format!(
        ": its agent was last heard of {} ago ({})",
        roughly(ago),
        timestamp(at)
    )
}

/// A time span as people say it: in its largest unit of which there are two.
pub fn roughly(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A time as RFC 3339 has it, in UTC and whole seconds.
pub fn timestamp(at: SystemTime) -> String {
    DateTime::from_secs(DateTime::from(at).secs())
        .fmt(Format::DateTime)
        .unwrap_or_else(|_| "long ago".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::machine::Ping;
    use super::*;

    fn machine(id: &str, name: &str, ping: Ping) -> Machine {
        Machine {
            name: Some(name.into()),
            ping: Some(ping),
            address: Some("10.0.0.7".into()),
            ..Machine::unknown(id)
        }
    }

    fn meant(wanted: &str, machines: &[Machine]) -> Result<String, Error> {
        let found = find(wanted, &Selector::parse(wanted), machines, "eu-west-1");
        found.map(|machine| machine.id.clone())
    }

    #[test]
    fn a_name_is_looked_for_where_it_means_most() {
        let mut by_computer = machine("i-2", "db", Ping::Online);
        by_computer.computer_name = Some("WEB.example.com".into());
        let mut by_dns = machine("i-3", "x", Ping::Online);
        by_dns.dns_name = Some("ip-10-0-0-8.ec2.internal".into());
        by_dns.address = Some("10.0.0.8".into());
        let machines = [
            by_computer,
            by_dns,
            machine("i-1", "web", Ping::ConnectionLost),
        ];
        for (wanted, id) in [
            ("web", "i-1"),
            ("web.EXAMPLE.com", "i-2"),
            ("WEB", "i-2"),
            ("db", "i-2"),
            ("ip-10-0-0-8", "i-3"),
            ("ip-10-0-0-8.ec2.internal", "i-3"),
            ("10.0.0.8", "i-3"),
        ] {
            assert_eq!(meant(wanted, &machines).unwrap(), id, "{wanted}");
        }
        for none in ["we", "", "10.0.0.9", "i-0123456789abcdef0"] {
            assert!(
                matches!(meant(none, &machines), Err(Error::Unknown { .. })),
                "{none}"
            );
        }
    }

    #[test]
    fn the_only_one_online_is_meant() {
        let old = machine("i-1", "web", Ping::ConnectionLost);
        let new = machine("i-2", "web", Ping::Online);
        assert_eq!(meant("web", &[old.clone(), new.clone()]).unwrap(), "i-2");
        let error = meant("web", &[old.clone(), old]).unwrap_err();
        assert!(error.to_string().contains("2 machines"));
        let many = vec![new; 12];
        let error = meant("web", &many).unwrap_err();
        assert_eq!(error.to_string(), "`web` means 12 machines");
        let hint = error.hint().unwrap();
        assert!(
            hint.starts_with("name one by its id: i-2 (web, 10.0.0.7, online), "),
            "{hint}"
        );
        assert!(hint.ends_with(", and 2 more"), "{hint}");
    }

    #[test]
    fn times_are_told_both_ways() {
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        let told = |seconds| since(Some((Duration::from_secs(seconds), at)));
        assert_eq!(
            told(5),
            ": its agent was last heard of 5 s ago (2023-11-14T22:13:20Z)"
        );
        assert!(told(7199).contains("119 min ago"));
        assert!(told(7200).contains("2 h ago"));
        assert!(told(172_800).contains("2 days ago"));
        assert_eq!(since(None), "");
    }
}
