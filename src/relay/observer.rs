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
    kind: Kind,
}

/// What of a channel's type matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A command or shell (RFC 4254 §6.1): somebody may read its standard error.
    Session,
    /// Each message is a packet of its own (OpenSSH PROTOCOL §2.3, `tun@openssh.com`).
    Datagram,
    /// Any other stream of bytes.
    Stream,
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
    pub(super) max_packet: u32,
}

/// A channel that both sides know.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    pub(super) ends: BySide<End>,
    pub(super) kind: Kind,
    /// The client has asked for a terminal.
    pub(super) has_pty: bool,
    /// How its command ended has been said.
    pub(super) has_exit: bool,
    /// Upstream has sent EOF.
    pub(super) has_eof: bool,
    /// Its user has been told that upstream is away.
    pub(super) is_told: bool,
}

/// Largest payload that is made of several data messages.
///
/// Small enough that merging costs little copying, large enough that a queue full of one-byte messages costs
/// no more memory than its window.
const MERGED_DATA_BYTES: u32 = 4096;

impl Kind {
    fn of(name: &[u8]) -> Self {
        match name {
            b"session" => Self::Session,
            b"tun@openssh.com" => Self::Datagram,
            _ => Self::Stream,
        }
    }
}

impl End {
    fn new(receiver: Receiver, credit: Credit) -> Self {
        Self {
            number: receiver.number,
            credit,
            has_closed: false,
            max_packet: receiver.max_packet,
        }
    }
}

impl Channel {
    /// What a message with `length` bytes of data takes from the window: OpenSSH counts the length
    /// field of a datagram too.
    pub(super) fn window_cost(&self, length: u32) -> u32 {
        if self.kind == Kind::Datagram {
            length.saturating_add(4)
        } else {
            length
        }
    }

    /// How long a message to `side` may become when small ones are merged.
    pub(super) fn max_merged(&self, side: Side) -> usize {
        if self.kind == Kind::Datagram {
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

    /// `from` asks for a channel; returns the window to show the other side. Of one of up to `narrow` bytes nothing is
    /// kept in reserve.
    pub(super) fn on_open(
        &mut self,
        from: Side,
        kind: &[u8],
        receiver: Receiver,
        limits: Limits,
        narrow: u32,
    ) -> u32 {
        let kind = Kind::of(kind);
        let limit = limits.share(self.known_channels() + 1);
        let credit = match (from, kind) {
            (Side::Local, Kind::Session) => Credit::with_reserve(receiver.window, limit, narrow),
            _ => Credit::new(receiver.window, limit),
        };
        let window = credit.initial_window();
        let end = End::new(receiver, credit);
        self.openings[from].insert(receiver.number, Opening { end, kind });
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
        let end = End::new(receiver, Credit::new(receiver.window, self.limit(limits)));
        let window = end.credit.initial_window();
        let id = self.next_id;
        self.next_id += 1;
        self.by_number[from].insert(receiver.number, id);
        self.by_number[from.other()].insert(recipient, id);
        let channel = Channel {
            ends: BySide::new(from, end, opening.end),
            kind: opening.kind,
            has_pty: false,
            has_exit: false,
            has_eof: false,
            is_told: false,
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

    /// All channels that both sides know, in the order of their opening.
    pub(super) fn channels(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.channels.values_mut()
    }

    /// Upstream is gone: forgets everything but the traffic. Returns the channels that both sides knew, and
    /// the numbers of those that upstream asked for and the client has not answered.
    pub(super) fn take_all(&mut self) -> (Vec<Channel>, Vec<u32>) {
        self.by_number = BySide::default();
        self.openings.local.clear();
        let unanswered = std::mem::take(&mut self.openings.upstream);
        let channels = std::mem::take(&mut self.channels);
        (
            channels.into_values().collect(),
            unanswered.into_keys().collect(),
        )
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
