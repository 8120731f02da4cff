//! Keys, certificates and signatures of others, checked before anybody trusts them.

use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::key::parse_public_key;
use russh::keys::signature::Verifier as _;
use russh::keys::ssh_encoding::Decode as _;
use russh::keys::ssh_key::Signature;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm as KeyAlgorithm, Certificate, PublicKey};
use thiserror::Error;

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

/// Why a certificate counts for nothing, whoever is its authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// A user certificate where one of a host is due, or the other way round.
    #[error("it is for the other kind of holder (users and hosts have certificates of their own)")]
    WrongKind,
    /// It has critical options. None is implemented, and each restricts (PROTOCOL.certkeys:
    /// "must refuse to authorise" what it does not know).
    #[error("it has critical options, none of which is known here")]
    CriticalOptions,
    /// Its first day is yet to come, by the clock of this machine.
    #[error("it is not valid yet by the clock of this machine")]
    NotYetValid,
    /// Its last day has gone, by the clock of this machine.
    #[error("it has expired by the clock of this machine")]
    Expired,
    /// The signature is not the authority's, or is one that can be forged (SHA-1).
    #[error("its signature does not count")]
    BadSignature,
}

/// Checks that `certificate` is a user certificate that its authority signed and `now` is within its
/// dates. Says nothing on whether the authority is trusted, nor on the principals, nor on what it permits.
///
/// # Errors
/// A [`CertificateFault`].
pub(super) fn check_user_certificate(
    certificate: &Certificate,
    now: SystemTime,
) -> Result<(), CertificateFault> {
    if !certificate.cert_type().is_user() {
        return Err(CertificateFault::WrongKind);
    }
    check_certificate(certificate, now)
}

/// Checks a host certificate in the same way.
///
/// # Errors
/// A [`CertificateFault`].
pub(crate) fn check_host_certificate(
    certificate: &Certificate,
    now: SystemTime,
) -> Result<(), CertificateFault> {
    if !certificate.cert_type().is_host() {
        return Err(CertificateFault::WrongKind);
    }
    check_certificate(certificate, now)
}

fn check_certificate(certificate: &Certificate, now: SystemTime) -> Result<(), CertificateFault> {
    if !certificate.critical_options().is_empty() {
        return Err(CertificateFault::CriticalOptions);
    }
    let since_epoch = now.duration_since(UNIX_EPOCH);
    let Ok(seconds) = since_epoch.map(|since_epoch| since_epoch.as_secs()) else {
        return Err(CertificateFault::NotYetValid);
    };
    if seconds < certificate.valid_after() {
        return Err(CertificateFault::NotYetValid);
    }
    if seconds >= certificate.valid_before() {
        return Err(CertificateFault::Expired);
    }
    // SHA-1 (`ssh-rsa`) signatures of authorities can be forged.
    let is_sha1 = certificate.signature().algorithm() == KeyAlgorithm::Rsa { hash: None };
    if is_sha1 || certificate.verify_signature().is_err() {
        return Err(CertificateFault::BadSignature);
    }
    Ok(())
}
