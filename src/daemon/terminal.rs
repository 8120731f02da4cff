//! The daemon's terminal: one question at a time, answered by whoever started the daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, OFlags};
use rustix::process::{Signal, kill_current_process_group};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::Mutex;
use tracing::debug;
use zeroize::Zeroizing;

use crate::aws::credentials::{AskCode, Code, NoCode, Question};
use crate::ssh::auth::client::{Prompt, Questions};
use crate::ssh::person::{Answer, Answers, Inquiry, Topic, Unanswered};

/// Longest line taken as an answer, in bytes: what a terminal keeps of one.
const MAX_LINE_BYTES: usize = 4096;

/// Heads questions that are not of one target alone.
const OWN_TITLE: &str = "ssmshim";

/// Leads to the terminal that controls the process, if one does.
const CONTROLLING: &str = "/dev/tty";

/// The terminal that standard input is, if it is one: a service has none.
///
/// Questions wait for each other. One that nobody waits for any more, its future being dropped, is
/// withdrawn, and what was typed of an answer is thrown away.
#[derive(Debug)]
pub(super) struct Terminal {
    is_behind: bool,
}

/// There is one terminal, whoever asks.
static TURN: Mutex<()> = Mutex::const_new(());

impl Terminal {
    /// The terminal of this process.
    pub(super) fn new() -> Self {
        Self { is_behind: false }
    }

    /// As [`Terminal::new`]; but where standard input serves somebody else, who has a terminal, that one: ssh gives its
    /// ProxyCommand pipes.
    pub(super) fn behind() -> Self {
        Self { is_behind: true }
    }

    /// Whether somebody could answer now.
    ///
    /// # Errors
    /// Why not.
    fn availability(&self) -> Result<PathBuf, Unanswered> {
        let (stdin, stderr) = (io::stdin(), io::stderr());
        if stdin.is_terminal() {
            return in_foreground(stdin.as_fd());
        }
        if !self.is_behind {
            return Err(Unanswered::NoTerminal);
        }
        if stderr.is_terminal() {
            return in_foreground(stderr.as_fd());
        }
        let terminal = File::open(CONTROLLING).map_err(|_| Unanswered::NoTerminal)?;
        in_foreground(terminal.as_fd())
    }

    /// Asks `questions`, each line headed by `title`, and reads one line for each.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn ask(
        &self,
        title: &str,
        questions: &Questions,
    ) -> Result<Vec<Zeroizing<String>>, Unanswered> {
        let _turn = TURN.lock().await;
        let path = self.availability()?;
        let mut page = Page::open(&path).map_err(|error| {
            debug!(%error, terminal = %path.display(), "cannot be opened");
            Unanswered::NoTerminal
        })?;
        let asked = async {
            page.write(&preface(title, questions)).await?;
            let mut answers = Vec::with_capacity(questions.prompts.len());
            for prompt in &questions.prompts {
                let question = headed(title, &prompt.text);
                answers.push(page.read_line(&question, prompt.echo).await?);
            }
            page.is_done = true;
            Ok(answers)
        };
        asked.await.map_err(|error: io::Error| {
            debug!(%error, terminal = %path.display(), "no answer");
            Unanswered::GaveUp
        })
    }
}

impl AskCode for Terminal {
    fn ask<'a>(&'a self, question: &'a Question) -> Code<'a> {
        let questions = Questions {
            instruction: question.reason.clone(),
            prompts: vec![Prompt {
                text: question.prompt.clone(),
                echo: false,
            }],
            ..Questions::default()
        };
        Box::pin(async move {
            let mut answers = match self.ask(&question.profile, &questions).await {
                Ok(answers) => answers,
                Err(Unanswered::GaveUp) => return Err(NoCode::GaveUp),
                Err(why) => return Err(NoCode::Nobody(why.to_string())),
            };
            answers.pop().ok_or(NoCode::GaveUp)
        })
    }
}

/// Asks at the terminal about one target, and about keys that it may share with others.
pub(super) struct Asker {
    terminal: Arc<Terminal>,
    target: String,
}

impl Asker {
    /// Asks at `terminal` about `target`.
    pub(super) fn new(terminal: Arc<Terminal>, target: &str) -> Self {
        Self {
            terminal,
            target: target.to_owned(),
        }
    }
}

impl Answer for Asker {
    fn answer<'a>(&'a self, inquiry: &'a Inquiry<'a>) -> Answers<'a> {
        let title = match inquiry.topic {
            Topic::Login { user } => format!("{user} on {}", self.target),
            // A key is opened once for all targets, whichever of them wants it first.
            Topic::Key { .. } => OWN_TITLE.to_owned(),
        };
        Box::pin(async move { self.terminal.ask(&title, inquiry.questions).await })
    }

    fn availability(&self) -> Result<(), Unanswered> {
        self.terminal.availability().map(drop)
    }
}

