//! What every end-to-end test stands on.
//!
//! A [`World`](world::World) is one far end reached by real OpenSSH clients: directly, through `ssmshim demo`,
//! or through `ssmshim serve` and `ssmshim emulator` to a real sshd. The same case runs against each
//! (see [`cases!`]), so a case is first proven right against plain OpenSSH.
//!
//! Rules kept here: every child process has a deadline and dies with its owner; nothing sleeps to wait,
//! but blocks on an event under a deadline; every port is chosen by the kernel or probed; all state
//! lives in a temporary directory.

#![allow(dead_code, reason = "each test file uses its own part of the fixtures")]

pub(crate) mod daemon;
pub(crate) mod faulty;
pub(crate) mod files;
pub(crate) mod flow;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod pty;
pub(crate) mod raw;
pub(crate) mod script;
pub(crate) mod sshd;
pub(crate) mod world;

use std::time::Duration;

/// The longest any single step may take: generous, for a debug build on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Makes one test of each case for each far end: `direct::…`, `demo::…`, `serve::…`.
///
/// A case is `fn case(world: &World)`. `direct` is a plain sshd without us, the proof that the case
/// itself is right; what passes there and fails elsewhere is ours.
#[macro_export]
macro_rules! cases {
    (@far $far:ident $($case:ident)*) => {
        mod $far {
            $(
                #[test]
                fn $case() {
                    if let Some(world) = $crate::common::world::World::$far() {
                        super::$case(&world);
                    }
                }
            )*
        }
    };
    ($($case:ident),* $(,)?) => {
        $crate::cases!(@far direct $($case)*);
        $crate::cases!(@far demo $($case)*);
        $crate::cases!(@far serve $($case)*);
    };
}

/// Whether `program` is installed: a missing one is a printed skip at the desk, and a failure in CI.
///
/// # Panics
/// When the program is missing and the environment has `CI`.
pub(crate) fn have(program: &str) -> bool {
    let found = which(program).is_some();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "{program} is not installed, and CI must not skip"
    );
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// Waits until `ready` gives something: for what the kernel shows in its tables and tells nobody of.
///
/// # Panics
/// At the deadline.
pub(crate) fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{what}: not within {DEADLINE:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says that a test is skipped, and why.
pub(crate) fn skip(why: &str) {
    note(&format!("skipped: {why}"));
}

/// Reports a measured figure; times and rates are printed, never asserted closely.
pub(crate) fn report(what: &str) {
    note(&format!("measured: {what}"));
}

/// Tells the person at the desk something; shown when the test fails or with `--nocapture`.
#[expect(
    clippy::print_stderr,
    reason = "tests speak to the person who runs them"
)]
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// The path of `program` in `PATH` or in the directories of system daemons.
pub(crate) fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(Into::into))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
