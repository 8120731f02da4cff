//! From one upstream to the next.

use bytes::Bytes;

use super::{
    Scripted, close, confirmation, data, eof, failure, global, open, request, stderr_of, success,
    with_channel, with_terminal,
};
use crate::relay::Side;
use crate::ssh::messages::{self, channel_open_failure, exit_signal};

const NO_MORE_SESSIONS: &str = "no-more-sessions@openssh.com";

#[test]
fn a_transport_is_untouched_until_something_is_asked_of_it() {
    let mut pair = Scripted::alone(true);
    assert!(!pair.is_untouched(), "there is none");
    pair.gain();
    assert!(pair.is_untouched());
    pair.local(global("tcpip-forward", true));
    assert!(!pair.is_untouched());
    pair.upstream_hears();
    assert!(!pair.is_untouched());
    pair.lose();
    pair.refuse("no way up");
    pair.local_hears();
    pair.gain();
    assert!(pair.is_untouched(), "the next one is another");
}

#[test]
fn what_a_dead_upstream_has_not_answered_is_asked_of_the_next_one() {
    let mut pair = Scripted::alone(true);
    let said = [
        global("never-heard-of@example.com", true),
        open("session", 10, 1000),
        global(NO_MORE_SESSIONS, false),
        open("direct-tcpip", 11, 1000),
    ];
    for message in said.clone() {
        pair.local(message);
    }
    assert!(pair.is_asking());
    assert!(pair.upstream_hears().is_empty());
    for _ in 0..3 {
        pair.gain();
        assert_eq!(pair.upstream_hears(), said);
        pair.lose();
        assert!(pair.local_hears().is_empty());
    }
    pair.local(open("session", 12, 1000));
    pair.gain();
    let last = [open("session", 12, 1000)];
    assert_eq!(pair.upstream_hears(), [&said[..], &last].concat());
    pair.upstream(confirmation(10, 0, 1000));
    pair.upstream(failure());
    pair.upstream(channel_open_failure(11, 2, "no"));
    pair.upstream(confirmation(12, 1, 1000));
    assert_eq!(pair.local_hears().len(), 4);
    assert!(!pair.is_asking());
}

#[test]
fn what_every_upstream_has_died_of_is_not_asked_for_ever() {
    let mut pair = Scripted::joined(true);
    pair.local(open("session", 10, 1000));
    pair.local(global("deadly@example.com", true));
    let mut upstreams = 1;
    let answers = loop {
        pair.upstream_hears();
        pair.lose();
        let answers = pair.local_hears();
        if !answers.is_empty() {
            break answers;
        }
        upstreams += 1;
        pair.gain();
    };
    assert_eq!(upstreams, 5);
    assert_eq!(answers, [channel_open_failure(10, 2, "gone"), failure()]);
}

#[test]
fn more_than_can_be_kept_fails() {
    let mut pair = Scripted::joined(true);
    for number in 0..5000 {
        pair.local(open("session", number, 1000));
    }
    pair.upstream_hears();
    pair.lose();
    let failed = pair.local_hears().len();
    pair.gain();
    let asked = pair.upstream_hears().len();
    assert_eq!(failed + asked, 5000);
    assert!(failed > 0 && asked > 0, "{failed} {asked}");
}

#[test]
fn without_upstream_every_request_is_answered() {
    let mut pair = Scripted::alone(true);
    pair.local(open("session", 3, 1000));
    pair.local(global("tcpip-forward", true));
    pair.local(global(NO_MORE_SESSIONS, false));
    assert!(pair.is_asking());
    pair.refuse("no way up");
    assert_eq!(
        pair.local_hears(),
        [channel_open_failure(3, 2, "no way up"), failure()]
    );
    assert!(!pair.is_asking());
    pair.local(open("direct-tcpip", 4, 1000));
    assert!(pair.is_asking(), "the next try is a new one");
    pair.gain();
    assert_eq!(
        pair.upstream_hears(),
        [
            global(NO_MORE_SESSIONS, false),
            open("direct-tcpip", 4, 1000)
        ]
    );
}

