//! The size of a terminal, in characters and pixels.

use ssmshim::ssh::wire::WriteExt as _;

use super::{SIZE, Size, ask, at_terminal, has_terminals};
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        sizes_at_the_start,
        a_storm_of_changes,
        changes_before_the_command,
        size_of_the_local_terminal,
    }
}

/// Prints rows, columns, and both in pixels: `ioctl(TIOCGWINSZ)`.
const SHOW: &str = "perl -e 'ioctl(STDIN, 0x5413, $s = \"\\0\" x 8) or die; print join(\" \", unpack(\"S4\", $s)), \"\\n\"'";

fn can_run(world: &World, seen: &mut Seen) -> bool {
    let can = has_terminals(world) && crate::common::have("perl");
    seen.note("can run", can);
    can
}

fn sizes_at_the_start(world: &World, seen: &mut Seen) {
    if !can_run(world, seen) {
        return;
    }
    let mut client = Raw::connect(world);
    for size in [
        SIZE,
        [132, 43, 1056, 860],
        [0, 0, 0, 0],
        [0, 0, 640, 480],
        [1, 1, 1, 1],
        [80, 0, 0, 0],
        [65_535, 65_535, 65_535, 65_535],
        [65_536, 65_537, 70_000, 1 << 20],
        [u32::MAX; 4],
    ] {
        let label = format!("{size:?}");
        at_terminal(&mut client, seen, &label, (b"vt100", size, b""), SHOW);
    }
}

fn change(client: &mut Raw, channel: u32, want_reply: bool, size: Size) {
    client.request(channel, "window-change", want_reply, |request| {
        for number in size {
            request.put_uint32(number);
        }
    });
}

/// Whatever is skipped on the way, the last one counts.
fn a_storm_of_changes(world: &World, seen: &mut Seen) {
    if !can_run(world, seen) {
        return;
    }
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    ask(&mut client, channel, b"vt100", SIZE, &[53, 0, 0, 0, 0, 0]);
    client.exec(channel, format!("echo ready; read line; {SHOW}"));
    client.record(seen, "start", |heard| matches!(heard, Heard::Data { .. }));
    for number in 1..=500 {
        change(
            &mut client,
            channel,
            number % 50 == 0,
            [number, number + 1, number + 2, number + 3],
        );
    }
    client.data(channel, b"\n");
    client.record_until_close(seen, "storm", 7);
}

fn changes_before_the_command(world: &World, seen: &mut Seen) {
    if !can_run(world, seen) {
        return;
    }
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    change(&mut client, channel, true, [10, 11, 12, 13]);
    client.record_until_settled(seen, "without a terminal");
    ask(&mut client, channel, b"vt100", SIZE, b"");
    change(&mut client, channel, true, [20, 21, 22, 23]);
    change(&mut client, channel, false, [30, 31, 32, 33]);
    client.exec(channel, SHOW);
    client.record_until_close(seen, "with one", 7);
}

fn size_of_the_local_terminal(world: &World, seen: &mut Seen) {
    if !can_run(world, seen) {
        return;
    }
    for size in [(1, 1), (37, 111), (500, 1000)] {
        let command = format!("{SHOW}; read line; stty size; exit 5");
        let mut terminal = world.terminal(&["-t"], Some(&command), size);
        seen.note("start", terminal.expect("\n"));
        terminal.resize(size.0 + 1, size.1 + 2);
        // ssh sends the change as soon as it is told of it, before the key that follows or after.
        let mut other = world.terminal(&["-t"], Some("stty size"), (size.0 + 1, size.1 + 2));
        seen.note("other", other.expect("\n"));
        other.finish();
        terminal.keys("\r");
        terminal.expect("\n");
        seen.note("end", terminal.expect("\n"));
        seen.note("status", terminal.finish());
    }
}
