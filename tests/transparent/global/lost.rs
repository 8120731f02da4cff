//! The far end goes: what the client sees and the person is told.
//!
//! Through us it is not the connection that goes then, but what was going on at the far end: its channels end with a
//! notice of ours where a direct connection breaks off, and the client can go on to open others (`tests/redial`). What is
//! the same is compared: the status, and that what had been said arrives first.

use std::io::{Read as _, Write as _};

use rustix::process::Signal;

use super::{gone, lost, started};
use crate::common::net::{Peer, connect, free_port, serve};
use crate::common::process::code;
use crate::common::world::World;
use crate::common::{DEADLINE, until};
use crate::raw::{Heard, Raw};
use crate::seen::Seen;
use ssmshim::ssh::wire::WriteExt as _;

crate::differential! {
    compared: {
        // There is a process of sshd to kill.
        session_process_killed,
        session_process_killed_with_output,
        killed_below_a_control_master,
        killed_as_messages,
        forwarding_client,
    }
    everywhere: {}
}

fn session_process_killed(world: &World, seen: &mut Seen) {
    for signal in [Signal::KILL, Signal::TERM, Signal::HUP] {
        let (mut client, [command, sshd]) = started(world, &["-o", "LogLevel=INFO"], "exec cat");
        rustix::process::kill_process(sshd, signal).expect("sshd serves the session");
        let status = client.wait(DEADLINE);
        seen.note(&format!("{signal:?}: status"), code(status));
        let stderr = lost(world, &client.stderr());
        seen.note(&format!("{signal:?}: stderr"), stderr);
        gone("the command", command);
    }
    seen.run("the next", world.ssh(&[], "echo fine"));
}

/// What the command had said arrives before the end does.
fn session_process_killed_with_output(world: &World, seen: &mut Seen) {
    let go = crate::common::files::fifo(world.path("go"));
    let command = format!(
        "head -c 100000 /dev/zero; echo said >&2; cat {}",
        go.display()
    );
    let (mut client, [_, sshd]) = started(world, &["-o", "LogLevel=INFO"], &command);
    let mut stdout = client.take_stdout();
    let mut all = vec![0; 100_000];
    stdout.read_exact(&mut all).expect("the output comes");
    until("the word on stderr", || {
        client.stderr().contains("said").then_some(())
    });
    rustix::process::kill_process(sshd, Signal::KILL).expect("sshd serves the session");
    stdout.read_to_end(&mut all).expect("a pipe");
    seen.bytes("stdout", &all);
    let status = client.wait(DEADLINE);
    seen.note("status", code(status));
    seen.note("stderr", lost(world, &client.stderr()));
}

/// Every session of the connection ends. A master ends too where it is the connection that is gone.
fn killed_below_a_control_master(world: &World, seen: &mut Seen) {
    let socket = world.text("control");
    let master = world.master(&socket);
    let (mut client, [command, sshd]) = started(world, &["-S", &socket], "exec cat");
    rustix::process::kill_process(sshd, Signal::KILL).expect("sshd serves the session");
    let status = client.wait(DEADLINE);
    seen.note("status", code(status));
    gone("the command", command);
    // The last line depends on which of its sockets the master looks at first.
    seen.hide(world.text("control"), "<socket>");
    drop(master);
    seen.run("the next", world.ssh(&[], "echo fine"));
}

fn killed_as_messages(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(0);
    client.request(channel, "exec", true, |request| {
        request.put_string("echo before; read go; kill -KILL $PPID; echo after");
    });
    // What sshd has not read yet when it is killed is lost: that is chance.
    client.record(seen, "before", |heard| matches!(heard, Heard::Data { .. }));
    client.data(channel, b"go\n");
    super::assert_lost(world, &mut client, 0);
}

/// `ssh -N` with forwards, idle: it ends, with that status.
fn forwarding_client(world: &World, seen: &mut Seen) {
    let port = free_port();
    let forward = format!("{port}:127.0.0.1:{}", serve(Peer::Echo));
    let (mut client, [_, sshd]) = started(
        world,
        &["-o", "LogLevel=INFO", "-L", &forward],
        "exec sleep 100",
    );
    let mut open = connect(port);
    // One that is only asked for would be asked for again through us.
    open.write_all(b"open").expect("the forward takes bytes");
    open.read_exact(&mut [0; 4]).expect("the echo comes back");
    rustix::process::kill_process(sshd, Signal::KILL).expect("sshd serves the session");
    let end = open.read(&mut [0]).map_err(|error| error.kind());
    seen.note("an open connection", format!("{end:?}"));
    let status = client.wait(DEADLINE);
    seen.note("status", code(status));
    seen.note("stderr", lost(world, &client.stderr()));
}
