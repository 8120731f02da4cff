//! smux v1 frames: an eight-byte header, little-endian, and for PSH a payload.
//!
//! ```text
//! version:u8 = 1 | command:u8 | length:u16le | stream_id:u32le | length bytes
//! ```

use std::fmt;

use bytes::{Buf, Bytes};
use thiserror::Error;

/// The only version both official ends speak; it is not negotiated.
pub const VERSION: u8 = 0x01;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 8;

/// Number of a stream, chosen by the side that opens it: odd from 3 for a client, even from 2 for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame means. UPD (4) belongs to version 2 and is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Opens a stream.
    Syn = 0x00,
    /// No more data will follow on this stream from this side.
    Fin = 0x01,
    /// Data.
    Psh = 0x02,
    /// Keeps alive; belongs to no stream.
    Nop = 0x03,
}

impl TryFrom<u8> for Command {
    type Error = DecodeError;

    fn try_from(value: u8) -> Result<Self, DecodeError> {
        match value {
            0x00 => Ok(Self::Syn),
            0x01 => Ok(Self::Fin),
            0x02 => Ok(Self::Psh),
            0x03 => Ok(Self::Nop),
            unknown => Err(DecodeError::UnknownCommand(unknown)),
        }
    }
}

/// Bytes that are not smux v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The version byte is not 1.
    #[error("smux version is {0}, not 1")]
    UnsupportedVersion(u8),
    /// The command is not one of version 1.
    #[error("unknown smux command {0}")]
    UnknownCommand(u8),
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame means.
    pub command: Command,
    /// Bytes that follow, for PSH; 0 otherwise.
    pub length: u16,
    /// The stream; 0 for NOP.
    pub stream: StreamId,
}

impl Header {
    /// A header without payload.
    pub fn control(command: Command, stream: StreamId) -> Self {
        Self {
            command,
            length: 0,
            stream,
        }
    }

    /// The header as it goes over the wire.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [l0, l1] = self.length.to_le_bytes();
        let [s0, s1, s2, s3] = self.stream.0.to_le_bytes();
        [VERSION, self.command as u8, l0, l1, s0, s1, s2, s3]
    }

    /// Parses a header.
    ///
    /// # Errors
    /// [`DecodeError`] when version or command are not those of version 1.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, DecodeError> {
        let [version, command, l0, l1, s0, s1, s2, s3] = bytes;
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        Ok(Self {
            command: command.try_into()?,
            length: u16::from_le_bytes([l0, l1]),
            stream: StreamId(u32::from_le_bytes([s0, s1, s2, s3])),
        })
    }
}

/// What the decoder found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A stream was opened.
    Syn(StreamId),
    /// A stream was ended by the peer.
    Fin(StreamId),
    /// Payload of a PSH frame, or the part of it that has arrived; never empty.
    Data(StreamId, Bytes),
    /// A sign of life.
    Nop,
}

/// Cuts a byte stream into frames, however it arrives.
///
/// Holds at most a partial header: payload is passed on as it comes, in slices of the input, so that a long frame
/// on a slow link delays nobody.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
}

#[derive(Debug)]
enum State {
    Header {
        bytes: [u8; HEADER_BYTES],
        filled: usize,
    },
    Payload {
        stream: StreamId,
        /// At least 1.
        remaining: usize,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Header {
            bytes: [0; HEADER_BYTES],
            filled: 0,
        }
    }
}

