//! Terminals: type, modes, size, keys, and their end.

mod keys;
mod modes;
mod sizes;

use ssmshim::ssh::wire::WriteExt as _;

use crate::common::files::fifo;
use crate::common::skip;
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server has no words of the kind that start-up files of a login shell say.
        a_login_shell,
        // It refuses the request, where sshd ends the connection.
        a_second_terminal_is_refused,
    }
    everywhere: {
        types,
        a_terminal_without_a_command,
        a_terminal_after_the_command_is_refused,
        statuses_of_shells,
        piped_input,
        streams_are_one,
        variables,
        hang_up,
        closed_channel_hangs_up,
    }
}

/// Columns, rows, and the same in pixels.
type Size = [u32; 4];

/// Whether sshd can hand out terminals here; says so when not.
fn has_terminals(world: &World) -> bool {
    if !world.has_terminals() {
        skip("an ordinary user's sshd cannot give a terminal to the group tty here");
    }
    world.has_terminals()
}

/// Asks for a terminal on channel `recipient`, with a reply.
fn ask(client: &mut Raw, recipient: u32, term: &[u8], size: Size, modes: &[u8]) {
    client.request(recipient, "pty-req", true, |request| {
        request.put_string(term);
        for number in size {
            request.put_uint32(number);
        }
        request.put_string(modes);
    });
}

/// Runs `command` at a terminal and records all of it.
fn at_terminal(
    client: &mut Raw,
    seen: &mut Seen,
    label: &str,
    (term, size, modes): (&[u8], Size, &[u8]),
    command: &str,
) {
    let channel = client.session(7);
    ask(client, channel, term, size, modes);
    client.exec(channel, command);
    client.record_until_close(seen, label, 7);
    client.close(channel);
}

const SIZE: Size = [80, 24, 0, 0];

/// `TERM` is what the client says, opaque as everything else.
fn types(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    let long = [b'x'; 1000];
    let terms: [&[u8]; 7] = [
        b"xterm-256color",
        b"vt100",
        b"",
        b"dumb",
        "t\u{e4}rm $(id) '\"".as_bytes(),
        b"\xff\xfe",
        &long,
    ];
    for term in terms {
        let label = term.escape_ascii().to_string();
        let command = "printf %s \"${TERM-unset}\" | od -An -c";
        at_terminal(&mut client, seen, &label, (term, SIZE, b""), command);
    }
}

fn a_terminal_without_a_command(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    ask(&mut client, channel, b"vt100", SIZE, b"");
    client.record_until_settled(seen, "asked");
    client.close(channel);
    client.record_until_close(seen, "closed", 7);
    client.record_until_settled(seen, "after");
}

fn a_second_terminal_is_refused(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    for term in ["first", "second", "third"] {
        ask(&mut client, channel, term.as_bytes(), SIZE, b"");
        client.record_until_settled(seen, term);
    }
    client.exec(channel, "echo $TERM; stty size");
    client.record_until_close(seen, "exec", 7);
}

fn a_terminal_after_the_command_is_refused(world: &World, seen: &mut Seen) {
    for name in ["shell", "exec"] {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        client.request(channel, name, true, |request| {
            if name == "exec" {
                request.put_string("exec cat");
            }
        });
        assert_eq!(client.next(), Heard::Success(7));
        ask(&mut client, channel, b"late", SIZE, b"");
        client.record_until_settled(seen, name);
        client.request(channel, "window-change", true, |request| {
            for number in SIZE {
                request.put_uint32(number);
            }
        });
        client.record_until_settled(seen, "window-change");
        if name == "shell" {
            client.data(channel, b"exec cat\n");
        }
        client.data(channel, b"alive\n");
        client.eof(channel);
        client.record_until_close(seen, "end", 7);
    }
}

fn statuses_of_shells(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    for command in [
        "exit 0",
        "exit 7",
        "exit 255",
        "ulimit -c 0; kill -TERM $$",
        "ulimit -c 0; kill -KILL $$",
        "kill -HUP $$",
        "exec /no/such/program 2> /dev/null",
        "sh -c 'exit 9'",
    ] {
        at_terminal(&mut client, seen, command, (b"vt100", SIZE, b""), command);
    }
}

