//! Windows and packet sizes of the extremes.

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::world::World;
use crate::raw::{Heard, PACKET, Raw, WINDOW};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server says in other words why it ends the connection.
        an_adjustment_too_much,
    }
    everywhere: {
        a_window_of_single_bytes,
        a_window_that_opens_late,
        the_widest_window,
        small_packets,
        small_packets_of_a_slow_reader,
        packets_of_nothing,
        empty_data,
        adjustments_of_nothing,
        an_adjustment_to_the_brim,
    }
}

/// Opens a session with these limits and starts `command`; returns the server's number.
fn start(client: &mut Raw, window: u32, packet: u32, command: &str) -> u32 {
    client.open_session(7, window, packet);
    let Heard::Confirmed { sender, .. } = client.next() else {
        panic!("no session");
    };
    client.exec(sender, command);
    sender
}

/// Hears the data of our channel until `count` bytes have come; returns it and the length of the longest piece.
fn hear(client: &mut Raw, seen: &mut Seen, count: usize) -> (Vec<u8>, usize) {
    let (mut all, mut longest) = (Vec::new(), 0);
    while all.len() < count {
        match client.next() {
            Heard::Data { bytes, .. } => {
                longest = longest.max(bytes.len());
                all.extend(bytes);
            }
            heard @ (Heard::End(_) | Heard::Close(_)) => {
                seen.note("the end", heard.to_text());
                break;
            }
            heard => seen.note("heard", heard.to_text()),
        }
    }
    (all, longest)
}

fn a_window_of_single_bytes(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = start(
        &mut client,
        1,
        PACKET,
        "printf 0123456789; read line; exit 3",
    );
    for round in 0..10 {
        let (byte, longest) = hear(&mut client, seen, 1);
        seen.note(&format!("byte {round}"), byte.escape_ascii());
        assert_eq!(longest, 1, "more than the window");
        client.record_until_settled(seen, "nothing more");
        client.adjust(channel, 1);
    }
    client.data(channel, b"\n");
    client.record_until_close(seen, "end", 7);
}

fn a_window_that_opens_late(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = start(&mut client, 0, PACKET, "echo out; echo err >&2; exit 3");
    // The status need not wait for the window.
    loop {
        let heard = client.next();
        if matches!(&heard, Heard::Request { name, .. } if name == "exit-status") {
            seen.note("status", heard.to_text());
            break;
        }
        seen.note("heard", heard.to_text());
    }
    client.record_until_settled(seen, "no data");
    client.adjust(channel, 2);
    hear(&mut client, seen, 2);
    client.adjust(channel, 1 << 20);
    client.record_channels(seen, "end", 1);
}

fn the_widest_window(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = start(&mut client, u32::MAX, PACKET, "seq 1000000; exit 3");
    client.record_until_close(seen, "exec", 7);
    client.close(channel);
    client.record_until_settled(seen, "after");
}

/// No message carries more than the receiver's maximum packet size (RFC 4254 §5.2).
fn small_packets(world: &World, seen: &mut Seen) {
    for packet in [1, 100, 1000, 4095] {
        let mut client = Raw::connect(world);
        let channel = start(&mut client, WINDOW, packet, "seq 3000; read line; exit 3");
        let (all, longest) = hear(&mut client, seen, 13_893);
        seen.bytes(&format!("packets of {packet}"), &all);
        seen.note("longest", longest);
        client.data(channel, b"\n");
        client.record_until_close(seen, "end", 7);
        client.close(channel);
    }
}

/// Nor when a reader that does not read makes them pile up.
fn small_packets_of_a_slow_reader(world: &World, seen: &mut Seen) {
    let done = world.path("done");
    let mut client = Raw::connect(world);
    let command = format!("head -c 1500000 /dev/zero; echo done > {}", done.display());
    let channel = start(&mut client, WINDOW, 100, &command);
    // Reads nothing until the command has written it all.
    world
        .ssh(
            &[],
            &format!("until [ -e {} ]; do sleep 0.1; done", done.display()),
        )
        .ok();
    let mut counts = (0, 0);
    loop {
        match client.next() {
            Heard::Data { bytes, .. } => {
                counts.0 += bytes.len();
                counts.1 = counts.1.max(bytes.len());
            }
            Heard::Close(7) => break,
            _ => {}
        }
    }
    seen.note("bytes, longest", format!("{counts:?}"));
    client.close(channel);
}

/// A maximum packet size of zero lets nothing through.
fn packets_of_nothing(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = start(&mut client, WINDOW, 0, "echo held; cat > /dev/null; exit 3");
    client.record_until_settled(seen, "start");
    client.eof(channel);
    client.record(
        seen,
        "status",
        |heard| matches!(heard, Heard::Request { name, .. } if name == "exit-status"),
    );
    client.record_until_settled(seen, "held");
}

fn empty_data(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(channel, "cat; exit 3");
    for _ in 0..100 {
        client.data(channel, b"");
    }
    client.data(channel, b"something");
    client.data(channel, b"");
    client.eof(channel);
    client.record_until_close(seen, "exec", 7);
}

fn adjustments_of_nothing(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = start(&mut client, 0, PACKET, "echo out; exit 3");
    for _ in 0..100 {
        client.adjust(channel, 0);
    }
    // One byte beyond the data: sshd does not look for its end while the window is shut.
    client.adjust(channel, 5);
    client.record_until_close(seen, "exec", 7);
    // A closed channel takes them without a word.
    client.adjust(channel, 5);
    client.close(channel);
    client.adjust(channel, 6);
    client.adjust(9999, 7);
    client.record_until_settled(seen, "after");
}

fn an_adjustment_to_the_brim(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = start(&mut client, 1, PACKET, "cat; exit 3");
    client.adjust(channel, u32::MAX - 1);
    client.data(channel, b"fits");
    client.eof(channel);
    client.record_until_close(seen, "exec", 7);
}

/// A window above 2^32 - 1 (RFC 4254 §5.2).
fn an_adjustment_too_much(world: &World, seen: &mut Seen) {
    for window in [1, 1 << 20, u32::MAX] {
        let mut client = Raw::connect(world);
        let channel = start(&mut client, window, PACKET, "cat; exit 3");
        client.record_until_settled(seen, "start");
        client.send(msg::CHANNEL_WINDOW_ADJUST, |message| {
            message.put_uint32(channel).put_uint32(u32::MAX);
        });
        client.record_until_settled(seen, &format!("window {window}"));
    }
}
