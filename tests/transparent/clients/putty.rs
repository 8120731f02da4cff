//! PuTTY: `plink`, `pscp`, `psftp`.

use std::path::PathBuf;
use std::time::Duration;

use super::sftp_versions;
use crate::common::files::{make_tree, write_file};
use crate::common::flow::Pattern;
use crate::common::have;
use crate::common::net::{Peer, connect, exchange, free_port, serve};
use crate::common::process::{Run, read_until};
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server has displays.
        refusals,
    }
    everywhere: {
        commands,
        bulk,
        compressed,
        terminal,
        subsystem,
        netcat,
        forwards,
        copies_by_scp,
        copies_by_sftp,
        batch,
    }
}

/// What PuTTY needs to know of a server, in its own formats.
struct Putty<'a> {
    world: &'a World,
    key: PathBuf,
    fingerprint: String,
}

impl<'a> Putty<'a> {
    /// `None` where it is not installed.
    fn new(world: &'a World, seen: &mut Seen) -> Option<Self> {
        if !["plink", "pscp", "psftp", "puttygen"].into_iter().all(have) {
            seen.note("skipped", "putty");
            return None;
        }
        let key = world.path("key.ppk");
        Run::new("puttygen")
            .arg(&world.target.identity)
            .args(["-O", "private", "-o"])
            .arg(&key)
            .ok();
        let host_key = Run::new("ssh-keyscan")
            .args([
                "-t",
                "ed25519",
                "-p",
                &world.target.port.to_string(),
                "127.0.0.1",
            ])
            .ok();
        let fingerprint = Run::new("ssh-keygen")
            .args(["-lf", "-"])
            .stdin(host_key.stdout)
            .ok();
        let fingerprint = fingerprint.text();
        let fingerprint = fingerprint.split(' ').nth(1).expect("a fingerprint");
        Some(Self {
            world,
            key,
            fingerprint: fingerprint.to_owned(),
        })
    }

    fn run(&self, program: &str, options: &[&str]) -> Run {
        Run::new(program)
            .args(["-batch", "-noagent", "-hostkey", &self.fingerprint, "-i"])
            .arg(&self.key)
            .args(["-P", &self.world.target.port.to_string()])
            .args(options)
            // It keeps files of its own there.
            .env("HOME", self.world.path(""))
    }

    fn plink(&self, options: &[&str], command: &[&str]) -> Run {
        self.run("plink", options)
            .arg(self.world.target.host())
            .args(command)
    }
}

fn commands(world: &World, seen: &mut Seen) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    for command in [
        "true",
        "exit 255",
        "no-such-command-anywhere",
        "echo out; echo err >&2; exit 3",
        "printf '\\000\\377'; printf '\\377\\000' >&2",
        "kill -TERM $$",
        "kill -KILL $$",
        "cat; exit 4",
    ] {
        let run = putty.plink(&["-ssh", "-T"], &[command]).stdin("some input");
        seen.run(command, run);
    }
    // Its shell, without a terminal.
    let run = putty
        .plink(&["-T"], &[])
        .stdin("echo from a shell; exit 5\n");
    seen.run("shell", run);
}

fn bulk(world: &World, seen: &mut Seen) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    let bytes = noise(80);
    seen.run("both ways", putty.plink(&[], &["cat; exit 6"]).stdin(bytes));
    let command = "head -c 9000000 /dev/zero; echo end >&2";
    seen.run("down", putty.plink(&[], &[command]));
    seen.run("cut", putty.plink(&[], &["yes | head -c 3000000"]));
}

fn compressed(world: &World, seen: &mut Seen) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    seen.run("noise", putty.plink(&["-C"], &["cat"]).stdin(noise(20)));
    let command = "yes the same again | head -c 3000000";
    seen.run("text", putty.plink(&["-C"], &[command]));
}

fn terminal(world: &World, seen: &mut Seen) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    let command = "tty -s && echo a terminal; echo $TERM; stty size; exit 8";
    let run = putty.plink(&["-t"], &[command]).env("TERM", "vt100");
    seen.run("at a terminal", run);
}

/// A subsystem by name, which answers to its protocol's first message, and one that nobody has.
fn subsystem(world: &World, seen: &mut Seen) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    sftp_versions(seen, putty.plink(&["-s"], &["sftp"]));
    seen.run("unknown", putty.plink(&["-s"], &["no-such-subsystem"]));
}

/// `-nc`: a direct-tcpip channel instead of a session.
fn netcat(world: &World, seen: &mut Seen) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    let to = |port: u16| format!("127.0.0.1:{port}");
    let echo = to(serve(Peer::Echo));
    let count = to(serve(Peer::CountAfterEof));
    let greet = to(serve(Peer::Greet));
    seen.run("echo", putty.plink(&["-nc", &echo], &[]).stdin(noise(16)));
    seen.run(
        "half-close",
        putty.plink(&["-nc", &count], &[]).stdin(noise(3)),
    );
    seen.run("greeting", putty.plink(&["-nc", &greet], &[]));
    let nobody = free_port();
    seen.hide(nobody, "<nobody>");
    seen.run("refused", putty.plink(&["-nc", &to(nobody)], &[]));
}

