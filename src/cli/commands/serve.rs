//! `ssmshim serve`: the daemon in the foreground.

use super::super::args::ServeArgs;
use super::super::exit::Exit;
use super::super::output::Output;
use super::signals::Signals;
use super::{fail, finish, stay};
use crate::config::{File, Overrides, Serve};
use crate::daemon::Daemon;
use crate::report::one_line;

/// Runs until a signal comes or the target turns out to be out of reach for good.
pub(in crate::cli) async fn run(arguments: ServeArgs, output: Output) -> Exit {
    let config = match Serve::resolve(overrides(arguments)) {
        Ok(config) => config,
        Err(error) => {
            output.error(&one_line(&error), error.hint().as_deref());
            return Exit::Usage;
        }
    };
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(output, &error, None),
    };
    output.say(&format!("reaching {} …", config.target));
    let daemon = match Daemon::serve(&config).await {
        Ok(daemon) => daemon,
        Err(error) => return fail(output, &error, error.hint().as_deref()),
    };
    let exit = stay(&daemon, &config.target, output, &mut signals).await;
    finish(exit, daemon.shutdown(), &mut signals).await
}

fn overrides(arguments: ServeArgs) -> Overrides {
    Overrides {
        values: File {
            target: arguments.target,
            listen: arguments.listen,
            user: arguments.user,
            identity: arguments.identity,
            certificate: arguments.certificate,
            ssh_port: arguments.ssh_port,
            profile: arguments.profile,
            region: arguments.region,
            access: arguments.access,
            authorized_keys: arguments.authorized_keys,
            host_key: arguments.host_key,
            known_hosts: arguments.known_hosts,
            strict_host_key: arguments.strict_host_key,
            hold_seconds: arguments.hold,
        },
        config: arguments.config,
        allow_remote_clients: arguments.allow_remote_clients,
    }
}
