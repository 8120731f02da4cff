//! What sshd was asked, by its own log.

use ssmshim::ssh::wire::WriteExt as _;

use crate::common::until;
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    sshd: "LogLevel DEBUG2",
    compared: {
        // The embedded server keeps no such log.
        by_a_rich_session,
        by_ssh,
    }
    everywhere: {}
}

/// Lines of the log that say what came in.
const TOLD: [&str; 5] = [
    "server_input_",
    "session_input_channel_req",
    "Setting env",
    "Ignoring env",
    "subsystem request",
];

/// Does what `ask` does, and records what sshd has logged of it. The last that is asked for must be `last`.
fn record(world: &World, seen: &mut Seen, last: &str, ask: impl FnOnce(&mut Seen)) {
    let sshd = world.sshd.as_ref().expect("a real sshd");
    let before = sshd.log().len();
    ask(seen);
    let log = until("the last request in the log", || {
        let log = sshd.log().split_off(before);
        log.contains(last).then_some(log)
    });
    let end = log.lines().position(|line| line.contains(last));
    let lines = log.lines().take(end.map_or(usize::MAX, |end| end + 1));
    for line in lines.filter(|line| TOLD.iter().any(|told| line.contains(told))) {
        // That one is ours to keep, for the transport serves the next client too (README, limits).
        if line.contains("no-more-sessions@openssh.com") {
            continue;
        }
        // A window beside others is smaller than what the client grants (README, limits).
        let (line, _window) = line.split_once(" win ").unwrap_or((line, ""));
        seen.note("sshd", line);
    }
}

fn by_a_rich_session(world: &World, seen: &mut Seen) {
    record(world, seen, "the-last@example.com", |seen| {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        for name in ["LC_A", "FORBIDDEN", "LANG"] {
            client.request(channel, "env", name != "LANG", |request| {
                request.put_string(name).put_string("x");
            });
        }
        client.global("never-heard-of@example.com", true, |request| {
            request.put_string("whatever");
        });
        client.global("keepalive@openssh.com", false, |_| {});
        client.request(channel, "never-heard-of@example.com", true, |request| {
            request.put_string("whatever");
        });
        client.request(channel, "pty-req", true, |request| {
            request.put_string("vt100");
            for number in [80, 24, 0, 0] {
                request.put_uint32(number);
            }
            request.put_string("");
        });
        client.open("never-heard-of@example.com", 8, |_| {});
        client.record_until_settled(seen, "prepared");
        client.exec(channel, "echo ready; read line");
        // sshd talks to the terminal too while it debugs.
        let mut said = Vec::new();
        while !said.ends_with(b"ready\r\n") {
            match client.next() {
                Heard::Data { bytes, .. } => said.extend(bytes),
                heard @ (Heard::Close(_) | Heard::End(_)) => panic!("{heard:?}"),
                _ => {}
            }
        }
        for size in 1..10 {
            client.request(channel, "window-change", size % 2 == 0, |request| {
                for number in [80 + size, 24 + size, 0, 0] {
                    request.put_uint32(number);
                }
            });
        }
        client.request(channel, "signal", true, |request| {
            request.put_string("WINCH");
        });
        client.request(channel, "eow@openssh.com", false, |_| {});
        client.record_until_settled(seen, "asked");
        let other = client.session(9);
        client.request(other, "subsystem", true, |request| {
            request.put_string("nosuch");
        });
        client.request(other, "shell", false, |_| {});
        client.data(other, b"exit 3\n");
        client.record_until_close(seen, "other", 9);
        client.close(other);
        client.request(channel, "the-last@example.com", true, |_| {});
        client.record_until_settled(seen, "last");
    });
}

/// What OpenSSH's own client asks.
fn by_ssh(world: &World, seen: &mut Seen) {
    for (label, options) in [
        ("exec", &["-o", "SetEnv=LC_A=x LC_LAST=x"][..]),
        ("terminal", &["-tt", "-o", "SetEnv=LC_B=x LC_LAST=x"]),
    ] {
        record(world, seen, "request exec", |seen| {
            let output = world.ssh(options, "echo $LC_A$LC_B$LC_LAST").output();
            seen.note(label, output.code);
        });
    }
}
