//! An embedded sshd on loopback, and the real clients that talk to it.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::PublicKey;
use ssmshim::ssh::host_key::HostKey;
use ssmshim::sshd::{Options, Sshd};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// No command of a test takes longer, not even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A server with one authorized key, and a directory for everything.
pub struct World {
    pub sshd: Sshd,
    pub host_key: Arc<HostKey>,
    pub client_key: Arc<HostKey>,
    directory: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(|_| Vec::new()).await
    }

    /// Starts with variables for every process, made in the directory of this world.
    pub async fn start_with(environment: impl Fn(&Path) -> Vec<(&'static str, OsString)>) -> Self {
        let directory = tempfile::Builder::new().prefix("sshd").tempdir().unwrap();
        let mut environment = environment(directory.path());
        // Where no start-up files of the person at the desk are.
        environment.push(("HOME", directory.path().into()));
        let host_key = Arc::new(HostKey::generate().unwrap());
        let client_key = Arc::new(HostKey::generate().unwrap());
        let sshd = Sshd::start(Options {
            listen: ([127, 0, 0, 1], 0).into(),
            host_key: Arc::clone(&host_key),
            authorized_keys: vec![public(&client_key)],
            environment: environment
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        })
        .await
        .unwrap();
        let world = Self {
            sshd,
            host_key,
            client_key,
            directory,
        };
        world.write_key("id", &world.client_key);
        world.write_config();
        let known = format!(
            "[127.0.0.1]:{} {}\n",
            world.sshd.addr().port(),
            public(&world.host_key).to_openssh().unwrap()
        );
        std::fs::write(world.path("known_hosts"), known).unwrap();
        world
    }

    /// A path in the directory of this world.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write_key(&self, name: &str, key: &HostKey) {
        let mut file = std::fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(name))
            .unwrap();
        std::io::Write::write_all(&mut file, key.to_openssh().unwrap().as_bytes()).unwrap();
    }

    /// A file of `length` bytes that compress badly and repeat nowhere.
    pub fn write_file(&self, name: &str, length: usize) -> Vec<u8> {
        let bytes = noise(length);
        std::fs::write(self.path(name), &bytes).unwrap();
        bytes
    }

    /// The configuration file that makes every OpenSSH client reach this server as `sshd`.
    pub fn config(&self) -> PathBuf {
        self.path("config")
    }

    fn write_config(&self) {
        let directory = self.directory.path().display();
        let mut text = String::new();
        writeln!(
            text,
            "Host sshd\n HostName 127.0.0.1\n Port {}\n User anything\n IdentityFile {directory}/id\n \
             IdentitiesOnly yes\n UserKnownHostsFile {directory}/known_hosts\n GlobalKnownHostsFile none\n \
             StrictHostKeyChecking yes\n BatchMode yes\n LogLevel ERROR\n ExitOnForwardFailure yes\n \
             SendEnv LC_TEST NOT_ACCEPTED",
            self.sshd.addr().port()
        )
        .unwrap();
        std::fs::write(self.config(), text).unwrap();
    }

    /// `ssh` with `arguments`, which contain the host `sshd`.
    pub fn ssh<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = client("ssh");
        command.arg("-F").arg(self.config()).args(arguments);
        command
    }
}

pub fn public(key: &HostKey) -> PublicKey {
    PublicKey::from_bytes(key.public_blob()).unwrap()
}

/// A command that dies with the test, without input.
pub fn client(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Whether all `programs` are installed. At the desk a missing one skips the test; in CI it is a failure.
pub fn have(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|directory| is_executable(&directory.join(program)))
        });
        assert!(
            found || std::env::var_os("CI").is_none(),
            "{program} is not installed"
        );
        if !found {
            println!("skipped: {program} is not installed");
        }
        found
    })
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Runs `command` to its end.
pub async fn run(command: &mut Command) -> Output {
    finish(command.spawn().unwrap()).await
}

/// Runs `command` to its end with `input`.
pub async fn run_with(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = async move {
        // A client that reads no more is not an error of ours.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    tokio::join!(feed, finish(child)).1
}

pub async fn finish(child: Child) -> Output {
    tokio::time::timeout(DEADLINE, child.wait_with_output())
        .await
        .expect("deadline")
        .unwrap()
}

/// Standard output of a command that succeeds.
pub async fn stdout(command: &mut Command) -> String {
    let output = run(command).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `ready` gives something.
pub async fn until<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            if let Some(value) = ready() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll)
        .await
        .expect("deadline")
}

/// Bytes without a pattern (xorshift).
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words
        .take(length.div_ceil(8))
        .flatten()
        .take(length)
        .collect()
}
