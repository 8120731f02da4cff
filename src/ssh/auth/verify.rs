//! Keys, certificates and signatures of others, checked before anybody trusts them.

use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::key::parse_public_key;
use russh::keys::signature::Verifier as _;
use russh::keys::ssh_encoding::Decode as _;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{HashAlg, Signature};
use russh::keys::{Algorithm as KeyAlgorithm, Certificate, PublicKey};

use super::Algorithm;
use crate::ssh::host_key;
use crate::ssh::transport::algorithm::Named as _;
use crate::ssh::wire::Reader;

/// The bit of a security key's signature that says somebody touched it (PROTOCOL.u2f).
const SK_USER_PRESENT: u8 = 0x01;
/// Flags (1 byte) and counter (4 bytes) at the end of a security key's signature.
const SK_TRAILER_BYTES: usize = 5;

/// What a client presents for publickey authentication.
#[derive(Debug, Clone)]
pub(super) enum PublicCredential {
    Key(PublicKey),
    Certificate(Box<Certificate>),
}

impl PublicCredential {
    /// Parses `blob`, which must be of the key type of `algorithm`.
    pub(super) fn parse(algorithm: Algorithm, blob: &[u8]) -> Option<Self> {
        let key_type = Reader::new(blob).string().ok()?;
        if key_type != algorithm.key_type.as_bytes() {
            return None;
        }
        // Bounds the nesting of certificates, which ssh-key itself does not.
        let key = parse_public_key(blob).ok()?;
        match KeyData::from(key) {
            KeyData::Certificate(certificate) if algorithm.is_certificate() => {
                Some(Self::Certificate(certificate))
            }
            KeyData::Certificate(_) | KeyData::Other(_) => None,
            _ if algorithm.is_certificate() => None,
            key => Some(Self::Key(PublicKey::from(key))),
        }
    }

    /// Whether this key, which is the one in `blob`, made `signature` over `data` in the way of
    /// `algorithm`.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        blob: &[u8],
        data: &[u8],
        signature: &[u8],
    ) -> bool {
        if let Some(known) = host_key::Algorithm::from_name(algorithm.name.as_bytes()) {
            return host_key::verify(blob, known, data, signature).is_ok();
        }
        let key = match self {
            Self::Key(key) => key.key_data(),
            Self::Certificate(certificate) => certificate.public_key(),
        };
        verify_security_key(key, algorithm.signature, data, signature)
    }
}

/// Checks the signature of a security key (PROTOCOL.u2f), which signs more than `data`.
fn verify_security_key(key: &KeyData, algorithm: &str, data: &[u8], mut signature: &[u8]) -> bool {
    let Ok(parsed) = Signature::decode(&mut signature) else {
        return false;
    };
    signature.is_empty()
        && parsed.algorithm().as_str() == algorithm
        && is_touched(&parsed)
        && key.verify(data, &parsed).is_ok()
}

/// Whether a person confirmed the signature.
fn is_touched(signature: &Signature) -> bool {
    let bytes = signature.as_bytes();
    let flags = bytes.len().checked_sub(SK_TRAILER_BYTES);
    flags.is_some_and(|at| bytes[at] & SK_USER_PRESENT != 0)
}

/// Whether `certificate` is a user certificate that its authority signed and `now` is within its
/// dates. Says nothing on whether the authority is trusted, nor on the principals.
///
/// A certificate with critical options is refused: none is implemented, and each restricts
/// (PROTOCOL.certkeys: "must refuse to authorise" what it does not know).
pub(super) fn is_valid_user_certificate(certificate: &Certificate, now: SystemTime) -> bool {
    certificate.cert_type().is_user()
        && certificate.critical_options().is_empty()
        && is_valid_certificate(certificate, now)
}

/// Whether `certificate` is a host certificate that its authority signed, within its dates and
/// without critical options.
pub(crate) fn is_valid_host_certificate(certificate: &Certificate, now: SystemTime) -> bool {
    certificate.cert_type().is_host()
        && certificate.critical_options().is_empty()
        && is_valid_certificate(certificate, now)
}

fn is_valid_certificate(certificate: &Certificate, now: SystemTime) -> bool {
    let Ok(since_epoch) = now.duration_since(UNIX_EPOCH) else {
        return false;
    };
    // SHA-1 (`ssh-rsa`) signatures of authorities can be forged.
    let is_sha1 = certificate.signature().algorithm() == KeyAlgorithm::Rsa { hash: None };
    let authority = certificate.signature_key().fingerprint(HashAlg::Sha256);
    !is_sha1
        && certificate
            .validate_at(since_epoch.as_secs(), [&authority])
            .is_ok()
}
