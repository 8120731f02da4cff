//! Why a login name leads nowhere, and how its client is told.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::report::one_line;
use crate::server::Refusal;
use crate::target;

/// Machines online that somebody is told of who has named none of them.
const TOLD: usize = 10;

/// Why there is no way to a target. Cheap to clone: everybody who waits is told.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// There is a `+` and nothing behind it, or no name at all.
    #[error("no target is named")]
    Nameless,
    /// No machine answers to the name.
    #[error("{source}")]
    Unknown {
        /// What was looked for, and where.
        source: Arc<target::Error>,
        /// The machines that are online there, described.
        online: Vec<String>,
    },
    /// It cannot be reached, or not as it is configured.
    #[error("{0}")]
    Setup(#[source] Arc<super::super::Error>),
    /// AWS does not answer in time.
    #[error("AWS has not told within {} s which machine that is", after.as_secs())]
    Late {
        /// How long it was waited for.
        after: Duration,
    },
    /// Somebody was asked for a code that the credentials take, and has not answered yet.
    #[error("waiting for an answer on the daemon's terminal")]
    Unanswered,
    /// As many targets as there may be are in use.
    #[error("too many targets are in use at the same time")]
    TooMany,
    /// As many ways to log in at the target as there may be are in use.
    #[error("too many users of that target are logged in at the same time")]
    TooManyLogins,
    /// There is one target, and it is another one.
    #[error("the demo has one machine, {id}")]
    OnlyOne {
        /// The one there is.
        id: String,
    },
    /// The daemon is stopping.
    #[error("ssmshim is stopping")]
    Stopping,
}

impl From<super::super::Error> for Error {
    fn from(error: super::super::Error) -> Self {
        Self::Setup(Arc::new(error))
    }
}

impl Error {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Nameless => Some(
                "log in as TARGET or USER+TARGET: an alias of the configuration, an id, a name"
                    .into(),
            ),
            Self::Unknown { source, .. } => source.hint(),
            Self::Setup(error) => error.hint(),
            Self::Late { .. } => {
                Some("try again; `ssmshim targets` shows whether AWS answers".into())
            }
            Self::Unanswered => {
                Some("type it where `ssmshim serve` runs, and connect again".into())
            }
            Self::TooMany => Some("close connections to some, and try again".into()),
            Self::TooManyLogins => Some("close connections of some, and try again".into()),
            Self::OnlyOne { .. } => Some(
                "a login name without a `+` leads there; `ssmshim serve` reaches machines in AWS"
                    .into(),
            ),
            Self::Stopping => None,
        }
    }

    /// What its client is told, who may as well know the `aliases`.
    pub(super) fn refusal<'a>(&self, aliases: impl Iterator<Item = &'a str>) -> Refusal {
        let reason = one_line(self);
        let mut lines = vec![format!("ssmshim: {reason}")];
        lines.extend(self.hint().map(|hint| format!("hint: {hint}")));
        let aliases: Vec<_> = aliases.map(str::to_owned).collect();
        lines.extend(listed("aliases", &aliases));
        if let Self::Unknown { online, .. } = self {
            lines.extend(listed("online", online));
        }
        let lines = lines.iter().map(|line| line.replace(char::is_control, " "));
        Refusal {
            banner: lines.map(|line| line + "\r\n").collect(),
            reason,
        }
    }
}

/// `what: a, b, and 3 more`, unless there is nothing.
fn listed(what: &str, words: &[String]) -> Option<String> {
    let told = words.get(..TOLD).unwrap_or(words);
    if told.is_empty() {
        return None;
    }
    let more = match words.len() - told.len() {
        0 => String::new(),
        more => format!(", and {more} more: `ssmshim targets`"),
    };
    Some(format!("{what}: {}{more}", told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_what_there_is() {
        let error = Error::Unknown {
            source: Arc::new(target::Error::Unknown {
                wanted: "we\u{1b}[2Jb".into(),
                region: "eu-west-1".into(),
                account: None,
                flags: String::new(),
            }),
            online: (0..12).map(|n| format!("i-{n} (a\nb)")).collect(),
        };
        let refusal = error.refusal(["db", "app\r"].into_iter());
        assert_eq!(refusal.reason, "no machine `we?[2Jb` in eu-west-1");
        let lines: Vec<_> = refusal.banner.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!(lines[0], "ssmshim: no machine `we?[2Jb` in eu-west-1");
        assert!(
            lines[1].starts_with("hint: `ssmshim targets` lists"),
            "{lines:?}"
        );
        assert_eq!(lines[2], "aliases: db, app ");
        assert!(
            lines[3].starts_with("online: i-0 (a b), i-1 (a b), "),
            "{lines:?}"
        );
        assert!(
            lines[3].ends_with("i-9 (a b), and 2 more: `ssmshim targets`"),
            "{lines:?}"
        );
        assert!(
            !refusal
                .banner
                .replace("\r\n", "")
                .contains(char::is_control)
        );
    }

    #[test]
    fn nothing_is_not_listed() {
        let refusal = Error::Stopping.refusal(std::iter::empty());
        assert_eq!(refusal.banner, "ssmshim: ssmshim is stopping\r\n");
    }
}
