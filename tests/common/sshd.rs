//! A real OpenSSH server with its own configuration and keys, on a loopback port.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::net::free_port;
use super::process::Run;
use super::{DEADLINE, have, until, which};

/// A running `sshd -D`, killed when dropped; it admits the key pair it made, for the current user.
pub(crate) struct Sshd {
    child: Mutex<Child>,
    config: PathBuf,
    pub(crate) port: u16,
    /// The private key that may log in.
    pub(crate) identity: PathBuf,
    log: Log,
}

/// What a server has logged, line by line.
type Log = Arc<Mutex<String>>;

impl Sshd {
    /// Starts an sshd with all its files in `directory`, or returns `None` where there is no sshd.
    pub(crate) fn start(directory: &Path) -> Option<Self> {
        Self::start_with(directory, "")
    }

    /// Starts an sshd with `extra` lines of configuration, which win over the usual ones.
    ///
    /// A comment among them, `# authorized_keys: OPTIONS`, stands for the options of the key that may log in.
    pub(crate) fn start_with(directory: &Path, extra: &str) -> Option<Self> {
        if !have("sshd") || !have("ssh-keygen") {
            return None;
        }
        fs::create_dir_all(directory).expect("our own directory");
        let identity = directory.join("id_ed25519");
        let log = Log::default();
        make_key(&identity);
        make_key(&directory.join("host_key"));
        let public =
            fs::read_to_string(identity.with_extension("pub")).expect("ssh-keygen made it");
        let options = extra
            .lines()
            .find_map(|line| line.strip_prefix("# authorized_keys: "))
            .unwrap_or_default();
        fs::write(
            directory.join("authorized_keys"),
            format!("{options} {public}"),
        )
        .expect("our own directory");
        if rustix::process::geteuid().is_root() {
            // Debian's sshd wants its privilege separation directory, which only its service makes.
            let _ = fs::create_dir_all("/run/sshd");
        }

        // Another process may take a free port before sshd binds it; then the next one is tried.
        (0..5).find_map(|_| {
            let port = free_port();
            let config = write_config(directory, port, extra);
            let child = start_listening(&config, &log)?;
            Some(Self {
                child: Mutex::new(child),
                config,
                port,
                identity: identity.clone(),
                log: Arc::clone(&log),
            })
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child().id()
    }

    /// The processes that serve connections. One of somebody else than root has another below it, which is what keeps
    /// the connection.
    pub(crate) fn sessions(&self) -> Vec<Pid> {
        let mut found = below(self.id());
        let mut next = 0;
        while let Some(session) = found.get(next) {
            found.extend(below(session.as_raw_nonzero().get().unsigned_abs()));
            next += 1;
        }
        found
    }

    /// Kills every session, and waits until they are gone.
    pub(crate) fn end_sessions(&self) {
        let sessions = self.sessions();
        for &pid in &sessions {
            let _gone = kill_process(pid, Signal::KILL);
        }
        until("the sessions end", || {
            sessions.iter().all(|&pid| is_over(pid)).then_some(())
        });
    }

    /// Ends sshd and all its sessions; nothing listens on the port any more.
    pub(crate) fn stop(&self) {
        let mut child = self.child();
        let _ = kill_process(Pid::from_child(&child), Signal::STOP);
        drop(child);
        for pid in self.sessions() {
            let _gone = kill_process(pid, Signal::KILL);
        }
        child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts it on the same port, with the same keys, after [`Sshd::stop`].
    pub(crate) fn start_again(&self) {
        let started = until("sshd listens again", || {
            start_listening(&self.config, &self.log)
        });
        *self.child() = started;
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().expect("no panic under the lock")
    }

    /// What sshd has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic under the lock").clone()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The processes of sshd that process `id` has started: no shells, nor what runs in them.
fn below(id: u32) -> Vec<Pid> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    let children = children.unwrap_or_default();
    let is_sshd = |pid: &str| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.starts_with("sshd"))
    };
    children
        .split_whitespace()
        .filter(|pid| is_sshd(pid))
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        .collect()
}

/// Whether a process has ended, be it that nobody has asked for its status yet.
fn is_over(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let stat = stat.unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// Makes an unencrypted ed25519 key pair at `path` and `path.pub`.
pub(crate) fn make_key(path: &Path) {
    if !path.exists() {
        Run::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
            .arg(path)
            .ok();
    }
}

/// Makes a home for sessions: start-up files of the person at the desk would take time, have something to say, and
/// leave behind whatever they were at when a test kills them.
pub(crate) fn make_home(home: &Path) {
    fs::create_dir_all(home).expect("our own directory");
    // xauth has something to say when there is none.
    fs::write(home.join(".Xauthority"), "").expect("our own directory");
}

/// The option of sshd for what every session has in its environment; one line for all.
const SET_VARIABLES: &str = "SetEnv ";

fn write_config(directory: &Path, port: u16, extra: &str) -> PathBuf {
    let path = directory.join("sshd_config");
    let here = directory.display();
    make_home(&directory.join("home"));
    let (set, extra): (Vec<_>, Vec<_>) = extra
        .lines()
        .partition(|line| line.starts_with(SET_VARIABLES));
    let set: String = set
        .iter()
        .filter_map(|line| line.strip_prefix(SET_VARIABLES))
        .collect();
    let extra = extra.join("\n");
    // sshd takes the first value it meets, so what the test adds stands before the rest.
    let text = format!(
        "{extra}
{SET_VARIABLES}HOME={here}/home {set}
Port {port}
ListenAddress 127.0.0.1
HostKey {here}/host_key
AuthorizedKeysFile {here}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AcceptEnv LANG LC_*
PrintMotd no
PrintLastLog no
UseDNS no
MaxStartups 500
MaxSessions 500
AllowAgentForwarding yes
AllowStreamLocalForwarding yes
AllowTcpForwarding yes
LogLevel VERBOSE
Subsystem sftp internal-sftp
"
    );
    fs::write(&path, text).expect("our own directory");
    path
}

/// Starts sshd and waits for its word that it listens; `None` when it ends before that.
fn start_listening(config: &Path, log: &Log) -> Option<Child> {
    let log = Arc::clone(log);
    let mut child = Command::new(which("sshd")?)
        .args(["-D", "-e", "-f"])
        .arg(config)
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sshd starts");
    let stderr = child.stderr.take().expect("standard error is piped");
    let (listening, heard) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut log = log.lock().expect("no panic under the lock");
            *log += &line;
            *log += "\n";
            if line.contains("Server listening") {
                let _ = listening.send(());
            }
        }
    });
    if heard.recv_timeout(DEADLINE).is_ok() {
        return Some(child);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
