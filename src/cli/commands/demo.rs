//! `ssmshim demo`: this very machine through an emulated Session Manager.

use super::super::args::DemoArgs;
use super::super::exit::Exit;
use super::super::output::Output;
use super::signals::Signals;
use super::{fail, finish, stay};
use crate::config::{Access, check_listen};
use crate::daemon::demo::{self, Demo};
use crate::report::one_line;

/// Runs until a signal comes.
pub(in crate::cli) async fn run(arguments: DemoArgs, output: Output) -> Exit {
    if let Err(error) = check_listen(arguments.listen, Access::Owner, false) {
        output.error(
            &one_line(&error),
            Some("the demo serves this machine only: --listen 127.0.0.1:2222"),
        );
        return Exit::Usage;
    }
    let options = demo::Options {
        listen: arguments.listen,
        pacing: arguments.emulated.pacing.into(),
        resend: arguments.emulated.resend(),
    };
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(output, &error, None),
    };
    let (demo, daemon) = match Demo::start(options).await {
        Ok(started) => started,
        Err(error) => return fail(output, &error, error.hint().as_deref()),
    };
    output.say("demo: this machine, through an emulated Session Manager");
    let exit = stay(&daemon, output, &mut signals).await;
    let shutdown = async {
        daemon.shutdown().await;
        demo.shutdown().await;
    };
    finish(exit, shutdown, &mut signals).await
}
