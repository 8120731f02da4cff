//! What comes first: statuses before the end of output that others hold, replies in the order of requests.

use std::io::Write as _;

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::files::fifo;
use crate::common::world::World;
use crate::common::{DEADLINE, process};
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server grants its window at once, and keeps what comes before the command.
        a_whole_session_in_one_write,
        input_before_the_command,
    }
    everywhere: {
        status_comes_before_held_output,
        ssh_waits_for_held_output,
        a_detached_process_holds_nothing,
        output_comes_before_its_end,
        a_second_command_is_refused,
        a_request_after_the_command,
        pipelined_requests,
    }
}

/// Opens a named pipe that a far-end process reads, once it does.
fn open_gate(path: &std::path::Path) -> std::fs::File {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("the far end reads the pipe")
}

/// A child in the background holds the output: the status does not wait for it, the end of output does.
fn status_comes_before_held_output(world: &World, seen: &mut Seen) {
    let path = fifo(world.path("gate"));
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(
        channel,
        format!("(read line < {}; echo late) & exit 4", path.display()),
    );
    for _ in 0..2 {
        seen.note("first", client.next().to_text());
    }
    // What sshd says besides, with the child still there.
    client.record_until_settled(seen, "while it runs");
    open_gate(&path).write_all(b"\n").expect("a reader");
    loop {
        let heard = client.next();
        seen.note("then", heard.to_text());
        if matches!(heard, Heard::Close(_) | Heard::End(_)) {
            break;
        }
    }
}

fn ssh_waits_for_held_output(world: &World, seen: &mut Seen) {
    let path = fifo(world.path("gate"));
    let command = format!(
        "(read line < {}; echo late; echo error >&2) & echo early; exit 4",
        path.display()
    );
    let mut ssh = world.ssh(&[], &command).piped();
    let mut stdout = ssh.take_stdout();
    let mut early = [0; 6];
    std::io::Read::read_exact(&mut stdout, &mut early).expect("the command's word");
    let mut gate = open_gate(&path);
    let has_ended = ssh.try_wait(std::time::Duration::ZERO).is_some();
    seen.note("ended before the child", has_ended);
    gate.write_all(b"\n").expect("a reader");
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut stdout, &mut rest).expect("a pipe reads");
    seen.bytes("rest", &rest);
    seen.note("status", process::code(ssh.wait(DEADLINE)));
    seen.note("stderr", ssh.stderr());
}

fn a_detached_process_holds_nothing(world: &World, seen: &mut Seen) {
    let path = fifo(world.path("gate"));
    let left = world.text("left");
    let command = format!(
        "(read line < {}; echo done > {left}) < /dev/null > /dev/null 2>&1 & exit 4",
        path.display()
    );
    seen.run("ssh", world.ssh(&[], &command));
    seen.note("has run", world.path("left").exists());
    open_gate(&path).write_all(b"\n").expect("it still runs");
}

/// Every byte that a command wrote comes before EOF, and EOF before CLOSE, however much there is.
fn output_comes_before_its_end(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for (number, count) in (0..).zip([1, 10, 5000, 250_000]) {
        let channel = client.session(number);
        client.exec(channel, format!("seq {count}"));
        client.record_until_close(seen, &format!("seq {count}"), number);
        client.close(channel);
    }
}

fn a_second_command_is_refused(world: &World, seen: &mut Seen) {
    for first in ["exec", "shell", "subsystem"] {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        let ask = |client: &mut Raw, name: &str| {
            client.request(channel, name, true, |request| match name {
                "exec" => drop(request.put_string("cat")),
                "subsystem" => drop(request.put_string("sftp")),
                _ => {}
            });
        };
        ask(&mut client, first);
        client.record_until_settled(seen, first);
        for second in ["exec", "shell", "subsystem"] {
            ask(&mut client, second);
            client.record_until_settled(seen, &format!("{first}, then {second}"));
        }
        client.eof(channel);
        client.record_until_close(seen, &format!("{first}, then the end"), 7);
    }
}

