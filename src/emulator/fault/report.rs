//! What was seen and what was injected.

use serde::{Deserialize, Serialize};

use super::plan::Fault;
use super::script::Struck;
use crate::emulator::session::Peer;

/// What an emulator has seen, and what it has done to it, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Counters {
    /// Sessions that StartSession opened.
    pub sessions: u64,
    /// Sessions that are over.
    pub sessions_over: u64,
    /// Data channels that clients opened, the first of each session included.
    pub client_sockets: u64,
    /// Data channels that agents opened.
    pub agent_sockets: u64,
    /// Data channels that clients opened after the first of their session.
    pub resumes: u64,
    /// ResumeSession calls that were granted.
    pub resume_calls: u64,
    /// Clients' data channels cut.
    pub client_cuts: u64,
    /// Agents' data channels cut.
    pub agent_cuts: u64,
    /// Messages lost.
    pub dropped: u64,
    /// Messages doubled.
    pub duplicated: u64,
    /// Messages overtaken because they were late.
    pub delayed: u64,
    /// Messages put behind others.
    pub reordered: u64,
    /// API calls refused.
    pub api_refused: u64,
    /// WebSockets refused.
    pub gateway_refused: u64,
    /// Times that connections were refused or requests left waiting.
    pub outages: u64,
    /// Agents that have stopped: nothing is left of their sessions then.
    pub agents_stopped: u64,
    /// Messages that an agent wrote to its port twice.
    pub repeated: u64,
    /// Sessions that no agent was told of.
    pub unheard: u64,
    /// Messages that found an agent not ready, counted each time.
    pub unready: u64,
}

impl Counters {
    pub(super) fn note_cut(&mut self, side: Peer) {
        match side {
            Peer::Client => self.client_cuts += 1,
            Peer::Agent => self.agent_cuts += 1,
        }
    }

    pub(super) fn note_struck(&mut self, struck: Struck) {
        match struck {
            Struck::Dropped => self.dropped += 1,
            Struck::Duplicated => self.duplicated += 1,
            Struck::Delayed => self.delayed += 1,
            Struck::Reordered => self.reordered += 1,
        }
    }
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Seed of every random choice: with it and the same faults a run can be repeated.
    pub seed: u64,
    /// What was seen and injected.
    pub counters: Counters,
    /// The open sessions, newest first.
    pub sessions: Vec<SessionReport>,
    /// The faults in force.
    pub faults: Vec<Fault>,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionReport {
    /// `SessionId`.
    pub id: String,
    /// Machine.
    pub target: String,
    /// In the words of DescribeSessions.
    pub status: String,
    /// Whether the client's data channel is open: its opening message has come, and a cut would strike it.
    pub client: bool,
    /// Whether the agent's is.
    pub agent: bool,
}
