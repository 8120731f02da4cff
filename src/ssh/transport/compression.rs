//! zlib compression of payloads (RFC 4253 §6.2), one stream per direction and key exchange.

use bytes::Bytes;
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use super::Error;
use super::packet::MAX_MESSAGE;

/// How far the output grows when it is full.
const STEP: usize = 4 * 1024;

/// Compresses the payloads of one direction.
pub(super) struct Compressor {
    stream: Compress,
    output: Vec<u8>,
}

impl Compressor {
    /// A stream with an empty dictionary. The level is the fast one: links are slow, but so are small hosts.
    pub(super) fn new() -> Self {
        Self {
            stream: Compress::new(flate2::Compression::fast(), true),
            output: Vec::new(),
        }
    }

    /// The compressed form of `payload`, complete for the receiver.
    pub(super) fn compress(&mut self, payload: &[u8]) -> Result<&[u8], Error> {
        const FAILED: Error = Error::Compression("cannot compress");
        self.output.clear();
        let start = self.stream.total_in();
        loop {
            self.output.reserve(STEP);
            let taken = (self.stream.total_in() - start) as usize;
            // The flush is finished when it leaves room in the output.
            let status = self
                .stream
                .compress_vec(&payload[taken..], &mut self.output, FlushCompress::Partial)
                .map_err(|_| FAILED)?;
            let taken = (self.stream.total_in() - start) as usize;
            if taken == payload.len() && self.output.len() < self.output.capacity() {
                return Ok(&self.output);
            }
            if status == Status::StreamEnd {
                return Err(FAILED);
            }
        }
    }
}

/// Decompresses the payloads of one direction.
pub(super) struct Decompressor {
    stream: Decompress,
    /// Used again for each payload: what is handed out is no larger than it says, for queues count that.
    output: Vec<u8>,
}

impl Decompressor {
    /// A stream with an empty dictionary.
    pub(super) fn new() -> Self {
        Self {
            stream: Decompress::new(true),
            output: Vec::new(),
        }
    }

    /// The payload that was compressed.
    ///
    /// # Errors
    /// [`Error::Compression`] when it is not zlib, or a bomb: larger than [`MAX_MESSAGE`].
    pub(super) fn decompress(&mut self, compressed: &[u8]) -> Result<Bytes, Error> {
        let Self { stream, output } = self;
        output.clear();
        output.reserve(compressed.len().clamp(STEP, MAX_MESSAGE));
        let mut rest = compressed;
        loop {
            let before = (stream.total_in(), stream.total_out());
            stream
                .decompress_vec(rest, output, FlushDecompress::Sync)
                .map_err(|_| Error::Compression("not a zlib stream"))?;
            let after = (stream.total_in(), stream.total_out());
            rest = &rest[(after.0 - before.0) as usize..];
            if output.len() > MAX_MESSAGE {
                return Err(Error::Compression("the payload is too large"));
            }
            // That all input was taken is no sign that all output was given: at the end of its
            // window miniz_oxide stops in between. It is over when nothing moves any more.
            if output.len() == output.capacity() {
                output.reserve(output.len());
            } else if after == before {
                return match rest {
                    [] => Ok(Bytes::copy_from_slice(output)),
                    _ => Err(Error::Compression("the stream has ended")),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::wire::WriteExt;

    #[test]
    fn each_payload_is_complete_by_itself() {
        let (mut compressor, mut decompressor) = (Compressor::new(), Decompressor::new());
        let mut random = vec![0; MAX_MESSAGE];
        aws_lc_rs::rand::fill(&mut random).unwrap();
        for size in [1, 2, 100, 4095, 4096, 4097, 40_000, MAX_MESSAGE] {
            for payload in [&random[..size], &vec![7; size]] {
                let compressed = compressor.compress(payload).unwrap();
                assert!(compressed.len() < size + 100 + size / 200);
                assert!(decompressor.decompress(compressed).unwrap() == payload);
            }
        }
        let again = compressor.compress(&random[..500]).unwrap();
        let size = again.len();
        decompressor.decompress(again).unwrap();
        let repeated = compressor.compress(&random[..500]).unwrap();
        assert!(
            repeated.len() < size / 4,
            "the dictionary is kept from payload to payload"
        );
    }

    /// The last of these ends one byte behind the window of 32 KiB: found by the property tests.
    #[test]
    fn payloads_across_the_end_of_the_window_are_complete() {
        let (mut compressor, mut decompressor) = (Compressor::new(), Decompressor::new());
        let runs = [
            (3, 1228),
            (5, 2726),
            (6, 3936),
            (12, 4969),
            (14, 4434),
            (15, 2985),
            (16, 4373),
            (19, 1544),
            (20, 4309),
            (21, 2175),
        ];
        for (fill, size) in runs {
            let mut payload = vec![94, 0, 0, 0, 0];
            payload.put_string(vec![fill; size]);
            let compressed = compressor.compress(&payload).unwrap();
            assert!(
                decompressor.decompress(compressed).unwrap() == payload,
                "{size}"
            );
        }
    }

    #[test]
    fn bombs_do_not_go_off() {
        let mut compressor = Compressor::new();
        let bomb = compressor.compress(&vec![0; 50 << 20]).unwrap();
        assert!(bomb.len() < MAX_MESSAGE);
        let refused = Decompressor::new().decompress(bomb);
        assert!(matches!(refused, Err(Error::Compression(_))));
        let just_too_large = vec![0; MAX_MESSAGE + 1];
        let mut compressor = Compressor::new();
        let refused = Decompressor::new().decompress(compressor.compress(&just_too_large).unwrap());
        assert!(matches!(refused, Err(Error::Compression(_))));
    }

    #[test]
    fn what_is_not_zlib_is_refused() {
        for garbage in [&b"hello, world"[..], &[0xff; 100], &[0x78, 0x9c, 0x07]] {
            let refused = Decompressor::new().decompress(garbage);
            assert!(matches!(refused, Err(Error::Compression(_))));
        }
        // A stream that ends, with something behind its end.
        let mut ended = Vec::with_capacity(100);
        let mut stream = Compress::new(flate2::Compression::fast(), true);
        stream
            .compress_vec(b"bye", &mut ended, FlushCompress::Finish)
            .unwrap();
        ended.extend_from_slice(b"more");
        let refused = Decompressor::new().decompress(&ended);
        assert!(matches!(refused, Err(Error::Compression(_))));
    }
}
