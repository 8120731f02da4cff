//! The faults in force, and the counters: what all parts of the service ask and tell.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use super::plan::{Answer, Ending, Expire, Extent, Fault, Outage, Refusal, Sessions};
use super::report::Counters;
use super::script::{Rule, Rules, has_extent};
use super::wire::Wire;
use crate::emulator::frame::HeaderKind;
use crate::emulator::session::{Peer, Session};

/// The service's knowledge of its faults.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    counters: watch::Sender<Counters>,
    outage: watch::Sender<Option<Away>>,
    /// Counts how often the faults were cleared.
    cleared: watch::Sender<u64>,
    repeats: AtomicBool,
    has_short_headers: AtomicBool,
    /// Milliseconds for which agents are not ready.
    unready_millis: AtomicU64,
}

#[derive(Debug)]
struct State {
    seed: u64,
    next_rule: u64,
    next_session: u64,
    standing: Vec<Standing>,
}

/// A fault in force.
#[derive(Debug)]
struct Standing {
    rule: Rule<Fault>,
    /// The number that the next session had when it was injected.
    session: u64,
    /// Requests refused; sessions count for themselves.
    count: u32,
}

/// The network is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Away {
    how: Outage,
    until: Instant,
}

impl Board {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: Mutex::new(State {
                seed,
                next_rule: 1,
                next_session: 1,
                standing: Vec::new(),
            }),
            counters: watch::Sender::default(),
            outage: watch::Sender::default(),
            cleared: watch::Sender::default(),
            repeats: AtomicBool::new(false),
            has_short_headers: AtomicBool::new(false),
            unready_millis: AtomicU64::new(0),
        }
    }

    /// Numbers a new session, from 1.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.lock();
        let number = state.next_session;
        state.next_session += 1;
        number
    }

    /// Gives `session` the rules in force.
    pub(crate) fn brief(&self, session: &Session) {
        let rules = self.lock().rules(session);
        for wire in [session.wire(Peer::Client), session.wire(Peer::Agent)] {
            wire.load(&rules);
        }
    }

    /// Notes something seen.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Counters)) {
        self.counters.send_modify(change);
    }

    /// Notes that a socket of `side` was cut.
    pub(crate) fn note_cut(&self, side: Peer) {
        self.note(|counters| counters.note_cut(side));
    }

    /// Gives a message to `wire` and notes what became of it.
    pub(crate) fn send(&self, wire: &Wire, message: Bytes) {
        if let Some(struck) = wire.take(message) {
            self.note(|counters| counters.note_struck(struck));
        }
    }

    /// How a call of `operation`, signed with `access_key`, is to be refused, if it is.
    pub(crate) fn on_call(&self, operation: &str, access_key: Option<&str>) -> Option<Answer> {
        let refused = self.lock().strike(|fault| match fault {
            Fault::Api(api) => {
                let is_meant = api.operation.is_none_or(|meant| meant.name() == operation);
                Some((is_meant.then_some(api.answer)?, api.extent))
            }
            Fault::Expire(expire) if expire.api => {
                Some((Answer::Expired, expire.strikes(access_key)?))
            }
            _ => None,
        });
        if refused.is_some() {
            self.note(|counters| counters.api_refused += 1);
        }
        refused
    }

    /// How a client's WebSocket, signed with `access_key`, is to be refused, if it is.
    pub(crate) fn on_upgrade(&self, access_key: Option<&str>) -> Option<Refusal> {
        let refused = self.lock().strike(|fault| match fault {
            Fault::Gateway(gateway) => Some((gateway.refusal, gateway.extent)),
            Fault::Expire(expire) if expire.gateway => {
                Some((Refusal::Status(403), expire.strikes(access_key)?))
            }
            _ => None,
        });
        if refused.is_some() {
            self.note(|counters| counters.gateway_refused += 1);
        }
        refused
    }

    /// Waits for an outage of this kind.
    pub(crate) async fn outage(&self, how: Outage) {
        let is_away = |away: &Option<Away>| away.is_some_and(|away| away.how == how);
        // The sender is part of `self`, so the wait cannot fail.
        let _ = self.outage.subscribe().wait_for(is_away).await;
    }

    /// Waits while there is an outage of this kind.
    pub(crate) async fn outage_over(&self, how: Outage) {
        let mut outage = self.outage.subscribe();
        loop {
            let away = outage.borrow_and_update().filter(|away| away.how == how);
            let Some(away) = away else {
                return;
            };
            if tokio::time::timeout_at(away.until.into(), outage.changed())
                .await
                .is_err()
            {
                self.outage
                    .send_if_modified(|now| now.take_if(|now| *now == away).is_some());
            }
        }
    }

    /// Waits until the faults are cleared.
    pub(crate) async fn cleared(&self) {
        // The sender is part of `self`, so the wait cannot fail.
        let _ = self.cleared.subscribe().changed().await;
    }

    /// Whether agents repeat themselves to their ports.
    pub(crate) fn repeats(&self) -> bool {
        self.repeats.load(Ordering::Relaxed)
    }

    pub(super) fn set_repeats(&self, on: bool) {
        self.repeats.store(on, Ordering::Relaxed);
    }

    /// For how long agents are not ready, from the handshake on; none when they are at once.
    pub(crate) fn unready(&self) -> Option<Duration> {
        let millis = self.unready_millis.load(Ordering::Relaxed);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    pub(super) fn set_unready(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.unready_millis.store(millis, Ordering::Relaxed);
    }

    /// Which header the service's own messages to `peer` have.
    pub(crate) fn header_to(&self, peer: Peer) -> HeaderKind {
        match peer {
            Peer::Client if self.has_short_headers.load(Ordering::Relaxed) => HeaderKind::Untyped,
            _ => HeaderKind::Typed,
        }
    }

    pub(super) fn set_short_headers(&self, short: bool) {
        self.has_short_headers.store(short, Ordering::Relaxed);
    }

    /// Whether the agent is not to hear of a session that has just been started.
    pub(crate) fn on_start(&self) -> bool {
        let is_unheard = self.lock().strike(|fault| match fault {
            Fault::Unheard(unheard) => Some(((), unheard.extent)),
            _ => None,
        });
        if is_unheard.is_some() {
            self.note(|counters| counters.unheard += 1);
        }
        is_unheard.is_some()
    }

    pub(super) fn seed(&self) -> u64 {
        self.lock().seed
    }

    pub(super) fn set_seed(&self, seed: u64) {
        self.lock().seed = seed;
    }

    pub(super) fn counters(&self) -> watch::Receiver<Counters> {
        self.counters.subscribe()
    }

    pub(super) fn set_outage(&self, how: Outage, time: Duration) {
        self.note(|counters| counters.outages += 1);
        let until = Instant::now() + time;
        self.outage.send_replace(Some(Away { how, until }));
    }

    /// Puts a fault in force; the sessions are to be told.
    pub(super) fn add(&self, fault: Fault) {
        let mut state = self.lock();
        let id = state.next_rule;
        state.next_rule += 1;
        let session = state.next_session;
        let since = Instant::now();
        state.standing.push(Standing {
            rule: Rule { id, fault, since },
            session,
            count: 0,
        });
    }

    /// Forgets all faults; the sessions are to be told.
    pub(super) fn clear(&self) {
        {
            let mut state = self.lock();
            state.standing.clear();
            // The same faults after a clearing have the same chances.
            state.next_rule = 1;
        }
        self.set_repeats(false);
        self.set_unready(Duration::ZERO);
        self.set_short_headers(false);
        self.outage.send_replace(None);
        self.cleared.send_modify(|count| *count += 1);
    }

    /// The faults in force.
    pub(super) fn standing(&self) -> Vec<Fault> {
        let state = self.lock();
        let standing = state.standing.iter();
        standing
            .map(|standing| standing.rule.fault.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rules(&self, session: &Session) -> Rules {
        let mut rules = Rules {
            seed: self.seed,
            session: session.number,
            ..Rules::default()
        };
        for Standing {
            rule,
            session: coming,
            ..
        } in &self.standing
        {
            let is_meant = |sessions: &Sessions| match sessions {
                Sessions::All => true,
                Sessions::Coming => session.number >= *coming,
                Sessions::Only(id) => *id == session.id,
            };
            match &rule.fault {
                Fault::Cut(cut) if is_meant(&cut.sessions) => {
                    rules.cuts.push(rule.with(cut.clone()));
                }
                Fault::Messages(messages) if is_meant(&messages.sessions) => {
                    rules.messages.push(rule.with(messages.clone()));
                }
                Fault::Link(link) if is_meant(&link.sessions) => {
                    rules.links.push(rule.with(link.clone()));
                }
                _ => {}
            }
        }
        rules
    }

    /// Asks the faults in their order for one that applies and has extent left, and counts it.
    /// Those that can never strike again are forgotten.
    fn strike<T>(&mut self, mut applies: impl FnMut(&Fault) -> Option<(T, Extent)>) -> Option<T> {
        let now = Instant::now();
        let (index, answer) = self
            .standing
            .iter_mut()
            .enumerate()
            .find_map(|(index, it)| {
                let (answer, extent) = applies(&it.rule.fault)?;
                if !has_extent(extent, it.count, it.rule.since, now) {
                    return None;
                }
                it.count = it.count.saturating_add(1);
                let is_used_up = matches!(extent, Extent::Times(times) if it.count >= times);
                Some((is_used_up.then_some(index), answer))
            })?;
        if let Some(index) = index {
            self.standing.remove(index);
        }
        Some(answer)
    }
}

impl Expire {
    /// For how long a request signed with `access_key` is refused, if it is.
    fn strikes(&self, access_key: Option<&str>) -> Option<Extent> {
        let is_good =
            self.unless_access_key.is_some() && self.unless_access_key.as_deref() == access_key;
        (!is_good).then_some(self.extent)
    }
}

/// How a black hole ends.
pub(crate) async fn healed(how: Ending) {
    match how {
        Ending::BlackHole { heals: Some(time) } => tokio::time::sleep(time).await,
        _ => std::future::pending().await,
    }
}
