//! Forwards of every kind: -L, -R, -D, -W, to TCP ports and Unix sockets, with half-close.

mod common;

use std::io::{Read, Write};

use common::have;
use common::net::{Peer, connect, connect_unix, exchange, free_port, serve, serve_unix, socks5};
use common::process::Running;
use common::world::World;

cases! {
    local_forward,
    local_forward_half_close,
    local_forward_to_a_server_that_speaks_first,
    local_forward_to_a_refused_port,
    remote_forward,
    remote_forward_half_close,
    remote_forward_of_the_far_ends_choice,
    remote_forward_is_cancelled,
    remote_forward_of_a_taken_port_is_refused,
    dynamic_forward,
    standard_streams_to_a_port,
    unix_socket_forward_to_the_far_end,
    unix_socket_forward_from_the_far_end,
    agent_forward,
}

const HELLO: &[u8] = b"hello through the forward\n";

/// More than the windows and the socket buffers hold.
const BULK: usize = 6 << 20;

fn local_forward(world: &World) {
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:localhost:{}", serve(Peer::Echo));
    let _ssh = world.forwarding(&["-L", &forward]);
    assert_eq!(exchange(connect(port), HELLO), HELLO);
    // Bulk goes by halves: an echo of everything at once would rest on socket buffers.
    let mut socket = connect(port);
    let piece = vec![5; 32 << 10];
    let mut answer = vec![0; piece.len()];
    for _ in 0..BULK / piece.len() {
        socket.write_all(&piece).expect("the forward takes bytes");
        socket.read_exact(&mut answer).expect("the echo comes back");
        assert!(answer == piece, "the echo differs");
    }
}

fn local_forward_half_close(world: &World) {
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", serve(Peer::CountAfterEof));
    let _ssh = world.forwarding(&["-L", &forward]);
    assert_eq!(
        exchange(connect(port), &vec![1; BULK]),
        BULK.to_string().as_bytes()
    );
    assert_eq!(exchange(connect(port), b""), b"0");
}

fn local_forward_to_a_server_that_speaks_first(world: &World) {
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", serve(Peer::Greet));
    let _ssh = world.forwarding(&["-L", &forward]);
    let mut text = String::new();
    connect(port)
        .read_to_string(&mut text)
        .expect("the greeting and its end");
    assert_eq!(text, "greetings\n");
}

/// A refused connection ends alone; the connection and its other forwards live on.
fn local_forward_to_a_refused_port(world: &World) {
    let (refused, echo) = (free_port(), free_port());
    let refusing = format!("127.0.0.1:{refused}:127.0.0.1:{}", free_port());
    let echoing = format!("127.0.0.1:{echo}:127.0.0.1:{}", serve(Peer::Echo));
    let ssh = world.forwarding(&["-o", "LogLevel=INFO", "-L", &refusing, "-L", &echoing]);
    for _ in 0..3 {
        let mut nothing = Vec::new();
        let _ = connect(refused).read_to_end(&mut nothing);
        assert!(nothing.is_empty());
        assert_eq!(exchange(connect(echo), HELLO), HELLO);
    }
    assert!(
        ssh.stderr().contains("open failed: connect failed"),
        "{}",
        ssh.stderr()
    );
}

fn remote_forward(world: &World) {
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:localhost:{}", serve(Peer::Echo));
    let _ssh = world.forwarding(&["-R", &forward]);
    for _ in 0..5 {
        assert_eq!(exchange(connect(port), HELLO), HELLO);
    }
}

fn remote_forward_half_close(world: &World) {
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", serve(Peer::CountAfterEof));
    let _ssh = world.forwarding(&["-R", &forward]);
    assert_eq!(
        exchange(connect(port), &vec![1; BULK]),
        BULK.to_string().as_bytes()
    );
}

