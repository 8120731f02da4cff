//! Files of OpenSSH's authorized_keys format (sshd(8)).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::key::parse_public_key;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, PublicKey};
use thiserror::Error;
use tracing::warn;

/// Largest file read.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Options that grant what is granted anyway, or that are always insisted on here.
const HARMLESS: [&str; 6] = [
    "agent-forwarding",
    "no-touch-required",
    "port-forwarding",
    "pty",
    "user-rc",
    "x11-forwarding",
];

/// What a certificate has to permit (PROTOCOL.certkeys): all that ssh-keygen puts into one unless told otherwise. One that
/// permits less restricts its holder, which is not enforced here.
const PERMISSIONS: [&str; 5] = [
    "permit-X11-forwarding",
    "permit-agent-forwarding",
    "permit-port-forwarding",
    "permit-pty",
    "permit-user-rc",
];

/// Why an authorized_keys file cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("authorized keys {path}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is a pipe or the like, which cannot be read again for each login.
    #[error("authorized keys {path} are not in a regular file", path = .path.display())]
    NotFile {
        /// Where they should be.
        path: PathBuf,
    },
    /// Others than the owner can write to the file.
    #[error("permissions {mode:04o} of {path} let others add keys", path = .path.display())]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl LoadError {
    /// What the user may do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::File { path, .. } => format!("put public keys into '{}'", path.display()),
            Self::NotFile { .. } => {
                "name a file with --authorized-keys: it is read again for each login".to_owned()
            }
            Self::Writable { path, .. } => format!("chmod go-w '{}'", path.display()),
        }
    }
}

/// The keys that may log in.
#[derive(Debug, Clone, Default)]
pub struct AuthorizedKeys {
    keys: Vec<KeyData>,
    authorities: Vec<Authority>,
    refused: Vec<Refused>,
}

/// A key that certifies others.
#[derive(Debug, Clone)]
struct Authority {
    key: KeyData,
    /// The principals of which a certificate must have one; the login name when absent.
    principals: Option<Vec<String>>,
}

/// A line that grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct Refused {
    /// The line, counted from one.
    pub line: usize,
    /// Why.
    pub reason: RefusedReason,
}

/// Why a line grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RefusedReason {
    /// It has no public key where one should be.
    #[error("not a public key")]
    NotAKey,
    /// It restricts the key in a way that is not enforced here, so the key is not taken at all.
    #[error("option `{0}` cannot be enforced here, so the key is not accepted")]
    Option(String),
}

impl AuthorizedKeys {
    /// Reads the file at `path`, which only its owner may change.
    ///
    /// # Errors
    /// A [`LoadError`] names the file and the cause. Lines that cannot be used are no error, see
    /// [`AuthorizedKeys::refused`].
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let failed = |source| LoadError::File {
            path: path.to_owned(),
            source,
        };
        // Before it is opened: that of a pipe might have no end.
        if !path.metadata().map_err(failed)?.is_file() {
            return Err(LoadError::NotFile {
                path: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(LoadError::Writable {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES)
            .read_to_end(&mut text)
            .map_err(failed)?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Reads the lines of `text`.
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Err(reason) = parsed.add(line) {
                parsed.refused.push(Refused {
                    line: index + 1,
                    reason,
                });
            }
        }
        parsed
    }

    /// The lines that grant nothing, and why: worth a warning each.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Whether nobody may log in.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.authorities.is_empty()
    }

    /// Whether `key` may log in.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.keys.contains(key.key_data())
    }

    /// Whether `certificate`, whose signature has been checked, may log in as `user`: its
    /// authority is listed with `cert-authority`, and one of its principals is the user name or,
    /// when the line has `principals="…"`, one of those. Of a login name `USER+TARGET` it is enough
    /// when one is `USER`. One that does not permit all that its holder could do here is not accepted.
    pub fn certifies(&self, certificate: &Certificate, user: &str) -> bool {
        let names = certificate.valid_principals();
        let person = user.rsplit_once('+').map(|(person, _)| person);
        let is_user = |name: &str| name == user || person == Some(name);
        let is_listed = self.authorities.iter().any(|authority| {
            authority.key == *certificate.signature_key()
                && match &authority.principals {
                    Some(allowed) => names.iter().any(|name| allowed.contains(name)),
                    None => names.iter().any(|name| is_user(name)),
                }
        });
        is_listed && is_unrestricted(certificate)
    }

