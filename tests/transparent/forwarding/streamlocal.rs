//! Unix sockets, both ways: OpenSSH PROTOCOL §2.4.

use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use ssmshim::ssh::wire::{WriteExt as _, msg};

use super::{HELLO, open_streamlocal, record_end};
use crate::common::net::{Peer, connect_unix, exchange, serve_unix};
use crate::common::until;
use crate::common::world::World;
use crate::raw::{Heard, PACKET, Raw, WINDOW};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded sshd's words for a path it cannot use are its own.
        impossible_paths,
        forward_at_impossible_paths,
        malformed,
        // It takes its socket away when the client goes; sshd leaves it behind.
        gone_with_the_client,
        cancelled,
        openssh_cancels,
    }
    everywhere: {
        accepted_or_refused,
        to_a_socket,
        from_a_socket,
        openssh_both_ways,
        taken,
    }
}

mod unlinking {
    //! `StreamLocalBindUnlink yes`: what is in the way goes, and the mask decides on the mode.

    crate::differential! {
        sshd: "StreamLocalBindUnlink yes\nStreamLocalBindMask 0117",
        compared: { taken, from_a_socket, gone_with_the_client }
        everywhere: {}
    }
    use super::{from_a_socket, gone_with_the_client, taken};
}

const FORWARD: &str = "streamlocal-forward@openssh.com";
const CANCEL: &str = "cancel-streamlocal-forward@openssh.com";

