//! Global requests: answered in their order, whoever answers.

use std::time::Instant;

use bytes::Bytes;

use super::{Event, Pair, Side};
use crate::relay::forwards::{Forward, Outcome, Wish};
use crate::relay::ledger::Meaning;
use crate::ssh::messages::{Message, ignore, request_success};
use crate::ssh::wire::msg;

/// Whom a reply of upstream to a global request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    /// The client: its request of this number in the ledger.
    Client(u64),
    /// Us, who have asked for this listener.
    Forward(u64),
    /// Nobody.
    Nobody,
}

impl Pair {
    /// A global request of the client: passed on, kept until there is somebody to ask, or answered here.
    pub(super) fn ask(&mut self, now: Instant, message: Bytes) {
        let Message::GlobalRequest { name, want_reply } = Message::parse(&message) else {
            return;
        };
        let meaning = meaning_of(name, &message);
        if name == b"no-more-sessions@openssh.com" {
            self.ledger
                .say_no_more_sessions(without_reply(&message, name.len()));
        }
        if self.is_answered_here(now, &meaning) {
            if want_reply {
                self.answer_here(&meaning);
            }
            return;
        }
        if want_reply {
            self.ask_with_reply(message, meaning);
        } else {
            self.ask_without_reply(message, meaning);
        }
    }

    fn ask_with_reply(&mut self, message: Bytes, meaning: Meaning) {
        let is_kept = self.joined.is_none() || self.ledger.has_room(message.len());
        let id = self.ledger.ask(is_kept.then(|| message.clone()), meaning);
        if self.joined.is_some() {
            self.send_global(Owed::Client(id), message);
        }
    }

    /// Whoever wants no reply takes it for granted.
    fn ask_without_reply(&mut self, message: Bytes, meaning: Meaning) {
        let is_joined = self.joined.is_some();
        match meaning {
            Meaning::Forward(forward) => {
                self.add_forward(forward, is_joined);
                if is_joined {
                    self.queues.upstream.push_control(message);
                }
                return;
            }
            Meaning::Cancel(forward) => {
                self.forwards.forget(&forward);
                self.ledger.disown(&forward, is_joined);
            }
            Meaning::Keepalive | Meaning::Other => {}
        }
        if is_joined {
            self.queues.upstream.push_control(message);
        } else if !is_no_more_sessions(&message) {
            self.ledger.say(message);
        }
    }

    /// Says a global request that wants a reply to upstream.
    pub(super) fn send_global(&mut self, owed: Owed, message: Bytes) {
        if let Some(joined) = &mut self.joined {
            joined.owed.push_back(owed);
            self.queues.upstream.push_control(message);
        }
    }

    /// Whether upstream need not, or cannot, be asked.
    fn is_answered_here(&mut self, now: Instant, meaning: &Meaning) -> bool {
        match meaning {
            Meaning::Keepalive => {
                self.handle_timeout(now);
                self.absence
                    .is_some_and(|absence| absence.answers_keepalives())
            }
            Meaning::Cancel(forward) => self.forwards.cancel(forward),
            Meaning::Forward(_) | Meaning::Other => false,
        }
    }

    fn answer_here(&mut self, meaning: &Meaning) {
        let id = self.ledger.ask(None, meaning.clone());
        match meaning {
            Meaning::Cancel(_) => self.ledger.answer(id, request_success()),
            _ => self.ledger.answer_keepalives(),
        }
        self.flush_answers();
        // A client counts what it does not hear. While an earlier request waits for upstream, only this can be said.
        if self.ledger.is_asking_globally() {
            self.queues.local.push_control(ignore());
        }
    }

    /// Hands the client the replies that are due.
    pub(super) fn flush_answers(&mut self) {
        while let Some(reply) = self.ledger.poll_answer() {
            self.queues.local.push_control(reply);
        }
    }

    /// A reply to a global request of the other side, or to none.
    pub(super) fn on_global_reply(&mut self, now: Instant, from: Side, message: Bytes) {
        match from {
            Side::Local if self.stale_questions > 0 => self.stale_questions -= 1,
            Side::Local => {
                self.questions = self.questions.saturating_sub(1);
                self.queues.upstream.push_control(message);
            }
            Side::Upstream => self.on_upstream_reply(now, message),
        }
    }

    fn on_upstream_reply(&mut self, now: Instant, message: Bytes) {
        let owed = self
            .joined
            .as_mut()
            .and_then(|joined| joined.owed.pop_front());
        let is_success = message.first() == Some(&msg::REQUEST_SUCCESS);
        match owed {
            Some(Owed::Client(id)) => {
                let reply = self.meant_for_client(id, message, is_success);
                self.ledger.answer(id, reply);
                self.flush_answers();
            }
            Some(Owed::Forward(id)) => {
                if let Some(outcome) = self.forwards.on_reply(id, is_success, now) {
                    self.on_outcome(outcome);
                }
            }
            Some(Owed::Nobody) => {}
            // Nobody has asked. What to make of that is for the client to say, unless it would take it for the
            // reply that it waits for.
            None if self.ledger.is_asking_globally() => {}
            None => self.queues.local.push_control(message),
        }
    }

    /// Upstream's reply as the client is to see it, once what it means for the listeners is noted.
    fn meant_for_client(&mut self, id: u64, reply: Bytes, is_success: bool) -> Bytes {
        match self.ledger.meaning(id).cloned() {
            Some(Meaning::Forward(forward)) if is_success => {
                self.add_forward(forward.granted(&reply), true);
                reply
            }
            Some(Meaning::Cancel(forward))
                if self.forwards.on_cancelled(&forward, is_success) && !is_success =>
            {
                // The client had it, even if this upstream has not.
                request_success()
            }
            _ => reply,
        }
    }

    fn add_forward(&mut self, forward: Forward, upstream_has_it: bool) {
        if let Some(forward) = self.forwards.add(forward, upstream_has_it) {
            tracing::debug!(%forward, "too many listeners to remember this one");
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Waits => {}
            Outcome::Restored(forward) => {
                let address = forward.to_string();
                self.report(Event::ForwardRestored { address });
            }
            Outcome::GivenUp(forward) => {
                let address = forward.to_string();
                self.tell_everybody(format!(
                    "the target does not listen on {address} any more: its sshd refuses to, after a reconnection"
                ));
                self.report(Event::ForwardGivenUp { address });
            }
            Outcome::Undo(cancellation) => self.send_global(Owed::Nobody, cancellation),
        }
    }
}

/// The global request `message`, whose name has `name_length` bytes, as one that wants no reply.
fn without_reply(message: &Bytes, name_length: usize) -> Bytes {
    let mut told = message.to_vec();
    if let Some(want_reply) = told.get_mut(1 + 4 + name_length) {
        *want_reply = 0;
    }
    told.into()
}

/// Whether `message` is the one that every upstream is told anyway.
fn is_no_more_sessions(message: &[u8]) -> bool {
    matches!(
        Message::parse(message),
        Message::GlobalRequest {
            name: b"no-more-sessions@openssh.com",
            ..
        }
    )
}

/// What the global request `message` with this name is about.
fn meaning_of(name: &[u8], message: &[u8]) -> Meaning {
    // OpenSSH, paramiko, libssh2, JSch and others: each has a domain of its own.
    if name.starts_with(b"keepalive@") {
        return Meaning::Keepalive;
    }
    match Wish::parse(message) {
        Some(Wish::Listen(forward)) => Meaning::Forward(forward),
        Some(Wish::Cancel(forward)) => Meaning::Cancel(forward),
        None => Meaning::Other,
    }
}
