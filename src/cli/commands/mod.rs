//! The commands that stay in the foreground, and how they end.

mod choose;
pub(super) mod connect;
pub(super) mod demo;
pub(super) mod emulator;
mod news;
pub(super) mod serve;
mod signals;
pub(super) mod targets;

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;

use tokio::sync::broadcast::error::RecvError;

use self::news::Teller;
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
    let mut teller = Teller::default();
    let mut state = daemon.state();
    let mut ready = pin!(daemon.ready());
    loop {
        let (error, is_final) = tokio::select! {
            result = &mut ready => match result {
                Ok(()) => break,
                Err(error) => {
                    ready.set(daemon.ready());
                    let is_final = error.is_final();
                    (error, is_final)
                }
            },
            Ok(()) = state.changed() => match &*state.borrow_and_update() {
                State::Down { error, is_final } => (error.clone(), *is_final),
                _ => continue,
            },
        };
        if is_final {
            return error;
        }
        let text = one_line(&error);
        if teller.is_new(&text) {
            output.error(&text, error.hint().as_deref());
            output.say("still trying");
        }
    }
    announced.set(true);
    let mut news = daemon.news();
    announce(daemon.address(), target, output);
    let mut teller = Teller::default();
    loop {
        match news.recv().await {
            Ok(news) => teller.tell(&news, output),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return upstream::Error::Stopped,
        }
    }
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
