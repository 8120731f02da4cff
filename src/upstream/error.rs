//! Why there is no transport.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::report::one_line;
use crate::ssh::{self, transport};
use crate::tunnel;

/// Why there is no transport. Cheap to clone: every client that waits is told.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The tunnel could not be dialled, or a stream of it not opened.
    #[error("{0}")]
    Tunnel(#[source] Arc<tunnel::Error>),
    /// Nothing listens on the port.
    #[error("nothing listens on port {port} of {target}")]
    NoSshd {
        /// The target.
        target: String,
        /// The port that was tried.
        port: u16,
    },
    /// The SSH handshake or the authentication failed.
    #[error("cannot log in to {target}")]
    Login {
        /// The target.
        target: String,
        /// What went wrong.
        #[source]
        source: Arc<ssh::Error>,
    },
    /// The tunnel, or its link, was lost and is not back yet.
    #[error(
        "the connection to {target} was lost {} s ago and is being {}: {reason}",
        gone.as_secs(),
        if *.is_resuming { "resumed" } else { "made anew" }
    )]
    Away {
        /// The target.
        target: String,
        /// For how long.
        gone: Duration,
        /// Whether what was open then may still go on.
        is_resuming: bool,
        /// What was wrong with the last attempt, or else how it was lost.
        reason: String,
        /// What a person can do about it.
        hint: Option<String>,
    },
    /// There is a link, but nobody answers at its other end.
    #[error("the SSM agent on {target} has not answered for {} s", lasted.as_secs())]
    Silent {
        /// The target.
        target: String,
        /// For how long.
        lasted: Duration,
    },
    /// The tunnel is being dialled, and did not come up in time.
    #[error("no connection to the target within {} s", held.as_secs())]
    HeldTooLong {
        /// How long it was waited for.
        held: Duration,
    },
    /// Somebody was asked for a password, a code or the like, and has not answered yet.
    #[error("waiting for an answer on the daemon's terminal")]
    Unanswered,
    /// The daemon is stopping.
    #[error("ssmshim is stopping")]
    Stopped,
}

impl From<tunnel::Error> for Error {
    fn from(error: tunnel::Error) -> Self {
        Self::Tunnel(Arc::new(error))
    }
}

impl Error {
    /// Whether waiting cannot heal it: somebody has to change something.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Tunnel(error) => error.is_final(),
            Self::Login { source, .. } => {
                let is_refusal = matches!(**source, ssh::Error::AuthenticationFailed(_));
                is_refusal || is_about_server(source)
            }
            Self::NoSshd { .. }
            | Self::Away { .. }
            | Self::Silent { .. }
            | Self::HeldTooLong { .. }
            | Self::Unanswered => false,
            Self::Stopped => true,
        }
    }

    /// Whether the login needs somebody, and nobody was asked because nobody waits for it.
    pub fn needs_person(&self) -> bool {
        matches!(self, Self::Login { source, .. } if matches!(
            &**source,
            ssh::Error::AuthenticationFailed(failed) if failed.needs_person()
        ))
    }

    /// Whether a login that nobody waits for would end the same way: nobody could have answered for it.
    pub(super) fn befalls_all(&self) -> bool {
        let Self::Login { source, .. } = self else {
            return false;
        };
        match &**source {
            ssh::Error::AuthenticationFailed(failed) => !failed.takes_answers(),
            error => is_about_server(error),
        }
    }

    /// Whether the target is known to be out of the service's reach for now. It may be starting up.
    pub fn is_offline(&self) -> bool {
        matches!(self, Self::Tunnel(error) if error.is_offline())
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tunnel(error) => error.hint(),
            Self::NoSshd { .. } => Some(
                "start sshd there (`systemctl start sshd`), or name its port with --ssh-port"
                    .into(),
            ),
            Self::Login { source, .. } => source.hint(),
            Self::Away { hint, .. } => hint.clone(),
            Self::Silent { .. } => Some(
                "see there whether amazon-ssm-agent is alive (`systemctl status amazon-ssm-agent`) and the machine \
                 is not overloaded; after two minutes another session is tried"
                    .into(),
            ),
            Self::HeldTooLong { .. } => {
                Some("see what the daemon says; --hold SECONDS waits longer".into())
            }
            Self::Unanswered => Some(
                "type it where `ssmshim serve` runs, and connect again; --hold SECONDS waits longer"
                    .into(),
            ),
            Self::Stopped => None,
        }
    }

    /// What the person at the client is told: cause and remedy on one line.
    pub fn for_client(&self) -> String {
        let mut text = format!("ssmshim: {}", one_line(self));
        if let Some(hint) = self.hint() {
            text.push_str(" (hint: ");
            text.push_str(&hint);
            text.push(')');
        }
        text
    }
}

/// Whether the server is one that nobody will be let in by, whoever it may be: another one than is known, or none that we
/// can speak with. An sshd that is just starting says nothing instead.
fn is_about_server(error: &ssh::Error) -> bool {
    use transport::Error::{NoCommonAlgorithm, NotSsh, UnsupportedVersion};
    matches!(
        error,
        ssh::Error::HostKey(_)
            | ssh::Error::Transport(
                NoCommonAlgorithm { .. } | NotSsh { .. } | UnsupportedVersion { .. }
            )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::Phase;

    #[test]
    fn a_server_that_is_none_of_ours_is_not_waited_for() {
        let login = |source: ssh::Error| Error::Login {
            target: "i-1".into(),
            source: Arc::new(source),
        };
        for source in [
            transport::Error::NotSsh {
                seen: "HTTP/1.1 400 Bad Request".into(),
            },
            transport::Error::UnsupportedVersion {
                version: "SSH-1.5-antique".into(),
            },
            transport::Error::NoCommonAlgorithm {
                kind: "key exchange",
                offered: "diffie-hellman-group1-sha1".into(),
            },
        ] {
            let error = login(source.into());
            assert!(error.is_final() && error.befalls_all(), "{error:?}");
        }
        // One that has enough clients, or is being started again.
        for source in [
            ssh::Error::TurnedAway {
                said: "Exceeded MaxStartups".into(),
            },
            ssh::Error::ConnectionLost {
                phase: Phase::KeyExchange,
            },
            transport::Error::Corrupt.into(),
        ] {
            let error = login(source);
            assert!(!error.is_final() && !error.befalls_all(), "{error:?}");
        }
    }
}
