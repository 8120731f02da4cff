//! Clients that are libraries, used by a script: where they log in, and what keeps the person at the desk out of it.

use super::process::Run;
use super::world::World;
use super::{skip, which};

/// Where `program` is to log in: its arguments are PORT USER IDENTITY DIRECTORY, after those that it has.
pub(crate) fn log_in(world: &World, program: Run) -> Run {
    program
        .arg(world.target.port.to_string())
        .args([
            &world.target.user,
            &world.target.identity.display().to_string(),
        ])
        .arg(world.text(""))
        .env("HOME", world.path(""))
        .env("SSH_AUTH_SOCK", "")
}

/// A Python that has `module`: the one that Debian's modules belong to, or another that is tried by hand
/// (`SSMSHIM_TEST_PYTHON`). A missing one is a printed skip at the desk.
///
/// # Errors
/// What is missing.
///
/// # Panics
/// When it is missing and the environment has `CI`.
pub(crate) fn python(module: &str) -> Result<Run, String> {
    let python = std::env::var("SSMSHIM_TEST_PYTHON").unwrap_or("/usr/bin/python3".to_owned());
    let import = format!("import {module}");
    let has_module =
        which(&python).is_some() && Run::new(&python).args(["-c", &import]).output().code == 0;
    if has_module {
        return Ok(Run::new(&python).args(["-B", "-W", "ignore"]));
    }
    let what = format!("{python} with {module}");
    missing(&what);
    Err(what)
}

/// A client that is not installed is a printed skip at the desk and a failure in CI.
///
/// # Panics
/// When the environment has `CI`.
pub(crate) fn missing(what: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "{what} is not installed, and CI must not skip"
    );
    skip(&format!("{what} is not installed"));
}