#[test]
fn a_session_ends_with_a_notice_and_a_signal_behind_its_output() {
    let mut pair = with_channel(1 << 20, 1000);
    pair.upstream(data(10, b"output"));
    pair.local(data(20, b"input that nobody reads"));
    pair.lose();
    let told = pair.local_hears();
    assert_eq!(told[0], data(10, b"output"));
    assert_eq!(stderr_of(&told[1]), "ssmshim: gone\n");
    assert_eq!(told[2], exit_signal(10, "HUP", "gone"));
    assert_eq!(told[3..], [eof(10), close(10)]);
    assert!(pair.upstream_hears().is_empty());
    assert_eq!(pair.observer().open_channels(), 0);
}

#[test]
fn a_terminal_is_told_on_a_line_of_its_own() {
    let mut pair = with_terminal();
    pair.lose();
    let told = pair.local_hears();
    assert_eq!(stderr_of(&told[0]), "\r\n[ssmshim: gone]\r\n");
}

#[test]
fn a_window_without_room_is_left_alone() {
    // Room for three bytes after the output, which is more than it may be held to.
    let mut pair = with_channel(9, 1000);
    pair.upstream(data(10, b"output"));
    pair.lose();
    let told = pair.local_hears();
    let signal = exit_signal(10, "HUP", "gone");
    assert_eq!(told, [data(10, b"output"), signal, eof(10), close(10)]);
}

#[test]
fn what_upstream_has_said_of_an_end_is_not_said_again() {
    let mut pair = with_channel(1 << 20, 1000);
    pair.upstream(request(10, "exit-status"));
    pair.upstream(eof(10));
    pair.local_hears();
    pair.lose();
    assert_eq!(pair.local_hears(), [close(10)]);

    let mut pair = with_channel(1 << 20, 1000);
    pair.upstream(close(10));
    pair.lose();
    assert_eq!(pair.local_hears(), [close(10)], "once");
}

#[test]
fn other_channels_end_without_words() {
    let mut pair = Scripted::joined(true);
    pair.local(open("direct-tcpip", 10, 1 << 20));
    pair.upstream(confirmation(10, 20, 1000));
    pair.local_hears();
    pair.lose();
    assert_eq!(pair.local_hears(), [eof(10), close(10)]);
}

#[test]
fn a_channel_that_the_client_has_closed_is_closed() {
    let mut pair = with_channel(1 << 20, 1000);
    pair.upstream(data(10, b"nobody listens"));
    pair.local(close(20));
    pair.lose();
    assert_eq!(pair.local_hears(), [close(10)]);
}

#[test]
fn what_the_client_says_on_a_dead_channel_is_for_nobody() {
    let mut pair = with_channel(1 << 20, 1000);
    pair.lose();
    pair.local_hears();
    pair.gain();
    for message in [
        data(20, b"late"),
        messages::window_adjust(20, u32::MAX),
        request(20, "window-change"),
        eof(20),
        close(20),
    ] {
        pair.local(message);
    }
    assert!(pair.upstream_hears().is_empty());
    assert!(pair.local_hears().is_empty());
    assert!(pair.is_untouched());
    // Whatever the client says of that channel after its CLOSE is for sshd to judge.
    pair.local(data(20, b"nonsense"));
    assert_eq!(pair.upstream_hears().len(), 1);
}

#[test]
fn a_client_that_closes_a_dead_channel_hears_no_more_than_its_end() {
    let mut pair = with_channel(1 << 20, 1000);
    pair.upstream(data(10, b"output"));
    pair.lose();
    pair.local(close(20));
    assert_eq!(pair.local_hears(), [close(10)]);
}

#[test]
fn numbers_of_another_upstream_are_beyond_those_of_the_one_before() {
    let mut pair = with_channel(1 << 20, 1000);
    pair.lose();
    pair.local_hears();
    pair.gain();
    // The new sshd gives the number of the channel that the client has not closed yet.
    pair.local(open("session", 11, 1000));
    pair.upstream_hears();
    pair.upstream(confirmation(11, 20, 1000));
    assert_eq!(pair.local_hears(), [confirmation(11, 41, 1000)]);
    pair.local(data(20, b"late"));
    pair.local(data(41, b"new"));
    pair.local(close(20));
    assert_eq!(pair.upstream_hears(), [data(20, b"new")]);
    pair.upstream(messages::window_adjust(11, 5));
    pair.upstream(open("forwarded-tcpip", 3, 1000));
    let opened = pair.local_hears();
    assert_eq!(opened.last(), Some(&open("forwarded-tcpip", 24, 1000)));
    pair.local(confirmation(24, 12, 1000));
    assert_eq!(pair.upstream_hears(), [confirmation(3, 12, 1000)]);
    pair.local(request(41, "break"));
    assert_eq!(pair.upstream_hears(), [request(20, "break")]);
}

