//! What a relay knows of the channels that pass through it.

use std::collections::BTreeMap;

use super::credit::{Credit, Limits};
use super::{BySide, Side};

/// Payload bytes of channels, counted as they leave for the side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent to the local client.
    pub to_local: u64,
    /// Bytes sent to the target.
    pub to_upstream: u64,
}

/// What a side says of itself as the receiver of a channel, in its OPEN or OPEN_CONFIRMATION.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receiver {
    /// The number it gives the channel.
    pub(super) number: u32,
    /// The window it grants at first, in bytes.
    pub(super) window: u32,
    /// The longest data message it takes, in bytes of payload.
    pub(super) max_packet: u32,
}

/// A channel that one side asked for and the other has not answered.
#[derive(Debug, Clone)]
struct Opening {
    end: End,
    is_datagram: bool,
}

/// One end of a channel.
#[derive(Debug, Clone)]
pub(super) struct End {
    /// The number it has there.
    pub(super) number: u32,
    /// The account of the data that flows to it.
    pub(super) credit: Credit,
    /// It has sent CLOSE. Nothing more may be said in its name, adjustments neither.
    pub(super) has_closed: bool,
    /// The longest data message it takes, in bytes of payload.
    max_packet: u32,
}

/// A channel that both sides know.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    pub(super) ends: BySide<End>,
    /// Each message is a packet of its own (OpenSSH PROTOCOL §2.3, `tun@openssh.com`).
    is_datagram: bool,
}

/// Largest payload that is made of several data messages.
///
/// Small enough that merging costs little copying, large enough that a queue full of one-byte messages costs
/// no more memory than its window.
const MERGED_DATA_BYTES: u32 = 4096;

impl End {
    fn new(receiver: Receiver, limit: u32) -> Self {
        Self {
            number: receiver.number,
            credit: Credit::new(receiver.window, limit),
            has_closed: false,
            max_packet: receiver.max_packet,
        }
    }
}

impl Channel {
    /// What a message with `length` bytes of data takes from the window: OpenSSH counts the length
    /// field of a datagram too.
    pub(super) fn window_cost(&self, length: u32) -> u32 {
        if self.is_datagram {
            length.saturating_add(4)
        } else {
            length
        }
    }

    /// How long a message to `side` may become when small ones are merged.
    pub(super) fn max_merged(&self, side: Side) -> usize {
        if self.is_datagram {
            return 0;
        }
        self.ends[side].max_packet.min(MERGED_DATA_BYTES) as usize
    }
}

/// Reads along: channels and bytes of one local connection.
#[derive(Debug, Default)]
pub struct Observer {
    openings: BySide<BTreeMap<u32, Opening>>,
    channels: BTreeMap<u64, Channel>,
    by_number: BySide<BTreeMap<u32, u64>>,
    next_id: u64,
    traffic: Traffic,
}

impl Observer {
    /// Channels that are open or half closed.
    pub fn open_channels(&self) -> usize {
        self.channels.len()
    }

    /// Bytes that have passed so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// The limit of one channel's queue among those that are open or opening now.
    pub(super) fn limit(&self, limits: Limits) -> u32 {
        limits.share(self.known_channels())
    }

    fn known_channels(&self) -> usize {
        self.channels.len() + self.openings.local.len() + self.openings.upstream.len()
    }

    /// `from` asks for a channel; returns the window to show the other side.
    pub(super) fn on_open(
        &mut self,
        from: Side,
        kind: &[u8],
        receiver: Receiver,
        limits: Limits,
    ) -> u32 {
        let end = End::new(receiver, limits.share(self.known_channels() + 1));
        let window = end.credit.initial_window();
        let opening = Opening {
            end,
            is_datagram: kind == b"tun@openssh.com",
        };
        self.openings[from].insert(receiver.number, opening);
        window
    }

    /// `from` accepts channel `recipient` of the other side; returns the window to show it.
    ///
    /// `None` when nobody asked for that channel.
    pub(super) fn on_confirmation(
        &mut self,
        from: Side,
        recipient: u32,
        receiver: Receiver,
        limits: Limits,
    ) -> Option<u32> {
        let opening = self.openings[from.other()].remove(&recipient)?;
        let end = End::new(receiver, self.limit(limits));
        let window = end.credit.initial_window();
        let id = self.next_id;
        self.next_id += 1;
        self.by_number[from].insert(receiver.number, id);
        self.by_number[from.other()].insert(recipient, id);
        let channel = Channel {
            ends: BySide::new(from, end, opening.end),
            is_datagram: opening.is_datagram,
        };
        self.channels.insert(id, channel);
        Some(window)
    }

    /// `from` refuses channel `recipient` of the other side.
    pub(super) fn on_open_failure(&mut self, from: Side, recipient: u32) {
        self.openings[from.other()].remove(&recipient);
    }

    /// The channel that `side` numbers `number`.
    pub(super) fn channel(&mut self, side: Side, number: u32) -> Option<&mut Channel> {
        let id = self.by_number[side].get(&number)?;
        self.channels.get_mut(id)
    }

    /// `from` closes the channel that the other side numbers `recipient`; returns whether that side had closed
    /// it before.
    pub(super) fn on_close(&mut self, from: Side, recipient: u32) -> bool {
        let to = from.other();
        let Some(&id) = self.by_number[to].get(&recipient) else {
            return false;
        };
        let Some(channel) = self.channels.get_mut(&id) else {
            return false;
        };
        channel.ends[from].has_closed = true;
        if !channel.ends[to].has_closed {
            return false;
        }
        let number = channel.ends[from].number;
        self.channels.remove(&id);
        self.by_number[from].remove(&number);
        self.by_number[to].remove(&recipient);
        true
    }

    /// `bytes` of channel data have left for `to`.
    pub(super) fn on_forwarded(&mut self, to: Side, bytes: u32) {
        let counter = match to {
            Side::Local => &mut self.traffic.to_local,
            Side::Upstream => &mut self.traffic.to_upstream,
        };
        *counter += u64::from(bytes);
    }
}
