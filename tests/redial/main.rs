//! An upstream that is lost takes its channels with it, and nothing else.
//!
//! Real clients stay connected to `ssmshim serve` while, behind it, sshd loses the session, sshd is restarted, or the
//! SSM session is terminated. Their listeners at both ends go on, under the same ports; what was under way ends in an
//! honest way; what they ask meanwhile waits.

#[path = "../common/mod.rs"]
mod common;

mod away;
mod clients;
mod forwards;
mod messages;
mod sessions;

use common::sshd::Sshd;
use common::world::World;

/// How upstream transports are lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// sshd's processes that serve a connection each are killed.
    SessionsKilled,
    /// sshd is killed with all its sessions and started again.
    SshdRestarted,
    /// The SSM session is terminated, as an administrator can.
    SessionTerminated,
    /// The agent stops, its connections to sshd end, and comes back.
    AgentRestarted,
}

/// All of them.
const LOSSES: [Loss; 4] = [
    Loss::SessionsKilled,
    Loss::SshdRestarted,
    Loss::SessionTerminated,
    Loss::AgentRestarted,
];

impl Loss {
    /// Lets it happen to every transport of `world`.
    fn strike(self, world: &World) {
        let sshd = sshd(world);
        match self {
            Self::SessionsKilled => sshd.end_sessions(),
            Self::SshdRestarted => {
                sshd.stop();
                sshd.start_again();
            }
            Self::SessionTerminated => world.terminate_sessions(),
            Self::AgentRestarted => {
                world.inject(&serde_json::json!({"fault": "agent", "away_ms": 300}));
            }
        }
    }
}

fn sshd(world: &World) -> &Sshd {
    world.sshd.as_ref().expect("serve has a real one")
}
