//! From one upstream to the next: what ends, what is answered here, and what is said again.

use std::time::Instant;

use bytes::Bytes;

use super::globals::Owed;
use super::{Joined, LOCAL_EXTENSIONS, Pair, Received, Side};
use crate::relay::absence::{Absence, line};
use crate::relay::ledger::Replay;
use crate::relay::observer::{Channel, Kind};
use crate::relay::queue::Queue;
use crate::relay::withdrawn::Withdrawn;
use crate::ssh::messages::{
    Message, channel_close, channel_eof, channel_open_failure, exit_signal, open_failure, stderr,
};

impl Pair {
    /// There is an upstream, which knows nothing of this client: it is told what holds still and asked what is
    /// unanswered, before anything that the client says from now on.
    ///
    /// It is asked for the listeners that the client has had, under the same addresses and ports. Its replies to
    /// that stay here, and what it refuses is asked for again: an sshd that is gone for us may hold a port for
    /// a while yet.
    pub fn gain_upstream(&mut self, now: Instant) {
        self.joined = Some(Joined::default());
        self.absence = None;
        for (id, request) in self.forwards.ask_again(now) {
            self.send_global(Owed::Forward(id), request);
        }
        for replay in self.ledger.replay() {
            let (Replay::Open(message) | Replay::Global(_, message) | Replay::Said(message)) =
                &replay;
            self.note_offence(message);
            match replay {
                Replay::Open(message) => self.pass_open(Side::Local, message),
                Replay::Global(id, message) => self.send_global(Owed::Client(id), message),
                Replay::Said(message) => self.queues.upstream.push_control(message),
            }
        }
    }

    /// Upstream is gone for good, because of `cause`; the client stays, and waits for another.
    ///
    /// Open channels end: after all that upstream has said on them comes a notice on the standard error of a session,
    /// then that its command died of SIGHUP, unless its end has been told, then EOF and CLOSE. What the client says
    /// on them until it closes them too is for nobody.
    pub fn lose_upstream(&mut self, now: Instant, cause: &str) {
        if self.joined.take().is_none() {
            return;
        }
        self.queues.upstream = Queue::default();
        self.absence.get_or_insert(Absence::new(now));
        self.numbering.on_lost();
        self.withdrawn = Withdrawn::default();
        self.forwards.on_lost();
        self.stale_questions += std::mem::take(&mut self.questions);

        let (channels, unanswered) = self.observer.take_all();
        self.orphans.extend(unanswered);
        for channel in &channels {
            if end_channel(&mut self.queues.local, channel, cause) {
                let (number, clients) = (channel.ends.upstream.number, channel.ends.local.number);
                self.zombies.insert(number, clients);
            }
        }
        let failed = self.ledger.on_lost();
        self.refuse_opens(failed, cause);
        self.flush_answers();
    }

    /// There is no upstream: answers what the client has asked with failure.
    ///
    /// `reason` is the text of the channel open failures, for the person at the client.
    pub fn refuse(&mut self, reason: &str) {
        if self.joined.is_none() {
            let refused = self.ledger.refuse();
            self.refuse_opens(refused, reason);
            self.flush_answers();
        }
    }

    /// Whether the client waits for an upstream to ask.
    pub fn is_asking(&self) -> bool {
        self.ledger.has_business()
    }

    /// Whether the client has listeners at the target, which only an upstream keeps up.
    pub fn has_forwards(&self) -> bool {
        !self.forwards.is_empty()
    }

    pub(super) fn refuse_opens(&mut self, numbers: Vec<u32>, reason: &str) {
        for number in numbers {
            let failure = channel_open_failure(number, open_failure::CONNECT_FAILED, reason);
            self.queues.local.push_control(failure);
        }
    }

    /// Keeps what the client says until there is an upstream.
    pub(super) fn hold(&mut self, now: Instant, message: Bytes) -> Received {
        match Message::parse(&message) {
            Message::GlobalRequest { .. } => self.ask(now, message),
            Message::Open { sender, .. } => self.ledger.open(sender, Some(message), now),
            // There is no question that it could answer, but of an upstream that is gone.
            Message::GlobalReply => self.stale_questions = self.stale_questions.saturating_sub(1),
            Message::Unknown if message[0] < LOCAL_EXTENSIONS => return Received::Unimplemented,
            // Nothing that any upstream knows of: sshd will say so.
            _ => self.ledger.say(message),
        }
        Received::Taken
    }

    /// Deals with a message of the client for a channel of an upstream that is gone; false when it is for no such.
    pub(super) fn is_for_the_dead(&mut self, message: &[u8]) -> bool {
        if self.zombies.is_empty() && self.orphans.is_empty() {
            return false;
        }
        let parsed = Message::parse(message);
        let Some(recipient) = parsed.recipient() else {
            return false;
        };
        match parsed {
            Message::OpenConfirmation { sender, .. } if self.orphans.remove(&recipient) => {
                self.queues.local.push_control(channel_close(sender));
                self.zombies.insert(recipient, sender);
                true
            }
            Message::OpenFailure { .. } => self.orphans.remove(&recipient),
            Message::Close { .. } => match self.zombies.remove(&recipient) {
                Some(number) => {
                    // It listens no more, and may use the number again once it has heard our CLOSE.
                    if self.queues.local.discard(number) {
                        self.queues.local.push_control(channel_close(number));
                    }
                    true
                }
                None => false,
            },
            _ => self.zombies.contains_key(&recipient),
        }
    }
}

/// Ends `channel` towards the client; returns whether the client has yet to close it.
fn end_channel(local: &mut Queue, channel: &Channel, cause: &str) -> bool {
    let end = &channel.ends.local;
    let number = end.number;
    local.forget_adjustment(number);
    if end.has_closed {
        local.discard(number);
        local.push_control(channel_close(number));
        return false;
    }
    if channel.ends.upstream.has_closed {
        return true;
    }
    if channel.kind == Kind::Session && !channel.has_exit {
        let text = line(cause, channel.has_pty);
        let length = text.len() as u64;
        if length <= end.credit.window().min(end.max_packet.into()) && !channel.has_eof {
            local.push(number, stderr(number, &text));
        }
        local.push(number, exit_signal(number, "HUP", cause));
    }
    if !channel.has_eof {
        local.push(number, channel_eof(number));
    }
    local.push(number, channel_close(number));
    true
}
