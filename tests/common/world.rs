//! One far end, and the real clients that reach it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::daemon::{Daemon, aws_environment};
use super::have;
use super::net::call_ssm;
use super::process::{Run, Running, read_until};
use super::pty::Terminal;
use super::sshd::{Sshd, make_home, make_key};

/// Where an SSH client connects to, and how it proves who it is.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) identity: PathBuf,
}

/// A far end in a directory of its own; everything in it stops when dropped.
///
/// The far end's files are this machine's: what a client puts into [`World::path`] can be read there.
pub(crate) struct World {
    pub(crate) target: Target,
    /// `demo` or `serve`; the daemon between client and far end.
    pub(crate) daemon: Option<Daemon>,
    pub(crate) emulator: Option<Daemon>,
    pub(crate) sshd: Option<Arc<Sshd>>,
    directory: TempDir,
}

impl World {
    /// A plain sshd without us: the reference.
    pub(crate) fn direct() -> Option<Self> {
        let directory = directory()?;
        let sshd = Sshd::start(&directory.path().join("sshd"))?;
        Some(Self::direct_to(Arc::new(sshd), directory))
    }

    fn direct_to(sshd: Arc<Sshd>, directory: TempDir) -> Self {
        let target = Target {
            port: sshd.port,
            user: user(),
            identity: sshd.identity.clone(),
        };
        Self {
            target,
            daemon: None,
            emulator: None,
            sshd: Some(sshd),
            directory,
        }
    }

    /// Two ways to one sshd that has `extra` lines of configuration: directly, and through us.
    pub(crate) fn both(extra: &str) -> Option<[Self; 2]> {
        let (near, far) = (directory()?, directory()?);
        let sshd = Arc::new(Sshd::start_with(&near.path().join("sshd"), extra)?);
        let port = sshd.port;
        let direct = Self::direct_to(Arc::clone(&sshd), near);
        let mut shim = Self::serve_from(sshd, port, far);
        // Any name would do; the clients are to say the same things.
        shim.target.user.clone_from(&direct.target.user);
        Some([direct, shim])
    }

    /// `ssmshim demo`: emulator and embedded sshd in one process.
    pub(crate) fn demo() -> Option<Self> {
        let directory = directory()?;
        let home = directory.path().join("home");
        make_home(&home);
        let daemon = Daemon::start(&home, &["demo", "--pacing", "off"], &[]);
        let target = Target::local(&daemon, directory.path());
        Some(Self {
            target,
            daemon: Some(daemon),
            emulator: None,
            sshd: None,
            directory,
        })
    }

    /// `ssmshim serve` through a stand-alone `ssmshim emulator` to a real sshd.
    pub(crate) fn serve() -> Option<Self> {
        Self::serve_to(|sshd| sshd.port)
    }

    /// [`World::serve`] with the agent sent to the port `via` returns, a proxy before sshd.
    pub(crate) fn serve_to(via: impl FnOnce(&Sshd) -> u16) -> Option<Self> {
        let directory = directory()?;
        let sshd = Arc::new(Sshd::start(&directory.path().join("sshd"))?);
        let port = via(&sshd);
        Some(Self::serve_from(sshd, port, directory))
    }

    fn serve_from(sshd: Arc<Sshd>, port: u16, directory: TempDir) -> Self {
        Self::serve_from_with(sshd, port, directory, &[])
    }

    fn serve_from_with(sshd: Arc<Sshd>, port: u16, directory: TempDir, args: &[&str]) -> Self {
        let emulator = Daemon::start(
            &directory.path().join("aws"),
            &["emulator", "--pacing", "off"],
            &[],
        );
        let daemon = serve_with(
            directory.path(),
            &emulator,
            &port.to_string(),
            &sshd.identity,
            args,
        );
        let target = Target::local(&daemon, directory.path());
        Self {
            target,
            daemon: Some(daemon),
            emulator: Some(emulator),
            sshd: Some(sshd),
            directory,
        }
    }

    /// `ssmshim serve` through the emulator that `start` gives the endpoint and first target of, to a real
    /// sshd.
    pub(crate) fn serve_through(start: impl FnOnce() -> (String, String)) -> Option<Self> {
        let directory = directory()?;
        let sshd = Sshd::start(&directory.path().join("sshd"))?;
        let (endpoint, target) = start();
        let daemon = serve_at(
            directory.path(),
            (&endpoint, &target),
            &sshd.port.to_string(),
            &sshd.identity,
            &[],
        );
        let target = Target::local(&daemon, directory.path());
        Some(Self {
            target,
            daemon: Some(daemon),
            emulator: None,
            sshd: Some(Arc::new(sshd)),
            directory,
        })
    }

