//! Key and certificate files (`--identity`, `--certificate`).

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::key::parse_public_key;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{self, Algorithm, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::certificate::{CertificateFile, load_certificate};
use super::error::LoadError;
use super::locked::LockedKey;
use super::{AgentKeys, Credential, pem};
use crate::ssh::person::Answer;

/// Largest key or certificate file read: an RSA key of 16384 bits takes 13 KB.
const MAX_FILE_BYTES: u64 = 128 * 1024;

/// Loads the private key at `path` and, when there is one, the certificate beside it
/// (`PATH-cert.pub`): the certificate comes first, then the plain key.
///
/// Reads the formats of OpenSSH, PEM (PKCS#1, SEC1), PKCS#8 and PuTTY. The passphrase of an
/// encrypted one is asked of `answer` when a server wants the key, not now. A file with only a
/// public key or certificate, and a missing one with a public key beside it (`PATH.pub`), stand for
/// that key in the agent of the environment, and so does the handle of a security key.
///
/// # Errors
/// A [`LoadError`] names the file and the cause. A file of ours that others may read is refused,
/// as OpenSSH does.
pub fn load_identity(path: &Path, answer: &Arc<dyn Answer>) -> Result<Vec<Credential>, LoadError> {
    let text = match read_private(path) {
        Ok(text) => text,
        Err(LoadError::Unreadable { path, source }) if source.kind() == io::ErrorKind::NotFound => {
            let Some(public) = public_beside(&path) else {
                return Err(LoadError::Unreadable { path, source });
            };
            return in_agent(&with_suffix(&path, ".pub"), public);
        }
        Err(error) => return Err(error),
    };
    if let Some(public) = public_key_of(&text) {
        return in_agent(path, public);
    }
    match decode(path, &text)? {
        Decoded::Open(key) if is_supported(&key.algorithm()) => {
            with_certificate(path, key.public_key(), |certificate, label| {
                Credential::Key {
                    key: Arc::clone(&key),
                    certificate,
                    label,
                }
            })
        }
        Decoded::Locked(Some(public)) if !is_supported(&public.algorithm()) => {
            handle_in_agent(path, public)
        }
        Decoded::Open(key) => handle_in_agent(path, key.public_key().clone()),
        Decoded::Locked(public) => {
            let key = LockedKey::new(path, text, public, Arc::clone(answer));
            let key = Arc::new(key);
            let locked = |certificate, label| Credential::Locked {
                key: Arc::clone(&key),
                certificate,
                label,
            };
            match key.public() {
                Some(public) => with_certificate(path, public, locked),
                None => Ok(vec![locked(None, path.display().to_string())]),
            }
        }
    }
}

/// What is in a private key file.
enum Decoded {
    Open(Arc<PrivateKey>),
    /// It is encrypted; the public key, where it can be told.
    Locked(Option<PublicKey>),
}

fn decode(path: &Path, text: &str) -> Result<Decoded, LoadError> {
    match pem::encryption(text) {
        pem::Encryption::Unsupported(cipher) => Err(LoadError::UnsupportedEncryption {
            path: path.to_owned(),
            cipher,
        }),
        pem::Encryption::Supported => Ok(Decoded::Locked(
            putty_public_key(text).or_else(|| public_beside(path)),
        )),
        pem::Encryption::None => match keys::decode_secret_key(text, None) {
            Ok(key) => Ok(Decoded::Open(Arc::new(key))),
            // OpenSSH's own format says so inside, beside the public key.
            Err(keys::Error::KeyIsEncrypted) => {
                let key = PrivateKey::from_openssh(text).ok();
                let public = key.map(|key| key.public_key().clone());
                Ok(Decoded::Locked(public.or_else(|| public_beside(path))))
            }
            Err(source) => Err(LoadError::Unknown {
                path: path.to_owned(),
                source: Some(source),
            }),
        },
    }
}

/// Whether signatures with keys of this type can be made here: not with security keys nor DSA.
fn is_supported(algorithm: &Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. }
    )
}

