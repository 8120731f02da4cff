//! The exchange hash H and the keys that come from it (RFC 4253 §7.2 and §8).

use aws_lc_rs::digest::{self, Digest};
use zeroize::Zeroizing;

use super::kex::SharedSecret;
use crate::ssh::wire::WriteExt;

/// Everything both ends must have seen alike, in the order it is hashed.
pub(super) struct Transcript<'a> {
    /// The client's identification string, without line end.
    pub(super) client_version: &'a [u8],
    /// The server's identification string, without line end.
    pub(super) server_version: &'a [u8],
    /// The payload of the client's `SSH_MSG_KEXINIT`.
    pub(super) client_kexinit: &'a [u8],
    /// The payload of the server's `SSH_MSG_KEXINIT`.
    pub(super) server_kexinit: &'a [u8],
    /// The server's public host key blob.
    pub(super) host_key: &'a [u8],
    /// The client's key exchange string.
    pub(super) init: &'a [u8],
    /// The server's key exchange string.
    pub(super) reply: &'a [u8],
}

impl Transcript<'_> {
    /// H, with the hash of the key exchange method.
    pub(super) fn hash(&self, algorithm: &'static digest::Algorithm, k: &SharedSecret) -> Digest {
        let mut fields = Vec::new();
        fields
            .put_string(self.client_version)
            .put_string(self.server_version)
            .put_string(self.client_kexinit)
            .put_string(self.server_kexinit)
            .put_string(self.host_key)
            .put_string(self.init)
            .put_string(self.reply);
        let mut context = digest::Context::new(algorithm);
        context.update(&fields);
        context.update(k.encoded());
        context.finish()
    }
}

/// The letters that tell the derived values apart (RFC 4253 §7.2), for one direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letters {
    iv: u8,
    key: u8,
    mac: u8,
}

impl Letters {
    /// What the client encrypts with.
    pub(super) const CLIENT_TO_SERVER: Self = Self {
        iv: b'A',
        key: b'C',
        mac: b'E',
    };

    /// What the server encrypts with.
    pub(super) const SERVER_TO_CLIENT: Self = Self {
        iv: b'B',
        key: b'D',
        mac: b'F',
    };
}

/// The source of the keys of one direction.
pub(super) struct KeySource<'a> {
    /// The hash of the key exchange method.
    pub(super) algorithm: &'static digest::Algorithm,
    /// K.
    pub(super) secret: &'a SharedSecret,
    /// H of this exchange.
    pub(super) hash: &'a [u8],
    /// H of the first exchange.
    pub(super) session_id: &'a [u8],
    /// Which direction.
    pub(super) letters: Letters,
}

impl KeySource<'_> {
    /// The initial IV.
    pub(super) fn iv<const N: usize>(&self) -> [u8; N] {
        *self.derive(self.letters.iv)
    }

    /// The encryption key.
    pub(super) fn key<const N: usize>(&self) -> Zeroizing<[u8; N]> {
        self.derive(self.letters.key)
    }

    /// The integrity key.
    pub(super) fn mac<const N: usize>(&self) -> Zeroizing<[u8; N]> {
        self.derive(self.letters.mac)
    }

    /// HASH(K || H || letter || session_id), then as often as needed HASH(K || H || all so far).
    fn derive<const N: usize>(&self, letter: u8) -> Zeroizing<[u8; N]> {
        let mut derived = Zeroizing::new([0; N]);
        let mut filled = 0;
        while filled < N {
            let mut context = digest::Context::new(self.algorithm);
            context.update(self.secret.encoded());
            context.update(self.hash);
            if filled == 0 {
                context.update(&[letter]);
                context.update(self.session_id);
            } else {
                context.update(&derived[..filled]);
            }
            let block = context.finish();
            let count = block.as_ref().len().min(N - filled);
            derived[filled..filled + count].copy_from_slice(&block.as_ref()[..count]);
            filled += count;
        }
        derived
    }
}
