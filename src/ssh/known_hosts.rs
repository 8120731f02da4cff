//! Host keys remembered in files of OpenSSH's known_hosts format (sshd(8)).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use russh::keys::Certificate;
use russh::keys::key::parse_public_key;
use russh::keys::ssh_key::public::KeyData;
use tracing::{info, warn};

use super::auth::is_valid_host_certificate;
use super::host_key::Algorithm;
use super::transport::algorithm::Named as _;
use super::verifier::{HostKeyError, HostKeyVerifier, algorithms_of};
use super::wire::Reader;

/// What to do about a host that no file knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Refuse it.
    Yes,
    /// Remember its key, and refuse another one from then on.
    #[default]
    AcceptNew,
    /// Accept any key, even a changed one, and remember nothing. A revoked key is still refused.
    Off,
}

/// Host keys known under one name, which is the target's and not an address.
#[derive(Debug, Clone)]
pub struct KnownHosts {
    files: Vec<PathBuf>,
    name: String,
    mode: Mode,
}

impl KnownHosts {
    /// Looks `name` up in `files`; new keys are added to the first of them. Case does not matter
    /// in names (as in OpenSSH).
    pub fn new(files: Vec<PathBuf>, name: &str, mode: Mode) -> Self {
        Self {
            files,
            name: name.to_ascii_lowercase(),
            mode,
        }
    }

    /// Judges `blob` by the lines of all files.
    fn judge(
        &self,
        lines: &[Known],
        blob: &[u8],
        now: SystemTime,
    ) -> Result<Judgement, HostKeyError> {
        let presented = Presented::parse(blob).ok_or(HostKeyError::Malformed)?;
        let mine = || lines.iter().filter(|known| known.line.names(&self.name));
        let revoked = mine().find(|known| {
            known.line.marker == Some(Marker::Revoked) && presented.involves(&known.line.key)
        });
        if let Some(known) = revoked {
            return Err(HostKeyError::Revoked {
                name: self.name.clone(),
                fingerprint: fingerprint(&presented.key),
                file: known.file.clone(),
                line: known.number,
            });
        }
        let is_certified = presented.certificate.as_ref().is_some_and(|certificate| {
            let trusted = mine().any(|known| {
                known.line.marker == Some(Marker::CertAuthority)
                    && Some(&known.line.key) == presented.authority.as_ref()
            });
            trusted
                && is_valid_host_certificate(certificate, now)
                && names_host(certificate, &self.name)
        });
        let mut plain = mine().filter(|known| known.line.marker.is_none());
        if is_certified || plain.clone().any(|known| known.line.key == presented.key) {
            return Ok(Judgement::Known);
        }
        // A key of another type counts as a change too: the types known were asked for first.
        Ok(match plain.next() {
            Some(known) => Judgement::Other(HostKeyError::Changed {
                name: self.name.clone(),
                fingerprint: fingerprint(&presented.key),
                known: fingerprint(&known.line.key),
                file: known.file.clone(),
                line: known.number,
            }),
            None => Judgement::New(presented.key),
        })
    }

    fn read(&self) -> Result<Vec<Known>, HostKeyError> {
        let mut lines = Vec::new();
        for path in &self.files {
            let text = match std::fs::read(path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(file_error(path, source)),
            };
            lines.extend(parse(path, &text));
        }
        Ok(lines)
    }

    /// Adds `key` to the first file, unless somebody has just added one for the same name.
    fn remember(&self, blob: &[u8], now: SystemTime) -> Result<(), HostKeyError> {
        let Some(path) = self.files.first() else {
            return Ok(());
        };
        if !is_writable_name(&self.name) {
            return Err(HostKeyError::InvalidName {
                name: self.name.clone(),
            });
        }
        let failed = |source| file_error(path, source);
        let mut file = open_for_append(path).map_err(failed)?;
        // Two first connections at once must not accept two different keys.
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| failed(error.into()))?;
        match self.judge(&self.read()?, blob, now)? {
            Judgement::Known => Ok(()),
            Judgement::Other(changed) => Err(changed),
            Judgement::New(key) => {
                let line = format_line(&self.name, &key).ok_or(HostKeyError::Malformed)?;
                append(&mut file, &line).map_err(failed)?;
                info!(
                    name = %self.name,
                    fingerprint = %fingerprint(&key),
                    file = %path.display(),
                    "host key remembered"
                );
                Ok(())
            }
        }
    }
}

