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

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::process::Run;
use crate::common::script;
use crate::common::world::World;
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
    let output = script::log_in(world, program.arg(case)).output();
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
fn python(world: &World, seen: &mut Seen, source_name: &str, module: &str, case: &str) {
    match script::python(module) {
        Ok(python) => observe(world, seen, python.arg(source(source_name)), case),
        Err(what) => seen.note("skipped", what),
    }
}

/// Exchanges versions of SFTP with the subsystem that `client` has begun.
fn sftp_versions(seen: &mut Seen, client: Run) {
    let mut client = client.piped();
    let mut stdin = client.take_stdin();
    stdin
        .write_all(b"\0\0\0\x05\x01\0\0\0\x03")
        .expect("the client reads");
    // The rest are extensions, of which sshd knows more with each version.
    let mut version = [0; 9];
    client
        .take_stdout()
        .read_exact(&mut version)
        .expect("an answer");
    seen.bytes("version", &version[4..]);
    drop(stdin);
    seen.note("ended", client.wait(Duration::from_secs(60)));
}

/// A client that is not installed is a skip at the desk and a failure in CI.
fn missing(seen: &mut Seen, what: &str) {
    script::missing(what);
    seen.note("skipped", what);
}