    /// [`World::serve`] with arguments of our own for `serve`, and lines of configuration for sshd.
    pub(crate) fn serve_with(sshd: &str, args: &[&str]) -> Option<Self> {
        let directory = directory()?;
        let sshd = Arc::new(Sshd::start_with(&directory.path().join("sshd"), sshd)?);
        let port = sshd.port;
        Some(Self::serve_from_with(sshd, port, directory, args))
    }

    /// Another daemon of the same user for the far end of `serve`, with arguments of its own.
    pub(crate) fn another(&self, args: &[&str]) -> Daemon {
        let sshd = self.sshd.as_ref().expect("serve has one");
        serve_with(
            self.directory.path(),
            self.emulator(),
            &sshd.port.to_string(),
            &sshd.identity,
            args,
        )
    }

    /// The daemon of this world is replaced by one with `args`.
    pub(crate) fn serve_again(&mut self, args: &[&str]) {
        drop(self.daemon.take());
        let daemon = self.another(args);
        self.target.port = daemon.port();
        self.daemon = Some(daemon);
    }

    /// Asks the emulator for faults.
    pub(crate) fn inject(&self, faults: &serde_json::Value) {
        self.emulator().inject(faults);
    }

    /// Stops the faults that are in force.
    pub(crate) fn clear_faults(&self) {
        self.emulator().faults("DELETE", "");
    }

