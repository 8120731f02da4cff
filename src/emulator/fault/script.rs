//! What goes wrong at one end of one session: when its socket is cut, and what becomes of its
//! messages. Pure.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;

use super::line::Line;
use super::plan::{Amount, Cut, Effect, Ending, Extent, Link, MessageKind, Messages, Pick};
use crate::emulator::frame;
use crate::emulator::session::Peer;

/// A fault that stays in force.
#[derive(Debug, Clone)]
pub(super) struct Rule<T> {
    /// In the order of injection; part of the seed of its chances.
    pub(super) id: u64,
    pub(super) fault: T,
    /// When it was injected.
    pub(super) since: Instant,
}

impl<T> Rule<T> {
    /// The same rule with a part of its fault.
    pub(super) fn with<U>(&self, fault: U) -> Rule<U> {
        Rule {
            id: self.id,
            fault,
            since: self.since,
        }
    }
}

/// What is done to a message, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Struck {
    Dropped,
    Duplicated,
    Delayed,
    Reordered,
}

/// The faults of one end of one session, over all its sockets.
///
/// Every rule has a random generator of its own, seeded by the seed, the session's number, the end
/// and the rule, and asks it once for each message that the rule is for: what happens to the k-th
/// such message does not depend on anything else.
#[derive(Debug)]
pub(super) struct Script {
    /// The end whose messages and socket these are.
    side: Peer,
    cuts: Vec<CutState>,
    messages: Vec<MessageState>,
    links: Vec<LinkState>,
    line: Line,
    /// Sockets so far.
    sockets: u64,
    /// Whether there is a socket.
    is_attached: bool,
    /// The socket is to end like this, now.
    due: Option<Ending>,
}

#[derive(Debug)]
struct CutState {
    rule: Rule<Cut>,
    random: StdRng,
    /// Sockets cut so far.
    count: u32,
    /// What the present socket has left.
    left: Left,
}

/// What a socket has left to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The rule does not strike it.
    Unlimited,
    Until(Instant),
    Messages(u64),
    Bytes(u64),
}

#[derive(Debug)]
struct MessageState {
    rule: Rule<Messages>,
    random: StdRng,
    /// Messages seen that the rule is for.
    seen: u64,
    /// Messages struck.
    count: u32,
}

#[derive(Debug)]
struct LinkState {
    rule: Rule<Link>,
    random: StdRng,
}

/// The rules for one session.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) seed: u64,
    /// The session's number.
    pub(super) session: u64,
    pub(super) cuts: Vec<Rule<Cut>>,
    pub(super) messages: Vec<Rule<Messages>>,
    pub(super) links: Vec<Rule<Link>>,
}

impl Script {
    pub(super) fn new(side: Peer) -> Self {
        Self {
            side,
            cuts: Vec::new(),
            messages: Vec::new(),
            links: Vec::new(),
            line: Line::default(),
            sockets: 0,
            is_attached: false,
            due: None,
        }
    }

    /// Follows a change of the rules: those that stay go on where they are.
    pub(super) fn load(&mut self, now: Instant, rules: &Rules) {
        let side = self.side;
        let random = |id| StdRng::seed_from_u64(mix(rules.seed, rules.session, side, id));
        let is_mine = |from: Option<Peer>| from.is_none_or(|from| from == side);

        self.cuts
            .retain(|state| rules.cuts.iter().any(|rule| rule.id == state.rule.id));
        for rule in rules.cuts.iter().filter(|rule| rule.fault.side == side) {
            if !self.cuts.iter().any(|state| state.rule.id == rule.id) {
                let mut state = CutState {
                    rule: rule.clone(),
                    random: random(rule.id),
                    count: 0,
                    left: Left::Unlimited,
                };
                if self.is_attached {
                    state.arm(now);
                }
                self.cuts.push(state);
            }
        }
        self.messages
            .retain(|state| rules.messages.iter().any(|rule| rule.id == state.rule.id));
        for rule in rules
            .messages
            .iter()
            .filter(|rule| is_mine(rule.fault.from))
        {
            if !self.messages.iter().any(|state| state.rule.id == rule.id) {
                self.messages.push(MessageState {
                    rule: rule.clone(),
                    random: random(rule.id),
                    seen: 0,
                    count: 0,
                });
            }
        }
        self.links
            .retain(|state| rules.links.iter().any(|rule| rule.id == state.rule.id));
        for rule in rules.links.iter().filter(|rule| is_mine(rule.fault.from)) {
            if !self.links.iter().any(|state| state.rule.id == rule.id) {
                self.links.push(LinkState {
                    rule: rule.clone(),
                    random: random(rule.id),
                });
            }
        }
    }

