//! A script by itself, under a clock of the test's own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::plan::{Ending, Fault};
use super::script::{Rule, Rules, Script, Struck};
use crate::emulator::frame;
use crate::emulator::session::Peer;
use crate::ssm::protocol::message::MessageType;

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn rules(seed: u64, since: Instant, faults: &[Value]) -> Rules {
    let mut rules = Rules {
        seed,
        session: 1,
        ..Rules::default()
    };
    for (id, fault) in (1..).zip(faults) {
        let fault: Fault = serde_json::from_value(fault.clone()).unwrap();
        fault.check().unwrap();
        let rule = Rule {
            id,
            fault: (),
            since,
        };
        match fault {
            Fault::Cut(cut) => rules.cuts.push(rule.with(cut)),
            Fault::Messages(messages) => rules.messages.push(rule.with(messages)),
            Fault::Link(link) => rules.links.push(rule.with(link)),
            other => panic!("{other:?} is no rule for sessions"),
        }
    }
    rules
}

/// A script of the client's end with these faults and an open socket.
fn script(now: Instant, faults: &[Value]) -> Script {
    seeded(7, now, faults)
}

fn seeded(seed: u64, now: Instant, faults: &[Value]) -> Script {
    let mut script = Script::new(Peer::Client);
    script.load(now, &rules(seed, now, faults));
    script.on_attached(now);
    script
}

/// A data message; its payload is its number.
fn data(sequence: u64) -> Bytes {
    let payload = sequence.to_string();
    let message = frame::control(MessageType::InputStreamData, &payload).into_data();
    let mut bytes = message.to_vec();
    bytes[48..56].copy_from_slice(&sequence.to_be_bytes());
    bytes.into()
}

fn acknowledge(sequence: u64) -> Bytes {
    let payload = format!(
        r#"{{"AcknowledgedMessageType":"output_stream_data","AcknowledgedMessageId":"x","AcknowledgedMessageSequenceNumber":{sequence},"IsSequentialMessage":true}}"#
    );
    frame::control(MessageType::Acknowledge, &payload).into_data()
}

/// Numbers of the data messages that have arrived by `now`.
fn arrived(script: &mut Script, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| script.poll_transmit(now))
        .map(|message| frame::sequence_number(&message).unwrap())
        .collect()
}

#[test]
fn without_faults_it_is_out_of_the_way() {
    let now = Instant::now();
    let mut script = script(now, &[]);
    assert!(!script.is_active());
    // A fault of the other end is none of ours.
    let other = json!({"fault": "cut", "side": "agent", "how": "fin", "after": {"messages": 1}});
    script.load(now, &rules(7, now, &[other]));
    assert!(!script.is_active());
}

#[test]
fn messages_count_down_to_a_cut() {
    let now = Instant::now();
    let mut script = script(
        now,
        &[
            json!({"fault": "cut", "side": "client", "how": "reset", "after": {"messages": 3},
                 "from": "agent", "extent": {"times": 2}}),
        ],
    );
    for socket in 1..=2 {
        script.count(Peer::Client, 100);
        script.count(Peer::Agent, 100);
        script.count(Peer::Agent, 100);
        assert_eq!(script.poll_cut(socket, now), None);
        script.count(Peer::Agent, 100);
        assert!(script.is_cut());
        // Whoever comes late to an older socket takes nothing.
        assert_eq!(script.poll_cut(socket + 1, now), None);
        assert_eq!(script.poll_cut(socket, now), Some(Ending::Reset));
        script.on_detached(socket);
        script.on_attached(now);
    }
    for _ in 0..10 {
        script.count(Peer::Agent, 100);
    }
    assert_eq!(script.poll_cut(3, now), None, "its extent is used up");
}

#[test]
fn bytes_count_down_to_a_cut() {
    let now = Instant::now();
    let cut = json!({"fault": "cut", "side": "client", "how": "bye", "after": {"bytes": 250}});
    let mut script = script(now, &[cut]);
    script.count(Peer::Agent, 200);
    assert!(!script.is_cut());
    script.count(Peer::Client, 200);
    assert_eq!(script.poll_cut(1, now), Some(Ending::Bye));
}

#[test]
fn time_cuts_every_socket_anew() {
    let start = Instant::now();
    let cut = json!({"fault": "cut", "side": "client", "how": "bye", "after": {"ms": 100},
                     "jitter": 0.5, "extent": {"ms": 10_000}});
    let mut script = script(start, &[cut]);
    let mut now = start;
    let mut lives = Vec::new();
    for socket in 1.. {
        let Some(due) = script.cut_timeout() else {
            break;
        };
        let life = due - now;
        assert!((millis(50)..=millis(150)).contains(&life), "{life:?}");
        assert_eq!(script.poll_cut(socket, due - millis(1)), None);
        assert_eq!(script.poll_cut(socket, due), Some(Ending::Bye));
        lives.push(life);
        script.on_detached(socket);
        now = due;
        script.on_attached(now);
    }
    // The extent is over, after some hundred sockets, no two alike.
    assert!(now - start >= millis(10_000), "{:?}", now - start);
    assert!((70..200).contains(&lives.len()), "{}", lives.len());
    lives.sort_unstable();
    lives.dedup();
    assert!(lives.len() > 50);
}