    fn add(&mut self, line: &str) -> Result<(), RefusedReason> {
        if let Some(key) = parse_key(line) {
            self.keys.push(key);
            return Ok(());
        }
        let (options, rest) = split_options(line).ok_or(RefusedReason::NotAKey)?;
        let key = parse_key(rest).ok_or(RefusedReason::NotAKey)?;
        let mut is_authority = false;
        let mut principals = None;
        for option in options {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option.as_str(), None),
            };
            match (name.to_ascii_lowercase().as_str(), value) {
                ("cert-authority", None) => is_authority = true,
                ("principals", Some(list)) => {
                    let names = unquote(list);
                    principals = Some(names.split(',').map(str::to_owned).collect());
                }
                (name, None) if HARMLESS.contains(&name) => {}
                (name, _) => return Err(RefusedReason::Option(name.to_owned())),
            }
        }
        match (is_authority, principals) {
            (true, principals) => self.authorities.push(Authority { key, principals }),
            (false, None) => self.keys.push(key),
            (false, Some(_)) => return Err(RefusedReason::Option("principals".to_owned())),
        }
        Ok(())
    }
}

/// Whether `certificate` permits everything; if it does not, the log says what is missing.
fn is_unrestricted(certificate: &Certificate) -> bool {
    let is_missing = |name: &&str| !certificate.extensions().contains_key(*name);
    let missing = PERMISSIONS.into_iter().find(is_missing);
    if let Some(missing) = missing {
        warn!(
            id = ?certificate.key_id(),
            missing,
            "a certificate is not accepted: it leaves out what cannot be denied here; \
             hint: sign it with all the permissions that ssh-keygen gives by default"
        );
    }
    missing.is_none()
}

/// `TYPE BASE64 [COMMENT]`.
fn parse_key(text: &str) -> Option<KeyData> {
    let mut fields = text.split_ascii_whitespace();
    let name = fields.next()?;
    let blob = STANDARD.decode(fields.next()?).ok()?;
    let key = KeyData::from(parse_public_key(&blob).ok()?);
    match &key {
        // A certificate is not a key, and unknown types cannot be verified.
        KeyData::Certificate(_) | KeyData::Other(_) | KeyData::Dsa(_) => None,
        key if key.algorithm().as_str() == name => Some(key.clone()),
        _ => None,
    }
}

