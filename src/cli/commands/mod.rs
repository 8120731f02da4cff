//! The commands that stay in the foreground, and how they end.

mod choose;
pub(super) mod demo;
pub(super) mod emulator;
pub(super) mod serve;
mod signals;
pub(super) mod targets;

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;

use self::signals::Signals;
use super::exit::Exit;
use super::output::{Event, Output};
use crate::daemon::Daemon;
use crate::report::one_line;
use crate::upstream::{self, State};

/// Says so when `ssh` would work, and later what becomes of it, until a signal comes or the target
/// turns out to be out of reach for good.
async fn stay(daemon: &Daemon, target: &str, output: Output, signals: &mut Signals) -> Exit {
    let announced = Cell::new(false);
    tokio::select! {
        () = signals.next() => {}
        error = watch(daemon, target, output, &announced) => {
            output.error(&one_line(&error), error.hint().as_deref());
            return Exit::Failed;
        }
    }
    // `ready` is the first event or there is none.
    if announced.get() {
        output.event(&Event::Stopping);
    }
    output.say("stopping; press Ctrl-C again to stop at once");
    Exit::Done
}

/// Runs `shutdown` to its end, unless another signal comes.
async fn finish(exit: Exit, shutdown: impl Future<Output = ()>, signals: &mut Signals) -> Exit {
    tokio::select! {
        () = shutdown => exit,
        () = signals.next() => Exit::Failed,
    }
}

/// Tells when the target is reached, lost, and reached again. Returns when it never will be.
async fn watch(
    daemon: &Daemon,
    target: &str,
    output: Output,
    announced: &Cell<bool>,
) -> upstream::Error {
    let mut told = None;
    let mut tell = |error: &upstream::Error| {
        let text = one_line(error);
        if told.as_ref() != Some(&text) {
            output.error(&text, error.hint().as_deref());
            output.say("still trying");
            told = Some(text);
        }
    };
    let mut state = daemon.state();
    let mut ready = pin!(daemon.ready());
    loop {
        let error = tokio::select! {
            result = &mut ready => match result {
                Ok(()) => break,
                Err(error) => {
                    ready.set(daemon.ready());
                    error
                }
            },
            Ok(()) = state.changed() => match &*state.borrow_and_update() {
                State::Down(error) => error.clone(),
                _ => continue,
            },
        };
        if error.is_final() {
            return error;
        }
        tell(&error);
    }
    announced.set(true);
    announce(daemon.address(), target, output);
    loop {
        let Ok(seen) = state
            .wait_for(is_down_or_stopped)
            .await
            .map(|seen| seen.clone())
        else {
            return upstream::Error::Stopped;
        };
        let State::Down(error) = seen else {
            return upstream::Error::Stopped;
        };
        let (text, hint) = (one_line(&error), error.hint());
        output.event(&Event::Down {
            error: &text,
            hint: hint.as_deref(),
        });
        output.error(&text, hint.as_deref());
        let is_up_or_stopped = |state: &State| matches!(state, State::Up(_) | State::Stopped);
        if state.wait_for(is_up_or_stopped).await.is_err() {
            return upstream::Error::Stopped;
        }
        output.event(&Event::Up);
        output.say("the target is reached again");
    }
}

fn is_down_or_stopped(state: &State) -> bool {
    matches!(state, State::Down(_) | State::Stopped)
}

fn announce(listen: SocketAddr, target: &str, output: Output) {
    output.event(&Event::Ready {
        listen,
        endpoint: None,
        target,
    });
    let (host, port) = (listen.ip(), listen.port());
    output.say(&format!(
        "ready: {target} is at {listen}

    ssh  -p {port} {host}
    scp  -P {port} FILE {host}:/tmp/
    sftp -P {port} {host}
    ssh  -p {port} -L 8080:localhost:80 -N {host}

Ctrl-C stops."
    ));
}

fn fail(output: Output, error: &dyn std::error::Error, hint: Option<&str>) -> Exit {
    output.error(&one_line(error), hint);
    Exit::Failed
}
