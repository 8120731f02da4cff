//! What passes through, as it is and as it is not.

use bytes::Bytes;

use super::{
    LIMITS, Scripted, build, close, confirmation, data, drain, eof, global, open, request,
    with_channel,
};
use crate::relay::{Error, Limits, Received, Side};
use crate::ssh::messages::{self, Message};
use crate::ssh::wire::{WriteExt, msg};

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
    let mut pair = Scripted::joined(true);
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
    let mut pair = Scripted::joined(true);
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
        let mut pair = Scripted::joined(is_openssh);
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
    let mut pair = Scripted::joined(true);
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
    assert!(
        shown <= 100 * (8 << 10) + u64::from(LIMITS.connection_bytes) * 4,
        "{shown}"
    );
}

#[test]
fn our_host_keys_are_not_those_of_upstream() {
    let mut pair = Scripted::joined(true);
    let announcement = global("hostkeys-00@openssh.com", false);
    pair.receive(Side::Upstream, announcement).unwrap();
    assert!(drain(&mut pair, Side::Local).is_empty());
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
    let mut pair = Scripted::joined(true);
    let ping = Bytes::from_static(&[192, 0, 0, 0, 0]);
    assert_eq!(pair.receive(Side::Local, ping.clone()), Ok(Received::Taken));
    assert_eq!(drain(&mut pair, Side::Upstream), [ping]);
    let unknown = pair.receive(Side::Local, Bytes::from_static(&[191]));
    assert_eq!(unknown, Ok(Received::Unimplemented));
}

#[test]
fn datagrams_stay_apart_and_cost_their_length_field() {
    let mut pair = Scripted::joined(true);
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
    let mut pair = Scripted::joined(true);
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
    let mut pair = Scripted::joined(true);
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

/// However much the client grants, and however often.
#[test]
fn what_is_under_way_to_the_client_is_what_the_target_delivers_in_time() {
    let mut pair = Scripted::with(Limits::default(), true);
    pair.gain();
    pair.local(open("session", 10, 2 << 20));
    let granted = |messages: Vec<Bytes>| -> u32 {
        let windows = messages
            .iter()
            .map(|message| match Message::parse(message) {
                Message::Open { window, .. } => window,
                Message::WindowAdjust { bytes, .. } => bytes,
                _ => 0,
            });
        windows.sum()
    };
    let mut window = granted(pair.upstream_hears());
    pair.upstream(confirmation(10, 20, 2 << 20));
    pair.local_hears();
    for _ in 0..100 {
        assert!((1000..=64 << 10).contains(&window), "{window}");
        pair.local(messages::window_adjust(20, 1 << 20));
        pair.upstream(data(10, &[0; 1000]));
        window -= 1000;
        pair.local_hears();
        window += granted(pair.upstream_hears());
    }
}
