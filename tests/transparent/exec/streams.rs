//! The streams of a command: bytes, ends, and what comes of ending them early.

use std::io::Write as _;

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::files::fifo;
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        every_byte,
        bulk_on_both_streams,
        end_of_input,
        output_after_the_end_of_input,
        input_after_the_end_of_output,
        closed_input_is_told,
        unread_output_ends_the_command,
        end_of_write_with_a_reply,
        stderr_alone_stays_open,
        input_nobody_reads,
        extended_data_from_the_client,
        no_output_at_all,
    }
}

fn every_byte(world: &World, seen: &mut Seen) {
    let bytes: Vec<u8> = (0..=255).collect();
    let mut client = Raw::connect(world);
    for (number, command) in (0..).zip(["cat", "cat >&2", "tee /dev/stderr"]) {
        let channel = client.session(number);
        client.exec(channel, command);
        client.data(channel, &bytes);
        client.data(channel, b"");
        client.data(channel, b"\r\n~.\0");
        client.eof(channel);
        client.record_channels(seen, command, 1);
        client.close(channel);
    }
}

fn bulk_on_both_streams(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    // The window of 2 MiB is for both together.
    client.exec(channel, "seq 90000 & seq 500000 600000 >&2 & wait; exit 9");
    client.record_channels(seen, "raw", 1);
    let command = "seq 400000 & seq 500000 900000 >&2 & wait; exit 9";
    let output = seen.run("ssh", world.ssh(&[], command));
    assert!(output.stdout.len() > 2 << 20 && output.stderr.len() > 2 << 20);
}

fn end_of_input(world: &World, seen: &mut Seen) {
    seen.run("nothing", world.ssh(&[], "wc -c"));
    seen.run("-n", world.ssh(&["-n"], "wc -c").stdin("unread"));
    seen.run("no line end", world.ssh(&[], "wc -c").stdin("no line end"));
    let big = vec![7; (4 << 20) + 1];
    let output = seen.run("much", world.ssh(&[], "wc -c").stdin(big));
    assert_eq!(output.text(), ((4 << 20) + 1).to_string());
}

fn output_after_the_end_of_input(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(
        channel,
        "wc -c; echo late; echo error >&2; seq 100000; exit 2",
    );
    client.data(channel, &[b'x'; 70]);
    client.eof(channel);
    client.record_channels(seen, "exec", 1);
}

/// The far end's EOF is one direction only.
fn input_after_the_end_of_output(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    let taken = world.text("taken");
    client.exec(channel, format!("exec >&- 2>&-; cat > {taken}"));
    client.record(seen, "output", |heard| *heard == Heard::Eof(7));
    for _ in 0..30 {
        client.data(channel, &[b'x'; 32 << 10]);
    }
    client.eof(channel);
    client.record_until_close(seen, "input", 7);
    seen.file("taken", &world.path("taken"));
}

/// `eow@openssh.com` comes when sshd finds that nobody reads a command's input.
fn closed_input_is_told(world: &World, seen: &mut Seen) {
    let gate = fifo(world.path("gate"));
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    let command = format!("exec <&-; echo closed; read line < {}", gate.display());
    client.exec(channel, command);
    client.record(seen, "start", |heard| matches!(heard, Heard::Data { .. }));
    let mut gate = std::fs::OpenOptions::new()
        .write(true)
        .open(gate)
        .expect("the command reads the pipe");
    client.data(channel, b"for nobody");
    client.record(seen, "told", |heard| matches!(heard, Heard::Request { .. }));
    client.data(channel, b"and still");
    client.eof(channel);
    client.record_until_settled(seen, "more");
    gate.write_all(b"\n").expect("the command reads the pipe");
    client.record_until_close(seen, "end", 7);
}

/// `eow@openssh.com` of the client closes the command's output, and the rest of it is for nobody.
fn unread_output_ends_the_command(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(channel, "exec yes");
    let first = loop {
        match client.next() {
            Heard::Data { bytes, .. } => break bytes,
            other => seen.note("before", other.to_text()),
        }
    };
    seen.bytes("first", &first[..2]);
    client.request(channel, "eow@openssh.com", false, |_| {});
    // How much of it comes before the end is chance.
    loop {
        match client.next() {
            Heard::Data { .. } => client.adjust(channel, 1 << 20),
            heard => {
                seen.note("after", heard.to_text());
                if matches!(heard, Heard::Close(_) | Heard::End(_)) {
                    break;
                }
            }
        }
    }
}

/// Nobody asks for a reply to it, but one may.
fn end_of_write_with_a_reply(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.request(channel, "eow@openssh.com", true, |_| {});
    client.exec(channel, "cat; exit 3");
    client.record_until_settled(seen, "before");
    client.request(channel, "eow@openssh.com", true, |_| {});
    client.record_until_settled(seen, "while");
    client.eof(channel);
    client.record_until_close(seen, "end", 7);
}

fn stderr_alone_stays_open(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(channel, "exec >&-; cat >&2; exit 3");
    client.data(channel, b"to the other stream");
    client.eof(channel);
    client.record_channels(seen, "exec", 1);
}

/// More input than all buffers hold, for a command that ends without reading it.
fn input_nobody_reads(world: &World, seen: &mut Seen) {
    let output = seen.run(
        "20 MiB",
        world.ssh(&[], "echo done; exit 3").stdin(vec![0; 20 << 20]),
    );
    assert_eq!(output.code, 3);
    let piped = world.ssh(&[], "head -c 5; exit 4").stdin("12345678");
    seen.run("a little", piped);
}

/// Extended data is for the client to hear; sshd throws away what it is sent.
fn extended_data_from_the_client(world: &World, seen: &mut Seen) {
    for kind in [0, 1, 2, 77, u32::MAX] {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        client.exec(channel, "cat");
        client.send(msg::CHANNEL_EXTENDED_DATA, |message| {
            message
                .put_uint32(channel)
                .put_uint32(kind)
                .put_string("extended");
        });
        client.data(channel, b"plain");
        client.eof(channel);
        client.record_until_close(seen, &format!("type {kind}"), 7);
    }
}

fn no_output_at_all(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for (number, command) in (0..).zip(["true", "exec >&- 2>&- <&-; exit 2", ":", "exit"]) {
        let channel = client.session(number);
        client.exec(channel, command);
        client.record_until_close(seen, command, number);
        client.close(channel);
    }
}
