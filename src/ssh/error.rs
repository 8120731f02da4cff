//! Why an SSH connection did not come up or did not last.

use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;

use super::auth::{client, server};
use super::transport;
use super::verifier::HostKeyError;

/// How far a connection had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Versions and keys are exchanged.
    KeyExchange,
    /// The user is authenticated.
    Authentication,
    /// The connection protocol runs.
    Connection,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyExchange => "the SSH key exchange",
            Self::Authentication => "SSH authentication",
            Self::Connection => "the SSH connection",
        })
    }
}

/// Why an SSH connection ended other than by agreement.
#[derive(Debug, Error)]
pub enum Error {
    /// The transport protocol was broken, or nothing is in common.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// The server is not the one we mean, as far as we know.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// Client: the server refused all credentials.
    #[error(transparent)]
    AuthenticationFailed(#[from] Box<client::AuthenticationFailed>),
    /// Client: the server broke the authentication protocol.
    #[error("SSH authentication: {0}")]
    Server(#[source] client::Error),
    /// Server: the client broke the authentication protocol or used its tries up.
    #[error("SSH authentication: {0}")]
    Client(#[source] server::Error),
    /// The other end ended the connection before it was up, and said why.
    #[error("the other end ended {phase}: {description}")]
    Refused {
        /// When.
        phase: Phase,
        /// The reason code ([`transport::reason`]).
        reason: u32,
        /// Its words, free of control characters.
        description: String,
    },
    /// The other end said something, and was gone before it spoke SSH: it is no SSH server, or one that has enough
    /// clients.
    #[error("the other end closed the connection before SSH began, it said: {said}")]
    TurnedAway {
        /// At most 80 printable characters.
        said: String,
    },
    /// The server ended the authentication without an answer, and had said something to the user: that the account has
    /// expired, for example, which PAM tells sshd last.
    #[error("the other end closed the connection during SSH authentication, it said: {said}")]
    SentAway {
        /// At most 200 characters on one line.
        said: String,
    },
    /// The other end went away in the middle of `phase`.
    #[error("connection closed during {phase}")]
    ConnectionLost {
        /// When.
        phase: Phase,
    },
    /// The byte stream below failed.
    #[error("connection failed during {phase}")]
    Io {
        /// When.
        phase: Phase,
        /// What the stream said.
        #[source]
        source: io::Error,
    },
    /// The connection was not up in time.
    #[error("no end to {phase} within {} s", .after.as_secs())]
    TimedOut {
        /// What had not ended.
        phase: Phase,
        /// The time allowed.
        after: Duration,
    },
    /// Something was to be sent on a connection that has ended.
    #[error("the SSH connection has ended")]
    Ended,
}

impl Error {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::HostKey(error) => error.hint(),
            Self::AuthenticationFailed(failed) => Some(failed.hint()),
            Self::ConnectionLost {
                phase: Phase::KeyExchange,
            }
            | Self::TimedOut {
                phase: Phase::KeyExchange,
                ..
            }
            | Self::Transport(transport::Error::NotSsh { .. }) => {
                Some("check that an SSH server listens on that port of the target".to_owned())
            }
            Self::SentAway { .. } => Some(
                "see in the log of the target's sshd why (`journalctl -t sshd`), be it the account or PAM"
                    .to_owned(),
            ),
            Self::TurnedAway { .. } => Some(
                "check that an SSH server listens on that port of the target, and that it does not turn \
                 connections away (MaxStartups, PerSourcePenalties)"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
