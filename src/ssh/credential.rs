//! What a client logs in with, and private keys read from files.

use std::fmt;
use std::future::Future;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use russh::keys::key::parse_public_key;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{self, Algorithm, Certificate, PrivateKey, PublicKey};
use thiserror::Error;
use zeroize::Zeroizing;

use super::auth::client::Questions;

/// Largest key or certificate file read: an RSA key of 16384 bits takes 13 KB.
const MAX_FILE_BYTES: u64 = 128 * 1024;
/// Times a passphrase is asked for, as in OpenSSH.
const PASSPHRASE_TRIES: u32 = 3;

/// Something to log in with. Offered in the order of the list it is in.
#[derive(Clone)]
pub enum Credential {
    /// A private key, and the certificate to present in place of its public key.
    Key {
        /// The key, decrypted.
        key: Arc<PrivateKey>,
        /// A user certificate of the key.
        certificate: Option<Arc<Certificate>>,
        /// What to call it in messages, such as the path of its file.
        label: String,
    },
    /// The keys of an ssh-agent.
    Agent {
        /// The agent's socket, usually the value of `SSH_AUTH_SOCK`.
        socket: PathBuf,
        /// The only key to use; all when absent.
        only: Option<Box<PublicKey>>,
    },
    /// A key made for one login, which somebody has the server accept for a while.
    Ephemeral(Arc<dyn Authorize>),
    /// A password.
    Password(Arc<Zeroizing<String>>),
    /// Somebody or something that answers keyboard-interactive questions.
    KeyboardInteractive(Arc<dyn Answer>),
}

impl Credential {
    /// The agent that the environment names, if it names one.
    pub fn agent_of_environment() -> Option<Self> {
        let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty())?;
        Some(Self::Agent {
            socket: PathBuf::from(socket),
            only: None,
        })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key {
                certificate, label, ..
            } => f
                .debug_struct("Key")
                .field("label", label)
                .field("certificate", &certificate.is_some())
                .finish_non_exhaustive(),
            Self::Agent { socket, .. } => f
                .debug_struct("Agent")
                .field("socket", socket)
                .finish_non_exhaustive(),
            Self::Ephemeral(authorize) => {
                f.debug_tuple("Ephemeral").field(&authorize.name()).finish()
            }
            Self::Password(_) => f.write_str("Password([redacted])"),
            Self::KeyboardInteractive(_) => f.write_str("KeyboardInteractive"),
        }
    }
}

/// The answers of an [`Answer`]; `None` gives up.
pub type Answers<'a> = Pin<Box<dyn Future<Output = Option<Vec<Zeroizing<String>>>> + Send + 'a>>;

/// Answers keyboard-interactive questions (RFC 4256).
///
/// The time it takes does not count against the deadline of a login.
pub trait Answer: Send + Sync {
    /// One answer to each of [`Questions::prompts`].
    fn answer<'a>(&'a self, questions: &'a Questions) -> Answers<'a>;
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
}

/// The answer of an [`Authorize`].
pub type Authorized<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

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
    /// The file is encrypted and no passphrase was given.
    #[error("{path} needs a passphrase")]
    PassphraseMissing {
        /// The file.
        path: PathBuf,
    },
    /// The passphrases given do not decrypt the file.
    #[error("wrong passphrase for {path}")]
    WrongPassphrase {
        /// The file.
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
            Self::WrongPassphrase { .. } => None,
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
            Self::PassphraseMissing { path } => Some(format!(
                "run on a terminal, or load the key into ssh-agent with `ssh-add {}`",
                quoted(path)
            )),
            Self::BadCertificate { path } => Some(format!(
                "look at it with `ssh-keygen -L -f {}`, or remove it",
                quoted(path)
            )),
        }
    }
}

/// Loads the private key at `path` and, when there is one, the certificate beside it
/// (`PATH-cert.pub`): the certificate comes first, then the plain key.
///
/// Reads the formats of OpenSSH, PEM (PKCS#1, SEC1), PKCS#8 and PuTTY. `passphrase` is asked at
/// most three times, and only for an encrypted file. A file with only a public key stands for
/// that key in the agent of the environment.
///
/// # Errors
/// A [`LoadError`] names the file and the cause. A file of ours that others may read is refused,
/// as OpenSSH does.
pub fn load_identity(
    path: &Path,
    passphrase: &mut dyn FnMut(&Path) -> Option<Zeroizing<String>>,
) -> Result<Vec<Credential>, LoadError> {
    let text = read_private(path)?;
    if let Some(credential) = public_key_in_agent(&text) {
        return Ok(vec![credential]);
    }
    let key = Arc::new(decode(path, &text, passphrase)?);
    if !can_sign(&key) {
        return Err(LoadError::UnsupportedType {
            path: path.to_owned(),
            algorithm: key.algorithm().to_string(),
        });
    }
    let label = path.display().to_string();
    let mut credentials = Vec::with_capacity(2);
    if let Some(certificate) = certificate_beside(path, &key)? {
        credentials.push(Credential::Key {
            key: Arc::clone(&key),
            certificate: Some(Arc::new(certificate)),
            label: format!("{label}-cert.pub"),
        });
    }
    credentials.push(Credential::Key {
        key,
        certificate: None,
        label,
    });
    Ok(credentials)
}

