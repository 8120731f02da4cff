//! The program under test: `ssmshim demo`, `serve` or `emulator` with a home of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::process::{Run, Running};
use super::{DEADLINE, note};

/// The program, as cargo built it for this test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ssmshim");

/// How long the daemon may take to say the next thing: longer than every deadline of its own.
const ANSWER: Duration = Duration::from_secs(60);

/// The environment of every `ssmshim` under test: nothing of the person at the desk but the basics.
pub(crate) fn environment(home: &Path) -> Vec<(String, String)> {
    let mut variables: Vec<_> = [
        "PATH",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "SSMSHIM_LOG",
        "RUST_LOG",
        "RUST_BACKTRACE",
    ]
    .iter()
    .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
    .collect();
    let mut set =
        |name: &str, value: &Path| variables.push((name.to_owned(), value.display().to_string()));
    set("HOME", home);
    set("XDG_CONFIG_HOME", &home.join("config"));
    set("XDG_STATE_HOME", &home.join("state"));
    set("XDG_DATA_HOME", &home.join("data"));
    set("XDG_CACHE_HOME", &home.join("cache"));
    set("XDG_RUNTIME_DIR", &home.join("run"));
    variables
}

/// The environment that sends the AWS SDK to an emulator.
pub(crate) fn aws_environment(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ENDPOINT_URL_SSM", endpoint),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        (
            "AWS_SECRET_ACCESS_KEY",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        ),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// `ssmshim` with `args`, to be run to its end: for everything that is no daemon or fails to become one.
pub(crate) fn ssmshim(home: &Path, args: &[&str]) -> Run {
    fs::create_dir_all(home).expect("our own directory");
    environment(home).into_iter().fold(
        Run::new(PROGRAM).env_clear().args(args),
        |run, (name, value)| run.env(&name, value),
    )
}

/// A running daemon; terminated when dropped.
pub(crate) struct Daemon {
    running: Running,
    /// The `ready` object of its standard output; null until it has come.
    pub(crate) ready: Value,
    stdout: Lines,
    stderr: Lines,
}

/// Memory of a process in KiB, from `/proc/PID/status`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// The most resident memory it ever had (`VmHWM`).
    pub(crate) peak: u64,
    /// What is resident now (`VmRSS`).
    pub(crate) now: u64,
}

impl Daemon {
    /// Starts `ssmshim` with `args` plus `--json --listen 127.0.0.1:0` and waits until it is ready.
    ///
    /// # Panics
    /// With what it wrote to standard error, when it ends or the deadline passes first.
    pub(crate) fn start(home: &Path, args: &[&str], extra: &[(String, String)]) -> Self {
        let args = [args, &["--json", "--listen", "127.0.0.1:0"]].concat();
        let mut daemon = Self::launch(home, &args, extra);
        daemon.ready = daemon.next_event();
        assert_eq!(
            daemon.ready["event"], "ready",
            "the first line: {}",
            daemon.ready
        );
        daemon
    }

    /// Starts `ssmshim` with just `args` and waits for nothing.
    pub(crate) fn launch(home: &Path, args: &[&str], extra: &[(String, String)]) -> Self {
        Self::launch_by(Command::new(PROGRAM), home, args, extra)
    }