/// What a person has: a login shell that is typed at.
fn a_login_shell(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut terminal = world.terminal(&["-t"], None, (24, 80));
    // What start-up files and the prompt say first is the account's.
    terminal.keys("exec bash --norc --noprofile\r");
    terminal.keys("PS1=; stty -echo; echo rea\"\"dy\r");
    terminal.expect("ready\r\n");
    for line in [
        "echo $TERM",
        "stty size",
        "echo ${SSH_TTY:+set}",
        "tty | cut -c 1-9",
        "echo $SHLVL",
    ] {
        terminal.keys(&format!("{line}; echo e''nd\r"));
        seen.note(line, terminal.expect("end\r\n"));
    }
    terminal.keys("exit 12\r");
    seen.note("status", terminal.finish());
}

/// `ssh -tt` gives a terminal to a command whose input is none.
fn piped_input(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let typed = |command: &str, keys: &[u8]| {
        let command = format!("stty -echo; tty > /dev/null && echo ready; {command}");
        let mut ssh = world.ssh(&["-tt"], &command).piped();
        let mut stdin = ssh.take_stdin();
        let said = crate::common::process::read_until(ssh.take_stdout(), "ready");
        assert!(said.is_some(), "{}", ssh.stderr());
        std::io::Write::write_all(&mut stdin, keys).expect("ssh reads");
        drop(stdin);
        ssh.wait(crate::common::DEADLINE)
    };
    seen.note("a line", typed("read line; exit ${#line}", b"typed\n"));
    // The end of the input is no end of a terminal's: the key is.
    let taken = world.text("taken");
    let status = typed(&format!("cat > {taken}; exit 4"), b"typed\n\x04");
    seen.note("^D", status);
    seen.file("taken", &world.path("taken"));
    // Without a terminal of its own a single -t asks for none.
    seen.run("-t", world.ssh(&["-t"], "tty; cat").stdin("typed\n"));
    seen.run("-T", world.ssh(&["-T"], "tty; cat").stdin("typed\n"));
}

fn streams_are_one(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    let command = "echo out; echo err >&2; echo out; printf 'a\\tb\\n'; seq 20000; exit 3";
    at_terminal(&mut client, seen, "streams", (b"vt100", SIZE, b""), command);
}

fn variables(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let mut client = Raw::connect(world);
    let command = "[ \"$SSH_TTY\" = \"$(tty)\" ] && echo same; echo ${SSH_TTY%%[0-9]*}; \
        test -t 0 && test -t 1 && test -t 2 && echo all; ps -o tty= -p $$ | cut -c 1-4";
    at_terminal(
        &mut client,
        seen,
        "terminal",
        (b"vt100", SIZE, b""),
        command,
    );
    let channel = client.session(8);
    client.exec(channel, "echo ${SSH_TTY-unset} ${TERM-unset}; tty");
    client.record_until_close(seen, "none", 8);
}

/// A client that is gone without a word leaves a hang-up.
fn hang_up(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let told = fifo(world.path("told"));
    let command = format!(
        "trap 'echo hung up > {}; exit' HUP; echo ready; while :; do sleep 0.1; done",
        told.display()
    );
    let mut ssh = world.ssh(&["-tt"], &command).piped();
    let stdout = ssh.take_stdout();
    assert!(crate::common::process::read_until(stdout, "ready").is_some());
    ssh.signal(rustix::process::Signal::KILL);
    seen.note("ssh", ssh.wait(crate::common::DEADLINE));
    seen.note("program", read(told));
}

fn closed_channel_hangs_up(world: &World, seen: &mut Seen) {
    if !has_terminals(world) {
        seen.note("terminals", "none");
        return;
    }
    let told = fifo(world.path("told"));
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    ask(&mut client, channel, b"vt100", SIZE, b"");
    client.exec(
        channel,
        format!(
            "trap 'echo hung up > {}; exit 5' HUP; echo ready; while :; do sleep 0.1; done",
            told.display()
        ),
    );
    client.record(seen, "start", |heard| matches!(heard, Heard::Data { .. }));
    client.close(channel);
    seen.note("program", read(told));
    client.record_until_close(seen, "closed", 7);
}

/// What a far-end program writes to a named pipe, which must come in time.
fn read(pipe: std::path::PathBuf) -> String {
    let reader = std::thread::spawn(move || std::fs::read_to_string(pipe));
    crate::common::flow::join(reader, "a named pipe").expect("a pipe reads")
}
