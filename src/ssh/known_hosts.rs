//! Host keys remembered in files of OpenSSH's known_hosts format (sshd(8)).

mod file;
mod line;
mod presented;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use russh::keys::Certificate;
use tracing::{debug, info, warn};

use self::line::{Known, Marker, format_line, is_writable_name, matches_pattern, parse};
use self::presented::Presented;
pub(crate) use self::presented::{fingerprint, key_type};
use super::auth::{check_host_certificate, printable};
use super::host_key::Algorithm;
use super::transport::algorithm::Named as _;
use super::verifier::{HostKeyError, HostKeyVerifier, algorithms_of};

/// The port whose host keys are listed under the name alone.
const SSH_PORT: u16 = 22;
/// Bytes of a certificate's principals that an error repeats.
const MAX_PRINCIPALS_BYTES: usize = 256;

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

/// Host keys known under the names of a target, which are no addresses.
///
/// The first name is the pin: the target's id, which no other machine will ever have. A key that a
/// file has for any of the names is accepted, and where one of them has other keys only, the key
/// has changed.
#[derive(Debug, Clone)]
pub struct KnownHosts {
    files: Vec<PathBuf>,
    names: Vec<String>,
    port: u16,
    mode: Mode,
}

impl KnownHosts {
    /// Looks `name` up in `files`; new keys are added to the first of them, and the others are only
    /// read, where they can be. Case does not matter in names (as in OpenSSH).
    pub fn new(files: Vec<PathBuf>, name: &str, mode: Mode) -> Self {
        Self {
            files,
            names: vec![name.to_ascii_lowercase()],
            port: SSH_PORT,
            mode,
        }
    }

    /// The same host, judged in another mode.
    #[must_use]
    pub fn in_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Another name of the same host, such as an alias. One that a line cannot hold is looked up all
    /// the same, and not written.
    #[must_use]
    pub fn also_named(mut self, name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        self
    }

    /// The port of the server, which has keys of its own: on another one than 22 the host is listed
    /// as `[name]:port`, and what is listed as `name` is good enough where that is missing.
    #[must_use]
    pub fn on_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// `name` as files list it.
    fn listed(&self, name: &str) -> String {
        if self.port == SSH_PORT {
            name.to_owned()
        } else {
            format!("[{name}]:{}", self.port)
        }
    }

