//! A far end that is reached by hand: an emulator, a port behind it, and a daemon with somebody at its terminal.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::daemon::{Daemon, PROGRAM, aws_environment, environment};
use crate::common::have;
use crate::common::process::Run;
use crate::common::pty::Terminal;
use crate::common::sshd::Sshd;
use crate::common::world::user;

/// A directory, an emulator, and the port of a server that is not ours.
pub(crate) struct Far {
    pub(crate) directory: TempDir,
    pub(crate) emulator: Daemon,
    pub(crate) port: u16,
}

impl Far {
    pub(crate) fn new(start: impl FnOnce(&Path) -> u16) -> Self {
        Self::with_machine(r#"{ "id": "i-0123456789abcdef0" }"#, start)
    }

    /// Tells of `machine` what its JSON says.
    pub(crate) fn with_machine(machine: &str, start: impl FnOnce(&Path) -> u16) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("ssmshim-")
            .tempdir()
            .expect("a temporary directory");
        let machines = directory.path().join("machines.json");
        fs::write(&machines, format!("[{machine}]")).expect("our own directory");
        let machines = machines.display().to_string();
        let aws = directory.path().join("aws");
        let arguments = ["emulator", "--pacing", "off", "--instances", &machines];
        let emulator = Daemon::start(&aws, &arguments, &[]);
        let port = start(directory.path());
        Self {
            directory,
            emulator,
            port,
        }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub(crate) fn target(&self) -> String {
        self.emulator.text("target")
    }

    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        fs::create_dir_all(self.home()).expect("our own directory");
        let mut variables = environment(&self.home());
        variables.extend(aws_environment(&self.emulator.text("endpoint")));
        variables
    }

    pub(crate) fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (target, port) = (self.target(), self.port.to_string());
        let first = ["serve", &target, "--ssh-port", &port];
        let listen = ["--listen", "127.0.0.1:0"];
        let all = [&first[..], &listen, more].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    /// `ssmshim serve` with nobody at a terminal, and `variables` besides.
    pub(crate) fn launch(&self, more: &[&str], variables: &[(&str, &str)]) -> Daemon {
        let arguments = self.arguments(more);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut environment = self.environment();
        for (name, value) in variables {
            environment.push(((*name).to_owned(), (*value).to_owned()));
        }
        Daemon::launch(&self.home(), &arguments, &environment)
    }

    /// `ssmshim serve` with somebody at its terminal.
    pub(crate) fn serve(&self, more: &[&str]) -> Attended {
        let terminal = Terminal::start_with(PROGRAM, &self.arguments(more), &self.environment());
        Attended {
            terminal: Some(terminal),
            port: 0,
        }
    }
}

/// A daemon on a terminal; terminated when dropped.
pub(crate) struct Attended {
    pub(crate) terminal: Option<Terminal>,
    pub(crate) port: u16,
}

impl Attended {
    pub(crate) fn terminal(&mut self) -> &mut Terminal {
        self.terminal.as_mut().expect("it runs")
    }

    pub(crate) fn expect(&mut self, text: &str) -> String {
        self.terminal().expect(text)
    }

    /// Waits for `question` and types `answer`.
    pub(crate) fn answer(&mut self, question: &str, answer: &str) {
        self.expect(question);
        self.terminal().keys(&format!("{answer}\r"));
    }

    /// Waits until ssh would work; nothing is asked before.
    pub(crate) fn ready(&mut self) {
        self.expect("ready: ");
        let line = self.expect("\n");
        let address = line.rsplit(" at ").next().unwrap_or_default().trim();
        let address: SocketAddr = address.parse().expect("the address of the endpoint");
        self.port = address.port();
        self.expect("Ctrl-C stops.");
    }

    pub(crate) fn ssh(&self, command: &str) -> Run {
        ssh(self.port, "127.0.0.1", command)
    }

    pub(crate) fn works(&self) {
        assert_eq!(self.ssh("echo works").ok().text(), "works");
    }
}

/// `ssh` to the endpoint at `port`, as `[LOGIN@]127.0.0.1`, with nothing of the person at the desk.
pub(crate) fn ssh(port: u16, destination: &str, command: &str) -> Run {
    let port = port.to_string();
    let options = [
        "-oIdentityAgent=none",
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        "-oGlobalKnownHostsFile=/dev/null",
    ];
    Run::new("ssh")
        .args(["-p", &port, "-F", "none"])
        .args(options)
        .arg(destination)
        .arg(command)
}

impl Drop for Attended {
    fn drop(&mut self) {
        if let Some(terminal) = self.terminal.take()
            && !std::thread::panicking()
        {
            terminal.signal(Signal::TERM);
            terminal.finish();
        }
    }
}

/// An sshd, and the key that it admits, encrypted with the passphrase `open sesame`.
pub(crate) struct Vault {
    pub(crate) far: Far,
    pub(crate) identity: PathBuf,
    pub(crate) sshd: Sshd,
}

impl Vault {
    pub(crate) fn new(key_options: &[&str]) -> Option<Self> {
        if !have("ssh") {
            return None;
        }
        let mut sshd = None;
        let far = Far::new(|directory| {
            sshd = Sshd::start(&directory.join("sshd"));
            sshd.as_ref().map_or(0, |sshd| sshd.port)
        });
        let sshd = sshd?;
        let identity = sshd.identity.clone();
        Run::new("ssh-keygen")
            .args(["-q", "-p", "-P", "", "-N", "open sesame"])
            .args(key_options)
            .arg("-f")
            .arg(&identity)
            .ok();
        Some(Self {
            far,
            identity,
            sshd,
        })
    }

    /// A daemon that logs in with its key, with somebody at its terminal.
    pub(crate) fn serve(&self, more: &[&str]) -> Attended {
        let login = self.login();
        let login: Vec<_> = login.iter().map(String::as_str).collect();
        self.far.serve(&[&login[..], more].concat())
    }

    /// The arguments for that.
    pub(crate) fn login(&self) -> [String; 4] {
        let identity = self.identity.display().to_string();
        ["--user".into(), user(), "--identity".into(), identity]
    }
}

/// What is asked about an encrypted key, whichever target wants it.
pub(crate) fn passphrase_of(path: &Path) -> String {
    format!("[ssmshim] passphrase for {}: ", path.display())
}
