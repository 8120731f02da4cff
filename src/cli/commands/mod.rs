//! The commands that stay in the foreground, and how they end.

mod choose;
pub(super) mod connect;
pub(super) mod demo;
pub(super) mod doctor;
pub(super) mod emulator;
mod news;
pub(super) mod serve;
mod signals;
pub(super) mod targets;

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::sleep;

use self::news::{Herald, Teller};
use self::signals::Signals;
use super::exit::Exit;
use super::output::{Event, Output};
use crate::daemon::{Daemon, Report};
use crate::report::one_line;
use crate::upstream::{self, Link, State};

/// Says so when `ssh` would work, and later what becomes of it, until a signal comes or the target
/// turns out to be out of reach for good while nobody uses another.
async fn stay(daemon: &Daemon, output: Output, signals: &mut Signals) -> Exit {
    let announced = Cell::new(false);
    tokio::select! {
        () = signals.next() => {}
        error = watch(daemon, output, &announced) => {
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

/// Runs `shutdown` to its end, unless somebody insists.
async fn finish(exit: Exit, shutdown: impl Future<Output = ()>, signals: &mut Signals) -> Exit {
    tokio::select! {
        () = shutdown => exit,
        () = signals.force() => Exit::Failed,
    }
}

/// Tells when the target is reached, and what becomes of it and of those that login names select. Returns when it
/// never will be.
async fn watch(daemon: &Daemon, output: Output, announced: &Cell<bool>) -> upstream::Error {
    // The port is open already, and login names may select others before the usual target is reached.
    let mut reports = daemon.reports();
    if let Some(state) = daemon.state()
        && let Err(error) = reach(daemon, state, output).await
    {
        return error;
    }
    // Taken before the word is out: who hears it may do something at once, and all that comes of that is to be told.
    let past = past_of_others(&mut reports, daemon.usual());
    announced.set(true);
    announce(daemon, output);
    let mut herald = Herald::new(daemon.usual());
    for report in &past {
        herald.tell(report, output);
    }
    loop {
        match reports.recv().await {
            Ok(report) => herald.tell(&report, output),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return upstream::Error::Stopped,
        }
    }
}

/// What has happened so far, but to the `usual` target: of that all is told that still matters.
fn past_of_others(reports: &mut broadcast::Receiver<Report>, usual: Option<&Link>) -> Vec<Report> {
    let mut past = Vec::new();
    loop {
        match reports.try_recv() {
            Ok(report) if usual.is_some_and(|usual| report.is_of(usual)) => {}
            Ok(report) => past.push(report),
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return past,
        }
    }
}

/// How long a target that somebody has to mend is left alone, where it is not the end.
const MENDING: Duration = Duration::from_secs(60);

/// Waits until the usual target is reached, and tells what is in the way.
///
/// # Errors
/// Why it never will be. Once somebody is served at another target, which a login name has selected, it is tried
/// further instead: they are not to be thrown out.
async fn reach(
    daemon: &Daemon,
    mut state: watch::Receiver<State>,
    output: Output,
) -> Result<(), upstream::Error> {
    let ready_after = async |pause| {
        sleep(pause).await;
        daemon.ready().await
    };
    let mut teller = Teller::default();
    let mut stays = false;
    let mut ready = pin!(ready_after(Duration::ZERO));
    loop {
        let (error, is_final) = tokio::select! {
            result = &mut ready => match result {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let is_final = error.is_final();
                    ready.set(ready_after(if is_final { MENDING } else { Duration::ZERO }));
                    (error, is_final)
                }
            },
            Ok(()) = state.changed() => match &*state.borrow_and_update() {
                State::Down { error, is_final } => (error.clone(), *is_final),
                _ => continue,
            },
        };
        stays |= daemon.fleet().is_of_use();
        if is_final && !stays {
            return Err(error);
        }
        still_trying(&mut teller, &one_line(&error), error.hint(), output);
    }
}

/// Tells what is in the way, unless `teller` has.
fn still_trying(teller: &mut Teller, error: &str, hint: Option<String>, output: Output) {
    if teller.is_new(error) {
        output.error(error, hint.as_deref());
        output.say("still trying");
    }
}

fn announce(daemon: &Daemon, output: Output) {
    let (listen, usual) = (daemon.address(), daemon.usual());
    let target = usual.map(Link::target);
    output.event(&Event::Ready {
        listen,
        endpoint: None,
        target,
        ssh_port: usual.map(Link::port),
    });
    let (host, port) = (listen.ip(), listen.port());
    output.say(&match target {
        Some(target) => format!(
            "ready: {target} is at {listen}

    ssh  -p {port} {host}
    scp  -P {port} FILE {host}:/tmp/
    sftp -P {port} {host}
    ssh  -p {port} -L 8080:localhost:80 -N {host}

Ctrl-C stops."
        ),
        None => format!(
            "ready: login names select the target at {listen}

    ssh  -p {port} TARGET@{host}
    ssh  -p {port} USER+TARGET@{host}
    scp  -P {port} FILE TARGET@{host}:/tmp/

TARGET: {}an id or a name that `ssmshim targets` shows
Ctrl-C stops.",
            aliases(daemon)
        ),
    });
}

/// The aliases, as the beginning of a list.
fn aliases(daemon: &Daemon) -> String {
    daemon
        .fleet()
        .aliases()
        .map(|name| format!("{name}, "))
        .collect()
}

fn fail(output: Output, error: &dyn std::error::Error, hint: Option<&str>) -> Exit {
    output.error(&one_line(error), hint);
    Exit::Failed
}