    /// The lines about the host, as it is listed: with its port.
    fn listed_lines<'a>(&self, lines: &'a [Known]) -> Vec<(&'a Known, String)> {
        let listed: Vec<_> = self.names.iter().map(|name| self.listed(name)).collect();
        about(lines, &listed)
    }

    /// The lines about the host, whatever its port.
    fn portless_lines<'a>(&self, lines: &'a [Known]) -> Vec<(&'a Known, String)> {
        about(lines, &self.names)
    }

    /// Judges `blob` by the lines of all files.
    fn judge(
        &self,
        lines: &[Known],
        blob: &[u8],
        now: SystemTime,
    ) -> Result<Judgement, HostKeyError> {
        let presented = Presented::parse(blob).ok_or(HostKeyError::Malformed)?;
        let listed = self.listed_lines(lines);
        let portless = self.portless_lines(lines);
        let all = || listed.iter().chain(&portless);
        let marked = |marker| all().filter(move |(known, _)| known.line.marker == Some(marker));

        if let Some((known, name)) =
            marked(Marker::Revoked).find(|(known, _)| presented.involves(&known.line.key))
        {
            return Err(HostKeyError::Revoked {
                name: name.clone(),
                fingerprint: fingerprint(&presented.key),
                file: known.file.clone(),
                line: known.number,
            });
        }
        let authority = marked(Marker::CertAuthority)
            .find(|(known, _)| Some(&known.line.key) == presented.authority.as_ref());
        if let (Some(certificate), Some((known, _))) = (&presented.certificate, authority) {
            // As OpenSSH: what a trusted authority says wrongly is not made good by the plain key.
            return match self.check(certificate, known, now) {
                Ok(()) => Ok(Judgement::Known { is_pinned: true }),
                Err(error) => Ok(Judgement::Other(error)),
            };
        }

        let is_same = |known: &Known| known.line.key == presented.key;
        let listed: Vec<_> = listed.iter().filter(|(known, _)| is_plain(known)).collect();
        let mut matching = listed.iter().filter(|(known, _)| is_same(known)).peekable();
        if matching.peek().is_some() {
            let pin = self.listed(&self.names[0]);
            let is_pinned = matching.any(|(known, _)| known.line.names(&pin));
            return Ok(Judgement::Known { is_pinned });
        }
        // A key of another type counts as a change too: the types known were asked for first.
        if let Some((known, name)) = listed.first() {
            return Ok(Judgement::Other(HostKeyError::Changed {
                name: name.clone(),
                fingerprint: fingerprint(&presented.key),
                known: fingerprint(&known.line.key),
                file: known.file.clone(),
                line: known.number,
                remedy: removal_of(&listed).into(),
            }));
        }
        // As OpenSSH: "checking without port identifier".
        let is_known = |(known, _): &(&Known, String)| is_plain(known) && is_same(known);
        if portless.iter().any(is_known) {
            return Ok(Judgement::Known { is_pinned: true });
        }
        Ok(Judgement::New(presented.key))
    }

    /// Checks a certificate of the authority that `known` trusts.
    fn check(
        &self,
        certificate: &Certificate,
        known: &Known,
        now: SystemTime,
    ) -> Result<(), HostKeyError> {
        let name = &self.names[0];
        if let Err(fault) = check_host_certificate(certificate, now) {
            return Err(HostKeyError::BadCertificate {
                name: name.clone(),
                file: known.file.clone(),
                line: known.number,
                fault,
            });
        }
        if self.names.iter().any(|name| names_host(certificate, name)) {
            return Ok(());
        }
        let principals = certificate.valid_principals().join(", ");
        Err(HostKeyError::OtherPrincipals {
            name: name.clone(),
            principals: printable(principals.as_bytes(), MAX_PRINCIPALS_BYTES),
            file: known.file.clone(),
            line: known.number,
        })
    }

    fn read(&self) -> Result<Vec<Known>, HostKeyError> {
        let mut lines = Vec::new();
        for (index, path) in self.files.iter().enumerate() {
            match file::read(path) {
                Ok(Some(text)) => lines.extend(parse(path, &text)),
                Ok(None) => {}
                Err(source) if index == 0 => return Err(file_error(path, source)),
                Err(error) => {
                    debug!(file = %path.display(), %error, "known hosts file passed over");
                }
            }
        }
        Ok(lines)
    }

    /// Adds the key to the first file, unless somebody has just added one for the same host.
    fn remember(&self, blob: &[u8], now: SystemTime) -> Result<(), HostKeyError> {
        let Some(path) = self.files.first() else {
            return Ok(());
        };
        let pin = &self.names[0];
        if !is_writable_name(pin) {
            return Err(HostKeyError::InvalidName { name: pin.clone() });
        }
        let failed = |source| file_error(path, source);
        // Two first connections at once must not accept two different keys.
        let mut file = file::open_locked(path).map_err(failed)?;
        let lines = self.read()?;
        let (names, key) = match self.judge(&lines, blob, now)? {
            Judgement::Known { is_pinned: true } => return Ok(()),
            Judgement::Other(error) => return Err(error),
            Judgement::Known { is_pinned: false } => {
                let presented = Presented::parse(blob).ok_or(HostKeyError::Malformed)?;
                (vec![self.listed(pin)], presented.key)
            }
            Judgement::New(key) => {
                let writable = self.names.iter().filter(|name| is_writable_name(name));
                (writable.map(|name| self.listed(name)).collect(), key)
            }
        };
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let line = format_line(&names, &key).ok_or(HostKeyError::Malformed)?;
        file::append(&mut file, &line).map_err(failed)?;
        info!(
            name = %names.join(","),
            fingerprint = %fingerprint(&key),
            file = %path.display(),
            "host key remembered"
        );
        Ok(())
    }
}

