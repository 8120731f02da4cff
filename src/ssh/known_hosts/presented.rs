//! A host key as a server shows it.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use russh::keys::Certificate;
use russh::keys::key::parse_public_key;
use russh::keys::ssh_key::public::KeyData;

use crate::ssh::wire::Reader;

/// A host key as it was presented.
pub(super) struct Presented {
    /// The plain public key, also of a certificate.
    pub(super) key: Vec<u8>,
    pub(super) certificate: Option<Certificate>,
    /// The public key of the certificate's authority.
    pub(super) authority: Option<Vec<u8>>,
}

impl Presented {
    pub(super) fn parse(blob: &[u8]) -> Option<Self> {
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

    /// Whether `key` is this one or the authority's.
    pub(super) fn involves(&self, key: &[u8]) -> bool {
        self.key == key || self.authority.as_deref() == Some(key)
    }
}

fn encode(key: &KeyData) -> Option<Vec<u8>> {
    use russh::keys::ssh_encoding::Encode as _;
    key.encode_vec().ok()
}

/// The key type a blob begins with.
pub(crate) fn key_type(blob: &[u8]) -> Option<&str> {
    std::str::from_utf8(Reader::new(blob).string().ok()?).ok()
}

/// The fingerprint of a public key blob, as ssh-keygen prints it. Of a certificate, the one of the
/// key that it is for.
pub(crate) fn fingerprint(blob: &[u8]) -> String {
    let plain = Presented::parse(blob).map(|presented| presented.key);
    let digest = digest::digest(&digest::SHA256, plain.as_deref().unwrap_or(blob));
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest))
}