    /// Has `command` start it, which becomes `ssmshim` itself in the end.
    pub(crate) fn launch_by(
        mut command: Command,
        home: &Path,
        args: &[&str],
        extra: &[(String, String)],
    ) -> Self {
        fs::create_dir_all(home).expect("our own directory");
        command
            .args(args)
            .env_clear()
            .envs(environment(home))
            .envs(extra.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stderr = Lines::of(child.stderr.take().expect("standard error is piped"));
        let stdout = Lines::of(child.stdout.take().expect("standard output is piped"));
        let running = Running::adopt(child, &format!("ssmshim {}", args.join(" ")));
        Self {
            running,
            ready: Value::Null,
            stdout,
            stderr,
        }
    }

    /// The next JSON object on standard output.
    pub(crate) fn next_event(&self) -> Value {
        let Some(line) = self.stdout.next() else {
            panic!("no line on stdout; stderr:\n{}", self.stderr());
        };
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"))
    }

    /// The next event, which is to be `name`.
    pub(crate) fn expect(&self, name: &str) -> Value {
        let event = self.next_event();
        assert_eq!(event["event"], name, "{event}; stderr:\n{}", self.stderr());
        event
    }

    /// Asks an emulator for faults.
    pub(crate) fn inject(&self, faults: &Value) {
        self.faults("POST", &faults.to_string());
    }

    /// What `method` brings at the faults of an emulator: how things stand.
    pub(crate) fn faults(&self, method: &str, body: &str) -> Value {
        let answer = super::net::call(self.port(), method, "/faults", "", body.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(body).unwrap_or_default()
    }

    /// Waits for a line on standard error that begins with `start`, and returns the rest of it.
    pub(crate) fn told(&self, start: &str) -> String {
        loop {
            let Some(line) = self.stderr.next() else {
                panic!("no {start:?} on stderr:\n{}", self.stderr());
            };
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        let address = self.text("listen");
        address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or_else(|| panic!("no port in {address:?}"))
    }

    /// A text member of the `ready` object.
    pub(crate) fn text(&self, member: &str) -> String {
        let value = self.ready[member].as_str();
        value
            .unwrap_or_else(|| panic!("no {member} in {}", self.ready))
            .to_owned()
    }

    /// Everything on standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.all()
    }

    /// Everything on standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.all()
    }

    pub(crate) fn memory(&self) -> Memory {
        Memory {
            peak: self.status("VmHWM"),
            now: self.status("VmRSS"),
        }
    }

    pub(crate) fn threads(&self) -> u64 {
        self.status("Threads")
    }

    /// Open file descriptors: what a leak of connections shows in first.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.running.id());
        fs::read_dir(path).map_or(0, Iterator::count)
    }

    /// Asserts that the daemon has not ended.
    pub(crate) fn assert_up(&mut self) {
        let ended = self.running.try_wait(Duration::ZERO);
        assert!(
            ended.is_none(),
            "the daemon ended ({ended:?}); stderr:\n{}",
            self.stderr()
        );
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits for its end and returns the status and how long it took.
    pub(crate) fn wait(&mut self) -> (i32, Duration) {
        let started = Instant::now();
        match self.running.try_wait(DEADLINE) {
            Some(status) => (super::process::code(status), started.elapsed()),
            None => panic!("the daemon does not end; stderr:\n{}", self.stderr()),
        }
    }

    fn status(&self, field: &str) -> u64 {
        process_status(self.running.id(), field)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The orderly end first, so that no far-end process is left; `Running` kills what remains.
        if self.running.try_wait(Duration::ZERO).is_none() {
            // A stopped process would not hear it.
            self.running.signal(Signal::CONT);
            self.running.signal(Signal::TERM);
            let _ = self.running.try_wait(Duration::from_secs(10));
        }
        let stderr = self.stderr();
        if std::thread::panicking() {
            note(&format!("stderr of {}:\n{stderr}", self.running.what()));
        } else {
            assert!(
                !stderr.contains("panicked at"),
                "the daemon panicked:\n{stderr}"
            );
        }
    }
}

/// A stream of lines, read by a thread of its own so that the writer never blocks.
struct Lines {
    next: Receiver<String>,
    all: Arc<Mutex<String>>,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (line, next) = mpsc::channel();
        let all = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&all);
        thread::spawn(move || {
            for text in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut kept = kept.lock().expect("no panic under the lock");
                kept.push_str(&text);
                kept.push('\n');
                drop(kept);
                let _ = line.send(text);
            }
        });
        Self { next, all }
    }

    /// The next line, or `None` at the end of the stream or at the deadline.
    fn next(&self) -> Option<String> {
        self.next.recv_timeout(ANSWER).ok()
    }

    fn all(&self) -> String {
        self.all.lock().expect("no panic under the lock").clone()
    }
}

/// A number of `/proc/PID/status`; memory is in KiB.
pub(crate) fn process_status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no {field} for process {pid}"))
}
