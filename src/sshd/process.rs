//! Processes of sessions: started through the login shell, fed, drained, signalled, and their end reported.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Weak};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, warn};

use super::Context;
use super::channel::{Exit, Stream};
use super::pipe::Pipe;
use super::pump;
use super::terminal::Terminal;
use super::xauth;

/// What is to be started, and how.
pub(super) struct Launch {
    pub(super) program: Program,
    /// The whole environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// The controlling terminal; pipes without.
    pub(super) terminal: Option<Terminal>,
    /// What is to be written down before.
    pub(super) authority: Option<Authority>,
}

/// The cookie of the display, for xauth.
pub(super) struct Authority {
    /// The program.
    pub(super) xauth: PathBuf,
    /// What it is told, secrets among it.
    pub(super) commands: Vec<u8>,
}

/// What the login shell runs.
pub(super) enum Program {
    /// Itself, as a login shell.
    Shell,
    /// `-c` with these bytes.
    Command(OsString),
}

/// What a running process can be told.
pub(super) enum Control {
    /// A signal for its process group.
    Signal(Signal),
    /// A break on its terminal.
    Break,
}

/// Starts the process and the task that serves it until the channel is closed.
///
/// Returns its terminal, if it has one, to be told its size; it hangs up when the process lets go of it.
///
/// # Errors
/// When the process cannot be started; the channel closes. Where the cookie of a display is written down first, nobody
/// waits for that, and the failure becomes an exit status, as with sshd.
pub(super) fn start(
    context: &Arc<Context>,
    launch: Launch,
    pipe: Pipe,
    controls: mpsc::Receiver<Control>,
) -> io::Result<Weak<OwnedFd>> {
    let Launch {
        program,
        environment,
        terminal,
        authority,
    } = launch;
    let account = &context.account;
    let prepare = |program: &Path| {
        let mut command = Command::new(program);
        command.env_clear().envs(environment.iter().cloned());
        command.current_dir(if account.home.is_dir() {
            account.home.as_path()
        } else {
            "/".as_ref()
        });
        command
    };
    let mut command = prepare(&account.shell);
    let shell = account.shell_name();
    match program {
        Program::Shell => {
            let mut name = OsString::from("-");
            name.push(shell);
            command.arg0(name);
        }
        Program::Command(text) => {
            command.arg0(shell).arg("-c").arg(text);
        }
    }

    let pipe = Arc::new(pipe);
    let control = terminal
        .as_ref()
        .map(|terminal| Arc::downgrade(&terminal.control));
    let control = control.unwrap_or_default();
    let shutdown = context.shutdown.clone();
    let Some(Authority { xauth, commands }) = authority else {
        let process = Process::new(command, terminal, &pipe)?;
        let task = async move { process.run(&pipe, controls, &shutdown).await };
        context.tasks.spawn(task.in_current_span());
        return Ok(control);
    };
    let xauth = prepare(&xauth);
    let task = async move {
        let told = xauth::run(xauth, &commands, &pipe, terminal.as_ref());
        match shutdown.run_until_cancelled(told).await {
            None => return,
            Some(Err(error)) => warn!(%error, "xauth was not told of a display"),
            Some(Ok(())) => {}
        }
        match Process::new(command, terminal, &pipe) {
            Ok(process) => process.run(&pipe, controls, &shutdown).await,
            Err(error) => {
                warn!(%error, "a session's process did not start");
                pipe.exit(Exit::Status(1));
                pipe.finish();
            }
        }
    };
    context.tasks.spawn(task.in_current_span());
    Ok(control)
}

/// A child and the tasks that copy its streams.
struct Process {
    child: Child,
    /// The pump into standard input; aborted when dropped.
    input: JoinSet<()>,
    /// The pumps of the output streams; aborted when dropped.
    output: JoinSet<()>,
    /// The terminal's master, while there is one: its last handle hangs up when closed.
    terminal: Option<Arc<OwnedFd>>,
}

impl Process {
    fn new(command: Command, terminal: Option<Terminal>, pipe: &Arc<Pipe>) -> io::Result<Self> {
        let process = match terminal {
            None => Self::with_pipes(command, pipe)?,
            Some(terminal) => Self::with_terminal(command, terminal, pipe)?,
        };
        debug!(pid = process.child.id(), "process started");
        Ok(process)
    }

