//! Session channels (RFC 4254 §6): what is asked for before the start, then a process or a subsystem.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Context;
use super::channel::{ChannelRequest, Exit};
use super::pipe::Pipe;
use super::process::{self, Control, Launch, Program};
use super::sftp;
use super::terminal::Terminal;

/// Variables that one session may set: enough for every locale category, and a bound on what is kept.
const MAX_VARIABLES: usize = 64;

/// Signals and sizes that may wait for a session's task, which takes them at once.
const MAX_CONTROLS: usize = 32;

/// One session channel, as the connection's task sees it.
pub(super) struct Session {
    context: Arc<Context>,
    state: State,
}

enum State {
    /// Nothing runs yet.
    Preparing(Preparation),
    /// A process runs, or has run, and can be told things.
    Process(mpsc::Sender<Control>),
    /// A subsystem runs, or the start failed: nothing more can be asked for.
    Settled,
}

/// What has been asked for before the start.
struct Preparation {
    pipe: Pipe,
    environment: Vec<(OsString, OsString)>,
    /// The value for `TERM`, and what it describes.
    terminal: Option<(OsString, Terminal)>,
}

impl Session {
    /// A session that nothing has been asked of.
    pub(super) fn new(context: Arc<Context>, pipe: Pipe) -> Self {
        Self {
            context,
            state: State::Preparing(Preparation {
                pipe,
                environment: Vec::new(),
                terminal: None,
            }),
        }
    }

    /// Does what the client asks; false where that fails or is not offered.
    pub(super) fn request(&mut self, request: ChannelRequest) -> bool {
        match request {
            ChannelRequest::Env { name, value } => self.set_variable(name, value),
            ChannelRequest::Pty { term, size, modes } => {
                let State::Preparing(Preparation {
                    terminal: terminal @ None,
                    ..
                }) = &mut self.state
                else {
                    return false;
                };
                match Terminal::open(size, &modes) {
                    Ok(opened) => *terminal = Some((OsString::from_vec(term), opened)),
                    Err(error) => warn!(%error, "no pseudo terminal"),
                }
                terminal.is_some()
            }
            ChannelRequest::Shell => self.start(Program::Shell),
            ChannelRequest::Exec(command) => {
                self.start(Program::Command(OsString::from_vec(command)))
            }
            ChannelRequest::Subsystem(name) => name == b"sftp" && self.start_sftp(),
            ChannelRequest::WindowChange(size) => match &mut self.state {
                State::Process(controls) => controls.try_send(Control::Resize(size)).is_ok(),
                State::Preparing(Preparation {
                    terminal: Some((_, terminal)),
                    ..
                }) => super::terminal::resize(&terminal.master, size).is_ok(),
                State::Preparing(_) | State::Settled => false,
            },
            ChannelRequest::Signal(name) => match (&self.state, process::signal(&name)) {
                (State::Process(controls), Some(signal)) => {
                    controls.try_send(Control::Signal(signal)).is_ok()
                }
                _ => false,
            },
            ChannelRequest::Break => match &self.state {
                State::Process(controls) => controls.try_send(Control::Break).is_ok(),
                State::Preparing(_) | State::Settled => false,
            },
            ChannelRequest::EndOfWrite | ChannelRequest::Unknown => false,
        }
    }

    /// Keeps locale variables, and refuses others as sshd does with `AcceptEnv LANG LC_*`.
    fn set_variable(&mut self, name: Vec<u8>, value: Vec<u8>) -> bool {
        let State::Preparing(Preparation { environment, .. }) = &mut self.state else {
            return false;
        };
        let accepted = (name == b"LANG" || name.starts_with(b"LC_"))
            && !name.contains(&b'=')
            && !name.contains(&0)
            && !value.contains(&0)
            && environment.len() < MAX_VARIABLES;
        if accepted {
            environment.push((OsString::from_vec(name), OsString::from_vec(value)));
        }
        accepted
    }

    /// Ends the preparation, if nothing has been started yet.
    fn settle(&mut self) -> Option<Preparation> {
        match std::mem::replace(&mut self.state, State::Settled) {
            State::Preparing(preparation) => Some(preparation),
            state => {
                self.state = state;
                None
            }
        }
    }

    fn start(&mut self, program: Program) -> bool {
        let Some(Preparation {
            pipe,
            environment,
            terminal,
        }) = self.settle()
        else {
            return false;
        };
        let (controls, inbox) = mpsc::channel(MAX_CONTROLS);
        let launch = Launch {
            program,
            environment: self.environment(environment, terminal.as_ref()),
            terminal: terminal.map(|(_, terminal)| terminal),
        };
        match process::start(&self.context, launch, pipe, inbox) {
            Ok(()) => {
                self.state = State::Process(controls);
                true
            }
            Err(error) => {
                warn!(%error, "a session's process did not start");
                false
            }
        }
    }

    /// The environment of a login (sshd's `do_setup_env`): nothing of ours but the search path and the time zone.
    fn environment(
        &self,
        accepted: Vec<(OsString, OsString)>,
        terminal: Option<&(OsString, Terminal)>,
    ) -> Vec<(OsString, OsString)> {
        let Context {
            account,
            peer,
            local,
            ..
        } = &*self.context;
        let mut environment = accepted;
        let mut set =
            |name: &str, value: &OsStr| environment.push((name.into(), value.to_os_string()));
        set("USER", &account.name);
        set("LOGNAME", &account.name);
        set("HOME", account.home.as_os_str());
        set("SHELL", account.shell.as_os_str());
        set(
            "PATH",
            &std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
        );
        if let Some(zone) = std::env::var_os("TZ") {
            set("TZ", &zone);
        }
        let client = format!("{} {} {}", peer.ip(), peer.port(), local.port());
        set("SSH_CLIENT", OsStr::new(&client));
        let connection = format!(
            "{} {} {} {}",
            peer.ip(),
            peer.port(),
            local.ip(),
            local.port()
        );
        set("SSH_CONNECTION", OsStr::new(&connection));
        if let Some((term, terminal)) = terminal {
            set("SSH_TTY", &terminal.path);
            if !term.as_bytes().contains(&0) {
                set("TERM", term);
            }
        }
        environment
    }

    fn start_sftp(&mut self) -> bool {
        let Some(Preparation { pipe, .. }) = self.settle() else {
            return false;
        };
        let home = self.context.account.home.clone();
        // File operations block, and a read of a large directory for long: a thread of its own, not an async worker.
        let runtime = tokio::runtime::Handle::current();
        self.context.tasks.spawn_blocking(move || {
            let served = sftp::serve(&home, &runtime, &pipe);
            if let Err(error) = &served {
                debug!(%error, "sftp ended");
            }
            pipe.exit(Exit::Status(u32::from(served.is_err())));
            pipe.finish();
        });
        true
    }
}
