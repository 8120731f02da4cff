//! Packets on the wire (RFC 4253 §6): framing, padding, sequence numbers, protection, compression.

use aws_lc_rs::rand;
use bytes::{Buf, Bytes, BytesMut};

use super::Error;
use super::algorithm::Compression;
use super::cipher::{LENGTH_BYTES, Protection};
use super::compression::{Compressor, Decompressor};

/// Largest `packet_length` accepted or sent: that of OpenSSH (`PACKET_MAX_SIZE`). RFC 4253 §6.1 asks for 35 000.
pub(super) const MAX_PACKET: usize = 256 * 1024;

/// Largest message that is accepted or sent. The rest of a packet is for padding and for what
/// compression adds to bytes it cannot make shorter; so whatever was received can be passed on.
pub const MAX_MESSAGE: usize = MAX_PACKET - 4 * 1024;

/// Padding never has fewer bytes (RFC 4253 §6).
const MIN_PADDING: usize = 4;

/// Bytes before the payload: the length and the padding length.
const HEADER: usize = LENGTH_BYTES + 1;

/// Packets one key may protect. Sequence numbers are the nonces of chacha20-poly1305 and what makes
/// a MAC unique, so they must not come round (RFC 4344 §3.1).
const MAX_PACKETS_PER_KEY: u64 = 1 << 32;

/// Packets after which keys should be changed: half of that, as RFC 4344 §3.1 recommends.
const REKEY_PACKETS: u64 = 1 << 31;

/// What one key has protected so far.
#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    bytes: u64,
    packets: u64,
}

impl Usage {
    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes += bytes as u64;
        self.packets += 1;
        if self.packets > MAX_PACKETS_PER_KEY {
            return Err(Error::SequenceExhausted);
        }
        Ok(())
    }

    fn is_due(&self, rekey_bytes: u64) -> bool {
        self.bytes >= rekey_bytes || self.packets >= REKEY_PACKETS
    }
}

/// What one direction changes to with `SSH_MSG_NEWKEYS`.
pub(super) struct Keys {
    pub(super) protection: Protection,
    pub(super) compression: Compression,
}

/// Random bytes for padding, drawn in advance: asking for each packet would cost as much as
/// encrypting a small one.
struct Noise {
    bytes: [u8; 512],
    used: usize,
}

impl Noise {
    fn new() -> Self {
        let bytes = [0; 512];
        let used = bytes.len();
        Self { bytes, used }
    }

    /// `count` bytes, at most 255, that were not given before.
    fn take(&mut self, count: usize) -> Result<&[u8], Error> {
        if self.bytes.len() - self.used < count {
            rand::fill(&mut self.bytes)?;
            self.used = 0;
        }
        let start = self.used;
        self.used += count;
        Ok(&self.bytes[start..self.used])
    }
}

/// Turns payloads into packets.
pub(super) struct PacketWriter {
    protection: Protection,
    /// What begins when the user is authenticated.
    compression: Compression,
    compressor: Option<Compressor>,
    /// The number of the next packet.
    sequence: u32,
    usage: Usage,
    noise: Noise,
}

impl PacketWriter {
    /// The state at the beginning of a connection: nothing is protected.
    pub(super) fn new() -> Self {
        Self {
            protection: Protection::None,
            compression: Compression::None,
            compressor: None,
            sequence: 0,
            usage: Usage::default(),
            noise: Noise::new(),
        }
    }

    /// The number of the next packet.
    pub(super) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Whether the key has protected enough.
    pub(super) fn is_rekey_due(&self, rekey_bytes: u64) -> bool {
        self.usage.is_due(rekey_bytes)
    }