    fn with_pipes(mut command: Command, pipe: &Arc<Pipe>) -> io::Result<Self> {
        // A group of its own, so that a signal reaches what the shell started and not us.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let missing = || io::Error::other("a standard stream is missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let mut process = Self {
            child,
            input: JoinSet::new(),
            output: JoinSet::new(),
            terminal: None,
        };
        process.feed(pipe, stdin);
        process.drain(pipe, stdout, Stream::Stdout);
        process.drain(pipe, stderr, Stream::Stderr);
        Ok(process)
    }

    fn with_terminal(command: Command, terminal: Terminal, pipe: &Arc<Pipe>) -> io::Result<Self> {
        let child = pty_process::Command::from(command)
            .spawn(terminal.slave)
            .map_err(io::Error::other)?;
        let (reader, writer) = terminal.master.into_split();
        let mut process = Self {
            child,
            input: JoinSet::new(),
            output: JoinSet::new(),
            terminal: Some(terminal.control),
        };
        process.feed(pipe, writer);
        process.drain(pipe, reader, Stream::Stdout);
        Ok(process)
    }

    fn feed(&mut self, pipe: &Arc<Pipe>, mut writer: impl AsyncWrite + Unpin + Send + 'static) {
        let pipe = Arc::clone(pipe);
        self.input.spawn(async move {
            let fed = pump::feed(&pipe, &mut writer).await;
            drop(writer);
            pipe.discard();
            if fed.is_err() {
                pipe.end_of_write();
            }
        });
    }

    fn drain(
        &mut self,
        pipe: &Arc<Pipe>,
        mut reader: impl AsyncRead + Unpin + Send + 'static,
        stream: Stream,
    ) {
        let pipe = Arc::clone(pipe);
        self.output
            .spawn(async move { pump::drain(&pipe, &mut reader, stream).await });
    }

    /// Serves until the end, or until the server stops.
    async fn run(
        mut self,
        pipe: &Pipe,
        controls: mpsc::Receiver<Control>,
        shutdown: &CancellationToken,
    ) {
        tokio::select! {
            () = self.serve(pipe, controls) => {}
            // A process may outlive its channel, as under sshd, but is hung up when the server stops.
            () = shutdown.cancelled() => self.signal(Signal::HUP),
        }
    }

    /// Serves until the process has ended and its output is at EOF, or nobody reads it.
    ///
    /// The status is sent when the process ends, EOF when the last holder of its output is gone, and CLOSE, by dropping
    /// the pipe, after both, even if the client has closed the channel before: what sshd does, so that `command &` keeps a
    /// channel open until it stops writing, and no status is lost on a client that closes early.
    async fn serve(&mut self, pipe: &Pipe, mut controls: mpsc::Receiver<Control>) {
        let mut running = true;
        let mut draining = true;
        let mut closed = false;
        while running || draining {
            tokio::select! {
                status = self.child.wait(), if running => {
                    running = false;
                    self.input.shutdown().await;
                    pipe.discard();
                    if let Some(exit) = status.ok().map(exit) {
                        debug!(?exit, "process ended");
                        pipe.exit(exit);
                    }
                    pipe.end_of_write();
                }
                ended = self.output.join_next(), if draining => {
                    if ended.is_none() {
                        draining = false;
                        pipe.finish();
                    }
                }
                Some(control) = controls.recv(), if running => self.control(&control),
                () = pipe.closed(), if !closed => {
                    closed = true;
                    self.hang_up().await;
                }
            }
        }
    }

    /// Closes the terminal, whose processes get `SIGHUP`. Pipes are closed by their pumps: what came before the end of the
    /// channel is still written.
    async fn hang_up(&mut self) {
        if self.terminal.take().is_some() {
            self.input.shutdown().await;
            self.output.shutdown().await;
        }
    }

    fn control(&self, control: &Control) {
        let done = match (control, &self.terminal) {
            (Control::Signal(signal), _) => return self.signal(*signal),
            (Control::Break, Some(terminal)) => {
                rustix::termios::tcsendbreak(terminal).map_err(io::Error::from)
            }
            (Control::Break, None) => return,
        };
        if let Err(error) = done {
            debug!(%error, "the terminal refused");
        }
    }

    /// Signals the process group, while the child has not been waited for and its id is therefore its own.
    fn signal(&self, signal: Signal) {
        let group = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = group
            && let Err(error) = rustix::process::kill_process_group(group, signal)
        {
            debug!(%error, ?signal, "the process group took no signal");
        }
    }
}

/// The signals of RFC 4254 §6.10.
const SIGNALS: [(&str, Signal); 13] = [
    ("ABRT", Signal::ABORT),
    ("ALRM", Signal::ALARM),
    ("FPE", Signal::FPE),
    ("HUP", Signal::HUP),
    ("ILL", Signal::ILL),
    ("INT", Signal::INT),
    ("KILL", Signal::KILL),
    ("PIPE", Signal::PIPE),
    ("QUIT", Signal::QUIT),
    ("SEGV", Signal::SEGV),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
];

/// The signal called `name`.
pub(super) fn signal(name: &[u8]) -> Option<Signal> {
    SIGNALS
        .iter()
        .find(|(known, _)| known.as_bytes() == name)
        .map(|(_, signal)| *signal)
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Status(code.cast_unsigned()),
        (None, Some(number)) => Exit::Signal {
            name: SIGNALS
                .iter()
                .find(|(_, signal)| signal.as_raw() == number)
                // What OpenSSH says of a signal without a name in the RFC.
                .map_or_else(
                    || "SIG@openssh.com".to_owned(),
                    |(name, _)| (*name).to_owned(),
                ),
            core_dumped: status.core_dumped(),
        },
        // Neither exited nor killed: not a state that `wait` reports.
        (None, None) => Exit::Status(255),
    }
}
