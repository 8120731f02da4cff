//! The client's own ways to forward: -D, -W, -J, -N, -f, control masters, and what it tells people.

use std::io::{Read as _, Write as _};

use rustix::process::{Pid, Signal};

use super::HELLO;
use crate::common::net::{Peer, connect, exchange, free_port, listening_at, serve};
use crate::common::until;
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {
        // It has no sshd to jump to.
        jump,
    }
    everywhere: {
        socks,
        remote_socks,
        standard_streams,
        local_to_nobody,
        remote_to_nobody,
        remote_port_of_the_far_ends_choice,
        exit_on_forward_failure,
        without_a_command,
        in_the_background,
        without_input,
        control_master,
        control_persist,
        killed_leaves_no_listener,
    }
}

/// Speaks to a SOCKS proxy; returns its answer and, after it, what `host:port` answers.
fn through_socks(proxy: u16, request: &[u8], answer: usize) -> (Vec<u8>, Vec<u8>) {
    let mut socket = connect(proxy);
    if request[0] == 5 {
        socket.write_all(&[5, 1, 0]).expect("the proxy reads");
        let mut method = [0; 2];
        socket.read_exact(&mut method).expect("the proxy answers");
    }
    socket.write_all(request).expect("the proxy reads");
    let mut reply = vec![0; answer];
    if socket.read_exact(&mut reply).is_err() {
        return (b"closed".to_vec(), Vec::new());
    }
    (reply, exchange(socket, HELLO))
}

fn record_socks(seen: &mut Seen, proxy: u16) {
    let echo = serve(Peer::Echo).to_be_bytes();
    let closed = free_port().to_be_bytes();
    for (which, port) in [("echo", echo), ("closed", closed)] {
        let v4 = [&[4, 1][..], &port, &[127, 0, 0, 1], b"user\0"].concat();
        let v4a = [&[4, 1][..], &port, &[0, 0, 0, 1], b"\0localhost\0"].concat();
        let address = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &port].concat();
        let name = [&[5, 1, 0, 3, 9][..], b"localhost", &port].concat();
        let six = [&[5, 1, 0, 4][..], &[0; 15], &[1], &port].concat();
        for (label, request, answer) in [
            ("4", v4, 8),
            ("4a", v4a, 8),
            ("5, address", address, 10),
            ("5, name", name, 10),
            ("5, IPv6", six, 10),
        ] {
            if which == "closed" {
                let mut socket = connect(proxy);
                if request[0] == 5 {
                    socket.write_all(&[5, 1, 0]).expect("the proxy reads");
                }
                socket.write_all(&request).expect("the proxy reads");
                let mut all = Vec::new();
                let _reset = socket.read_to_end(&mut all);
                seen.bytes(&format!("SOCKS {label} to nobody"), &all);
                continue;
            }
            if label == "5, IPv6" {
                // Our echo listens on IPv4 only.
                continue;
            }
            let (reply, echoed) = through_socks(proxy, &request, answer);
            seen.bytes(&format!("SOCKS {label}: reply"), &reply);
            seen.bytes(&format!("SOCKS {label}: echo"), &echoed);
        }
    }
}

fn socks(world: &World, seen: &mut Seen) {
    let port = free_port();
    let _ssh = world.forwarding(&["-D", &format!("127.0.0.1:{port}")]);
    record_socks(seen, port);
}

/// `-R PORT`: the far end's connections speak SOCKS to the client.
fn remote_socks(world: &World, seen: &mut Seen) {
    let port = free_port();
    let _ssh = world.forwarding(&["-R", &format!("127.0.0.1:{port}")]);
    record_socks(seen, port);
}

fn standard_streams(world: &World, seen: &mut Seen) {
    let (count, greet, closed) = (serve(Peer::CountAfterEof), serve(Peer::Greet), free_port());
    seen.hide(closed, "<closed>");
    for (label, port) in [("count", count), ("greet", greet), ("closed", closed)] {
        let run = world.ssh(
            &["-o", "LogLevel=INFO", "-W", &format!("127.0.0.1:{port}")],
            "",
        );
        let output = run.stdin(vec![1; 3 << 20]).output();
        seen.note(&format!("-W {label}: status"), output.code);
        seen.bytes(&format!("-W {label}: stdout"), &output.stdout);
        seen.note(&format!("-W {label}: stderr"), informed(&output.stderr));
    }
}

/// What ssh says to people, without its remark on known hosts, of which these tests keep no file.
fn informed(stderr: &str) -> String {
    let lines = stderr
        .lines()
        .filter(|line| !line.contains("Permanently added"));
    lines.collect::<Vec<_>>().join("\n")
}