#[test]
fn numbers_wrap() {
    let mut pair = Scripted::joined(true);
    pair.upstream(open("forwarded-tcpip", u32::MAX - 1, 1000));
    pair.local_hears();
    pair.local(channel_open_failure(u32::MAX - 1, 1, "no"));
    for raw in [5, u32::MAX] {
        pair.lose();
        pair.gain();
        pair.upstream(open("forwarded-tcpip", raw, 1000));
        let shown = raw.wrapping_sub(1);
        let shown = if raw == 5 {
            shown
        } else {
            shown.wrapping_add(6)
        };
        assert_eq!(pair.local_hears(), [open("forwarded-tcpip", shown, 1000)]);
        pair.local(channel_open_failure(shown, 1, "no"));
        assert_eq!(pair.upstream_hears(), [channel_open_failure(raw, 1, "no")]);
    }
}

#[test]
fn a_channel_that_upstream_did_not_live_to_see_is_closed() {
    let mut pair = Scripted::joined(true);
    pair.upstream(open("forwarded-tcpip", 20, 1000));
    pair.upstream(open("forwarded-tcpip", 21, 1000));
    pair.local_hears();
    pair.lose();
    pair.local(confirmation(20, 10, 1000));
    assert_eq!(pair.local_hears(), [close(10)]);
    pair.local(channel_open_failure(21, 1, "no"));
    pair.local(data(20, b"early"));
    pair.local(close(20));
    pair.gain();
    assert!(pair.local_hears().is_empty());
    assert!(pair.upstream_hears().is_empty());
}

#[test]
fn replies_to_an_upstream_that_is_gone_are_not_for_the_next_one() {
    let mut pair = Scripted::joined(true);
    for _ in 0..2 {
        pair.upstream(global("keepalive@openssh.com", true));
    }
    pair.local(failure());
    assert_eq!(pair.upstream_hears(), [failure()]);
    pair.lose();
    pair.gain();
    pair.upstream(global("keepalive@openssh.com", true));
    pair.local(failure());
    assert!(pair.upstream_hears().is_empty());
    pair.local(success());
    assert_eq!(pair.upstream_hears(), [success()]);
}

#[test]
fn late_replies_are_not_taken_for_others() {
    let mut pair = Scripted::joined(true);
    pair.local(global("first@example.com", true));
    pair.upstream_hears();
    pair.lose();
    pair.refuse("no way up");
    assert_eq!(pair.local_hears(), [failure()]);
    pair.gain();
    pair.local(global("second@example.com", true));
    assert_eq!(pair.upstream_hears(), [global("second@example.com", true)]);
    pair.upstream(success());
    assert_eq!(pair.local_hears(), [success()]);
    // Nobody has asked, and nobody waits: for the client to judge.
    pair.upstream(success());
    assert_eq!(pair.local_hears(), [success()]);
}

#[test]
fn a_flood_without_upstream_is_left_unread() {
    let mut pair = Scripted::alone(true);
    let large = [&[192][..], &[0; 30_000]].concat();
    while pair.may_receive(Side::Local) {
        pair.local(Bytes::from(large.clone()));
    }
    let taken = std::iter::repeat_with(|| pair.receive(Side::Local, large.clone().into()))
        .take_while(Result::is_ok)
        .count();
    assert!((32..1000).contains(&taken), "{taken} taken");
    pair.refuse("no way up");
    assert!(pair.may_receive(Side::Local));
}

#[test]
fn a_malformed_message_is_remembered_for_one_upstream() {
    let malformed = Bytes::from_static(&[98, 0, 0]);
    let mut pair = Scripted::alone(true);
    pair.local(malformed.clone());
    assert!(!pair.has_offended(), "there is nobody to offend");
    pair.gain();
    assert!(pair.has_offended());
    pair.lose();
    pair.gain();
    assert!(!pair.has_offended());
    pair.upstream(malformed.clone());
    assert!(!pair.has_offended(), "that was its own");
    pair.local(malformed);
    assert!(pair.has_offended());
}
