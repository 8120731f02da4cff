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