    /// The daemon in front of the far end.
    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("this far end has one")
    }

    /// The emulator of `serve`.
    pub(crate) fn emulator(&self) -> &Daemon {
        self.emulator.as_ref().expect("serve has one")
    }

    /// Ends the SSM sessions of this world, as an administrator can.
    pub(crate) fn terminate_sessions(&self) {
        let endpoint = self.emulator().text("endpoint");
        let (_, answer) = call_ssm(&endpoint, "DescribeSessions", r#"{"State":"Active"}"#);
        let sessions = answer["Sessions"].as_array().cloned().unwrap_or_default();
        assert!(!sessions.is_empty(), "{answer}");
        for session in sessions {
            let body = serde_json::json!({ "SessionId": session["SessionId"] }).to_string();
            let (status, answer) = call_ssm(&endpoint, "TerminateSession", &body);
            assert_eq!(status, 200, "{answer}");
        }
    }

    /// Whether a remote command can have a terminal.
    ///
    /// OpenSSH gives a terminal to the group tty. Without root it can do so only where the kernel does it
    /// by itself: where devpts is mounted with that group, as most systems do and many containers do not.
    pub(crate) fn has_terminals(&self) -> bool {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let with_group = mounts
            .lines()
            .any(|line| line.contains(" devpts ") && line.contains("gid="));
        self.sshd.is_none() || rustix::process::geteuid().is_root() || with_group
    }

    /// A path in the directory that both ends see.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// [`World::path`] as text for a remote command line (it has no character a shell minds).
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// What `HOME` is at the far end.
    pub(crate) fn home(&self) -> PathBuf {
        self.sshd.as_ref().map_or_else(
            || self.path("home"),
            |sshd| sshd.identity.with_file_name("home"),
        )
    }

    /// `ssh OPTIONS… HOST COMMAND`; options given here win over the usual ones.
    pub(crate) fn ssh(&self, options: &[&str], command: &str) -> Run {
        self.client("ssh", "-p")
            .args_before(options)
            .arg(self.target.host())
            .arg(command)
    }

    /// An ssh with forwards, once they are established; they end when it is dropped.
    pub(crate) fn forwarding(&self, options: &[&str]) -> Session {
        let options = [options, &["-o", "ExitOnForwardFailure=yes"]].concat();
        Session::start(self.ssh(&options, "echo established; exec cat"))
    }

    /// A control master at `socket`, ready for `ssh -S`; the connection ends when it is dropped.
    pub(crate) fn master(&self, socket: &str) -> Session {
        self.forwarding(&["-M", "-S", socket])
    }

    /// `ssh -S SOCKET -O COMMAND OPTIONS…`: asks the master.
    pub(crate) fn control(&self, socket: &str, command: &str, options: &[&str]) -> Run {
        self.client("ssh", "-p")
            .args_before(&["-S", socket, "-O", command])
            .args(options)
            .arg(self.target.host())
    }

    /// `ssh OPTIONS… HOST COMMAND` at a terminal.
    pub(crate) fn terminal(
        &self,
        options: &[&str],
        command: Option<&str>,
        size: (u16, u16),
    ) -> Terminal {
        let mut args: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        args.extend(self.target.options("-p"));
        args.push(self.target.host());
        args.extend(command.map(str::to_owned));
        Terminal::start("ssh", &args, size.0, size.1)
    }

    pub(crate) fn scp(&self, options: &[&str]) -> Run {
        self.client("scp", "-P").args_before(options)
    }

    /// `sftp` that runs `script` and stops at the first failure.
    pub(crate) fn sftp(&self, script: &str) -> Run {
        self.client("sftp", "-P")
            .args(["-b", "-"])
            .arg(self.target.host())
            .stdin(script)
    }

    /// The ssh command line, for programs that start ssh themselves (`rsync -e`, `GIT_SSH_COMMAND`).
    pub(crate) fn ssh_command(&self) -> String {
        format!("ssh {}", self.target.options("-p").join(" "))
    }

    /// `HOST:PATH` for scp and rsync.
    pub(crate) fn remote(&self, path: &Path) -> String {
        format!("{}:{}", self.target.host(), path.display())
    }

    fn client(&self, program: &str, port_option: &str) -> ClientCommand {
        ClientCommand {
            program: program.to_owned(),
            options: self.target.options(port_option),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A far-end program that waits to open a named pipe would wait for ever: open and close the other end.
        use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
        for entry in fs::read_dir(self.directory.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_type().is_ok_and(|kind| kind.is_fifo()) {
                let nonblocking =
                    i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
                let _ = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(nonblocking)
                    .open(entry.path());
            }
        }
    }
}

impl Target {
    /// The local endpoint of `daemon`: any user name, and a key that it need not know.
    fn local(daemon: &Daemon, directory: &Path) -> Self {
        let identity = directory.join("id_unknown");
        make_key(&identity);
        Self {
            port: daemon.port(),
            user: "anything".to_owned(),
            identity,
        }
    }

    pub(crate) fn host(&self) -> String {
        format!("{}@127.0.0.1", self.user)
    }

    /// Options that keep the person's own configuration, keys and known hosts out of the test.
    pub(crate) fn options(&self, port_option: &str) -> Vec<String> {
        let mut options = vec![
            port_option.to_owned(),
            self.port.to_string(),
            "-F".into(),
            "none".into(),
        ];
        let identity = format!("IdentityFile={}", self.identity.display());
        for setting in [
            identity.as_str(),
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "ConnectTimeout=60",
            "LogLevel=ERROR",
        ] {
            options.push(format!("-o{setting}"));
        }
        options
    }
}

/// A running ssh whose remote command has started, so everything asked for before it is in place.
pub(crate) struct Session {
    ssh: Running,
}

impl Session {
    fn start(run: Run) -> Self {
        let mut ssh = run.piped();
        let stdout = ssh.take_stdout();
        let said = read_until(stdout, "established");
        assert!(said.is_some(), "ssh is not established: {}", ssh.stderr());
        Self { ssh }
    }

    pub(crate) fn id(&self) -> u32 {
        self.ssh.id()
    }

    pub(crate) fn stderr(&self) -> String {
        self.ssh.stderr()
    }
}

/// A client whose usual options follow those of the case: OpenSSH takes the first value it meets.
struct ClientCommand {
    program: String,
    options: Vec<String>,
}

impl ClientCommand {
    fn args_before(self, first: &[&str]) -> Run {
        Run::new(&self.program).args(first).args(&self.options)
    }

    fn args(self, args: [&str; 2]) -> Run {
        self.args_before(&[]).args(args)
    }
}

/// Starts `ssmshim serve` for the first target of `emulator` and waits until it is ready.
fn serve_with(
    directory: &Path,
    emulator: &Daemon,
    ssh_port: &str,
    identity: &Path,
    more: &[&str],
) -> Daemon {
    let far = (emulator.text("endpoint"), emulator.text("target"));
    serve_at(directory, (&far.0, &far.1), ssh_port, identity, more)
}

/// Starts `ssmshim serve` for an emulator's endpoint and target and waits until it is ready.
pub(crate) fn serve_at(
    directory: &Path,
    (endpoint, target): (&str, &str),
    ssh_port: &str,
    identity: &Path,
    more: &[&str],
) -> Daemon {
    let args = serve_args(target, ssh_port, identity);
    let args: Vec<_> = args
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    let environment = aws_environment(endpoint);
    Daemon::start(&directory.join("home"), &args, &environment)
}

/// The arguments of `ssmshim serve` that every far end needs.
pub(crate) fn serve_args(target: &str, ssh_port: &str, identity: &Path) -> Vec<String> {
    let identity = identity.display().to_string();
    let user = user();
    [
        "serve",
        target,
        "--ssh-port",
        ssh_port,
        "--user",
        &user,
        "--identity",
        &identity,
    ]
    .map(str::to_owned)
    .into()
}

/// The name of the user who runs the tests.
pub(crate) fn user() -> String {
    Run::new("id").arg("-un").ok().text()
}

/// A directory for one world, or `None` where the OpenSSH client is missing.
fn directory() -> Option<TempDir> {
    if !have("ssh") || !have("ssh-keygen") {
        return None;
    }
    // Short and without surprises: Unix socket paths have 108 bytes.
    Some(
        tempfile::Builder::new()
            .prefix("ssmshim-")
            .tempdir()
            .expect("a temporary directory"),
    )
}