fn local_to_nobody(world: &World, seen: &mut Seen) {
    let closed = free_port();
    seen.hide(closed, "<closed>");
    for host in ["127.0.0.1", "localhost", "nowhere.invalid"] {
        let near = free_port();
        let ssh = world.forwarding(&[
            "-o",
            "LogLevel=INFO",
            "-L",
            &format!("{near}:{host}:{closed}"),
        ]);
        let mut all = Vec::new();
        let _reset = connect(near).read_to_end(&mut all);
        seen.bytes(host, &all);
        let said = until("ssh says so", || {
            let said = informed(&ssh.stderr());
            said.contains("open failed").then_some(said)
        });
        seen.note(host, said);
    }
}

/// The client finds nobody behind its `-R`.
fn remote_to_nobody(world: &World, seen: &mut Seen) {
    let (closed, far) = (free_port(), free_port());
    seen.hide(closed, "<closed>");
    seen.hide(far, "<far>");
    let forward = format!("127.0.0.1:{far}:127.0.0.1:{closed}");
    let ssh = world.forwarding(&["-o", "LogLevel=INFO", "-R", &forward]);
    let mut all = Vec::new();
    let _reset = connect(far).read_to_end(&mut all);
    seen.bytes("read", &all);
    seen.note("stderr", informed(&ssh.stderr()));
}

fn remote_port_of_the_far_ends_choice(world: &World, seen: &mut Seen) {
    let echo = serve(Peer::Echo);
    seen.hide(echo, "<echo>");
    let ssh = world.forwarding(&["-o", "LogLevel=INFO", "-R", &format!("0:127.0.0.1:{echo}")]);
    let said = informed(&ssh.stderr());
    let port = said
        .split_whitespace()
        .find_map(|word| word.parse::<u16>().ok())
        .unwrap_or_else(|| panic!("no port in {said:?}"));
    seen.hide(port, "<allocated>");
    seen.note("stderr", &said);
    seen.bytes("echo", &exchange(connect(port), HELLO));
    seen.note("listens", format!("{:?}", listening_at(port)));
}

fn exit_on_forward_failure(world: &World, seen: &mut Seen) {
    let taken = serve(Peer::Echo);
    seen.hide(taken, "<taken>");
    for exit in ["yes", "no"] {
        let option = format!("ExitOnForwardFailure={exit}");
        let forward = format!("127.0.0.1:{taken}:127.0.0.1:9");
        for direction in ["-R", "-L"] {
            let run = world.ssh(&["-o", &option, direction, &forward], "echo a command");
            seen.run(&format!("{direction} {exit}"), run);
        }
    }
}

/// `-N`: no session at all. Ended by a signal, with that status.
fn without_a_command(world: &World, seen: &mut Seen) {
    let (near, far) = (free_port(), free_port());
    let echo = serve(Peer::Echo);
    let options = [
        "-N",
        "-T",
        "-L",
        &format!("{near}:127.0.0.1:{echo}"),
        "-R",
        &format!("{far}:127.0.0.1:{echo}"),
    ];
    let mut ssh = world.ssh(&options, "").piped();
    for port in [near, far] {
        until("the forward listens", || {
            (!listening_at(port).is_empty()).then_some(())
        });
        seen.bytes("echo", &exchange(connect(port), HELLO));
    }
    ssh.signal(Signal::TERM);
    let status = ssh.wait(crate::common::DEADLINE);
    seen.note("status", crate::common::process::code(status));
    seen.note("stderr", ssh.stderr());
    until("the far end listens no more", || {
        listening_at(far).is_empty().then_some(())
    });
}

/// `-f`: into the background once it is logged in and forwards.
fn in_the_background(world: &World, seen: &mut Seen) {
    let (near, pid_file) = (free_port(), world.text("pid"));
    let echo = serve(Peer::Echo);
    let forward = format!("{near}:127.0.0.1:{echo}");
    let output = world
        .ssh(
            &["-f", "-o", "ExitOnForwardFailure=yes", "-L", &forward],
            &format!("echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 1000"),
        )
        .output();
    seen.output("-f", &output);
    let text = until("the command runs", || {
        std::fs::read_to_string(&pid_file).ok()
    });
    seen.bytes("echo", &exchange(connect(near), HELLO));
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    // The command's end is the end of the client in the background.
    let pid = pid.expect("the shell's process id");
    rustix::process::kill_process(pid, Signal::TERM).expect("the command runs");
    until("the client in the background ends", || {
        listening_at(near).is_empty().then_some(())
    });
    seen.note("afterwards", "gone");
}

/// `-n`: the command gets nothing to read, whatever there is.
fn without_input(world: &World, seen: &mut Seen) {
    let run = world.ssh(&["-n"], "wc -c; echo done >&2; exit 3");
    seen.run("-n", run.stdin("not for the command"));
    let run = world.ssh(&["-T"], "wc -c; tty; exit 4");
    seen.run("-T", run.stdin("for the command"));
}