/// What comes before there is a command is for nobody.
fn input_before_the_command(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.data(channel, b"early ");
    client.exec(channel, "cat");
    client.record(seen, "start", |heard| *heard == Heard::Success(7));
    client.data(channel, b"late");
    client.eof(channel);
    client.record_until_close(seen, "exec", 7);
    client.close(channel);
}

/// Requests that prepare a command come too late once it runs.
fn a_request_after_the_command(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.exec(channel, "cat");
    client.record(seen, "start", |heard| *heard == Heard::Success(7));
    client.request(channel, "env", true, |request| {
        request.put_string("LC_LATE").put_string("x");
    });
    client.record_until_settled(seen, "env");
    client.request(channel, "pty-req", true, |request| {
        request.put_string("vt100");
        for size in [80, 24, 0, 0] {
            request.put_uint32(size);
        }
        request.put_string("");
    });
    client.record_until_settled(seen, "pty-req");
    client.request(channel, "x11-req", true, |request| {
        request
            .put_bool(false)
            .put_string("MIT-MAGIC-COOKIE-1")
            .put_string("00112233445566778899aabbccddeeff")
            .put_uint32(0);
    });
    client.record_until_settled(seen, "x11-req");
    client.eof(channel);
    client.record_until_close(seen, "end", 7);
}

/// All that a client asks in one write is answered in the order of asking.
fn pipelined_requests(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    let mut ask = |name: &str, want_reply: bool, rest: &dyn Fn(&mut Vec<u8>)| {
        client.queue(msg::CHANNEL_REQUEST, |message| {
            message
                .put_uint32(channel)
                .put_string(name)
                .put_bool(want_reply);
            rest(message);
        });
    };
    let variable = |name: &'static str| {
        move |message: &mut Vec<u8>| {
            message.put_string(name).put_string("x");
        }
    };
    ask("env", true, &variable("LC_FIRST"));
    ask("env", true, &variable("FORBIDDEN"));
    ask("env", false, &variable("LC_SILENT"));
    ask("unheard-of@example.com", true, &|_| {});
    ask("unheard-of@example.com", false, &|_| {});
    ask("env", true, &variable("LC_SECOND"));
    ask("window-change", true, &|message| {
        for size in [80, 24, 0, 0] {
            message.put_uint32(size);
        }
    });
    ask("subsystem", true, &|message| {
        message.put_string("nosuch");
    });
    ask("exec", true, &|message| {
        message.put_string("read line; echo $LC_FIRST$FORBIDDEN$LC_SILENT$LC_SECOND; cat; exit 3");
    });
    ask("signal", true, &|message| {
        message.put_string("NOSUCH");
    });
    ask("exec", true, &|message| {
        message.put_string("echo never");
    });
    client.flush();
    client.record_until_settled(seen, "asked");
    client.data(channel, b"\n");
    client.eof(channel);
    client.record_until_close(seen, "end", 7);
}

/// The number of the server's first channel is known: nothing need be waited for.
fn a_whole_session_in_one_write(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    client.queue(msg::CHANNEL_OPEN, |message| {
        message
            .put_string("session")
            .put_uint32(7)
            .put_uint32(1 << 20)
            .put_uint32(32 << 10);
    });
    client.queue(msg::CHANNEL_REQUEST, |message| {
        message
            .put_uint32(0)
            .put_string("exec")
            .put_bool(true)
            .put_string("cat; exit 3");
    });
    client.queue(msg::CHANNEL_DATA, |message| {
        message.put_uint32(0).put_string("all at once");
    });
    client.queue(msg::CHANNEL_EOF, |message| {
        message.put_uint32(0);
    });
    client.flush();
    client.record_until_close(seen, "session", 7);
    client.close(0);
    client.record_until_settled(seen, "after");
}
