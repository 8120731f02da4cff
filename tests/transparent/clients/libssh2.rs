//! libssh2 (C); the cases are in `with_libssh2.c`.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::common::process::Run;
use crate::common::which;
use crate::common::world::World;
use crate::seen::Seen;

super::scripted! {
    run,
    compared: {}
    everywhere: {
        commands,
        bulk,
        terminal,
        dialing,
        listening,
        unknown_type,
        files,
        copies,
        keepalive,
        algorithms,
    }
}

fn run(world: &World, seen: &mut Seen, case: &str) {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    match PROGRAM.get_or_init(build) {
        Some(program) => super::observe(world, seen, Run::new(program), case),
        None => super::missing(seen, "cc with libssh2.h"),
    }
}

fn build() -> Option<PathBuf> {
    which("cc").filter(|_| PathBuf::from("/usr/include/libssh2.h").is_file())?;
    let program = super::build_directory().join("with_libssh2");
    Run::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-o"])
        .arg(&program)
        .arg(super::source("with_libssh2.c"))
        .arg("-lssh2")
        .ok();
    Some(program)
}
