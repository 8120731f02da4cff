use super::*;

const MS: Duration = Duration::from_millis(1);

fn outgoing(strategy: Strategy) -> Outgoing {
    let limits = Limits {
        messages: 100,
        bytes: 1000,
    };
    let rtt = RttEstimator::new(MS * 100, MS * 3000);
    Outgoing::new(strategy, limits, rtt)
}

fn push(outgoing: &mut Outgoing, count: u8) {
    for _ in 0..count {
        let number = outgoing.next_sequence() as u8;
        outgoing.push(Bytes::copy_from_slice(&[number]));
    }
}

fn unanswered(outgoing: &Outgoing) -> usize {
    let entries = outgoing.entries.iter();
    entries.filter(|entry| entry.frame.is_some()).count()
}

/// Numbers of everything that leaves at `now`.
fn drain(outgoing: &mut Outgoing, now: Instant) -> Vec<u8> {
    std::iter::from_fn(|| outgoing.transmit(now).map(|(frame, _)| frame[0])).collect()
}

/// Advances to the next time-out, if it is not after `until`, and returns what leaves then.
fn step(outgoing: &mut Outgoing, until: Instant) -> Option<(Instant, Vec<u8>)> {
    let due = outgoing.poll_timeout().filter(|due| *due <= until)?;
    outgoing.handle_timeout(due);
    Some((due, drain(outgoing, due)))
}

#[test]
fn acknowledgements_are_selective_and_free_capacity() {
    let now = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 3);
    assert_eq!(drain(&mut outgoing, now), [0, 1, 2]);
    assert_eq!(outgoing.on_acknowledge(1, now), Ok(true));
    assert_eq!((outgoing.len(), outgoing.bytes()), (3, 2));
    assert_eq!(outgoing.on_acknowledge(1, now), Ok(false));
    assert_eq!(outgoing.on_acknowledge(0, now), Ok(true));
    assert_eq!((outgoing.len(), outgoing.bytes()), (1, 1));
    assert_eq!(outgoing.on_acknowledge(0, now), Ok(false));
    assert_eq!(outgoing.on_acknowledge(2, now), Ok(true));
    assert!(outgoing.is_empty());
    assert_eq!(outgoing.poll_timeout(), None);
}

#[test]
fn acknowledging_the_unsent_is_the_peers_error() {
    let now = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 1);
    for seq in [0, 1, -1, i64::MAX, i64::MIN] {
        assert_eq!(
            outgoing.on_acknowledge(seq, now),
            Err(AcknowledgedUnsent(seq))
        );
    }
}

#[test]
fn either_limit_closes_the_capacity() {
    let mut outgoing = outgoing(Strategy::Recover);
    outgoing.push(Bytes::from(vec![0; 999]));
    assert_eq!(outgoing.capacity(), 1);
    outgoing.push(Bytes::from(vec![0; 9]));
    assert_eq!(outgoing.capacity(), 0);
    let mut outgoing = self::outgoing(Strategy::Recover);
    push(&mut outgoing, 100);
    assert_eq!(outgoing.capacity(), 0);
}

#[test]
fn silence_probes_the_head_with_back_off() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 1);
    drain(&mut outgoing, start);
    let probes: Vec<_> = std::iter::from_fn(|| step(&mut outgoing, start + MS * 9000)).collect();
    let at: Vec<_> = probes
        .iter()
        .map(|(at, _)| (*at - start).as_millis())
        .collect();
    assert_eq!(at, [200, 600, 1400, 3000, 5000, 7000, 9000]);
    assert!(probes.iter().all(|(_, sent)| *sent == [0]));
}

#[test]
fn others_take_turns_when_the_head_is_never_answered() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 6);
    drain(&mut outgoing, start);
    outgoing.on_acknowledge(2, start).unwrap();
    // The one answered among them is left out.
    outgoing.gap_at = None;
    let mut probes = Vec::new();
    while let Some((_, sent)) = step(&mut outgoing, start + MS * 9_000) {
        probes.push(sent);
    }
    assert_eq!(probes[..3], [[0], [0], [0]]);
    assert_eq!(probes[3..5], [[0, 1, 3, 4], [0, 5, 1, 3]]);
}

#[test]
fn an_answered_probe_brings_the_rest_at_once_and_in_order() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 5);
    drain(&mut outgoing, start);
    let (at, sent) = step(&mut outgoing, start + MS * 500).unwrap();
    assert_eq!(sent, [0]);
    outgoing.on_acknowledge(0, at + MS * 20).unwrap();
    let (_, sent) = step(&mut outgoing, at + MS * 100).unwrap();
    assert_eq!(sent, [1, 2, 3, 4]);
}

