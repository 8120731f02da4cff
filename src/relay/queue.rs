//! Messages on their way to one side: control first, then short channels before long ones.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::ssh::messages::{Message, merge_data, window_adjust};
use crate::ssh::wire::msg;

/// Bytes that a channel may send before the next one has its turn: half a full packet's worth, so
/// that a bulk channel costs its neighbours one packet of waiting and no more.
const QUANTUM_BYTES: i64 = 16 << 10;

/// Messages without a window (requests, opens, replies) that one side may have waiting.
///
/// Ordinary use stays far below it; a flood is felt by its sender as a connection that is not read.
pub(super) const CONTROL_CAPACITY_BYTES: usize = 1 << 20;

/// How much more is taken while a key exchange keeps its sender from being made to wait. An honest one sends what
/// is under way and little else then.
pub(super) const EXCHANGE_CAPACITY_BYTES: usize = 16 * CONTROL_CAPACITY_BYTES;

/// What a data message costs beyond the bytes that its window counts: one that could not be merged
/// with the one before takes that much of the capacity for messages without a window.
const DATA_OVERHEAD_BYTES: usize = 64;

/// What [`Queue::pop`] hands out.
pub(super) struct Popped {
    pub(super) message: Bytes,
    /// For data: the channel's number at the receiving side. The message's window bytes are in it.
    pub(super) data_of: Option<u32>,
}

/// Messages waiting for one side, in an order that keeps their meaning.
///
/// Order is kept among all messages without data, and among all messages of one channel. Data waits in
/// a queue of its channel, and whatever follows data on a channel waits behind it. Channels take
/// turns; one that had nothing waiting goes before those that have (a keystroke before a
/// transfer), for one quantum. Window adjustments of a channel are summed up while they wait, in the place of
/// the first of them.
///
/// Bounds: data by the window credit that was passed on, the rest by [`Queue::is_full`].
#[derive(Debug, Default)]
pub(super) struct Queue {
    control: VecDeque<Control>,
    control_bytes: usize,
    /// What the adjustments that wait in `control` amount to.
    adjustments: BTreeMap<u32, u32>,
    channels: BTreeMap<u32, ChannelQueue>,
    /// Channels that had nothing waiting until now.
    fresh: VecDeque<u32>,
    /// Channels that used up a quantum with more to send, in the order of their turns.
    waiting: VecDeque<u32>,
}

/// What waits without data before it.
#[derive(Debug)]
enum Control {
    Message(Bytes),
    /// The adjustment of the channel with this number.
    Adjustment(u32),
}

#[derive(Debug)]
struct ChannelQueue {
    messages: VecDeque<(Bytes, bool)>,
    deficit: i64,
}

impl Queue {
    /// Adds a message that concerns no channel with data waiting here.
    pub(super) fn push_control(&mut self, message: Bytes) {
        self.control_bytes += message.len();
        self.control.push_back(Control::Message(message));
    }

    /// Takes back the `CHANNEL_OPEN` by which its sender numbers a channel `sender`; false when it is not here any more.
    pub(super) fn discard_open(&mut self, sender: u32) -> bool {
        let is_meant = |control: &Control| match control {
            Control::Message(message) => matches!(
                Message::parse(message),
                Message::Open { sender: number, .. } if number == sender
            ),
            Control::Adjustment(_) => false,
        };
        let found = self.control.iter().position(is_meant);
        let Some(Control::Message(message)) = found.and_then(|at| self.control.remove(at)) else {
            return false;
        };
        self.control_bytes -= message.len();
        true
    }

    /// Adds a message for the channel `recipient`: behind its data when there is some.
    pub(super) fn push(&mut self, recipient: u32, message: Bytes) {
        match self.channels.get_mut(&recipient) {
            Some(channel) => {
                self.control_bytes += message.len();
                channel.messages.push_back((message, false));
            }
            None => self.push_control(message),
        }
    }

