//! Command line: arguments, commands, output, exit status.

mod args;
mod commands;
mod exit;
mod output;
mod table;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command};
use self::exit::Exit;
use self::output::Output;
use crate::telemetry;

/// Parses the arguments, runs the command, and returns the exit status.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // clap prints help to stdout and errors to stderr, with status 0 or 2.
        Err(error) => error.exit(),
    };
    let output = Output::new(match &cli.command {
        Command::Serve(arguments) | Command::Doctor(arguments) => arguments.output.json,
        Command::Demo(arguments) => arguments.output.json,
        Command::Connect(_) => false,
        Command::Targets(arguments) => arguments.json,
        Command::Emulator(arguments) => arguments.output.json,
    });
    run(cli, output).into()
}

fn run(cli: Cli, output: Output) -> Exit {
    if let Err(error) = telemetry::install(&cli.log, cli.log_format) {
        output.error(
            &format!("cannot read the log filter `{}`: {error}", cli.log),
            Some("--log info, or --log ssmshim::ssm=debug,warn"),
        );
        return Exit::Usage;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            output.error(&format!("cannot start: {error}"), None);
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(async {
        match cli.command {
            Command::Serve(arguments) => commands::serve::run(*arguments, output).await,
            Command::Demo(arguments) => commands::demo::run(arguments, output).await,
            Command::Doctor(arguments) => commands::doctor::run(*arguments, output).await,
            Command::Connect(arguments) => commands::connect::run(arguments, output).await,
            Command::Targets(arguments) => commands::targets::run(arguments, output).await,
            Command::Emulator(arguments) => commands::emulator::run(arguments, output).await,
        }
    });
    // A prompt or a name look-up may hang in a thread of its own; nothing that matters is left there.
    runtime.shutdown_background();
    exit
}
