//! Session channels (RFC 4254 §6): what is asked for before the start, then a process or a subsystem.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Context;
use super::channel::{ChannelId, ChannelRequest, Exit};
use super::forward::Listeners;
use super::pipe::Pipe;
use super::process::{self, Authority, Control, Launch, Program};
use super::sftp;
use super::terminal::Terminal;
use super::xauth;

/// Where programs are searched when nobody says.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Variables that one session may set: enough for every locale category, and a bound on what is kept.
const MAX_VARIABLES: usize = 64;

/// Signals and breaks that may wait for a session's task, which takes them soon.
const MAX_CONTROLS: usize = 32;

/// One session channel, as the connection's task sees it.
pub(super) struct Session {
    context: Arc<Context>,
    id: ChannelId,
    state: State,
}

enum State {
    /// Nothing runs yet.
    Preparing(Preparation),
    /// A process runs, or has run, and can be told things.
    Process {
        controls: mpsc::Sender<Control>,
        /// Its terminal, as long as it has one. A size is set at once, so that the last of many is not lost, and
        /// what is typed after it finds it there.
        terminal: Weak<OwnedFd>,
    },
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
    pub(super) fn new(context: Arc<Context>, id: ChannelId, pipe: Pipe) -> Self {
        Self {
            context,
            id,
            state: State::Preparing(Preparation {
                pipe,
                environment: Vec::new(),
                terminal: None,
            }),
        }
    }

    /// Does what the client asks; false where that fails or is not offered.
    pub(super) fn request(&mut self, request: ChannelRequest, listeners: &mut Listeners) -> bool {
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
            ChannelRequest::Shell => self.start(Program::Shell, listeners),
            ChannelRequest::Exec(command) => {
                self.start(Program::Command(OsString::from_vec(command)), listeners)
            }
            ChannelRequest::Subsystem(name) => name == b"sftp" && self.start_sftp(),
            ChannelRequest::WindowChange(size) => {
                match &self.state {
                    State::Process { terminal, .. } => {
                        if let Some(terminal) = terminal.upgrade() {
                            drop(super::terminal::resize(&*terminal, size));
                        }
                    }
                    State::Preparing(Preparation {
                        terminal: Some((_, terminal)),
                        ..
                    }) => drop(super::terminal::resize(&terminal.master, size)),
                    State::Preparing(_) | State::Settled => {}
                }
                // What sshd says whether there is a terminal or not.
                true
            }
            ChannelRequest::Signal(name) => match (&self.state, process::signal(&name)) {
                (State::Process { controls, .. }, Some(signal)) => {
                    controls.try_send(Control::Signal(signal)).is_ok()
                }
                _ => false,
            },
            ChannelRequest::Break => match &self.state {
                State::Process { controls, terminal } if terminal.strong_count() > 0 => {
                    controls.try_send(Control::Break).is_ok()
                }
                State::Preparing(_) | State::Process { .. } | State::Settled => false,
            },
            ChannelRequest::AgentForward => {
                matches!(self.state, State::Preparing(_)) && listeners.forward_agent()
            }
            ChannelRequest::X11Forward(request) => {
                matches!(self.state, State::Preparing(_))
                    && self.xauth().is_some()
                    && listeners.forward_x11(self.id, request)
            }
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

    fn start(&mut self, program: Program, listeners: &Listeners) -> bool {
        let Some(Preparation {
            pipe,
            environment,
            terminal,
        }) = self.settle()
        else {
            return false;
        };
        let (controls, inbox) = mpsc::channel(MAX_CONTROLS);
        let display = listeners.display(self.id);
        let mut environment = self.environment(environment, terminal.as_ref());
        if let Some(display) = display {
            environment.push(("DISPLAY".into(), display.name().into()));
        }
        // Whichever session has asked for the agent, all that start from then on have it.
        if let Some(socket) = listeners.agent() {
            environment.push(("SSH_AUTH_SOCK".into(), socket.into()));
        }
        let launch = Launch {
            program,
            environment,
            authority: display.and_then(|display| {
                Some(Authority {
                    xauth: self.xauth()?,
                    commands: display.authority(),
                })
            }),
            terminal: terminal.map(|(_, terminal)| terminal),
        };
        match process::start(&self.context, launch, pipe, inbox) {
            Ok(terminal) => {
                self.state = State::Process { controls, terminal };
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
            environment: configured,
            ..
        } = &*self.context;
        let search_path = std::env::var_os("PATH");
        let search_path = search_path.unwrap_or_else(|| DEFAULT_PATH.into());
        let mut environment = accepted;
        let mut set =
            |name: &str, value: &OsStr| environment.push((name.into(), value.to_os_string()));
        set("USER", &account.name);
        set("LOGNAME", &account.name);
        set("HOME", account.home.as_os_str());
        set("SHELL", account.shell.as_os_str());
        set("PATH", &search_path);
        if let Some(zone) = std::env::var_os("TZ") {
            set("TZ", &zone);
        }
        for (name, value) in configured.iter() {
            set(name, value);
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
            if !term.is_empty() && !term.as_bytes().contains(&0) {
                set("TERM", term);
            }
        }
        environment
    }

    /// The program that keeps the cookies of displays: the one that processes find too.
    fn xauth(&self) -> Option<PathBuf> {
        let environment = self.environment(Vec::new(), None);
        let (_, search_path) = environment.iter().rfind(|(name, _)| name == "PATH")?;
        let found = xauth::find(search_path);
        if found.is_none() {
            debug!("no xauth program; cannot forward X11");
        }
        found
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
            pipe.exit(Exit::Status(
                served.map_or_else(sftp::Error::exit_status, |()| 0),
            ));
            pipe.finish();
        });
        true
    }
}
