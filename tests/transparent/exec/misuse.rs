//! Messages that are out of place or out of shape: sshd judges them, in its own words.

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server says in other words why it ends the connection.
        channels_that_are_not_there,
        confirmations_nobody_waits_for,
        messages_cut_short,
        messages_with_something_behind,
        lengths_beyond_the_end,
        // Nor does it answer a client that has closed the channel.
        after_close,
        numbers_for_private_use,
    }
    everywhere: {
        data_after_eof,
        a_second_eof,
        replies_nobody_waits_for,
        unknown_numbers,
    }
}

/// A session with a running `cat`; returns the server's number.
fn cat(client: &mut Raw) -> u32 {
    let channel = client.session(7);
    client.exec(channel, "cat; exit 3");
    assert_eq!(client.next(), Heard::Success(7));
    channel
}

fn data_after_eof(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = cat(&mut client);
    client.data(channel, b"before");
    client.eof(channel);
    client.data(channel, b"after");
    client.record_until_close(seen, "session", 7);
    client.close(channel);
    client.record_until_settled(seen, "after");
}

fn a_second_eof(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = cat(&mut client);
    client.eof(channel);
    client.eof(channel);
    client.record_until_close(seen, "session", 7);
    client.close(channel);
    client.record_until_settled(seen, "after");
}

/// While the server has not closed the channel too, it has the number; later it has not.
fn after_close(world: &World, seen: &mut Seen) {
    for what in ["data", "eof", "close", "request", "adjust"] {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        client.exec(
            channel,
            "trap '' PIPE; while echo x; do :; done; cat; exit 3",
        );
        assert_eq!(client.next(), Heard::Success(7));
        client.close(channel);
        match what {
            "data" => client.data(channel, b"late"),
            "eof" => client.eof(channel),
            "close" => client.close(channel),
            "adjust" => client.adjust(channel, 1000),
            _ => client.request(channel, "env", true, |request| {
                request.put_string("LC_X").put_string("x");
            }),
        }
        // How much of the output comes before the end is chance.
        loop {
            match client.next() {
                Heard::Data { .. } => {}
                heard => {
                    seen.note(&format!("{what} after CLOSE"), heard.to_text());
                    if matches!(heard, Heard::Close(_) | Heard::End(_)) {
                        break;
                    }
                }
            }
        }
        client.record_until_settled(seen, &format!("{what} after CLOSE, later"));
    }
}

fn channels_that_are_not_there(world: &World, seen: &mut Seen) {
    for number in 91..=100 {
        for recipient in [1, 4_000_000_000] {
            let mut client = Raw::connect(world);
            let _ = cat(&mut client);
            client.send(number, |message| {
                message.put_uint32(recipient);
                match number {
                    msg::CHANNEL_OPEN_CONFIRMATION => {
                        message.put_uint32(9).put_uint32(1000).put_uint32(1000);
                    }
                    msg::CHANNEL_OPEN_FAILURE => {
                        message.put_uint32(1).put_string("no").put_string("");
                    }
                    msg::CHANNEL_WINDOW_ADJUST => drop(message.put_uint32(9)),
                    msg::CHANNEL_DATA => drop(message.put_string("data")),
                    msg::CHANNEL_EXTENDED_DATA => {
                        message.put_uint32(1).put_string("data");
                    }
                    msg::CHANNEL_REQUEST => {
                        message.put_string("exec").put_bool(true).put_string("true");
                    }
                    _ => {}
                }
            });
            client.record_until_settled(seen, &format!("message {number} for {recipient}"));
        }
    }
}

/// For a channel that is there, but which the client has opened itself.
fn confirmations_nobody_waits_for(world: &World, seen: &mut Seen) {
    for number in [msg::CHANNEL_OPEN_CONFIRMATION, msg::CHANNEL_OPEN_FAILURE] {
        let mut client = Raw::connect(world);
        let channel = cat(&mut client);
        client.send(number, |message| {
            message.put_uint32(channel).put_uint32(1);
            if number == msg::CHANNEL_OPEN_CONFIRMATION {
                message.put_uint32(1000).put_uint32(1000);
            } else {
                message.put_string("no").put_string("");
            }
        });
        client.record_until_settled(seen, &format!("message {number}"));
    }
}

fn replies_nobody_waits_for(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = cat(&mut client);
    for number in [msg::CHANNEL_SUCCESS, msg::CHANNEL_FAILURE] {
        client.send(number, |message| {
            message.put_uint32(channel);
        });
        client.record_until_settled(seen, &format!("message {number}"));
    }
    for number in [msg::REQUEST_SUCCESS, msg::REQUEST_FAILURE] {
        client.send(number, |_| {});
        client.record_until_settled(seen, &format!("message {number}"));
    }
    client.eof(channel);
    client.record_until_close(seen, "end", 7);
}