/// The peer has the oldest and does not say so again; all others were lost.
#[test]
fn an_answer_to_what_is_probed_with_the_oldest_brings_the_rest_at_once() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 50);
    drain(&mut outgoing, start);
    let (at, sent) = loop {
        let (at, sent) = step(&mut outgoing, start + MS * 9_000).unwrap();
        if sent != [0] {
            break (at, sent);
        }
    };
    assert_eq!(sent, [0, 1, 2, 3]);
    for seq in [1, 2, 3] {
        outgoing.on_acknowledge(seq, at + MS * 20).unwrap();
    }
    let (_, sent) = step(&mut outgoing, at + MS * 100).unwrap();
    assert_eq!(sent, [vec![0], (4..50).collect()].concat());
}

#[test]
fn answers_to_originals_after_a_probe_prevent_a_needless_resend() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 5);
    drain(&mut outgoing, start);
    let (at, _) = step(&mut outgoing, start + MS * 500).unwrap();
    // The peer was only slow: it answers the originals one after another.
    for seq in 0..4 {
        outgoing.on_acknowledge(seq, at + MS * 5).unwrap();
    }
    assert_eq!(step(&mut outgoing, at + MS * 100), None);
}

#[test]
fn an_overtaken_message_is_resent_after_tens_of_milliseconds() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 3);
    drain(&mut outgoing, start);
    outgoing.on_acknowledge(1, start + MS).unwrap();
    outgoing.on_acknowledge(2, start + MS).unwrap();
    let (at, sent) = step(&mut outgoing, start + MS * 50).unwrap();
    assert_eq!((at - start, sent), (MS * 21, vec![0]));
    // Refused again, while newer ones are taken: the wait doubles.
    push(&mut outgoing, 1);
    drain(&mut outgoing, at + MS);
    outgoing.on_acknowledge(3, at + MS * 2).unwrap();
    let (again, sent) = step(&mut outgoing, at + MS * 60).unwrap();
    assert_eq!((again - at, sent), (MS * 40, vec![0]));
}

#[test]
fn a_single_message_after_the_handshake_is_resent_promptly() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    outgoing.expect_refusal();
    push(&mut outgoing, 1);
    drain(&mut outgoing, start);
    let (at, sent) = step(&mut outgoing, start + MS * 500).unwrap();
    assert_eq!((at - start, sent), (MS * 30, vec![0]));
}

#[test]
fn a_resent_message_gives_no_sample() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 1);
    drain(&mut outgoing, start);
    let (at, _) = step(&mut outgoing, start + MS * 500).unwrap();
    outgoing.on_acknowledge(0, at + MS).unwrap();
    assert!(!outgoing.rtt().is_measured());
}

#[test]
fn a_reconnect_resends_the_backlog_in_order_then_what_is_new() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    push(&mut outgoing, 5);
    drain(&mut outgoing, start);
    outgoing.on_acknowledge(2, start + MS).unwrap();
    push(&mut outgoing, 1);
    outgoing.on_reconnected(start + MS * 2);
    assert_eq!(drain(&mut outgoing, start + MS * 2), [0, 1, 3, 4, 5]);
}

#[test]
fn the_agents_way_resends_one_message_per_tick() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::HeadOnly);
    push(&mut outgoing, 3);
    drain(&mut outgoing, start);
    outgoing.on_reconnected(start);
    let mut at = start;
    for number in 0..3 {
        let (due, sent) = step(&mut outgoing, start + MS * 1000).unwrap();
        assert_eq!(sent, [number]);
        assert!(number == 0 || due - at == MS * 100, "{:?}", due - at);
        at = due;
        outgoing.on_acknowledge(i64::from(number), due).unwrap();
    }
}

#[test]
fn a_withheld_message_leaves_by_the_resend_loop() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::HeadOnly);
    push(&mut outgoing, 2);
    outgoing.withhold(start);
    assert_eq!(drain(&mut outgoing, start), Vec::<u8>::new());
    assert_eq!(
        step(&mut outgoing, start + MS * 200),
        Some((start + MS * 200, vec![0]))
    );
}

