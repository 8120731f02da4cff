//! Bytes received for one stream and not yet read.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Pieces at least this long are kept as slices of the input they came in; shorter ones are copied.
///
/// A slice keeps the whole block alive that it was read into (64 KiB, see the driver), so a quarter of a block bounds
/// what unread bytes can pin to four times their number, whatever the peer sends.
const SLICE_BYTES: usize = 16 * 1024;

/// A queue of bytes that copies only small pieces.
#[derive(Debug, Default)]
pub(super) struct ReceiveQueue {
    pieces: VecDeque<Bytes>,
    /// Copied pieces, after all of `pieces`.
    tail: BytesMut,
    bytes: usize,
}

impl ReceiveQueue {
    /// Bytes waiting.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Appends `piece`.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if piece.len() < SLICE_BYTES {
            self.tail.extend_from_slice(&piece);
        }
        // A long tail becomes a piece of its own, so that it is never moved when it grows further.
        if !self.tail.is_empty() && (piece.len() >= SLICE_BYTES || self.tail.len() >= SLICE_BYTES) {
            self.pieces.push_back(self.tail.split().freeze());
        }
        if piece.len() >= SLICE_BYTES {
            self.pieces.push_back(piece);
        }
    }

    /// Moves as much as fits to `buf` and returns how much that was.
    pub(super) fn read(&mut self, buf: &mut impl BufMut) -> usize {
        let before = self.bytes;
        while let Some(piece) = self.pieces.front_mut() {
            self.bytes -= take(piece, buf);
            if !piece.is_empty() {
                return before - self.bytes;
            }
            self.pieces.pop_front();
        }
        self.bytes -= take(&mut self.tail, buf);
        before - self.bytes
    }
}

fn take(from: &mut impl Buf, buf: &mut impl BufMut) -> usize {
    let count = from.remaining().min(buf.remaining_mut());
    buf.put(from.take(count));
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_whatever_their_pieces() {
        let sent: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let mut queue = ReceiveQueue::default();
        let mut rest = Bytes::from(sent.clone());
        let sizes = [1, SLICE_BYTES - 1, 7, SLICE_BYTES, SLICE_BYTES, 3, 40_000];
        for size in sizes.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            queue.push(rest.split_to(size.min(rest.len())));
        }
        assert_eq!(queue.len(), sent.len());
        let mut got = Vec::new();
        for size in [1, 100, 9_000, 50_000].into_iter().cycle() {
            let mut buf = (&mut got).limit(size);
            if queue.read(&mut buf) == 0 {
                break;
            }
        }
        assert_eq!(queue.len(), 0);
        assert!(got == sent);
    }
}