    /// Whether messages must pass through here.
    pub(super) fn is_active(&self) -> bool {
        !(self.cuts.is_empty()
            && self.messages.is_empty()
            && self.links.is_empty()
            && self.line.is_empty())
            || self.due.is_some()
    }

    /// Begins with a new socket and returns its number, from 1. What was under way on the last is
    /// lost.
    pub(super) fn on_attached(&mut self, now: Instant) -> u64 {
        self.sockets += 1;
        self.is_attached = true;
        self.due = None;
        self.line.clear();
        for state in &mut self.cuts {
            state.arm(now);
        }
        self.sockets
    }

    /// Notes that there is no socket any more, unless another has replaced it.
    pub(super) fn on_detached(&mut self, socket: u64) {
        if socket != self.sockets {
            return;
        }
        self.is_attached = false;
        self.due = None;
        self.line.clear();
    }

    /// Whether there is a socket.
    pub(super) fn is_attached(&self) -> bool {
        self.is_attached
    }

    /// Cuts the socket; false when there is none.
    pub(super) fn cut(&mut self, how: Ending) -> bool {
        if self.is_attached && self.due.is_none() {
            self.due = Some(how);
        }
        self.is_attached
    }

    /// Whether the socket is to be cut, so that no more messages may pass.
    pub(super) fn is_cut(&self) -> bool {
        self.due.is_some()
    }

    /// How the socket is to end, if it is.
    pub(super) fn poll_cut(&mut self, socket: u64, now: Instant) -> Option<Ending> {
        if socket != self.sockets || !self.is_attached {
            return None;
        }
        if self.due.is_none() {
            self.due = self
                .cuts
                .iter_mut()
                .find(|state| matches!(state.left, Left::Until(due) if due <= now))
                .map(|state| state.strike());
        }
        self.due.take()
    }

    /// When the socket is to be cut, as far as time tells.
    pub(super) fn cut_timeout(&self) -> Option<Instant> {
        self.cuts
            .iter()
            .filter_map(|state| match state.left {
                Left::Until(due) if self.is_attached => Some(due),
                _ => None,
            })
            .min()
    }

    /// Counts a message that passed over the socket, from either end.
    pub(super) fn count(&mut self, from: Peer, length: usize) {
        if self.due.is_some() {
            return;
        }
        for state in &mut self.cuts {
            if state.rule.fault.from.is_none_or(|counted| counted == from)
                && state.count_down(length as u64)
            {
                self.due = Some(state.strike());
                return;
            }
        }
    }

    /// Takes a message of this end; tells what was done to it.
    pub(super) fn handle_input(&mut self, now: Instant, message: Bytes) -> Option<Struck> {
        let latency = self.links.iter_mut().map(LinkState::latency).sum();
        let rate = self
            .links
            .iter()
            .filter_map(|state| state.rule.fault.bytes_per_second)
            .min();
        let effect = self.effect(now, &message);
        match effect {
            None => {
                self.line.send(now, message, latency, rate);
                None
            }
            Some(Effect::Drop) => Some(Struck::Dropped),
            Some(Effect::Duplicate) => {
                self.line.send(now, message.clone(), latency, rate);
                self.line.send(now, message, latency, rate);
                Some(Struck::Duplicated)
            }
            Some(Effect::Delay { time }) => {
                self.line.send_late(now, message, latency, time);
                Some(Struck::Delayed)
            }
            Some(Effect::Reorder { places }) => {
                self.line.send_behind(now, message, places);
                Some(Struck::Reordered)
            }
        }
    }

    /// The first rule that strikes decides; the others are asked all the same, so that their
    /// chances do not depend on it.
    fn effect(&mut self, now: Instant, message: &[u8]) -> Option<Effect> {
        if self.messages.is_empty() {
            return None;
        }
        let subject = Subject::read(message)?;
        let mut decided = None;
        for state in &mut self.messages {
            let struck = decided.is_none();
            if state.picks(&subject) && struck && state.has_extent(now) {
                state.count = state.count.saturating_add(1);
                decided = Some(state.rule.fault.effect);
            }
        }
        decided
    }

