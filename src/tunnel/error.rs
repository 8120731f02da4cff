//! Why there is no tunnel, or no stream in it.

use thiserror::Error;

use crate::smux;
use crate::ssm::{self, Disposition, api};

/// How to bring the agent of `target` up to date, for whoever administers it; `flags` are those of
/// [`Ssm::flags`](ssm::Ssm::flags).
pub(crate) fn update(target: &str, flags: &str) -> String {
    if !(target.starts_with("i-") || target.starts_with("mi-")) {
        return "update the agent: it came with the image, or with what runs the container"
            .to_owned();
    }
    format!(
        "update the agent: aws ssm send-command --document-name AWS-UpdateSSMAgent --instance-ids {target}{flags}"
    )
}

/// Why there is no tunnel, or no stream in it.
#[derive(Debug, Error)]
pub enum Error {
    /// The SSM session could not be started.
    #[error("cannot reach {target}")]
    Session {
        /// The managed machine.
        target: String,
        /// What commands are told to find it; see [`Ssm::flags`](ssm::Ssm::flags).
        flags: String,
        /// Why not.
        #[source]
        source: ssm::Error,
    },
    /// The target is out of the service's reach, and it is known why.
    #[error("{cause}")]
    Absent {
        /// What is known of it.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
        /// What a person can do about it.
        hint: Option<String>,
    },
    /// The agent is from before sessions could lead to a port.
    #[error("the SSM agent on {target} is too old: before 2.3.672.0 it connects to no port")]
    AgentTooOld {
        /// The managed machine.
        target: String,
        /// What commands are told to find it.
        flags: String,
    },
    /// The agent is from before sessions could carry several streams, and a session for one could not be
    /// started.
    #[error(
        "cannot reach {target} with a session for each connection, as its SSM agent ({version}) needs"
    )]
    Single {
        /// The managed machine.
        target: String,
        /// The agent's version.
        version: String,
        /// What commands are told to find it.
        flags: String,
        /// Why not.
        #[source]
        source: ssm::Error,
    },
    /// The tunnel is gone.
    #[error("the tunnel to {target} was lost")]
    Lost {
        /// The managed machine.
        target: String,
        /// How.
        #[source]
        source: smux::Error,
    },
}

impl Error {
    /// A failed start; tells agents that know no ports by their own words, since nothing else names them.
    pub(super) fn start(target: &str, flags: String, source: ssm::Error) -> Self {
        let target = target.to_owned();
        match &source {
            ssm::Error::Closed(text) if text.contains("Plugin with name Port is not supported") => {
                Self::AgentTooOld { target, flags }
            }
            _ => Self::Session {
                target,
                flags,
                source,
            },
        }
    }

    /// Whether waiting cannot heal it: somebody has to change something.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Session { source, .. } | Self::Single { source, .. } => match source {
                ssm::Error::Api(error) => {
                    error.is_credentials()
                        || error.disposition() == Disposition::Fatal
                        || matches!(error, api::Error::TargetNotConnected(_))
                }
                other => other.disposition() == Disposition::Fatal,
            },
            Self::Absent { .. } | Self::AgentTooOld { .. } => true,
            Self::Lost { .. } => false,
        }
    }

    /// Whether the target is known to be out of the service's reach for now. It may be starting up.
    pub fn is_offline(&self) -> bool {
        match self {
            Self::Absent { .. } => true,
            Self::Session { source, .. } | Self::Single { source, .. } => {
                matches!(source, ssm::Error::Api(api::Error::TargetNotConnected(_)))
            }
            _ => false,
        }
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Session { flags, source, .. } => hint_of(source, flags),
            Self::Absent { hint, .. } => hint.clone(),
            Self::AgentTooOld { target, flags } => Some(update(target, flags)),
            Self::Single {
                target,
                flags,
                source,
                ..
            } => match source {
                ssm::Error::Api(api::Error::AccessDenied { .. }) => Some(format!(
                    "allow ssm:StartSession with the document AWS-StartSSHSession, or {}",
                    update(target, flags)
                )),
                other => hint_of(other, flags),
            },
            Self::Lost { .. } => None,
        }
    }
}

fn hint_of(error: &ssm::Error, flags: &str) -> Option<String> {
    match error {
        ssm::Error::Closed(_) => Some(format!(
            "`aws ssm describe-sessions --state History{flags}` may tell more"
        )),
        other => other.hint().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_without_ports_is_told_by_its_words() {
        let words = "Plugin with name Port is not supported by this version of ssm agent, please update to latest \
                     version. Step name: Port";
        let start = |words: &str| {
            let source = ssm::Error::Closed(words.to_owned());
            Error::start("i-1", " --region eu-west-1".to_owned(), source)
        };
        let error = start(words);
        assert!(matches!(error, Error::AgentTooOld { .. }), "{error:?}");
        assert!(error.is_final());
        assert!(error.hint().is_some_and(|hint| {
            hint.ends_with("AWS-UpdateSSMAgent --instance-ids i-1 --region eu-west-1")
        }));
        let error = start("by the administrator");
        assert!(matches!(error, Error::Session { .. }), "{error:?}");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("History --region eu-west-1"))
        );
        assert!(!update("ecs:prod_0f3e_0f3e-1", "").contains("aws "));
    }
}
