//! Our private host keys.

use std::fmt;

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use russh::keys::ssh_key::private::{
    EcdsaKeypair, Ed25519Keypair, Ed25519PrivateKey, KeypairData, PrivateKey,
};
use russh::keys::ssh_key::{LineEnding, public::Ed25519PublicKey};
use zeroize::Zeroizing;

use super::{Algorithm, Error, Scheme};
use crate::ssh::transport::algorithm::Named as _;
use crate::ssh::wire::WriteExt as _;

/// Our private host key: Ed25519, or ECDSA over P-256 for clients that lack the former.
pub struct HostKey {
    pair: Pair,
    public_blob: Vec<u8>,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    EcdsaP256(EcdsaKeyPair),
}

impl HostKey {
    /// Makes a new Ed25519 key.
    ///
    /// # Errors
    /// [`Error::Generation`] when the cryptographic library fails.
    pub fn generate() -> Result<Self, Error> {
        let pair = Ed25519KeyPair::generate().map_err(|_| Error::Generation)?;
        Ok(Self::new(Pair::Ed25519(pair)))
    }

    /// Makes a new ECDSA key over P-256.
    ///
    /// # Errors
    /// [`Error::Generation`] when the cryptographic library fails.
    pub fn generate_ecdsa() -> Result<Self, Error> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| Error::Generation)?;
        Ok(Self::new(Pair::EcdsaP256(pair)))
    }

    /// Reads an OpenSSH private key file.
    ///
    /// # Errors
    /// [`Error::UnusableFile`] when it is malformed, encrypted, or of another type.
    pub fn from_openssh(pem: &str) -> Result<Self, Error> {
        let key = PrivateKey::from_openssh(pem).map_err(|_| Error::UnusableFile)?;
        let pair = match key.key_data() {
            KeypairData::Ed25519(key) => {
                let seed = Zeroizing::new(key.private.to_bytes());
                Ed25519KeyPair::from_seed_and_public_key(seed.as_ref(), &key.public.0)
                    .map(Pair::Ed25519)
            }
            KeypairData::Ecdsa(EcdsaKeypair::NistP256 { public, private }) => {
                EcdsaKeyPair::from_private_key_and_public_key(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    private.as_slice(),
                    public.as_bytes(),
                )
                .map(Pair::EcdsaP256)
            }
            _ => return Err(Error::UnusableFile),
        };
        pair.map(Self::new).map_err(|_| Error::UnusableFile)
    }

    fn new(pair: Pair) -> Self {
        let mut public_blob = Vec::new();
        public_blob.put_string(pair.scheme().name());
        match &pair {
            Pair::Ed25519(pair) => public_blob.put_string(pair.public_key()),
            Pair::EcdsaP256(pair) => public_blob
                .put_string("nistp256")
                .put_string(pair.public_key()),
        };
        Self { pair, public_blob }
    }

    /// The key as an unencrypted OpenSSH private key file.
    ///
    /// # Errors
    /// [`Error::Generation`] when it cannot be encoded.
    pub fn to_openssh(&self) -> Result<Zeroizing<String>, Error> {
        PrivateKey::new(self.pair.to_data()?, "")
            .and_then(|key| key.to_openssh(LineEnding::LF))
            .map_err(|_| Error::Generation)
    }

    /// The public key as it goes over the wire (RFC 8709 §4, RFC 5656 §3.1).
    pub fn public_blob(&self) -> &[u8] {
        &self.public_blob
    }

    /// The algorithm of the key.
    pub fn algorithm(&self) -> Algorithm {
        Algorithm::plain(self.pair.scheme())
    }

    /// Signs `data`; the result is a signature blob of the wire (RFC 8709 §6, RFC 5656 §3.1.2).
    ///
    /// # Errors
    /// [`Error::Signing`] when the cryptographic library fails.
    pub fn sign(&self, data: &[u8]) -> Result<Vec<u8>, Error> {
        let mut blob = Vec::new();
        blob.put_string(self.pair.scheme().name());
        match &self.pair {
            Pair::Ed25519(pair) => blob.put_string(pair.sign(data)),
            Pair::EcdsaP256(pair) => {
                let fixed = pair.sign(&SystemRandom::new(), data);
                let fixed = fixed.map_err(|_| Error::Signing)?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut numbers = Vec::new();
                numbers.put_mpint(r).put_mpint(s);
                blob.put_string(numbers)
            }
        };
        Ok(blob)
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey([redacted])")
    }
}