    /// Adds a data message for the channel `recipient`; small ones may become one of up to `max_merged` bytes.
    pub(super) fn push_data(&mut self, recipient: u32, message: Bytes, max_merged: usize) {
        let channel = self.channels.entry(recipient).or_insert_with(|| {
            self.fresh.push_back(recipient);
            ChannelQueue {
                messages: VecDeque::new(),
                deficit: QUANTUM_BYTES,
            }
        });
        if let Some((tail, true)) = channel.messages.back_mut()
            && merge_data(tail, &message, max_merged)
        {
            return;
        }
        self.control_bytes += DATA_OVERHEAD_BYTES;
        channel.messages.push_back((message, true));
    }

    /// Adds `bytes` to the adjustment that `recipient` gets next.
    pub(super) fn adjust(&mut self, recipient: u32, bytes: u32) {
        if bytes == 0 {
            return;
        }
        let sum = self.adjustments.entry(recipient).or_insert_with(|| {
            self.control.push_back(Control::Adjustment(recipient));
            0
        });
        *sum = sum.saturating_add(bytes);
    }

    /// Drops the adjustment of a channel that has been closed towards this side.
    pub(super) fn forget_adjustment(&mut self, recipient: u32) {
        if self.adjustments.remove(&recipient).is_some() {
            self.control.retain(
                |control| !matches!(control, Control::Adjustment(number) if *number == recipient),
            );
        }
    }

    /// Drops what waits for a channel that this side has closed itself; returns whether a CLOSE was among it.
    pub(super) fn discard(&mut self, recipient: u32) -> bool {
        let Some(channel) = self.channels.remove(&recipient) else {
            return false;
        };
        for (message, is_data) in &channel.messages {
            self.control_bytes -= cost(message, *is_data);
        }
        self.fresh.retain(|number| *number != recipient);
        self.waiting.retain(|number| *number != recipient);
        channel
            .messages
            .iter()
            .any(|(message, _)| message.first() == Some(&msg::CHANNEL_CLOSE))
    }

    /// Whether so much without a window waits that its sender should be made to wait.
    pub(super) fn is_full(&self) -> bool {
        self.control_bytes >= CONTROL_CAPACITY_BYTES
            || self.control.len() >= CONTROL_CAPACITY_BYTES / DATA_OVERHEAD_BYTES
    }

    /// Whether it holds more than any sender may have waiting, a key exchange or not.
    pub(super) fn is_flooded(&self) -> bool {
        self.control_bytes >= EXCHANGE_CAPACITY_BYTES
            || self.control.len() >= EXCHANGE_CAPACITY_BYTES / DATA_OVERHEAD_BYTES
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.channels.is_empty()
    }

    /// The next message for this side.
    pub(super) fn pop(&mut self) -> Option<Popped> {
        if let Some(control) = self.control.pop_front() {
            let message = match control {
                Control::Message(message) => {
                    self.control_bytes -= message.len();
                    message
                }
                Control::Adjustment(recipient) => {
                    let bytes = self.adjustments.remove(&recipient).unwrap_or_default();
                    window_adjust(recipient, bytes)
                }
            };
            return Some(Popped {
                message,
                data_of: None,
            });
        }
        let (recipient, is_fresh) = match self.fresh.front() {
            Some(recipient) => (*recipient, true),
            None => (*self.waiting.front()?, false),
        };
        let turns = if is_fresh {
            &mut self.fresh
        } else {
            &mut self.waiting
        };
        let channel = self.channels.get_mut(&recipient)?;
        let (message, is_data) = channel.messages.pop_front()?;
        self.control_bytes -= cost(&message, is_data);
        channel.deficit -= message.len() as i64;
        if channel.messages.is_empty() {
            self.channels.remove(&recipient);
            turns.pop_front();
        } else if channel.deficit <= 0 {
            channel.deficit += QUANTUM_BYTES;
            turns.pop_front();
            self.waiting.push_back(recipient);
        }
        Some(Popped {
            message,
            data_of: is_data.then_some(recipient),
        })
    }
}

