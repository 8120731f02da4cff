//! With a daemon that runs already: its SSM session, and what becomes of both.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::daemon::Daemon;
use crate::common::files::{assert_same, sha256_of};
use crate::common::process::{Run, Running, code, read_until};
use crate::common::world::serve_args;
use crate::common::{DEADLINE, until};
use crate::{Near, Way, started, text, three};

#[test]
fn a_name_or_an_id_leads_to_the_daemon() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    for target in [near.target.as_str(), "127.0.0.1"] {
        let proxy = format!(
            "-oProxyCommand={} {target} {}",
            near.proxy().display(),
            near.ssh_port
        );
        let said = near.faulty.world.ssh(&[&proxy], "echo works").ok();
        assert_eq!(said.text(), "works");
        assert_eq!(
            (near.open_sessions(), near.all_sessions()),
            (1, 1),
            "{target}"
        );
    }
    // Another port, or another region, is another matter.
    let port = near.connect(&[&near.target, "1"]).output();
    assert!(
        port.stderr.starts_with("error: nothing listens on port 1"),
        "{port:?}"
    );
    assert_eq!(near.all_sessions(), 2);
    let args = [&near.usual()[..], &["--region", "us-west-2"]].concat();
    let elsewhere = near.connect(&args).stdin("x\n").output();
    assert!(elsewhere.stdout.starts_with(b"SSH-2.0-"), "{elsewhere:?}");
    assert_eq!(near.all_sessions(), 3);
    near.until_tidy();
}

/// The daemon has all that it takes.
#[test]
fn nothing_is_asked_of_aws() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    near.faulty
        .inject(r#"{"fault": "api", "answer": {"failed": {"status": 503}}, "extent": "always"}"#);
    assert_eq!(near.ssh(&[], "echo works").ok().text(), "works");
    near.faulty.faults().clear();
    near.until_tidy();
}

/// A target that a login name has started is ended when nobody uses it, and a stream of our own is use.
#[test]
fn a_stream_is_use() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    let (endpoint, target) = near.faulty.names();
    let identity = text(&near.faulty.world.target.identity);
    let args = [
        "serve",
        "--ssh-port",
        &near.ssh_port,
        "--identity",
        &identity,
        "--idle",
        "1",
    ];
    let environment = crate::common::daemon::aws_environment(&endpoint);
    let user = ["--user", &near.faulty.world.target.user];
    let daemon = Daemon::start(
        &near.path("home"),
        &[&args[..], &user].concat(),
        &environment,
    );
    let before = near.all_sessions();
    // The first of them is the port.
    let options = near.faulty.world.target.options("-p");
    let mut first = Run::new("ssh")
        .arg(format!("-oPort={}", daemon.port()))
        .args(&options[2..])
        .arg(format!("{target}@127.0.0.1"))
        .arg("echo established; exec cat")
        .piped();
    let said = read_until(first.take_stdout(), "established");
    assert!(said.is_some(), "{}", first.stderr());
    let mut ours = near.ssh(&[], "exec cat").piped();
    let (mut stdin, mut stdout) = (ours.take_stdin(), ours.take_stdout());
    let mut echo = || {
        stdin.write_all(b"still here").expect("it reads");
        stdout.read_exact(&mut [0; 10]).expect("it answers");
    };
    echo();
    drop(first);
    let left = Instant::now();
    while left.elapsed() < Duration::from_secs(3) {
        echo();
    }
    assert_eq!(
        near.all_sessions(),
        before + 1,
        "the first one's was shared, and goes on"
    );
    drop(stdin);
    assert_eq!(code(ours.wait(DEADLINE)), 0, "{}", ours.stderr());
    near.until_tidy();
}

#[test]
fn a_socket_goes_with_its_daemon() {
    let Some(mut near) = Near::start(Way::Shared) else {
        return;
    };
    assert_eq!(near.sockets().len(), 1);
    let mode = |path: &std::path::Path| {
        let found = std::fs::metadata(path).expect("it is there");
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode(&near.control()), 0o700);
    drop(near.faulty.world.daemon.take());
    assert!(near.sockets().is_empty(), "{:?}", near.sockets());
}

/// Whoever it carried is told; the next one finds its own way, and takes the socket away.
#[test]
fn a_killed_daemon_is_done_without() {
    let Some(mut near) = Near::start(Way::Shared) else {
        return;
    };
    let mut session = near.session(&[]);
    let mut daemon = near.faulty.world.daemon.take().expect("it is shared");
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert_eq!(code(session.wait(DEADLINE)), 255);
    let said = session.stderr();
    let text = "error: the ssmshim daemon that carried the connection is gone\nhint: ";
    assert!(said.starts_with(text), "{said}");
    assert_eq!(near.sockets().len(), 1, "it could not take it away");
    near.way = Way::Alone;
    assert_eq!(near.ssh(&[], "echo works").ok().text(), "works");
    assert!(near.sockets().is_empty(), "{:?}", near.sockets());
    assert_eq!(near.all_sessions(), 2);
}

