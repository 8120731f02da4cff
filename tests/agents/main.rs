//! Agents of every age: real clients through `ssmshim serve` to an emulated agent of each version.
//!
//! The emulated agents have the ways of the versions that they say they are, and their warts: they are not
//! ready after the handshake, do not hear of a session, lose their sockets every hour.

#[path = "../common/mod.rs"]
mod common;

mod ages;
mod warts;

use common::faulty::Faulty;
use ssmshim::emulator::fault::Plan;
use ssmshim::emulator::{Options, Pacing, Resend};

/// How an agent's sessions carry connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// One each.
    One,
    /// Any number.
    Many,
}

/// Versions at either side of each gate that a client can notice.
const AGES: [(&str, Carries); 6] = [
    ("2.3.722.0", Carries::One),
    ("3.0.196.0", Carries::One),
    ("3.0.222.0", Carries::Many),
    ("3.1.1511.0", Carries::Many),
    ("3.2.985.0", Carries::Many),
    ("3.3.1142.0", Carries::Many),
];

/// An agent of this version with these faults from the start, which does not pause after each message.
fn agent(version: &str, faults: &str) -> Option<Faulty> {
    agent_that(version, faults, Resend::Backlog)
}

fn agent_that(version: &str, faults: &str, resend: Resend) -> Option<Faulty> {
    let faults: Plan = faults.parse().expect("a plan");
    Faulty::with(Options {
        agent_version: version.parse().expect("a version"),
        pacing: Pacing::Off,
        resend,
        faults,
        ..Options::default()
    })
}
