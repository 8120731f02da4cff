//! Keys: those that the far terminal acts on, those that ssh keeps, and every byte in raw mode.

use super::{SIZE, ask, has_terminals};
use crate::common::pty::Terminal;
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        every_byte_in_raw_mode,
        bulk_in_raw_mode,
        control_keys,
        special_characters_of_ours,
        suspended_and_continued,
        escapes_of_the_client,
        escapes_that_are_switched_off,
        flow_control_keys,
    }
}

/// No echo, for the program says what is to be heard.
const QUIET: &[u8] = &[53, 0, 0, 0, 0, 0];

/// Starts `command` at a terminal and hears it say `ready`.
fn start(client: &mut Raw, seen: &mut Seen, modes: &[u8], command: &str) -> u32 {
    let channel = client.session(7);
    ask(client, channel, b"vt100", SIZE, modes);
    client.exec(channel, command);
    hear_until(client, seen, "start", b"ready\r\n");
    channel
}

/// Records what is said until `end` has been.
fn hear_until(client: &mut Raw, seen: &mut Seen, label: &str, end: &[u8]) {
    let mut all = Vec::new();
    while !all.ends_with(end) {
        match client.next() {
            Heard::Data { bytes, .. } => all.extend(bytes),
            Heard::Success(_) => {}
            other => panic!("{} and {other:?}", all.escape_ascii()),
        }
    }
    seen.bytes(label, &all);
}

fn every_byte_in_raw_mode(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    let command = "stty raw -echo; printf 'ready\\r\\n'; head -c 1024; exit 3";
    let channel = start(&mut client, seen, QUIET, command);
    let bytes: Vec<u8> = (0..=255).cycle().take(1024).collect();
    for piece in bytes.chunks(100) {
        client.data(channel, piece);
    }
    client.record_until_close(seen, "echo", 7);
}

fn bulk_in_raw_mode(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    let command = "stty raw -echo; printf 'ready\\r\\n'; head -c 300000 | sha256sum; exit 3";
    let channel = start(&mut client, seen, QUIET, command);
    let bytes: Vec<u8> = (0..=250).cycle().take(300_000).collect();
    for piece in bytes.chunks(30_000) {
        client.data(channel, piece);
    }
    client.record_until_close(seen, "digest", 7);
}

/// ^C, ^\, ^Z and ^D at a program that says what they are to it.
fn control_keys(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    if !crate::common::have("perl") {
        return;
    }
    let command = "perl -e '$| = 1; for $name (INT, QUIT, TSTP) { $SIG{$name} = sub { print \"$_[0]\\n\" } } \
        print \"ready\\n\"; while (<STDIN>) { print \"line $_\" } print \"end\\n\"; exit 3'";
    // The far terminal's own: ECHOCTL shows them.
    for modes in [QUIET, b""] {
        let channel = start(&mut client, seen, modes, command);
        for (key, told) in [(b"\x03", "INT"), (b"\x1c", "QUIT"), (b"\x1a", "TSTP")] {
            client.data(channel, key);
            hear_until(&mut client, seen, told, format!("{told}\r\n").as_bytes());
        }
        client.data(channel, b"typo\x7f\x7f\x7f\x7fworse\x15right\r\x04\x04");
        client.record_until_close(seen, "rest", 7);
        client.close(channel);
    }
}

/// The keys are those that the client's modes say: here ^C is a character, and ^X interrupts.
fn special_characters_of_ours(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    let modes = [1, 0, 0, 0, 0x18, 53, 0, 0, 0, 0, 0];
    let command = "echo ready; cat -v; echo never";
    let channel = start(&mut client, seen, &modes, command);
    client.data(channel, b"a\x03b\r");
    hear_until(&mut client, seen, "character", b"b\r\n");
    client.data(channel, b"\x18");
    client.record_until_close(seen, "interrupt", 7);
}