fn ask(client: &mut Raw, name: &str, path: impl AsRef<[u8]>) -> Heard {
    client.global(name, true, |request| {
        request.put_string(path);
    });
    client.next()
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn accepted_or_refused(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let paths = ["listening", "left behind", "plain file", "missing"].map(|name| world.path(name));
    serve_unix(Peer::Echo, &paths[0]);
    drop(UnixListener::bind(&paths[1]).expect("our own directory"));
    std::fs::write(&paths[2], "text").expect("our own directory");
    for (number, path) in (0..).zip(&paths) {
        open_streamlocal(&mut client, number, bytes(path));
        let heard = client.next();
        seen.note(&format!("path {number}"), heard.to_text());
        if let Heard::Confirmed { sender, .. } = heard {
            client.close(sender);
            client.record_until_close(seen, "closed", number);
        }
    }
    client.record_until_settled(seen, "after");
}

fn impossible_paths(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let long = [b'/'; 200];
    let directory = world.path("");
    let paths: [&[u8]; 5] = [b"", b"/", bytes(&directory), &long, b"/\xff\xfe"];
    for (number, path) in (0..).zip(paths) {
        open_streamlocal(&mut client, number, path);
        let heard = client.next();
        seen.note(&format!("path {number}"), heard.to_text());
    }
    client.record_until_settled(seen, "after");
}

fn forward_at_impossible_paths(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let long = [b'/'; 200];
    let directory = world.path("");
    let missing = world.path("missing/socket");
    let paths: [&[u8]; 5] = [b"", b"/", bytes(&directory), &long, bytes(&missing)];
    for (number, path) in paths.into_iter().enumerate() {
        for name in [FORWARD, CANCEL] {
            let reply = ask(&mut client, name, path);
            seen.note(&format!("{name}: path {number}"), reply.to_text());
        }
    }
    client.record_until_settled(seen, "after");
}

fn malformed(world: &World, seen: &mut Seen) {
    for name in [FORWARD, CANCEL] {
        for (label, fields) in [("no path", &[][..]), ("a NUL", b"\0\0\0\x04/\0/a")] {
            let mut client = Raw::connect(world);
            client.global(name, true, |request| {
                request.put_raw(fields);
            });
            client.record_until_settled(seen, &format!("{name}: {label}"));
        }
    }
    let mut client = Raw::connect(world);
    client.open("direct-streamlocal@openssh.com", 0, |open| {
        open.put_string("/nowhere");
    });
    client.record_until_settled(seen, "no reserved fields");
}

/// Bytes and both ends, as messages.
fn to_a_socket(world: &World, seen: &mut Seen) {
    let path = world.path("socket");
    serve_unix(Peer::CountAfterEof, &path);
    let mut client = Raw::connect(world);
    open_streamlocal(&mut client, 3, bytes(&path));
    let heard = client.next();
    seen.note("opened", heard.to_text());
    let Heard::Confirmed {
        sender: channel, ..
    } = heard
    else {
        panic!("not accepted: {heard:?}");
    };
    client.data(channel, &[7; 30_000]);
    client.eof(channel);
    client.record_until_close(seen, "counted", 3);
    client.close(channel);
    client.record_until_settled(seen, "after");
}

/// What the client is told of a connection to the socket, whose mode is recorded.
fn from_a_socket(world: &World, seen: &mut Seen) {
    let path = world.path("socket");
    let mut client = Raw::connect(world);
    let reply = ask(&mut client, FORWARD, bytes(&path));
    seen.note("reply", reply.to_text());
    seen.file("socket", &path);
    for number in 70..72 {
        let mut socket = connect_unix(&path);
        let heard = client.next();
        seen.note("offered", heard.to_text());
        let Heard::Open { sender, .. } = heard else {
            panic!("no connection: {heard:?}");
        };
        if number == 71 {
            client.send(msg::CHANNEL_OPEN_FAILURE, |refusal| {
                refusal
                    .put_uint32(sender)
                    .put_uint32(2)
                    .put_string("no")
                    .put_string("");
            });
            record_end(seen, "refused", &mut socket);
            continue;
        }
        client.send(msg::CHANNEL_OPEN_CONFIRMATION, |confirm| {
            confirm
                .put_uint32(sender)
                .put_uint32(number)
                .put_uint32(WINDOW)
                .put_uint32(PACKET);
        });
        socket.write_all(HELLO).expect("the far end reads");
        client.record(seen, "to us", |heard| matches!(heard, Heard::Data { .. }));
        client.data(sender, HELLO);
        let mut back = vec![0; HELLO.len()];
        socket.read_exact(&mut back).expect("our bytes come");
        client.eof(sender);
        record_end(seen, "our end", &mut socket);
        drop(socket);
        client.record_until_close(seen, "closed", number);
        client.close(sender);
    }
    client.record_until_settled(seen, "after");
}

/// A path where something is already, and the same path asked for twice.
fn taken(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let [file, own, twice] = ["file", "own", "twice"].map(|name| world.path(name));
    std::fs::write(&file, "text").expect("our own directory");
    serve_unix(Peer::Echo, &own);
    for (label, path) in [
        ("a file", &file),
        ("somebody's socket", &own),
        ("free", &twice),
        ("the same again", &twice),
    ] {
        let reply = ask(&mut client, FORWARD, bytes(path));
        seen.note(label, reply.to_text());
        seen.file(label, path);
    }
    client.record_until_settled(seen, "after");
}

fn cancelled(world: &World, seen: &mut Seen) {
    let path = world.path("socket");
    let mut client = Raw::connect(world);
    for (label, name) in [
        ("cancel unknown", CANCEL),
        ("forward", FORWARD),
        ("cancel", CANCEL),
        ("cancel again", CANCEL),
        ("forward again", FORWARD),
    ] {
        let reply = ask(&mut client, name, bytes(&path));
        seen.note(label, reply.to_text());
        seen.file(label, &path);
        let connects = std::os::unix::net::UnixStream::connect(&path);
        seen.note("somebody listens", connects.is_ok());
        if connects.is_ok() {
            let heard = client.next();
            seen.note("offered", heard.to_text());
        }
    }
}

/// Nobody listens any more; what is left of the socket is sshd's affair.
fn gone_with_the_client(world: &World, seen: &mut Seen) {
    let path = world.path("socket");
    let mut client = Raw::connect(world);
    let reply = ask(&mut client, FORWARD, bytes(&path));
    assert_eq!(reply, Heard::GlobalSuccess(Vec::new()));
    drop(client);
    until("nobody listens", || {
        std::os::unix::net::UnixStream::connect(&path)
            .is_err()
            .then_some(())
    });
    seen.file("left", &path);
    let mut client = Raw::connect(world);
    let reply = ask(&mut client, FORWARD, bytes(&path));
    seen.note("the next client", reply.to_text());
}

fn openssh_both_ways(world: &World, seen: &mut Seen) {
    let [here, there] = ["here", "there"].map(|name| world.text(name));
    serve_unix(Peer::CountAfterEof, &world.path("far server"));
    serve_unix(Peer::CountAfterEof, &world.path("near server"));
    let ssh = world.forwarding(&[
        "-L",
        &format!("{here}:{}", world.text("far server")),
        "-R",
        &format!("{there}:{}", world.text("near server")),
    ]);
    for (label, path) in [("-L", &here), ("-R", &there)] {
        let answer = exchange(connect_unix(Path::new(path)), &vec![1; 3 << 20]);
        seen.bytes(label, &answer);
    }
    seen.note("stderr", ssh.stderr());
}

/// `ssh -O cancel -R PATH`: nobody listens, and the next forward of the same path.
fn openssh_cancels(world: &World, seen: &mut Seen) {
    let socket = world.text("control");
    let master = world.master(&socket);
    let there = world.path("there");
    serve_unix(Peer::Echo, &world.path("near"));
    let forward = format!("{}:{}", there.display(), world.text("near"));
    for command in ["forward", "cancel", "forward"] {
        seen.run(command, world.control(&socket, command, &["-R", &forward]));
        // The client does not wait for the answer to a cancel; a command after it does.
        seen.run("a command", world.ssh(&["-S", &socket], "true"));
        seen.file(command, &there);
    }
    seen.note("stderr", master.stderr());
}