#[test]
fn a_daemon_that_stops_says_so() {
    let Some(mut near) = Near::start(Way::Shared) else {
        return;
    };
    let mut session = near.session(&[]);
    let mut daemon = near.faulty.world.daemon.take().expect("it is shared");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().0, 0, "{}", daemon.stderr());
    assert_eq!(code(session.wait(DEADLINE)), 255);
    let said = session.stderr();
    assert!(said.starts_with("error: ssmshim is stopping\n"), "{said}");
}

/// An old agent has a session for each stream, which may not be to be had at once.
#[test]
fn a_stream_that_does_not_open_is_tried_again() {
    let Some(near) = Near::to_agent(Way::Shared, "2.3.722.0") else {
        return;
    };
    // More than the daemon may want for itself.
    near.faulty.inject(
        r#"{"fault": "api", "operation": "StartSession", "answer": {"failed": {"status": 503}}, "extent": {"times": 3}}"#,
    );
    assert_eq!(near.ssh(&[], "echo works").ok().text(), "works");
}

/// One that does not answer is passed over.
#[test]
fn a_daemon_that_hangs_is_done_without() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    near.daemon().signal(Signal::STOP);
    let output = near.ssh(&[], "echo works").output();
    near.daemon().signal(Signal::CONT);
    assert_eq!(output.text(), "works", "{output:?}");
    assert_eq!(near.all_sessions(), 2);
    near.until_tidy();
}

#[test]
fn daemons_live_side_by_side() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    let (endpoint, _) = near.faulty.names();
    let args = serve_args(
        &near.target,
        &near.ssh_port,
        &near.faulty.world.target.identity,
    );
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let environment = crate::common::daemon::aws_environment(&endpoint);
    let second = Daemon::start(&near.path("home"), &args, &environment);
    assert_eq!(near.sockets().len(), 2);
    let before = near.all_sessions();
    let session = near.session(&[]);
    assert_eq!(near.all_sessions(), before);
    drop(second);
    drop(session);
    assert_eq!(near.sockets().len(), 1);
    assert_eq!(near.ssh(&[], "echo works").ok().text(), "works");
    assert_eq!(near.all_sessions(), before);
}

/// What ssh lets a target send in one channel waits for it for as long as it is stopped.
#[test]
fn a_client_that_is_stopped_goes_on() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    let [here, _, back] = three(&near, 16 << 20);
    let kept = File::create(&back).expect("our own directory");
    let command = format!("echo established >&2; cat {}", text(&here));
    let run = near.ssh(&[], &command).stdout_to(kept);
    let mut ssh = run.background();
    until("it has begun", || {
        ssh.stderr().contains("established").then_some(())
    });
    ssh.signal(Signal::STOP);
    // Longer than a client that takes nothing may be waited for by its neighbours.
    for _ in 0..3 {
        near.ssh(&[], "head -c 4000000 /dev/zero").ok();
    }
    ssh.signal(Signal::CONT);
    assert_eq!(code(ssh.wait(DEADLINE)), 0, "{}", ssh.stderr());
    assert_same(&here, &back);
}

/// More than a few channels' worth does not: its connection is ended, and no other one notices.
#[test]
fn a_stalled_client_ends_alone() {
    ends_alone(|_, ssh| pid(ssh));
}

#[test]
fn a_stopped_connect_ends_alone() {
    ends_alone(|near, _| near.latest());
}

fn pid(running: &Running) -> Pid {
    let id = i32::try_from(running.id()).ok();
    id.and_then(Pid::from_raw).expect("a process id")
}

/// Stops the process that `who` names of a master which takes a lot, and its `connect`.
fn ends_alone(who: impl Fn(&Near, &Running) -> Pid) {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    let [here, ..] = three(&near, 8 << 20);
    let digest = sha256_of(&std::fs::read(&here).expect("just written"));
    let socket = text(&near.path("master"));
    let mut master = near.session(&["-M", "-S", &socket]);
    let stalled = who(&near, &master);
    let world = &near.faulty.world;
    let floods: Vec<_> = (0..6)
        .map(|_| {
            let flood = world.ssh(&["-S", &socket], "echo established; exec cat /dev/zero");
            started(flood)
        })
        .collect();
    let sshd = world.sshd.as_ref().expect("a real one");
    let mut live = near.session(&[]);
    let with_all = sshd.sessions().len();
    kill_process(stalled, Signal::STOP).expect("it runs");
    let mut rounds = 0;
    until("its connection is ended", || {
        let output = near.ssh(&[], &format!("cat {}", text(&here))).ok();
        assert_eq!(sha256_of(&output.stdout), digest, "the live one");
        rounds += 1;
        (sshd.sessions().len() < with_all).then_some(())
    });
    crate::common::report(&format!("{rounds} downloads beside a stalled client"));
    kill_process(stalled, Signal::CONT).expect("it is stopped");
    assert_eq!(code(master.wait(DEADLINE)), 255);
    let said = master.stderr();
    assert!(
        said.contains("error: the client has taken nothing for 5 s"),
        "{said}"
    );
    drop(floods);
    let peak = near.daemon().memory().peak;
    crate::common::report(&format!("the daemon's peak: {} MiB", peak >> 10));
    assert!(peak < 150 << 10, "{peak} KiB");
    let mut stdin = live.take_stdin();
    drop(stdin.write_all(b"still here\n"));
    drop(stdin);
    assert_eq!(code(live.wait(DEADLINE)), 0, "{}", live.stderr());
}
