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
    let mut pair = Pair::new(LIMITS, true);
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
    let mut pair = Pair::new(LIMITS, true);
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
    pair.next_message(Side::Local).unwrap();
    assert_eq!(
        drain(&mut pair, Side::Upstream),
        [messages::window_adjust(20, 16 << 10)]
    );
}

#[test]
fn what_a_client_sends_before_its_window_is_upstreams_to_judge() {
    let mut pair = with_channel(1000, 0);
    let payload = vec![7; 32 << 10];
    pair.receive(Side::Local, data(20, &payload)).unwrap();
    assert_eq!(
        pair.receive(Side::Local, data(20, b"x")),
        Err(Error::WindowOverrun { recipient: 20 })
    );
    assert_eq!(drain(&mut pair, Side::Upstream), [data(20, &payload)]);
}

#[test]
fn an_impossible_window_ends_the_connection() {
    let mut pair = with_channel(1000, 1000);
    assert_eq!(
        pair.receive(Side::Local, messages::window_adjust(20, u32::MAX)),
        Err(Error::WindowOverflow { recipient: 20 })
    );
}

#[test]
fn what_makes_no_sense_passes_as_it_is() {
    let nonsense = [
        build(msg::CHANNEL_SUCCESS, |_| {}),
        build(msg::CHANNEL_REQUEST, |m| m.extend_from_slice(b"\0\0\0")),
        confirmation(99, 1, 1000),
        data(99, b"for no channel"),
        messages::window_adjust(99, 5),
        build(msg::REQUEST_FAILURE, |_| {}),
    ];
    for from in [Side::Local, Side::Upstream] {
        let mut pair = with_channel(1000, 1000);
        for message in nonsense.clone() {
            pair.receive(from, message).unwrap();
        }
        assert_eq!(drain(&mut pair, from.other()), nonsense);
    }
}

#[test]
fn data_with_something_behind_it_is_not_taken_for_data() {
    let mut pair = with_channel(1000, 1000);
    let long = Bytes::from([&data(20, b"abc")[..], b"XYZ"].concat());
    pair.receive(Side::Local, long.clone()).unwrap();
    pair.receive(Side::Local, long.clone()).unwrap();
    assert_eq!(drain(&mut pair, Side::Upstream), [long.clone(), long]);
}

#[test]
fn small_data_is_merged_up_to_what_the_receiver_takes() {
    let mut pair = Pair::new(LIMITS, true);
    let small = build(msg::CHANNEL_OPEN, |m| {
        m.put_string("session")
            .put_uint32(10)
            .put_uint32(1000)
            .put_uint32(4);
    });
    pair.receive(Side::Local, small).unwrap();
    pair.receive(Side::Upstream, confirmation(10, 20, 1000))
        .unwrap();
    drain(&mut pair, Side::Local);
    for _ in 0..3 {
        pair.receive(Side::Upstream, data(10, b"ab")).unwrap();
    }
    assert_eq!(
        drain(&mut pair, Side::Local),
        [data(10, b"abab"), data(10, b"ab")]
    );
}

#[test]
fn only_openssh_hears_of_its_extension() {
    for (is_openssh, heard) in [(true, 1), (false, 0)] {
        let mut pair = Pair::new(LIMITS, is_openssh);
        pair.receive(Side::Local, open("session", 10, 1000))
            .unwrap();
        pair.receive(Side::Upstream, confirmation(10, 20, 1000))
            .unwrap();
        drain(&mut pair, Side::Local);
        pair.receive(Side::Upstream, request(10, "eow@openssh.com"))
            .unwrap();
        assert_eq!(drain(&mut pair, Side::Local).len(), heard);
    }
}

