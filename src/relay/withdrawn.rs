//! Channels that the client was told it cannot have, and that upstream may open yet.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ssh::messages::{Message, channel_close, with_recipient};

/// The highest number that stands for one of the client's: far from those that clients count from zero.
const FIRST_ALIAS: u32 = 0x7fff_ffff;

/// What keeps the answers of upstream to an OPEN that the client has been refused from being taken for others.
///
/// Such a channel is closed as soon as upstream opens it, and nothing of that reaches the client. Until it is over,
/// upstream knows its number as taken, while the client may use it for its next channel: to upstream that one
/// goes by an alias.
///
/// Bounded by what the transport to upstream takes in while nothing moves in it.
#[derive(Debug, Default)]
pub(super) struct Withdrawn {
    /// Numbers of channels that are not over for upstream, as it was told them, and whether it was told to close them.
    numbers: BTreeMap<u32, bool>,
    /// The client's numbers by what upstream was told in their place.
    aliases: BTreeMap<u32, u32>,
}

/// Whom a message of upstream is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    /// The client, in its own numbers.
    Client(Bytes),
    /// Nobody any more; upstream is to be told this, if anything.
    Nobody(Option<Bytes>),
}

impl Withdrawn {
    /// The number by which upstream is to know a new channel that the client numbers `number`.
    pub(super) fn number_for_upstream(&mut self, number: u32) -> u32 {
        let is_free =
            |known: &u32| !self.numbers.contains_key(known) && !self.aliases.contains_key(known);
        if is_free(&number) {
            return number;
        }
        // There are fewer taken ones than numbers.
        let alias = (0..=FIRST_ALIAS).rev().find(is_free).unwrap_or(number);
        self.aliases.insert(alias, number);
        alias
    }

    /// The number by which upstream knows the channel that the client numbers `number`.
    pub(super) fn known_as(&self, number: u32) -> u32 {
        let mut aliases = self.aliases.iter();
        let found = aliases.find(|(_, clients)| **clients == number);
        found.map_or(number, |(alias, _)| *alias)
    }

    /// The client has been refused the channel that it numbers `number`, and upstream has yet to answer.
    pub(super) fn withdraw(&mut self, number: u32) {
        let known_as = self.known_as(number);
        self.aliases.remove(&known_as);
        self.numbers.insert(known_as, false);
    }

    /// The channel that the client numbers `number` is over for both sides, or upstream never heard of it.
    pub(super) fn release(&mut self, number: u32) {
        if !self.aliases.is_empty() {
            let known_as = self.known_as(number);
            if self.aliases.get(&known_as) == Some(&number) {
                self.aliases.remove(&known_as);
            }
        }
    }

    /// Tells whom `message` of upstream is for.
    pub(super) fn receiver_of(&mut self, message: Bytes) -> Receiver {
        if self.numbers.is_empty() && self.aliases.is_empty() {
            return Receiver::Client(message);
        }
        let parsed = Message::parse(&message);
        let Some(recipient) = parsed.recipient() else {
            return Receiver::Client(message);
        };
        if let Some(number) = self.aliases.get(&recipient) {
            return Receiver::Client(with_recipient(message, *number));
        }
        if !self.numbers.contains_key(&recipient) {
            return Receiver::Client(message);
        }
        match parsed {
            Message::OpenConfirmation { sender, .. } => {
                let is_first = self.numbers.insert(recipient, true) == Some(false);
                Receiver::Nobody(is_first.then(|| channel_close(sender)))
            }
            Message::OpenFailure { .. } | Message::Close { .. } => {
                self.numbers.remove(&recipient);
                Receiver::Nobody(None)
            }
            _ => Receiver::Nobody(None),
        }
    }
}
