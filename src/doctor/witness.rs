//! A host key judged as `serve` would, and nothing written down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::StrictHostKey;
use crate::ssh::host_key::Algorithm;
use crate::ssh::known_hosts::{KnownHosts, Mode, fingerprint};
use crate::ssh::{HostKeyError, HostKeyVerifier};

/// Judges, and remembers what it has seen.
pub(super) struct Witness {
    known: KnownHosts,
    strict: StrictHostKey,
    seen: Mutex<Option<Seen>>,
}

/// A host key that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Of the key, as ssh-keygen prints it.
    pub(super) fingerprint: String,
    pub(super) standing: Standing,
}

/// What is known of a host key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is in one of the files, or certified by an authority of theirs.
    Known,
    /// No file knows the machine.
    New,
    /// It is not the one that is known, and that does not matter to who has said so.
    Unchecked,
    /// It is not accepted.
    Refused,
}

impl Witness {
    /// Judges as `known`, which is told apart from what is to become of new keys.
    pub(super) fn new(known: KnownHosts, strict: StrictHostKey) -> Arc<Self> {
        Arc::new(Self {
            known: known.in_mode(Mode::Yes),
            strict,
            seen: Mutex::new(None),
        })
    }

    /// The key that was shown last; none when no server has come so far.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostKeyVerifier for Witness {
    fn verify(&self, blob: &[u8]) -> Result<(), HostKeyError> {
        let judged = self.known.verify(blob);
        let standing = match &judged {
            Ok(()) => Standing::Known,
            Err(error) => standing(error, self.strict),
        };
        *self.lock() = Some(Seen {
            fingerprint: fingerprint(blob),
            standing,
        });
        match standing {
            Standing::Refused => judged,
            _ => Ok(()),
        }
    }

    fn expected_algorithms(&self) -> Vec<Algorithm> {
        self.known.expected_algorithms()
    }
}

/// What becomes of a key that is not known as it is.
fn standing(error: &HostKeyError, strict: StrictHostKey) -> Standing {
    match (error, strict) {
        (HostKeyError::Unknown { .. }, StrictHostKey::AcceptNew) => Standing::New,
        (
            HostKeyError::Unknown { .. }
            | HostKeyError::Changed { .. }
            | HostKeyError::BadCertificate { .. }
            | HostKeyError::OtherPrincipals { .. },
            StrictHostKey::Off,
        ) => Standing::Unchecked,
        _ => Standing::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_judged_and_not_written_down() {
        // The beginning of an ed25519 key on the wire; its value does not matter.
        let mut blob = Vec::new();
        for part in [&b"ssh-ed25519"[..], &[7; 32]] {
            blob.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend_from_slice(part);
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let known = KnownHosts::new(vec![file.clone()], "i-1", Mode::AcceptNew);
        for (strict, standing) in [
            (StrictHostKey::AcceptNew, Standing::New),
            (StrictHostKey::Off, Standing::Unchecked),
            (StrictHostKey::Yes, Standing::Refused),
        ] {
            let witness = Witness::new(known.clone(), strict);
            assert_eq!(witness.seen(), None);
            let accepted = witness.verify(&blob).is_ok();
            assert_eq!(accepted, standing != Standing::Refused);
            assert_eq!(witness.seen().unwrap().standing, standing);
        }
        assert!(!file.exists());
    }
}
