//! While upstream is away.

use std::time::Duration;

use bytes::Bytes;

use super::{
    HOLD, Scripted, close, confirmation, data, failure, global, listen, open, request, stderr_of,
    success, with_channel, with_terminal,
};
use crate::relay::Side;
use crate::ssh::messages::{
    Message, channel_open_failure, open_failure, window_adjust, with_recipient, with_sender,
};
use crate::ssh::wire::msg;

const SECOND: Duration = Duration::from_secs(1);

fn keepalive() -> Bytes {
    global("keepalive@openssh.com", true)
}

impl Scripted {
    fn interrupt(&mut self) {
        self.set_away(Duration::ZERO, false);
    }

    /// Lets the timer fire, and refuses what is overdue then.
    fn run_out_of_patience(&mut self) {
        let due = self.poll_timeout().unwrap() - self.now;
        self.wait(due);
        assert!(self.is_overdue(self.now));
        let now = self.now;
        self.refuse_overdue(now, "away");
        assert!(!self.is_overdue(now));
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
    pair.local(with_recipient(data(20, b"x"), 20));
    assert!(pair.is_drained(Side::Upstream) && pair.is_drained(Side::Local));
}

/// The client's session channel 10, which upstream has been asked for and has not answered.
fn with_opening() -> Scripted {
    let mut pair = Scripted::joined(true);
    pair.local(open("session", 10, 1 << 20));
    assert_eq!(pair.upstream_hears().len(), 1);
    pair
}

fn refused(number: u32) -> Bytes {
    channel_open_failure(number, open_failure::CONNECT_FAILED, "away")
}

#[test]
fn a_silent_agent_is_called_that() {
    let mut pair = with_terminal();
    pair.set_away(8 * SECOND, true);
    pair.local(data(20, b"a"));
    let told = stderr_of(&pair.local_hears()[0]);
    let words = "the SSM agent on the target has not answered for 8 s; what you type is kept";
    assert!(told.contains(words), "{told}");
    // Its link is lost as well.
    pair.set_away(12 * SECOND, false);
    pair.wait(SECOND);
    pair.set_away(Duration::ZERO, true);
    pair.wait(SECOND);
    pair.resume();
    let told = stderr_of(&pair.local_hears()[0]);
    assert!(told.contains("answers again after 10 s"), "{told}");
}

#[test]
fn a_channel_is_waited_for_as_long_as_is_held() {
    let mut pair = with_opening();
    pair.wait(20 * SECOND);
    assert_eq!(pair.poll_timeout(), None, "upstream may take its time");
    pair.set_away(8 * SECOND, true);
    assert_eq!(pair.poll_timeout(), Some(pair.now + HOLD - 8 * SECOND));
    pair.local(open("session", 11, 1 << 20));
    pair.run_out_of_patience();
    assert_eq!(pair.local_hears(), [refused(10)]);
    assert_eq!(
        pair.poll_timeout(),
        Some(pair.now + 8 * SECOND),
        "for the other one"
    );
    pair.resume();
    assert_eq!(pair.poll_timeout(), None);
    // The second one is still wanted.
    pair.upstream(confirmation(10, 20, 1 << 20));
    pair.upstream(confirmation(11, 21, 1 << 20));
    let told = pair.local_hears();
    assert_eq!(told.len(), 1);
    assert_eq!(Message::parse(&told[0]).recipient(), Some(11));
    assert!(pair.upstream_hears().contains(&close(20)));
}

#[test]
fn what_upstream_opens_too_late_is_closed_there_and_not_heard_of_here() {
    let mut pair = with_opening();
    pair.set_away(8 * SECOND, true);
    pair.run_out_of_patience();
    assert_eq!(pair.local_hears(), [refused(10)]);
    assert!(!pair.is_asking());
    pair.resume();
    pair.upstream(confirmation(10, 20, 1 << 20));
    assert_eq!(pair.upstream_hears(), [close(20)]);
    pair.upstream(data(10, b"message of the day"));
    pair.upstream(request(10, "keepalive@openssh.com"));
    pair.upstream(close(10));
    assert!(pair.local_hears().is_empty() && pair.upstream_hears().is_empty());
    assert_eq!(pair.observer().open_channels(), 0);
    // Its number is free again.
    let again = open("session", 10, 1 << 10);
    pair.local(again.clone());
    assert_eq!(pair.upstream_hears(), [again]);
}

/// OpenSSH gives the next channel the number of the one that it was refused.
#[test]
fn a_number_that_upstream_still_knows_goes_by_another() {
    let mut pair = with_opening();
    pair.set_away(8 * SECOND, true);
    pair.run_out_of_patience();
    pair.local_hears();
    let again = open("session", 10, 1 << 10);
    pair.local(again.clone());
    let told = pair.upstream_hears().remove(0);
    let Message::Open { sender: alias, .. } = Message::parse(&told) else {
        panic!("{told:?}");
    };
    assert_ne!(alias, 10);
    assert_eq!(with_sender(told, 10), again);
    pair.resume();
    // In whatever order upstream answers.
    pair.upstream(confirmation(alias, 21, 1 << 20));
    pair.upstream(data(alias, b"hello"));
    pair.upstream(confirmation(10, 20, 1 << 20));
    pair.upstream(data(10, b"who?"));
    let told = pair.local_hears();
    assert_eq!(Message::parse(&told[0]).recipient(), Some(10));
    assert_eq!(told[1..], [data(10, b"hello")]);
    assert_eq!(pair.upstream_hears(), [close(20)]);
    pair.local(data(21, b"in"));
    assert_eq!(pair.upstream_hears(), [data(21, b"in")]);
    pair.upstream(close(10));
    pair.upstream(close(alias));
    pair.local(close(21));
    assert_eq!(pair.local_hears(), [close(10)]);
    assert_eq!(pair.observer().open_channels(), 0);
    pair.local(open("session", 10, 1 << 10));
    let told = pair.upstream_hears().pop().unwrap();
    assert!(matches!(
        Message::parse(&told),
        Message::Open { sender: 10, .. }
    ));
}

#[test]
fn what_upstream_has_not_been_told_is_taken_back() {
    let mut pair = Scripted::joined(true);
    pair.set_away(8 * SECOND, true);
    pair.local(open("session", 10, 1 << 20));
    pair.local(global("no-more-sessions@openssh.com", false));
    pair.wait(HOLD);
    let now = pair.now;
    pair.refuse_overdue(now, "away");
    assert_eq!(pair.local_hears(), [refused(10)]);
    assert_eq!(pair.upstream_hears().len(), 1, "the other message");
}

/// Another upstream knows nothing of what the last one was asked for.
#[test]
fn a_channel_that_was_refused_is_not_asked_for_again() {
    let mut pair = with_opening();
    pair.set_away(8 * SECOND, true);
    pair.run_out_of_patience();
    pair.lose();
    pair.local_hears();
    pair.gain();
    assert!(pair.upstream_hears().is_empty());
    pair.local(open("session", 10, 1 << 10));
    let told = pair.upstream_hears().pop().unwrap();
    assert!(matches!(
        Message::parse(&told),
        Message::Open { sender: 10, .. }
    ));
}

#[test]
fn what_is_open_is_not_touched_however_long_it_takes() {
    let mut pair = with_terminal();
    pair.set_away(8 * SECOND, true);
    pair.wait(HOLD * 10);
    let now = pair.now;
    assert!(!pair.is_overdue(now));
    pair.refuse_overdue(now, "away");
    assert!(pair.local_hears().is_empty());
    assert_eq!(pair.observer().open_channels(), 1);
}