#[test]
fn many_channels_share_the_budget() {
    let mut pair = Pair::new(LIMITS, true);
    for number in 0..100 {
        pair.receive(Side::Local, open("direct-tcpip", number, 2 << 20))
            .unwrap();
    }
    let shown: u64 = drain(&mut pair, Side::Upstream)
        .iter()
        .map(|message| match Message::parse(message) {
            Message::Open { window, .. } => u64::from(window),
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(shown <= 100 * (8 << 10) + (64 << 10) * 4, "{shown}");
}

#[test]
fn our_host_keys_are_not_those_of_upstream() {
    let mut pair = Pair::new(LIMITS, true);
    let announcement = global("hostkeys-00@openssh.com", false);
    pair.receive(Side::Upstream, announcement).unwrap();
    assert!(drain(&mut pair, Side::Local).is_empty());
}

#[test]
fn a_transport_is_untouched_until_something_is_asked_of_it() {
    let mut pair = Pair::new(LIMITS, true);
    assert!(pair.is_untouched());
    pair.receive(Side::Local, global("keepalive@openssh.com", true))
        .unwrap();
    assert!(!pair.is_untouched());
    drain(&mut pair, Side::Upstream);
    assert!(!pair.is_untouched());
}

#[test]
fn what_a_dead_upstream_did_not_hear_is_said_to_the_next_one() {
    let mut pair = Pair::new(LIMITS, true);
    let said = [global("tcpip-forward", true), open("session", 10, 1000)];
    for message in said.clone() {
        pair.receive(Side::Local, message).unwrap();
    }
    assert_eq!(drain(&mut pair, Side::Upstream), said);
    // Its last words were that it misses us.
    pair.receive(Side::Upstream, global("keepalive@openssh.com", true))
        .unwrap();
    let late = global("keepalive@openssh.com", true);
    pair.receive(Side::Local, late.clone()).unwrap();
    assert!(pair.take_back());
    assert_eq!(
        drain(&mut pair, Side::Upstream),
        [&said[..], &[late]].concat()
    );
    pair.receive(Side::Upstream, confirmation(10, 20, 1000))
        .unwrap();
    assert!(!pair.take_back(), "this one has heard it");
}

#[test]
fn more_than_can_be_kept_is_not_said_twice() {
    let mut pair = Pair::new(LIMITS, true);
    for number in 0..5000 {
        pair.receive(Side::Local, open("session", number, 1000))
            .unwrap();
    }
    drain(&mut pair, Side::Upstream);
    assert!(!pair.take_back());
    assert!(!pair.is_untouched());
}

#[test]
fn what_waits_for_a_channel_its_receiver_has_closed_is_dropped() {
    let mut pair = with_channel(1000, 1000);
    pair.receive(Side::Local, data(20, b"unheard")).unwrap();
    pair.receive(Side::Upstream, close(10)).unwrap();
    pair.receive(Side::Local, close(20)).unwrap();
    pair.receive(Side::Local, open("session", 10, 1000))
        .unwrap();
    assert_eq!(
        drain(&mut pair, Side::Upstream),
        [close(20), open("session", 10, 1000)],
        "the place is free before it is asked for"
    );
}

#[test]
fn a_channel_number_can_be_used_again() {
    let mut pair = with_channel(1000, 1000);
    pair.receive(Side::Upstream, close(10)).unwrap();
    pair.receive(Side::Local, close(20)).unwrap();
    drain(&mut pair, Side::Local);
    pair.receive(Side::Local, open("session", 10, 1000))
        .unwrap();
    pair.receive(Side::Upstream, confirmation(10, 21, 1000))
        .unwrap();
    pair.receive(Side::Upstream, data(10, b"new")).unwrap();
    assert_eq!(drain(&mut pair, Side::Local).len(), 2);
    pair.receive(Side::Local, data(21, b"new")).unwrap();
    assert_eq!(
        drain(&mut pair, Side::Upstream).last(),
        Some(&data(21, b"new"))
    );
}

#[test]
fn without_upstream_every_request_is_answered() {
    let mut pair = Pair::new(LIMITS, true);
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
fn numbers_of_local_extensions_pass_and_other_unknown_ones_are_refused() {
    let mut pair = Pair::new(LIMITS, true);
    let ping = Bytes::from_static(&[192, 0, 0, 0, 0]);
    assert_eq!(pair.receive(Side::Local, ping.clone()), Ok(Received::Taken));
    assert_eq!(drain(&mut pair, Side::Upstream), [ping]);
    let unknown = pair.receive(Side::Local, Bytes::from_static(&[191]));
    assert_eq!(unknown, Ok(Received::Unimplemented));
}

#[test]
fn datagrams_stay_apart_and_cost_their_length_field() {
    let mut pair = Pair::new(LIMITS, true);
    pair.receive(Side::Local, open("tun@openssh.com", 10, 100))
        .unwrap();
    drain(&mut pair, Side::Upstream);
    pair.receive(Side::Upstream, confirmation(10, 20, 100))
        .unwrap();
    drain(&mut pair, Side::Local);
    // The window and the tolerance hold 657 times 50 bytes.
    let taken = std::iter::repeat_with(|| pair.receive(Side::Upstream, data(10, &[7; 46])))
        .take_while(Result::is_ok)
        .count();
    assert_eq!(taken, 657);
    assert_eq!(drain(&mut pair, Side::Local).len(), taken);
}

#[test]
fn a_flood_without_windows_is_left_unread() {
    let mut pair = Pair::new(LIMITS, true);
    while pair.may_receive(Side::Local) {
        pair.receive(Side::Local, global("keepalive@openssh.com", true))
            .unwrap();
    }
    assert!(pair.may_receive(Side::Upstream), "the other way stays open");
    drain(&mut pair, Side::Upstream);
    assert!(pair.may_receive(Side::Local));
}

/// A key exchange can only end by reading, so a sender that never ends it is not made to wait.
#[test]
fn a_flood_that_must_be_read_ends_its_sender() {
    let mut pair = Pair::new(LIMITS, true);
    let request = build(msg::GLOBAL_REQUEST, |m| {
        m.put_string(vec![b'x'; 30_000]).put_bool(false);
    });
    let taken = (0..10_000)
        .take_while(|_| pair.receive(Side::Local, request.clone()).is_ok())
        .count();
    assert!((32..1000).contains(&taken), "{taken} taken");
    assert_eq!(pair.receive(Side::Local, request), Err(Error::Flood));
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
