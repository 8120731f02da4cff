//! Logins at the target that are made ahead: each for one client, and never a dead one.

mod common;

use std::fs;
use std::io::Read as _;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use ssmshim::server::access::{Access, Owner};
use ssmshim::ssh::{Connection, HostKey, ServerConfig};
use tokio::net::TcpListener;

use common::process::code;
use common::world::{World, serve_at};
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

/// Where logins succeed and end at once, the target is not made to do them over and over.
#[test]
fn logins_that_do_not_last_are_made_with_pauses() {
    let Some(world) = World::serve() else { return };
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("a loopback port");
    let port = listener.local_addr().expect("it is bound").port();
    runtime.spawn(see_off(listener));
    let sshd = world.sshd.as_ref().expect("serve has one");
    let daemon = serve_at(
        &world.path("fleeting"),
        (
            &world.emulator().text("endpoint"),
            &world.emulator().text("target"),
        ),
        &port.to_string(),
        &sshd.identity,
        &["--log", "ssmshim::upstream=info"],
    );
    until("there is a pause", || {
        let said = daemon.stderr();
        said.contains("end as soon as they are there").then_some(())
    });
}

/// An SSH server that lets everybody in, and is gone then.
async fn see_off(listener: TcpListener) {
    let host_key = Arc::new(HostKey::generate().expect("random numbers"));
    let config = ServerConfig::new(host_key);
    while let Ok((client, _)) = listener.accept().await {
        let config = config.clone();
        tokio::spawn(async move {
            let mut everybody = Access::from(Owner {
                owner: 1000,
                peer: Some(1000),
            });
            if let Ok(connection) = Connection::accept(client, &config, &mut everybody).await {
                connection.close().await;
            }
        });
    }
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
