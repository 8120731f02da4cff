//! Logins at the target that are made ahead: each for one client, and never a dead one.

mod common;

use std::fs;
use std::io::Read as _;

use rustix::process::{Pid, Signal, kill_process};

use common::process::code;
use common::world::World;
use common::{DEADLINE, until};

/// What sshd made of a login (groups, limits, the message of the day) is for one client only.
#[test]
fn each_client_has_a_login_of_its_own() {
    let Some(world) = World::serve() else { return };
    let mut logins: Vec<String> = (0..6)
        .map(|_| world.ssh(&[], "echo $SSH_CONNECTION").ok().text())
        .collect();
    assert!(logins.iter().all(|login| !login.is_empty()), "{logins:?}");
    logins.sort();
    logins.dedup();
    assert_eq!(logins.len(), 6, "{logins:?}");
}

/// A laptop sleeps, sshd gives the idle login up, and word of it comes when a client uses it already.
#[test]
fn a_login_that_died_unnoticed_is_replaced() {
    let Some(world) = World::serve() else { return };
    let (Some(emulator), Some(sshd)) = (&world.emulator, &world.sshd) else {
        return;
    };
    emulator.signal(Signal::STOP);
    let children = children_of(sshd.id());
    assert!(!children.is_empty(), "there is a login to spare");
    for child in children {
        let child = Pid::from_raw(child).expect("a process id");
        kill_process(child, Signal::KILL).expect("our own sshd");
    }

    let mut ssh = world.ssh(&["-o", "LogLevel=DEBUG1"], "echo alive").piped();
    until("ssh has asked for its session", || {
        let said = ssh.stderr();
        said.contains("Entering interactive session").then_some(())
    });
    emulator.signal(Signal::CONT);
    let mut answer = String::new();
    let mut stdout = ssh.take_stdout();
    stdout.read_to_string(&mut answer).expect("a pipe");
    assert_eq!(answer, "alive\n", "{}", ssh.stderr());
    assert_eq!(code(ssh.wait(DEADLINE)), 0);
}

/// The processes that have `parent`.
fn children_of(parent: u32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("Linux");
    processes
        .flatten()
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(process.path().join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
            (line.trim().parse() == Ok(parent)).then_some(pid)
        })
        .collect()
}
