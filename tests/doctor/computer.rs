//! What is wrong on this computer.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

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
    let report = visit.fails("state-directory", "is no directory", "XDG_STATE_HOME");
    report.skips("local-host-key", "state-directory");
}

#[test]
fn a_host_key_of_ours_that_serve_would_refuse_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let (key, second) = (patient.text("host_key"), patient.text("host_key_ecdsa"));
    let visit = patient.visit(WEB).in_general().with("--host-key", &key);
    let report = visit.report();
    report.says("local-host-key", "which the first start makes", "");
    for (file, mode, words, hint) in [
        (&key, 0o644, "0644 of host key", "chmod 600"),
        (&key, 0o600, "is unusable", "a new one is made"),
        (&second, 0o600, "is unusable", "a new one is made"),
    ] {
        write(file, "no key", mode);
        let report = visit.fails("local-host-key", words, hint);
        report.says("local-host-key", file, file);
        std::fs::remove_file(file).expect("our own directory");
    }
    assert!(!patient.path("host_key").exists(), "nothing is made");
}

#[test]
fn authorized_keys_that_serve_would_refuse_are_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let file = patient.text("authorized_keys");
    let visit = patient
        .visit(WEB)
        .in_general()
        .with("--access", "keys")
        .with("--authorized-keys", &file);
    visit.fails("authorized-keys", &file, "put public keys into");
    write(&file, "", 0o664);
    visit.fails("authorized-keys", "let others add keys", "chmod go-w");
    write(&file, "# nobody yet\n", 0o644);
    visit.fails("authorized-keys", "lets nobody in", "put public keys into");
    let key = patient.sshd.identity.with_extension("pub");
    let key = std::fs::read_to_string(key).expect("the key that goes with it");
    write(&file, &key, 0o644);
    let report = visit.report();
    assert_eq!(report.code, 0, "{report}");
    report.says("authorized-keys", &file, "");
}

/// Writes a file with just this mode, whatever the umask.
fn write(file: &str, text: &str, mode: u32) {
    std::fs::write(file, text).expect("our own directory");
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(file, permissions).expect("our own file");
}