fn suspended_and_continued(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut terminal = world.terminal(
        &["-t"],
        Some("PS1='READY> ' exec bash --norc --noprofile -i 2>&1"),
        (24, 80),
    );
    terminal
        .keys("stty -echo; bind 'set enable-bracketed-paste off' 2> /dev/null; echo rea\"\"dy\r");
    terminal.expect("ready\r\n");
    terminal.keys("sh -c 'echo started; cat'\r");
    terminal.expect("started\r\n");
    terminal.keys("\x1a");
    terminal.expect("Stopped");
    terminal.expect("READY> ");
    terminal.keys("jobs | cut -c 1-20; echo en\"\"d\r");
    let jobs = terminal.expect("end\r\n");
    seen.note("stopped", jobs.contains("[1]+  Stopped"));
    terminal.keys("fg\r");
    terminal.expect("cat'");
    terminal.keys("typed\r\x04");
    terminal.expect("typed\r\n");
    terminal.keys("exit 6\r");
    seen.note("status", terminal.finish());
}

/// A terminal of ours on which ssh runs `command`.
fn local(world: &World, options: &[&str], command: &str) -> Terminal {
    let mut terminal = world.terminal(
        &[&["-t"], options].concat(),
        Some(&format!("stty -echo; echo ready; {command}")),
        (24, 80),
    );
    terminal.expect("ready\r\n");
    terminal
}

fn escapes_of_the_client(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut terminal = local(world, &[], "cat");
    terminal.keys("\r~?");
    seen.note(
        "~?",
        terminal.expect("(Note that escapes are only recognized immediately after newline.)"),
    );
    terminal.keys("\r~~typed\r");
    seen.note("~~", terminal.expect("typed\r\n"));
    terminal.keys("\r~#");
    terminal.expect("The following connections are open:\r\n");
    let connections = terminal.expect("\r\n");
    seen.note(
        "~# is about a session",
        connections.contains("client-session"),
    );
    terminal.keys("\r~V");
    terminal.keys("\r~v");
    terminal.keys("\r~.");
    seen.note("~. status", terminal.finish());

    // ~B asks for a break, which a program at a pseudo terminal does not notice.
    let mut terminal = local(world, &[], "cat");
    terminal.keys("\r~B\rafter\r");
    seen.note("~B", terminal.expect("after\r\n"));
    // ~R asks for new keys.
    terminal.keys("\r~R\rnew keys\r");
    seen.note("~R", terminal.expect("new keys\r\n"));
    terminal.keys("\x04");
    seen.note("status", terminal.finish());

    let options = ["-o", "EnableEscapeCommandline=yes"];
    let mut terminal = local(world, &options, "cat");
    terminal.keys("\r~C");
    terminal.expect("ssh> ");
    // ssh throws away what is typed while it gives the terminal back, so nothing more can be typed safely.
    seen.note("~C", "asks for a command");
}

fn escapes_that_are_switched_off(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut terminal = local(world, &["-e", "none"], "cat");
    terminal.keys("\r~?\r~.\r");
    seen.note("none", terminal.expect("~.\r\n"));
    terminal.keys("\x04");
    seen.note("status", terminal.finish());
    let mut terminal = local(world, &["-e", "^X"], "cat");
    terminal.keys("\r~.\r");
    seen.note("~ is a key", terminal.expect("~.\r\n"));
    terminal.keys("\r\x18.");
    seen.note("^X.", terminal.finish());
}

/// ^S stops the output and ^Q lets it go on, at the far terminal.
fn flow_control_keys(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    let channel = start(&mut client, seen, QUIET, "echo ready; cat; exit 3");
    client.data(channel, b"\x13held\r");
    client.record_until_settled(seen, "stopped");
    client.data(channel, b"\x11");
    hear_until(&mut client, seen, "goes on", b"held\r\n");
    client.data(channel, b"\x04");
    client.record_until_close(seen, "end", 7);
}
