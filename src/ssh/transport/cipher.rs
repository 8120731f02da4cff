//! Protection of packets: encryption and integrity of one direction, under one set of keys.
//!
//! A packet is `length || padding_length || payload || padding`, followed by a tag. What is
//! encrypted, and what the tag covers, differs per algorithm; everything here works in place.

use aws_lc_rs::aead::chacha20_poly1305_openssh as chacha;
use aws_lc_rs::aead::{self, AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, AES_128, AES_192, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroizing;

use super::Error;
use super::algorithm::{Cipher, Mac};
use super::exchange_hash::KeySource;

/// Bytes of the `packet_length` field.
pub(super) const LENGTH_BYTES: usize = 4;

/// Block size of AES.
const AES_BLOCK: usize = 16;

/// The smallest block a packet is padded to (RFC 4253 §6).
const MIN_BLOCK: usize = 8;

/// Tag size of the AEAD ciphers.
const AEAD_TAG: usize = 16;

/// What is negotiated for one direction. `mac` is `None` for the ciphers that have one inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) cipher: Cipher,
    pub(super) mac: Option<Mac>,
}

/// Which way packets go through a [`Protection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Outgoing,
    Incoming,
}

/// The state of encryption in one direction.
pub(super) enum Protection {
    /// Before the first key exchange.
    None,
    Gcm(Gcm),
    ChaChaSeal(chacha::SealingKey),
    ChaChaOpen(chacha::OpeningKey),
    Ctr(Box<Ctr>),
}

impl Protection {
    /// Derives the keys of `suite`.
    pub(super) fn new(
        suite: Suite,
        direction: Direction,
        source: &KeySource<'_>,
    ) -> Result<Self, Error> {
        match suite.cipher {
            Cipher::Aes128Gcm => Self::gcm(&AES_128_GCM, source.key::<16>(), source),
            Cipher::Aes256Gcm => Self::gcm(&AES_256_GCM, source.key::<32>(), source),
            Cipher::ChaCha20Poly1305 => {
                let key = source.key::<{ chacha::KEY_LEN }>();
                Ok(match direction {
                    Direction::Outgoing => Self::ChaChaSeal(chacha::SealingKey::new(&key)),
                    Direction::Incoming => Self::ChaChaOpen(chacha::OpeningKey::new(&key)),
                })
            }
            Cipher::Aes128Ctr => Self::ctr(&AES_128, source.key::<16>(), suite.mac, source),
            Cipher::Aes192Ctr => Self::ctr(&AES_192, source.key::<24>(), suite.mac, source),
            Cipher::Aes256Ctr => Self::ctr(&AES_256, source.key::<32>(), suite.mac, source),
        }
    }

