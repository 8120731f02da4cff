//! Listeners at both ends.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;

use super::{LOSSES, Loss, sshd};
use crate::common::net::{
    Peer, Socket, connect, exchange, free_port, listening_at, serve, serve_unix, socks5,
};
use crate::common::process::Running;
use crate::common::until;
use crate::common::world::World;

const HELLO: &[u8] = b"hello through the forward\n";

/// `ssh -N OPTIONS…`, as people leave it running for days.
pub(super) fn left_running(world: &World, options: &[&str]) -> Running {
    let usual = [
        "-N",
        "-o",
        "ExitOnForwardFailure=yes",
        "-o",
        "LogLevel=INFO",
    ];
    world.ssh(&[&usual, options].concat(), "").piped()
}

/// Whether what is sent into `socket` comes back: it may be closed at any time.
fn has_echo(socket: Option<impl Socket>) -> bool {
    let Some(mut socket) = socket else {
        return false;
    };
    let mut answer = vec![0; HELLO.len()];
    socket.write_all(HELLO).is_ok() && socket.read_exact(&mut answer).is_ok() && answer == HELLO
}

/// Waits until a connection to `port` is echoed: a listener of old may still take one.
pub(super) fn echoes(what: &str, port: u16) {
    until(what, || {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
        socket
            .as_ref()
            .map(|socket| socket.set_read_timeout(Some(Duration::from_secs(60))));
        has_echo(socket).then_some(())
    });
}

fn survives(loss: Loss) {
    let Some(world) = World::serve_with("", &[]) else {
        return;
    };
    let echo = serve(Peer::Echo);
    let (near, proxy, far) = (free_port(), free_port(), free_port());
    let mut ssh = left_running(
        &world,
        &[
            "-L",
            &format!("127.0.0.1:{near}:127.0.0.1:{echo}"),
            "-D",
            &format!("127.0.0.1:{proxy}"),
            "-R",
            &format!("127.0.0.1:{far}:127.0.0.1:{echo}"),
        ],
    );
    until("all listen", || {
        let is_there = |port| !listening_at(port).is_empty();
        (is_there(near) && is_there(proxy) && is_there(far)).then_some(())
    });
    for _ in 0..2 {
        // One of each kind is open when it happens.
        let mut open = [
            connect(near),
            socks5(proxy, "127.0.0.1", echo),
            connect(far),
        ];
        for socket in &mut open {
            socket.write_all(HELLO).expect("it is open");
            let mut answer = [0; HELLO.len()];
            socket.read_exact(&mut answer).expect("it is open");
        }
        loss.strike(&world);
        for socket in &mut open {
            let _closed_or_reset = socket.read(&mut [0]);
        }
        echoes(&format!("-L after {loss:?}"), near);
        echoes(&format!("-R after {loss:?}"), far);
        assert_eq!(exchange(socks5(proxy, "127.0.0.1", echo), HELLO), HELLO);
        let ended = ssh.try_wait(Duration::ZERO);
        assert!(ended.is_none(), "{ended:?}: {}", ssh.stderr());
    }
}

#[test]
fn listeners_survive_killed_sessions() {
    survives(Loss::SessionsKilled);
}

#[test]
fn listeners_survive_a_restart_of_sshd() {
    survives(Loss::SshdRestarted);
}

#[test]
fn listeners_survive_the_end_of_the_ssm_session() {
    survives(Loss::SessionTerminated);
}

#[test]
fn listeners_survive_a_restart_of_the_agent() {
    survives(Loss::AgentRestarted);
}

/// The ports that the target chose, as ssh tells them.
fn allocated(ssh: &Running, count: usize) -> Vec<u16> {
    until("the ports are allocated", || {
        let stderr = ssh.stderr();
        let told = stderr.lines().filter_map(|line| {
            let port = line.strip_prefix("Allocated port ")?;
            port.split(' ').next()?.parse().ok()
        });
        let ports: Vec<_> = told.collect();
        (ports.len() == count).then_some(ports)
    })
}

