//! The only place that prints: stdout is data, stderr is for people.

use std::io::{IsTerminal as _, Write};
use std::net::SocketAddr;

use serde::Serialize;

/// Where events and words go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

/// Which target an event is about.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct About<'a> {
    /// The machine's id.
    pub(super) target: &'a str,
    /// The port of its sshd: by another one the same machine is another target.
    pub(super) ssh_port: u16,
}

/// One line of `--json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// `ssh` would work now.
    Ready {
        listen: SocketAddr,
        #[serde(skip_serializing_if = "Option::is_none")]
        endpoint: Option<&'a str>,
        /// None where login names have to select one.
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ssh_port: Option<u16>,
    },
    /// A login name has selected the target, and it is being reached; `up` or `down` follows.
    Started {
        #[serde(flatten)]
        about: About<'a>,
    },
    /// What was up is not any more.
    Lost {
        #[serde(flatten)]
        about: About<'a>,
        reason: &'a str,
        /// Whether the SSM session is being resumed: all that is open goes on afterwards. Otherwise another is
        /// started, and what was open in this one ends.
        resuming: bool,
    },
    /// The agent on the target does not answer, although there is a link to it.
    Silent {
        #[serde(flatten)]
        about: About<'a>,
        silent_seconds: f64,
    },
    /// The agent answers again: all that is open goes on.
    Heard {
        #[serde(flatten)]
        about: About<'a>,
        silent_seconds: f64,
    },
    /// The SSM session is not resumed yet, for a reason that was not told before.
    Retrying {
        #[serde(flatten)]
        about: About<'a>,
        attempt: u32,
        error: &'a str,
        hint: Option<&'a str>,
    },
    /// The SSM session goes on.
    Resumed {
        #[serde(flatten)]
        about: About<'a>,
        gap_seconds: f64,
        attempts: u32,
    },
    /// The target cannot be reached for now; the daemon stays up and tries again.
    Down {
        #[serde(flatten)]
        about: About<'a>,
        error: &'a str,
        hint: Option<&'a str>,
    },
    /// Somebody is not let in at a target where others are.
    LoginRefused {
        #[serde(flatten)]
        about: About<'a>,
        error: &'a str,
        hint: Option<&'a str>,
    },
    /// The target is reached, or reached again.
    Up {
        #[serde(flatten)]
        about: About<'a>,
        /// Since it was lost, when that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        gap_seconds: Option<f64>,
    },
    /// Nobody uses a target any more that a login name had selected, and its session ends.
    Idle {
        #[serde(flatten)]
        about: About<'a>,
    },
    /// A signal came; connections are being closed.
    Stopping,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints `event` on stdout when events were asked for.
    ///
    /// A reader that has gone away is not an error: nobody is left to tell.
    pub(super) fn event(self, event: &Event<'_>) {
        if !self.json {
            return;
        }
        if let Ok(line) = serde_json::to_string(event) {
            let mut stdout = std::io::stdout().lock();
            let _gone = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
    }

    /// Tells the person at the terminal something, unless a program is listening instead.
    pub(super) fn say(self, text: &str) {
        if !self.json {
            print_stderr(text);
        }
    }

    /// Prints data on stdout, in whole lines. A reader that has gone away has seen enough.
    pub(super) fn data(self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        let _gone = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
    }

    /// Asks the person at the terminal something; the answer comes on the same line.
    pub(super) fn ask(self, question: &str) {
        let mut stderr = std::io::stderr().lock();
        let _gone = stderr
            .write_all(question.as_bytes())
            .and_then(|()| stderr.flush());
    }

    /// Whether somebody is there to be asked. Whoever reads a terminal from its background is stopped.
    pub(super) fn is_interactive(self) -> bool {
        let stdin = std::io::stdin();
        let in_foreground = || {
            let foreground = rustix::termios::tcgetpgrp(&stdin);
            foreground.is_ok_and(|group| group == rustix::process::getpgrp())
        };
        !self.json && stdin.is_terminal() && std::io::stderr().is_terminal() && in_foreground()
    }

    /// Tells an error and what to do about it, in both modes.
    pub(super) fn error(self, error: &str, hint: Option<&str>) {
        print_stderr(&format!("error: {error}"));
        Self::hint(hint);
    }

    /// Tells what is wrong for now and what to do about it, unless a program is listening instead.
    pub(super) fn warn(self, text: &str, hint: Option<&str>) {
        if !self.json {
            print_stderr(text);
            Self::hint(hint);
        }
    }

    fn hint(hint: Option<&str>) {
        if let Some(hint) = hint {
            print_stderr(&format!("hint: {hint}"));
        }
    }
}

fn print_stderr(text: &str) {
    let _gone = writeln!(std::io::stderr().lock(), "{text}");
}
