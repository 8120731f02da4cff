//! Key exchange methods: two messages, and a secret both ends share.
//!
//! All of them have the shape of RFC 5656 §4: the client sends one string, the server answers with
//! one. What the strings hold and how the secret enters the hashes differs per method.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::digest;
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use super::Error;
use super::algorithm::Kex;
use crate::ssh::wire::WriteExt;

/// Bytes of an X25519 public value.
const X25519_BYTES: usize = 32;

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203, table 3).
const ML_KEM_KEY_BYTES: usize = 1184;

/// Bytes of an ML-KEM-768 ciphertext.
const ML_KEM_CIPHERTEXT_BYTES: usize = 1088;

/// The shared secret as it enters the hashes: an `mpint`, or a `string` in the hybrid method.
pub(super) struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    /// K of RFC 4253 §8, encoded.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.0
    }

    fn mpint(secret: &[u8]) -> Self {
        // Enough room that a secret is not left behind by a reallocation.
        let mut encoded = Zeroizing::new(Vec::with_capacity(secret.len() + 5));
        encoded.put_mpint(secret);
        Self(encoded)
    }

    /// draft-ietf-sshm-mlkem-hybrid-kex §2.4: the hash of both secrets, as a `string`.
    fn hybrid(post_quantum: &[u8], classical: &[u8]) -> Self {
        let both = Zeroizing::new([post_quantum, classical].concat());
        let hash = digest::digest(&digest::SHA256, &both);
        let mut encoded = Zeroizing::new(Vec::with_capacity(36));
        encoded.put_string(hash);
        Self(encoded)
    }
}

/// The hash of a method, which is also that of the key derivation.
pub(super) fn hash(kex: Kex) -> &'static digest::Algorithm {
    match kex {
        Kex::MlKem768X25519 | Kex::Curve25519 | Kex::Curve25519Libssh | Kex::EcdhP256 => {
            &digest::SHA256
        }
        Kex::EcdhP384 => &digest::SHA384,
        Kex::EcdhP521 => &digest::SHA512,
    }
}

/// The client's side of one exchange, between its message and the answer.
pub(super) struct ClientKex {
    private: PrivateKey,
    /// The other half of the hybrid method.
    decapsulation: Option<DecapsulationKey>,
}

impl ClientKex {
    /// Makes ephemeral keys and the string of `SSH_MSG_KEX_ECDH_INIT`.
    pub(super) fn begin(kex: Kex) -> Result<(Self, Vec<u8>), Error> {
        let private = PrivateKey::generate(curve(kex))?;
        let mut init = Vec::new();
        let mut decapsulation = None;
        if kex == Kex::MlKem768X25519 {
            let key = DecapsulationKey::generate(&ML_KEM_768)?;
            init.put_raw(key.encapsulation_key()?.key_bytes()?.as_ref());
            decapsulation = Some(key);
        }
        init.put_raw(private.compute_public_key()?.as_ref());
        let kex = Self {
            private,
            decapsulation,
        };
        Ok((kex, init))
    }

    /// Takes the string of `SSH_MSG_KEX_ECDH_REPLY`.
    pub(super) fn finish(&self, reply: &[u8]) -> Result<SharedSecret, Error> {
        let Some(decapsulation) = &self.decapsulation else {
            return agree(&self.private, reply, SharedSecret::mpint);
        };
        let (ciphertext, public) = reply
            .split_at_checked(ML_KEM_CIPHERTEXT_BYTES)
            .ok_or(Error::KeyExchange("short ML-KEM ciphertext"))?;
        let post_quantum = decapsulation
            .decapsulate(Ciphertext::from(ciphertext))
            .map_err(|_| Error::KeyExchange("invalid ML-KEM ciphertext"))?;
        agree(&self.private, public, |classical| {
            SharedSecret::hybrid(post_quantum.as_ref(), classical)
        })
    }
}

/// The server's side: answers the client's string with one of its own.
pub(super) fn respond(kex: Kex, init: &[u8]) -> Result<(Vec<u8>, SharedSecret), Error> {
    let private = PrivateKey::generate(curve(kex))?;
    let mut reply = Vec::new();
    let secret = if kex == Kex::MlKem768X25519 {
        let (key, public) = init
            .split_at_checked(ML_KEM_KEY_BYTES)
            .ok_or(Error::KeyExchange("short ML-KEM key"))?;
        let (ciphertext, post_quantum) = EncapsulationKey::new(&ML_KEM_768, key)
            .map_err(|_| Error::KeyExchange("invalid ML-KEM key"))?
            .encapsulate()
            .map_err(|_| Error::KeyExchange("invalid ML-KEM key"))?;
        reply.put_raw(ciphertext.as_ref());
        agree(&private, public, |classical| {
            SharedSecret::hybrid(post_quantum.as_ref(), classical)
        })?
    } else {
        agree(&private, init, SharedSecret::mpint)?
    };
    reply.put_raw(private.compute_public_key()?.as_ref());
    Ok((reply, secret))
}

fn curve(kex: Kex) -> &'static agreement::Algorithm {
    match kex {
        Kex::MlKem768X25519 | Kex::Curve25519 | Kex::Curve25519Libssh => &agreement::X25519,
        Kex::EcdhP256 => &agreement::ECDH_P256,
        Kex::EcdhP384 => &agreement::ECDH_P384,
        Kex::EcdhP521 => &agreement::ECDH_P521,
    }
}

