//! Listeners at the target, from one upstream to the next.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Scripted, build, confirmation, failure, global, listen, open, request, stderr_of, success,
    with_channel,
};
use crate::relay::Event;
use crate::ssh::wire::{WriteExt, msg};

fn cancel(address: &str, port: u32) -> Bytes {
    build(msg::GLOBAL_REQUEST, |m| {
        m.put_string("cancel-tcpip-forward")
            .put_bool(true)
            .put_string(address)
            .put_uint32(port);
    })
}

/// The reply that names the port which the target has chosen.
fn chosen(port: u32) -> Bytes {
    build(msg::REQUEST_SUCCESS, |m| {
        m.put_uint32(port);
    })
}

/// `pair` once upstream has granted `request` with `reply`.
fn granted(pair: &mut Scripted, request: Bytes, reply: Bytes) {
    pair.local(request.clone());
    assert_eq!(pair.upstream_hears(), [request]);
    pair.upstream(reply.clone());
    assert_eq!(pair.local_hears(), [reply]);
}

#[test]
fn listeners_are_asked_for_before_anything_else_and_under_their_ports() {
    let mut pair = Scripted::joined(true);
    granted(&mut pair, listen("", 8080), success());
    granted(&mut pair, listen("localhost", 0), chosen(40_000));
    let unix = build(msg::GLOBAL_REQUEST, |m| {
        m.put_string("streamlocal-forward@openssh.com")
            .put_bool(true)
            .put_string("/tmp/socket");
    });
    granted(&mut pair, unix.clone(), success());
    granted(&mut pair, listen("localhost", 9), failure());
    pair.local(open("session", 1, 1000));
    pair.lose();
    assert!(pair.has_forwards());
    pair.gain();
    assert_eq!(
        pair.upstream_hears(),
        [
            listen("", 8080),
            listen("localhost", 40_000),
            unix,
            open("session", 1, 1000)
        ]
    );
    for _ in 0..3 {
        pair.upstream(success());
    }
    pair.upstream(confirmation(1, 0, 1000));
    assert_eq!(pair.local_hears(), [confirmation(1, 0, 1000)]);
    let addresses: Vec<_> = std::iter::from_fn(|| pair.poll_event()).collect();
    let restored = ["*:8080", "localhost:40000", "/tmp/socket"].map(|address| {
        let address = address.to_owned();
        Event::ForwardRestored { address }
    });
    assert_eq!(addresses, restored);
}

#[test]
fn a_request_under_way_is_asked_again_as_it_was() {
    let mut pair = Scripted::joined(true);
    pair.local(listen("localhost", 0));
    pair.upstream_hears();
    pair.lose();
    assert!(!pair.has_forwards());
    pair.gain();
    assert_eq!(pair.upstream_hears(), [listen("localhost", 0)]);
    pair.upstream(chosen(40_001));
    assert_eq!(pair.local_hears(), [chosen(40_001)]);
    pair.lose();
    pair.gain();
    assert_eq!(pair.upstream_hears(), [listen("localhost", 40_001)]);
}

#[test]
fn what_the_client_asks_meanwhile_gets_its_own_replies() {
    let mut pair = Scripted::joined(true);
    granted(&mut pair, listen("", 1), success());
    granted(&mut pair, listen("", 2), success());
    pair.lose();
    pair.gain();
    pair.local(global("mine@example.com", true));
    assert_eq!(pair.upstream_hears().len(), 3);
    pair.upstream(failure());
    pair.upstream(success());
    assert!(pair.local_hears().is_empty());
    pair.upstream(success());
    assert_eq!(pair.local_hears(), [success()]);
    // The first one again, between two of the client's.
    pair.local(global("mine@example.com", true));
    pair.wait(Duration::from_millis(100));
    pair.local(global("mine@example.com", true));
    let mine = global("mine@example.com", true);
    assert_eq!(pair.upstream_hears(), [mine.clone(), listen("", 1), mine]);
    for reply in [failure(), success(), success()] {
        pair.upstream(reply);
    }
    assert_eq!(pair.local_hears(), [failure(), success()]);
}

#[test]
fn a_cancelled_listener_stays_away() {
    let mut pair = Scripted::joined(true);
    granted(&mut pair, listen("", 0), chosen(40_000));
    granted(&mut pair, cancel("", 40_000), success());
    assert!(!pair.has_forwards());
    pair.lose();
    pair.gain();
    assert!(pair.upstream_hears().is_empty());
}

#[test]
fn a_listener_is_cancelled_between_two_upstreams() {
    let mut pair = Scripted::joined(true);
    granted(&mut pair, listen("", 80), success());
    granted(&mut pair, listen("", 81), success());
    pair.local(global("before@example.com", true));
    pair.lose();
    pair.local(cancel("", 80));
    let told = pair.local_hears();
    // That something before it is unanswered yet keeps the reply back, so there is a sign of life.
    assert_eq!(told, [Bytes::from_static(&[msg::IGNORE, 0, 0, 0, 0])]);
    pair.gain();
    let before = global("before@example.com", true);
    assert_eq!(pair.upstream_hears(), [listen("", 81), before]);
    pair.upstream(success());
    pair.upstream(failure());
    assert_eq!(pair.local_hears(), [failure(), success()]);
}

/// The client had it, and the upstream of the day never did.
#[test]
fn the_cancellation_of_a_refused_listener_succeeds() {
    let mut pair = Scripted::joined(true);
    granted(&mut pair, listen("", 80), success());
    pair.lose();
    pair.gain();
    pair.local(cancel("", 80));
    assert_eq!(pair.upstream_hears(), [listen("", 80), cancel("", 80)]);
    pair.upstream(failure());
    pair.upstream(failure());
    assert_eq!(pair.local_hears(), [success()]);
    pair.wait(Duration::from_secs(10));
    assert!(pair.upstream_hears().is_empty());
}

