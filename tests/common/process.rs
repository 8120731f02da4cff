//! Child processes that cannot outlive their deadline or their owner.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::DEADLINE;

/// A command to run to its end under a deadline.
///
/// Output goes to unnamed files, not pipes: a background process that inherits them cannot hold us,
/// and no amount of output can block the child.
pub(crate) struct Run {
    command: Command,
    stdin: Option<File>,
    stdout: Option<File>,
    deadline: Duration,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// The exit status as a shell would show it: 128 + n for a death by signal n.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            command: Command::new(program),
            stdin: None,
            stdout: None,
            deadline: DEADLINE,
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Starts from an empty environment.
    pub(crate) fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    pub(crate) fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// What the command reads from its standard input; nothing by default.
    pub(crate) fn stdin(self, bytes: impl AsRef<[u8]>) -> Self {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes.as_ref())
            .expect("the input is written");
        file.rewind().expect("a file rewinds");
        self.stdin_from(file)
    }

    /// A file to read standard input from.
    pub(crate) fn stdin_from(mut self, file: File) -> Self {
        self.stdin = Some(file);
        self
    }

    /// A file to write standard output to, instead of keeping it.
    pub(crate) fn stdout_to(mut self, file: File) -> Self {
        self.stdout = Some(file);
        self
    }

    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the command to its end, whatever its status.
    ///
    /// # Panics
    /// When it cannot be started or is still running at the deadline (it is killed then).
    pub(crate) fn output(mut self) -> Output {
        let kept = tempfile::tempfile().expect("a temporary file");
        let stdout = match self.stdout.take() {
            Some(file) => file,
            None => kept.try_clone().expect("a file handle clones"),
        };
        self.command
            .stdin(self.stdin.take().map_or_else(Stdio::null, Stdio::from));
        self.command.stdout(stdout);

        let started = Instant::now();
        let mut running = Running::start(self.command);
        let status = running.wait(self.deadline);
        Output {
            code: code(status),
            stdout: contents(kept),
            stderr: running.stderr(),
            took: started.elapsed(),
        }
    }

    /// Runs the command and expects success.
    ///
    /// # Panics
    /// With the command's standard error, when its status is not 0.
    pub(crate) fn ok(self) -> Output {
        let command = format!("{:?}", self.command);
        let output = self.output();
        assert_eq!(output.code, 0, "{command} failed: {output:?}");
        output
    }

    /// Starts the command and does not wait for its end; its output goes where [`Run::stdout_to`] says, or nowhere.
    pub(crate) fn background(mut self) -> Running {
        self.command
            .stdin(self.stdin.take().map_or_else(Stdio::null, Stdio::from))
            .stdout(self.stdout.take().map_or_else(Stdio::null, Stdio::from));
        Running::start(self.command)
    }

    /// Starts the command with both ends piped to the caller.
    pub(crate) fn piped(mut self) -> Running {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Running::start(self.command)
    }
}

impl Output {
    /// Standard output as text, without the last line end.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// A child process that is killed and reaped when dropped.
pub(crate) struct Running {
    child: Child,
    what: String,
    stderr: File,
}

impl Running {
    /// Starts `command` with its standard error collected in an unnamed file.
    pub(crate) fn start(mut command: Command) -> Self {
        let stderr = tempfile::tempfile().expect("a temporary file");
        command.stderr(stderr.try_clone().expect("a file handle clones"));
        let what = format!("{command:?}");
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        Self {
            child,
            what,
            stderr,
        }
    }

    /// Takes charge of a child started elsewhere.
    pub(crate) fn adopt(child: Child, what: &str) -> Self {
        let stderr = tempfile::tempfile().expect("a temporary file");
        Self {
            child,
            what: what.to_owned(),
            stderr,
        }
    }

    /// The command line.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The writing end of the child's standard input; dropping it is end of file.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("standard input is piped")
    }

    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("standard output is piped")
    }

    /// What the child has written to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        let file = self.stderr.try_clone().expect("a file handle clones");
        String::from_utf8_lossy(&contents(file)).into_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal)
            .unwrap_or_else(|error| panic!("signal to {}: {error}", self.what));
    }

    /// Waits for the end of the child.
    ///
    /// # Panics
    /// When it still runs at the deadline; it is killed then.
    pub(crate) fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let Some(status) = self.try_wait(deadline) else {
            let _ = self.child.kill();
            let stderr = self.stderr();
            panic!(
                "{} still runs after {deadline:?}; stderr: {stderr}",
                self.what
            );
        };
        status
    }

    /// Waits for the end of the child, or returns `None` at the deadline.
    pub(crate) fn try_wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        if deadline.is_zero() {
            return None;
        }
        // The thread looks without reaping, so the process id stays ours until `Child::wait`.
        let pid = self.pid();
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitid(WaitId::Pid(pid), options)
            {}
            let _ = ended.send(());
        });
        end.recv_timeout(deadline).ok()?;
        Some(self.child.wait().expect("our child is waited for once"))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit status as a shell would show it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn contents(file: File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    // The child shares the file's position: read at offsets, never seek while it may still write.
    let mut all = Vec::new();
    let mut chunk = [0; 1 << 16];
    while let Ok(count) = file.read_at(&mut chunk, all.len() as u64) {
        if count == 0 {
            break;
        }
        all.extend_from_slice(&chunk[..count]);
    }
    all
}

/// Reads until `needle` has come and returns everything up to there, or `None` when the stream ends or
/// the deadline passes first. The rest of the stream is read and dropped.
pub(crate) fn read_until(mut stream: impl Read + Send + 'static, needle: &str) -> Option<String> {
    let wanted = needle.to_owned();
    let (found, seen) = mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        let mut found = Some(found);
        while let Ok(count) = stream.read(&mut chunk) {
            if count == 0 {
                break;
            }
            if found.is_some() {
                all.extend_from_slice(&chunk[..count]);
                let text = String::from_utf8_lossy(&all);
                if text.contains(&wanted)
                    && let Some(found) = found.take()
                {
                    let _ = found.send(text.into_owned());
                }
            }
        }
    });
    seen.recv_timeout(DEADLINE).ok()
}
