//! What a client logs in with.

mod certificate;
mod error;
mod identity;
mod locked;
mod pem;
mod sign;

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use russh::keys::ssh_key::public::KeyData;
use russh::keys::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

pub use self::certificate::{CertificateFile, load_certificate};
pub use self::error::LoadError;
pub use self::identity::load_identity;
pub use self::locked::LockedKey;
pub(crate) use self::sign::sign;
use super::person::Person;

/// Something to log in with. Offered in the order of the list it is in.
#[derive(Clone)]
pub enum Credential {
    /// A private key, and the certificate to present in place of its public key.
    Key {
        /// The key, decrypted.
        key: Arc<PrivateKey>,
        /// A user certificate of the key.
        certificate: Option<CertificateFile>,
        /// What to call it in messages, such as the path of its file.
        label: String,
    },
    /// A private key whose passphrase is asked for when a server wants the key.
    Locked {
        /// The key.
        key: Arc<LockedKey>,
        /// A user certificate of the key.
        certificate: Option<CertificateFile>,
        /// What to call it in messages.
        label: String,
    },
    /// Keys of an ssh-agent.
    Agent(AgentKeys),
    /// A key made for one login, which somebody has the server accept for a while.
    Ephemeral(Arc<dyn Authorize>),
    /// A password.
    Password(Arc<Zeroizing<String>>),
    /// Somebody who knows a password or answers keyboard-interactive questions.
    Person(Arc<Person>),
}

/// All keys of an ssh-agent, or one of them.
#[derive(Clone)]
pub struct AgentKeys {
    pub(super) socket: PathBuf,
    pub(super) only: Option<KeyData>,
    pub(super) certificate: Option<CertificateFile>,
}

impl AgentKeys {
    /// The keys of the agent at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            only: None,
            certificate: None,
        }
    }

    /// The keys of the agent that the environment names (`SSH_AUTH_SOCK`), if it names one.
    pub fn of_environment() -> Option<Self> {
        let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty())?;
        Some(Self::new(socket))
    }

    /// `key` only, and certificates of it that the agent may hold.
    #[must_use]
    pub fn only(mut self, key: &PublicKey) -> Self {
        self.only = Some(key.key_data().clone());
        self
    }

    /// The key of `certificate` only, presented by that certificate, which the agent need not hold.
    #[must_use]
    pub fn certified(mut self, certificate: CertificateFile) -> Self {
        self.only = Some(certificate.public_key().clone());
        self.certificate = Some(certificate);
        self
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Puts the certificate of the file `path` among `credentials`, before the key that it is for: a key
/// file of the list, or otherwise one of the agent of the environment.
///
/// # Errors
/// A [`LoadError`] when the file is no certificate, or there is neither its key nor an agent.
pub fn certify(credentials: &mut Vec<Credential>, path: &Path) -> Result<(), LoadError> {
    let certificate = load_certificate(path)?;
    let is_its_key = |key: &PublicKey| key.key_data() == certificate.public_key();
    let certified = credentials.iter().enumerate().find_map(|(at, credential)| {
        let certificate = Some(certificate.clone());
        let label = path.display().to_string();
        let certified = match credential {
            Credential::Key { key, .. } if is_its_key(key.public_key()) => Credential::Key {
                key: Arc::clone(key),
                certificate,
                label,
            },
            Credential::Locked { key, .. } if key.public().is_some_and(is_its_key) => {
                Credential::Locked {
                    key: Arc::clone(key),
                    certificate,
                    label,
                }
            }
            _ => return None,
        };
        Some((at, certified))
    });
    match (certified, AgentKeys::of_environment()) {
        (Some((at, certified)), _) => credentials.insert(at, certified),
        (None, Some(agent)) => {
            credentials.insert(0, Credential::Agent(agent.certified(certificate)));
        }
        (None, None) => {
            return Err(LoadError::KeyMissing {
                path: path.to_owned(),
            });
        }
    }
    Ok(())
}

impl Credential {
    /// Whether it takes somebody who knows what to answer.
    pub fn is_person(&self) -> bool {
        matches!(self, Self::Person(_))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |f: &mut fmt::Formatter<'_>, name, label: &str, is_certified| {
            f.debug_struct(name)
                .field("label", &label)
                .field("certificate", &is_certified)
                .finish_non_exhaustive()
        };
        match self {
            Self::Key {
                certificate, label, ..
            } => key(f, "Key", label, certificate.is_some()),
            Self::Locked {
                certificate, label, ..
            } => key(f, "Locked", label, certificate.is_some()),
            Self::Agent(agent) => f
                .debug_struct("Agent")
                .field("socket", &agent.socket)
                .field("only", &agent.only.is_some())
                .field("certificate", &agent.certificate.is_some())
                .finish_non_exhaustive(),
            Self::Ephemeral(authorize) => {
                f.debug_tuple("Ephemeral").field(&authorize.name()).finish()
            }
            Self::Password(_) => f.write_str("Password([redacted])"),
            Self::Person(_) => f.write_str("Person"),
        }
    }
}

/// Has a server accept a key for the time of a login.
///
/// It is asked when the key's turn has come, after what stands before it was refused. The time it takes
/// does not count against the deadline of the login.
pub trait Authorize: Send + Sync {
    /// What to call its keys in messages.
    fn name(&self) -> &str;

    /// Has `key` accepted for `user`; false when that is not possible, of which somebody has been told.
    fn authorize<'a>(&'a self, user: &'a str, key: &'a PublicKey) -> Authorized<'a>;

    /// Has a person asked for what it takes to authorize, if it takes one. Called before, but only while somebody waits
    /// for the login.
    fn prepare(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// The answer of an [`Authorize`].
pub type Authorized<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

#[cfg(test)]
#[path = "credential_tests.rs"]
mod tests;
