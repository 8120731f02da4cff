//! Public key algorithms: our own host key, and the signatures of others.
//!
//! [`verify`] serves host keys and user keys alike, plain or in an OpenSSH certificate. It says who
//! signed, never whether that key or the authority behind a certificate is trusted: that is for the
//! caller, who holds the same blob.

mod private;

use aws_lc_rs::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use thiserror::Error;

use super::transport::algorithm::Named;
use super::wire::{Reader, Truncated};

pub use self::private::HostKey;

/// How a key signs (RFC 8709, RFC 5656 §3, RFC 8332). `ssh-rsa`, which is SHA-1, is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `ssh-ed25519`.
    Ed25519,
    /// `ecdsa-sha2-nistp256`.
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`.
    EcdsaP384,
    /// `ecdsa-sha2-nistp521`.
    EcdsaP521,
    /// `rsa-sha2-512`.
    RsaSha512,
    /// `rsa-sha2-256`.
    RsaSha256,
}

impl Scheme {
    /// The type name inside a plain public key blob; both RSA schemes share one.
    fn key_type(self) -> &'static str {
        match self {
            Self::RsaSha256 | Self::RsaSha512 => "ssh-rsa",
            _ => self.name(),
        }
    }

    /// The type name inside a certificate blob.
    fn certificate_type(self) -> &'static str {
        match self {
            Self::RsaSha256 | Self::RsaSha512 => "ssh-rsa-cert-v01@openssh.com",
            _ => Algorithm::certificate(self).name(),
        }
    }
}

impl Named for Scheme {
    const ALL: &'static [Self] = &[
        Self::Ed25519,
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::EcdsaP521,
        Self::RsaSha512,
        Self::RsaSha256,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::EcdsaP521 => "ecdsa-sha2-nistp521",
            Self::RsaSha512 => "rsa-sha2-512",
            Self::RsaSha256 => "rsa-sha2-256",
        }
    }
}

/// A public key algorithm as it is negotiated: a [`Scheme`] with a plain key or a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm {
    /// How the key signs.
    pub scheme: Scheme,
    /// Whether the key comes in an OpenSSH certificate (`…-cert-v01@openssh.com`).
    pub certificate: bool,
}

impl Algorithm {
    /// `scheme` with a plain key.
    pub const fn plain(scheme: Scheme) -> Self {
        Self {
            scheme,
            certificate: false,
        }
    }

    /// `scheme` with a certificate (OpenSSH `PROTOCOL.certkeys`).
    pub const fn certificate(scheme: Scheme) -> Self {
        Self {
            scheme,
            certificate: true,
        }
    }
}

impl Named for Algorithm {
    /// Plain keys come first: a certificate helps only who knows its authority, and who does puts it first.
    const ALL: &'static [Self] = &[
        Self::plain(Scheme::Ed25519),
        Self::plain(Scheme::EcdsaP256),
        Self::plain(Scheme::EcdsaP384),
        Self::plain(Scheme::EcdsaP521),
        Self::plain(Scheme::RsaSha512),
        Self::plain(Scheme::RsaSha256),
        Self::certificate(Scheme::Ed25519),
        Self::certificate(Scheme::EcdsaP256),
        Self::certificate(Scheme::EcdsaP384),
        Self::certificate(Scheme::EcdsaP521),
        Self::certificate(Scheme::RsaSha512),
        Self::certificate(Scheme::RsaSha256),
    ];

    fn name(self) -> &'static str {
        if !self.certificate {
            return self.scheme.name();
        }
        match self.scheme {
            Scheme::Ed25519 => "ssh-ed25519-cert-v01@openssh.com",
            Scheme::EcdsaP256 => "ecdsa-sha2-nistp256-cert-v01@openssh.com",
            Scheme::EcdsaP384 => "ecdsa-sha2-nistp384-cert-v01@openssh.com",
            Scheme::EcdsaP521 => "ecdsa-sha2-nistp521-cert-v01@openssh.com",
            Scheme::RsaSha512 => "rsa-sha2-512-cert-v01@openssh.com",
            Scheme::RsaSha256 => "rsa-sha2-256-cert-v01@openssh.com",
        }
    }
}

/// Why a key or signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// The key does not have the form of the algorithm.
    #[error("the key does not fit its algorithm")]
    InvalidKey,
    /// The signature does not have the form of the algorithm.
    #[error("the signature does not fit its algorithm")]
    InvalidSignature,
    /// The signature was not made by this key over this data.
    #[error("the signature does not match")]
    WrongSignature,
    /// A private key file is something else.
    #[error("not an unencrypted OpenSSH private key of type Ed25519 or ECDSA P-256")]
    UnusableFile,
    /// The cryptographic library refused to work.
    #[error("no key could be made")]
    Generation,
    /// The cryptographic library refused to sign.
    #[error("the signature could not be made")]
    Signing,
}

/// Checks that the key or certificate `blob` made the signature blob `signature` over `data`.
///
/// Nothing but `algorithm` decides how: a blob or signature of another type is refused, so that a
/// peer cannot choose a weaker scheme than the negotiated one.
///
/// # Errors
/// [`Error::InvalidKey`], [`Error::InvalidSignature`] or [`Error::WrongSignature`].
pub fn verify(
    blob: &[u8],
    algorithm: Algorithm,
    data: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    let key = PublicKey::parse(blob, algorithm)?;
    let signature = signature_of(algorithm.scheme, signature)?;
    key.verify(data, signature)
}

/// The scheme-specific part of a signature blob.
fn signature_of(scheme: Scheme, blob: &[u8]) -> Result<&[u8], Error> {
    let invalid = |_: Truncated| Error::InvalidSignature;
    let mut reader = Reader::new(blob);
    let name = reader.string().map_err(invalid)?;
    let signature = reader.string().map_err(invalid)?;
    if name != scheme.name().as_bytes() || !reader.is_empty() {
        return Err(Error::InvalidSignature);
    }
    Ok(signature)
}

/// The public key of a blob, with what it takes to check a signature.
enum PublicKey<'a> {
    Ed25519(&'a [u8]),
    Ecdsa {
        algorithm: &'static dyn VerificationAlgorithm,
        /// Length of each of `r` and `s`.
        scalar_bytes: usize,
        point: &'a [u8],
    },
    Rsa {
        parameters: &'static RsaParameters,
        modulus: &'a [u8],
        exponent: &'a [u8],
    },
}

impl<'a> PublicKey<'a> {
    fn parse(blob: &'a [u8], algorithm: Algorithm) -> Result<Self, Error> {
        let scheme = algorithm.scheme;
        let mut reader = Reader::new(blob);
        let key_type = reader.string()?;
        let expected = if algorithm.certificate {
            let _nonce = reader.string()?;
            scheme.certificate_type()
        } else {
            scheme.key_type()
        };
        if key_type != expected.as_bytes() {
            return Err(Error::InvalidKey);
        }
        let key = match scheme {
            Scheme::Ed25519 => Self::Ed25519(reader.string()?),
            Scheme::EcdsaP256 => Self::ecdsa(
                &mut reader,
                b"nistp256",
                32,
                &signature::ECDSA_P256_SHA256_FIXED,
            )?,
            Scheme::EcdsaP384 => Self::ecdsa(
                &mut reader,
                b"nistp384",
                48,
                &signature::ECDSA_P384_SHA384_FIXED,
            )?,
            Scheme::EcdsaP521 => Self::ecdsa(
                &mut reader,
                b"nistp521",
                66,
                &signature::ECDSA_P521_SHA512_FIXED,
            )?,
            Scheme::RsaSha512 => Self::rsa(&mut reader, &signature::RSA_PKCS1_2048_8192_SHA512)?,
            Scheme::RsaSha256 => Self::rsa(&mut reader, &signature::RSA_PKCS1_2048_8192_SHA256)?,
        };
        // What follows the key in a certificate (serial, principals, authority…) is the caller's to check.
        if !algorithm.certificate && !reader.is_empty() {
            return Err(Error::InvalidKey);
        }
        Ok(key)
    }

    fn ecdsa(
        reader: &mut Reader<'a>,
        curve: &[u8],
        scalar_bytes: usize,
        algorithm: &'static dyn VerificationAlgorithm,
    ) -> Result<Self, Error> {
        let named_curve = reader.string()?;
        let point = reader.string()?;
        if named_curve != curve || point.len() != 1 + 2 * scalar_bytes || point[0] != 0x04 {
            return Err(Error::InvalidKey);
        }
        Ok(Self::Ecdsa {
            algorithm,
            scalar_bytes,
            point,
        })
    }

    fn rsa(reader: &mut Reader<'a>, parameters: &'static RsaParameters) -> Result<Self, Error> {
        Ok(Self::Rsa {
            parameters,
            exponent: magnitude(reader.string()?).ok_or(Error::InvalidKey)?,
            modulus: magnitude(reader.string()?).ok_or(Error::InvalidKey)?,
        })
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), Error> {
        let checked = match *self {
            Self::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(data, signature)
            }
            Self::Ecdsa {
                algorithm,
                scalar_bytes,
                point,
            } => {
                let signature = fixed_ecdsa_signature(signature, scalar_bytes)?;
                UnparsedPublicKey::new(algorithm, point).verify(data, &signature)
            }
            Self::Rsa {
                parameters,
                modulus: n,
                exponent: e,
            } => {
                let signature = left_padded(signature, n.len())?;
                RsaPublicKeyComponents { n, e }.verify(parameters, data, &signature)
            }
        };
        checked.map_err(|_| Error::WrongSignature)
    }
}

impl From<Truncated> for Error {
    fn from(_: Truncated) -> Self {
        Self::InvalidKey
    }
}

/// `r` and `s` of RFC 5656 §3.1.2, each as many bytes as the curve's order has.
fn fixed_ecdsa_signature(signature: &[u8], scalar_bytes: usize) -> Result<Vec<u8>, Error> {
    let invalid = |_: Truncated| Error::InvalidSignature;
    let mut reader = Reader::new(signature);
    let r = magnitude(reader.string().map_err(invalid)?).ok_or(Error::InvalidSignature)?;
    let s = magnitude(reader.string().map_err(invalid)?).ok_or(Error::InvalidSignature)?;
    if !reader.is_empty() {
        return Err(Error::InvalidSignature);
    }
    let mut fixed = left_padded(r, scalar_bytes)?;
    fixed.extend(left_padded(s, scalar_bytes)?);
    Ok(fixed)
}

/// `bytes` with zeros in front. Some signers strip them from RSA signatures too (RFC 8332 §3).
fn left_padded(bytes: &[u8], length: usize) -> Result<Vec<u8>, Error> {
    let zeros = length
        .checked_sub(bytes.len())
        .ok_or(Error::InvalidSignature)?;
    let mut padded = vec![0; zeros];
    padded.extend_from_slice(bytes);
    Ok(padded)
}

/// The digits of a positive `mpint`, without leading zeros. None when it is zero or negative.
fn magnitude(mpint: &[u8]) -> Option<&[u8]> {
    let first = mpint.iter().position(|byte| *byte != 0)?;
    (first > 0 || mpint[0] & 0x80 == 0).then(|| &mpint[first..])
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
    };

    use super::*;
    use crate::ssh::wire::WriteExt as _;

    /// A key somebody else holds, of any scheme.
    enum Signer {
        Ed25519(Ed25519KeyPair),
        Ecdsa(EcdsaKeyPair),
        Rsa(RsaKeyPair),
    }

    impl Signer {
        fn new(scheme: Scheme) -> Self {
            let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| {
                Self::Ecdsa(EcdsaKeyPair::generate(algorithm).unwrap())
            };
            match scheme {
                Scheme::Ed25519 => Self::Ed25519(Ed25519KeyPair::generate().unwrap()),
                Scheme::EcdsaP256 => ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
                Scheme::EcdsaP384 => ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
                Scheme::EcdsaP521 => ecdsa(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
                Scheme::RsaSha256 | Scheme::RsaSha512 => {
                    Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
                }
            }
        }

        /// The fields of the key, without its type.
        fn fields(&self, scheme: Scheme) -> Vec<u8> {
            let mut fields = Vec::new();
            match self {
                Self::Ed25519(key) => fields.put_string(key.public_key()),
                Self::Ecdsa(key) => fields
                    .put_string(scheme.name().strip_prefix("ecdsa-sha2-").unwrap())
                    .put_string(key.public_key()),
                Self::Rsa(key) => {
                    // SEQUENCE { INTEGER n, INTEGER 65537 } of PKCS #1, for 2048 bits.
                    let der = key.public_key().as_ref();
                    fields.put_mpint(&der[267..270]).put_mpint(&der[8..265])
                }
            };
            fields
        }

        fn plain(&self, scheme: Scheme) -> Vec<u8> {
            let mut blob = Vec::new();
            blob.put_string(scheme.key_type());
            blob.put_raw(&self.fields(scheme));
            blob
        }

        /// The beginning of a certificate: what follows the key does not matter here.
        fn certificate(&self, scheme: Scheme) -> Vec<u8> {
            let mut blob = Vec::new();
            blob.put_string(scheme.certificate_type())
                .put_string("nonce");
            blob.put_raw(&self.fields(scheme))
                .put_raw(b"serial and so on");
            blob
        }

        fn sign(&self, scheme: Scheme, data: &[u8]) -> Vec<u8> {
            let random = SystemRandom::new();
            let raw = match self {
                Self::Ed25519(key) => key.sign(data).as_ref().to_vec(),
                Self::Ecdsa(key) => {
                    let fixed = key.sign(&random, data).unwrap();
                    let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                    let mut raw = Vec::new();
                    raw.put_mpint(r).put_mpint(s);
                    raw
                }
                Self::Rsa(key) => {
                    let mut raw = vec![0; key.public_modulus_len()];
                    let padding = match scheme {
                        Scheme::RsaSha256 => &signature::RSA_PKCS1_SHA256,
                        _ => &signature::RSA_PKCS1_SHA512,
                    };
                    key.sign(padding, &random, data, &mut raw).unwrap();
                    raw
                }
            };
            blob(scheme.name(), &raw)
        }
    }

    fn blob(name: &str, signature: &[u8]) -> Vec<u8> {
        let mut blob = Vec::new();
        blob.put_string(name).put_string(signature);
        blob
    }

    #[test]
    fn every_scheme_verifies_and_detects_changes() {
        for scheme in Scheme::ALL.iter().copied() {
            let signer = Signer::new(scheme);
            let good = signer.sign(scheme, b"data");
            let forms = [
                (signer.plain(scheme), Algorithm::plain(scheme)),
                (signer.certificate(scheme), Algorithm::certificate(scheme)),
            ];
            for (key, algorithm) in forms {
                verify(&key, algorithm, b"data", &good).unwrap();
                let wrong = verify(&key, algorithm, b"date", &good);
                assert_eq!(wrong, Err(Error::WrongSignature));
                for at in 0..good.len() {
                    let mut bad = good.clone();
                    bad[at] ^= 1;
                    assert!(verify(&key, algorithm, b"data", &bad).is_err());
                    assert!(verify(&key, algorithm, b"data", &good[..at]).is_err());
                }
                let longer = [good.as_slice(), &[0]].concat();
                let refused = verify(&key, algorithm, b"data", &longer);
                assert_eq!(refused, Err(Error::InvalidSignature));
                let key_bytes = key.len() - if algorithm.certificate { 16 } else { 0 };
                for size in 0..key_bytes {
                    assert!(verify(&key[..size], algorithm, b"data", &good).is_err());
                }
            }
            let longer = [signer.plain(scheme).as_slice(), &[0]].concat();
            let refused = verify(&longer, Algorithm::plain(scheme), b"data", &good);
            assert_eq!(refused, Err(Error::InvalidKey));
        }
    }

    #[test]
    fn only_the_negotiated_algorithm_counts() {
        for ours in Algorithm::ALL {
            let signer = Signer::new(ours.scheme);
            let key = match ours.certificate {
                true => signer.certificate(ours.scheme),
                false => signer.plain(ours.scheme),
            };
            let good = signer.sign(ours.scheme, b"data");
            for other in Algorithm::ALL.iter().filter(|other| *other != ours) {
                assert!(
                    verify(&key, *other, b"data", &good).is_err(),
                    "{ours:?} {other:?}"
                );
            }
        }
        // The right fields under a wrong name.
        let signer = Signer::new(Scheme::Ed25519);
        let good = signer.sign(Scheme::Ed25519, b"data");
        let mut key = Vec::new();
        key.put_string("ssh-ed25518");
        key.put_raw(&signer.fields(Scheme::Ed25519));
        let refused = verify(&key, Algorithm::plain(Scheme::Ed25519), b"data", &good);
        assert_eq!(refused, Err(Error::InvalidKey));
        // The SHA-1 signature of an RSA key, whatever it may be called.
        let signer = Signer::new(Scheme::RsaSha256);
        let key = signer.plain(Scheme::RsaSha256);
        let algorithm = Algorithm::plain(Scheme::RsaSha256);
        let refused = verify(&key, algorithm, b"data", &blob("ssh-rsa", &[1; 256]));
        assert_eq!(refused, Err(Error::InvalidSignature));
    }

    /// About one number in 256 begins with a zero byte, which an mpint leaves out.
    #[test]
    fn short_numbers_are_padded() {
        for scheme in [Scheme::EcdsaP256, Scheme::EcdsaP384, Scheme::EcdsaP521] {
            let signer = Signer::new(scheme);
            let key = signer.plain(scheme);
            for round in 0..200u32 {
                let data = round.to_be_bytes();
                let signature = signer.sign(scheme, &data);
                verify(&key, Algorithm::plain(scheme), &data, &signature).unwrap();
            }
        }
        let scheme = Scheme::RsaSha256;
        let signer = Signer::new(scheme);
        let (data, stripped) = (0..5000u32)
            .map(|round| {
                let data = round.to_be_bytes();
                let signature = signer.sign(scheme, &data);
                (data, signature_of(scheme, &signature).unwrap().to_vec())
            })
            .find(|(_, signature)| signature[0] == 0)
            .map(|(data, signature)| (data, blob(scheme.name(), &signature[1..])))
            .unwrap();
        let algorithm = Algorithm::plain(scheme);
        verify(&signer.plain(scheme), algorithm, &data, &stripped).unwrap();
    }

    #[test]
    fn numbers_have_one_sign() {
        assert_eq!(magnitude(&[0, 0x80]), Some(&[0x80][..]));
        assert_eq!(magnitude(&[0x7f, 1]), Some(&[0x7f, 1][..]));
        assert_eq!(magnitude(&[0x80]), None);
        assert_eq!(magnitude(&[0, 0]), None);
        assert_eq!(magnitude(&[]), None);
    }
}