#[test]
fn a_cut_on_demand_needs_a_socket() {
    let now = Instant::now();
    let mut script = Script::new(Peer::Agent);
    assert!(!script.cut(Ending::Fin));
    let first = script.on_attached(now);
    let second = script.on_attached(now);
    // The older socket leaves after the newer has come.
    script.on_detached(first);
    assert!(script.cut(Ending::Fin));
    assert!(script.is_active());
    assert_eq!(script.poll_cut(second, now), Some(Ending::Fin));
    script.on_detached(second);
    assert!(!script.cut(Ending::Fin));
    assert!(!script.is_active());
}

#[test]
fn numbers_pick_messages_and_acknowledgements() {
    let now = Instant::now();
    let mut script = script(
        now,
        &[
            json!({"fault": "messages", "kind": "data", "pick": {"sequence": [2, 4]}, "effect": "drop",
                   "extent": {"times": 2}}),
            json!({"fault": "messages", "kind": "acknowledge", "pick": {"sequence": [2]},
                   "effect": "duplicate"}),
        ],
    );
    let struck: Vec<_> = (1..=4).map(|n| script.handle_input(now, data(n))).collect();
    assert_eq!(
        struck,
        [None, Some(Struck::Dropped), None, Some(Struck::Dropped)]
    );
    assert_eq!(arrived(&mut script, now), [1, 3]);
    // Sent again it arrives: the extent is used up.
    assert_eq!(script.handle_input(now, data(2)), None);
    assert_eq!(arrived(&mut script, now), [2]);
    assert_eq!(script.handle_input(now, acknowledge(1)), None);
    assert_eq!(
        script.handle_input(now, acknowledge(2)),
        Some(Struck::Duplicated)
    );
    assert_eq!(arrived(&mut script, now).len(), 3);
}

#[test]
fn messages_are_late_and_out_of_order() {
    let now = Instant::now();
    let mut script = script(
        now,
        &[
            json!({"fault": "messages", "pick": {"sequence": [1]}, "effect": {"delay": {"ms": 40}}}),
            json!({"fault": "messages", "pick": {"sequence": [2]}, "effect": {"reorder": {"places": 2}}}),
        ],
    );
    for sequence in 1..=5 {
        script.handle_input(now, data(sequence));
    }
    assert_eq!(arrived(&mut script, now), [3, 4, 2, 5]);
    assert_eq!(script.poll_timeout(), Some(now + millis(40)));
    assert_eq!(arrived(&mut script, now + millis(40)), [1]);
}

#[test]
fn chances_follow_from_the_seed_alone() {
    let now = Instant::now();
    let faults = [
        json!({"fault": "messages", "kind": "data", "pick": {"probability": 0.3}, "effect": "drop"}),
        json!({"fault": "messages", "pick": {"probability": 0.3}, "effect": "duplicate"}),
    ];
    let fates = |seed, acknowledgements| {
        let mut script = seeded(seed, now, &faults[..1]);
        (0..200)
            .map(|n| {
                if acknowledgements {
                    script.handle_input(now, acknowledge(n));
                }
                script.handle_input(now, data(n)) == Some(Struck::Dropped)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(fates(7, false), fates(7, true), "other kinds do not matter");
    assert_ne!(fates(7, false), fates(8, false));
    let share = fates(7, false).iter().filter(|struck| **struck).count();
    assert!((40..80).contains(&share), "{share} of 200");
    // A rule's chances do not depend on the rules before it, except where those strike.
    let mut both = seeded(7, now, &faults);
    let dropped: Vec<_> = (0..200)
        .map(|n| both.handle_input(now, data(n)) == Some(Struck::Dropped))
        .collect();
    assert_eq!(dropped, fates(7, false));
}

#[test]
fn rules_that_stay_go_on_and_rules_that_go_let_their_messages_arrive() {
    let now = Instant::now();
    let drop = json!({"fault": "messages", "pick": {"nth": 3}, "effect": "drop"});
    let link = json!({"fault": "link", "latency_ms": 50});
    let mut script = script(now, std::slice::from_ref(&drop));
    script.handle_input(now, data(1));
    script.handle_input(now, data(2));
    script.load(now, &rules(7, now, &[drop, link]));
    assert_eq!(script.handle_input(now, data(3)), Some(Struck::Dropped));
    script.handle_input(now, data(4));
    assert_eq!(arrived(&mut script, now), [1, 2]);
    script.load(now, &rules(7, now, &[]));
    assert!(script.is_active(), "a message is under way");
    // And is not overtaken.
    script.handle_input(now, data(5));
    assert_eq!(arrived(&mut script, now + millis(50)), [4, 5]);
    assert!(!script.is_active());
}

#[test]
fn links_add_up_and_the_slowest_rate_counts() {
    let now = Instant::now();
    let mut script = script(
        now,
        &[
            json!({"fault": "link", "latency_ms": 20, "bytes_per_second": 1_000_000}),
            json!({"fault": "link", "latency_ms": 10, "jitter_ms": 5, "bytes_per_second": 12_100}),
            json!({"fault": "link", "from": "agent", "latency_ms": 1000}),
        ],
    );
    // 121 bytes each: 10 ms at the slower rate.
    for sequence in 0..5 {
        script.handle_input(now, data(sequence));
    }
    assert!(arrived(&mut script, now + millis(39)).is_empty());
    assert_eq!(arrived(&mut script, now + millis(85)), [0, 1, 2, 3, 4]);
}
