//! Remote commands: status, streams, bytes.

mod channels;
mod misuse;
mod order;
mod streams;
mod windows;

use ssmshim::ssh::wire::WriteExt as _;

use crate::common::world::World;
use crate::raw::Raw;
use crate::seen::Seen;

crate::differential! {
    compared: {
        // What the shell says of a command that the kernel does not start differs with our way of starting it.
        commands_too_long_for_the_kernel,
        // sshd ends the connection without a word, the embedded server refuses the request.
        nul_in_a_command,
        nul_in_a_variable,
    }
    everywhere: {
        statuses,
        raw_exec,
        deaths_by_signal,
        deaths_as_ssh_tells_them,
        dumped_core,
        bytes_of_commands,
        long_commands,
        a_command_too_long_for_a_packet,
        no_command,
    }
}

fn statuses(world: &World, seen: &mut Seen) {
    for status in [0, 1, 2, 126, 127, 128, 200, 255] {
        let command = format!("echo out; echo err >&2; exit {status}");
        let output = seen.run(&format!("exit {status}"), world.ssh(&[], &command));
        assert_eq!(output.code, status);
    }
}

/// What a command says, message by message.
fn raw_exec(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(channel, "echo hello; exit 3");
    client.record_until_close(seen, "exec", 7);
    client.close(channel);
    client.record_until_settled(seen, "after");
}

/// `exit-signal` (RFC 4254 §6.10) for every signal that can end a process, named there or not.
fn deaths_by_signal(world: &World, seen: &mut Seen) {
    // Neither those that stop or are ignored, nor those that the C library keeps for itself.
    const HARMLESS: [u32; 9] = [17, 18, 19, 20, 21, 22, 23, 28, 32];
    let mut client = Raw::connect(world);
    for signal in (1..=35).filter(|signal| !HARMLESS.contains(signal) && *signal != 33) {
        let channel = client.session(signal);
        client.exec(
            channel,
            format!("ulimit -c 0; kill -{signal} $$; echo alive"),
        );
        client.record_until_close(seen, &format!("signal {signal}"), signal);
        client.close(channel);
    }
    client.record_until_settled(seen, "after");
}

fn deaths_as_ssh_tells_them(world: &World, seen: &mut Seen) {
    for signal in ["HUP", "INT", "KILL", "TERM", "USR1", "SYS"] {
        let options = ["-o", "LogLevel=INFO"];
        let command = format!("ulimit -c 0; echo before; kill -{signal} $$; echo after");
        let output = seen.run(signal, world.ssh(&options, &command));
        assert_eq!(output.text(), "before");
    }
}

/// The core flag of `exit-signal`: set where this system writes core files into the directory.
fn dumped_core(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for signal in ["QUIT", "ABRT", "SEGV"] {
        let channel = client.session(7);
        let directory = world.text("");
        client.exec(
            channel,
            format!("cd {directory} && ulimit -c unlimited && kill -{signal} $$"),
        );
        client.record_until_close(seen, signal, 7);
        client.close(channel);
    }
}

/// Commands are opaque bytes: text in any encoding, control characters, invalid UTF-8, line ends.
fn bytes_of_commands(world: &World, seen: &mut Seen) {
    let mut every_byte = b"printf %s '".to_vec();
    every_byte.extend((1..=255).filter(|byte| *byte != b'\''));
    every_byte.extend_from_slice(b"' | od -An -tx1");
    let commands: [&[u8]; 8] = [
        "echo Grüße, 世界 🦀".as_bytes(),
        b"printf '\xff\xfe\xc3\x28'",
        b"echo one\necho two\r\n",
        b"echo 'a\tb\x1b[0m'",
        b" \t ",
        b"# nothing but a comment",
        b"syntax error (",
        &every_byte,
    ];
    let mut client = Raw::connect(world);
    for (number, command) in (0..).zip(commands) {
        let channel = client.session(number);
        client.exec(channel, command);
        client.record_until_close(seen, &command.escape_ascii().to_string(), number);
        client.close(channel);
    }
    let variable = "LC_BYTES=\u{e4}\u{1f980} \\ \" '";
    let output = seen.run(
        "variable",
        world
            .ssh(&["-o", "SendEnv=LC_BYTES"], "printf %s \"$LC_BYTES\"")
            .env("LC_BYTES", &variable[9..]),
    );
    assert_eq!(output.text(), variable[9..]);
}

/// Up to what one argument of a program may have on Linux, 128 KiB.
fn long_commands(world: &World, seen: &mut Seen) {
    for length in [32_768, 100 << 10, 120_000] {
        let command = format!("echo {} | wc -c", "x".repeat(length));
        let output = seen.run(&length.to_string(), world.ssh(&[], &command));
        assert_eq!(output.text(), (length + 1).to_string());
    }
}

fn commands_too_long_for_the_kernel(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for length in [131_072, 200_000, 250_000] {
        let channel = client.session(7);
        let mut command = b"exit 0 #".to_vec();
        command.resize(length, b'x');
        client.exec(channel, command);
        client.record_until_close(seen, &length.to_string(), 7);
        client.close(channel);
    }
    client.record_until_settled(seen, "after");
}

/// No packet is longer than 256 KiB in OpenSSH, and what is ends the connection.
fn a_command_too_long_for_a_packet(world: &World, seen: &mut Seen) {
    let words = "x".repeat(100_000);
    let run = world.ssh(&[], "echo").args(vec![words; 10]);
    let output = run.output();
    // Whether the client still hears why, or finds the connection broken while it sends, is chance.
    assert_ne!(output.code, 0, "{output:?}");
    seen.note("status", output.code);
    seen.bytes("stdout", &output.stdout);
    assert_eq!(world.ssh(&[], "echo next").ok().text(), "next");
}

fn nul_in_a_command(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(channel, b"echo a\0b");
    client.record_until_settled(seen, "command");
}

fn nul_in_a_variable(world: &World, seen: &mut Seen) {
    for (name, value) in [("LC_A\0B", "x"), ("LC_A", "x\0y"), ("SECRET\0", "x")] {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        client.request(channel, "env", true, |request| {
            request.put_string(name).put_string(value);
        });
        client.record_until_settled(seen, &format!("{name:?}={value:?}"));
    }
}

/// An empty command is a shell to the client of OpenSSH, and a command to its server.
fn no_command(world: &World, seen: &mut Seen) {
    let script = "echo from the shell; echo $0 >&2; exit 5\n";
    let output = seen.run("shell", world.ssh(&["-T"], "").stdin(script));
    assert_eq!(output.code, 5);
    seen.run("true", world.ssh(&[], "true"));

    let mut client = Raw::connect(world);
    for (number, name) in (0..).zip(["exec", "shell"]) {
        let channel = client.session(number);
        client.request(channel, name, true, |request| {
            if name == "exec" {
                request.put_string("");
            }
        });
        client.data(channel, b"echo alive; exit 6\n");
        client.record_until_close(seen, name, number);
        client.close(channel);
    }
}
