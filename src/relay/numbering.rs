//! Channel numbers of one upstream after another, made one sequence.

use bytes::Bytes;

use crate::ssh::messages::{Message, with_recipient, with_sender};

/// What separates the channel numbers that the client sees from those of the upstream of the time.
///
/// Every sshd counts from zero, and the client may still be speaking to a channel of the one before. So the client is
/// shown upstream's number plus an offset, which is zero for the first upstream and lies beyond every number shown so
/// far for each that follows. It wraps at 2^32.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    offset: u32,
    /// One more than the largest number that this upstream has used.
    used: u32,
}

impl Numbering {
    /// A message of upstream as the client is to see it.
    pub(super) fn for_local(&mut self, message: Bytes) -> Bytes {
        let (Message::Open { sender, .. } | Message::OpenConfirmation { sender, .. }) =
            Message::parse(&message)
        else {
            return message;
        };
        self.used = self.used.max(sender.saturating_add(1));
        match self.offset {
            0 => message,
            offset => with_sender(message, sender.wrapping_add(offset)),
        }
    }

    /// A message of the client as upstream is to see it.
    pub(super) fn for_upstream(&self, message: Bytes) -> Bytes {
        let Some(recipient) = message.get(1..5).filter(|_| self.offset != 0) else {
            return message;
        };
        let recipient = recipient.try_into().map_or(0, u32::from_be_bytes);
        with_recipient(message, recipient.wrapping_sub(self.offset))
    }

    /// Another upstream follows, whose numbers begin anew.
    pub(super) fn on_lost(&mut self) {
        self.offset = self.offset.wrapping_add(self.used);
        self.used = 0;
    }
}
