//! `signal` (RFC 4254 §6.9).

use ssmshim::ssh::wire::WriteExt as _;

use crate::common::have;
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server sends every signal that the RFC names, sshd some of them, and none for root.
        signals_a_program_hears,
        signals_that_end_it,
        signals_to_a_terminal,
    }
    everywhere: {
        names_that_are_none,
        too_early_and_too_late,
    }
}

fn signal(client: &mut Raw, channel: u32, name: impl AsRef<[u8]>, want_reply: bool) {
    client.request(channel, "signal", want_reply, |request| {
        request.put_string(name);
    });
}

/// A program that says what it hears, and otherwise ends with its input.
fn program(name: &str) -> String {
    format!(
        "exec perl -e '$| = 1; $SIG{{{name}}} = sub {{ print \"heard $_[0]\\n\"; exit 4 }}; \
         print \"ready\\n\"; 1 while <STDIN>; print \"end\\n\"; exit 5'"
    )
}

/// What a command hears; sshd signals the process group, but not for root, whose sessions have no monitor.
fn signals_a_program_hears(world: &World, seen: &mut Seen) {
    if !have("perl") {
        seen.note("perl", "missing");
        return;
    }
    let mut client = Raw::connect(world);
    for name in ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2"] {
        let channel = client.session(7);
        client.exec(channel, program(name));
        client.record(seen, "start", |heard| matches!(heard, Heard::Data { .. }));
        signal(&mut client, channel, name, true);
        // Where it ends the program, sshd says `eow` of its input, unless that has ended before.
        if !is_sent(name) {
            client.eof(channel);
        }
        client.record_channels(seen, name, 1);
        client.close(channel);
    }
}

/// Whether sshd sends the signal.
fn is_sent(name: &str) -> bool {
    let sent = ["HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2"];
    !rustix::process::geteuid().is_root() && sent.contains(&name)
}

fn signals_that_end_it(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let names = [
        "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1",
        "USR2",
    ];
    for name in names {
        for want_reply in [true, false] {
            let channel = client.session(7);
            // It is there when it answers; a shell on its way to it may have heard the signal for nothing.
            client.exec(channel, "ulimit -c 0; exec cat");
            client.data(channel, b"ready");
            client.record(seen, "start", |heard| matches!(heard, Heard::Data { .. }));
            signal(&mut client, channel, name, want_reply);
            // Where it ends the command, that may come before whatever is said next.
            if !is_sent(name) {
                client.record_until_settled(seen, name);
                client.eof(channel);
            }
            client.record_channels(seen, &format!("{name}, end"), 1);
            client.close(channel);
        }
    }
}

fn names_that_are_none(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(channel, "exec cat");
    client.record_until_settled(seen, "command");
    let names: [&[u8]; 14] = [
        b"SIGTERM",
        b"term",
        b"",
        b"9",
        b"TERM ",
        b"WINCH",
        b"CHLD",
        b"CONT",
        b"STOP",
        b"TSTP",
        b"BUS",
        b"XFOO@example.com",
        b"INFO@openssh.com",
        b"\xff\xfe",
    ];
    for name in names {
        for want_reply in [true, false] {
            signal(&mut client, channel, name, want_reply);
            let label = format!("{} {want_reply}", name.escape_ascii());
            client.record_until_settled(seen, &label);
        }
    }
    client.data(channel, b"alive");
    client.eof(channel);
    client.record_until_close(seen, "end", 7);
}

fn too_early_and_too_late(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    signal(&mut client, channel, "TERM", true);
    client.record_until_settled(seen, "before the command");
    client.exec(channel, "exit 4");
    client.record_until_close(seen, "command", 7);
    client.close(channel);

    let channel = client.session(8);
    client.request(channel, "subsystem", true, |request| {
        request.put_string("sftp");
    });
    signal(&mut client, channel, "TERM", true);
    client.record_until_settled(seen, "subsystem");
    client.eof(channel);
    client.record_until_close(seen, "end", 8);
}

fn signals_to_a_terminal(world: &World, seen: &mut Seen) {
    if !world.has_terminals() || !have("perl") {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    for name in ["HUP", "INT", "TERM", "USR1"] {
        let channel = client.session(7);
        client.request(channel, "pty-req", true, |request| {
            request.put_string("vt100");
            for number in [80, 24, 0, 0] {
                request.put_uint32(number);
            }
            request.put_string("");
        });
        client.exec(channel, program(name));
        let mut said = Vec::new();
        while !said.ends_with(b"ready\r\n") {
            if let Heard::Data { bytes, .. } = client.next() {
                said.extend(bytes);
            }
        }
        signal(&mut client, channel, name, true);
        client.data(channel, b"\x04");
        client.record_channels(seen, name, 1);
        client.close(channel);
    }
}