    /// The next message that has arrived at the other end.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        self.line.poll_transmit(now)
    }

    /// When the next message arrives there.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.line.poll_timeout()
    }

    /// Whether another message may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.line.has_room()
    }
}

impl CutState {
    /// Gives a new socket its span of life.
    fn arm(&mut self, now: Instant) {
        // Asked for every socket, so that the next one's chance does not depend on the extent.
        let factor = 1.0 + self.rule.fault.jitter * (self.random.random::<f64>() * 2.0 - 1.0);
        self.left = match self.rule.fault.after {
            _ if !has_extent(self.rule.fault.extent, self.count, self.rule.since, now) => {
                Left::Unlimited
            }
            None => Left::Unlimited,
            Some(Amount::Time(time)) => Left::Until(now + time.mul_f64(factor)),
            Some(Amount::Messages(count)) => Left::Messages(scale(count, factor)),
            Some(Amount::Bytes(count)) => Left::Bytes(scale(count, factor)),
        };
    }

    /// Counts a message of `length`; true when it was the last.
    fn count_down(&mut self, length: u64) -> bool {
        let (left, passed) = match &mut self.left {
            Left::Messages(left) => (left, 1),
            Left::Bytes(left) => (left, length),
            Left::Unlimited | Left::Until(_) => return false,
        };
        *left = left.saturating_sub(passed);
        *left == 0
    }

    fn strike(&mut self) -> Ending {
        self.count = self.count.saturating_add(1);
        self.left = Left::Unlimited;
        self.rule.fault.how
    }
}

/// At least one, so that a cut is never due before anything has passed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "jitter need not be exact, and the cast saturates"
)]
fn scale(count: u64, factor: f64) -> u64 {
    ((count as f64 * factor) as u64).max(1)
}

impl LinkState {
    fn latency(&mut self) -> Duration {
        let link = &self.rule.fault;
        link.latency + link.jitter.mul_f64(self.random.random())
    }
}

impl MessageState {
    /// Whether the message is one of those picked.
    fn picks(&mut self, subject: &Subject) -> bool {
        let rule = &self.rule.fault;
        if rule.kind.is_some_and(|kind| kind != subject.kind) {
            return false;
        }
        self.seen += 1;
        match &rule.pick {
            Pick::Probability(probability) => self.random.random::<f64>() < *probability,
            Pick::Sequence(numbers) => numbers.contains(&subject.sequence),
            Pick::Nth(n) => self.seen.is_multiple_of(*n),
        }
    }

    fn has_extent(&self, now: Instant) -> bool {
        has_extent(self.rule.fault.extent, self.count, self.rule.since, now)
    }
}

/// Whether a fault that has struck `count` times `since` may strike again.
pub(super) fn has_extent(extent: Extent, count: u32, since: Instant, now: Instant) -> bool {
    match extent {
        Extent::Times(times) => count < times,
        Extent::For(time) => now.saturating_duration_since(since) < time,
        Extent::Always => true,
    }
}

/// A message, as far as rules look at it.
struct Subject {
    kind: MessageKind,
    /// Its own, or the one that it acknowledges.
    sequence: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Acknowledged {
    acknowledged_message_sequence_number: u64,
}

impl Subject {
    fn read(message: &[u8]) -> Option<Self> {
        let kind = match frame::message_type(message)? {
            "acknowledge" => MessageKind::Acknowledge,
            _ => MessageKind::Data,
        };
        let sequence = match kind {
            MessageKind::Data => frame::sequence_number(message)?,
            MessageKind::Acknowledge => {
                serde_json::from_slice::<Acknowledged>(frame::payload(message)?)
                    .ok()?
                    .acknowledged_message_sequence_number
            }
        };
        Some(Self { kind, sequence })
    }
}

/// Makes one seed of several (SplitMix64), so that neighbours have nothing in common.
fn mix(seed: u64, session: u64, side: Peer, rule: u64) -> u64 {
    let side = match side {
        Peer::Client => 1,
        Peer::Agent => 2,
    };
    [session, side, rule].into_iter().fold(seed, |state, part| {
        let mut mixed = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}