impl Decoder {
    /// Takes the next frame, or piece of one, off the front of `input`; `None` when `input` is used up.
    ///
    /// A length on SYN, FIN or NOP is ignored and no body is expected, as in the official library; no known sender
    /// writes one. PSH of length 0 is skipped.
    ///
    /// # Errors
    /// [`DecodeError`], after which the position in the byte stream is lost and the decoder of no more use.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Received>, DecodeError> {
        while !input.is_empty() {
            match &mut self.state {
                State::Header { bytes, filled } => {
                    let count = input.len().min(HEADER_BYTES - *filled);
                    input.copy_to_slice(&mut bytes[*filled..*filled + count]);
                    *filled += count;
                    if *filled < HEADER_BYTES {
                        break;
                    }
                    let header = Header::decode(*bytes)?;
                    self.state = State::default();
                    match header.command {
                        Command::Syn => return Ok(Some(Received::Syn(header.stream))),
                        Command::Fin => return Ok(Some(Received::Fin(header.stream))),
                        Command::Nop => return Ok(Some(Received::Nop)),
                        Command::Psh if header.length == 0 => {}
                        Command::Psh => {
                            self.state = State::Payload {
                                stream: header.stream,
                                remaining: usize::from(header.length),
                            };
                        }
                    }
                }
                State::Payload { stream, remaining } => {
                    let stream = *stream;
                    let piece = input.split_to(input.len().min(*remaining));
                    *remaining -= piece.len();
                    if *remaining == 0 {
                        self.state = State::default();
                    }
                    return Ok(Some(Received::Data(stream, piece)));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(chunks: &[&[u8]]) -> Result<Vec<Received>, DecodeError> {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for chunk in chunks {
            let mut input = Bytes::copy_from_slice(chunk);
            while let Some(received) = decoder.next(&mut input)? {
                found.push(received);
            }
        }
        Ok(found)
    }

    /// Bytes as xtaci/smux writes them with `Version: 1`.
    const FOREIGN: &[(Header, [u8; 8])] = &[
        (
            Header {
                command: Command::Syn,
                length: 0,
                stream: StreamId(3),
            },
            [0x01, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00],
        ),
        (
            Header {
                command: Command::Fin,
                length: 0,
                stream: StreamId(5),
            },
            [0x01, 0x01, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00],
        ),
        (
            Header {
                command: Command::Psh,
                length: 0x8000,
                stream: StreamId(0x0403_0201),
            },
            [0x01, 0x02, 0x00, 0x80, 0x01, 0x02, 0x03, 0x04],
        ),
        (
            Header {
                command: Command::Nop,
                length: 0,
                stream: StreamId(0),
            },
            [0x01, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00],
        ),
    ];

    #[test]
    fn headers_are_the_official_ones() {
        for (header, bytes) in FOREIGN {
            assert_eq!(header.encode(), *bytes);
            assert_eq!(Header::decode(*bytes), Ok(*header));
        }
    }

    #[test]
    fn other_versions_and_commands_are_refused() {
        let version_2 = [0x02, 0x00, 0, 0, 3, 0, 0, 0];
        assert_eq!(
            Header::decode(version_2),
            Err(DecodeError::UnsupportedVersion(2))
        );
        let upd = [0x01, 0x04, 8, 0, 3, 0, 0, 0];
        assert_eq!(Header::decode(upd), Err(DecodeError::UnknownCommand(4)));
        assert_eq!(
            decode_all(&[b"SSH-2.0-OpenSSH_9.2\r\n"]),
            Err(DecodeError::UnsupportedVersion(b'S'))
        );
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let wire = b"\x01\0\0\0\x03\0\0\0\x01\x02\x05\0\x03\0\0\0hello\x01\x03\0\0\0\0\0\0\x01\x02\0\0\x03\0\0\0\x01\x01\0\0\x03\0\0\0";
        for size in 1..=wire.len() {
            let chunks: Vec<_> = wire.chunks(size).collect();
            let mut data = Vec::new();
            let mut rest = Vec::new();
            for received in decode_all(&chunks).unwrap() {
                match received {
                    Received::Data(StreamId(3), piece) => data.extend_from_slice(&piece),
                    other => rest.push(other),
                }
            }
            assert_eq!(data, b"hello");
            let id = StreamId(3);
            assert_eq!(
                rest,
                [Received::Syn(id), Received::Nop, Received::Fin(id)],
                "in chunks of {size}"
            );
        }
    }

    #[test]
    fn a_length_without_body_is_ignored() {
        let wire = b"\x01\0\x07\0\x03\0\0\0\x01\x01\0\0\x03\0\0\0";
        assert_eq!(
            decode_all(&[wire]),
            Ok(vec![Received::Syn(StreamId(3)), Received::Fin(StreamId(3))])
        );
    }
}
