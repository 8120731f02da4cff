//! The pair between two scripted sides.

use bytes::Bytes;

use super::credit::Limits;
use super::{Error, Pair, Received, Side};
use crate::ssh::messages::{self, Message};
use crate::ssh::wire::{WriteExt, msg};

const LIMITS: Limits = Limits {
    connection_bytes: 64 << 10,
    channel_min_bytes: 8 << 10,
    channel_max_bytes: 32 << 10,
};

fn build(number: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut message = vec![number];
    fill(&mut message);
    message.into()
}

fn open(kind: &str, sender: u32, window: u32) -> Bytes {
    build(msg::CHANNEL_OPEN, |m| {
        m.put_string(kind)
            .put_uint32(sender)
            .put_uint32(window)
            .put_uint32(32768);
    })
}

fn confirmation(recipient: u32, sender: u32, window: u32) -> Bytes {
    build(msg::CHANNEL_OPEN_CONFIRMATION, |m| {
        m.put_uint32(recipient)
            .put_uint32(sender)
            .put_uint32(window)
            .put_uint32(32768);
    })
}

fn data(recipient: u32, payload: &[u8]) -> Bytes {
    build(msg::CHANNEL_DATA, |m| {
        m.put_uint32(recipient).put_string(payload);
    })
}

fn global(name: &str, want_reply: bool) -> Bytes {
    build(msg::GLOBAL_REQUEST, |m| {
        m.put_string(name).put_bool(want_reply);
    })
}

fn request(recipient: u32, name: &str) -> Bytes {
    build(msg::CHANNEL_REQUEST, |m| {
        m.put_uint32(recipient).put_string(name).put_bool(true);
    })
}

fn eof(recipient: u32) -> Bytes {
    build(msg::CHANNEL_EOF, |m| {
        m.put_uint32(recipient);
    })
}

fn close(recipient: u32) -> Bytes {
    build(msg::CHANNEL_CLOSE, |m| {
        m.put_uint32(recipient);
    })
}

fn drain(pair: &mut Pair, to: Side) -> Vec<Bytes> {
    std::iter::from_fn(|| pair.next_message(to)).collect()
}

/// A pair with one session channel, 10 at the client and 20 at the server.
fn with_channel(client_window: u32, server_window: u32) -> Pair {
    let mut pair = Pair::new(LIMITS);
    pair.receive(Side::Local, open("session", 10, client_window))
        .unwrap();
    drain(&mut pair, Side::Upstream);
    pair.receive(Side::Upstream, confirmation(10, 20, server_window))
        .unwrap();
    drain(&mut pair, Side::Local);
    pair
}

#[test]
fn messages_pass_as_they_are() {
    let mut pair = with_channel(1000, 1000);
    let downstream = [
        data(10, b"output"),
        request(10, "exit-status"),
        request(10, "never-heard-of@example.com"),
        eof(10),
        close(10),
    ];
    for message in downstream.clone() {
        pair.receive(Side::Upstream, message).unwrap();
    }
    assert_eq!(drain(&mut pair, Side::Local), downstream);
    let upstream = [request(20, "break"), data(20, b"input"), close(20)];
    for message in upstream.clone() {
        pair.receive(Side::Local, message).unwrap();
    }
    let mut passed = drain(&mut pair, Side::Upstream);
    passed.sort_by_key(|message| upstream.iter().position(|other| other == message));
    assert_eq!(passed, upstream);
}

