//! Version numbers as the two official ends compare them, and the behaviour they switch on.
//!
//! Both ends decide on their own whether a Port session is multiplexed; they must come to the
//! same answer, so both comparisons are here as they are there.

use std::cmp::Ordering;

/// ClientVersion reported when nothing else is configured.
///
/// Recent enough for every gate of the agent, and the oldest that AWS still supports.
pub const CLIENT_VERSION: &str = "1.2.764.0";

const CLIENT_MUX: &str = "1.1.70";
const CLIENT_KEEPALIVE_OFF: &str = "1.2.331.0";
const AGENT_TERMINATE_FLAG: [u32; 4] = [2, 3, 722, 0];
const AGENT_MUX: [u32; 4] = [3, 0, 196, 0];
const AGENT_KEEPALIVE_OFF: [u32; 4] = [3, 1, 1511, 0];
/// The last before 3.0.655.0, which refuses a message that it is not ready for without a word.
const AGENT_LOSES_EARLY_DATA: [u32; 4] = [3, 0, 654, u32::MAX];
/// The last before 3.2.1041.0 (sheet §3.3).
const AGENT_SILENT_ON_DUPLICATES: [u32; 4] = [3, 2, 1040, u32::MAX];

/// Whether an agent of this version ends the session on a TerminateSession flag.
pub fn agent_takes_terminate_flag(agent_version: &str) -> bool {
    agent_is_newer_than(agent_version, AGENT_TERMINATE_FLAG)
}

/// Whether an agent of this version speaks smux in a LocalPortForwarding session.
pub fn agent_multiplexes(agent_version: &str) -> bool {
    agent_is_newer_than(agent_version, AGENT_MUX)
}

/// Whether the client does without smux keep-alives towards an agent of this version.
pub fn agent_needs_no_keepalive(agent_version: &str) -> bool {
    agent_is_newer_than(agent_version, AGENT_KEEPALIVE_OFF)
}

/// Whether an agent of this version may acknowledge what comes right after the handshake, and lose it:
/// it acknowledges before it looks whether the port is open yet.
pub fn agent_loses_early_data(agent_version: &str) -> bool {
    !agent_is_newer_than(agent_version, AGENT_LOSES_EARLY_DATA)
}

/// Whether an agent of this version acknowledges a message again that it has acknowledged before.
pub fn agent_acknowledges_duplicates(agent_version: &str) -> bool {
    agent_is_newer_than(agent_version, AGENT_SILENT_ON_DUPLICATES)
}

/// Whether the agent multiplexes a LocalPortForwarding session for a client of this version.
pub fn client_multiplexes(client_version: &str) -> bool {
    compare_as_agent(client_version, CLIENT_MUX).is_ge()
}

/// Whether the agent does without smux keep-alives towards a client of this version.
pub fn client_needs_no_keepalive(client_version: &str) -> bool {
    compare_as_agent(client_version, CLIENT_KEEPALIVE_OFF).is_gt()
}

/// The comparison of the official client: exactly four numbers, anything else is too old.
fn agent_is_newer_than(agent_version: &str, gate: [u32; 4]) -> bool {
    let mut numbers = [0; 4];
    let mut components = agent_version.split('.');
    for number in &mut numbers {
        let Some(parsed) = components.next().and_then(|text| text.parse().ok()) else {
            return false;
        };
        *number = parsed;
    }
    components.next().is_none() && numbers > gate
}

/// The comparison of the agent: component by component, as numbers when both are, else as text;
/// the version with fewer components is the lesser.
fn compare_as_agent(left: &str, right: &str) -> Ordering {
    let mut lefts = left.split('.');
    let mut rights = right.split('.');
    loop {
        let order = match (lefts.next(), rights.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(left), Some(right)) => match (left.parse::<u64>(), right.parse::<u64>()) {
                (Ok(left), Ok(right)) => left.cmp(&right),
                _ => left.cmp(right),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_gates_are_strict_and_want_four_numbers() {
        assert!(!agent_multiplexes("3.0.196.0"));
        assert!(agent_multiplexes("3.0.222.0"));
        assert!(agent_multiplexes("3.10.0.0"));
        for odd in [
            "",
            "3.1.1",
            "3.1.1.1.1",
            "3.x.0.0",
            "-3.1.1.1",
            "99999999999.0.0.0",
        ] {
            assert!(!agent_multiplexes(odd), "{odd}");
        }
        assert!(agent_takes_terminate_flag("2.3.723.0"));
        assert!(agent_loses_early_data("3.0.603.0"));
        assert!(!agent_loses_early_data("3.0.655.0"));
        assert!(!agent_needs_no_keepalive("3.1.1511.0"));
        assert!(agent_needs_no_keepalive("3.3.1142.0"));
    }

    #[test]
    fn client_gates_follow_the_agent_down_to_its_text_comparison() {
        assert!(client_multiplexes("1.1.70"));
        assert!(client_multiplexes("1.1.70.0"));
        assert!(client_multiplexes("1.2.0.0"));
        assert!(!client_multiplexes("1.1.69"));
        assert!(!client_multiplexes(""));
        assert!(client_multiplexes("lssh-native"));
        assert!(!client_needs_no_keepalive("1.2.331.0"));
        assert!(client_needs_no_keepalive(CLIENT_VERSION));
        assert!(client_multiplexes(CLIENT_VERSION));
    }
}
