//! Faults: what goes wrong on demand, repeatably.
//!
//! A [`Fault`] is data ([`plan`]); a [`Plan`] is a list of them with a seed. They are injected
//! from Rust by [`Faults`], at the start by [`Options::faults`](super::Options::faults), and at
//! any time by HTTP at the emulator's own port:
//!
//! ```text
//! curl $AWS_ENDPOINT_URL_SSM/faults                       how things stand: seed, counters, sessions, faults
//! curl $AWS_ENDPOINT_URL_SSM/faults -d @plan.json         injects a plan, beside what is in force
//! curl $AWS_ENDPOINT_URL_SSM/faults -X DELETE             clears what is in force
//! ```
//!
//! Some bodies of a `POST`; a fault alone will do:
//!
//! ```json
//! {"fault": "cut", "side": "client", "how": "reset"}
//! {"fault": "cut", "side": "client", "how": "bye", "after": {"ms": 3600000}, "extent": "always"}
//! {"fault": "cut", "side": "agent", "how": {"black_hole": {"heals_ms": 5000}}}
//! {"seed": 7, "faults": [{"fault": "messages", "pick": {"probability": 0.05}, "effect": "drop"}]}
//! {"fault": "link", "latency_ms": 40, "jitter_ms": 10, "bytes_per_second": 500000}
//! {"fault": "publication", "side": "agent", "paused": true}
//! {"fault": "api", "operation": "ResumeSession", "answer": {"failed": {"status": 503}}, "extent": {"times": 3}}
//! {"fault": "api", "answer": {"throttled": {"retry_after": 1}}, "extent": {"ms": 2000}}
//! {"fault": "gateway", "refusal": {"status": 403}}
//! {"fault": "expire", "unless_access_key": "AKIAFRESH", "extent": "always"}
//! {"fault": "clock", "ahead_seconds": 900}               the service's clock, which signatures are judged by
//! {"fault": "network", "how": "refuse", "ms": 5000}
//! {"fault": "terminate", "text": "by the administrator"}
//! {"fault": "agent", "away_ms": 3000}
//! {"fault": "agent", "away_ms": 100, "silent": true}     its sessions die unnoticed, as of a worker that was killed
//! {"fault": "repeat", "on": true}                        agents that lose their socket write a message to the port twice
//! {"fault": "unready", "ms": 300}                        agents refuse, or the old ones lose, what comes so soon
//! {"fault": "unheard", "extent": {"times": 2}}           sessions start and no agent is told
//! {"fault": "headers", "short": true}                    the service's own messages have a header of 112 bytes
//! ```
//!
//! The warts of real agents and of the service, and which of these stands for each:
//!
//! | seen | fault |
//! |---|---|
//! | every socket is closed after an hour | `cut` `bye` `after` `{"ms": 3600000}`, for each side |
//! | a message right after the handshake is refused, or lost | `unready` |
//! | a session is started and the agent never comes | `unheard` |
//! | the agent reconnects and tells nobody | `cut` of the side `agent` |
//! | having reconnected it writes a message twice | `repeat` |
//! | `channel_closed` and others without a payload type | always, and `headers` |
//!
//! What differs between versions of the agent is not a fault: see
//! [`Options::agent_version`](super::Options::agent_version).
//!
//! # What stays and what happens at once
//!
//! A cut without `after`, `publication`, `terminate`, `network` and `agent` happen at once; `repeat`,
//! `unready` and `headers` are switched on or off. All others are rules: they stay in force until their extent is used
//! up or they are cleared. A rule for sessions counts in each session, end and direction by itself.
//!
//! A client believes to have a socket as soon as it has sent its opening message, to which there is no reply; a cut
//! strikes it once that was read. Who cuts right after a start or a resume waits for `client_sockets` or `resumes` of
//! the counters, or for `client` of the session, which tell of sockets that can be cut.
//!
//! # Repeating a run
//!
//! Every random choice follows from the seed, the session's number, the end, the rule's number,
//! and how many times the rule was asked: the k-th message of a session that a rule is for meets
//! the same fate in every run. What cannot be repeated is what the ends make of it: which bytes
//! are in the k-th message, and when.

mod board;
pub(super) mod control;
mod line;
pub mod plan;
mod report;
mod script;
#[cfg(test)]
mod script_tests;
mod wire;

use std::sync::Arc;

pub use plan::{Fault, Plan, PlanError};
pub use report::{Counters, Report, SessionReport};

pub(crate) use board::{Board, healed};
pub(crate) use wire::Wire;

use super::frame;
use super::hub::Hub;
use super::session::{EndedBy, Peer, Session};
use plan::{Amount, Cut, Ending, Extent, Sessions};

/// What an agent's sessions are told when it stops.
const AGENT_STOPPED: &str = "The agent was stopped";

/// An emulator's faults: injects them and tells what became of it.
///
/// A handle: clones are for the same emulator, and keep its memory but not its port alive.
#[derive(Debug, Clone)]
pub struct Faults {
    hub: Arc<Hub>,
}

impl Faults {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Injects a plan, beside the faults that are in force; all of it or nothing.
    ///
    /// # Errors
    /// [`PlanError`] when a fault makes no sense.
    pub fn apply(&self, plan: Plan) -> Result<(), PlanError> {
        plan.faults.iter().try_for_each(|fault| self.check(fault))?;
        if let Some(seed) = plan.seed {
            self.hub.faults.set_seed(seed);
        }
        for fault in plan.faults {
            tracing::info!(?fault, "fault injected");
            self.strike(fault);
        }
        Ok(())
    }

    /// Injects one fault.
    ///
    /// # Errors
    /// [`PlanError`] when it makes no sense.
    pub fn inject(&self, fault: Fault) -> Result<(), PlanError> {
        self.apply(Plan {
            seed: None,
            faults: vec![fault],
        })
    }