/// All three kinds at once, each used while a command runs.
fn forwards(world: &World, seen: &mut Seen) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    let (local, remote, dynamic) = (free_port(), free_port(), free_port());
    let echo = serve(Peer::Echo);
    let to = |port: u16| format!("{port}:127.0.0.1:{echo}");
    let options = [
        "-L",
        &to(local),
        "-R",
        &to(remote),
        "-D",
        &dynamic.to_string(),
    ];
    let command = "echo ready; cat; echo done";
    let mut plink = putty.plink(&options, &[command]).piped();
    let stdin = plink.take_stdin();
    let said = read_until(plink.take_stdout(), "ready");
    assert!(said.is_some(), "not ready: {}", plink.stderr());
    let bytes = noise(8);
    seen.bytes("local", &exchange(connect(local), &bytes));
    seen.bytes("remote", &exchange(connect(remote), &bytes));
    let socks = crate::common::net::socks5(dynamic, "localhost", echo);
    seen.bytes("dynamic", &exchange(socks, &bytes));
    drop(stdin);
    seen.note("ended", plink.wait(Duration::from_secs(60)));
    seen.bytes("stderr", plink.stderr().as_bytes());
}

fn refusals(world: &World, seen: &mut Seen) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    let taken = serve(Peer::Echo);
    seen.hide(taken, "<taken>");
    let forward = format!("127.0.0.1:{taken}:127.0.0.1:1");
    // It goes on without the forward, and says so when it is asked to be talkative.
    let run = putty.plink(&["-v", "-R", &forward], &["echo works"]);
    let output = run.output();
    seen.bytes("stdout", &output.stdout);
    // sshd's SSH_MSG_DEBUG is about the login there, which is ours.
    let is_told = |line: &&str| line.contains("orward") && !line.contains("debug message");
    let told: Vec<_> = output.stderr.lines().filter(is_told).collect();
    assert!(!told.is_empty(), "{}", output.stderr);
    seen.note("told", told.join("\n"));
    seen.run(
        "x11",
        putty
            .plink(&["-X"], &["echo -$DISPLAY-"])
            .env("DISPLAY", ":77"),
    );
}

/// `pscp` in both of its protocols.
fn copies_by_scp(world: &World, seen: &mut Seen) {
    copies(world, seen, "-scp");
}

fn copies_by_sftp(world: &World, seen: &mut Seen) {
    copies(world, seen, "-sftp");
}

fn copies(world: &World, seen: &mut Seen, protocol: &str) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    let tree = world.path("tree");
    std::fs::create_dir(&tree).expect("our own directory");
    make_tree(&tree);
    // It has no notion of links.
    std::fs::remove_file(tree.join("link")).expect("our own file");
    let host = world.target.host();
    let remote = |name: &str| format!("{host}:{}", world.text(name));
    let pscp = |from: &str, to: &str| putty.run("pscp", &[protocol, "-q", "-r", "-p", from, to]);
    seen.run("up", pscp(&world.text("tree"), &remote("there")));
    seen.tree("there", &world.path("there"));
    seen.run("down", pscp(&remote("there"), &world.text("back")));
    seen.tree("back", &world.path("back"));
    seen.run("missing", pscp(&remote("none"), &world.text("back")));
    let into_file = pscp(&world.text("tree"), &remote("there/empty/x"));
    seen.run("nowhere", into_file);
}

/// A script for `psftp`, its output with the names and sizes that `ls` shows.
fn batch(world: &World, seen: &mut Seen) {
    let Some(putty) = Putty::new(world, seen) else {
        return;
    };
    write_file(&world.path("here"), 3_000_001, 5);
    let top = world.text("top");
    let script = format!(
        "mkdir {top}\ncd {top}\npwd\nlcd {here}\nput here there\nreput here there\nmv there moved\n\
         get moved back\nreget moved back\nchmod 640 moved\nmkdir sub\nrmdir sub\nget none\ncd none\n\
         rm moved\nrm moved\n!echo local\nquit\n",
        here = world.text(""),
    );
    let run = putty.run("psftp", &["-be"]).arg(world.target.host());
    let output = run.stdin(script).output();
    // The greeting names the remote directory that a login begins in.
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let rest = shown
        .lines()
        .filter(|line| !line.starts_with("Remote working directory"));
    seen.note("stdout", rest.collect::<Vec<_>>().join("\n"));
    seen.note("status", output.code);
    seen.bytes("stderr", output.stderr.as_bytes());
    seen.file("back", &world.path("back"));
    seen.tree("top", &world.path("top"));
}

/// Incompressible bytes, in units of 64 KiB.
fn noise(chunks: u64) -> Vec<u8> {
    let pattern = Pattern::new(29);
    (0..chunks).flat_map(|index| pattern.chunk(index)).collect()
}
