//! The state of one channel: its two windows and what has been said at its end.

use std::collections::VecDeque;

use super::{Error, MAX_PACKET};

/// A channel, from the offer until both sides have closed it.
#[derive(Debug)]
pub(super) enum Channel {
    /// The peer opens it; we have not answered.
    Offered(Open),
    /// We open it with this window; the peer has not answered.
    Requested(ReceiveWindow),
    /// Open, or closed by one side only.
    Open(Open),
}

/// What is known of a channel once the peer's number is.
#[derive(Debug)]
pub(super) struct Open {
    /// The peer's number of the channel.
    pub(super) peer: u32,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    pub(super) eof_sent: bool,
    /// The peer reads no more of our standard output.
    pub(super) unread: bool,
    pub(super) eof_received: bool,
    pub(super) close_sent: bool,
    pub(super) close_received: bool,
    /// Whether a reply is wanted to each request that the caller has not answered yet, oldest first.
    pub(super) unanswered: VecDeque<bool>,
}

impl Open {
    /// `window` and `max_packet` are the peer's, `receive` is ours.
    pub(super) fn new(peer: u32, window: u32, max_packet: u32, receive: ReceiveWindow) -> Self {
        Self {
            peer,
            send: SendWindow {
                bytes: window,
                max_packet: max_packet.min(MAX_PACKET),
            },
            receive,
            eof_sent: false,
            unread: false,
            eof_received: false,
            close_sent: false,
            close_received: false,
            unanswered: VecDeque::new(),
        }
    }
}

/// What the peer lets us send.
#[derive(Debug)]
pub(super) struct SendWindow {
    bytes: u32,
    max_packet: u32,
}

impl SendWindow {
    pub(super) fn is_shut(&self) -> bool {
        self.bytes == 0
    }

    /// Uses up as much of `wanted` as one message may carry now.
    pub(super) fn take(&mut self, wanted: usize) -> usize {
        let allowed = self.bytes.min(self.max_packet);
        let taken = u32::try_from(wanted).unwrap_or(u32::MAX).min(allowed);
        self.bytes -= taken;
        taken as usize
    }

    /// Adds what the peer granted.
    pub(super) fn adjust(&mut self, grant: u32) -> Result<(), Error> {
        self.bytes = self.bytes.checked_add(grant).ok_or(Error::WindowOverflow)?;
        Ok(())
    }
}

/// What we let the peer send: `bytes` + `consumed` + what the consumer holds is always `size`.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    /// Bytes granted at first.
    pub(super) size: u32,
    /// Bytes that one message may carry.
    pub(super) max_packet: u32,
    /// Bytes that the peer may still send.
    bytes: u32,
    /// Bytes that the consumer has taken and that have not been granted again.
    consumed: u32,
}

impl ReceiveWindow {
    /// A window that is wide open.
    pub(super) fn new(size: u32, max_packet: u32) -> Self {
        Self {
            size,
            max_packet,
            bytes: size,
            consumed: 0,
        }
    }

    /// Uses up the window for a data message of `length` bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<(), Error> {
        let data = u32::try_from(length).map_err(|_| Error::OversizedData(length))?;
        if data > self.max_packet {
            return Err(Error::OversizedData(length));
        }
        let window = self.bytes;
        self.bytes = window
            .checked_sub(data)
            .ok_or(Error::WindowOverrun { length, window })?;
        Ok(())
    }

    /// Counts `count` bytes as consumed and returns what is to be granted now, once it is half the window.
    pub(super) fn consumed(&mut self, count: usize) -> Option<u32> {
        // Never more than is outstanding, whatever the caller says.
        let outstanding = self.size - self.bytes - self.consumed;
        self.consumed += u32::try_from(count).unwrap_or(u32::MAX).min(outstanding);
        if self.consumed < self.size / 2 {
            return None;
        }
        self.bytes += self.consumed;
        Some(std::mem::take(&mut self.consumed))
    }
}
