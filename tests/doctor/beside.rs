//! Others of the same user that reach the same machine meanwhile.

use std::io::Write as _;

use rustix::process::Signal;

use crate::common::process::{Run, Running, code, read_until};
use crate::common::world::Target;
use crate::common::{DEADLINE, until};
use crate::patient::{Patient, WEB};

#[test]
fn a_daemon_that_serves_the_target_is_not_disturbed() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let daemon = patient.serve();
    let client = Target {
        port: daemon.port(),
        user: "anything".to_owned(),
        identity: patient.sshd.identity.clone(),
    };
    let mark = patient.path("mark");
    let mut shell = Run::new("ssh")
        .args(client.options("-p"))
        .arg(client.host())
        .arg(format!("echo > {}; exec cat", mark.display()))
        .piped();
    until("the shell has started", || mark.exists().then_some(()));
    let sessions = patient.sessions();
    assert_eq!(sessions.len(), 1);

    let report = patient
        .visit(WEB)
        .with("--listen", &daemon.text("listen"))
        .report();
    assert_eq!(report.code, 0, "{report}");
    assert_eq!(report.with("warning"), [""; 0], "{report}");
    report.says("local-port", "ssmshim listens on", "");
    // The daemon has written it down.
    report.says("host-key", ", known", "");

    assert_eq!(patient.sessions(), sessions);
    let (mut stdin, stdout) = (shell.take_stdin(), shell.take_stdout());
    stdin.write_all(b"still here").expect("ssh reads");
    drop(stdin);
    let said = read_until(stdout, "still here");
    assert!(said.is_some(), "{}", shell.stderr());
    assert_eq!(code(shell.wait(DEADLINE)), 0, "{}", shell.stderr());
    assert_eq!(daemon.stdout().lines().count(), 1, "{}", daemon.stdout());
}

/// An examination that is under way and stays so, with a session open.
fn under_way(patient: &Patient) -> Running {
    let mut running = patient.visit(WEB).run(&["--json"]).piped();
    let said = read_until(running.take_stdout(), "\"authentication\"");
    assert!(said.is_some(), "{}", running.stderr());
    running
}

/// The next daemon ends what a killed doctor has left behind, and nothing of one that lives.
#[test]
fn a_daemon_tidies_up_after_the_dead_only() {
    let Some(patient) = Patient::with_endless_commands() else {
        return;
    };
    let mut killed = under_way(&patient);
    killed.signal(Signal::KILL);
    assert_eq!(code(killed.wait(DEADLINE)), 128 + 9);
    let left = patient.sessions();
    assert_eq!(left.len(), 1, "nobody could end it");
    let mut living = under_way(&patient);
    let living_session = &patient.sessions() - &left;
    assert_eq!(living_session.len(), 1);

    let mut daemon = patient.serve();
    until("what was left is ended", || {
        patient.sessions().is_disjoint(&left).then_some(())
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().0, 0, "{}", daemon.stderr());
    assert_eq!(patient.sessions(), living_session);
    living.signal(Signal::INT);
    assert_eq!(code(living.wait(DEADLINE)), 1, "{}", living.stderr());
    assert!(patient.sessions().is_empty());
}
