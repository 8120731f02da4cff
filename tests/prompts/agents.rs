//! Keys of a real ssh-agent, and a real sshd.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::process::Run;
use crate::common::sshd::make_key;
use crate::common::world::user;
use crate::common::{have, until};
use crate::far::{Vault, ssh};

/// An ssh-agent that ends with the test.
pub(crate) struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    pub(crate) fn start(directory: &Path) -> Self {
        let socket = directory.join("agent");
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket);
        let process = command.stdout(Stdio::null()).spawn().expect("it starts");
        until("the agent listens", || UnixStream::connect(&socket).ok());
        Self { process, socket }
    }

    /// What has programs find it.
    pub(crate) fn variable(&self) -> (&str, &str) {
        let socket = self.socket.to_str().expect("a path of ours");
        ("SSH_AUTH_SOCK", socket)
    }

    pub(crate) fn add(&self, key: &Path) {
        Run::new("ssh-add")
            .env("SSH_AUTH_SOCK", &self.socket)
            .arg(key)
            .ok();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An agent with `strangers` keys that nobody knows, and then the one that is admitted.
fn agent_of(vault: &Vault, strangers: usize) -> Option<Agent> {
    if !have("ssh-agent") {
        return None;
    }
    let agent = Agent::start(vault.far.directory.path());
    let keys = vault.far.directory.path().join("keys");
    fs::create_dir_all(&keys).expect("our own directory");
    for index in 0..strangers {
        let path = keys.join(format!("stranger{index}"));
        make_key(&path);
        agent.add(&path);
    }
    // In the clear for the agent alone.
    let plain = keys.join("plain");
    fs::copy(&vault.identity, &plain).expect("our own key");
    Run::new("ssh-keygen")
        .args(["-q", "-p", "-P", "open sesame", "-N", "", "-f"])
        .arg(&plain)
        .ok();
    agent.add(&plain);
    Some(agent)
}

/// The way of who starts the daemon as a service: an agent, and keys of it named by their public files.
#[test]
fn a_service_logs_in_with_the_agent() {
    let Some(vault) = Vault::new(&[]) else { return };
    // More keys than sshd gives tries.
    let Some(agent) = agent_of(&vault, 8) else {
        return;
    };
    let encrypted = vault.identity.display().to_string();
    let public = format!("{encrypted}.pub");
    for identity in [&encrypted, &public] {
        let login = ["--user", &user(), "--identity", identity, "--json"];
        let daemon = vault.far.launch(&login, &[agent.variable()]);
        assert_eq!(daemon.next_event()["event"], "ready");
    }
    let log = vault.sshd.log();
    assert!(!log.contains("Failed publickey"), "the named one is first");
}

/// Keys that do not fit use up what tries a connection has; the login goes on over another one, and the next knows.
#[test]
fn an_agent_with_more_keys_than_tries_logs_in() {
    let Some(vault) = Vault::new(&[]) else { return };
    let Some(agent) = agent_of(&vault, 12) else {
        return;
    };
    let login = ["--user", &user(), "--json"];
    let mut daemon = vault.far.launch(&login, &[agent.variable()]);
    daemon.ready = daemon.expect("ready");
    let refusals = || vault.sshd.log().matches("Failed publickey").count();
    let accepted = || vault.sshd.log().matches("Accepted publickey").count();
    // The second one began when the first had found out.
    until("two logins are spare", || (accepted() >= 2).then_some(()));
    let before = accepted();
    // Each connection has a process of its own, which logs when it comes to it.
    until("what was refused is logged", || {
        (refusals() >= 13).then_some(())
    });
    assert_eq!(refusals(), 13, "those, and one that was pushed");
    for _ in 0..3 {
        assert_eq!(
            ssh(daemon.port(), "127.0.0.1", "echo works").ok().text(),
            "works"
        );
    }
    until("others have logged in", || {
        (accepted() >= before + 3).then_some(())
    });
    assert_eq!(refusals(), 13, "what fits is known by now");
}
