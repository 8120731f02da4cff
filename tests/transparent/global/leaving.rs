//! A client goes, orderly or not: what is left of it at the far end.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::{gone, started};
use crate::common::net::{connect, free_port, listening_at};
use crate::common::world::World;
use crate::common::{DEADLINE, until};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // Where the session has a process of its own.
        killed,
        killed_with_a_terminal,
        killed_under_load,
        killed_with_forwards,
        half_closed,
        reset_by_the_client,
        detached_command_stays,
    }
    everywhere: {}
}

/// Which of the processes of a session go by themselves, `[command, sshd]`; sshd's does in any case.
///
/// What remains of the command is ended here, so that nothing is left behind.
fn aftermath(seen: &mut Seen, label: &str, [command, sshd]: [Pid; 2], command_goes: bool) {
    gone("sshd's process of the session", sshd);
    if command_goes {
        gone("the command", command);
    }
    let is_left = rustix::process::test_kill_process(command).is_ok();
    seen.note(&format!("{label}: command left"), is_left);
    let _gone = rustix::process::kill_process(command, Signal::KILL);
}

/// kill -9 of the client. A command that reads ends; sshd's process goes in any case.
fn killed(world: &World, seen: &mut Seen) {
    for (command, goes) in [("exec cat", true), ("exec sleep 1000", false)] {
        let (client, pids) = started(world, &[], command);
        drop(client);
        aftermath(seen, command, pids, goes);
    }
}

/// With a terminal the command is hung up on.
fn killed_with_a_terminal(world: &World, seen: &mut Seen) {
    if !world.has_terminals() {
        return seen.note("skipped", "no terminals");
    }
    for command in ["exec cat", "exec sleep 1000"] {
        let (client, pids) = started(world, &["-tt"], command);
        drop(client);
        aftermath(seen, command, pids, true);
    }
}

/// In the middle of a transfer, which the client has ceased to read.
fn killed_under_load(world: &World, seen: &mut Seen) {
    for command in ["exec cat /dev/zero", "exec cat > /dev/null"] {
        let (mut client, pids) = started(world, &[], command);
        if command.contains("zero") {
            let mut stdout = client.take_stdout();
            stdout
                .read_exact(&mut vec![0; 5 << 20])
                .expect("bytes come");
        } else {
            client
                .take_stdin()
                .write_all(&vec![0; 5 << 20])
                .expect("bytes go");
        }
        drop(client);
        aftermath(seen, command, pids, true);
    }
}

/// With a listener at the far end and a connection through it.
fn killed_with_forwards(world: &World, seen: &mut Seen) {
    let port = free_port();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let near = listener.local_addr().expect("a bound socket").port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{near}");
    let (client, pids) = started(world, &["-R", &forward], "exec cat");
    let mut far = connect(port);
    let (_accepted, _) = listener.accept().expect("the client connects");
    drop(client);
    let end = far.read(&mut [0]);
    seen.note("the far peer", format!("{:?}", end.map_err(|e| e.kind())));
    aftermath(seen, "command", pids, true);
    until("nobody listens", || {
        listening_at(port).is_empty().then_some(())
    });
    seen.note("listeners", "gone");
}

/// What has detached itself stays, as with any sshd.
fn detached_command_stays(world: &World, seen: &mut Seen) {
    let command = "setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo $!; cat";
    let (mut client, pids) = started(world, &[], command);
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(client.take_stdout()),
        &mut line,
    )
    .expect("the command says its process id");
    let detached = super::pid(&line);
    drop(client);
    aftermath(seen, "command", pids, true);
    seen.note(
        "detached",
        rustix::process::test_kill_process(detached).is_ok(),
    );
    let _gone = rustix::process::kill_process(detached, Signal::KILL);
}

/// A link between client and server that can be cut in several ways.
struct Link {
    port: u16,
    /// The side towards the server.
    server_side: Receiver<TcpStream>,
}

impl Link {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let own = listener.local_addr().expect("a bound socket").port();
        let (send, server_side) = mpsc::channel();
        thread::spawn(move || {
            let (near, _) = listener.accept().expect("the client connects");
            let far = connect(port);
            far.set_read_timeout(None).expect("an open socket");
            let _nobody = send.send(far.try_clone().expect("a socket clones"));
            let (mut from, mut to) = (
                near.try_clone().expect("a socket clones"),
                far.try_clone().expect("a socket clones"),
            );
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            let (mut from, mut to) = (far, near);
            let _cut = std::io::copy(&mut from, &mut to);
            let _gone = to.shutdown(Shutdown::Both);
        });
        Self {
            port: own,
            server_side,
        }
    }

    fn cut(&self, how: impl FnOnce(&TcpStream)) {
        how(&self
            .server_side
            .recv_timeout(DEADLINE)
            .expect("a connection to the server"));
    }
}

/// The client's direction ends without SSH_MSG_DISCONNECT; what the server does then.
fn half_closed(world: &World, seen: &mut Seen) {
    let link = Link::to(world.target.port);
    let options = ["-p", &link.port.to_string(), "-o", "LogLevel=INFO"];
    let (mut client, pids) = started(world, &options, "exec cat");
    link.cut(|socket| socket.shutdown(Shutdown::Write).expect("an open socket"));
    aftermath(seen, "command", pids, true);
    let status = client.wait(DEADLINE);
    seen.note("status", crate::common::process::code(status));
    seen.hide(link.port, "<link>");
    seen.note("stderr", super::without_addition(&client.stderr()));
}

fn reset_by_the_client(world: &World, seen: &mut Seen) {
    let link = Link::to(world.target.port);
    let (client, pids) = started(world, &["-p", &link.port.to_string()], "exec cat");
    link.cut(|socket| {
        rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO))
            .expect("an open socket");
        // Every handle of the socket shares this end; the peer hears of a reset.
        socket.shutdown(Shutdown::Both).expect("an open socket");
    });
    drop(client);
    aftermath(seen, "command", pids, true);
}
