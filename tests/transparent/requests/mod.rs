//! Channel requests, channel types and subsystems, known and unknown.

mod agent;
mod asked;
mod configured;
mod displays;
mod environment;
mod order;
mod signals;
mod x11;

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::DEADLINE;
use crate::common::net::{Peer, serve};
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server says in other words why it ends the connection.
        malformed_requests,
        requests_nobody_has_heard_of,
        // It has `X11Forwarding`.
        no_display_unless_configured,
    }
    everywhere: {
        breaks,
        channel_types_nobody_has_heard_of,
        channels_only_servers_open,
        requests_on_a_forwarded_connection,
        subsystems,
        subsystems_of_ssh,
        statuses_from_the_client,
    }
}

/// RFC 4335, with a terminal and without.
fn breaks(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let send = |client: &mut Raw, channel: u32, seen: &mut Seen, label: &str| {
        for (milliseconds, want_reply) in [(0, true), (500, true), (100_000, true), (1000, false)] {
            client.request(channel, "break", want_reply, |request| {
                request.put_uint32(milliseconds);
            });
            client.record_until_settled(seen, &format!("{label} {milliseconds}"));
        }
    };
    let channel = client.session(7);
    send(&mut client, channel, seen, "before the command");
    client.exec(channel, "exec cat");
    assert!(matches!(client.next(), Heard::Success(7)));
    send(&mut client, channel, seen, "without a terminal");
    client.eof(channel);
    client.record_until_close(seen, "end", 7);
    client.close(channel);
    if !world.has_terminals() {
        return;
    }
    let channel = client.session(8);
    client.request(channel, "pty-req", true, |request| {
        request.put_string("vt100");
        for number in [80, 24, 0, 0] {
            request.put_uint32(number);
        }
        request.put_string([53, 0, 0, 0, 0, 0]);
    });
    client.exec(channel, "exec cat");
    client.record_until_settled(seen, "terminal");
    send(&mut client, channel, seen, "with a terminal");
    client.data(channel, b"alive\n\x04");
    client.record_until_close(seen, "end", 8);
}

fn requests_nobody_has_heard_of(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    let names: [&[u8]; 12] = [
        b"never-heard-of@example.com",
        b"keepalive@openssh.com",
        b"simple@putty.projects.tartarus.org",
        b"winadj@putty.projects.tartarus.org",
        b"auth-agent-req",
        b"xon-xoff",
        b"exit-status-of@example.com",
        b"EXEC",
        b"",
        b"\xff\xfe\x01",
        b"tcpip-forward",
        &[b'x'; 5000],
    ];
    for when in ["before", "after"] {
        for name in names {
            for want_reply in [true, false] {
                let name_text = String::from_utf8_lossy(name).into_owned();
                client.send(msg::CHANNEL_REQUEST, |message| {
                    message
                        .put_uint32(channel)
                        .put_string(name)
                        .put_bool(want_reply)
                        .put_raw(b"whatever");
                });
                let label = format!("{when} {name_text:.20} {want_reply}");
                client.record_until_settled(seen, &label);
            }
        }
        if when == "before" {
            client.exec(channel, "exec cat");
            client.record_until_settled(seen, "command");
        }
    }
    client.eof(channel);
    client.record_until_close(seen, "end", 7);
}

/// Known by name, and cut short or with something behind.
fn malformed_requests(world: &World, seen: &mut Seen) {
    let requests: [(&str, &[u8]); 16] = [
        ("exec", b""),
        ("exec", b"\0\0\0\x04tr"),
        ("exec", b"\0\0\0\x04truemore"),
        ("shell", b"more"),
        ("env", b"\0\0\0\x04LANG"),
        ("env", b"\0\0\0\x04LANG\0\0\0\x01xmore"),
        ("pty-req", b"\0\0\0\x05vt100\0\0"),
        ("window-change", b"\0\0"),
        ("window-change", b"0123456789abcdefmore"),
        ("subsystem", b""),
        ("signal", b""),
        ("signal", b"\0\0\0\x03HUPmore"),
        ("break", b""),
        ("break", b"0123more"),
        ("eow@openssh.com", b"more"),
        ("x11-req", b"\x01"),
    ];
    for (name, fields) in requests {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        client.request(channel, name, true, |request| {
            request.put_raw(fields);
        });
        let label = format!("{name} {}", fields.escape_ascii());
        client.record_until_settled(seen, &label);
    }
}

/// The code and the words of the refusal (RFC 4254 §5.1).
fn channel_types_nobody_has_heard_of(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let kinds = [
        "never-heard-of@example.com",
        "",
        "Session",
        "session ",
        "direct-tcpip2",
        "agent",
    ];
    for (number, kind) in (0..).zip(kinds) {
        client.open(kind, number, |message| {
            message.put_string("whatever").put_uint32(number);
        });
        client.record_until_settled(seen, &format!("{kind:?}"));
    }
    client.open(&"x".repeat(3000), 9, |_| {});
    client.record_until_settled(seen, "long");
    let channel = client.session(7);
    client.exec(channel, "exit 3");
    client.record_until_close(seen, "alive", 7);
}

