//! Global requests and stray messages, as messages.

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::world::World;
use crate::raw::Raw;
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded sshd ends such connections with a text of its own, or lets it pass.
        no_more_sessions,
        unknown_channels,
        truncated,
        hostkeys_prove,
        long_payloads,
        unknown_message_numbers,
    }
    everywhere: {
        keepalive,
        unknown,
        pipelined,
        replies_nobody_asked_for,
        disconnect_with_every_reason,
        update_host_keys,
    }
}

fn keepalive(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for name in ["keepalive@openssh.com", "keepalive@lag.net", "keepalive"] {
        client.global(name, true, |_| {});
        let heard = client.next();
        seen.note(name, heard.to_text());
        client.global(name, false, |_| {});
        client.record_until_settled(seen, &format!("{name}, no reply"));
    }
}

/// Names of every kind, with a reply and without.
fn unknown(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let names: [&[u8]; 6] = [
        b"",
        b"nobody@knows.example",
        b"\xff\xfe\x01",
        "\u{1f980}".as_bytes(),
        b"exec",
        &[b'n'; 3000],
    ];
    for (n, name) in names.into_iter().enumerate() {
        for want_reply in [true, false] {
            client.send(msg::GLOBAL_REQUEST, |request| {
                request
                    .put_string(name)
                    .put_bool(want_reply)
                    .put_raw(&[0xff; 100]);
            });
            client.record_until_settled(seen, &format!("name {n}, reply {want_reply}"));
        }
    }
    // Any value but zero is true (RFC 4251 section 5).
    client.send(msg::GLOBAL_REQUEST, |request| {
        request.put_string("nobody@knows.example").put_byte(0xff);
    });
    client.record_until_settled(seen, "another true");
}

fn long_payloads(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for length in [32 << 10, 34_000, 64 << 10, 200_000, 255 << 10] {
        client.global("nobody@knows.example", true, |request| {
            request.put_raw(&vec![7; length]);
        });
        client.record_until_settled(seen, &format!("{length} bytes"));
    }
}

/// Many at once: each that wants a reply gets one, and the others none.
fn pipelined(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for n in 0..500 {
        client.queue(msg::GLOBAL_REQUEST, |request| {
            request
                .put_string("keepalive@openssh.com")
                .put_bool(n % 5 != 0);
        });
    }
    client.flush();
    for n in 0..400 {
        let heard = client.next();
        seen.note(&format!("reply {n}"), heard.to_text());
    }
    client.record_until_settled(seen, "after");
}

/// After it, another session is the end of the connection; other channels are not.
fn no_more_sessions(world: &World, seen: &mut Seen) {
    for want_reply in [false, true] {
        let label = format!("reply {want_reply}");
        let mut client = Raw::connect(world);
        let channel = client.session(1);
        client.global("no-more-sessions@openssh.com", want_reply, |_| {});
        if want_reply {
            let heard = client.next();
            seen.note(&format!("{label}: reply"), heard.to_text());
        }
        client.request(channel, "exec", true, |request| {
            request.put_string("echo hello; exit 3");
        });
        client.record_until_close(seen, &format!("{label}: the session before"), 1);
        client.close(channel);
        client.open("direct-tcpip", 2, |open| {
            open.put_string("127.0.0.1")
                .put_uint32(1)
                .put_string("127.0.0.1")
                .put_uint32(1);
        });
        let heard = client.next();
        seen.note(&format!("{label}: another channel"), heard.to_text());
        client.open("session", 3, |_| {});
        client.record_until_settled(seen, &format!("{label}: another session"));
        // The next client has nothing to do with it.
        let mut next = Raw::connect(world);
        let channel = next.session(0);
        next.close(channel);
        next.record_until_close(seen, &format!("{label}: another client"), 0);
    }
}

/// Answers to nothing.
fn replies_nobody_asked_for(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for (label, number) in [
        ("success", msg::REQUEST_SUCCESS),
        ("failure", msg::REQUEST_FAILURE),
    ] {
        for _ in 0..3 {
            client.send(number, |_| {});
        }
        client.send(number, |reply| {
            reply.put_uint32(7);
        });
        client.record_until_settled(seen, label);
    }
}