impl HostKeyVerifier for KnownHosts {
    fn verify(&self, blob: &[u8]) -> Result<(), HostKeyError> {
        let now = SystemTime::now();
        match (self.judge(&self.read()?, blob, now)?, self.mode) {
            (Judgement::Known, _) => Ok(()),
            (Judgement::Other(changed), Mode::Off) => {
                warn!(%changed, "host key not checked");
                Ok(())
            }
            (Judgement::New(_), Mode::Off) => Ok(()),
            (Judgement::Other(changed), Mode::Yes | Mode::AcceptNew) => Err(changed),
            (Judgement::New(_), Mode::AcceptNew) => self.remember(blob, now),
            (Judgement::New(key), Mode::Yes) => Err(HostKeyError::Unknown {
                name: self.name.clone(),
                algorithm: key_type(&key).unwrap_or("unknown").to_owned(),
                fingerprint: fingerprint(&key),
                file: self.files.first().cloned(),
            }),
        }
    }

    fn expected_algorithms(&self) -> Vec<Algorithm> {
        let lines = self.read().unwrap_or_default();
        let mine = || lines.iter().filter(|known| known.line.names(&self.name));
        let certified = mine().any(|known| known.line.marker == Some(Marker::CertAuthority));
        let plain = mine()
            .filter(|known| known.line.marker.is_none())
            .filter_map(|known| key_type(&known.line.key))
            .flat_map(algorithms_of);
        let certificates = Algorithm::ALL
            .iter()
            .copied()
            .filter(|algorithm| certified && algorithm.certificate);
        certificates.chain(plain).collect()
    }
}

/// What the lines say about a key.
enum Judgement {
    Known,
    /// The name has other keys; the error says which.
    Other(HostKeyError),
    /// The name has no key. Holds the plain key presented.
    New(Vec<u8>),
}

/// A host key as it was presented.
struct Presented {
    /// The plain public key, also of a certificate.
    key: Vec<u8>,
    certificate: Option<Certificate>,
    /// The public key of the certificate's authority.
    authority: Option<Vec<u8>>,
}

impl Presented {
    fn parse(blob: &[u8]) -> Option<Self> {
        if !key_type(blob)?.contains("-cert-") {
            return Some(Self {
                key: blob.to_vec(),
                certificate: None,
                authority: None,
            });
        }
        let certificate = KeyData::from(parse_public_key(blob).ok()?).into_certificate()?;
        Some(Self {
            key: encode(certificate.public_key())?,
            authority: encode(certificate.signature_key()),
            certificate: Some(certificate),
        })
    }

    fn involves(&self, key: &[u8]) -> bool {
        self.key == key || self.authority.as_deref() == Some(key)
    }
}

fn encode(key: &KeyData) -> Option<Vec<u8>> {
    use russh::keys::ssh_encoding::Encode as _;
    key.encode_vec().ok()
}

/// Whether `certificate` is for the host `name`: one without names is for none.
fn names_host(certificate: &Certificate, name: &str) -> bool {
    certificate
        .valid_principals()
        .iter()
        .any(|principal| matches_pattern(&principal.to_ascii_lowercase(), name))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    CertAuthority,
    Revoked,
}

/// A line and where it stands.
struct Known {
    file: PathBuf,
    number: usize,
    line: Line,
}

/// One line that has a key.
struct Line {
    marker: Option<Marker>,
    hosts: String,
    key: Vec<u8>,
}