    /// Goes over to new keys, after our `SSH_MSG_NEWKEYS`.
    ///
    /// Compression begins anew with them (RFC 4253 §6.2), if `authenticated` already.
    pub(super) fn rekey(&mut self, keys: Keys, reset_sequence: bool, authenticated: bool) {
        self.protection = keys.protection;
        self.compression = keys.compression;
        self.usage = Usage::default();
        if reset_sequence {
            self.sequence = 0;
        }
        self.compressor = None;
        if authenticated {
            self.authenticated();
        }
    }

    /// Begins compression, if that was negotiated: the user is authenticated.
    pub(super) fn authenticated(&mut self) {
        self.compressor = match self.compression {
            Compression::None => None,
            Compression::ZlibDelayed => Some(Compressor::new()),
        };
    }

    /// Appends the packet of `payload` to `output`.
    ///
    /// # Errors
    /// [`Error::InvalidSize`], [`Error::SequenceExhausted`], [`Error::Crypto`].
    pub(super) fn seal(&mut self, payload: &[u8], output: &mut BytesMut) -> Result<(), Error> {
        let size = payload.len();
        if size == 0 || size > MAX_MESSAGE {
            return Err(Error::InvalidSize(size));
        }
        let payload = match &mut self.compressor {
            Some(compressor) => compressor.compress(payload)?,
            None => payload,
        };
        let padding = self.protection.padding_for(payload.len());
        let length = 1 + payload.len() + padding;
        let tag_size = self.protection.tag_size();
        self.usage.count(LENGTH_BYTES + length + tag_size)?;

        let start = output.len();
        output.reserve(LENGTH_BYTES + length + tag_size);
        output.extend_from_slice(&(length as u32).to_be_bytes());
        output.extend_from_slice(&[padding as u8]);
        output.extend_from_slice(payload);
        output.extend_from_slice(self.noise.take(padding)?);
        output.resize(start + LENGTH_BYTES + length + tag_size, 0);
        let (packet, tag) = output[start..].split_at_mut(LENGTH_BYTES + length);
        self.protection.seal(self.sequence, packet, tag)?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }
}

/// Turns bytes into payloads.
pub(super) struct PacketReader {
    protection: Protection,
    compression: Compression,
    decompressor: Option<Decompressor>,
    /// The number of the next packet.
    sequence: u32,
    usage: Usage,
    /// The beginning of a packet whose rest has not arrived. At most one packet.
    partial: Vec<u8>,
    /// Bytes of the next packet with its tag, once its head has arrived.
    next_size: Option<usize>,
}

impl PacketReader {
    /// The state at the beginning of a connection: nothing is protected.
    pub(super) fn new() -> Self {
        Self {
            protection: Protection::None,
            compression: Compression::None,
            decompressor: None,
            sequence: 0,
            usage: Usage::default(),
            partial: Vec::new(),
            next_size: None,
        }
    }

    /// Whether the first key exchange is still to come.
    pub(super) fn is_unprotected(&self) -> bool {
        matches!(self.protection, Protection::None)
    }