/// Reads a file that should be private, and checks that it is.
fn read_private(path: &Path) -> Result<Zeroizing<String>, LoadError> {
    let unreadable = |source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let text = read_bounded(file).map_err(unreadable)?;
    // As OpenSSH: only the owner is told off, and a public key may be public.
    let mode = metadata.mode() & 0o7777;
    let is_ours = metadata.uid() == rustix::process::getuid().as_raw();
    let is_private = text.contains("PRIVATE KEY") || text.contains("PuTTY-User-Key-File");
    if is_private && is_ours && mode & 0o077 != 0 {
        return Err(LoadError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(text)
}

fn read_bounded(file: std::fs::File) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn public_key_in_agent(text: &str) -> Option<Credential> {
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    let blob = base64_field(line.split_whitespace().nth(1)?)?;
    let key = parse_public_key(&blob).ok()?;
    match Credential::agent_of_environment()? {
        Credential::Agent { socket, .. } => Some(Credential::Agent {
            socket,
            only: Some(Box::new(key)),
        }),
        _ => None,
    }
}

fn base64_field(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn decode(
    path: &Path,
    text: &str,
    passphrase: &mut dyn FnMut(&Path) -> Option<Zeroizing<String>>,
) -> Result<PrivateKey, LoadError> {
    let unknown = |source| LoadError::Unknown {
        path: path.to_owned(),
        source,
    };
    match encryption(text) {
        Encryption::None => {}
        Encryption::Supported => return decrypt(path, text, passphrase),
        Encryption::Unsupported(cipher) => {
            return Err(LoadError::UnsupportedEncryption {
                path: path.to_owned(),
                cipher,
            });
        }
    }
    match keys::decode_secret_key(text, None) {
        Err(keys::Error::KeyIsEncrypted) => decrypt(path, text, passphrase),
        Err(source) => Err(unknown(Some(source))),
        Ok(key) => Ok(key),
    }
}

fn decrypt(
    path: &Path,
    text: &str,
    passphrase: &mut dyn FnMut(&Path) -> Option<Zeroizing<String>>,
) -> Result<PrivateKey, LoadError> {
    for _ in 0..PASSPHRASE_TRIES {
        let Some(passphrase) = passphrase(path) else {
            return Err(LoadError::PassphraseMissing {
                path: path.to_owned(),
            });
        };
        // The parsers do not tell a wrong passphrase from a damaged file.
        if let Ok(key) = keys::decode_secret_key(text, Some(&passphrase)) {
            return Ok(key);
        }
    }
    Err(LoadError::WrongPassphrase {
        path: path.to_owned(),
    })
}

/// How a key file says that it is encrypted. OpenSSH's own format says so only inside.
enum Encryption {
    None,
    Supported,
    Unsupported(String),
}

fn encryption(text: &str) -> Encryption {
    let header = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim())
    };
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Encryption::Supported;
    }
    if text.starts_with("PuTTY-User-Key-File-") {
        return match header("Encryption:") {
            None | Some("none") => Encryption::None,
            Some(_) => Encryption::Supported,
        };
    }
    let Some(cipher) = header("DEK-Info:").map(|info| info.split(',').next().unwrap_or(info))
    else {
        return Encryption::None;
    };
    // russh decrypts this one only, and takes what is inside for PKCS#1.
    if cipher == "AES-128-CBC" && text.contains("-----BEGIN RSA PRIVATE KEY-----") {
        Encryption::Supported
    } else {
        Encryption::Unsupported(cipher.to_owned())
    }
}

/// Whether signatures with `key` can be made here: not with security keys nor DSA.
fn can_sign(key: &PrivateKey) -> bool {
    matches!(
        key.key_data(),
        KeypairData::Ed25519(_) | KeypairData::Ecdsa(_) | KeypairData::Rsa(_)
    )
}

fn certificate_beside(path: &Path, key: &PrivateKey) -> Result<Option<Certificate>, LoadError> {
    let mut name = path.as_os_str().to_owned();
    name.push("-cert.pub");
    let path = PathBuf::from(name);
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoadError::Unreadable { path, source }),
    };
    let text = match read_bounded(file) {
        Ok(text) => text,
        Err(source) => return Err(LoadError::Unreadable { path, source }),
    };
    let certificate = text
        .split_whitespace()
        .nth(1)
        .and_then(base64_field)
        .and_then(|blob| parse_public_key(&blob).ok())
        .and_then(|key| KeyData::from(key).into_certificate())
        .filter(|certificate| certificate.public_key() == key.public_key().key_data());
    certificate
        .map(Some)
        .ok_or(LoadError::BadCertificate { path })
}

/// Signs `data` with `key` by the algorithm called `algorithm` (its signature name); the result is
/// a signature blob. None when the key does not sign in that way.
pub(crate) fn sign(key: &PrivateKey, algorithm: &str, data: &[u8]) -> Option<Vec<u8>> {
    use russh::keys::signature::Signer as _;
    use russh::keys::ssh_key::Signature;

    let algorithm = Algorithm::new(algorithm).ok()?;
    let signature: Signature = match (key.key_data(), &algorithm) {
        (KeypairData::Rsa(pair), Algorithm::Rsa { hash: Some(hash) }) => {
            (pair, Some(*hash)).try_sign(data).ok()?
        }
        (KeypairData::Rsa(_), _) => return None,
        (pair, _) => pair.try_sign(data).ok()?,
    };
    if signature.algorithm() != algorithm {
        return None;
    }
    Vec::try_from(signature).ok()
}

#[cfg(test)]
#[path = "credential_tests.rs"]
mod tests;
