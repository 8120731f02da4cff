//! A terminal with a client on it: what a person at a keyboard has.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty};

use super::process::Running;

/// How long one answer of an interactive program may take.
const ANSWER: Duration = Duration::from_secs(60);

/// A program on a pseudo-terminal of its own.
pub(crate) struct Terminal {
    pty: Arc<Pty>,
    program: Running,
    screen: Receiver<Vec<u8>>,
    /// What has been shown and not yet been waited for.
    shown: String,
}

impl Terminal {
    /// Starts `program` on a terminal of `rows` by `cols`.
    pub(crate) fn start(program: &str, args: &[String], rows: u16, cols: u16) -> Self {
        let command = Command::new(program)
            .args(args)
            .env("TERM", "xterm-256color")
            .env_remove("SSH_AUTH_SOCK");
        Self::spawn(program, command, rows, cols)
    }

    /// Starts `program` with `environment` and no more.
    pub(crate) fn start_with(
        program: &str,
        args: &[String],
        environment: &[(String, String)],
    ) -> Self {
        let command = Command::new(program)
            .args(args)
            .env_clear()
            .envs(environment.iter().cloned());
        Self::spawn(program, command, 24, 200)
    }

    fn spawn(program: &str, command: Command, rows: u16, cols: u16) -> Self {
        let (pty, pts) = pty_process::blocking::open().expect("a pseudo-terminal");
        pty.resize(Size::new(rows, cols))
            .expect("a terminal has a size");
        let child = command
            .spawn(pts)
            .unwrap_or_else(|error| panic!("{program}: {error}"));

        let pty = Arc::new(pty);
        let reader = Arc::clone(&pty);
        let (shown, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // A terminal whose last process has gone reads as an error (EIO) on Linux.
            while let Ok(count) = (&*reader).read(&mut chunk) {
                if count == 0 || shown.send(chunk[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            pty,
            program: Running::adopt(child, program),
            screen,
            shown: String::new(),
        }
    }

    /// Types `text`; a line ends with `\r`, as the Enter key sends it.
    pub(crate) fn keys(&self, text: &str) {
        (&*self.pty)
            .write_all(text.as_bytes())
            .expect("the terminal takes keys");
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        self.pty
            .resize(Size::new(rows, cols))
            .expect("a terminal has a size");
    }

    /// Waits until `text` is shown, and forgets the screen up to its end.
    ///
    /// # Panics
    /// When the program ends or the time is over first.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + ANSWER;
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            match self
                .screen
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(chunk) => self.shown.push_str(&String::from_utf8_lossy(&chunk)),
                Err(error) => panic!("waiting for {text:?}: {error}; shown: {:?}", self.shown),
            }
        }
    }

    /// Whether `text` is shown now.
    pub(crate) fn has_shown(&mut self, text: &str) -> bool {
        while let Ok(chunk) = self.screen.try_recv() {
            self.shown.push_str(&String::from_utf8_lossy(&chunk));
        }
        self.shown.contains(text)
    }

    /// What is shown from the last word that was waited for until now.
    pub(crate) fn screen(&mut self) -> &str {
        while let Ok(chunk) = self.screen.try_recv() {
            self.shown.push_str(&String::from_utf8_lossy(&chunk));
        }
        &self.shown
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.program.signal(signal);
    }

    /// Waits for the program's end and returns its status.
    pub(crate) fn finish(mut self) -> i32 {
        super::process::code(self.program.wait(ANSWER))
    }
}
