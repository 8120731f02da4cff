//! Many channels, and numbers that are used again.

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::world::World;
use crate::raw::{Heard, PACKET, Raw, WINDOW};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server hands out each number once.
        numbers_are_used_again,
        // It grants its window at once.
        one_number_twice_in_one_write,
    }
    everywhere: {
        fifty_at_once,
        closed_while_the_command_runs,
        closed_before_a_command,
        closed_at_once,
        unusual_numbers,
        one_number_for_two_channels,
    }
}

fn fifty_at_once(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channels: Vec<_> = (0..50).map(|number| client.session(number)).collect();
    for (index, channel) in channels.iter().enumerate() {
        let command = format!("read line; echo \"$line\"; echo {index} >&2; exit {index}");
        client.exec(*channel, command);
    }
    for (index, channel) in channels.iter().enumerate().rev() {
        client.data(*channel, format!("input {index}\n").as_bytes());
    }
    client.record_channels(seen, "fifty", 50);
    for channel in channels {
        client.close(channel);
    }
    client.record_until_settled(seen, "after");
}

/// The command is not told but by its streams: it may still do something.
fn closed_while_the_command_runs(world: &World, seen: &mut Seen) {
    let left = world.text("left");
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(
        channel,
        format!("trap '' PIPE HUP; echo ready; cat > /dev/null; echo end > {left}; exit 5"),
    );
    client.record(seen, "start", |heard| matches!(heard, Heard::Data { .. }));
    client.close(channel);
    client.record_until_close(seen, "closed", 7);
    seen.file("left", &world.path("left"));
    client.record_until_settled(seen, "after");
}

fn closed_before_a_command(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.close(channel);
    client.record_until_close(seen, "closed", 7);
    client.record_until_settled(seen, "after");
}

/// Open, ask and close in one go, many times.
fn closed_at_once(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for number in 0..20 {
        let channel = client.session(number);
        client.exec(channel, "exec cat");
        client.close(channel);
        // Whether the command's end or the channel's is told first is chance.
        client.record_channels(seen, &format!("{number}"), 1);
    }
    client.record_until_settled(seen, "after");
}

fn numbers_are_used_again(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let kept = client.session(1);
    client.exec(kept, "cat");
    for turn in 0..5 {
        client.open_session(7, WINDOW, PACKET);
        let opened = client.record(seen, "open", |heard| {
            matches!(heard, Heard::Confirmed { .. })
        });
        let Heard::Confirmed { sender, .. } = opened else {
            panic!("no session: {opened:?}");
        };
        client.exec(sender, format!("exit {turn}"));
        client.record_until_close(seen, &format!("turn {turn}"), 7);
        client.close(sender);
    }
    client.eof(kept);
    client.record_until_close(seen, "kept", 1);
}

fn unusual_numbers(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for number in [0, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let channel = client.session(number);
        client.exec(channel, "echo said; exit 3");
        client.record_until_close(seen, &number.to_string(), number);
        client.close(channel);
    }
}

/// A client that gives two channels one number hears both under it: that is its own affair.
fn one_number_for_two_channels(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let first = client.session(7);
    let second = client.session(7);
    client.exec(first, "cat; exit 1");
    client.record(seen, "first", |heard| *heard == Heard::Success(7));
    client.exec(second, "cat; exit 2");
    client.record(seen, "second", |heard| *heard == Heard::Success(7));
    client.data(first, b"first");
    client.record(seen, "first", |heard| matches!(heard, Heard::Data { .. }));
    client.data(second, b"second");
    client.record(seen, "second", |heard| matches!(heard, Heard::Data { .. }));
    client.eof(first);
    client.record_until_close(seen, "first ends", 7);
    client.close(first);
    client.data(second, b"more");
    client.record(seen, "second", |heard| matches!(heard, Heard::Data { .. }));
    client.eof(second);
    client.record_until_close(seen, "second ends", 7);
    client.close(second);
    client.record_until_settled(seen, "after");
}

fn one_number_twice_in_one_write(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for _ in 0..2 {
        client.queue(msg::CHANNEL_OPEN, |message| {
            message
                .put_string("session")
                .put_uint32(7)
                .put_uint32(WINDOW)
                .put_uint32(PACKET);
        });
    }
    client.flush();
    client.record_until_settled(seen, "opened");
    client.exec(1, "cat; exit 2");
    client.data(1, b"said");
    client.eof(1);
    client.record_until_close(seen, "second", 7);
}
