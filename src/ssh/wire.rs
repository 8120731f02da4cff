//! Data types of the SSH wire format (RFC 4251 §5) and the message numbers in use here.

use thiserror::Error;

/// Message numbers (RFC 4250 §4.1.2, RFC 5656 §7.1, RFC 8308 §2.3).
#[expect(missing_docs, reason = "the names are the RFC's")]
pub mod msg {
    pub const DISCONNECT: u8 = 1;
    pub const IGNORE: u8 = 2;
    pub const UNIMPLEMENTED: u8 = 3;
    pub const DEBUG: u8 = 4;
    pub const SERVICE_REQUEST: u8 = 5;
    pub const SERVICE_ACCEPT: u8 = 6;
    pub const EXT_INFO: u8 = 7;
    pub const KEXINIT: u8 = 20;
    pub const NEWKEYS: u8 = 21;
    pub const KEX_ECDH_INIT: u8 = 30;
    pub const KEX_ECDH_REPLY: u8 = 31;
    pub const USERAUTH_REQUEST: u8 = 50;
    pub const USERAUTH_FAILURE: u8 = 51;
    pub const USERAUTH_SUCCESS: u8 = 52;
    pub const USERAUTH_BANNER: u8 = 53;
    pub const USERAUTH_PK_OK: u8 = 60;
    pub const USERAUTH_INFO_REQUEST: u8 = 60;
    pub const USERAUTH_PASSWD_CHANGEREQ: u8 = 60;
    pub const USERAUTH_INFO_RESPONSE: u8 = 61;
    pub const GLOBAL_REQUEST: u8 = 80;
    pub const REQUEST_SUCCESS: u8 = 81;
    pub const REQUEST_FAILURE: u8 = 82;
    pub const CHANNEL_OPEN: u8 = 90;
    pub const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub const CHANNEL_DATA: u8 = 94;
    pub const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub const CHANNEL_EOF: u8 = 96;
    pub const CHANNEL_CLOSE: u8 = 97;
    pub const CHANNEL_REQUEST: u8 = 98;
    pub const CHANNEL_SUCCESS: u8 = 99;
    pub const CHANNEL_FAILURE: u8 = 100;
}

/// A message ended before the field that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("SSH message is shorter than its fields")]
pub struct Truncated;

/// Reads the fields of one message, front to back, without copying.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes as they are.
    ///
    /// # Errors
    /// [`Truncated`] when fewer remain.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// A `byte`.
    ///
    /// # Errors
    /// [`Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        Ok(self.take(1)?[0])
    }

    /// A `boolean`: any value but zero is true (RFC 4251 §5).
    ///
    /// # Errors
    /// [`Truncated`] at the end.
    pub fn bool(&mut self) -> Result<bool, Truncated> {
        Ok(self.u8()? != 0)
    }

    /// A `uint32`.
    ///
    /// # Errors
    /// [`Truncated`] when fewer than four bytes remain.
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| Truncated)?))
    }

    /// A `string`: opaque bytes, not necessarily UTF-8.
    ///
    /// # Errors
    /// [`Truncated`] when the length goes past the end.
    pub fn string(&mut self) -> Result<&'a [u8], Truncated> {
        let length = self.u32()? as usize;
        self.take(length)
    }
}

/// Appends fields of the SSH wire format to a byte buffer.
pub trait WriteExt {
    /// A `byte`.
    fn put_byte(&mut self, value: u8) -> &mut Self;
    /// A `boolean`.
    fn put_bool(&mut self, value: bool) -> &mut Self;
    /// A `uint32`.
    fn put_uint32(&mut self, value: u32) -> &mut Self;
    /// A `string`. `value` is shorter than 2^32 bytes, as every message is.
    fn put_string(&mut self, value: impl AsRef<[u8]>) -> &mut Self;
    /// A non-negative `mpint` from big-endian magnitude bytes.
    fn put_mpint(&mut self, magnitude: &[u8]) -> &mut Self;
    /// Bytes as they are.
    fn put_raw(&mut self, value: &[u8]) -> &mut Self;
}

impl WriteExt for Vec<u8> {
    fn put_byte(&mut self, value: u8) -> &mut Self {
        self.push(value);
        self
    }

    fn put_bool(&mut self, value: bool) -> &mut Self {
        self.put_byte(u8::from(value))
    }

    fn put_uint32(&mut self, value: u32) -> &mut Self {
        self.put_raw(&value.to_be_bytes())
    }

    fn put_string(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        self.put_uint32(value.len() as u32);
        self.put_raw(value)
    }

    fn put_mpint(&mut self, magnitude: &[u8]) -> &mut Self {
        let start = magnitude.iter().position(|byte| *byte != 0);
        let digits = start.map_or(&[][..], |start| &magnitude[start..]);
        let sign = digits.first().is_some_and(|byte| byte & 0x80 != 0);
        self.put_uint32((digits.len() + usize::from(sign)) as u32);
        if sign {
            self.push(0);
        }
        self.put_raw(digits)
    }

    fn put_raw(&mut self, value: &[u8]) -> &mut Self {
        self.extend_from_slice(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mpints_of_rfc_4251() {
        let cases: [(&[u8], &[u8]); 4] = [
            (&[], &[0, 0, 0, 0]),
            (
                &[0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
                &[0, 0, 0, 8, 0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
            ),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
            (&[0, 0, 1], &[0, 0, 0, 1, 1]),
        ];
        for (magnitude, expected) in cases {
            let mut out = Vec::new();
            out.put_mpint(magnitude);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn strings_past_the_end_are_refused() {
        let mut reader = Reader::new(&[0, 0, 0, 5, b'a']);
        assert_eq!(reader.string(), Err(Truncated));
        assert_eq!(Reader::new(&[0, 0, 0]).u32(), Err(Truncated));
    }
}
