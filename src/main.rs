//! The `ssmshim` program: parse, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    ssmshim::cli::main()
}
