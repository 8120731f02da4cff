//! Agent forwarding.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ssmshim::ssh::wire::{Reader, WriteExt, msg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::timeout;

use crate::protocol::{Client, OURS, open, string};
use crate::world::{DEADLINE, World, client, finish, have, run, stdout, until};

const REQUEST: &str = "auth-agent-req@openssh.com";

/// An agent with the client's key, and its socket.
async fn agent(world: &World) -> (Child, String) {
    let socket = world.path("agent");
    let mut command = client("ssh-agent");
    let child = command.arg("-D").arg("-a").arg(&socket).spawn().unwrap();
    until(|| std::os::unix::net::UnixStream::connect(&socket).ok()).await;
    let mut add = client("ssh-add");
    add.arg("-q").arg(world.path("id"));
    let added = run(add.env("SSH_AUTH_SOCK", &socket)).await;
    assert!(added.status.success(), "{added:?}");
    (child, socket.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_far_end_has_the_keys_of_the_client() {
    if !have(&["ssh", "ssh-agent", "ssh-add"]) {
        return;
    }
    let world = World::start().await;
    let (_agent, socket) = agent(&world).await;
    let identity = format!("IdentityAgent={socket}");
    let here = stdout(client("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &socket)).await;

    let far = "echo $SSH_AUTH_SOCK; for n in 1 2 3 4 5 6 7 8; do ssh-add -l & done; wait";
    let text = stdout(&mut world.ssh(["-A", "-o", &identity, "sshd", far])).await;
    let (path, keys) = text.split_once('\n').unwrap();
    assert_eq!(keys, here.repeat(8));
    // Nothing is left of it.
    let directory = Path::new(path).parent().unwrap();
    assert!(
        path.starts_with("/tmp/ssh-") && path.contains("/agent."),
        "{path}"
    );
    until(|| (!directory.exists()).then_some(())).await;

    // From there on, to the next server.
    let next = format!(
        "ssh -A -F {} -o IdentityAgent=$SSH_AUTH_SOCK -o IdentityFile=none sshd ssh-add -l",
        world.config().display()
    );
    let text = stdout(&mut world.ssh(["-A", "-o", &identity, "sshd", &next])).await;
    assert_eq!(text, here);
    let unset = "echo ${SSH_AUTH_SOCK-unset}";
    let text = stdout(&mut world.ssh(["-a", "-o", &identity, "sshd", unset])).await;
    assert_eq!(text, "unset\n");
}

/// The sessions of a connection share one socket, which lives as long as the connection.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_share_one_socket() {
    let world = World::start().await;
    let mut client = Client::connect(&world).await;
    let mut paths = Vec::new();
    for session in 0..3 {
        client.send(&open("session", 1 << 20, b"")).await;
        let confirmation = client.recv().await;
        assert_eq!(confirmation[0], msg::CHANNEL_OPEN_CONFIRMATION);
        client.theirs = Reader::new(&confirmation[5..]).u32().unwrap();
        // The first request makes the socket; others are refused, and yet have it, as has who does not ask.
        if session < 2 {
            assert_eq!(client.ask(REQUEST, b"").await, session == 0);
            assert!(!client.ask(REQUEST, b"").await);
        }
        let command = string("echo $SSH_AUTH_SOCK");
        assert!(client.ask("exec", &command).await);
        let (output, ..) = client.rest().await;
        client.send_to_channel(msg::CHANNEL_CLOSE, b"").await;
        paths.push(String::from_utf8(output).unwrap());
    }
    assert_eq!((&paths[0], &paths[1]), (&paths[1], &paths[2]));
    let path = Path::new(paths[0].trim_end());
    let directory = path.parent().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(directory), mode(path)), (0o700, 0o600));

    // No session is left; whoever connects still reaches the client, who may refuse.
    for taken in [true, false] {
        let mut socket = UnixStream::connect(path).await.unwrap();
        let offer = client.recv().await;
        let mut fields = Reader::new(&offer[1..]);
        assert_eq!(offer[0], msg::CHANNEL_OPEN);
        assert_eq!(fields.string().unwrap(), b"auth-agent@openssh.com");
        client.theirs = fields.u32().unwrap();
        assert_eq!(fields.rest(), b"\0\x01\0\0\0\0\x40\0");
        let mut answer = [0; 3];
        if taken {
            let mut ours = Vec::new();
            ours.put_uint32(OURS).put_uint32(1000).put_uint32(1000);
            client
                .send_to_channel(msg::CHANNEL_OPEN_CONFIRMATION, &ours)
                .await;
            socket.write_all(b"question").await.unwrap();
            assert_eq!(&client.recv().await[9..], b"question");
            client.data(b"yes").await;
            let read = timeout(DEADLINE, socket.read_exact(&mut answer)).await;
            assert_eq!((read.unwrap().unwrap(), &answer), (3, b"yes"));
            drop(socket);
            client.send_to_channel(msg::CHANNEL_CLOSE, b"").await;
            client.rest().await;
        } else {
            let mut why = Vec::new();
            why.put_uint32(1).put_string("no").put_string("");
            client
                .send_to_channel(msg::CHANNEL_OPEN_FAILURE, &why)
                .await;
            let read = timeout(DEADLINE, socket.read(&mut answer)).await.unwrap();
            assert!(matches!(read, Ok(0) | Err(_)));
        }
    }
    assert!(directory.exists());
    drop(client);
    until(|| (!directory.exists()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_takes_its_sockets_along() {
    if !have(&["ssh", "ssh-agent", "ssh-add"]) {
        return;
    }
    let world = World::start().await;
    let (_agent, socket) = agent(&world).await;
    let mut command = world.ssh(["-A", "-o", &format!("IdentityAgent={socket}"), "sshd"]);
    let mut child = command
        .arg("echo $SSH_AUTH_SOCK; cat")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut path = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let read = timeout(DEADLINE, output.read_line(&mut path)).await;
    read.unwrap().unwrap();
    let path = PathBuf::from(path.trim_end());
    assert!(path.exists());
    world.sshd.shutdown().await;
    assert!(!path.parent().unwrap().exists());
    finish(child).await;
}
