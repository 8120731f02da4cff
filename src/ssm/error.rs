//! What can go wrong with an SSM session, and what to do about it.

use std::time::Duration;

use thiserror::Error;

use super::protocol::{data_channel, handshake};
use super::{api, websocket};

/// What recovery an error leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The SSM session may live: try ResumeSession again. Where there is none yet, try again later.
    Resume,
    /// This SSM session is over or never was; a new one may work.
    Redial,
    /// Trying again will not help until a person changes something.
    Fatal,
}

/// Why there is no SSM session, or no more.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An API call failed.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// The WebSocket could not be opened.
    #[error(transparent)]
    WebSocket(#[from] websocket::Error),
    /// The handshake with the agent failed.
    #[error("handshake with the agent failed")]
    Handshake(#[from] handshake::Error),
    /// The agent did not begin or finish the handshake, in any of several SSM sessions.
    #[error(
        "the agent did not answer within {} s{}",
        deadline.as_secs(),
        if *attempts > 1 { format!(", {attempts} times") } else { String::new() }
    )]
    HandshakeTimeout {
        /// How many SSM sessions were tried.
        attempts: u32,
        /// How long each was given.
        deadline: Duration,
    },
    /// The socket was lost before the handshake was complete.
    #[error("the connection was lost during the handshake: {0}")]
    LostInHandshake(String),
    /// So many messages were invalid, without progress, that the stream cannot go on.
    #[error("the stream of the SSM session is damaged: {count} invalid messages without progress")]
    Damaged {
        /// How many there were.
        count: u32,
        /// What was wrong with the last of them.
        #[source]
        last: data_channel::Error,
    },
    /// The agent has acknowledged nothing and said nothing, over a socket that lived.
    #[error("the SSM agent has not answered for {} s", lasted.as_secs())]
    Silent {
        /// For how long.
        lasted: Duration,
    },
    /// The service ended the SSM session; the text is the service's or the agent's.
    #[error("the SSM session was closed{}", said(.0))]
    Closed(String),
    /// We ended the SSM session.
    #[error("the SSM session was terminated")]
    Terminated,
}

impl Error {
    /// What recovery is left.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Api(error) => error.disposition(),
            Self::WebSocket(error) => error.disposition(),
            Self::Handshake(handshake::Error::Unsupported(_)) | Self::Terminated => {
                Disposition::Fatal
            }
            Self::Handshake(_)
            | Self::HandshakeTimeout { .. }
            | Self::LostInHandshake(_)
            | Self::Damaged { .. }
            | Self::Silent { .. }
            | Self::Closed(_) => Disposition::Redial,
        }
    }

    /// Whether the service itself has said that the SSM session is over, so that there is nothing to
    /// terminate.
    pub(super) fn is_end_of_session(&self) -> bool {
        matches!(
            self,
            Self::Closed(_) | Self::Api(api::Error::SessionGone(_))
        )
    }

    /// What a person can do about it, if anything is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Api(error) => error.hint(),
            Self::WebSocket(error) => error.hint(),
            Self::Handshake(handshake::Error::Unsupported(_)) => Some(
                "remove the KMS key from the Session Manager preferences, or use a Port document",
            ),
            Self::HandshakeTimeout { .. } | Self::Silent { .. } => {
                Some("see whether amazon-ssm-agent is running and up to date on the target")
            }
            Self::Handshake(_) | Self::LostInHandshake(_) => Some(
                "see whether amazon-ssm-agent is up to date on the target, and what its log says",
            ),
            Self::Damaged { .. } => {
                Some("something between here and the target changes messages; try another network")
            }
            // Where the history is known to be, that may tell more; see the tunnel's hint.
            Self::Closed(_) | Self::Terminated => None,
        }
    }
}

/// An error and its causes in one line, for people who will not see it as an error.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text.push_str(": ");
        text.push_str(&current.to_string());
        cause = current.source();
    }
    text
}

/// A text of the service as part of an error chain, which ends without a full stop.
pub(super) fn without_full_stop(text: &str) -> &str {
    text.trim_end_matches(|c: char| c == '.' || c.is_whitespace())
        .trim_start()
}

fn said(text: &str) -> String {
    match without_full_stop(text) {
        "" => String::new(),
        text => format!(": {}", text.escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_session_quotes_its_reason_safely() {
        assert_eq!(
            Error::Closed("\n".into()).to_string(),
            "the SSM session was closed"
        );
        assert_eq!(
            Error::Closed(" Idle for too long. \n".into()).to_string(),
            "the SSM session was closed: Idle for too long"
        );
        assert_eq!(
            Error::Closed("gone\u{1b}[2J\n".into()).to_string(),
            r"the SSM session was closed: gone\u{1b}[2J"
        );
    }
}
