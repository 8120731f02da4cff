//! Commands and shells: what is under way ends in an honest way, what follows works.

use std::io::Read as _;

use rustix::process::Signal;

use super::forwards::left_running;
use super::{LOSSES, Loss, sshd};
use crate::common::process::{code, read_until};
use crate::common::{DEADLINE, until};

#[test]
fn a_command_under_way_ends_with_a_notice() {
    let Some(world) = crate::world("", &[]) else {
        return;
    };
    for loss in LOSSES {
        let mut client = world.ssh(&[], "echo said; exec cat").piped();
        let mut stdout = client.take_stdout();
        let mut said = [0; 5];
        stdout.read_exact(&mut said).expect("the command speaks");
        let _stdin = client.take_stdin();
        loss.strike(&world);
        let status = code(client.wait(DEADLINE));
        let stderr = client.stderr();
        assert_eq!(status, 255, "{loss:?}: {stderr}");
        assert!(stderr.contains("ssmshim: the "), "{loss:?}: {stderr:?}");
        if matches!(loss, Loss::SessionsKilled) {
            let words = "the target's sshd closed the connection";
            assert!(stderr.contains(words), "{stderr:?}");
        }
        assert_eq!(world.ssh(&[], "exit 3").output().code, 3);
    }
}

#[test]
fn a_shell_ends_with_a_notice() {
    let Some(world) = crate::world("", &[]) else {
        return;
    };
    if !world.has_terminals() {
        return;
    }
    let mut terminal = world.terminal(&["-tt"], Some("echo up; exec cat"), (24, 80));
    terminal.expect("up");
    Loss::SessionsKilled.strike(&world);
    terminal.expect("[ssmshim: the ");
    terminal.expect("]\r\n");
    assert_eq!(terminal.finish(), 255);
}

/// The master stays, and so does the way through it.
#[test]
fn a_control_master_survives() {
    let Some(world) = crate::world("", &[]) else {
        return;
    };
    let socket = world.text("control");
    let mut master = left_running(&world, &["-M", "-S", &socket]);
    until("the master listens", || {
        let check = world.control(&socket, "check", &[]).output();
        (check.code == 0).then_some(())
    });
    for loss in LOSSES {
        let mut client = world
            .ssh(&["-S", &socket], "echo established; exec cat")
            .piped();
        let said = read_until(client.take_stdout(), "established");
        assert!(said.is_some(), "{}", client.stderr());
        loss.strike(&world);
        assert_eq!(code(client.wait(DEADLINE)), 255, "{loss:?}");
        for status in [0, 5] {
            let command = format!("cat; exit {status}");
            let output = world.ssh(&["-S", &socket], &command).stdin("in").output();
            assert_eq!(
                (output.code, &*output.text()),
                (status, "in"),
                "{loss:?}: {}",
                output.stderr
            );
        }
        world.control(&socket, "check", &[]).ok();
        assert!(master.try_wait(std::time::Duration::ZERO).is_none());
    }
}

/// A login that dies in the middle is tried again.
#[test]
fn a_loss_after_a_loss_is_no_different() {
    let Some(world) = crate::world("", &[]) else {
        return;
    };
    let socket = world.text("control");
    let _master = left_running(&world, &["-M", "-S", &socket]);
    until("the master listens", || {
        let check = world.control(&socket, "check", &[]).output();
        (check.code == 0).then_some(())
    });
    for _ in 0..3 {
        // Asked for while it is away.
        world.emulator().signal(Signal::STOP);
        sshd(&world).end_sessions();
        let mut client = world.ssh(&["-S", &socket], "cat").stdin("").piped();
        client.take_stdin();
        world.emulator().signal(Signal::CONT);
        Loss::SessionTerminated.strike(&world);
        let status = code(client.wait(DEADLINE));
        // It may have come between the two.
        assert!(status == 0 || status == 255, "{status}");
        let output = world.ssh(&["-S", &socket], "exit 4").output();
        assert_eq!(output.code, 4, "{}", output.stderr);
    }
    world.control(&socket, "check", &[]).ok();
}