    fn gcm<const N: usize>(
        algorithm: &'static aead::Algorithm,
        key: Zeroizing<[u8; N]>,
        source: &KeySource<'_>,
    ) -> Result<Self, Error> {
        Ok(Self::Gcm(Gcm {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref())?),
            nonce: source.iv(),
        }))
    }

    fn ctr<const N: usize>(
        algorithm: &'static cipher::Algorithm,
        key: Zeroizing<[u8; N]>,
        mac: Option<Mac>,
        source: &KeySource<'_>,
    ) -> Result<Self, Error> {
        Ok(Self::Ctr(Box::new(Ctr {
            key: EncryptingKey::ctr(UnboundCipherKey::new(algorithm, key.as_ref())?)?,
            counter: u128::from_be_bytes(source.iv()),
            // Negotiation gives every cipher that needs a MAC one.
            mac: MacKey::new(mac.ok_or(Error::Crypto)?, source),
        })))
    }

    /// What a packet is padded to a multiple of.
    pub(super) fn block_size(&self) -> usize {
        match self {
            Self::None | Self::ChaChaSeal(_) | Self::ChaChaOpen(_) => MIN_BLOCK,
            Self::Gcm(_) | Self::Ctr(_) => AES_BLOCK,
        }
    }

    /// How many of the four length bytes count for that multiple: none where they are not encrypted
    /// together with the rest.
    pub(super) fn aligned_length_bytes(&self) -> usize {
        match self {
            Self::None => LENGTH_BYTES,
            Self::Ctr(ctr) if !ctr.mac.encrypt_then_mac => LENGTH_BYTES,
            _ => 0,
        }
    }

    /// Bytes that follow the packet.
    pub(super) fn tag_size(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Gcm(_) | Self::ChaChaSeal(_) | Self::ChaChaOpen(_) => AEAD_TAG,
            Self::Ctr(ctr) => ctr.mac.size(),
        }
    }

    /// Bytes that must be there before the length of a packet can be told.
    pub(super) fn head_size(&self) -> usize {
        match self {
            Self::Ctr(ctr) if !ctr.mac.encrypt_then_mac => AES_BLOCK,
            _ => LENGTH_BYTES,
        }
    }

    /// The length field of the packet that begins with `head`, of [`Self::head_size`] bytes.
    ///
    /// Not authenticated yet: good for nothing but to know how many bytes to wait for.
    pub(super) fn peek_length(&self, sequence: u32, head: &[u8]) -> Result<u32, Error> {
        let mut block = [0; AES_BLOCK];
        let block = &mut block[..self.head_size()];
        block.copy_from_slice(&head[..block.len()]);
        match self {
            Self::ChaChaOpen(key) => {
                let length = key.decrypt_packet_length(sequence, first_four(block));
                return Ok(u32::from_be_bytes(length));
            }
            Self::Ctr(ctr) if !ctr.mac.encrypt_then_mac => ctr.apply(block)?,
            _ => {}
        }
        Ok(u32::from_be_bytes(first_four(block)))
    }

    /// Encrypts `packet` in place and writes its tag.
    pub(super) fn seal(
        &mut self,
        sequence: u32,
        packet: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Error> {
        match self {
            Self::None => {}
            Self::Gcm(gcm) => {
                let (length, body) = packet.split_at_mut(LENGTH_BYTES);
                let nonce = gcm.next_nonce();
                let made = gcm
                    .key
                    .seal_in_place_separate_tag(nonce, Aad::from(&*length), body)?;
                tag.copy_from_slice(made.as_ref());
            }
            Self::ChaChaSeal(key) => {
                let tag = tag.try_into().map_err(|_| Error::Crypto)?;
                key.seal_in_place(sequence, packet, tag);
            }
            Self::Ctr(ctr) if ctr.mac.encrypt_then_mac => {
                ctr.advance(&mut packet[LENGTH_BYTES..])?;
                tag.copy_from_slice(ctr.mac.over(sequence, packet).as_ref());
            }
            Self::Ctr(ctr) => {
                tag.copy_from_slice(ctr.mac.over(sequence, packet).as_ref());
                ctr.advance(packet)?;
            }
            Self::ChaChaOpen(_) => return Err(Error::Crypto),
        }
        Ok(())
    }

    /// Checks `tag` and decrypts `packet` in place.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and no other however the packet is wrong; its content must then not be used.
    pub(super) fn open(
        &mut self,
        sequence: u32,
        packet: &mut [u8],
        tag: &[u8],
    ) -> Result<(), Error> {
        match self {
            Self::None => {}
            Self::Gcm(gcm) => {
                let (length, body) = packet.split_at_mut(LENGTH_BYTES);
                let nonce = gcm.next_nonce();
                gcm.key
                    .open_in_place_separate_tag(nonce, Aad::from(&*length), tag, body)
                    .map_err(|_| Error::Corrupt)?;
            }
            Self::ChaChaOpen(key) => {
                let tag = tag.try_into().map_err(|_| Error::Corrupt)?;
                key.open_in_place(sequence, packet, tag)
                    .map_err(|_| Error::Corrupt)?;
            }
            Self::Ctr(ctr) if ctr.mac.encrypt_then_mac => {
                ctr.mac.verify(sequence, packet, tag)?;
                ctr.advance(&mut packet[LENGTH_BYTES..])?;
            }
            Self::Ctr(ctr) => {
                ctr.advance(packet)?;
                ctr.mac.verify(sequence, packet, tag)?;
            }
            Self::ChaChaSeal(_) => return Err(Error::Crypto),
        }
        Ok(())
    }
}

/// AES-GCM as in OpenSSH `PROTOCOL` §1.6: the length is authenticated, not encrypted.
pub(super) struct Gcm {
    key: LessSafeKey,
    /// Four fixed bytes and a counter of packets (RFC 5647 §7.1).
    nonce: [u8; 12],
}

impl Gcm {
    /// The nonce of this packet; the next call gives another.
    fn next_nonce(&mut self) -> Nonce {
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        for byte in self.nonce[4..].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
        nonce
    }
}

/// AES in counter mode with an HMAC.
pub(super) struct Ctr {
    key: EncryptingKey,
    /// Counts the blocks of all packets (RFC 4344 §4).
    counter: u128,
    mac: MacKey,
}

