//! One line of a known_hosts file: markers, names, key (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").

use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::presented::key_type;

/// What a line says of its key, other than that a host has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// The key certifies hosts.
    CertAuthority,
    /// Nobody may be trusted for this key.
    Revoked,
}

/// A line and where it stands.
pub(super) struct Known {
    pub(super) file: PathBuf,
    /// Counted from one.
    pub(super) number: usize,
    pub(super) line: Line,
}

/// One line that has a key.
pub(super) struct Line {
    pub(super) marker: Option<Marker>,
    hosts: String,
    /// The public key as it goes over the wire.
    pub(super) key: Vec<u8>,
}

/// The lines of a file. Those that make no sense are passed over, as OpenSSH does.
pub(super) fn parse(path: &Path, text: &[u8]) -> Vec<Known> {
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
    pub(super) fn parse(line: &str) -> Option<Self> {
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
    pub(super) fn names(&self, name: &str) -> bool {
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
pub(super) fn matches_pattern(pattern: &str, name: &str) -> bool {
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
pub(super) fn is_writable_name(name: &str) -> bool {
    let is_plain = |character: char| {
        !character.is_whitespace() && !character.is_control() && !",*?!".contains(character)
    };
    !name.is_empty() && !name.starts_with(['|', '#', '@']) && name.chars().all(is_plain)
}

/// The line that gives `key` to a host called `names`, with its line end.
pub(super) fn format_line(names: &[&str], key: &[u8]) -> Option<String> {
    Some(format!(
        "{} {} {}\n",
        names.join(","),
        key_type(key)?,
        STANDARD.encode(key)
    ))
}
