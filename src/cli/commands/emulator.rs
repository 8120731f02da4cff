//! `ssmshim emulator`: the local Session Manager alone.

use super::super::args::EmulatorArgs;
use super::super::exit::Exit;
use super::super::output::{Event, Output};
use super::signals::Signals;
use super::{fail, finish};
use crate::emulator::{Emulator, Options};

/// Runs until a signal comes.
pub(in crate::cli) async fn run(arguments: EmulatorArgs, output: Output) -> Exit {
    let options = Options {
        listen: arguments.listen,
        pacing: arguments.emulated.pacing.into(),
        resend: arguments.resend.into(),
        faults: arguments.faults.plan(),
        ..Options::default()
    };
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(output, &error, None),
    };
    let emulator = match Emulator::start(options).await {
        Ok(emulator) => emulator,
        Err(error) => return fail(output, &error, Some(error.hint())),
    };
    let (endpoint, target) = (emulator.endpoint(), emulator.target());
    let seed = emulator.faults().seed();
    output.event(&Event::Ready {
        listen: emulator.address(),
        endpoint: Some(&endpoint),
        target,
    });
    output.say(&format!(
        "ready: Session Manager at {endpoint}, with {target} (this machine)

    export AWS_ENDPOINT_URL_SSM={endpoint} AWS_REGION=us-east-1
    export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
    ssmshim serve {target}

faults: curl {endpoint}/faults (seed {seed})

Ctrl-C stops."
    ));
    signals.next().await;
    output.event(&Event::Stopping);
    finish(Exit::Done, emulator.shutdown(), &mut signals).await
}
