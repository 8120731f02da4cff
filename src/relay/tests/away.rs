//! While upstream is away.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Scripted, data, failure, global, listen, request, stderr_of, success, with_channel,
    with_terminal,
};
use crate::relay::Side;
use crate::ssh::messages::window_adjust;
use crate::ssh::wire::msg;

const SECOND: Duration = Duration::from_secs(1);

fn keepalive() -> Bytes {
    global("keepalive@openssh.com", true)
}

impl Scripted {
    fn interrupt(&mut self) {
        let now = self.now;
        self.pair.set_absence(now, Some(now));
    }

    fn resume(&mut self) {
        self.pair.set_absence(self.now, None);
    }
}

#[test]
fn keepalives_under_way_are_answered_after_a_second_and_new_ones_at_once() {
    let mut pair = Scripted::joined(true);
    pair.local(keepalive());
    assert_eq!(pair.upstream_hears(), [keepalive()]);
    pair.interrupt();
    pair.local(keepalive());
    assert!(pair.local_hears().is_empty());
    let at = pair.poll_timeout().unwrap();
    assert_eq!(at - pair.now, SECOND);
    pair.wait(SECOND);
    assert_eq!(pair.local_hears(), [failure(), failure()]);
    pair.local(keepalive());
    assert_eq!(pair.local_hears(), [failure()]);
    assert_eq!(pair.upstream_hears(), [keepalive()], "the second one");
    pair.resume();
    pair.local(keepalive());
    pair.upstream(success());
    pair.upstream(success());
    assert!(pair.local_hears().is_empty(), "those have been answered");
    pair.upstream(failure());
    assert_eq!(pair.local_hears(), [failure()]);
}

#[test]
fn without_upstream_keepalives_are_answered_and_are_no_reason_to_find_one() {
    let mut pair = Scripted::alone(true);
    pair.local(keepalive());
    assert!(!pair.is_asking());
    pair.wait(SECOND);
    assert_eq!(pair.local_hears(), [failure()]);
    pair.gain();
    assert!(pair.upstream_hears().is_empty());
    pair.local(keepalive());
    assert_eq!(pair.upstream_hears(), [keepalive()]);
    pair.lose();
    pair.wait(SECOND);
    assert_eq!(pair.local_hears(), [failure()]);
    pair.gain();
    assert!(pair.is_untouched());
}

/// An absence that nobody notices: what the client hears is upstream's own.
#[test]
fn a_short_absence_changes_nothing() {
    let mut pair = with_terminal();
    pair.interrupt();
    pair.local(keepalive());
    pair.local(data(20, b"x"));
    pair.wait(SECOND / 2);
    pair.resume();
    pair.wait(10 * SECOND);
    assert!(pair.local_hears().is_empty());
    assert_eq!(pair.upstream_hears(), [keepalive(), data(20, b"x")]);
    pair.upstream(success());
    assert_eq!(pair.local_hears(), [success()]);
}

/// Its reply would take the place of the other's; a sign of life does not.
#[test]
fn a_keepalive_behind_another_request_waits_for_it() {
    let mut pair = Scripted::joined(true);
    pair.local(listen("", 0));
    pair.interrupt();
    pair.wait(SECOND);
    for _ in 0..3 {
        pair.local(keepalive());
    }
    let told = pair.local_hears();
    assert_eq!(told.len(), 3);
    assert!(told.iter().all(|message| message[0] == msg::IGNORE));
    pair.resume();
    pair.upstream(failure());
    assert_eq!(pair.local_hears(), vec![failure(); 4]);
}

#[test]
fn a_person_who_types_is_told_once_and_told_of_the_end() {
    let mut pair = with_terminal();
    pair.interrupt();
    pair.wait(2 * SECOND);
    pair.local(data(20, b"a"));
    assert!(pair.local_hears().is_empty(), "not yet");
    pair.wait(10 * SECOND);
    pair.local(data(20, b"b"));
    pair.local(data(20, b"c"));
    let told = pair.local_hears();
    assert_eq!(told.len(), 1);
    assert_eq!(
        stderr_of(&told[0]),
        "\r\n[ssmshim: the connection to the target was lost 12 s ago and is being resumed; \
         what you type is kept]\r\n"
    );
    pair.wait(30 * SECOND);
    pair.resume();
    let told = pair.local_hears();
    assert_eq!(stderr_of(&told[0]), "\r\n[ssmshim: resumed after 42 s]\r\n");
    assert_eq!(pair.upstream_hears(), [data(20, b"abc")]);
    pair.interrupt();
    pair.wait(5 * SECOND);
    pair.resume();
    assert!(pair.local_hears().is_empty(), "nobody has typed");
}

#[test]
fn commands_without_a_terminal_are_not_disturbed() {
    let mut pair = with_channel(1 << 20, 1 << 20);
    pair.interrupt();
    pair.wait(10 * SECOND);
    pair.local(data(20, b"input"));
    pair.resume();
    assert!(pair.local_hears().is_empty());
}

/// What is said in upstream's place is upstream's to pay: the next adjustment that it sees is that much smaller.
#[test]
fn a_notice_is_paid_from_the_window() {
    const WINDOW: u32 = 20_000;
    let mut pair = with_channel(WINDOW, 1 << 20);
    pair.local(request(20, "pty-req"));
    pair.upstream_hears();
    pair.interrupt();
    pair.wait(10 * SECOND);
    pair.local(data(20, b"x"));
    let notice = pair.local_hears().remove(0);
    let cost = notice.len() as u32 - 13;
    pair.upstream_hears();
    pair.local(window_adjust(20, cost));
    assert!(pair.upstream_hears().is_empty());
    pair.local(window_adjust(20, 1000));
    assert_eq!(pair.upstream_hears(), [window_adjust(20, 1000)]);
}

#[test]
fn a_window_without_room_gets_no_notice() {
    let mut pair = with_channel(1000, 1 << 20);
    pair.local(request(20, "pty-req"));
    pair.interrupt();
    pair.wait(10 * SECOND);
    pair.local(data(20, b"x"));
    assert!(pair.local_hears().is_empty());
    pair.resume();
    assert!(pair.local_hears().is_empty());
}

#[test]
fn an_absence_ends_with_its_upstream() {
    let mut pair = with_terminal();
    pair.interrupt();
    pair.wait(5 * SECOND);
    pair.local(data(20, b"x"));
    pair.local_hears();
    pair.lose();
    assert!(!pair.local_hears().is_empty());
    pair.gain();
    pair.resume();
    assert!(pair.local_hears().is_empty());
    assert_eq!(pair.poll_timeout(), None);
    // Whoever types there hears nothing, and says nothing.
    pair.local(data(20, b"x"));
    assert!(pair.is_drained(Side::Upstream) && pair.is_drained(Side::Local));
}
