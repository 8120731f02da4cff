//! Encrypted key files: how they say so, and what russh does not decrypt.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::{self, PrivateKey};
use zeroize::Zeroizing;

/// How a key file says that it is encrypted. OpenSSH's own format says so only inside.
pub(super) enum Encryption {
    None,
    Supported,
    /// Holds the cipher, as the file names it.
    Unsupported(String),
}

/// Reads headers only.
pub(super) fn encryption(text: &str) -> Encryption {
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Encryption::Supported;
    }
    if text.starts_with("PuTTY-User-Key-File-") {
        return match header(text, "Encryption:") {
            None | Some("none") => Encryption::None,
            Some(_) => Encryption::Supported,
        };
    }
    match Traditional::parse(text) {
        None => Encryption::None,
        Some(Ok(_)) => Encryption::Supported,
        Some(Err(cipher)) => Encryption::Unsupported(cipher),
    }
}

/// Decrypts a key file of any supported kind. The formats do not tell a wrong passphrase from a
/// damaged file.
pub(super) fn decrypt(text: &str, passphrase: &str) -> Option<PrivateKey> {
    match Traditional::parse(text) {
        Some(traditional) => traditional.ok()?.decrypt(passphrase),
        None => keys::decode_secret_key(text, Some(passphrase)).ok(),
    }
}

fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

/// PEM with a `DEK-Info` header (RFC 1421 §4.6.1.3): what OpenSSL and `ssh-keygen -m PEM` wrote
/// before PKCS#8, and still write for `BEGIN RSA PRIVATE KEY` and `BEGIN EC PRIVATE KEY`.
struct Traditional<'a> {
    /// `RSA PRIVATE KEY` or `EC PRIVATE KEY`.
    label: &'a str,
    algorithm: &'static Algorithm,
    key_bytes: usize,
    iv: [u8; IV_BYTES],
    body: String,
}

/// The block of AES.
const IV_BYTES: usize = 16;
/// The part of the initialisation vector that salts the passphrase (PKCS#5 v1.5).
const SALT_BYTES: usize = 8;

impl<'a> Traditional<'a> {
    /// None for another format, the cipher's name for one that is not supported.
    fn parse(text: &'a str) -> Option<Result<Self, String>> {
        let info = header(text, "DEK-Info:")?;
        let (cipher, iv) = info.split_once(',').unwrap_or((info, ""));
        let unsupported = || Some(Err(cipher.to_owned()));
        let (algorithm, key_bytes) = match cipher {
            "AES-128-CBC" => (&AES_128, 16),
            "AES-192-CBC" => (&AES_192, 24),
            "AES-256-CBC" => (&AES_256, 32),
            _ => return unsupported(),
        };
        let label = ["RSA PRIVATE KEY", "EC PRIVATE KEY"]
            .into_iter()
            .find(|label| text.contains(&format!("-----BEGIN {label}-----")));
        let (Some(label), Some(iv)) = (label, parse_hex(iv)) else {
            return unsupported();
        };
        // The body follows the empty line after the headers.
        let body = text
            .lines()
            .map(str::trim)
            .skip_while(|line| !line.is_empty())
            .take_while(|line| !line.starts_with("-----END"))
            .collect();
        Some(Ok(Self {
            label,
            algorithm,
            key_bytes,
            iv,
            body,
        }))
    }

    fn decrypt(&self, passphrase: &str) -> Option<PrivateKey> {
        let key = self.derive(passphrase);
        let key = UnboundCipherKey::new(self.algorithm, &key).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let mut body = Zeroizing::new(STANDARD.decode(&self.body).ok()?);
        let context = DecryptionContext::Iv128(FixedLength::from(&self.iv));
        let plain = key.decrypt(&mut body, context).ok()?;
        let encoded = Zeroizing::new(STANDARD.encode(plain));
        let label = self.label;
        let open = format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            *encoded
        );
        keys::decode_secret_key(&Zeroizing::new(open), None).ok()
    }

    /// `EVP_BytesToKey` of OpenSSL with MD5 and one round: the format's own, and weak.
    fn derive(&self, passphrase: &str) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(Vec::with_capacity(self.key_bytes + 16));
        while key.len() < self.key_bytes {
            let mut digest = md5::Context::new();
            digest.consume(&key[key.len().saturating_sub(16)..]);
            digest.consume(passphrase.as_bytes());
            digest.consume(&self.iv[..SALT_BYTES]);
            key.extend_from_slice(&digest.finalize().0);
        }
        key.truncate(self.key_bytes);
        key
    }
}

fn parse_hex(text: &str) -> Option<[u8; IV_BYTES]> {
    let text = text.trim().as_bytes();
    let mut bytes = [0; IV_BYTES];
    if text.len() != 2 * IV_BYTES {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
