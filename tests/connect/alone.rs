//! Without a daemon: an SSM session of its own, which nothing leaves behind.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{ChildStdout, Command};

use rustix::process::{Pid, Signal};

use crate::common::DEADLINE;
use crate::common::daemon::PROGRAM;
use crate::common::process::{Running, code};
use crate::{Near, Way, three};

/// A `connect` that has shown the first word of sshd.
fn connected(near: &Near) -> (Running, ChildStdout) {
    let mut running = near.connect(&near.usual()).piped();
    let mut stdout = running.take_stdout();
    let mut word = [0; 8];
    if let Err(error) = stdout.read_exact(&mut word) {
        panic!("{error}; it says: {}", running.stderr());
    }
    assert_eq!(&word, b"SSH-2.0-");
    assert_eq!(near.open_sessions(), 1);
    // Ctrl-C at a terminal is for others.
    let id = Pid::from_raw(i32::try_from(running.id()).expect("a process id"));
    assert_eq!(rustix::process::getsid(id).ok(), id);
    (running, stdout)
}

#[test]
fn every_end_ends_the_ssm_session() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        let (mut running, _stdout) = connected(&near);
        running.signal(signal);
        assert_eq!(code(running.wait(DEADLINE)), 0, "{signal:?}");
        assert_eq!(running.stderr(), "", "{signal:?}");
        assert_eq!(near.open_sessions(), 0, "{signal:?}");
    }
    // Nobody reads any more, and nothing is to be written.
    let (mut running, stdout) = connected(&near);
    drop(stdout);
    assert_eq!(code(running.wait(DEADLINE)), 0);
    assert_eq!(near.open_sessions(), 0, "after a closed output");
    // The target closes; sshd has no patience with such a greeting.
    let (mut running, mut stdout) = connected(&near);
    let mut stdin = running.take_stdin();
    stdin.write_all(b"nonsense\r\n").expect("it reads");
    let mut rest = String::new();
    let read = stdout.read_to_string(&mut rest);
    assert!(
        read.is_ok() && rest.contains("Invalid SSH"),
        "last words: {rest:?}"
    );
    assert_eq!(code(running.wait(DEADLINE)), 0, "{}", running.stderr());
    assert_eq!(near.open_sessions(), 0, "after the target's end");
    // Both at once, as an ssh that is killed does.
    let (mut running, stdout) = connected(&near);
    drop((running.take_stdin(), stdout));
    assert_eq!(code(running.wait(DEADLINE)), 0);
    assert_eq!(near.open_sessions(), 0, "after the client's end");
    near.until_no_records();
}

/// The agent has no half-close: who has said all may still wait for an answer.
#[test]
fn the_end_of_input_cuts_no_answer() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let [question, ..] = three(&near, 300_000);
    let question = std::fs::read(question).expect("just written");
    let expected = question.clone();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("the agent comes");
        let mut heard = vec![0; expected.len()];
        socket.read_exact(&mut heard).expect("all of it comes");
        socket.write_all(&heard).expect("somebody reads");
    });
    let output = near.connect(&[&near.target, &port]).stdin(&question).ok();
    server.join().expect("the server has its say");
    assert!(output.stdout == question, "{} bytes", output.stdout.len());
}

/// An agent that carries one connection in a session is as good as any other for who has one, and no word of it comes
/// between those of ssh.
#[test]
fn an_old_agent_is_nothing_to_speak_of() {
    let Some(near) = Near::to_agent(Way::Alone, "2.3.722.0") else {
        return;
    };
    let output = near.ssh(&[], "echo works").output();
    assert_eq!(
        (output.text().as_str(), output.stderr.as_str()),
        ("works", "")
    );
}

/// Some programs do not wait for what they hand on.
#[test]
fn a_socket_that_does_not_wait_is_waited_for() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    ours.set_read_timeout(Some(DEADLINE))
        .expect("our own socket");
    theirs.set_nonblocking(true).expect("our own socket");
    let theirs = || OwnedFd::from(theirs.try_clone().expect("our own socket"));
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .envs(near.environment())
        .arg("connect")
        .args(near.usual())
        .stdin(theirs())
        .stdout(theirs());
    let mut running = Running::start(command);
    let mut word = [0; 8];
    ours.read_exact(&mut word).expect("sshd speaks");
    assert_eq!(&word, b"SSH-2.0-");
    running.signal(Signal::TERM);
    assert_eq!(code(running.wait(DEADLINE)), 0, "{}", running.stderr());
}

#[test]
fn what_is_wrong_is_said_and_nothing_else() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    let refused = |args: &[&str], status: i32| {
        let output = near.connect(args).output();
        assert_eq!(output.code, status, "{output:?}");
        assert_eq!(output.text(), "", "{args:?}");
        output.stderr
    };
    let unknown = refused(&["web-7"], 1);
    assert_eq!(
        unknown,
        "error: no machine `web-7` in eu-central-1 of account 000000000000\n\
         hint: `ssmshim targets --region eu-central-1` lists what is there; --region and --profile look elsewhere\n"
    );
    let unknown = refused(&["i-0123456789abcdef7"], 1);
    assert!(
        unknown.starts_with("error: no machine `i-0123456789abcdef7`"),
        "{unknown}"
    );
    let closed = refused(&[&near.target, "1"], 1);
    assert!(
        closed.starts_with(&format!(
            "error: nothing listens on port 1 of {}\nhint: ",
            near.target
        )),
        "{closed}"
    );
    refused(&[], 2);
    refused(&["web", "--config", "/nonexistent"], 2);
    // As a person sees it.
    let proxy = format!("-oProxyCommand={} web-7", near.proxy().display());
    let output = near.faulty.world.ssh(&[&proxy], "true").output();
    assert_eq!(output.code, 255);
    assert!(
        output.stderr.starts_with("error: no machine `web-7`"),
        "{}",
        output.stderr
    );
    near.until_tidy();
    near.until_no_records();
}

/// An id is taken at its word, so nothing is asked before the session is started; a name is looked for once.
#[test]
fn the_host_name_is_the_target() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    let proxy = format!(
        "-oProxyCommand={} %h {}",
        near.proxy().display(),
        near.ssh_port
    );
    let host = format!("-oHostName={}", near.target);
    let said = near.faulty.world.ssh(&[&proxy, &host], "echo works").ok();
    assert_eq!(said.text(), "works");
    near.until_tidy();
}

#[test]
fn what_a_killed_one_leaves_the_next_one_ends() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    let before = near.all_sessions();
    let (mut running, _stdout) = connected(&near);
    running.signal(Signal::KILL);
    running.wait(DEADLINE);
    assert_eq!(near.open_sessions(), 1, "nobody could end it");
    let _session = near.session(&[]);
    crate::common::until("the old session is ended", || {
        (near.open_sessions() == 1).then_some(())
    });
    assert_eq!(near.all_sessions(), before + 2);
}