/// Diffie-Hellman with the public value of the other end.
///
/// The value must be of the one form the RFCs know (RFC 7748 §5; RFC 5656 §4: uncompressed) and on
/// the curve. A secret of zeros means a point of low order, which an attacker between the ends
/// would use to fix the keys (RFC 8731 §3.1). aws-lc refuses it as well, but does not promise to.
fn agree(
    private: &PrivateKey,
    public: &[u8],
    encode: impl FnOnce(&[u8]) -> SharedSecret,
) -> Result<SharedSecret, Error> {
    const INVALID: Error = Error::KeyExchange("invalid public value");
    let well_formed = if private.algorithm() == &agreement::X25519 {
        public.len() == X25519_BYTES
    } else {
        public.len() == private.compute_public_key()?.as_ref().len() && public[0] == 0x04
    };
    if !well_formed {
        return Err(INVALID);
    }
    let public = UnparsedPublicKey::new(private.algorithm(), public);
    agreement::agree(private, public, INVALID, |secret| {
        if secret.iter().all(|byte| *byte == 0) {
            return Err(Error::KeyExchange("shared secret is zero"));
        }
        Ok(encode(secret))
    })
}

#[cfg(test)]
mod tests {
    use super::super::algorithm::Named;
    use super::*;

    #[test]
    fn both_ends_share_the_secret() {
        for kex in Kex::ALL {
            let (client, init) = ClientKex::begin(*kex).unwrap();
            let (reply, server_secret) = respond(*kex, &init).unwrap();
            let client_secret = client.finish(&reply).unwrap();
            assert_eq!(client_secret.encoded(), server_secret.encoded());
        }
    }

    /// The points of order 1, 2, 4 and 8 and their other encodings: each gives a secret of zeros
    /// (the list of RFC 7748's security considerations, as published at cr.yp.to/ecdh.html).
    #[test]
    fn points_of_low_order_are_refused() {
        let order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
        let order_8_too = "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157";
        let mut p_minus_1 = [0xff; 32];
        (p_minus_1[0], p_minus_1[31]) = (0xec, 0x7f);
        let mut p = p_minus_1;
        p[0] = 0xed;
        let mut p_plus_1 = p_minus_1;
        p_plus_1[0] = 0xee;
        let mut one = [0; 32];
        one[0] = 1;
        let points = [
            [0; 32],
            one,
            hex(order_8),
            hex(order_8_too),
            p_minus_1,
            p,
            p_plus_1,
        ];
        for point in points {
            assert!(matches!(
                respond(Kex::Curve25519, &point),
                Err(Error::KeyExchange(_))
            ));
            let (client, _) = ClientKex::begin(Kex::Curve25519).unwrap();
            assert!(matches!(client.finish(&point), Err(Error::KeyExchange(_))));
            let (hybrid, init) = ClientKex::begin(Kex::MlKem768X25519).unwrap();
            let mut bad_init = init[..ML_KEM_KEY_BYTES].to_vec();
            bad_init.extend(point);
            assert!(respond(Kex::MlKem768X25519, &bad_init).is_err());
            let (reply, _) = respond(Kex::MlKem768X25519, &init).unwrap();
            let mut bad_reply = reply[..ML_KEM_CIPHERTEXT_BYTES].to_vec();
            bad_reply.extend(point);
            assert!(hybrid.finish(&bad_reply).is_err());
        }
    }

    fn hex(digits: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn malformed_public_values_are_refused() {
        for kex in Kex::ALL {
            let (client, init) = ClientKex::begin(*kex).unwrap();
            let (reply, _) = respond(*kex, &init).unwrap();
            for (value, is_init) in [(&init, true), (&reply, false)] {
                let longer = [value.as_slice(), &[0]].concat();
                let shorter = &value[..value.len() - 1];
                for bad in [&[][..], &[4], shorter, &longer] {
                    let refused = match is_init {
                        true => respond(*kex, bad).err(),
                        false => client.finish(bad).err(),
                    };
                    assert!(matches!(refused, Some(Error::KeyExchange(_))), "{kex:?}");
                }
            }
        }
        for kex in [Kex::EcdhP256, Kex::EcdhP384, Kex::EcdhP521] {
            let (_, init) = ClientKex::begin(kex).unwrap();
            let mut off_curve = init.clone();
            off_curve[5] ^= 1;
            assert!(respond(kex, &off_curve).is_err());
            // Hybrid and compressed forms of X9.62 are other ways to write a point: not in SSH.
            let mut hybrid = init.clone();
            hybrid[0] = 0x06 | (init[init.len() - 1] & 1);
            assert!(respond(kex, &hybrid).is_err());
            let mut compressed = init[..=init.len() / 2].to_vec();
            compressed[0] = 0x02 | (init[init.len() - 1] & 1);
            assert!(respond(kex, &compressed).is_err());
        }
        // Coefficients of the key not reduced modulo q (FIPS 203 §7.2).
        let (_, mut init) = ClientKex::begin(Kex::MlKem768X25519).unwrap();
        init[..3].fill(0xff);
        assert!(respond(Kex::MlKem768X25519, &init).is_err());
    }
}
