//! Encoded terminal modes (RFC 4254 §8), from a real terminal and as no client sends them.

use ssmshim::ssh::wire::WriteExt as _;

use super::{SIZE, ask, at_terminal, has_terminals};
use crate::common::pty::Terminal;
use crate::common::world::World;
use crate::raw::Raw;
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server takes modes as far as they go, where sshd ends the connection, and every speed.
        odd_encodings,
        unusual_speeds,
    }
    everywhere: {
        modes_of_the_local_terminal,
        every_opcode,
        every_opcode_switched_off,
        all_opcodes_at_once,
        odd_values,
        speeds,
    }
}

const SHOW: &str = "stty -a";

/// Every setting that `stty` can make at one end shows at the other.
fn modes_of_the_local_terminal(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    for settings in [
        "sane",
        "intr ^A quit ^B erase ^E kill ^F eof ^G eol ^H eol2 ^K start ^L stop ^N susp ^O rprnt ^P werase ^R lnext ^T",
        "intr undef quit undef susp undef",
        "-ixon ixany ixoff -imaxbel iutf8 -icrnl inlcr igncr parmrk ignpar istrip",
        "-isig -icanon -iexten -echoe -echok echonl noflsh tostop -echoctl -echoke",
        "-opost ocrnl onocr onlret -onlcr",
        "cs7 parenb parodd",
        "ospeed 9600 ispeed 9600",
        "raw",
    ] {
        let ssh = format!(
            "{} -t {} {SHOW:?}",
            world.ssh_command(),
            world.target.host()
        );
        let script = format!("stty {settings}; {ssh}; stty sane; echo end");
        let mut terminal = Terminal::start("sh", &["-c".to_owned(), script], 30, 100);
        let shown = terminal.expect("end");
        assert!(shown.contains("speed"), "{shown}");
        seen.note(settings, shown);
        terminal.finish();
    }
}

fn encode(pairs: impl IntoIterator<Item = (u8, u32)>) -> Vec<u8> {
    let mut modes = Vec::new();
    for (opcode, value) in pairs {
        modes.put_byte(opcode).put_uint32(value);
    }
    modes.put_byte(0);
    modes
}

fn show(client: &mut Raw, seen: &mut Seen, label: &str, modes: &[u8]) {
    at_terminal(client, seen, label, (b"vt100", SIZE, modes), SHOW);
}

fn every_opcode(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    // Those in use, their neighbours, and the last that have a value.
    for opcode in (1..=19)
        .chain(29..=43)
        .chain(49..=63)
        .chain(69..=76)
        .chain(89..=94)
    {
        show(
            &mut client,
            seen,
            &opcode.to_string(),
            &encode([(opcode, 1)]),
        );
    }
}

fn every_opcode_switched_off(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    for opcode in (1..=18)
        .chain(30..=42)
        .chain(50..=62)
        .chain(70..=75)
        .chain(90..=93)
    {
        // 255 is a special character that is off.
        let value = if opcode < 30 { 255 } else { 0 };
        show(
            &mut client,
            seen,
            &opcode.to_string(),
            &encode([(opcode, value)]),
        );
    }
}

fn all_opcodes_at_once(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    for value in [0, 1, 255] {
        // Without the speeds, which are a matter of their own.
        let modes = encode(
            (1..160)
                .filter(|code| !matches!(code, 128 | 129))
                .map(|code| (code, value)),
        );
        show(&mut client, seen, &format!("all {value}"), &modes);
    }
}

/// Cut short, without an end, with more behind it, with opcodes that have no value.
fn odd_encodings(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let echo_off: &[u8] = &[53, 0, 0, 0, 0];
    let long = encode((0..2000).map(|_| (53, 0)));
    let encodings: [&[u8]; 11] = [
        b"",
        b"\0",
        echo_off,
        &[53, 0, 0, 0, 0, 53],
        &[53, 0, 0, 0, 0, 72, 0, 0],
        &[53, 0, 0],
        &[0, 53, 0, 0, 0, 0],
        &[160, 53, 0, 0, 0, 0, 0],
        &[53, 0, 0, 0, 0, 255, 72, 0, 0, 0, 0, 0],
        &[127, 9, 9, 9, 9, 53, 0, 0, 0, 0, 0],
        &long,
    ];
    for modes in encodings {
        let label = modes[..modes.len().min(20)].escape_ascii().to_string();
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        ask(&mut client, channel, b"vt100", SIZE, modes);
        client.record_until_settled(seen, &label);
        client.exec(channel, SHOW);
        client.record_until_close(seen, &label, 7);
    }
}

fn odd_values(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    for value in [0, 2, 127, 128, 254, 256, 511, 0x1_0003, u32::MAX] {
        let modes = encode([
            (1, value),
            (5, value),
            (53, value),
            (38, value),
            (91, value),
        ]);
        show(&mut client, seen, &value.to_string(), &modes);
    }
}

fn speeds(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    for speed in [0, 50, 300, 9600, 38_400, 115_200] {
        let both = encode([(128, speed), (129, speed)]);
        show(&mut client, seen, &speed.to_string(), &both);
    }
}

fn unusual_speeds(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    for (input, output) in [
        (4_000_000, 4_000_000),
        (12_345, 12_345),
        (u32::MAX, u32::MAX),
        (1200, 9600),
    ] {
        let both = encode([(128, input), (129, output)]);
        show(&mut client, seen, &format!("{input} {output}"), &both);
    }
}
