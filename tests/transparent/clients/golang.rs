//! Go's `golang.org/x/crypto/ssh`; the cases are in `with_golang.go`.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::common::process::Run;
use crate::common::which;
use crate::common::world::World;
use crate::seen::Seen;

/// Where Debian has the sources of Go libraries.
const LIBRARIES: &str = "/usr/share/gocode";

super::scripted! {
    run,
    // The embedded server delivers the signals that sshd refuses where it runs as root.
    compared: {
        signals,
    }
    everywhere: {
        agents,
        commands,
        bulk,
        half_close,
        environment,
        terminal,
        dialing,
        listening,
        refusals,
        global_requests,
        raw_channels,
        rekey,
        algorithms,
        many_sessions,
    }
}

fn run(world: &World, seen: &mut Seen, case: &str) {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    match PROGRAM.get_or_init(build) {
        Some(program) => super::observe(world, seen, Run::new(program), case),
        None => super::missing(seen, "go with golang.org/x/crypto/ssh"),
    }
}

fn build() -> Option<PathBuf> {
    which("go").filter(|_| {
        PathBuf::from(LIBRARIES)
            .join("src/golang.org/x/crypto/ssh")
            .is_dir()
    })?;
    let program = super::build_directory().join("with_golang");
    Run::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(super::source("with_golang.go"))
        .env("GO111MODULE", "off")
        .env("GOPATH", LIBRARIES)
        .env("GOCACHE", super::build_directory().join("go"))
        .env("GOFLAGS", "")
        .env("CGO_ENABLED", "0")
        .ok();
    Some(program)
}