impl Ctr {
    /// Encrypts or decrypts `bytes`, whole blocks, and counts them.
    fn advance(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.apply(bytes)?;
        let blocks = (bytes.len() / AES_BLOCK) as u128;
        self.counter = self.counter.wrapping_add(blocks);
        Ok(())
    }

    /// Encrypts or decrypts `bytes` and leaves the counter.
    fn apply(&self, bytes: &mut [u8]) -> Result<(), Error> {
        let iv = FixedLength::from(self.counter.to_be_bytes());
        let context = EncryptionContext::Iv128(iv);
        self.key.less_safe_encrypt(bytes, context)?;
        Ok(())
    }
}

/// HMAC-SHA-2 over sequence number and packet.
struct MacKey {
    key: hmac::Key,
    /// Whether the MAC covers the packet as encrypted (`…-etm@openssh.com`).
    encrypt_then_mac: bool,
}

impl MacKey {
    fn new(mac: Mac, source: &KeySource<'_>) -> Self {
        let key = match mac {
            Mac::HmacSha256 | Mac::HmacSha256Etm => {
                hmac::Key::new(hmac::HMAC_SHA256, source.mac::<32>().as_ref())
            }
            Mac::HmacSha512 | Mac::HmacSha512Etm => {
                hmac::Key::new(hmac::HMAC_SHA512, source.mac::<64>().as_ref())
            }
        };
        Self {
            key,
            encrypt_then_mac: matches!(mac, Mac::HmacSha256Etm | Mac::HmacSha512Etm),
        }
    }

    fn size(&self) -> usize {
        self.key.algorithm().tag_len()
    }

    fn over(&self, sequence: u32, packet: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&sequence.to_be_bytes());
        context.update(packet);
        context.sign()
    }

    /// Compares in constant time.
    fn verify(&self, sequence: u32, packet: &[u8], tag: &[u8]) -> Result<(), Error> {
        let expected = self.over(sequence, packet);
        verify_slices_are_equal(expected.as_ref(), tag).map_err(|_| Error::Corrupt)
    }
}

/// The length field at the beginning of `block`, which is never shorter.
fn first_four(block: &[u8]) -> [u8; LENGTH_BYTES] {
    std::array::from_fn(|index| block[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_gcm_leaves_the_fixed_part_alone() {
        let key = UnboundKey::new(&AES_128_GCM, &[0; 16]).unwrap();
        let mut gcm = Gcm {
            key: LessSafeKey::new(key),
            nonce: [7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0xff],
        };
        let _ = gcm.next_nonce();
        assert_eq!(gcm.nonce, [7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 1, 0]);
        gcm.nonce[4..].fill(0xff);
        assert_eq!(
            *gcm.next_nonce().as_ref(),
            [7, 7, 7, 7, 255, 255, 255, 255, 255, 255, 255, 255]
        );
        assert_eq!(gcm.nonce, [7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_counter_of_ctr_runs_on_over_packets() {
        let make = || Ctr {
            key: EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, &[1; 16]).unwrap()).unwrap(),
            counter: u128::MAX - 1,
            mac: MacKey {
                key: hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]),
                encrypt_then_mac: false,
            },
        };
        let mut whole = [0; 96];
        make().advance(&mut whole).unwrap();
        let mut pieces = [0; 96];
        let mut ctr = make();
        for piece in [0..16, 16..64, 64..96] {
            ctr.advance(&mut pieces[piece]).unwrap();
        }
        assert_eq!(whole, pieces);
        assert_eq!(ctr.counter, 4);
    }

    /// NIST SP 800-38A F.5.1.
    #[test]
    fn ctr_is_that_of_nist() {
        let key = 0x2b7e1516_28aed2a6_abf71588_09cf4f3c_u128.to_be_bytes();
        let ctr = Ctr {
            key: EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, &key).unwrap()).unwrap(),
            counter: 0xf0f1f2f3_f4f5f6f7_f8f9fafb_fcfdfeff,
            mac: MacKey {
                key: hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]),
                encrypt_then_mac: false,
            },
        };
        let mut block = 0x6bc1bee2_2e409f96_e93d7e11_7393172a_u128.to_be_bytes();
        ctr.apply(&mut block).unwrap();
        assert_eq!(
            u128::from_be_bytes(block),
            0x874d6191_b620e326_1bef6864_990db6ce
        );
    }
}