impl Pair {
    fn scheme(&self) -> Scheme {
        match self {
            Self::Ed25519(_) => Scheme::Ed25519,
            Self::EcdsaP256(_) => Scheme::EcdsaP256,
        }
    }

    /// The key in the form of the library that writes files.
    fn to_data(&self) -> Result<KeypairData, Error> {
        match self {
            Self::Ed25519(pair) => {
                let seed = pair.seed().map_err(|_| Error::Generation)?;
                let seed = seed.as_be_bytes().map_err(|_| Error::Generation)?;
                let seed = seed.as_ref().try_into().map_err(|_| Error::Generation)?;
                let public = pair.public_key().as_ref();
                Ok(KeypairData::Ed25519(Ed25519Keypair {
                    public: Ed25519PublicKey(public.try_into().map_err(|_| Error::Generation)?),
                    private: Ed25519PrivateKey::from_bytes(seed),
                }))
            }
            Self::EcdsaP256(pair) => {
                let private = pair.private_key().as_be_bytes();
                let private = private.map_err(|_| Error::Generation)?;
                let private = <[u8; 32]>::try_from(private.as_ref());
                let private = Zeroizing::new(private.map_err(|_| Error::Generation)?);
                let public = pair.public_key().as_ref();
                Ok(KeypairData::Ecdsa(EcdsaKeypair::NistP256 {
                    public: public.try_into().map_err(|_| Error::Generation)?,
                    private: (*private).into(),
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::verify;
    use super::*;

    fn one_of_each() -> [HostKey; 2] {
        [
            HostKey::generate().unwrap(),
            HostKey::generate_ecdsa().unwrap(),
        ]
    }

    #[test]
    fn key_files_come_back_as_they_went() {
        for key in one_of_each() {
            let file = key.to_openssh().unwrap();
            let again = HostKey::from_openssh(&file).unwrap();
            assert_eq!(again.public_blob(), key.public_blob());
            assert_eq!(again.algorithm(), key.algorithm());
            let signature = again.sign(b"data").unwrap();
            verify(key.public_blob(), key.algorithm(), b"data", &signature).unwrap();
            assert_eq!(format!("{key:?}"), "HostKey([redacted])");
        }
    }

    /// About one number in 128 begins with a zero byte or seems negative, which an mpint mends.
    #[test]
    fn signatures_of_any_length_are_valid() {
        for key in one_of_each() {
            for round in 0..200_u32 {
                let data = round.to_be_bytes();
                let signature = key.sign(&data).unwrap();
                verify(key.public_blob(), key.algorithm(), &data, &signature).unwrap();
            }
        }
    }

    #[test]
    fn key_files_of_ssh_keygen_are_read() {
        for (file, public) in [
            (
                include_str!("../../../keys/ed25519"),
                include_str!("../../../keys/ed25519.pub"),
            ),
            (
                include_str!("../../../keys/ecdsa_p256"),
                include_str!("../../../keys/ecdsa_p256.pub"),
            ),
        ] {
            let key = HostKey::from_openssh(file).unwrap();
            let public = russh::keys::PublicKey::from_openssh(public).unwrap();
            assert_eq!(key.public_blob(), public.to_bytes().unwrap());
        }
    }

    #[test]
    fn other_key_files_are_refused() {
        // A throwaway key made by ssh-keygen.
        let encrypted = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABDh9Pcc2l
29+m8TdEFUX2LZAAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIB/sG/Dloh2w+VLU
ozx0ziQWKM83oSssroN4haEIL7wLAAAAkH/sZFPHU+qvcbwDvYbLCT7UTZATbq13/ZXWnO
pl/ZzVKnIZcw6EJO2SQ+wMhcfeFOBn0dU3l2Mk0N79rYMkNhsU51uVbW5JtZxdPq6GA9SB
hGBtXXbnIE2+J/o12pblUaOOF8FcPPpq8cQN2rBP+9RrgTj9Nb3h27Wx0O9ltuGdbyfsuw
5uORWNgQizA78kNA==
-----END OPENSSH PRIVATE KEY-----
";
        for file in [
            encrypted,
            include_str!("../../../keys/ecdsa_p384"),
            include_str!("../../../keys/rsa2048"),
            "",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ] {
            assert_eq!(HostKey::from_openssh(file).err(), Some(Error::UnusableFile));
        }
    }
}
