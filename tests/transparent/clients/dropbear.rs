//! Dropbear's client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sftp_versions;
use crate::common::flow::Pattern;
use crate::common::have;
use crate::common::net::{Peer, connect, exchange, free_port, serve};
use crate::common::process::{Run, read_until};
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        commands,
        bulk,
        windows,
        algorithms,
        terminal,
        subsystem,
        netcat,
        forwards,
        refusals,
        keepalive,
        as_the_program_of_others,
    }
}

/// `dbclient` with the key in its own format; `None` where it is not installed.
fn key(world: &World, seen: &mut Seen) -> Option<PathBuf> {
    if !have("dbclient") || !have("dropbearconvert") {
        seen.note("skipped", "dropbear");
        return None;
    }
    let key = world.path("id_dropbear");
    Run::new("dropbearconvert")
        .args(["openssh", "dropbear"])
        .args([&world.target.identity, &key])
        .ok();
    Some(key)
}

/// What goes before the options of a case.
fn usual(world: &World, key: &Path) -> Vec<String> {
    let port = world.target.port.to_string();
    // Twice: host keys are not looked at.
    let mut options: Vec<_> = ["-y", "-y", "-p", &port, "-i"].map(str::to_owned).into();
    options.push(key.display().to_string());
    options
}

fn dbclient(world: &World, seen: &mut Seen, options: &[&str], command: &[&str]) -> Option<Run> {
    let key = key(world, seen)?;
    let run = Run::new("dbclient")
        .args(usual(world, &key))
        .args(options)
        .arg(world.target.host())
        .args(command)
        .env("HOME", world.path(""));
    Some(run)
}

/// Runs it and records what its user sees, but its warning that host keys are not looked at.
fn run(world: &World, seen: &mut Seen, label: &str, options: &[&str], command: &str, stdin: &[u8]) {
    let command: &[&str] = if command.is_empty() { &[] } else { &[command] };
    let Some(run) = dbclient(world, seen, options, command) else {
        return;
    };
    let mut output = run.stdin(stdin).output();
    output.stderr = without_warning(&output.stderr);
    seen.output(label, &output);
}

fn without_warning(stderr: &str) -> String {
    let warned = "Caution, skipping hostkey check for 127.0.0.1";
    let lines = stderr.lines().filter(|line| !line.contains(warned));
    lines.collect::<Vec<_>>().join("\n")
}

fn commands(world: &World, seen: &mut Seen) {
    for command in [
        "true",
        "exit 255",
        "no-such-command-anywhere",
        "echo out; echo err >&2; exit 3",
        "printf '\\000\\377'; printf '\\377\\000' >&2",
        "kill -TERM $$",
        "kill -KILL $$",
        "cat; exit 4",
        "wc -c",
    ] {
        run(world, seen, command, &["-T"], command, b"some input");
    }
    let script = b"echo from a shell; exit 5\n";
    run(world, seen, "shell", &["-T"], "", script);
}

fn bulk(world: &World, seen: &mut Seen) {
    run(world, seen, "both ways", &[], "cat; exit 6", &noise(64));
    let command = "head -c 5000000 /dev/zero; echo end >&2";
    run(world, seen, "down", &[], command, b"");
}

/// Windows far from OpenSSH's, from half a packet to 10 MiB.
fn windows(world: &World, seen: &mut Seen) {
    for window in ["1000", "16384", "10000000"] {
        let options = ["-W", window];
        run(
            world,
            seen,
            window,
            &options,
            "cat; echo err >&2",
            &noise(12),
        );
    }
}

fn algorithms(world: &World, seen: &mut Seen) {
    for cipher in ["aes128-ctr", "aes256-ctr", "chacha20-poly1305@openssh.com"] {
        run(world, seen, cipher, &["-c", cipher], "cat", &noise(4));
    }
    run(
        world,
        seen,
        "hmac-sha2-256",
        &["-m", "hmac-sha2-256"],
        "cat",
        &noise(4),
    );
    // What neither sshd nor we have.
    let Some(refused) = dbclient(world, seen, &["-m", "hmac-md5"], &["true"]) else {
        return;
    };
    seen.note("no common algorithm", refused.output().code);
}