#[test]
fn initial_windows_are_clamped_and_adjusted_as_the_queue_drains() {
    let mut pair = Pair::new(LIMITS);
    pair.receive(Side::Local, open("session", 10, 2 << 20))
        .unwrap();
    assert_eq!(
        drain(&mut pair, Side::Upstream),
        [open("session", 10, 32 << 10)]
    );
    pair.receive(Side::Upstream, confirmation(10, 20, 1 << 20))
        .unwrap();
    assert_eq!(
        drain(&mut pair, Side::Local),
        [confirmation(10, 20, 32 << 10)]
    );
    let payload = vec![7; 16 << 10];
    for _ in 0..2 {
        pair.receive(Side::Upstream, data(10, &payload)).unwrap();
    }
    assert!(
        drain(&mut pair, Side::Upstream).is_empty(),
        "nothing has left yet"
    );
    assert_eq!(
        pair.receive(Side::Upstream, data(10, b"x")),
        Err(Error::WindowOverrun { recipient: 10 })
    );
    pair.next_message(Side::Local).unwrap();
    assert_eq!(
        drain(&mut pair, Side::Upstream),
        [messages::window_adjust(20, 16 << 10)]
    );
}

#[test]
fn many_channels_share_the_budget() {
    let mut pair = Pair::new(LIMITS);
    for number in 0..100 {
        pair.receive(Side::Local, open("direct-tcpip", number, 2 << 20))
            .unwrap();
    }
    let shown: u64 = drain(&mut pair, Side::Upstream)
        .iter()
        .map(|message| match Message::parse(message) {
            Ok(Message::Open { window, .. }) => u64::from(window),
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(shown <= 100 * (8 << 10) + (64 << 10) * 4, "{shown}");
}

#[test]
fn our_host_keys_are_not_those_of_upstream() {
    let mut pair = Pair::new(LIMITS);
    let announcement = global("hostkeys-00@openssh.com", false);
    pair.receive(Side::Upstream, announcement).unwrap();
    assert!(drain(&mut pair, Side::Local).is_empty());
    assert!(pair.leaves_no_trace());
}

#[test]
fn no_more_sessions_is_kept_here_and_held_against_the_client() {
    let mut pair = with_channel(1000, 1000);
    pair.receive(Side::Local, global("no-more-sessions@openssh.com", false))
        .unwrap();
    assert!(drain(&mut pair, Side::Upstream).is_empty());
    assert_eq!(
        pair.receive(Side::Local, open("direct-tcpip", 11, 10)),
        Ok(Received::Taken)
    );
    assert_eq!(
        pair.receive(Side::Local, open("session", 12, 10)),
        Err(Error::SessionAfterNoMoreSessions)
    );
}

#[test]
fn a_transport_is_clean_once_its_channels_are_closed_by_both() {
    let mut pair = with_channel(1000, 1000);
    assert!(!pair.leaves_no_trace());
    pair.receive(Side::Upstream, close(10)).unwrap();
    drain(&mut pair, Side::Local);
    assert!(!pair.leaves_no_trace());
    pair.receive(Side::Local, close(20)).unwrap();
    assert!(!pair.leaves_no_trace(), "upstream has not been told");
    drain(&mut pair, Side::Upstream);
    assert!(pair.leaves_no_trace());
}

#[test]
fn what_outlives_the_client_keeps_its_transport_from_the_next_one() {
    for message in [
        global("tcpip-forward", true),
        request(20, "auth-agent-req@openssh.com"),
        request(20, "x11-req"),
    ] {
        let mut pair = with_channel(1000, 1000);
        pair.receive(Side::Local, message.clone()).unwrap();
        pair.receive(Side::Upstream, build(msg::REQUEST_SUCCESS, |_| {}))
            .unwrap();
        pair.receive(Side::Upstream, close(10)).unwrap();
        pair.receive(Side::Local, close(20)).unwrap();
        drain(&mut pair, Side::Local);
        drain(&mut pair, Side::Upstream);
        assert!(!pair.leaves_no_trace(), "{message:?}");
    }
}

#[test]
fn a_channel_number_can_be_used_again_while_the_old_ones_close_is_on_its_way() {
    let mut pair = with_channel(1000, 1000);
    pair.receive(Side::Local, data(20, b"last words")).unwrap();
    pair.receive(Side::Upstream, close(10)).unwrap();
    pair.receive(Side::Local, close(20)).unwrap();
    drain(&mut pair, Side::Local);
    pair.receive(Side::Local, open("session", 10, 1000))
        .unwrap();
    let order = drain(&mut pair, Side::Upstream);
    assert_eq!(
        order,
        [
            open("session", 10, 1000),
            data(20, b"last words"),
            close(20)
        ]
    );
    pair.receive(Side::Upstream, confirmation(10, 21, 1000))
        .unwrap();
    pair.receive(Side::Upstream, data(10, b"new")).unwrap();
    assert_eq!(drain(&mut pair, Side::Local).len(), 2);
}

#[test]
fn without_upstream_every_request_is_answered() {
    let mut pair = Pair::new(LIMITS);
    pair.receive(Side::Local, open("session", 3, 1000)).unwrap();
    pair.receive(Side::Local, global("tcpip-forward", true))
        .unwrap();
    pair.receive(Side::Local, global("no-more-sessions@openssh.com", false))
        .unwrap();
    pair.refuse("no way up");
    let failure = |number| messages::channel_open_failure(number, 2, "no way up");
    assert_eq!(
        drain(&mut pair, Side::Local),
        [failure(3), messages::request_failure()]
    );
    pair.receive(Side::Local, global("keepalive@openssh.com", true))
        .unwrap();
    pair.receive(Side::Local, open("direct-tcpip", 4, 1000))
        .unwrap();
    assert_eq!(
        drain(&mut pair, Side::Upstream).len(),
        2,
        "the next try is a new one"
    );
}

#[test]
fn nothing_is_said_for_a_channel_after_its_close() {
    let mut pair = with_channel(1000, u32::MAX);
    let payload = vec![0; 16 << 10];
    for _ in 0..2 {
        pair.receive(Side::Local, data(20, &payload)).unwrap();
    }
    pair.receive(Side::Upstream, close(10)).unwrap();
    drain(&mut pair, Side::Upstream);
    assert_eq!(drain(&mut pair, Side::Local), [close(10)]);
    pair.receive(Side::Upstream, messages::window_adjust(10, 5000))
        .unwrap();
    assert!(drain(&mut pair, Side::Local).is_empty());
}

#[test]
fn datagrams_stay_apart_and_cost_their_length_field() {
    let mut pair = Pair::new(LIMITS);
    pair.receive(Side::Local, open("tun@openssh.com", 10, 100))
        .unwrap();
    drain(&mut pair, Side::Upstream);
    pair.receive(Side::Upstream, confirmation(10, 20, 100))
        .unwrap();
    drain(&mut pair, Side::Local);
    for _ in 0..2 {
        pair.receive(Side::Upstream, data(10, &[7; 46])).unwrap();
    }
    assert_eq!(
        pair.receive(Side::Upstream, data(10, b"x")),
        Err(Error::WindowOverrun { recipient: 10 })
    );
    assert_eq!(drain(&mut pair, Side::Local).len(), 2);
}

#[test]
fn a_flood_without_windows_is_left_unread() {
    let mut pair = Pair::new(LIMITS);
    while pair.may_receive(Side::Local) {
        pair.receive(Side::Local, global("keepalive@openssh.com", true))
            .unwrap();
    }
    assert!(pair.may_receive(Side::Upstream), "the other way stays open");
    drain(&mut pair, Side::Upstream);
    assert!(pair.may_receive(Side::Local));
}

#[test]
fn garbage_is_the_senders_fault_and_never_a_panic() {
    use proptest::prelude::*;
    proptest!(ProptestConfig::with_cases(256), |(
        messages in proptest::collection::vec(
            (any::<bool>(), 80_u8..105, proptest::collection::vec(any::<u8>(), 0..40)), 1..40,
        ),
    )| {
        let mut pair = with_channel(1000, 1000);
        for (local, number, body) in messages {
            let from = if local { Side::Local } else { Side::Upstream };
            let message = build(number, |m| m.extend_from_slice(&body));
            let _verdict = pair.receive(from, message);
            drain(&mut pair, Side::Local);
            drain(&mut pair, Side::Upstream);
        }
    });
}
