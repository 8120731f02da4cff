//! Clients besides OpenSSH: each does its own things, directly and through us.
//!
//! A library is used by a script or small program beside this file, called with the name of the case and where to
//! log in. It prints what its user would see, line by line, and ends with status 0 when it got as far as it meant to.

mod asyncssh;
mod curl;
mod dropbear;
mod golang;
mod libssh2;
mod paramiko;
mod putty;
mod russh;

use std::path::{Path, PathBuf};

use crate::common::process::Run;
use crate::common::world::World;
use crate::common::{skip, which};
use crate::seen::Seen;

/// Makes the cases of a program: each is its run with the name of the case. What a case is about is said there.
macro_rules! scripted {
    (
        $run:path,
        compared: { $($case:ident),* $(,)? }
        everywhere: { $($common:ident),* $(,)? }
    ) => {
        $(
            fn $case(world: &$crate::common::world::World, seen: &mut $crate::seen::Seen) {
                $run(world, seen, stringify!($case));
            }
        )*
        $(
            fn $common(world: &$crate::common::world::World, seen: &mut $crate::seen::Seen) {
                $run(world, seen, stringify!($common));
            }
        )*
        $crate::differential! {
            compared: { $($case),* }
            everywhere: { $($common),* }
        }
    };
}
use scripted;

/// Where the sources of the programs are.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/transparent/clients")
        .join(name)
}

/// Where programs are built: kept from run to run, as what cargo builds is.
fn build_directory() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Runs `program CASE PORT USER IDENTITY DIRECTORY` and records what it prints.
///
/// # Panics
/// When it fails: it did not get to see what it meant to.
fn observe(world: &World, seen: &mut Seen, program: Run, case: &str) {
    let output = program
        .arg(case)
        .arg(world.target.port.to_string())
        .args([
            &world.target.user,
            &world.target.identity.display().to_string(),
        ])
        .arg(world.text(""))
        // Nothing of the person at the desk.
        .env("HOME", world.path(""))
        .env("SSH_AUTH_SOCK", "")
        .output();
    let way = if world.daemon.is_some() {
        "through us"
    } else {
        "directly"
    };
    let text = output.text();
    assert_eq!(output.code, 0, "{case} {way}: {text}\n{}", output.stderr);
    assert!(!output.stdout.is_empty(), "{case} has seen nothing");
    // Line by line, so that a difference is shown where it is.
    for (index, line) in output.stdout.split(|&byte| byte == b'\n').enumerate() {
        seen.bytes(&format!("{case} {index}"), line);
    }
    seen.bytes("stderr", output.stderr.as_bytes());
}

/// [`observe`] with a Python script that needs `module`.
fn python(world: &World, seen: &mut Seen, script: &str, module: &str, case: &str) {
    // The one that Debian's modules belong to; another can be tried by hand.
    let python = std::env::var("SSMSHIM_TEST_PYTHON").unwrap_or("/usr/bin/python3".to_owned());
    let has_module = which(&python).is_some()
        && Run::new(&python)
            .args(["-c", &format!("import {module}")])
            .output()
            .code
            == 0;
    if !has_module {
        return missing(seen, &format!("{python} with {module}"));
    }
    let run = Run::new(&python)
        .args(["-B", "-W", "ignore"])
        .arg(source(script));
    observe(world, seen, run, case);
}

/// A client that is not installed is a skip at the desk and a failure in CI.
fn missing(seen: &mut Seen, what: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "{what} is not installed, and CI must not skip"
    );
    skip(&format!("{what} is not installed"));
    seen.note("skipped", what);
}