fn terminal(world: &World, seen: &mut Seen) {
    let command = "tty -s && echo a terminal; stty size; exit 8";
    run(world, seen, "at a terminal", &["-t"], command, b"");
}

/// It does not ask whether there is such a subsystem, so only one that is there shows anything.
fn subsystem(world: &World, seen: &mut Seen) {
    let Some(client) = dbclient(world, seen, &["-s"], &["sftp"]) else {
        return;
    };
    sftp_versions(seen, client);
}

/// `-B`: a direct-tcpip channel instead of a session.
fn netcat(world: &World, seen: &mut Seen) {
    let to = |peer| format!("127.0.0.1:{}", serve(peer));
    run(
        world,
        seen,
        "echo",
        &["-B", &to(Peer::Echo)],
        "",
        &noise(16),
    );
    run(
        world,
        seen,
        "half-close",
        &["-B", &to(Peer::CountAfterEof)],
        "",
        &noise(3),
    );
    run(world, seen, "greeting", &["-B", &to(Peer::Greet)], "", b"");
    let nobody = free_port();
    seen.hide(nobody, "<nobody>");
    let nobody = format!("127.0.0.1:{nobody}");
    run(world, seen, "refused", &["-B", &nobody], "", b"");
}

fn forwards(world: &World, seen: &mut Seen) {
    let (local, remote) = (free_port(), free_port());
    let to = format!("127.0.0.1:{}", serve(Peer::Echo));
    let options = [
        "-L",
        &format!("{local}:{to}"),
        "-R",
        &format!("{remote}:{to}"),
    ];
    // The client asks for the forwards after the command: the round trip of a line shows that they stand.
    let Some(client) = dbclient(world, seen, &options, &["echo ready; cat"]) else {
        return;
    };
    let mut client = client.piped();
    let stdin = client.take_stdin();
    assert!(read_until(client.take_stdout(), "ready").is_some());
    let bytes = noise(8);
    seen.bytes("local", &exchange(connect(local), &bytes));
    for _ in 0..3 {
        seen.bytes("remote", &exchange(connect(remote), &bytes));
    }
    drop(stdin);
    seen.note("ended", client.wait(Duration::from_secs(60)));
    seen.note("stderr", without_warning(&client.stderr()));
}

fn refusals(world: &World, seen: &mut Seen) {
    let taken = serve(Peer::Echo);
    seen.hide(taken, "<taken>");
    let forward = format!("127.0.0.1:{taken}:127.0.0.1:1");
    let options = ["-o", "ExitOnForwardFailure=yes", "-R", &forward];
    run(
        world,
        seen,
        "taken",
        &options,
        "sleep 5; echo not reached",
        b"",
    );
}

/// Asked for every second while nothing else moves.
fn keepalive(world: &World, seen: &mut Seen) {
    run(
        world,
        seen,
        "quiet",
        &["-K", "1"],
        "sleep 3.3; echo works",
        b"",
    );
}

/// scp and rsync with `dbclient` for their ssh.
fn as_the_program_of_others(world: &World, seen: &mut Seen) {
    let Some(key) = key(world, seen) else { return };
    if !have("rsync") {
        return seen.note("skipped", "rsync");
    }
    let tree = world.path("tree");
    std::fs::create_dir(&tree).expect("our own directory");
    crate::common::files::make_tree(&tree);
    let wrapper = format!("dbclient {}", usual(world, &key).join(" "));
    let rsync = |from: &str, to: &str| {
        Run::new("rsync")
            .args(["-a", "-e", &wrapper, from, to])
            .env("HOME", world.path(""))
    };
    let remote = world.remote(&world.path("there/"));
    let up = rsync(&format!("{}/", tree.display()), &remote).output();
    seen.note("up", up.code);
    seen.tree("there", &world.path("there"));
    let down = rsync(&remote, &world.text("back")).output();
    seen.note("down", down.code);
    seen.tree("back", &world.path("back"));
}

/// Incompressible bytes, in units of 64 KiB.
fn noise(chunks: u64) -> Vec<u8> {
    let pattern = Pattern::new(31);
    (0..chunks).flat_map(|index| pattern.chunk(index)).collect()
}
