//! Commands and shells: what is under way ends in an honest way, what follows works.

use std::io::Read as _;
use std::time::Duration;

use rustix::process::Signal;

use super::forwards::left_running;
use super::{LOSSES, Loss, sshd};
use crate::common::faulty::Faulty;
use crate::common::files::{assert_same, write_file};
use crate::common::process::{code, read_until};
use crate::common::world::World;
use crate::common::{DEADLINE, have, until};

#[test]
fn a_command_under_way_ends_with_a_notice() {
    let Some(world) = World::serve_with("", &[]) else {
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
    let Some(world) = World::serve_with("", &[]) else {
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
    let Some(world) = World::serve_with("", &[]) else {
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
        assert!(master.try_wait(Duration::ZERO).is_none());
    }
}

/// A login that dies in the middle is tried again.
#[test]
fn a_loss_after_a_loss_is_no_different() {
    let Some(world) = World::serve_with("", &[]) else {
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

/// The agent writes a message to sshd twice when its socket fails before the acknowledgement is out (protocol sheet
/// §12): nobody can prevent that, and sshd ends the connection for the wrong MAC. It costs the copy and no more.
#[test]
fn an_agent_that_repeats_itself_costs_the_copy_and_no_more() {
    if !have("scp") {
        return;
    }
    let Some(faulty) = Faulty::fast() else { return };
    let world = &faulty.world;
    let socket = world.text("control");
    let mut master = left_running(world, &["-M", "-S", &socket]);
    until("the master listens", || {
        let check = world.control(&socket, "check", &[]).output();
        (check.code == 0).then_some(())
    });
    let (here, there) = (world.path("here.bin"), world.path("there.bin"));
    write_file(&here, 64 << 20, 19);
    faulty.inject(
        r#"{"faults": [
            {"fault": "repeat", "on": true},
            {"fault": "cut", "side": "agent", "how": "reset", "after": {"bytes": 500000}, "extent": "always"}
        ]}"#,
    );
    let control = format!("ControlPath={socket}");
    let through = ["-o", control.as_str()];
    let copy = world.scp(&through).arg(&here).arg(world.remote(&there));
    let copy = copy.output();
    faulty.faults().clear();
    let counters = faulty.faults().counters();
    assert!(counters.repeated > 0, "{counters:?}");
    assert!(copy.code != 0, "{copy:?}");
    let words = "ssmshim: the connection to the target was ";
    assert!(copy.stderr.contains(words), "{copy:?}");
    world.control(&socket, "check", &[]).ok();
    assert!(master.try_wait(Duration::ZERO).is_none());
    let again = world.scp(&through).arg(&here).arg(world.remote(&there));
    again.ok();
    assert_same(&here, &there);
    let output = world.ssh(&["-S", &socket], "exit 6").output();
    assert_eq!(output.code, 6, "{}", output.stderr);
}
