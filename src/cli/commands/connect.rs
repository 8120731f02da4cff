//! `ssmshim connect`: standard input and output as a connection to the target, for ssh's ProxyCommand.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::super::args::ConnectArgs;
use super::super::exit::Exit;
use super::super::output::Output;
use super::signals::Signals;
use crate::config::{File as Values, Overrides, Serve};
use crate::daemon::connect::{Local, Said, connect};
use crate::report::one_line;

/// Runs until either end closes the connection or a signal comes.
pub(in crate::cli) async fn run(arguments: ConnectArgs, output: Output) -> Exit {
    let config = match Serve::resolve(overrides(arguments)) {
        Ok(config) => config,
        Err(error) => {
            report(output, &error, error.hint());
            return Exit::Usage;
        }
    };
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            report(output, &error, None);
            return Exit::Failed;
        }
    };
    let (from, to) = match (file(io::stdin().as_fd()), file(io::stdout().as_fd())) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(error), _) | (_, Err(error)) => {
            report(output, &error, None);
            return Exit::Failed;
        }
    };
    let stop = CancellationToken::new();
    let local = Local {
        from,
        to,
        tell: |said: Said<'_>| match said {
            Said::Opened => leave_the_terminal(),
            Said::Pause(text) => output.say(&amid(&format!("ssmshim: {text}"))),
        },
    };
    let connecting = connect(&config, local, &stop);
    let asked_to_stop = async {
        tokio::select! {
            () = signals.next() => {}
            () = nobody_reads() => {}
        }
        stop.cancel();
        // Who has asked is not asked again: an ssh that leaves sends SIGHUP, and so does its terminal.
        signals.force().await;
    };
    let connected = tokio::select! {
        connected = connecting => connected,
        () = asked_to_stop => return Exit::Failed,
    };
    match connected {
        Ok(()) => Exit::Done,
        Err(error) => {
            report(output, &error, error.hint());
            Exit::Failed
        }
    }
}

fn overrides(arguments: ConnectArgs) -> Overrides {
    Overrides {
        values: Values {
            target: Some(arguments.target),
            ssh_port: arguments.port.or(arguments.ssh_port),
            profile: arguments.account.profile,
            region: arguments.account.region,
            ssmmessages_endpoint: arguments.ssmmessages_endpoint,
            hold_seconds: arguments.hold,
            ..Values::default()
        },
        config: arguments.account.config,
        ..Overrides::default()
    }
}

fn report(output: Output, error: &dyn std::error::Error, hint: Option<String>) {
    let hint = hint.map(|hint| line(&hint));
    output.error(&line(&one_line(error)), hint.as_deref());
}

/// `text` to be shown as a line also on a terminal that ssh has made raw, where a line feed does not go back to the
/// first column.
fn line(text: &str) -> String {
    match io::stderr().is_terminal() {
        true => format!("{text}\r"),
        false => text.to_owned(),
    }
}

/// `text` as [`line`] has it, on a terminal where something may be typed or shown already.
fn amid(text: &str) -> String {
    match io::stderr().is_terminal() {
        true => format!("\r\n{}", line(text)),
        false => text.to_owned(),
    }
}

/// Standard input or output without the buffers of the standard library.
fn file(fd: BorrowedFd<'_>) -> io::Result<tokio::fs::File> {
    let file = File::from(fd.try_clone_to_owned()?);
    // Some programs hand on what they do not wait for themselves.
    let flags = fcntl_getfl(&file)?;
    if is_pipe(fd) && flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    }
    Ok(file.into())
}

/// Waits until nobody reads standard output any more, also while there is nothing to write; for ever where there is
/// nobody to read, as with files.
async fn nobody_reads() {
    let watched = tokio::task::spawn_blocking(|| {
        // Asking for nothing leaves what is always told: that the other end is gone.
        let stdout = io::stdout();
        loop {
            let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut watched, None) {
                Err(Errno::INTR) => {}
                told => return told.map(|_| ()),
            }
        }
    });
    match watched.await {
        Ok(Ok(())) => debug!("nobody reads standard output any more"),
        _ => std::future::pending().await,
    }
}

/// Gives up the terminal, when this process serves another one by pipes.
///
/// Ctrl-C is for whoever has the terminal. ssh may have left that long ago, and go on in the background for others
/// (ControlPersist): it tells us when it is done by closing the pipes, and with a signal of its own. Nor is a session
/// under way the time to ask for codes.
fn leave_the_terminal() {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    // Who leads a group of processes may not, and was started for its own sake.
    if is_pipe(stdin.as_fd())
        && is_pipe(stdout.as_fd())
        && let Err(error) = rustix::process::setsid()
    {
        debug!(%error, "still at the terminal");
    }
}

fn is_pipe(fd: BorrowedFd<'_>) -> bool {
    let found = rustix::fs::fstat(fd).map(|found| FileType::from_raw_mode(found.st_mode));
    matches!(found, Ok(FileType::Fifo | FileType::Socket))
}