    /// Whether the beginning of a packet has arrived without its rest.
    pub(super) fn is_within_packet(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Whether the key has protected enough.
    pub(super) fn is_rekey_due(&self, rekey_bytes: u64) -> bool {
        self.usage.is_due(rekey_bytes)
    }

    /// Goes over to new keys, after the `SSH_MSG_NEWKEYS` of the other end.
    ///
    /// Compression begins anew with them (RFC 4253 §6.2), if `authenticated` already.
    pub(super) fn rekey(&mut self, keys: Keys, reset_sequence: bool, authenticated: bool) {
        self.protection = keys.protection;
        self.compression = keys.compression;
        self.usage = Usage::default();
        if reset_sequence {
            self.sequence = 0;
        }
        self.decompressor = None;
        if authenticated {
            self.authenticated();
        }
    }

    /// Begins compression, if that was negotiated: the user is authenticated.
    pub(super) fn authenticated(&mut self) {
        self.decompressor = match self.compression {
            Compression::None => None,
            Compression::ZlibDelayed => Some(Decompressor::new()),
        };
    }

    /// Takes the next packet from the front of `input`: its sequence number and payload, which is never empty.
    ///
    /// `None` when all of `input` was taken and is not enough.
    ///
    /// # Errors
    /// [`Error::InvalidPacket`], [`Error::Corrupt`], [`Error::Compression`], [`Error::SequenceExhausted`].
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Option<(u32, Bytes)>, Error> {
        if self.partial.is_empty()
            && let Some(size) = self.size_of(input)?
            && let Some((packet, rest)) = input.split_at_checked(size)
        {
            *input = rest;
            return self.open(packet).map(Some);
        }
        let mut partial = std::mem::take(&mut self.partial);
        loop {
            let size = self.size_of(&partial)?;
            if size == Some(partial.len()) {
                let opened = self.open(&partial)?;
                partial.clear();
                self.partial = partial;
                return Ok(Some(opened));
            }
            let wanted = size.unwrap_or(self.protection.head_size());
            let count = input.len().min(wanted - partial.len());
            if count == 0 {
                self.partial = partial;
                return Ok(None);
            }
            let (head, rest) = input.split_at(count);
            partial.extend_from_slice(head);
            *input = rest;
        }
    }

    /// The size with tag of the packet that begins with `bytes`, or `None` when too little is there to tell.
    fn size_of(&mut self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        if self.next_size.is_none()
            && let Some(head) = bytes.get(..self.protection.head_size())
        {
            let length = self.protection.peek_length(self.sequence, head)? as usize;
            if !self.protection.is_possible(length) {
                // An encrypted length tells an attacker nothing that a wrong tag would not.
                return Err(match self.protection {
                    Protection::None => Error::InvalidPacket("impossible length"),
                    _ => Error::Corrupt,
                });
            }
            self.next_size = Some(LENGTH_BYTES + length + self.protection.tag_size());
        }
        Ok(self.next_size)
    }

    /// Opens one packet, `bytes` being all of it.
    fn open(&mut self, bytes: &[u8]) -> Result<(u32, Bytes), Error> {
        self.next_size = None;
        let tag_start = bytes.len() - self.protection.tag_size();
        let (packet, tag) = bytes.split_at(tag_start);
        self.usage.count(bytes.len())?;

        let mut packet = packet.to_vec();
        let sequence = self.sequence;
        self.protection.open(sequence, &mut packet, tag)?;
        self.sequence = sequence.wrapping_add(1);

        // Looked at only now that the packet is known to be genuine.
        let padding = usize::from(packet[LENGTH_BYTES]);
        if padding < MIN_PADDING || HEADER + padding > packet.len() {
            return Err(Error::InvalidPacket("impossible padding"));
        }
        packet.truncate(packet.len() - padding);
        let payload = match &mut self.decompressor {
            Some(decompressor) => decompressor.decompress(&packet[HEADER..])?,
            None => {
                let mut payload = Bytes::from(packet);
                payload.advance(HEADER);
                payload
            }
        };
        if payload.is_empty() || payload.len() > MAX_MESSAGE {
            return Err(Error::InvalidPacket("impossible message size"));
        }
        Ok((sequence, payload))
    }
}

impl Protection {
    /// Padding for a payload of `size` bytes: the least that is allowed.
    fn padding_for(&self, size: usize) -> usize {
        let block = self.block_size();
        let rest = (self.aligned_length_bytes() + 1 + size) % block;
        let padding = block - rest;
        if padding < MIN_PADDING {
            padding + block
        } else {
            padding
        }
    }

    /// Whether a packet may have this length: the smallest has one byte of payload, and all of them
    /// are whole blocks.
    fn is_possible(&self, length: usize) -> bool {
        let least = (1 + MIN_PADDING + 1).max(self.block_size() - self.aligned_length_bytes());
        (least..=MAX_PACKET).contains(&length)
            && (self.aligned_length_bytes() + length).is_multiple_of(self.block_size())
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
