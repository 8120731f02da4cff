//! Lines and frames on a byte stream.
//!
//! ```text
//! line:   JSON, then a line feed; at most 8 KiB
//! frame:  kind (1 byte: 0x00 bytes, 0x01 notice), length (3 bytes, big-endian, at most 64 KiB), payload
//! ```

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::message::Notice;

/// The longest line: a request with long names.
const LINE_BYTES: usize = 8 * 1024;

/// The longest payload of a frame.
pub(super) const FRAME_BYTES: usize = 64 * 1024;

const HEADER_BYTES: usize = 4;
const KIND_BYTES: u8 = 0x00;
const KIND_NOTICE: u8 = 0x01;

/// Something between the first lines and the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Bytes of the stream.
    Bytes(Bytes),
    /// What is said beside them.
    Notice(Notice),
}

/// The other end does not speak as it should.
#[derive(Debug, Error)]
pub(super) enum DecodeError {
    /// More than a line may have.
    #[error("a line is too long")]
    LongLine,
    /// More than a frame may have.
    #[error("a frame of {0} bytes is too long")]
    LongFrame(usize),
    /// A kind of frame that does not exist.
    #[error("unknown kind of frame 0x{0:02x}")]
    Kind(u8),
    /// Not the JSON that belongs here.
    #[error("a message makes no sense")]
    Json(#[from] serde_json::Error),
    /// The stream failed, or ended within a line or frame.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes a line from the front of `buffer`, if a whole one is there.
///
/// # Errors
/// [`DecodeError::LongLine`], [`DecodeError::Json`].
fn take_line<T: DeserializeOwned>(buffer: &mut BytesMut) -> Result<Option<T>, DecodeError> {
    let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
        return match buffer.len() < LINE_BYTES {
            true => Ok(None),
            false => Err(DecodeError::LongLine),
        };
    };
    if end >= LINE_BYTES {
        return Err(DecodeError::LongLine);
    }
    let line = buffer.split_to(end + 1);
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Takes a frame from the front of `buffer`, if a whole one is there.
///
/// # Errors
/// [`DecodeError::LongFrame`], [`DecodeError::Kind`], [`DecodeError::Json`].
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
    let Some((&[kind, a, b, c], _)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if !matches!(kind, KIND_BYTES | KIND_NOTICE) {
        return Err(DecodeError::Kind(kind));
    }
    if length > FRAME_BYTES {
        return Err(DecodeError::LongFrame(length));
    }
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let payload = buffer.split_to(length).freeze();
    Ok(Some(match kind {
        KIND_BYTES => Frame::Bytes(payload),
        _ => Frame::Notice(serde_json::from_slice(&payload)?),
    }))
}

/// Appends a frame; `payload` is at most [`FRAME_BYTES`] long.
fn put_frame(kind: u8, payload: &[u8], out: &mut BytesMut) {
    debug_assert!(payload.len() <= FRAME_BYTES);
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&[kind]);
    out.extend_from_slice(&length);
    out.extend_from_slice(payload);
}

/// Reads lines, then frames. Every method may be dropped and called again; nothing is lost by that.
#[derive(Debug)]
pub(super) struct Reader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
        }
    }

    /// The next line; `None` at the end of the stream.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub(super) async fn line<T: DeserializeOwned>(&mut self) -> Result<Option<T>, DecodeError> {
        self.next(take_line).await
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub(super) async fn frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        self.next(take_frame).await
    }

    async fn next<T>(
        &mut self,
        take: impl Fn(&mut BytesMut) -> Result<Option<T>, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        loop {
            if let Some(taken) = take(&mut self.buffer)? {
                return Ok(Some(taken));
            }
            // Never more than one incomplete frame and what one read brings.
            self.buffer.reserve(HEADER_BYTES + FRAME_BYTES);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                };
            }
        }
    }
}

/// Writes lines, then frames. What a dropped call has left unwritten goes before what the next one writes.
#[derive(Debug)]
pub(super) struct Writer<W> {
    io: W,
    /// Encoded, and not yet written.
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(io: W) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
        }
    }

    /// Writes a message as a line.
    ///
    /// # Errors
    /// Of the stream.
    pub(super) async fn line(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.buffer.extend_from_slice(&serde_json::to_vec(message)?);
        self.buffer.extend_from_slice(b"\n");
        self.flush().await
    }

    /// Writes a notice.
    ///
    /// # Errors
    /// Of the stream.
    pub(super) async fn notice(&mut self, notice: &Notice) -> io::Result<()> {
        let payload = serde_json::to_vec(notice)?;
        self.frame(KIND_NOTICE, &payload).await
    }

    /// Writes bytes of the stream, in as many frames as they need.
    ///
    /// # Errors
    /// Of the stream.
    pub(super) async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(FRAME_BYTES) {
            self.frame(KIND_BYTES, piece).await?;
        }
        Ok(())
    }

    async fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        put_frame(kind, payload, &mut self.buffer);
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.buffer.is_empty() {
            if self.io.write_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Says that nothing more will be written.
    pub(super) async fn finish(&mut self) {
        // Who has gone needs not be told.
        let _gone = self.io.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message::Answer;
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_wherever_they_are_cut() {
        let mut whole = BytesMut::new();
        put_frame(KIND_BYTES, b"SSH-2.0-x\r\n", &mut whole);
        put_frame(KIND_NOTICE, br#"{"notice":"eof"}"#, &mut whole);
        put_frame(KIND_BYTES, b"", &mut whole);
        assert_eq!(&whole[..6], b"\x00\x00\x00\x0bSS");
        for cut in 0..=whole.len() {
            let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
            for part in [&whole[..cut], &whole[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = take_frame(&mut buffer).unwrap() {
                    frames.push(frame);
                }
            }
            let expected = [
                Frame::Bytes(Bytes::from_static(b"SSH-2.0-x\r\n")),
                Frame::Notice(Notice::Eof),
                Frame::Bytes(Bytes::new()),
            ];
            assert_eq!(frames, expected, "cut at {cut}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused_at_once() {
        let refused = |bytes: &[u8]| take_frame(&mut BytesMut::from(bytes)).unwrap_err();
        assert!(matches!(refused(&[2, 0, 0, 0]), DecodeError::Kind(2)));
        assert!(matches!(
            refused(&[0, 1, 0, 1]),
            DecodeError::LongFrame(0x0001_0001)
        ));
        assert!(matches!(refused(&[1, 0, 0, 1, b'{']), DecodeError::Json(_)));
        let mut endless = BytesMut::from(&[b'x'; LINE_BYTES][..]);
        assert!(matches!(
            take_line::<Answer>(&mut endless),
            Err(DecodeError::LongLine)
        ));
        let mut partly = BytesMut::from(&b"{\"answer\":"[..]);
        assert!(take_line::<Answer>(&mut partly).unwrap().is_none());
    }

    #[tokio::test]
    async fn an_end_in_the_middle_is_no_end() {
        let mut reader = Reader::new(&[0, 0, 0, 9, 1][..]);
        assert!(matches!(reader.frame().await, Err(DecodeError::Io(_))));
        let mut reader = Reader::new(&[0, 0, 0, 1, 1][..]);
        assert!(reader.frame().await.unwrap().is_some());
        assert!(reader.frame().await.unwrap().is_none());
    }

    proptest! {
        /// Whatever comes, it is understood or refused, and nothing is held beyond one frame.
        #[test]
        fn nonsense_ends_somewhere(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_frame(&mut buffer) {}
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_line::<Notice>(&mut buffer) {}
        }
    }
}