/// Two ports of the target's choice and a Unix socket, each with a server of its own behind it.
#[test]
fn listeners_keep_the_ports_that_the_target_chose() {
    let Some(world) = World::serve_with("StreamLocalBindUnlink yes", &[]) else {
        return;
    };
    let (near, far) = (world.path("near.sock"), world.path("far.sock"));
    serve_unix(Peer::Echo, &near);
    let ssh = left_running(
        &world,
        &[
            "-R",
            &format!("0:127.0.0.1:{}", serve(Peer::Echo)),
            "-R",
            &format!("0:127.0.0.1:{}", serve(Peer::Greet)),
            "-R",
            &format!("{}:{}", far.display(), near.display()),
        ],
    );
    let ports = allocated(&ssh, 2);
    // In no order that ssh promises.
    let greets = |port: &u16| {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, *port));
        let mut text = String::new();
        socket.is_ok_and(|mut socket| {
            let _end = socket.set_read_timeout(Some(Duration::from_secs(2)));
            let _end = socket.read_to_string(&mut text);
            text == "greetings\n"
        })
    };
    let (greeter, echo) = match greets(&ports[0]) {
        true => (ports[0], ports[1]),
        false => (ports[1], ports[0]),
    };
    for loss in LOSSES {
        loss.strike(&world);
        echoes(&format!("the one port after {loss:?}"), echo);
        until("the other port", || greets(&greeter).then_some(()));
        until("the socket", || {
            has_echo(UnixStream::connect(&far).ok()).then_some(())
        });
    }
    assert_eq!(allocated(&ssh, 2), ports, "ssh was told nothing else");
}

/// A connection that is asked for while nobody is there to answer: the next upstream does.
#[test]
fn a_connection_under_way_is_asked_for_again() {
    let Some(world) = World::serve_with("", &[]) else {
        return;
    };
    let near = free_port();
    let forward = format!("127.0.0.1:{near}:127.0.0.1:{}", serve(Peer::Echo));
    let _ssh = left_running(&world, &["-L", &forward]);
    echoes("-L", near);
    world.emulator().signal(Signal::STOP);
    sshd(&world).end_sessions();
    let mut early = connect(near);
    early.write_all(HELLO).expect("ssh takes it");
    world.emulator().signal(Signal::CONT);
    assert_eq!(exchange(early, b""), HELLO);
}

/// No sshd for longer than `--hold`: the reason is told, and the next connection is another try.
#[test]
fn what_cannot_be_held_any_longer_is_refused_with_the_reason() {
    let Some(world) = World::serve_with("", &["--hold", "2"]) else {
        return;
    };
    let near = free_port();
    let forward = format!("127.0.0.1:{near}:127.0.0.1:{}", serve(Peer::Echo));
    let ssh = left_running(&world, &["-L", &forward]);
    echoes("-L", near);
    sshd(&world).stop();
    let mut nothing = Vec::new();
    let _closed_or_reset = connect(near).read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    until("the reason", || {
        let stderr = ssh.stderr();
        (stderr.contains("open failed") && stderr.contains("ssmshim: ")).then_some(())
    });
    sshd(&world).start_again();
    echoes("-L", near);
}

/// Another program took the port meanwhile: it is asked for until it is free again.
#[test]
fn a_port_that_is_taken_is_waited_for() {
    let Some(world) = World::serve_with("", &[]) else {
        return;
    };
    let far = free_port();
    let forward = format!("127.0.0.1:{far}:127.0.0.1:{}", serve(Peer::Echo));
    let _ssh = left_running(&world, &["-R", &forward]);
    echoes("-R", far);
    // Stands still, so that the port is ours before sshd is asked for it.
    let daemon = world.daemon.as_ref().expect("serve has one");
    daemon.signal(Signal::STOP);
    sshd(&world).end_sessions();
    let taken = until("the port is free", || {
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, far)).ok()
    });
    daemon.signal(Signal::CONT);
    until("sshd refuses", || {
        let log = sshd(&world).log();
        log.contains(&format!("cannot listen to port: {far}"))
            .then_some(())
    });
    drop(taken);
    echoes("-R", far);
}
