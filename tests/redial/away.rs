//! While the way to the target is interrupted: clients are kept, people are told.

use std::io::{Read as _, Write as _};

use serde_json::json;

use super::forwards::{echoes, left_running};
use super::sshd;
use crate::common::net::{Peer, free_port, serve};
use crate::common::process::code;
use crate::common::world::World;
use crate::common::{DEADLINE, until};

/// Longer than [`IMPATIENT`] waits.
const OUTAGE_MS: u32 = 9000;

/// A client that gives up after four seconds of silence.
const IMPATIENT: [&str; 4] = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=3"];

fn interrupt(world: &World, ms: u32) {
    world.inject(&json!({"faults": [
        {"fault": "network", "how": "refuse", "ms": ms},
        {"fault": "cut", "side": "client", "how": "reset"},
    ]}));
}

/// What a client types meanwhile is delivered afterwards, and nothing ends.
#[test]
fn an_impatient_client_is_kept_while_the_link_is_resumed() {
    let Some(world) = World::serve_with("", &[]) else {
        return;
    };
    let mut client = world
        .ssh(&IMPATIENT, "echo said; read line; echo got $line; exit 3")
        .piped();
    let (mut stdin, mut stdout) = (client.take_stdin(), client.take_stdout());
    let mut said = [0; 5];
    stdout.read_exact(&mut said).expect("the command speaks");
    interrupt(&world, OUTAGE_MS);
    stdin.write_all(b"input\n").expect("ssh takes it");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("a pipe");
    assert_eq!(rest, "got input\n", "{}", client.stderr());
    assert_eq!(code(client.wait(DEADLINE)), 3);
}

/// Without any upstream: nothing listens on the port for a while.
#[test]
fn an_impatient_client_is_kept_while_there_is_no_upstream() {
    let Some(world) = World::serve_with("", &["--hold", "2"]) else {
        return;
    };
    let far = free_port();
    let forward = format!("127.0.0.1:{far}:127.0.0.1:{}", serve(Peer::Echo));
    let mut ssh = left_running(&world, &[&IMPATIENT[..], &["-R", &forward]].concat());
    echoes("-R", far);
    sshd(&world).stop();
    let ended = ssh.try_wait(std::time::Duration::from_secs(8));
    assert!(ended.is_none(), "{ended:?}: {}", ssh.stderr());
    sshd(&world).start_again();
    echoes("-R", far);
}

/// A person at a terminal is told why nothing happens, and when it is over; what was typed has not been in vain.
#[test]
fn a_person_who_types_is_told() {
    let Some(world) = World::serve_with("", &[]) else {
        return;
    };
    if !world.has_terminals() {
        return;
    }
    let command = "stty -echo; echo up; read line; echo \"<$line>\"; read line; exit 3";
    let mut terminal = world.terminal(&["-tt"], Some(command), (24, 80));
    terminal.expect("up");
    interrupt(&world, 6000);
    let mut typed = 0;
    until("a notice", || {
        terminal.keys("x");
        typed += 1;
        terminal
            .has_shown("[ssmshim: the connection to the target was lost ")
            .then_some(())
    });
    terminal.expect("what you type is kept]");
    terminal.keys("\r");
    // The way back and word of it are not in step.
    let input = format!("<{}>", "x".repeat(typed));
    until("it is over", || {
        let is_over = terminal.has_shown("[ssmshim: resumed after ");
        (is_over && terminal.has_shown(&input)).then_some(())
    });
    terminal.keys("\r");
    assert_eq!(terminal.finish(), 3);
}