    /// Cuts the data channels of `side` that are open now, and returns how many there were.
    pub fn cut(&self, side: Peer, how: Ending) -> usize {
        self.cut_in(side, how, &Sessions::All)
    }

    /// Cuts every data channel of `side`, the present ones and those to come, when it has lived for
    /// `amount` give or take a quarter; until cleared.
    pub fn cut_every(&self, side: Peer, how: Ending, amount: Amount) {
        self.strike(Fault::Cut(Cut {
            side,
            how,
            after: Some(amount),
            from: None,
            jitter: 0.25,
            extent: Extent::Always,
            sessions: Sessions::All,
        }));
    }

    /// Forgets the faults in force: black holes heal, the network is back. What has happened has
    /// happened.
    pub fn clear(&self) {
        self.hub.faults.clear();
        self.brief();
    }

    /// Seed of the random choices.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.hub.faults.seed()
    }

    /// What was seen and injected so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        *self.hub.faults.counters().borrow()
    }

    /// How things stand.
    #[must_use]
    pub fn report(&self) -> Report {
        let sessions = self.hub.open_sessions();
        Report {
            seed: self.seed(),
            counters: self.counters(),
            sessions: sessions.iter().map(|session| describe(session)).collect(),
            faults: self.hub.faults.standing(),
        }
    }

    /// Waits until the counters are as asked for, and returns them.
    pub async fn wait_until(&self, is_reached: impl Fn(&Counters) -> bool) -> Counters {
        let mut counters = self.hub.faults.counters();
        match counters.wait_for(is_reached).await {
            Ok(counters) => *counters,
            // The sender is part of the hub, which we hold.
            Err(_) => self.counters(),
        }
    }

    /// Waits until clients have resumed `count` times in all, over all sessions.
    pub async fn wait_for_resumes(&self, count: u64) -> Counters {
        self.wait_until(|counters| counters.resumes >= count).await
    }

    /// Waits until `count` sessions were started in all.
    pub async fn wait_for_sessions(&self, count: u64) -> Counters {
        self.wait_until(|counters| counters.sessions >= count).await
    }

    fn check(&self, fault: &Fault) -> Result<(), PlanError> {
        fault.check()?;
        match fault {
            Fault::Agent(agent) => match &agent.target {
                Some(target) if !self.has_agent(target) => Err(PlanError::UnknownTarget {
                    target: target.clone(),
                }),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn has_agent(&self, target: &str) -> bool {
        let node = self.hub.nodes.get(target);
        node.is_some_and(|node| node.instance.agent)
    }

    fn strike(&self, fault: Fault) {
        match fault {
            Fault::Cut(cut) if cut.after.is_none() => {
                self.cut_in(cut.side, cut.how, &cut.sessions);
            }
            Fault::Publication(it) => {
                for session in self.sessions(&it.sessions) {
                    let header = self.hub.faults.header_to(it.side);
                    let message = frame::publication(!it.paused, header);
                    session.outbox(it.side).push(message);
                }
            }
            Fault::Terminate(it) => {
                for session in self.sessions(&it.sessions) {
                    session.end(EndedBy::Fault, it.text.as_str());
                }
            }
            Fault::Network(network) => self.hub.faults.set_outage(network.how, network.time),
            Fault::Agent(agent) => self.stop_agents(&agent),
            Fault::Repeat(repeat) => self.hub.faults.set_repeats(repeat.on),
            Fault::Unready(unready) => self.hub.faults.set_unready(unready.time),
            Fault::Headers(headers) => self.hub.faults.set_short_headers(headers.short),
            rule @ (Fault::Cut(_) | Fault::Messages(_) | Fault::Link(_)) => {
                self.hub.faults.add(rule);
                self.brief();
            }
            rule @ (Fault::Api(_)
            | Fault::Gateway(_)
            | Fault::Expire(_)
            | Fault::Unheard(_)
            | Fault::Clock(_)) => {
                self.hub.faults.add(rule);
            }
        }
    }

    fn cut_in(&self, side: Peer, how: Ending, sessions: &Sessions) -> usize {
        let sessions = self.sessions(sessions);
        let open = sessions
            .iter()
            .filter(|session| session.wire(side).cut_now(how));
        open.count()
    }

    fn stop_agents(&self, agent: &plan::Agent) {
        let is_meant = |id: &str| agent.target.as_deref().is_none_or(|target| target == id);
        let nodes = self.hub.nodes.values();
        for node in nodes.filter(|node| node.instance.agent && is_meant(&node.instance.id)) {
            node.stop_agent(agent.away);
        }
        if !agent.silent {
            for session in self.hub.open_sessions() {
                let target = &session.request.target;
                if self.has_agent(target) && is_meant(target) {
                    session.end(EndedBy::Agent, AGENT_STOPPED);
                }
            }
        }
    }

    /// The open sessions that are meant.
    fn sessions(&self, sessions: &Sessions) -> Vec<Arc<Session>> {
        match sessions {
            Sessions::All => self.hub.open_sessions(),
            Sessions::Coming => Vec::new(),
            Sessions::Only(id) => self.hub.session(id).into_iter().collect(),
        }
    }

    /// Tells every open session the rules in force; a new one asks for them itself.
    fn brief(&self) {
        for session in self.hub.open_sessions() {
            self.hub.faults.brief(&session);
        }
    }
}

fn describe(session: &Session) -> SessionReport {
    SessionReport {
        id: session.id.clone(),
        target: session.request.target.clone(),
        status: session.status().name().to_owned(),
        client: session.wire(Peer::Client).is_attached(),
        agent: session.wire(Peer::Agent).is_attached(),
    }
}
