//! Why a file gives nothing to log in with.

use std::io;
use std::path::{Path, PathBuf};

use russh::keys;
use thiserror::Error;

/// Why a key file gives no credential.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others than the owner can read the file.
    #[error("permissions {mode:04o} of {path} are too open: others could read your private key")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is no private key in a known format.
    #[error("{path} is not a private key in a known format")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: Option<keys::Error>,
    },
    /// The file is encrypted in a way that is not supported.
    #[error("{path} is encrypted with {cipher}, which is not supported")]
    UnsupportedEncryption {
        /// The file.
        path: PathBuf,
        /// The cipher, as the file names it.
        cipher: String,
    },
    /// The key is of a kind that is not used here.
    #[error("{path} holds a key of type {algorithm}, which is not supported")]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The name of the key type.
        algorithm: String,
    },
    /// The file says which key of an agent to use, and there is no agent.
    #[error("{path} is a public key, and there is no ssh-agent that could hold the private one")]
    NoAgent {
        /// The file.
        path: PathBuf,
    },
    /// The file named as a certificate is none.
    #[error("{path} is not an OpenSSH certificate")]
    NotCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The key of the certificate is nowhere.
    #[error("the key of {path} is no identity, and there is no ssh-agent that could hold it")]
    KeyMissing {
        /// The certificate file.
        path: PathBuf,
    },
    /// The certificate beside the key is unusable.
    #[error("{path} is not a certificate of the key beside it")]
    BadCertificate {
        /// The certificate file.
        path: PathBuf,
    },
}

impl LoadError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        let quoted = |path: &Path| format!("'{}'", path.display());
        match self {
            Self::Unreadable { path, .. } => Some(format!(
                "name the private key with --identity; `ls -l {}` shows who may read it",
                quoted(path)
            )),
            Self::TooOpen { path, .. } => Some(format!("chmod 600 {}", quoted(path))),
            Self::Unknown { .. } => {
                Some("OpenSSH, PEM (PKCS#1, SEC1), PKCS#8 and PuTTY files are read".to_owned())
            }
            Self::UnsupportedEncryption { path, .. } => Some(format!(
                "`ssh-keygen -p -f {}` writes it anew in OpenSSH's own format",
                quoted(path)
            )),
            Self::UnsupportedType { .. } => {
                Some("use an Ed25519, ECDSA or RSA key, or load it into ssh-agent".to_owned())
            }
            Self::NoAgent { .. } => Some(
                "start one (`eval $(ssh-agent)`) and `ssh-add` the key, or name the private key"
                    .to_owned(),
            ),
            Self::KeyMissing { .. } => {
                Some("name the private key of the certificate with --identity as well".to_owned())
            }
            Self::NotCertificate { path } | Self::BadCertificate { path } => Some(format!(
                "look at it with `ssh-keygen -L -f {}`, or remove it",
                quoted(path)
            )),
        }
    }
}
