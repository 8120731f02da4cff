//! `ssmshim emulator`: the local Session Manager alone.

use std::path::Path;
use std::time::Duration;

use super::super::args::EmulatorArgs;
use super::super::exit::Exit;
use super::super::output::{Event, Output};
use super::signals::Signals;
use super::{fail, finish};
use crate::emulator::{Emulator, Error, Instance, Issuing, Options};
use crate::report::one_line;

/// Runs until a signal comes.
pub(in crate::cli) async fn run(arguments: EmulatorArgs, output: Output) -> Exit {
    let mut options = Options {
        listen: arguments.listen,
        agent_version: arguments.agent_version,
        pacing: arguments.emulated.pacing.into(),
        resend: arguments.emulated.resend(),
        issuing: Issuing {
            lifetime: arguments.credential_lifetime.map(Duration::from_secs),
            mfa_code: arguments.mfa_code,
        },
        faults: arguments.faults.plan(),
        pushed_keys: arguments.pushed_keys,
        ..Options::default()
    };
    if let Some(path) = &arguments.instances {
        match read_instances(path) {
            Ok(instances) => options.instances = instances,
            Err(error) => {
                output.error(
                    &format!("cannot use {}: {}", path.display(), one_line(&*error)),
                    Some(r#"a list such as [{"id": "i-0123456789abcdef0", "name": "web-1"}]"#),
                );
                return Exit::Usage;
            }
        }
    }
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(output, &error, None),
    };
    let emulator = match Emulator::start(options).await {
        Ok(emulator) => emulator,
        Err(error @ Error::Fault(_)) => {
            output.error(&one_line(&error), Some(error.hint()));
            return Exit::Usage;
        }
        Err(error) => return fail(output, &error, Some(error.hint())),
    };
    let (endpoint, target) = (emulator.endpoint(), emulator.target());
    let seed = emulator.faults().seed();
    output.event(&Event::Ready {
        listen: emulator.address(),
        endpoint: Some(&endpoint),
        target: Some(target),
        ssh_port: None,
    });
    output.say(&format!(
        "ready: Session Manager at {endpoint}, with {target} (this machine)

    export AWS_ENDPOINT_URL={endpoint} AWS_REGION=us-east-1
    export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
    ssmshim serve {target}

faults: curl {endpoint}/faults (seed {seed})

Ctrl-C stops."
    ));
    signals.next().await;
    output.event(&Event::Stopping);
    finish(Exit::Done, emulator.shutdown(), &mut signals).await
}

fn read_instances(path: &Path) -> Result<Vec<Instance>, Box<dyn std::error::Error>> {
    Ok(Instance::read_list(&std::fs::read_to_string(path)?)?)
}