/// Messages for a channel that is not there: each by itself, for most are the end of the connection.
fn unknown_channels(world: &World, seen: &mut Seen) {
    type Fields = fn(&mut Vec<u8>);
    let messages: [(&str, u8, Fields); 10] = [
        ("data", msg::CHANNEL_DATA, |m| {
            m.put_string("data");
        }),
        ("extended data", msg::CHANNEL_EXTENDED_DATA, |m| {
            m.put_uint32(1).put_string("data");
        }),
        ("EOF", msg::CHANNEL_EOF, |_| {}),
        ("CLOSE", msg::CHANNEL_CLOSE, |_| {}),
        ("adjustment", msg::CHANNEL_WINDOW_ADJUST, |m| {
            m.put_uint32(1);
        }),
        ("request", msg::CHANNEL_REQUEST, |m| {
            m.put_string("exec").put_bool(true).put_string("true");
        }),
        ("success", msg::CHANNEL_SUCCESS, |_| {}),
        ("failure", msg::CHANNEL_FAILURE, |_| {}),
        ("confirmation", msg::CHANNEL_OPEN_CONFIRMATION, |m| {
            m.put_uint32(0).put_uint32(100).put_uint32(100);
        }),
        ("open failure", msg::CHANNEL_OPEN_FAILURE, |m| {
            m.put_uint32(1).put_string("no").put_string("");
        }),
    ];
    for (label, number, fields) in messages {
        let mut client = Raw::connect(world);
        client.send(number, |message| {
            message.put_uint32(99);
            fields(message);
        });
        client.record_until_settled(seen, label);
    }
}

/// Messages that end too early.
fn truncated(world: &World, seen: &mut Seen) {
    for (label, number, rest) in [
        (
            "global request without a name",
            msg::GLOBAL_REQUEST,
            &[][..],
        ),
        (
            "global request, name cut",
            msg::GLOBAL_REQUEST,
            b"\0\0\0\x09no",
        ),
        ("open without a type", msg::CHANNEL_OPEN, b""),
        (
            "open without a window",
            msg::CHANNEL_OPEN,
            b"\0\0\0\x07session\0\0\0\0",
        ),
        (
            "open without a packet size",
            msg::CHANNEL_OPEN,
            b"\0\0\0\x07session\0\0\0\0\0\0\x10\0",
        ),
        ("data without a channel", msg::CHANNEL_DATA, b"\0\0"),
        ("EOF without a channel", msg::CHANNEL_EOF, b""),
        ("request without a channel", msg::CHANNEL_REQUEST, b""),
    ] {
        let mut client = Raw::connect(world);
        client.send(number, |message| {
            message.put_raw(rest);
        });
        client.record_until_settled(seen, label);
    }
}

/// Numbers that nobody has defined: SSH_MSG_UNIMPLEMENTED, which the transport keeps, and life goes on.
fn unknown_message_numbers(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for number in [83, 89, 101, 127, 128, 191, 192, 255] {
        client.send(number, |message| {
            message.put_uint32(7);
        });
        client.record_until_settled(seen, &format!("number {number}"));
    }
}

/// A client may ask for a proof of keys it does not know yet.
fn hostkeys_prove(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for (label, blob) in [
        ("no key", &[][..]),
        ("garbage", b"garbage"),
        (
            "a key that is not the server's",
            b"\0\0\0\x0bssh-ed25519\0\0\0\x20\
            \x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05\x06\x07\x08\
            \x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05\x06\x07\x08",
        ),
    ] {
        client.global("hostkeys-prove-00@openssh.com", true, |request| {
            if !blob.is_empty() {
                request.put_string(blob);
            }
        });
        client.record_until_settled(seen, label);
    }
}

/// A client that takes its leave for whatever reason, in the middle of a command: that ends, and the next one is served.
fn disconnect_with_every_reason(world: &World, seen: &mut Seen) {
    for reason in [0, 1, 2, 11, 15, 99, u32::MAX] {
        let mut client = Raw::connect(world);
        let channel = client.session(0);
        client.request(channel, "exec", false, |request| {
            request.put_string("cat");
        });
        client.send(msg::DISCONNECT, |message| {
            message
                .put_uint32(reason)
                .put_string("so\nlong \u{fc}")
                .put_string("de");
        });
        // What sshd still says before it closes is chance; that it closes is not.
        while !matches!(client.next(), crate::raw::Heard::End(_)) {}
        seen.note(&format!("reason {reason}"), "closed");
    }
    seen.run("the next", world.ssh(&[], "echo fine"));
}

/// A client that keeps its file of known hosts up to date with what the server says of its keys.
fn update_host_keys(world: &World, seen: &mut Seen) {
    let file = world.text("known");
    let known = format!("UserKnownHostsFile={file}");
    let options = [
        "-o",
        &known,
        "-o",
        "UpdateHostKeys=yes",
        "-o",
        "StrictHostKeyChecking=accept-new",
    ];
    for label in ["first", "second"] {
        seen.run(label, world.ssh(&options, "echo fine; exit 3"));
        let lines = std::fs::read_to_string(&file).expect("ssh writes it");
        seen.note("known hosts", lines.lines().count());
    }
    // It has to be known by now.
    let options = ["-o", &known, "-o", "StrictHostKeyChecking=yes"];
    seen.run("strict", world.ssh(&options, "exit 4"));
}
