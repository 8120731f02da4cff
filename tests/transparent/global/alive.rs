//! Keepalives of both ends: answered, and unanswered.

use rustix::process::Signal;
use ssmshim::ssh::wire::msg;

use super::started;
use crate::common::DEADLINE;
use crate::common::process::code;
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // It stops sshd's process of this session, which the embedded one has not.
        target_that_does_not_answer,
    }
    everywhere: {
        server_alive_interval,
    }
}

mod client_alive {
    //! An sshd that asks every second, and gives up after the second silence.

    crate::differential! {
        sshd: "ClientAliveInterval 1\nClientAliveCountMax 2",
        compared: {
            answered,
            not_answered,
            stopped_client,
            busy_client,
        }
        everywhere: {}
    }
    use super::{answered, busy_client, not_answered, stopped_client};
}

/// The client asks every second, and ends when it does not hear.
fn server_alive_interval(world: &World, seen: &mut Seen) {
    let options = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1"];
    seen.run("alive", world.ssh(&options, "echo out; sleep 3; exit 3"));
}

/// sshd's process stands still: the client finds out by itself.
fn target_that_does_not_answer(world: &World, seen: &mut Seen) {
    let options = [
        "-o",
        "LogLevel=INFO",
        "-o",
        "ServerAliveInterval=1",
        "-o",
        "ServerAliveCountMax=2",
    ];
    let (mut client, [_, sshd]) = started(world, &options, "exec cat");
    rustix::process::kill_process(sshd, Signal::STOP).expect("sshd serves the session");
    let status = client.wait(DEADLINE);
    rustix::process::kill_process(sshd, Signal::KILL).expect("sshd is there still");
    seen.note("status", code(status));
    seen.note("stderr", super::without_addition(&client.stderr()));
}

/// A client that answers, be it with failure or success, is kept.
fn answered(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for n in 0..5 {
        let heard = client.next();
        seen.note("asked", heard.to_text());
        assert!(matches!(heard, Heard::Global { .. }), "{heard:?}");
        let answer = if n % 2 == 0 {
            msg::REQUEST_FAILURE
        } else {
            msg::REQUEST_SUCCESS
        };
        client.send(answer, |_| {});
    }
}

/// A client that does not answer is asked as often as configured, and dropped: sshd leaves without a word, as it does
/// when it is killed.
fn not_answered(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(0);
    for n in 0..2 {
        let heard = client.next();
        seen.note(&format!("asked {n}"), heard.to_text());
    }
    super::assert_lost(world, &mut client, 0);
    client.close(channel);
}

/// A client that stands still is dropped; when it goes on it finds that sshd has gone.
fn stopped_client(world: &World, seen: &mut Seen) {
    let (mut client, [command, sshd]) = started(world, &["-o", "LogLevel=INFO"], "exec cat");
    client.signal(Signal::STOP);
    super::gone("sshd gives the client up", sshd);
    super::gone("the command ends", command);
    client.signal(Signal::CONT);
    let status = client.wait(DEADLINE);
    seen.note("status", code(status));
    seen.note("stderr", super::lost(world, &client.stderr()));
}

/// A client that answers between other work is kept, in silence and under load.
fn busy_client(world: &World, seen: &mut Seen) {
    let run = world.ssh(&[], "head -c 20000000 /dev/zero; sleep 4; exit 3");
    seen.run("busy, then idle", run);
}
