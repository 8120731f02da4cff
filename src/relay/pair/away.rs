//! What the client hears in upstream's place, and what its user is told.

use std::time::Instant;

use super::{Channel, Kind, Pair, Side};
use crate::relay::absence::{Absence, line};
use crate::relay::pair::globals::Owed;
use crate::relay::queue::Queue;
use crate::ssh::messages::{debug, stderr};
use crate::upstream;

/// Notices that wait for a channel on which they can be told.
const NOTICES: usize = 8;

impl Pair {
    /// The way to the joined upstream has been interrupted, as far as is `known`, or is no longer: none.
    ///
    /// Nothing is lost by that. Once it has lasted a while keepalives are answered here, and a person who types at
    /// a terminal is told why nothing happens. Without an upstream this has no effect.
    pub fn set_absence(&mut self, now: Instant, known: Option<upstream::Absence>) {
        if self.joined.is_none() {
            return;
        }
        match (known, self.absence) {
            (Some(known), absence) => {
                let mut absence = absence.unwrap_or(Absence::new(known.since));
                absence.update(known);
                self.absence = Some(absence);
                self.handle_timeout(now);
            }
            (None, Some(absence)) => {
                self.absence = None;
                let notice = absence.end_notice(now);
                for channel in self.observer.channels() {
                    if std::mem::take(&mut channel.is_told) {
                        tell(&mut self.queues.local, channel, &notice);
                    }
                }
            }
            (None, None) => {}
        }
    }

    /// When [`Pair::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let keepalives = self.absence.and_then(|absence| absence.poll_timeout());
        let forwards = self.forwards.poll_timeout();
        [keepalives, forwards, self.overdue_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a channel has been asked for and waited for so long that [`Pair::refuse_overdue`] is to be called.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.overdue_at().is_some_and(|at| at <= now)
    }

    /// Refuses the client the channels that have waited for an upstream that is away as long as they may.
    ///
    /// `reason` is for the person at the client. Should upstream open one of them yet, it is closed there, and the
    /// client does not hear of it. What is open already goes on.
    pub fn refuse_overdue(&mut self, now: Instant, reason: &str) {
        let mut refused = Vec::new();
        while self.is_overdue(now)
            && let Some(number) = self.ledger.forget_oldest_open()
        {
            self.observer.on_open_failure(Side::Upstream, number);
            let known_as = self.withdrawn.known_as(number);
            match self.queues.upstream.discard_open(known_as) {
                true => self.withdrawn.release(number),
                false => self.withdrawn.withdraw(number),
            }
            refused.push(number);
        }
        self.refuse_opens(refused, reason);
    }

    /// When the channel that was asked for first has waited too long for an upstream that is away.
    fn overdue_at(&self) -> Option<Instant> {
        let absence = self.absence.filter(|_| self.joined.is_some())?;
        Some(absence.overdue_at(self.ledger.oldest_open()?, self.hold))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let absence = self.absence.as_mut();
        if absence.is_some_and(|absence| absence.handle_timeout(now)) {
            self.ledger.answer_keepalives();
            self.flush_answers();
        }
        for (id, request) in self.forwards.handle_timeout(now) {
            self.send_global(Owed::Forward(id), request);
        }
    }

    /// The client has sent data on the channel that upstream numbers `number`.
    pub(super) fn on_typed(&mut self, now: Instant, number: u32) {
        let notice = self.absence.and_then(|absence| absence.notice(now));
        let channel = self.observer.channel(Side::Upstream, number);
        if let (Some(notice), Some(channel)) = (notice, channel)
            && channel.has_pty
            && !channel.is_told
        {
            channel.is_told = tell(&mut self.queues.local, channel, &notice);
        }
    }

    /// Tells the client's user something that concerns the whole connection: on its sessions, or on the next one.
    pub(super) fn tell_everybody(&mut self, notice: String) {
        self.queues.local.push_control(debug(&line(&notice, false)));
        self.notices.push_back(notice);
        if self.notices.len() > NOTICES {
            self.notices.pop_front();
        }
        self.tell_notices();
    }

    /// Tells the notices that wait, if there is a session to tell them on.
    pub(super) fn tell_notices(&mut self) {
        while let Some(notice) = self.notices.front() {
            let mut is_told = false;
            for channel in self.observer.channels() {
                is_told |= tell(&mut self.queues.local, channel, notice);
            }
            if !is_told {
                return;
            }
            self.notices.pop_front();
        }
    }
}

/// Says `notice` on the standard error of a session; false when it is none, has ended, or its window has no room.
fn tell(local: &mut Queue, channel: &mut Channel, notice: &str) -> bool {
    let has_ended = channel.has_eof
        || channel.has_exit
        || channel.ends.upstream.has_closed
        || channel.ends.local.has_closed;
    if channel.kind != Kind::Session || has_ended {
        return false;
    }
    let text = line(notice, channel.has_pty);
    let length = text.len() as u32;
    let end = &mut channel.ends.local;
    if length > end.max_packet || !end.credit.inject(length) {
        return false;
    }
    local.push(end.number, stderr(end.number, &text));
    true
}