fn channels_only_servers_open(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for kind in [
        "x11",
        "forwarded-tcpip",
        "auth-agent@openssh.com",
        "forwarded-streamlocal@openssh.com",
    ] {
        client.open(kind, 3, |message| {
            message
                .put_string("127.0.0.1")
                .put_uint32(1)
                .put_string("127.0.0.1")
                .put_uint32(2);
        });
        client.record_until_settled(seen, kind);
    }
}

/// A channel that carries a connection has nothing to be asked for.
fn requests_on_a_forwarded_connection(world: &World, seen: &mut Seen) {
    let port = serve(Peer::Echo);
    let mut client = Raw::connect(world);
    client.open("direct-tcpip", 7, |message| {
        message
            .put_string("127.0.0.1")
            .put_uint32(port.into())
            .put_string("127.0.0.1")
            .put_uint32(1234);
    });
    let Heard::Confirmed {
        sender: channel, ..
    } = client.next()
    else {
        panic!("no connection");
    };
    for (name, fields) in [
        ("exec", &b"\0\0\0\x04true"[..]),
        ("env", b"\0\0\0\x04LANG\0\0\0\x01C"),
        ("signal", b"\0\0\0\x03HUP"),
        ("window-change", b"0123456789abcdef"),
        ("eow@openssh.com", b""),
        ("exit-status", b"\0\0\0\x05"),
        ("never-heard-of@example.com", b""),
    ] {
        for want_reply in [true, false] {
            client.request(channel, name, want_reply, |request| {
                request.put_raw(fields);
            });
            client.record_until_settled(seen, &format!("{name} {want_reply}"));
        }
    }
    client.close(channel);
    client.record_until_close(seen, "end", 7);
}

fn subsystems(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for (number, name) in (10..).zip(["nosuch", "", "sftp ", "SFTP", "sftp"]) {
        let channel = client.session(number);
        client.request(channel, "subsystem", true, |request| {
            request.put_string(name);
        });
        client.record_until_settled(seen, &format!("{name:?}"));
        if name == "sftp" {
            // SSH_FXP_INIT of version 3; what extensions the answer names is the server's.
            client.data(channel, b"\0\0\0\x05\x01\0\0\0\x03");
            let Heard::Data { bytes, .. } = client.next() else {
                panic!("no version");
            };
            seen.bytes("version", &bytes[4..9]);
            client.eof(channel);
            client.record_until_close(seen, "end", number);
            client.close(channel);
        } else {
            // One that was refused may still become something else.
            client.exec(channel, "echo instead; exit 4");
            client.record_until_close(seen, &format!("{name:?}, then exec"), number);
            client.close(channel);
        }
    }
}

fn subsystems_of_ssh(world: &World, seen: &mut Seen) {
    use std::io::{Read as _, Write as _};
    let init = b"\0\0\0\x05\x01\0\0\0\x03";
    let mut ssh = world.ssh(&["-s"], "sftp").piped();
    let mut stdin = ssh.take_stdin();
    stdin.write_all(init).expect("ssh reads");
    let mut version = [0; 9];
    let answered = ssh.take_stdout().read_exact(&mut version);
    answered.expect("sftp answers");
    seen.bytes("version", &version[4..]);
    drop(stdin);
    seen.note("sftp", ssh.wait(DEADLINE));
    let output = seen.run("nosuch", world.ssh(&["-s"], "nosuch").stdin(init));
    assert_ne!(output.code, 0);
}

/// What a server says of commands, said by a client.
fn statuses_from_the_client(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(channel, "cat; exit 3");
    client.record_until_settled(seen, "command");
    for want_reply in [true, false] {
        client.request(channel, "exit-status", want_reply, |request| {
            request.put_uint32(5);
        });
        client.record_until_settled(seen, &format!("exit-status {want_reply}"));
        client.request(channel, "exit-signal", want_reply, |request| {
            request
                .put_string("TERM")
                .put_bool(false)
                .put_string("")
                .put_string("");
        });
        client.record_until_settled(seen, &format!("exit-signal {want_reply}"));
    }
    client.data(channel, b"alive");
    client.eof(channel);
    client.record_until_close(seen, "end", 7);
}

/// `X11Forwarding` is off unless switched on: see `x11`.
fn no_display_unless_configured(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.request(channel, "x11-req", true, |request| {
        request
            .put_bool(false)
            .put_string("MIT-MAGIC-COOKIE-1")
            .put_string("00112233445566778899aabbccddeeff")
            .put_uint32(0);
    });
    client.record_until_settled(seen, "x11 without X11Forwarding");
    client.exec(channel, "echo ${DISPLAY-unset}");
    client.record_until_close(seen, "exec", 7);
}
