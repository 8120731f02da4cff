//! Keys that are encrypted, and a real sshd.

use std::fs;

use crate::common::process::Run;
use crate::common::world::user;
use crate::far::{Vault, passphrase_of, ssh};

#[test]
fn a_passphrase_is_asked_for_once() {
    let Some(vault) = Vault::new(&[]) else { return };
    let mut daemon = vault.serve(&[]);
    let question = passphrase_of(&vault.identity);
    daemon.answer(&question, "wrong");
    daemon.expect("wrong passphrase, try again");
    daemon.answer(&question, "open sesame");
    daemon.ready();
    for _ in 0..6 {
        daemon.works();
    }
    // Nor for another user on the machine, who is not let in with it.
    let name = format!("no-such-user+{}@127.0.0.1", vault.far.target());
    let output = ssh(daemon.port, &name, "true").output();
    assert_eq!(output.code, 255, "{output:?}");
    let screen = daemon.expect("refused user `no-such-user`: ");
    assert!(!screen.contains("passphrase"), "{screen}");
}

#[test]
fn what_is_typed_is_not_shown() {
    let Some(vault) = Vault::new(&[]) else { return };
    let mut daemon = vault.serve(&["--log", "trace"]);
    daemon.answer(&passphrase_of(&vault.identity), "open sesame");
    let shown = daemon.expect("ready: ");
    assert!(!shown.contains("sesame"), "{shown}");
    assert!(shown.contains('\n'), "the Enter key is: {shown:?}");
}

#[test]
fn a_default_key_is_asked_for_too() {
    let Some(vault) = Vault::new(&[]) else { return };
    let directory = vault.far.home().join(".ssh");
    fs::create_dir_all(&directory).expect("our own directory");
    let path = directory.join("id_ed25519");
    fs::rename(&vault.identity, &path).expect("our own key");
    let mut daemon = vault.far.serve(&["--user", &user()]);
    daemon.answer(&passphrase_of(&path), "open sesame");
    daemon.ready();
    daemon.works();
}

#[test]
fn no_key_is_asked_for_that_the_target_does_not_want() {
    let Some(vault) = Vault::new(&[]) else { return };
    let other = vault.identity.with_file_name("other");
    Run::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-N", "never typed", "-f"])
        .arg(&other)
        .ok();
    let both = format!("{}:{}", other.display(), vault.identity.display());
    let mut daemon = vault.far.serve(&["--user", &user(), "--identity", &both]);
    daemon.answer(&passphrase_of(&vault.identity), "open sesame");
    daemon.ready();
}

#[test]
fn without_a_terminal_it_is_said() {
    let Some(vault) = Vault::new(&[]) else { return };
    let login = vault.login();
    let login: Vec<_> = login.iter().map(String::as_str).collect();
    let mut daemon = vault.far.launch(&login, &[]);
    assert_eq!(daemon.wait().0, 1);
    let stderr = daemon.stderr();
    for part in [
        "no terminal to ask on",
        "hint: run ssmshim on a terminal",
        "ssh-add",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn who_gives_up_ends_the_wait() {
    let Some(vault) = Vault::new(&[]) else { return };
    let mut daemon = vault.serve(&[]);
    daemon.expect(&passphrase_of(&vault.identity));
    // Ctrl-D.
    daemon.terminal().keys("\x04");
    daemon.expect("not answered");
    let terminal = daemon.terminal.take().expect("it runs");
    assert_eq!(terminal.finish(), 1);
}

#[test]
fn ctrl_c_stops_the_daemon_while_it_asks() {
    let Some(vault) = Vault::new(&[]) else { return };
    let mut daemon = vault.serve(&[]);
    daemon.expect(&passphrase_of(&vault.identity));
    daemon.terminal().keys("\x03");
    let terminal = daemon.terminal.take().expect("it runs");
    assert_eq!(terminal.finish(), 0);
}
