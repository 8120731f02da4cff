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

/// A channel that one side asked for and the other has not answered.
#[derive(Debug, Clone)]
struct Opening {
    /// Credit of the data that flows to the side that asked.
    credit: Credit,
    is_datagram: bool,
}

/// A channel that both sides know.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    /// The number each side gave it.
    pub(super) numbers: BySide<u32>,
    /// The account of the data that flows *to* each side.
    pub(super) credit: BySide<Credit>,
    /// Who has sent CLOSE. Nothing more may be said in its name, adjustments neither.
    pub(super) closed: BySide<bool>,
    /// Each message is a packet of its own (OpenSSH PROTOCOL §2.3, `tun@openssh.com`).
    pub(super) is_datagram: bool,
}

/// Reads along: channels, forwards and bytes of one local connection.
///
/// Knows enough to answer two questions: where credit for a message goes, and whether the upstream
/// connection is as it was before this client used it.
#[derive(Debug, Default)]
pub struct Observer {
    openings: BySide<BTreeMap<u32, Opening>>,
    channels: BTreeMap<u64, Channel>,
    by_number: BySide<BTreeMap<u32, u64>>,
    next_id: u64,
    /// Global requests that each side has been sent and has not answered.
    awaiting_reply: BySide<u32>,
    /// Something was asked of upstream that outlives channels: a forward, an agent, a display.
    lasting_request: bool,
    traffic: Traffic,
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

    /// Whether the upstream connection can serve another client as if it were new.
    ///
    /// True when every channel has been closed by both sides, no reply is outstanding, and nothing was
    /// asked for that would outlive the client.
    pub fn leaves_no_trace(&self) -> bool {
        self.channels.is_empty()
            && self.openings.local.is_empty()
            && self.openings.upstream.is_empty()
            && self.awaiting_reply.local == 0
            && self.awaiting_reply.upstream == 0
            && !self.lasting_request
    }

    /// The limit of one channel's queue among those that are open or opening now.
    pub(super) fn limit(&self, limits: Limits) -> u32 {
        limits.share(self.known_channels())
    }

    fn known_channels(&self) -> usize {
        self.channels.len() + self.openings.local.len() + self.openings.upstream.len()
    }

    /// A global request from `from`.
    pub(super) fn on_global_request(&mut self, from: Side, name: &[u8], want_reply: bool) {
        if want_reply {
            self.awaiting_reply[from.other()] += 1;
        }
        if from == Side::Local && !name.starts_with(b"keepalive@") {
            self.lasting_request = true;
        }
    }

    /// A reply to a global request, from `from`. One that answers nothing is the other side's to judge.
    pub(super) fn on_global_reply(&mut self, from: Side) {
        self.awaiting_reply[from] = self.awaiting_reply[from].saturating_sub(1);
    }

    /// A channel request from `from`.
    pub(super) fn on_channel_request(&mut self, from: Side, name: &[u8]) {
        let lasting = name == b"auth-agent-req@openssh.com" || name == b"x11-req";
        self.lasting_request |= lasting && from == Side::Local;
    }

    /// `from` asks for a channel and grants `window`; returns the window to show the other side.
    pub(super) fn on_open(
        &mut self,
        from: Side,
        kind: &[u8],
        number: u32,
        window: u32,
        limits: Limits,
    ) -> u32 {
        let credit = Credit::new(window, limits.share(self.known_channels() + 1));
        let opening = Opening {
            credit,
            is_datagram: kind == b"tun@openssh.com",
        };
        self.openings[from].insert(number, opening);
        credit.initial_window()
    }

    /// `from` accepts channel `recipient` of the other side; returns the window to show it.
    ///
    /// `None` when nobody asked for that channel.
    pub(super) fn on_confirmation(
        &mut self,
        from: Side,
        recipient: u32,
        number: u32,
        window: u32,
        limits: Limits,
    ) -> Option<u32> {
        let opener = from.other();
        let opening = self.openings[opener].remove(&recipient)?;
        let accepted = Credit::new(window, self.limit(limits));
        let (numbers, credit) = match from {
            Side::Local => (
                BySide {
                    local: number,
                    upstream: recipient,
                },
                BySide {
                    local: accepted,
                    upstream: opening.credit,
                },
            ),
            Side::Upstream => (
                BySide {
                    local: recipient,
                    upstream: number,
                },
                BySide {
                    local: opening.credit,
                    upstream: accepted,
                },
            ),
        };
        let id = self.next_id;
        self.next_id += 1;
        self.by_number.local.insert(numbers.local, id);
        self.by_number.upstream.insert(numbers.upstream, id);
        self.channels.insert(
            id,
            Channel {
                numbers,
                credit,
                closed: BySide::default(),
                is_datagram: opening.is_datagram,
            },
        );
        Some(accepted.initial_window())
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

    /// `from` closes the channel that the other side numbers `recipient`.
    pub(super) fn on_close(&mut self, from: Side, recipient: u32) {
        let Some(&id) = self.by_number[from.other()].get(&recipient) else {
            return;
        };
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        channel.closed[from] = true;
        if channel.closed.local && channel.closed.upstream {
            let numbers = channel.numbers.clone();
            self.channels.remove(&id);
            self.by_number.local.remove(&numbers.local);
            self.by_number.upstream.remove(&numbers.upstream);
        }
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