/// The comma-separated options at the beginning of `line`, and what follows the space after them.
/// Quoted values may hold commas and spaces. None when a quote is left open.
fn split_options(line: &str) -> Option<(Vec<String>, &str)> {
    let mut options = vec![String::new()];
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (index, character) in line.char_indices() {
        match character {
            ' ' | '\t' if !is_quoted => return Some((options, line[index..].trim_start())),
            ',' if !is_quoted => {
                options.push(String::new());
                continue;
            }
            '"' if !is_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        is_escaped = character == '\\' && !is_escaped;
        options.last_mut()?.push(character);
    }
    None
}

fn unquote(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ED25519: &str = include_str!("../../keys/ed25519.pub");
    const RSA: &str = include_str!("../../keys/rsa2048.pub");
    const CA: &str = include_str!("../../keys/user_ca.pub");
    const CERTIFICATE: &str = include_str!("../../keys/user_cert-cert.pub");

    fn key(line: &str) -> PublicKey {
        PublicKey::from(parse_key(line).unwrap())
    }

    #[test]
    fn keys_are_read_with_and_without_options() {
        let text = format!("# comment\n\n  {ED25519}\npty,X11-forwarding {RSA}");
        let keys = AuthorizedKeys::parse(&text);
        assert_eq!(keys.refused(), &[]);
        assert!(keys.contains(&key(ED25519)) && keys.contains(&key(RSA)));
        assert!(!keys.contains(&key(CA)));
    }

    #[test]
    fn restrictions_refuse_the_key_rather_than_being_ignored() {
        for option in [
            "restrict",
            "no-pty",
            "command=\"echo \\\"a, b\\\" c\"",
            "pty,from=\"10.0.0.0/8\"",
            "expiry-time=\"20300101\"",
            "principals=\"x\"",
            "verify-required",
        ] {
            let keys = AuthorizedKeys::parse(&format!("\n{option} {ED25519}"));
            assert!(keys.is_empty(), "{option}");
            assert!(
                matches!(
                    keys.refused(),
                    [Refused {
                        line: 2,
                        reason: RefusedReason::Option(_)
                    }]
                ),
                "{option}: {:?}",
                keys.refused()
            );
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        for line in [
            "ssh-ed25519",
            "ssh-ed25519 !!!",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIBGmS1wnLQBZXJ9QjRo0YWfE0Ww5OYo4R4TI0pXzPFTF",
            "command=\"open ssh-ed25519 AAAA",
            CERTIFICATE,
            "\u{e9}\u{e9} \u{e9}",
        ] {
            let keys = AuthorizedKeys::parse(line);
            assert!(keys.is_empty(), "{line}");
            assert_eq!(keys.refused()[0].reason, RefusedReason::NotAKey, "{line}");
        }
    }

    #[test]
    fn certificates_of_a_listed_authority_are_accepted_by_principal() {
        let blob = STANDARD
            .decode(CERTIFICATE.split_whitespace().nth(1).unwrap())
            .unwrap();
        let certificate = KeyData::from(parse_public_key(&blob).unwrap())
            .into_certificate()
            .unwrap();
        let cases = [
            (format!("cert-authority {CA}"), "tester", true),
            (format!("cert-authority {CA}"), "somebody", false),
            (format!("cert-authority {CA}"), "tester+web", true),
            (format!("cert-authority {CA}"), "web+tester", false),
            (format!("cert-authority {CA}"), "tester+a+b", false),
            (
                format!("cert-authority,principals=\"a,root\" {CA}"),
                "somebody",
                true,
            ),
            (
                format!("principals=\"a\",cert-authority {CA}"),
                "tester",
                false,
            ),
            (
                format!("principals=\"a\",cert-authority {CA}"),
                "a+web",
                false,
            ),
            (format!("cert-authority {ED25519}"), "tester", false),
            (CA.to_owned(), "tester", false),
        ];
        for (line, user, expected) in cases {
            let keys = AuthorizedKeys::parse(&line);
            assert_eq!(
                keys.certifies(&certificate, user),
                expected,
                "{line} {user}"
            );
        }
    }

    #[test]
    fn certificates_that_leave_something_out_are_refused() {
        use russh::keys::PrivateKey;
        use russh::keys::ssh_key::certificate::Builder;

        let authority = PrivateKey::from_openssh(include_str!("../../keys/user_ca")).unwrap();
        let keys = AuthorizedKeys::parse(&format!("cert-authority {CA}"));
        let is_welcome = |extensions: &[&str]| {
            let mut certificate = Builder::new([0; 16], key(ED25519), 0, 4_000_000_000).unwrap();
            certificate.valid_principal("tester").unwrap();
            for name in extensions {
                certificate.extension(*name, "").unwrap();
            }
            keys.certifies(&certificate.sign(&authority).unwrap(), "tester")
        };
        let all = [
            "permit-X11-forwarding",
            "permit-agent-forwarding",
            "permit-port-forwarding",
            "permit-pty",
            "permit-user-rc",
        ];
        assert!(is_welcome(&all));
        assert!(is_welcome(&[&all[..], &["login@example.com"]].concat()));
        assert!(!is_welcome(&[]));
        for left_out in all {
            let rest = all.into_iter().filter(|name| *name != left_out);
            assert!(!is_welcome(&rest.collect::<Vec<_>>()), "{left_out}");
        }
    }

    #[test]
    fn a_file_that_others_can_change_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("authorized_keys");
        assert!(matches!(
            AuthorizedKeys::load(&path),
            Err(LoadError::File { .. })
        ));
        assert!(matches!(
            AuthorizedKeys::load(directory.path()),
            Err(LoadError::NotFile { .. })
        ));
        std::fs::write(&path, ED25519).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        let error = AuthorizedKeys::load(&path).unwrap_err();
        assert!(error.hint().contains("chmod go-w"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!AuthorizedKeys::load(&path).unwrap().is_empty());
    }
}
