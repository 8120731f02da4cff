//! What is wrong on this computer.

use std::net::TcpListener;

use crate::patient::{Patient, WEB};

#[test]
fn a_configuration_that_cannot_be_meant_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let file = patient.text("config.toml");
    std::fs::write(&file, "lisen = \"127.0.0.1:2222\"\n").expect("our own directory");
    let visit = patient.visit(WEB).with("--config", &file);
    let report = visit.fails(
        "configuration",
        "unknown field `lisen`",
        "examples/config.toml",
    );
    report.skips("region", "configuration");
    report.skips("upload", "configuration");
    std::fs::write(&file, "hold_seconds = 5\n").expect("our own directory");
    let report = visit.report();
    assert_eq!(report.code, 0, "{report}");
    report.says("configuration", &file, "");
    // Wrong usage is no finding.
    let output = patient.visit(WEB).run(&["--no-such-flag"]).output();
    assert_eq!((output.code, output.text().as_str()), (2, ""));
}

#[test]
fn a_port_that_is_taken_is_named_with_who_has_it() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("a bound socket").to_string();
    let holder = format!("(pid {})", std::process::id());
    let visit = patient.visit(WEB).with("--listen", &address);
    let report = visit.fails("local-port", &holder, "--listen");
    // That stops nothing else.
    assert_eq!(report.line("authentication")["verdict"], "ok", "{report}");
    // Our own daemon is no obstacle.
    let ours = format!("127.0.0.1:{}", patient.emulator.port());
    let report = patient.visit(WEB).with("--listen", &ours).report();
    assert_eq!(report.code, 0, "{report}");
    report.says("local-port", "ssmshim listens on", "");
}

#[test]
fn a_state_directory_that_cannot_be_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let file = patient.text("file");
    std::fs::write(&file, "").expect("our own directory");
    let visit = patient
        .visit(WEB)
        .env("XDG_STATE_HOME", &file)
        .with("--known-hosts", &patient.text("known_hosts"));
    visit.fails("state-directory", "is no directory", "XDG_STATE_HOME");
}