fn control_master(world: &World, seen: &mut Seen) {
    let socket = world.text("control");
    let master = world.master(&socket);
    seen.hide(master.id(), "<master>");
    let (near, far, taken) = (free_port(), free_port(), serve(Peer::Echo));
    for (port, name) in [(near, "<near>"), (far, "<far>"), (taken, "<echo>")] {
        seen.hide(port, name);
    }
    let local = format!("{near}:127.0.0.1:{taken}");
    let remote = format!("127.0.0.1:{far}:127.0.0.1:{taken}");
    let refused = format!("127.0.0.1:{taken}:127.0.0.1:9");
    let steps: [(&str, &[&str]); 9] = [
        ("check", &[]),
        ("forward", &["-L", &local]),
        ("forward", &["-R", &remote]),
        ("forward", &["-R", &refused]),
        ("forward", &["-D", &format!("{}", free_port())]),
        ("cancel", &["-R", &remote]),
        ("cancel", &["-R", &remote]),
        ("cancel", &["-L", &local]),
        ("forward", &["-R", &remote]),
    ];
    for (n, (command, options)) in steps.into_iter().enumerate() {
        let run = world.control(&socket, command, options);
        let label = format!("{n} -O {command}");
        let output = run.output();
        seen.note(&format!("{label}: status"), output.code);
        seen.note(&format!("{label}: stderr"), output.stderr.trim_end());
        seen.bytes(&format!("{label}: stdout"), &output.stdout);
        // The client does not wait for the answer to a cancel; a command after it does.
        seen.run("command", world.ssh(&["-S", &socket], "echo out; exit 5"));
        for (name, port) in [("near", near), ("far", far)] {
            seen.note(name, format!("{:?}", listening_at(port)));
        }
    }
    seen.bytes("echo", &exchange(connect(far), HELLO));
    seen.run("stop", world.control(&socket, "stop", &[]));
    seen.run("check", world.control(&socket, "check", &[]));
    seen.note("stderr of the master", master.stderr());
}

/// The master stays after the first session, serves the next one, and goes when told to.
fn control_persist(world: &World, seen: &mut Seen) {
    let socket = world.text("control");
    let options = ["-M", "-S", &socket, "-o", "ControlPersist=600"];
    seen.run("first", world.ssh(&options, "echo first; exit 3"));
    seen.run(
        "second",
        world.ssh(&["-S", &socket], "cat; exit 4").stdin("input"),
    );
    let output = world.control(&socket, "check", &[]).ok();
    let pid = output
        .stderr
        .split(|c: char| !c.is_ascii_digit())
        .find_map(|word| word.parse().ok().and_then(Pid::from_raw))
        .expect("check tells the master's process id");
    seen.run("exit", world.control(&socket, "exit", &[]));
    until("the master ends", || {
        rustix::process::test_kill_process(pid)
            .is_err()
            .then_some(())
    });
    seen.file("control socket", &world.path("control"));
}

/// `-J`: through one ssh connection to another sshd, which is the same one.
fn jump(world: &World, seen: &mut Seen) {
    let sshd = world.sshd.as_ref().expect("a real sshd");
    let config = world.path("config");
    let text = format!(
        "Host jump\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n\
         Host inner\n  HostName 127.0.0.1\n  Port {}\n  IdentityFile {}\n  ProxyJump jump\n\
         Host *\n  BatchMode yes\n  IdentitiesOnly yes\n  IdentityAgent none\n  LogLevel ERROR\n  \
         StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  GlobalKnownHostsFile /dev/null\n",
        world.target.port,
        world.target.user,
        world.target.identity.display(),
        sshd.port,
        sshd.identity.display(),
    );
    std::fs::write(&config, text).expect("our own directory");
    let ssh = |host: &str, command: &str| {
        crate::common::process::Run::new("ssh")
            .arg("-F")
            .arg(&config)
            .args([host, command])
    };
    seen.run("a command", ssh("inner", "echo out; echo err >&2; exit 7"));
    let input = vec![3; 2 << 20];
    seen.run("bytes", ssh("inner", "cat; exit 8").stdin(input));
    seen.run("killed", ssh("inner", "kill -KILL $$"));
}

/// kill -9 of a client with forwards: nobody listens at the far end any more.
fn killed_leaves_no_listener(world: &World, seen: &mut Seen) {
    let ports: Vec<_> = (0..5).map(|_| free_port()).collect();
    let forwards: Vec<_> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}:127.0.0.1:9"))
        .collect();
    let options: Vec<_> = forwards
        .iter()
        .flat_map(|forward| ["-R", forward])
        .collect();
    let ssh = world.forwarding(&options);
    seen.note("listeners", listening_at(ports[4]).len());
    // A session that is dropped is killed.
    drop(ssh);
    for port in ports {
        until("nobody listens", || {
            listening_at(port).is_empty().then_some(())
        });
    }
    seen.note("afterwards", "gone");
}