impl HostKeyVerifier for KnownHosts {
    fn verify(&self, blob: &[u8]) -> Result<(), HostKeyError> {
        let now = SystemTime::now();
        match (self.judge(&self.read()?, blob, now)?, self.mode) {
            (Judgement::Known { is_pinned: false } | Judgement::New(_), Mode::AcceptNew) => {
                self.remember(blob, now)
            }
            (Judgement::Known { .. }, _) | (Judgement::New(_), Mode::Off) => Ok(()),
            (Judgement::Other(error), Mode::Off) => {
                warn!(%error, "host key not checked");
                Ok(())
            }
            (Judgement::Other(error), Mode::Yes | Mode::AcceptNew) => Err(error),
            (Judgement::New(key), Mode::Yes) => Err(HostKeyError::Unknown {
                name: self.listed(&self.names[0]),
                algorithm: key_type(&key).unwrap_or("unknown").to_owned(),
                fingerprint: fingerprint(&key),
                file: self.files.first().cloned(),
            }),
        }
    }

    fn expected_algorithms(&self) -> Vec<Algorithm> {
        let lines = self.read().unwrap_or_default();
        let mut mine = self.listed_lines(&lines);
        if mine.iter().any(|(known, _)| is_plain(known)) {
            // The others do not count then, but for the authorities among them.
            let portless = self.portless_lines(&lines).into_iter();
            mine.extend(portless.filter(|(known, _)| !is_plain(known)));
        } else {
            mine.extend(self.portless_lines(&lines));
        }
        let certified = mine
            .iter()
            .any(|(known, _)| known.line.marker == Some(Marker::CertAuthority));
        let plain: Vec<_> = mine
            .iter()
            .filter(|(known, _)| is_plain(known))
            .filter_map(|(known, _)| key_type(&known.line.key))
            .flat_map(algorithms_of)
            .collect();
        let all = || Algorithm::ALL.iter().copied();
        // A certificate outlives the key that somebody once wrote down.
        all()
            .filter(|algorithm| certified && algorithm.certificate)
            .chain(all().filter(|algorithm| plain.contains(algorithm)))
            .collect()
    }
}

/// What the lines say about a key.
enum Judgement {
    /// It is accepted; `is_pinned` when nothing is left to write down.
    Known { is_pinned: bool },
    /// It is not what was expected; the error says how.
    Other(HostKeyError),
    /// The host has no key. Holds the plain key presented.
    New(Vec<u8>),
}

/// The lines about any of `names`, each with the first name that it is about.
fn about<'a>(lines: &'a [Known], names: &[String]) -> Vec<(&'a Known, String)> {
    let named = lines.iter().filter_map(|known| {
        let name = names.iter().find(|name| known.line.names(name))?;
        Some((known, name.clone()))
    });
    named.collect()
}

/// Whether the line says no more than that a host has the key.
fn is_plain(known: &Known) -> bool {
    known.line.marker.is_none()
}

/// Whether `certificate` is for the host `name`: one without names is for none.
fn names_host(certificate: &Certificate, name: &str) -> bool {
    certificate
        .valid_principals()
        .iter()
        .any(|principal| matches_pattern(&principal.to_ascii_lowercase(), name))
}

/// The command that makes the files forget the host, once for each name and file.
fn removal_of(lines: &[&(&Known, String)]) -> String {
    let mut commands = Vec::new();
    for (known, name) in lines {
        let file = known.file.display().to_string();
        let command = format!("ssh-keygen -R {} -f {}", quoted(name), quoted(&file));
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    commands.join(" && ")
}

/// `text` as one word of a shell command.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn file_error(path: &Path, source: std::io::Error) -> HostKeyError {
    HostKeyError::File {
        file: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[path = "known_hosts_tests.rs"]
mod tests;
