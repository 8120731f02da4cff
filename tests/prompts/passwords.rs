//! Passwords, and codes that fit once.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use russh::MethodKind;

use crate::common::sshd::make_key;
use crate::common::world::user;
use crate::common::{have, process};
use crate::far::Far;
use crate::foreign::{Foreign, State};

#[test]
fn a_password_is_in_no_log() {
    let foreign = Foreign::start(false);
    let far = Far::new(|_| foreign.port);
    let mut daemon = far.serve(&["--user", "alice", "--log", "trace"]);
    let question = format!("[alice on {}] password: ", far.target());
    daemon.answer(&question, "xyzzy-typo");
    let shown = daemon.expect(&question);
    daemon.terminal().keys("xyzzy-42\r");
    let shown = shown + &daemon.expect("ready: ");
    assert!(shown.contains("logged in"), "there is a log: {shown}");
    assert!(!shown.contains("xyzzy"), "{shown}");
}

#[test]
fn a_password_is_asked_for_until_it_is_right_and_then_kept() {
    if !have("ssh") {
        return;
    }
    let foreign = Foreign::start(false);
    let far = Far::new(|_| foreign.port);
    let mut daemon = far.serve(&["--user", "alice"]);
    let question = format!("[alice on {}] password: ", far.target());
    daemon.answer(&question, "typo");
    daemon.answer(&question, "xyzzy-42");
    daemon.ready();
    for _ in 0..6 {
        daemon.works();
    }
    let screen = daemon.terminal().screen();
    assert!(!screen.contains("password"), "{screen}");
    assert!(foreign.state.begun.load(Ordering::Relaxed) >= 7);
}

#[test]
fn a_code_is_asked_for_each_time_and_only_for_who_waits() {
    if !have("ssh") {
        return;
    }
    let foreign = Foreign::start(true);
    let far = Far::new(|_| foreign.port);
    let mut daemon = far.serve(&["--user", "alice", "--hold", "5"]);
    let title = format!("[alice on {}]", far.target());
    let password = format!("{title} Password: ");
    let code = format!("{title} Verification code: ");
    daemon.answer(&password, "xyzzy-42");
    daemon.answer(&code, "0");
    daemon.ready();
    // That login is spare, and for the first client.
    daemon.works();
    let begun = foreign.state.begun.load(Ordering::Relaxed);
    assert_eq!(begun, 1, "no spare login was begun");

    // The next one waits for somebody: who answers is waited for.
    let mut ssh = daemon.ssh("echo second").piped();
    daemon.answer(&code, "1");
    let said = process::read_until(ssh.take_stdout(), "second");
    assert!(said.is_some(), "{}", ssh.stderr());
    let screen = daemon.terminal().screen();
    assert!(
        !screen.contains("Password"),
        "the password is kept: {screen}"
    );

    // Nobody answers: the client is told, and the next one can be helped.
    let output = daemon.ssh("echo third").output();
    assert_ne!(output.code, 0);
    let told = "waiting for an answer on the daemon's terminal";
    assert!(output.stderr.contains(told), "{}", output.stderr);
    daemon.expect(&code);
    let mut ssh = daemon.ssh("echo fourth").piped();
    daemon.answer(&code, "2");
    let said = process::read_until(ssh.take_stdout(), "fourth");
    assert!(said.is_some(), "{}", ssh.stderr());
}

/// A machine where whoever runs the test is tried first and `ubuntu` then, for it is not EC2's, and a server that
/// takes passwords, and any key of `with_key`.
fn elsewhere(with_key: Option<String>) -> (Far, Foreign, PathBuf) {
    let state = State {
        with_key,
        ..State::default()
    };
    let foreign = Foreign::start_with(&[MethodKind::PublicKey, MethodKind::Password], state);
    let machine = r#"{ "id": "mi-0123456789abcdef0", "details": { "platform_name": "Ubuntu" } }"#;
    let far = Far::with_machine(machine, |_| foreign.port);
    let identity = far.directory.path().join("key");
    make_key(&identity);
    (far, foreign, identity)
}

#[test]
fn nobody_is_asked_while_another_user_is_let_in_with_a_key() {
    if !have("ssh") {
        return;
    }
    let (far, foreign, identity) = elsewhere(Some("ubuntu".to_owned()));
    let identity = identity.display().to_string();
    let mut daemon = far.serve(&["--identity", &identity]);
    let shown = daemon.expect("ready: ");
    assert!(!shown.contains("password"), "{shown}");
    assert_eq!(foreign.state.begun.load(Ordering::Relaxed), 0);
}

#[test]
fn the_likeliest_user_is_asked_about_when_no_key_is_accepted() {
    if !have("ssh") {
        return;
    }
    let (far, foreign, identity) = elsewhere(None);
    let identity = identity.display().to_string();
    let mut daemon = far.serve(&["--identity", &identity]);
    let question = format!("[{} on {}] password: ", user(), far.target());
    daemon.expect(&question);
    let keys = foreign.state.keys.load(Ordering::Relaxed);
    assert_eq!(keys, 2, "once for each user, for tries are few");
    daemon.terminal().keys("xyzzy-42\r");
    daemon.ready();
    for _ in 0..3 {
        daemon.works();
    }
    let screen = daemon.terminal().screen();
    assert!(!screen.contains("password"), "{screen}");
}