/// The name of `terminal`, if this process may use it.
///
/// # Errors
/// To read or change a terminal from its background stops the process.
fn in_foreground(terminal: BorrowedFd<'_>) -> Result<PathBuf, Unanswered> {
    let foreground = rustix::termios::tcgetpgrp(terminal).ok();
    if foreground != Some(rustix::process::getpgrp()) {
        return Err(Unanswered::InBackground);
    }
    // Its own name where it has one here that this user may open: not every kernel can wait for /dev/tty.
    let name = rustix::termios::ttyname(terminal, Vec::new()).ok();
    let path = name.map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes())));
    let access = Access::READ_OK | Access::WRITE_OK;
    let path = path.filter(|path| rustix::fs::access(path, access).is_ok());
    Ok(path.unwrap_or_else(|| CONTROLLING.into()))
}

/// What is shown before the first question: the words of the server, under our own heading so that
/// they cannot pass for another program's.
fn preface(title: &str, questions: &Questions) -> String {
    let lines = [&questions.name, &questions.instruction];
    let lines = lines.into_iter().flat_map(|text| text.lines());
    let lines = lines.filter(|line| !line.trim().is_empty());
    lines.map(|line| headed(title, line) + "\n").collect()
}

fn headed(title: &str, text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    let title = title.replace(char::is_control, " ");
    format!("[{title}] {text}")
}

/// The terminal while a question is open. Its settings are as before once this is dropped.
///
/// The runtime has no type for terminals; its pipes take whatever can be waited for.
struct Page {
    reader: pipe::Receiver,
    writer: pipe::Sender,
    settings: Termios,
    is_done: bool,
}

impl Page {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let open = |options: &mut OpenOptions| {
            options
                .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
                .open(path)
        };
        let reader = open(OpenOptions::new().read(true))?;
        let writer = open(OpenOptions::new().write(true))?;
        Ok(Self {
            settings: tcgetattr(&reader)?,
            reader: pipe::Receiver::from_file_unchecked(reader)?,
            writer: pipe::Sender::from_file_unchecked(writer)?,
            is_done: false,
        })
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes()).await
    }

    /// Shows `question` and reads one line without its end, shown while it is typed or not. What was
    /// typed before the question does not count.
    async fn read_line(&mut self, question: &str, echo: bool) -> io::Result<Zeroizing<String>> {
        let mut settings = self.settings.clone();
        settings.local_modes |= LocalModes::ICANON;
        settings.local_modes.set(LocalModes::ECHO, echo);
        // Ctrl-C ends a line instead of the program, which would leave the terminal mute.
        settings.local_modes.remove(LocalModes::ISIG);
        let interrupt = settings.special_codes[SpecialCodeIndex::VINTR];
        settings.special_codes[SpecialCodeIndex::VEOL] = interrupt;
        // Before the question is seen, so that nothing typed after it is lost or shown.
        tcsetattr(self.reader.as_fd(), OptionalActions::Flush, &settings)?;
        self.write(question).await?;
        // Of the full size at once: growing would leave copies behind.
        let mut line = Zeroizing::new(vec![0; MAX_LINE_BYTES]);
        let mut length = 0;
        while !matches!(line[..length].last(), Some(last) if *last == b'\n' || *last == interrupt) {
            // No room is no end either.
            match self.reader.read(&mut line[length..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => length += count,
            }
        }
        if line[..length].ends_with(&[interrupt]) {
            self.interrupt()?;
            return Err(io::ErrorKind::Interrupted.into());
        }
        if !echo {
            // The Enter key was not shown either.
            self.write("\n").await?;
        }
        let text = std::str::from_utf8(&line[..length]);
        let text = text.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Zeroizing::new(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ))
    }

    /// Does what Ctrl-C does, with the terminal as it was before the question.
    fn interrupt(&mut self) -> io::Result<()> {
        self.is_done = true;
        let _gone = self.writer.try_write(b"\n");
        tcsetattr(self.reader.as_fd(), OptionalActions::Flush, &self.settings)?;
        Ok(kill_current_process_group(Signal::INT)?)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Also discards what was typed of an answer that nobody waits for.
        let _gone = tcsetattr(self.reader.as_fd(), OptionalActions::Flush, &self.settings);
        if !self.is_done {
            let _gone = self.writer.try_write(b"\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::auth::client::Prompt;

    #[test]
    fn every_line_says_for_whom_it_is() {
        let questions = Questions {
            name: "two factors".to_owned(),
            instruction: "first line\n\nsecond\tline\n".to_owned(),
            prompts: vec![Prompt {
                text: "Code:\nroot@elsewhere's password: ".to_owned(),
                echo: false,
            }],
        };
        assert_eq!(
            preface("ubuntu on i-1", &questions),
            "[ubuntu on i-1] two factors\n[ubuntu on i-1] first line\n[ubuntu on i-1] second line\n"
        );
        assert_eq!(
            headed("ubuntu on i-1", &questions.prompts[0].text),
            "[ubuntu on i-1] Code: root@elsewhere's password: "
        );
    }

    #[tokio::test]
    async fn a_service_has_no_terminal() {
        if io::stdin().is_terminal() {
            return;
        }
        let asker = Asker::new(Arc::new(Terminal::new()), "i-1");
        assert_eq!(asker.availability(), Err(Unanswered::NoTerminal));
        let questions = Questions::default();
        let inquiry = Inquiry {
            topic: Topic::Login { user: "ubuntu" },
            questions: &questions,
        };
        assert_eq!(
            asker.answer(&inquiry).await.err(),
            Some(Unanswered::NoTerminal)
        );
    }
}