/// The lines of a file. Those that make no sense are passed over, as OpenSSH does.
fn parse(path: &Path, text: &[u8]) -> Vec<Known> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().enumerate();
    let known = lines.filter_map(|(index, line)| {
        Some(Known {
            file: path.to_owned(),
            number: index + 1,
            line: Line::parse(line)?,
        })
    });
    known.collect()
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().peekable();
        let marker = match *fields.peek()? {
            comment if comment.starts_with('#') => return None,
            "@cert-authority" => Some(Marker::CertAuthority),
            "@revoked" => Some(Marker::Revoked),
            unknown if unknown.starts_with('@') => return None,
            _ => None,
        };
        if marker.is_some() {
            fields.next();
        }
        let hosts = fields.next()?;
        let name = fields.next()?;
        let key = STANDARD.decode(fields.next()?).ok()?;
        (key_type(&key)? == name).then(|| Self {
            marker,
            hosts: hosts.to_owned(),
            key,
        })
    }

    /// Whether the line is about the host `name`, which is in lower case.
    fn names(&self, name: &str) -> bool {
        if let Some(hashed) = self.hosts.strip_prefix("|1|") {
            return matches_hash(hashed, name).unwrap_or(false);
        }
        let mut named = false;
        for pattern in self.hosts.split(',') {
            let pattern = pattern.to_ascii_lowercase();
            match pattern.strip_prefix('!') {
                // An exception ends it, whatever else matches.
                Some(exception) if matches_pattern(exception, name) => return false,
                Some(_) => {}
                None => named = named || matches_pattern(&pattern, name),
            }
        }
        named
    }
}

/// `salt|hash`: HMAC-SHA1 of the name, both in base64.
fn matches_hash(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let salt = STANDARD.decode(salt).ok()?;
    let hash = STANDARD.decode(hash).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    Some(hmac::sign(&key, name.as_bytes()).as_ref() == hash)
}

/// Whether all of `name` fits `pattern`, where `*` is any run of characters and `?` any one.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to go on when a `*` has to take one character more.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match &mut retry {
                Some((after_star, taken)) => {
                    *taken += 1;
                    (p, n) = (*after_star, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Whether a line can begin with `name` and be about it alone.
fn is_writable_name(name: &str) -> bool {
    let is_plain = |character: char| {
        !character.is_whitespace() && !character.is_control() && !",*?!".contains(character)
    };
    !name.is_empty() && !name.starts_with(['|', '#', '@']) && name.chars().all(is_plain)
}

fn format_line(name: &str, key: &[u8]) -> Option<String> {
    Some(format!(
        "{name} {} {}\n",
        key_type(key)?,
        STANDARD.encode(key)
    ))
}

fn open_for_append(path: &Path) -> io::Result<File> {
    if let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Adds a line in one write, on a line of its own.
fn append(file: &mut File, line: &str) -> io::Result<()> {
    let mut text = String::with_capacity(line.len() + 1);
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            text.push('\n');
        }
    }
    text.push_str(line);
    file.write_all(text.as_bytes())
}

fn file_error(path: &Path, source: io::Error) -> HostKeyError {
    HostKeyError::File {
        file: path.to_owned(),
        source,
    }
}

/// The key type a blob begins with.
pub(super) fn key_type(blob: &[u8]) -> Option<&str> {
    std::str::from_utf8(Reader::new(blob).string().ok()?).ok()
}

/// The fingerprint of a public key blob, as ssh-keygen prints it. Of a certificate, the one of the
/// key that it is for.
pub(crate) fn fingerprint(blob: &[u8]) -> String {
    let plain = Presented::parse(blob).map(|presented| presented.key);
    let digest = digest::digest(&digest::SHA256, plain.as_deref().unwrap_or(blob));
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest))
}

#[cfg(test)]
#[path = "known_hosts_tests.rs"]
mod tests;
