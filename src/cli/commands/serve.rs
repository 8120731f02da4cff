//! `ssmshim serve`: the daemon in the foreground.

use std::time::Duration;

use tokio::time::sleep;

use super::super::args::ServeArgs;
use super::super::exit::Exit;
use super::super::output::Output;
use super::news::Teller;
use super::signals::Signals;
use super::{choose, fail, finish, stay, still_trying};
use crate::config::{Endpoint, File, Overrides};
use crate::daemon::{Daemon, Error};
use crate::report::one_line;

/// Runs until a signal comes or the target turns out to be out of reach for good.
pub(in crate::cli) async fn run(arguments: ServeArgs, output: Output) -> Exit {
    let mut overrides = overrides(arguments);
    let mut resolved = Endpoint::resolve(overrides.clone());
    if let Ok(endpoint) = &resolved
        && endpoint.target.is_none()
        && output.is_interactive()
    {
        let has_aliases = endpoint.aliases().next().is_some();
        overrides.values.target = match choose::target(&overrides, has_aliases, output).await {
            Ok(chosen) => chosen,
            Err(exit) => return exit,
        };
        resolved = Endpoint::resolve(overrides);
    }
    let endpoint = match resolved {
        Ok(endpoint) => endpoint,
        Err(error) => {
            output.error(&one_line(&error), error.hint().as_deref());
            return Exit::Usage;
        }
    };
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(output, &error, None),
    };
    if let Some(target) = &endpoint.target {
        output.say(&format!("reaching {target} …"));
    }
    // Looking for the target may take its time.
    let served = tokio::select! {
        served = begin(&endpoint, output) => served,
        () = signals.next() => return Exit::Done,
    };
    let daemon = match served {
        Ok(daemon) => daemon,
        Err(error) => return fail(output, &error, error.hint().as_deref()),
    };
    let exit = stay(&daemon, output, &mut signals).await;
    finish(exit, daemon.shutdown(), &mut signals).await
}

/// How long AWS is left alone when it could not be asked which machine is meant.
const AGAIN: Duration = Duration::from_secs(3);

/// Starts the daemon, when AWS can be asked which machine is meant: the network may be about to come.
///
/// # Errors
/// As [`Daemon::serve`], where waiting is in vain.
async fn begin(endpoint: &Endpoint, output: Output) -> Result<Daemon, Error> {
    let mut teller = Teller::default();
    loop {
        match Daemon::serve(endpoint).await {
            Err(error) if error.is_passing() => {
                still_trying(&mut teller, &one_line(&error), error.hint(), output);
                sleep(AGAIN).await;
            }
            served => return served,
        }
    }
}

pub(super) fn overrides(arguments: ServeArgs) -> Overrides {
    Overrides {
        values: File {
            target: arguments.target,
            listen: arguments.listen,
            user: arguments.user,
            identity: arguments.identity,
            certificate: arguments.certificate,
            ssh_port: arguments.ssh_port,
            profile: arguments.account.profile,
            region: arguments.account.region,
            ssmmessages_endpoint: arguments.ssmmessages_endpoint,
            access: arguments.access,
            authorized_keys: arguments.authorized_keys,
            host_key: arguments.host_key,
            known_hosts: arguments.known_hosts,
            strict_host_key: arguments.strict_host_key,
            hold_seconds: arguments.hold,
            idle_seconds: arguments.idle,
            ..File::default()
        },
        config: arguments.account.config,
        allow_remote_clients: arguments.allow_remote_clients,
    }
}
