//! Whether the server is the one we mean to talk to.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::auth::CertificateFault;
use super::host_key::Algorithm;
use super::known_hosts::{fingerprint, key_type};
use super::transport::algorithm::Named as _;

/// Decides on the host key that a server has proved to hold.
pub trait HostKeyVerifier: Send + Sync {
    /// Accepts or refuses the public key or certificate `blob` (its form on the wire).
    ///
    /// Called once for each connection, from its task: it may read a small file and must not
    /// wait for anybody.
    ///
    /// # Errors
    /// A [`HostKeyError`] ends the connection before anything was sent to that server.
    fn verify(&self, blob: &[u8]) -> Result<(), HostKeyError>;

    /// Algorithms of the keys expected, the best first, which are then preferred in the
    /// negotiation; empty when any will do.
    fn expected_algorithms(&self) -> Vec<Algorithm> {
        Vec::new()
    }
}

/// Why a host key is not accepted. Fingerprints are in the form that ssh-keygen prints.
#[derive(Debug, Error)]
pub enum HostKeyError {
    /// No key is known, and new ones are not accepted.
    #[error("the host key of {name} is not known (it is {algorithm} {fingerprint})")]
    Unknown {
        /// The name under which the key was looked up.
        name: String,
        /// Its key type.
        algorithm: String,
        /// Its fingerprint.
        fingerprint: String,
        /// The file it would be in.
        file: Option<PathBuf>,
    },
    /// Another key is known: somebody may be in between, or the machine was set up anew.
    #[error(
        "the host key of {name} has changed: it is {fingerprint}, but {file}:{line} has {known}",
        file = .file.display()
    )]
    Changed {
        /// The name under which the key was looked up.
        name: String,
        /// The fingerprint of the key presented.
        fingerprint: String,
        /// The fingerprint of the key known.
        known: String,
        /// The file that has it.
        file: PathBuf,
        /// Its line, counted from one.
        line: usize,
        /// The command that makes all files forget the host.
        remedy: Box<str>,
    },
    /// A trusted authority certified the key in a way that does not count.
    #[error(
        "the certificate of {name} by the authority of {file}:{line} is not accepted",
        file = .file.display()
    )]
    BadCertificate {
        /// The name under which the key was looked up.
        name: String,
        /// The file that trusts the authority.
        file: PathBuf,
        /// Its line, counted from one.
        line: usize,
        /// What is wrong.
        #[source]
        fault: CertificateFault,
    },
    /// A trusted authority certified the key for other hosts.
    #[error(
        "the certificate by the authority of {file}:{line} is not for {name}, but for: {principals}",
        file = .file.display()
    )]
    OtherPrincipals {
        /// The name under which the key was looked up.
        name: String,
        /// The hosts that it is for, as they are listed in it.
        principals: String,
        /// The file that trusts the authority.
        file: PathBuf,
        /// Its line, counted from one.
        line: usize,
    },
    /// The key is marked as revoked.
    #[error("the host key {fingerprint} of {name} is revoked by {file}:{line}", file = .file.display())]
    Revoked {
        /// The name under which the key was looked up.
        name: String,
        /// The fingerprint of the key presented.
        fingerprint: String,
        /// The file that says so.
        file: PathBuf,
        /// Its line, counted from one.
        line: usize,
    },
    /// The key is not the one that is pinned.
    #[error("the host key is {fingerprint}, not the {pinned} that is pinned")]
    NotPinned {
        /// The fingerprint of the key presented.
        fingerprint: String,
        /// The fingerprint of the key pinned.
        pinned: String,
    },
    /// The key presented cannot be parsed.
    #[error("the host key is malformed")]
    Malformed,
    /// The name cannot be written into a known_hosts file.
    #[error("`{name}` cannot be a name in a known_hosts file")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// A known_hosts file cannot be read or written.
    #[error("known hosts file {file}", file = .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl HostKeyError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown {
                name,
                file: Some(file),
                ..
            } => Some(format!(
                "if the fingerprint is right, accept it once with accept-new, or add a line for \
                 `{name}` to {}",
                file.display()
            )),
            Self::Changed { remedy, .. } => Some(format!(
                "if the machine was set up anew, accept its key with: {remedy}"
            )),
            Self::BadCertificate { fault, .. } => Some(
                match fault {
                    CertificateFault::Expired | CertificateFault::NotYetValid => {
                        "check the clock of this machine, or have the host's key certified anew"
                    }
                    _ => "have the host's key certified anew",
                }
                .to_owned(),
            ),
            Self::OtherPrincipals { name, .. } => Some(format!(
                "have the host's key certified for it: ssh-keygen -s CA -h -I ID -n {name} KEY.pub"
            )),
            Self::Revoked { .. } | Self::NotPinned { .. } => {
                Some("do not connect; ask whoever runs the machine".to_owned())
            }
            Self::File { file, .. } => {
                Some(format!("check the owner and mode of {}", file.display()))
            }
            Self::Unknown { .. } | Self::Malformed | Self::InvalidName { .. } => None,
        }
    }
}

/// Accepts one host key only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedKey {
    blob: Vec<u8>,
}

impl PinnedKey {
    /// Accepts the key `blob` only.
    pub fn new(blob: impl Into<Vec<u8>>) -> Self {
        Self { blob: blob.into() }
    }
}

impl HostKeyVerifier for PinnedKey {
    fn verify(&self, blob: &[u8]) -> Result<(), HostKeyError> {
        if blob == self.blob {
            return Ok(());
        }
        Err(HostKeyError::NotPinned {
            fingerprint: fingerprint(blob),
            pinned: fingerprint(&self.blob),
        })
    }

    fn expected_algorithms(&self) -> Vec<Algorithm> {
        key_type(&self.blob).map(algorithms_of).unwrap_or_default()
    }
}

/// The algorithms of keys, or certificates, of the type `key_type`: several for RSA.
pub(super) fn algorithms_of(key_type: &str) -> Vec<Algorithm> {
    let is_of_type = |algorithm: &Algorithm| {
        let name = algorithm.name();
        let rsa = ["rsa-sha2-512", "rsa-sha2-256"]
            .iter()
            .find_map(|scheme| name.strip_prefix(scheme));
        match rsa {
            Some(suffix) => key_type.strip_prefix("ssh-rsa") == Some(suffix),
            None => name == key_type,
        }
    };
    Algorithm::ALL.iter().copied().filter(is_of_type).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pinned_key_is_accepted() {
        let verifier = PinnedKey::new(*b"one");
        assert!(verifier.verify(b"one").is_ok());
        let error = verifier.verify(b"two").unwrap_err();
        assert!(error.to_string().contains("SHA256:"), "{error}");
    }

    #[test]
    fn each_key_type_has_its_algorithms() {
        let names = |key_type| -> Vec<_> {
            let algorithms = algorithms_of(key_type).into_iter();
            algorithms.map(|algorithm| algorithm.name()).collect()
        };
        assert_eq!(names("ssh-ed25519"), ["ssh-ed25519"]);
        assert_eq!(names("ssh-rsa"), ["rsa-sha2-512", "rsa-sha2-256"]);
        assert_eq!(
            names("ssh-rsa-cert-v01@openssh.com"),
            [
                "rsa-sha2-512-cert-v01@openssh.com",
                "rsa-sha2-256-cert-v01@openssh.com"
            ]
        );
        assert_eq!(names("ssh-dss"), [""; 0]);
    }
}
