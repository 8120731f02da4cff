//! Forwarding in all its directions, each half of a connection by itself.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::Child;
use tokio::time::timeout;

use crate::world::{DEADLINE, World, finish, have, noise, run, run_with, until};

/// Reads all, then says how much it was, then ends: it needs the half-close of both directions.
async fn count(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.unwrap();
    writer
        .write_all(bytes.len().to_string().as_bytes())
        .await
        .unwrap();
    writer.shutdown().await.unwrap();
}

/// Asks a [`count`]er about `bytes`.
async fn ask(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> String {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut answer = String::new();
    let talk = async {
        writer.write_all(bytes).await.unwrap();
        writer.shutdown().await.unwrap();
        reader.read_to_string(&mut answer).await.unwrap();
    };
    timeout(DEADLINE, talk).await.unwrap();
    answer
}

async fn counter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(count(stream));
        }
    });
    port
}

fn unix_counter(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(count(stream));
        }
    });
}

/// A port that nothing listens at.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A client that only forwards, once it does.
async fn forwarder(world: &World, arguments: &[&str]) -> Child {
    let mut command = world.ssh(arguments);
    let mut child = command
        .args(["sshd", "echo up; cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    timeout(DEADLINE, output.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(line, "up\n");
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn local_forwards_carry_both_halves() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let (port, target) = (free_port().await, counter().await);
    let _client = forwarder(&world, &["-L", &format!("{port}:localhost:{target}")]).await;
    let bytes = noise(5_000_000);
    let asked = (0..8).map(|_| async {
        ask(
            TcpStream::connect(("127.0.0.1", port)).await.unwrap(),
            &bytes,
        )
        .await
    });
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer, "5000000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_far_end_may_finish_first() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, target) = (free_port().await, listener.local_addr().unwrap().port());
    let _client = forwarder(&world, &["-L", &format!("{port}:127.0.0.1:{target}")]).await;
    let mut near = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    far.write_all(b"bye").await.unwrap();
    far.shutdown().await.unwrap();
    let mut text = String::new();
    timeout(DEADLINE, near.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(text, "bye");
    near.write_all(b"still here").await.unwrap();
    near.shutdown().await.unwrap();
    text.clear();
    timeout(DEADLINE, far.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(text, "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_forwards_take_a_port_and_give_it_back() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    for address in ["", "*:", "localhost:", "[::1]:"] {
        let target = counter().await;
        let mut command = world.ssh([
            "-o",
            "LogLevel=INFO",
            "-R",
            &format!("{address}0:127.0.0.1:{target}"),
        ]);
        let mut child = command
            .args(["sshd", "cat"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        timeout(DEADLINE, log.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        let port = line
            .strip_prefix("Allocated port ")
            .unwrap_or_else(|| panic!("{line}"));
        let port: u16 = port.split(' ').next().unwrap().parse().unwrap();
        // An address given by number is the only one listened on, as with sshd.
        let host = if address.contains("::1") {
            "::1"
        } else {
            "127.0.0.1"
        };
        let stream = TcpStream::connect((host, port)).await.unwrap();
        assert_eq!(ask(stream, &noise(1_000_000)).await, "1000000");
        drop(child.stdin.take());
        assert!(finish(child).await.status.success());
        until(|| std::net::TcpListener::bind((host, port)).ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_forwards_are_cancelled_at_once() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let (port, target) = (free_port().await, counter().await);
    let control = format!("ControlPath={}", world.path("master").display());
    let _master = forwarder(&world, &["-M", "-o", &control]).await;
    let forward = format!("{port}:127.0.0.1:{target}");
    for _ in 0..2 {
        for (order, listens) in [("forward", true), ("cancel", false)] {
            let output =
                run(&mut world.ssh(["-o", &control, "-O", order, "-R", &forward, "sshd"])).await;
            assert!(
                output.status.success(),
                "{order}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            // The answer to a cancel is not waited for by ssh.
            until(|| {
                (std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() == listens).then_some(())
            })
            .await;
        }
    }
    // A port that is in use is refused.
    let _taken = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let _taken_v6 = TcpListener::bind(("::1", port)).await;
    let output =
        run(&mut world.ssh(["-o", &control, "-O", "forward", "-R", &forward, "sshd"])).await;
    assert!(!output.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_are_forwarded_both_ways() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let (target, local, remote) = (
        world.path("target"),
        world.path("local"),
        world.path("remote"),
    );
    unix_counter(&target);
    let tcp = free_port().await;
    let client = forwarder(
        &world,
        &[
            "-L",
            &format!("{}:{}", local.display(), target.display()),
            "-L",
            &format!("{tcp}:{}", target.display()),
            "-R",
            &format!("{}:{}", remote.display(), target.display()),
        ],
    )
    .await;
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        remote.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    for path in [&local, &remote] {
        assert_eq!(
            ask(UnixStream::connect(path).await.unwrap(), &noise(300_000)).await,
            "300000"
        );
    }
    assert_eq!(
        ask(TcpStream::connect(("127.0.0.1", tcp)).await.unwrap(), b"").await,
        "0"
    );
    drop(client);
    until(|| (!remote.exists()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_streams_are_forwarded() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let target = format!("127.0.0.1:{}", counter().await);
    let output = run_with(&mut world.ssh(["-W", &target, "sshd"]), &noise(2_000_000)).await;
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(0), &b"2000000"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_as_sshd_tells_them() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let closed = format!("127.0.0.1:{}", free_port().await);
    for (target, reason) in [
        (
            &closed[..],
            "open failed: connect failed: Connection refused",
        ),
        ("no-such-host.invalid:22", "open failed: connect failed: "),
    ] {
        let output = run(&mut world.ssh(["-o", "LogLevel=INFO", "-W", target, "sshd"])).await;
        assert_eq!(output.status.code(), Some(255));
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains(reason), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_reaches_names_and_addresses() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let (port, target) = (free_port().await, counter().await);
    let _client = forwarder(&world, &["-D", &port.to_string()]).await;
    for address in [&b"\x01\x7f\x00\x00\x01"[..], b"\x03\x09localhost"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"\x05\x01\x00").await.unwrap();
        let mut greeting = [0; 2];
        stream.read_exact(&mut greeting).await.unwrap();
        stream
            .write_all(&[b"\x05\x01\x00", address, &target.to_be_bytes()].concat())
            .await
            .unwrap();
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[..2], [5, 0]);
        assert_eq!(ask(stream, b"12345").await, "5");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_once() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let (port, target) = (free_port().await, counter().await);
    let _client = forwarder(&world, &["-L", &format!("{port}:127.0.0.1:{target}")]).await;
    let asked = (0..200).map(|number| async move {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        (number, ask(stream, &noise(10_000 + number)).await)
    });
    for (number, answer) in futures_util::future::join_all(asked).await {
        assert_eq!(answer, (10_000 + number).to_string());
    }
}
