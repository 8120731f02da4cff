//! What is wrong outside is told in one line with a hint, and ends nothing that could go on.

mod common;

use std::io::{Read, Write};

use common::daemon::{Daemon, aws_environment, ssmshim};
use common::net::{call_ssm, connect, free_port, post};
use common::sshd::make_key;
use common::world::{World, serve_args};

/// Starts `serve` with `args` against the emulator of `world`, to see it fail.
fn failing(world: &World, args: &[String], environment: &[(String, String)]) -> Daemon {
    let args: Vec<_> = args
        .iter()
        .map(String::as_str)
        // What may yet heal is told after the hold time, which need not be long here.
        .chain(["--listen", "127.0.0.1:0", "--hold", "2"])
        .collect();
    Daemon::launch(&world.path("failing"), &args, environment)
}

/// Asserts that the daemon tells one `error:` line with all of `words`, and then a `hint:` line.
fn assert_told(daemon: &Daemon, words: &[&str]) {
    let error = daemon.told("error: ");
    let lower = error.to_lowercase();
    for word in words {
        assert!(
            lower.contains(&word.to_lowercase()),
            "{word:?} is not in {error:?}"
        );
    }
    assert!(!error.ends_with('.'), "no full stop: {error:?}");
    assert!(!daemon.told("hint: ").is_empty());
}

/// Asserts that it ends with status 1.
fn assert_fails(mut daemon: Daemon) {
    assert_eq!(daemon.wait().0, 1, "{}", daemon.stderr());
    assert_eq!(daemon.stdout(), "");
}

/// A world whose own daemon is stopped, leaving emulator and sshd to fail against.
fn far_end() -> Option<(World, Vec<(String, String)>)> {
    let mut world = World::serve()?;
    world.daemon = None;
    let environment = aws_environment(&world.emulator.as_ref()?.text("endpoint"));
    Some((world, environment))
}

/// The usual arguments of `serve` for `world`.
fn args_of(world: &World) -> Vec<String> {
    let (Some(emulator), Some(sshd)) = (&world.emulator, &world.sshd) else {
        panic!("a served world has both");
    };
    serve_args(
        &emulator.text("target"),
        &sshd.port.to_string(),
        &sshd.identity,
    )
}

#[test]
fn unknown_target() {
    let Some((world, environment)) = far_end() else {
        return;
    };
    let mut args = args_of(&world);
    args[1] = "i-0fedcba9876543210".to_owned();
    let daemon = failing(&world, &args, &environment);
    assert_told(&daemon, &["i-0fedcba9876543210"]);
}

#[test]
fn expired_credentials() {
    let Some((world, mut environment)) = far_end() else {
        return;
    };
    environment.push(("AWS_SESSION_TOKEN".into(), "EXPIRED".into()));
    let daemon = failing(&world, &args_of(&world), &environment);
    assert_told(&daemon, &["expired"]);
}

#[test]
fn missing_permission() {
    let Some((world, mut environment)) = far_end() else {
        return;
    };
    environment.push(("AWS_SESSION_TOKEN".into(), "DENIED".into()));
    let daemon = failing(&world, &args_of(&world), &environment);
    assert_told(&daemon, &["denied"]);
}

#[test]
fn no_credentials_at_all() {
    let Some((world, mut environment)) = far_end() else {
        return;
    };
    environment.retain(|(name, _)| !name.contains("KEY"));
    let daemon = failing(&world, &args_of(&world), &environment);
    assert_told(&daemon, &["credentials"]);
}

#[test]
fn no_service_at_the_endpoint() {
    let Some((world, _)) = far_end() else { return };
    let environment = aws_environment(&format!("http://127.0.0.1:{}", free_port()));
    let daemon = failing(&world, &args_of(&world), &environment);
    assert_told(&daemon, &[]);
}

#[test]
fn no_sshd_at_the_port() {
    let Some((world, environment)) = far_end() else {
        return;
    };
    let mut args = args_of(&world);
    let port = free_port().to_string();
    args[3].clone_from(&port);
    let daemon = failing(&world, &args, &environment);
    assert_told(&daemon, &["port", &port]);
}

#[test]
fn something_else_than_sshd_at_the_port() {
    let Some((world, environment)) = far_end() else {
        return;
    };
    let mut args = args_of(&world);
    args[3] = common::net::serve(common::net::Peer::Greet).to_string();
    let daemon = failing(&world, &args, &environment);
    assert_told(&daemon, &[]);
}

#[test]
fn wrong_key() {
    let Some((world, environment)) = far_end() else {
        return;
    };
    let stranger = world.path("stranger");
    make_key(&stranger);
    let mut args = args_of(&world);
    args[7] = stranger.display().to_string();
    let daemon = failing(&world, &args, &environment);
    assert_told(&daemon, &["log in"]);
    assert_fails(daemon);
}