fn remote_forward_of_the_far_ends_choice(world: &World) {
    let forward = format!("0:127.0.0.1:{}", serve(Peer::Echo));
    let ssh = world.forwarding(&["-o", "LogLevel=INFO", "-R", &forward]);
    let log = ssh.stderr();
    let port = log
        .lines()
        .find_map(|line| {
            line.strip_prefix("Allocated port ")?
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("no allocated port in {log:?}"));
    assert_eq!(exchange(connect(port), HELLO), HELLO);
}

fn remote_forward_is_cancelled(world: &World) {
    let port = free_port();
    let socket = world.text("control");
    let _master = world.master(&socket);
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", serve(Peer::Echo));
    world.control(&socket, "forward", &["-R", &forward]).ok();
    assert_eq!(exchange(connect(port), HELLO), HELLO);
    world.control(&socket, "cancel", &["-R", &forward]).ok();
    // The client does not wait for the far end's word; a session after it does.
    world.ssh(&["-S", &socket], "true").ok();
    let refused = std::net::TcpStream::connect(("127.0.0.1", port));
    assert!(refused.is_err(), "the far end still listens");
    world.control(&socket, "forward", &["-R", &forward]).ok();
    assert_eq!(exchange(connect(port), HELLO), HELLO);
}

fn remote_forward_of_a_taken_port_is_refused(world: &World) {
    let forward = format!("127.0.0.1:{}:127.0.0.1:9", serve(Peer::Echo));
    let output = world
        .ssh(
            &["-o", "ExitOnForwardFailure=yes", "-R", &forward],
            "echo not reached",
        )
        .output();
    assert_eq!(output.code, 255, "{output:?}");
    assert!(
        output.stderr.contains("remote port forwarding failed"),
        "{output:?}"
    );
}

fn dynamic_forward(world: &World) {
    let port = free_port();
    let _ssh = world.forwarding(&["-D", &format!("127.0.0.1:{port}")]);
    let echo = serve(Peer::Echo);
    assert_eq!(exchange(socks5(port, "localhost", echo), HELLO), HELLO);
    let count = serve(Peer::CountAfterEof);
    assert_eq!(
        exchange(socks5(port, "127.0.0.1", count), &vec![1; BULK]),
        BULK.to_string().as_bytes()
    );
}

fn standard_streams_to_a_port(world: &World) {
    let destination = format!("127.0.0.1:{}", serve(Peer::CountAfterEof));
    let output = world
        .ssh(&["-W", &destination], "")
        .stdin(vec![1; BULK])
        .ok();
    assert_eq!(output.text(), BULK.to_string());
}

fn unix_socket_forward_to_the_far_end(world: &World) {
    let (here, there) = (world.path("here.sock"), world.path("there.sock"));
    serve_unix(Peer::CountAfterEof, &there);
    let _ssh = world.forwarding(&["-L", &format!("{}:{}", here.display(), there.display())]);
    assert_eq!(
        exchange(connect_unix(&here), &vec![1; BULK]),
        BULK.to_string().as_bytes()
    );
}

fn unix_socket_forward_from_the_far_end(world: &World) {
    let (here, there) = (world.path("here.sock"), world.path("there.sock"));
    serve_unix(Peer::CountAfterEof, &here);
    let _ssh = world.forwarding(&["-R", &format!("{}:{}", there.display(), here.display())]);
    assert_eq!(
        exchange(connect_unix(&there), &vec![1; BULK]),
        BULK.to_string().as_bytes()
    );
}

/// The far end opens channels back to the client's agent.
fn agent_forward(world: &World) {
    if !have("ssh-agent") || !have("ssh-add") {
        return;
    }
    let socket = world.text("agent.sock");
    let mut agent = std::process::Command::new("ssh-agent");
    agent
        .args(["-D", "-a", &socket])
        .stdout(std::process::Stdio::piped());
    let mut agent = Running::start(agent);
    let listens = common::process::read_until(agent.take_stdout(), "SSH_AUTH_SOCK");
    assert!(listens.is_some(), "ssh-agent: {}", agent.stderr());
    let key = world.path("id_agent");
    common::sshd::make_key(&key);
    common::process::Run::new("ssh-add")
        .arg("-q")
        .arg(&key)
        .env("SSH_AUTH_SOCK", &socket)
        .ok();

    let options = ["-A", "-o", &format!("IdentityAgent={socket}")];
    let listed = world.ssh(&options, "ssh-add -L").ok().text();
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("ssh-keygen made it");
    assert_eq!(listed, public.trim_end());
}