#[test]
fn what_was_not_to_be_answered_is_asked_for_again() {
    let mut pair = Scripted::joined(true);
    let unanswered = build(msg::GLOBAL_REQUEST, |m| {
        m.put_string("tcpip-forward")
            .put_bool(false)
            .put_string("")
            .put_uint32(80);
    });
    pair.local(unanswered.clone());
    assert_eq!(pair.upstream_hears(), [unanswered]);
    pair.lose();
    pair.gain();
    assert_eq!(pair.upstream_hears(), [listen("", 80)]);
    pair.upstream(success());
    assert!(pair.local_hears().is_empty());
}

/// Plays an upstream that refuses the one listener until it is given up.
fn refuse_until_given_up(pair: &mut Scripted) {
    loop {
        assert_eq!(pair.upstream_hears(), [listen("", 80)]);
        pair.upstream(failure());
        let Some(at) = pair.poll_timeout() else {
            break;
        };
        pair.wait(at - pair.now);
    }
    let address = "*:80".to_owned();
    assert_eq!(pair.poll_event(), Some(Event::ForwardGivenUp { address }));
}

#[test]
fn a_listener_given_up_is_told_on_the_sessions() {
    let mut pair = with_channel(1 << 20, 1000);
    granted(&mut pair, listen("", 80), success());
    pair.lose();
    pair.local_hears();
    pair.gain();
    pair.local(open("session", 11, 1 << 20));
    let asked = pair.pair.next_message(crate::relay::Side::Upstream);
    assert_eq!(asked, Some(listen("", 80)));
    pair.upstream_hears();
    pair.upstream(failure());
    pair.upstream(confirmation(11, 0, 1000));
    pair.local_hears();
    let at = pair.poll_timeout().unwrap();
    pair.wait(at - pair.now);
    refuse_until_given_up(&mut pair);
    let told = pair.local_hears();
    assert_eq!(told[0][0], msg::DEBUG);
    let notice = stderr_of(&told[1]);
    assert!(
        notice.contains("does not listen on *:80 any more"),
        "{notice}"
    );
    assert_eq!(told.len(), 2);
}

#[test]
fn a_listener_given_up_is_told_on_the_next_session() {
    let mut pair = Scripted::joined(true);
    granted(&mut pair, listen("", 80), success());
    pair.lose();
    pair.gain();
    refuse_until_given_up(&mut pair);
    assert_eq!(pair.local_hears().len(), 1, "for those who look for it");
    pair.local(open("session", 1, 1 << 20));
    pair.upstream(confirmation(1, 0, 1000));
    pair.local_hears();
    pair.local(request(0, "exec"));
    let told = pair.local_hears();
    assert_eq!(told.len(), 1);
    assert!(stderr_of(&told[0]).starts_with("ssmshim: the target does not listen"));
    pair.local(request(0, "shell"));
    assert!(pair.local_hears().is_empty(), "once");
}

/// `request` as one that wants no reply.
fn unasked(request: &Bytes) -> Bytes {
    let name_length = usize::from(request[4]);
    let mut message = request.to_vec();
    message[5 + name_length] = 0;
    message.into()
}

#[test]
fn that_no_more_sessions_follow_is_asked_once_and_told_from_then_on() {
    let mut pair = Scripted::joined(true);
    let request = global("no-more-sessions@openssh.com", true);
    granted(&mut pair, request.clone(), failure());
    granted(&mut pair, listen("", 80), success());
    pair.lose();
    pair.gain();
    let told = pair.upstream_hears();
    assert!(told.contains(&unasked(&request)) && told.contains(&listen("", 80)));
    pair.upstream(failure());
    assert!(pair.poll_event().is_none(), "the listener is still refused");
}

#[test]
fn a_listener_cancelled_without_asking_can_be_had_again_at_once() {
    let mut pair = Scripted::joined(true);
    granted(&mut pair, listen("", 80), success());
    pair.lose();
    pair.gain();
    assert_eq!(pair.upstream_hears(), [listen("", 80)]);
    pair.local(unasked(&cancel("", 80)));
    pair.local(listen("", 80));
    assert_eq!(
        pair.upstream_hears(),
        [unasked(&cancel("", 80)), listen("", 80)]
    );
    pair.upstream(success());
    pair.upstream(success());
    assert_eq!(pair.local_hears(), [success()]);
    assert!(pair.upstream_hears().is_empty());
    pair.lose();
    pair.gain();
    assert_eq!(pair.upstream_hears(), [listen("", 80)]);
}

#[test]
fn a_listener_cancelled_before_it_was_granted_is_not_asked_for_again() {
    let mut pair = Scripted::joined(true);
    pair.local(listen("", 80));
    pair.local(unasked(&cancel("", 80)));
    pair.upstream(success());
    assert_eq!(pair.local_hears(), [success()]);
    pair.upstream_hears();
    assert!(!pair.has_forwards());
    pair.lose();
    pair.gain();
    assert!(pair.upstream_hears().is_empty());
}

#[test]
fn a_listener_granted_to_the_client_itself_is_not_given_up() {
    let mut pair = Scripted::joined(true);
    granted(&mut pair, listen("", 80), success());
    pair.lose();
    pair.gain();
    pair.upstream_hears();
    pair.upstream(failure());
    granted(&mut pair, listen("", 80), success());
    pair.wait(Duration::from_secs(300));
    assert!(pair.upstream_hears().is_empty());
    assert!(pair.poll_event().is_none() && pair.has_forwards());
}
