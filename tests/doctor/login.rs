//! The target's sshd, its host key, and ours.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::common::net::{Peer, free_port, serve};
use crate::common::process::Run;
use crate::common::sshd::make_key;
use crate::patient::{Patient, WEB};

#[test]
fn what_is_no_sshd_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let port = free_port().to_string();
    let words = format!("nothing listens on port {port}");
    let report =
        patient
            .visit(WEB)
            .with("--ssh-port", &port)
            .fails("sshd", &words, "systemctl start sshd");
    report.skips("host-key", "sshd");
    report.skips("authentication", "sshd");

    let port = serve(Peer::Greet).to_string();
    let visit = patient.visit(WEB).with("--ssh-port", &port);
    visit.fails("sshd", "it said: greetings", "an SSH server listens");
}

#[test]
fn a_host_key_that_is_not_the_known_one_is_named_with_both() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let own = fs::read_to_string(patient.path("sshd/host_key.pub")).expect("sshd has one");
    make_key(&patient.path("other"));
    let other = fs::read_to_string(patient.path("other.pub")).expect("it was made");
    let name = format!("[{WEB}]:{}", patient.sshd.port);
    let file = patient.text("known_hosts");
    let known = |line: &str| {
        fs::write(&file, line).expect("our own directory");
        patient.visit(WEB).with("--known-hosts", &file)
    };
    let report = known(&format!("{name} {own}")).report();
    assert_eq!(report.code, 0, "{report}");
    report.says("host-key", ", known", "");

    let visit = known(&format!("{name} {other}"));
    let report = visit.fails("host-key", "has changed", "ssh-keygen -R");
    for key in ["sshd/host_key.pub", "other.pub"] {
        let print = Run::new("ssh-keygen")
            .arg("-lf")
            .arg(patient.path(key))
            .ok()
            .text();
        let print = print.split(' ').nth(1).expect("a fingerprint").to_owned();
        report.says("host-key", &print, "");
    }
    report.skips("authentication", "host-key");
    assert_eq!(report.line("sshd")["verdict"], "ok", "{report}");
    visit
        .with("--strict-host-key", "off")
        .warns("host-key", "not checked", "accept-new");

    let visit = known(&format!("@revoked {name} {own}"));
    visit.fails("host-key", "is revoked by", "do not connect");
    let visit = known("").with("--strict-host-key", "yes");
    visit.fails("host-key", "is not known", "accept-new");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "");

    // Root may write what nobody may.
    if !rustix::process::geteuid().is_root() {
        let visit = known("");
        let mode = fs::Permissions::from_mode(0o400);
        fs::set_permissions(&file, mode).expect("our own file");
        visit.fails("host-key", "cannot be written to", "owner and mode");
    }
}

#[test]
fn a_login_that_is_refused_says_what_was_tried() {
    let Some(patient) = Patient::new() else {
        return;
    };
    make_key(&patient.path("other"));
    let visit = patient
        .visit(WEB)
        .with("--identity", &patient.text("other"));
    let report = visit.fails("authentication", "/other ssh-ed25519", "authorized_keys");
    assert_eq!(report.line("host-key")["verdict"], "ok", "{report}");
    report.skips("round-trip", "authentication");

    let visit = patient.visit(WEB).with("--user", "nobody-here");
    visit.fails(
        "authentication",
        "user `nobody-here`",
        "check the user name",
    );

    let locked = patient.text("locked");
    fs::copy(&patient.sshd.identity, &locked).expect("our own directory");
    fs::copy(
        patient.sshd.identity.with_extension("pub"),
        format!("{locked}.pub"),
    )
    .expect("our own directory");
    Run::new("ssh-keygen")
        .args(["-q", "-p", "-P", "", "-N", "open-sesame", "-f", &locked])
        .ok();
    let visit = patient.visit(WEB).with("--identity", &locked);
    let report = visit.fails("authentication", "no terminal to ask on", "ssh-add KEY");
    report.says("keys", "locked (encrypted)", "");

    let missing = patient.text("missing");
    let visit = patient.visit(WEB).with("--identity", &missing);
    let report = visit.fails("keys", "No such file", "--identity");
    assert_eq!(report.line("host-key")["verdict"], "ok", "{report}");
    report.skips("authentication", "keys");
    // Default keys may be missing.
    let visit = patient.visit(WEB).without("--identity");
    visit.fails("authentication", "of EC2 Instance Connect", "");
}
