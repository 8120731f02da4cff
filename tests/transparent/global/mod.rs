//! Global requests, and what is left when a client goes.

mod alive;
mod configured;
mod keys;
mod leaving;
mod limits;
mod lost;
mod requests;
mod target;

use rustix::process::Pid;

use crate::common::process::Running;
use crate::common::until;
use crate::common::world::World;
use crate::raw::{Heard, Raw};

/// A process of the far end, which is this machine.
fn pid(text: &str) -> Pid {
    let number = text.trim().parse().ok();
    number.and_then(Pid::from_raw).expect("a process id")
}

/// Waits until the process is there no more.
fn gone(what: &str, pid: Pid) {
    until(what, || {
        rustix::process::test_kill_process(pid)
            .is_err()
            .then_some(())
    });
}

/// A client that runs `command`, once that has written its process id and its parent's, which is sshd's
/// process for this session: `[command, sshd]`.
fn started(world: &World, options: &[&str], command: &str) -> (Running, [Pid; 2]) {
    let file = world.text("pids");
    let command = format!("echo $$ $PPID > {file}.new; mv {file}.new {file}; {command}");
    let client = world.ssh(options, &command).piped();
    let text = until("the command starts", || std::fs::read_to_string(&file).ok());
    std::fs::remove_file(&file).expect("the command wrote it");
    let (command, sshd) = text.split_once(' ').expect("two numbers");
    (client, [pid(command), pid(sshd)])
}

/// Without the line by which OpenSSH says that it has learnt a key: the files of known hosts are not kept.
fn without_addition(stderr: &str) -> String {
    let lines = stderr
        .lines()
        .filter(|line| !line.contains("Permanently added"));
    lines.collect::<Vec<_>>().join("\n")
}

/// What the person is told. Which of these lines OpenSSH says depends on whether it reads or writes first once the
/// connection is gone; through us it is not gone, and the line is ours.
fn lost(world: &World, stderr: &str) -> String {
    const NOTICE: &str = "ssmshim: the target's sshd closed the connection";
    assert_eq!(stderr.contains(NOTICE), world.daemon.is_some(), "{stderr}");
    [
        "Read from remote host 127.0.0.1: Connection reset by peer\nclient_loop: send disconnect: Broken pipe",
        "client_loop: send disconnect: Broken pipe",
        "client_loop: send disconnect: Connection reset by peer",
        "Connection to 127.0.0.1 closed by remote host.",
        NOTICE,
    ]
    .iter()
    .fold(
        without_addition(stderr).replace('\r', ""),
        |text, line| text.replace(line, "<it is gone>"),
    )
}

/// The far end has gone without a word. Directly that is the end of the connection; through us it is the end of our
/// session `number`, with a notice and a signal.
fn assert_lost(world: &World, client: &mut Raw, number: u32) {
    let mut heard = Vec::new();
    while !matches!(heard.last(), Some(Heard::End(_) | Heard::Close(_))) {
        heard.push(client.next());
    }
    if world.daemon.is_none() {
        return assert_eq!(heard, [Heard::End(None)]);
    }
    let texts: Vec<_> = heard.iter().map(Heard::to_text).collect();
    let starts = [
        format!("EXTENDED_DATA {number} type 1 ssmshim: the target"),
        format!("REQUEST {number} exit-signal false"),
        format!("EOF {number}"),
        format!("CLOSE {number}"),
    ];
    let is_so = |(text, start): (&String, &String)| text.starts_with(start);
    let all = texts.iter().zip(&starts).all(is_so);
    assert!(all && texts.len() == starts.len(), "{texts:?}");
}