/// What a message in a channel's queue takes of the capacity for messages without a window.
fn cost(message: &Bytes, is_data: bool) -> usize {
    if is_data {
        DATA_OVERHEAD_BYTES
    } else {
        message.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::wire::WriteExt;

    fn data(recipient: u32, length: usize) -> Bytes {
        let mut message = Vec::new();
        message
            .put_byte(msg::CHANNEL_DATA)
            .put_uint32(recipient)
            .put_string(vec![0; length]);
        message.into()
    }

    fn order(queue: &mut Queue) -> Vec<Bytes> {
        std::iter::from_fn(|| queue.pop().map(|popped| popped.message)).collect()
    }

    #[test]
    fn a_keystroke_goes_before_a_transfer() {
        let mut queue = Queue::default();
        for _ in 0..4 {
            queue.push_data(1, data(1, 32768), 4096);
        }
        assert_eq!(queue.pop().map(|popped| popped.data_of), Some(Some(1)));
        queue.push_data(2, data(2, 1), 4096);
        assert_eq!(queue.pop().map(|popped| popped.data_of), Some(Some(2)));
    }

    #[test]
    fn two_transfers_take_turns() {
        let mut queue = Queue::default();
        for channel in [1, 2] {
            for _ in 0..4 {
                queue.push_data(channel, data(channel, 32768), 4096);
            }
        }
        let turns: Vec<_> = std::iter::from_fn(|| queue.pop().map(|popped| popped.data_of))
            .flatten()
            .collect();
        assert_eq!(turns, [1, 2, 1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn what_follows_data_on_a_channel_stays_behind_it() {
        let mut queue = Queue::default();
        let close = Bytes::from_static(&[msg::CHANNEL_CLOSE, 0, 0, 0, 1]);
        queue.push_data(1, data(1, 5000), 4096);
        queue.push(1, close.clone());
        queue.push(2, Bytes::from_static(&[msg::CHANNEL_EOF, 0, 0, 0, 2]));
        let order = order(&mut queue);
        assert_eq!(order[0][0], msg::CHANNEL_EOF);
        assert_eq!(order[2], close);
        assert!(queue.is_empty());
    }

    #[test]
    fn adjustments_add_up_while_they_wait() {
        let mut queue = Queue::default();
        queue.adjust(1, 10);
        queue.adjust(1, 5);
        queue.adjust(1, 0);
        assert_eq!(order(&mut queue), [window_adjust(1, 15)]);
    }

    #[test]
    fn an_adjustment_stays_before_what_was_said_after_it() {
        let mut queue = Queue::default();
        let success = Bytes::from_static(&[msg::CHANNEL_SUCCESS, 0, 0, 0, 1]);
        queue.adjust(1, 10);
        queue.push(1, success.clone());
        queue.adjust(1, 5);
        queue.adjust(2, 7);
        queue.forget_adjustment(2);
        assert_eq!(order(&mut queue), [window_adjust(1, 15), success]);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_is_discarded_is_gone_and_its_neighbours_are_not() {
        let mut queue = Queue::default();
        for channel in [1, 2] {
            for _ in 0..3 {
                queue.push_data(channel, data(channel, 32768), 4096);
            }
        }
        queue.pop();
        queue.pop();
        queue.push(1, Bytes::from_static(&[msg::CHANNEL_CLOSE, 0, 0, 0, 1]));
        assert!(queue.discard(1));
        assert!(!queue.discard(3));
        let left: Vec<_> =
            std::iter::from_fn(|| queue.pop().map(|popped| popped.data_of)).collect();
        assert_eq!(left, [Some(2), Some(2)]);
        assert!(queue.is_empty());
        assert_eq!(queue.control_bytes, 0);
    }

    #[test]
    fn a_queue_of_single_bytes_costs_no_more_than_its_window() {
        let mut queue = Queue::default();
        for _ in 0..100_000 {
            queue.push_data(1, data(1, 1), 4096);
        }
        assert!(order(&mut queue).len() < 30);
    }

    #[test]
    fn a_flood_of_requests_fills_the_queue_and_leaves_it_again() {
        let mut queue = Queue::default();
        queue.push_data(1, data(1, 10), 4096);
        while !queue.is_full() {
            queue.push(1, Bytes::from_static(&[0; 1000]));
        }
        order(&mut queue);
        assert!(!queue.is_full());
        assert_eq!(queue.control_bytes, 0);
    }
}