#[test]
fn missing_and_unreadable_keys() {
    let Some((world, environment)) = far_end() else {
        return;
    };
    let garbage = world.path("garbage");
    std::fs::write(&garbage, b"\x00\xffno key\n").expect("our own directory");
    for path in [world.path("missing"), garbage] {
        let mut args = args_of(&world);
        args[7] = path.display().to_string();
        let daemon = failing(&world, &args, &environment);
        assert_told(&daemon, &[&path.display().to_string()]);
        assert_fails(daemon);
    }
}

#[test]
fn listen_port_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = taken.local_addr().expect("a bound socket").to_string();
    for command in ["demo", "emulator"] {
        let home = tempfile::tempdir().expect("a temporary directory");
        let output = ssmshim(home.path(), &[command, "--listen", &address]).output();
        assert_eq!(output.code, 1, "{output:?}");
        assert_eq!(output.text(), "");
        let told = output.stderr.contains("error: ") && output.stderr.contains(&address);
        assert!(told, "{output:?}");
        assert!(output.stderr.contains("\nhint: "), "{output:?}");
    }
}

/// Each of these ends its own connection, and nothing else.
#[test]
fn garbage_on_the_port() {
    let Some(mut world) = World::demo() else {
        return;
    };
    let mut packet_of_4_gib = b"SSH-2.0-test\r\n".to_vec();
    packet_of_4_gib.extend_from_slice(&[0xff; 64]);
    let mut empty_packets = b"SSH-2.0-test\r\n".to_vec();
    empty_packets.extend_from_slice(&[0; 4096]);
    let inputs: [&[u8]; 9] = [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client hello",
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-nothing-more\r\n",
        &[b'x'; 100_000],
        &packet_of_4_gib,
        &empty_packets,
    ];
    for input in inputs {
        let mut socket = connect(world.target.port);
        let _ = socket.write_all(input);
        common::net::Socket::finish_writing(&socket);
        let mut answer = Vec::new();
        // The end may be a reset, but it must come.
        let ended = socket.read_to_end(&mut answer);
        assert!(
            !matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "not closed after {:?}",
            String::from_utf8_lossy(&input[..input.len().min(40)])
        );
        assert!(
            answer.is_empty() || answer.starts_with(b"SSH-2.0-"),
            "{answer:?}"
        );
    }
    assert_eq!(world.ssh(&[], "echo still here").ok().text(), "still here");
    world.daemon.as_mut().expect("a demo has one").assert_up();
}

/// Connections that say nothing must not keep others out.
#[test]
fn silent_connections_keep_nobody_out() {
    let Some(mut world) = World::demo() else {
        return;
    };
    let silent: Vec<_> = (0..300).map(|_| connect(world.target.port)).collect();
    assert_eq!(world.ssh(&[], "echo still here").ok().text(), "still here");
    drop(silent);
    world.daemon.as_mut().expect("a demo has one").assert_up();
}

#[test]
fn garbage_on_the_emulators_port() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut emulator = Daemon::start(home.path(), &["emulator"], &[]);
    let endpoint = emulator.text("endpoint");
    let (status, answer) = call_ssm(
        &endpoint,
        "StartSession",
        "{\"Target\":\"i-0fedcba9876543210\"}",
    );
    assert_eq!(status, 400, "{answer}");
    assert!(
        answer["__type"]
            .as_str()
            .unwrap_or_default()
            .ends_with("TargetNotConnected"),
        "{answer}"
    );
    for (operation, body) in [
        ("StartSession", "{"),
        ("StartSession", "[]"),
        ("StartSession", "{\"Target\":7}"),
        ("NoSuchOperation", "{}"),
        (
            "ResumeSession",
            "{\"SessionId\":\"nobody-0123456789abcdef0\"}",
        ),
    ] {
        let (status, answer) = call_ssm(&endpoint, operation, body);
        assert!(
            (400..500).contains(&status),
            "{operation} {body}: {status} {answer}"
        );
        assert!(answer["__type"].is_string(), "{answer}");
    }
    let huge = post(
        &endpoint,
        "X-Amz-Target: AmazonSSM.StartSession\r\n",
        &vec![b' '; 64 << 20],
    );
    assert!(
        huge.is_empty() || huge.starts_with("HTTP/1.1 4"),
        "{huge:?}"
    );
    let mut socket = connect(
        endpoint
            .rsplit_once(':')
            .expect("a port")
            .1
            .parse()
            .expect("a port"),
    );
    socket
        .write_all(b"\x00\xff\r\n\r\n")
        .expect("the server reads");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let (status, answer) = call_ssm(&endpoint, "DescribeSessions", "{\"State\":\"Active\"}");
    assert_eq!(status, 200, "{answer}");
    emulator.assert_up();
    assert!(emulator.memory().peak < 96 << 10, "{:?}", emulator.memory());
}