/// The credentials of a key: by the certificate beside it, if there is one, then by itself.
fn with_certificate(
    path: &Path,
    key: &PublicKey,
    credential: impl Fn(Option<CertificateFile>, String) -> Credential,
) -> Result<Vec<Credential>, LoadError> {
    let label = path.display().to_string();
    let certificate = certificate_beside(path, key)?;
    let mut credentials: Vec<_> = certificate
        .map(|certificate| credential(Some(certificate), format!("{label}-cert.pub")))
        .into_iter()
        .collect();
    credentials.push(credential(None, label));
    Ok(credentials)
}

/// The private key of a public one that `path` leads to: it is in the agent.
fn in_agent(path: &Path, public: PublicKey) -> Result<Vec<Credential>, LoadError> {
    let no_agent = || LoadError::NoAgent {
        path: path.to_owned(),
    };
    let agent = AgentKeys::of_environment().ok_or_else(no_agent)?;
    if let KeyData::Certificate(certificate) = public.key_data() {
        let certificate = CertificateFile::new(path, (**certificate).clone());
        return Ok(vec![Credential::Agent(agent.certified(certificate))]);
    }
    let private = match path.extension() {
        Some(extension) if extension == "pub" => path.with_extension(""),
        _ => path.to_owned(),
    };
    with_certificate(&private, &public, |certificate, _| {
        let agent = agent.clone();
        Credential::Agent(match certificate {
            Some(certificate) => agent.certified(certificate),
            None => agent.only(&public),
        })
    })
}

/// A security key, of which the file holds no more than a handle, or another key we cannot use: an
/// agent can.
fn handle_in_agent(path: &Path, public: PublicKey) -> Result<Vec<Credential>, LoadError> {
    let algorithm = public.algorithm().to_string();
    in_agent(path, public).map_err(|error| match error {
        LoadError::NoAgent { path } => LoadError::UnsupportedType { path, algorithm },
        error => error,
    })
}

/// Reads a file that should be private, and checks that it is.
fn read_private(path: &Path) -> Result<Zeroizing<String>, LoadError> {
    let file = std::fs::File::open(path).map_err(|source| unreadable(path, source))?;
    let metadata = file.metadata().map_err(|source| unreadable(path, source))?;
    let text = read_bounded(file).map_err(|source| unreadable(path, source))?;
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

fn unreadable(path: &Path, source: io::Error) -> LoadError {
    LoadError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    read_bounded(std::fs::File::open(path)?)
}

fn read_bounded(file: std::fs::File) -> io::Result<Zeroizing<String>> {
    // Of the full size at once: growing would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE_BYTES as usize));
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The key or certificate of a `.pub` file: type, base64 and a comment on one line.
pub(super) fn public_key_of(text: &str) -> Option<PublicKey> {
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    let blob = STANDARD.decode(line.split_whitespace().nth(1)?).ok()?;
    parse_public_key(&blob).ok()
}

/// The public key that a PuTTY file has in the clear.
fn putty_public_key(text: &str) -> Option<PublicKey> {
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("Public-Lines:"))?;
    let count = count.trim().parse().ok()?;
    let encoded: String = lines.take(count).map(str::trim).collect();
    parse_public_key(&STANDARD.decode(encoded).ok()?).ok()
}

/// The public key in `PATH.pub`, if that is one.
fn public_beside(path: &Path) -> Option<PublicKey> {
    public_key_of(&read(&with_suffix(path, ".pub")).ok()?)
}

fn certificate_beside(path: &Path, key: &PublicKey) -> Result<Option<CertificateFile>, LoadError> {
    let path = with_suffix(path, "-cert.pub");
    let bad = |path: PathBuf| LoadError::BadCertificate { path };
    match load_certificate(&path) {
        Ok(certificate) if certificate.public_key() == key.key_data() => Ok(Some(certificate)),
        Ok(_) | Err(LoadError::NotCertificate { .. }) => Err(bad(path)),
        Err(LoadError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