/// One well-formed message of each number, for the channel 0.
fn well_formed() -> Vec<Vec<u8>> {
    let message = |number: u8, fields: &dyn Fn(&mut Vec<u8>)| {
        let mut message = vec![number];
        fields(&mut message);
        message
    };
    vec![
        message(msg::GLOBAL_REQUEST, &|m| {
            m.put_string("keepalive@openssh.com").put_bool(false);
        }),
        message(msg::CHANNEL_OPEN, &|m| {
            m.put_string("session")
                .put_uint32(8)
                .put_uint32(1000)
                .put_uint32(1000);
        }),
        message(msg::CHANNEL_WINDOW_ADJUST, &|m| {
            m.put_uint32(0).put_uint32(1000);
        }),
        message(msg::CHANNEL_DATA, &|m| {
            m.put_uint32(0).put_string("data");
        }),
        message(msg::CHANNEL_EXTENDED_DATA, &|m| {
            m.put_uint32(0).put_uint32(1).put_string("data");
        }),
        message(msg::CHANNEL_EOF, &|m| {
            m.put_uint32(0);
        }),
        message(msg::CHANNEL_CLOSE, &|m| {
            m.put_uint32(0);
        }),
        message(msg::CHANNEL_REQUEST, &|m| {
            m.put_uint32(0)
                .put_string("signal")
                .put_bool(true)
                .put_string("WINCH");
        }),
        message(msg::CHANNEL_SUCCESS, &|m| {
            m.put_uint32(0);
        }),
    ]
}

/// Sends `message` beside a running command, and records what comes of it.
fn judge(world: &World, seen: &mut Seen, label: &str, message: &[u8]) {
    let mut client = Raw::connect(world);
    assert_eq!(cat(&mut client), 0, "the first channel of sshd");
    client.send(message[0], |fields| fields.extend_from_slice(&message[1..]));
    // The channel's own end, for nothing else is sure to come after what went before on it.
    client.eof(0);
    client.record_until_close(seen, label, 7);
    client.close(0);
    client.record_until_settled(seen, &format!("{label}, later"));
}

fn messages_cut_short(world: &World, seen: &mut Seen) {
    for message in well_formed() {
        for length in [1, 3, message.len() - 1] {
            let label = format!("{} bytes of {}", length, message.escape_ascii());
            judge(world, seen, &label, &message[..length]);
        }
    }
}

fn messages_with_something_behind(world: &World, seen: &mut Seen) {
    for mut message in well_formed() {
        message.extend_from_slice(b"more");
        judge(world, seen, &message.escape_ascii().to_string(), &message);
    }
}

fn lengths_beyond_the_end(world: &World, seen: &mut Seen) {
    for (number, skipped) in [
        (msg::GLOBAL_REQUEST, 0),
        (msg::CHANNEL_OPEN, 0),
        (msg::CHANNEL_DATA, 4),
        (msg::CHANNEL_EXTENDED_DATA, 8),
        (msg::CHANNEL_REQUEST, 4),
    ] {
        let mut message = vec![number];
        message.resize(1 + skipped, 0);
        message.put_uint32(u32::MAX).put_raw(b"short");
        judge(world, seen, &message.escape_ascii().to_string(), &message);
    }
}

/// `SSH_MSG_UNIMPLEMENTED` (RFC 4253 §11.4) for what sshd does not know, and the session goes on.
fn unknown_numbers(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = cat(&mut client);
    client.record_until_settled(seen, "before");
    let mut last = client.unimplemented();
    // SSH_MSG_USERAUTH_REQUEST (50) is ignored without an answer, as RFC 4252 §5.1 has it: our endpoint accepts the
    // first request of most clients, and one that asks ahead must not stumble over the next.
    for number in (101..192).chain(83..90).chain(51..80).chain([5, 6]) {
        client.send(number, |message| {
            message.put_string("ping");
        });
        client.record_until_settled(seen, &number.to_string());
        let refused = client.unimplemented();
        // Sequence numbers depend on the login; the distance is that of this message and the question after it.
        let distance = refused.map(|now| now.wrapping_sub(last.unwrap_or(now)));
        seen.note(&format!("{number} refused"), format!("{distance:?}"));
        last = refused;
    }
    client.eof(channel);
    client.record_until_close(seen, "end", 7);
}

/// Those from 192 on are between two ends that know what they mean: sshd ends the connection.
fn numbers_for_private_use(world: &World, seen: &mut Seen) {
    for number in [192, 193, 223, 255] {
        judge(world, seen, &number.to_string(), &[number, 0, 0, 0, 0]);
    }
}