/// Agents before 3.2.1041.0 say nothing to a message that they have acknowledged before.
#[test]
fn silence_of_a_peer_that_answers_once_tells_what_it_has() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    outgoing.expect_single_answers();
    push(&mut outgoing, 5);
    drain(&mut outgoing, start);
    outgoing.on_acknowledge(0, start).unwrap();
    // All have arrived, and the other acknowledgements are lost with the socket.
    outgoing.on_reconnected(start + MS);
    assert!(outgoing.takes_wish());
    push(&mut outgoing, 1);
    assert_eq!(drain(&mut outgoing, start + MS), [1, 2, 3, 4, 5]);
    // That 5 is answered and the others are not may still be a loss at the other side of the service.
    outgoing.on_acknowledge(5, start + MS * 10).unwrap();
    assert_eq!(unanswered(&outgoing), 4);
    let mut now = start;
    for fresh in [6, 7] {
        let (at, resent) = step(&mut outgoing, now + MS * 500).unwrap();
        assert_eq!(resent, [1, 2, 3, 4]);
        assert!(outgoing.takes_wish());
        push(&mut outgoing, 1);
        assert_eq!(drain(&mut outgoing, at), [fresh]);
        now = at + MS * 10;
        outgoing.on_acknowledge(i64::from(fresh), now).unwrap();
    }
    assert!(outgoing.is_empty());
    assert_eq!((outgoing.bytes(), outgoing.acknowledged()), (0, 8));
}

/// Each resend is lost with the peer's socket, and what is sent after it is not.
#[test]
fn what_silence_seemed_to_tell_is_taken_back() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    outgoing.expect_single_answers();
    push(&mut outgoing, 2);
    drain(&mut outgoing, start);
    outgoing.on_acknowledge(0, start).unwrap();
    let mut now = start;
    for fresh in 2..2 + i64::from(SILENCES) {
        let (at, resent) = step(&mut outgoing, now + MS * 5000).unwrap();
        assert_eq!(resent[0], 1);
        push(&mut outgoing, 1);
        drain(&mut outgoing, at);
        now = at + MS;
        outgoing.on_acknowledge(fresh, now).unwrap();
    }
    // It takes up no room, and nobody waits for it.
    assert!(outgoing.is_empty() && outgoing.bytes() == 0);
    let (at, resent) = step(&mut outgoing, now + MS * 5000).unwrap();
    assert_eq!((at - now, resent), (MS * 1000, vec![1]));
    // So that there is an answer, should the resend have none.
    assert!(outgoing.takes_wish());
    assert_eq!(outgoing.on_acknowledge(1, at + MS), Ok(true));
    assert_eq!(outgoing.on_acknowledge(1, at + MS), Ok(false));
    assert_eq!(outgoing.poll_timeout(), None);
}

#[test]
fn what_is_lost_is_not_taken_for_silence() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    outgoing.expect_single_answers();
    push(&mut outgoing, 3);
    drain(&mut outgoing, start);
    outgoing.on_acknowledge(0, start).unwrap();
    outgoing.on_reconnected(start + MS);
    push(&mut outgoing, 1);
    drain(&mut outgoing, start + MS);
    // The first one after the cut is lost once more.
    outgoing.on_acknowledge(2, start + MS * 2).unwrap();
    outgoing.on_acknowledge(3, start + MS * 2).unwrap();
    assert_eq!(unanswered(&outgoing), 1);
    let (at, resent) = step(&mut outgoing, start + MS * 500).unwrap();
    assert_eq!(resent, [1]);
    // Answers to what went before it say nothing about it.
    assert_eq!(outgoing.on_acknowledge(3, at), Ok(false));
    assert_eq!(unanswered(&outgoing), 1);
    outgoing.on_acknowledge(1, at + MS).unwrap();
    assert!(outgoing.is_empty());
}

#[test]
fn silence_about_the_first_message_means_nothing_until_the_peer_is_ready() {
    let start = Instant::now();
    let mut outgoing = outgoing(Strategy::Recover);
    outgoing.expect_single_answers();
    outgoing.expect_refusal();
    push(&mut outgoing, 1);
    drain(&mut outgoing, start);
    let mut now = start;
    for round in 1..=20 + SILENCES {
        if round > 20 {
            outgoing.on_peer_data();
        }
        let (at, resent) = loop {
            let (at, resent) = step(&mut outgoing, now + MS * 5000).unwrap();
            if !resent.is_empty() {
                break (at, resent);
            }
        };
        assert_eq!(resent[0], 0, "{round}");
        push(&mut outgoing, 1);
        drain(&mut outgoing, at);
        now = at + MS;
        assert_eq!(unanswered(&outgoing), 2, "{round}");
        outgoing.on_acknowledge(i64::from(round), now).unwrap();
    }
    assert!(outgoing.is_empty());
}
