//! Nobody can tell the shim from a direct connection.
//!
//! A case is a function that does something as a client and writes down what it saw ([`Seen`]): status, streams,
//! files, messages. It runs twice against the same OpenSSH sshd, first directly and then through `ssmshim serve`,
//! and what was seen must be equal. Cases of the second list run through `ssmshim demo` as well, whose embedded
//! server has to pass for an OpenSSH there.
//!
//! A case says nothing about what is right, so it must not be blind: it records the outcome itself, not
//! whether some expectation held, and asserts only that it got as far as it meant to.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod copying;
mod exec;
mod flow;
mod forwarding;
mod global;
mod ide;
mod pty;
mod raw;
mod requests;
mod seen;
mod transport;

use std::panic::catch_unwind;

use common::note;
use common::world::World;
use seen::Seen;

/// Makes one test of each case: `compared` ones directly and through `serve`, `everywhere` through `demo` too.
///
/// A case is `fn case(world: &World, seen: &mut Seen)`; `sshd` are lines of configuration for the sshd of the
/// module's cases.
#[macro_export]
macro_rules! differential {
    (
        compared: { $($case:ident),* $(,)? }
        everywhere: { $($common:ident),* $(,)? }
    ) => {
        $crate::differential! { sshd: "", compared: { $($case),* } everywhere: { $($common),* } }
    };
    (
        sshd: $extra:expr,
        compared: { $($case:ident),* $(,)? }
        everywhere: { $($common:ident),* $(,)? }
    ) => {
        mod compared {
            $(
                #[test]
                fn $case() {
                    $crate::compare($extra, false, super::$case);
                }
            )*
            $(
                #[test]
                fn $common() {
                    $crate::compare($extra, true, super::$common);
                }
            )*
        }
    };
}

/// Compares `case` on each way to the target, and once more where something differs.
///
/// Real programs race each other, at both ends and on every way: what differs by chance does not differ twice, and
/// is told in the output.
///
/// # Panics
/// When anything differs again, with what was seen on both ways.
fn compare(extra: &str, in_demo: bool, case: fn(&World, &mut Seen)) {
    let first = catch_unwind(|| compare_once(extra, in_demo, case));
    if first.is_err() {
        note("once more, in case that it was chance");
        compare_once(extra, in_demo, case);
    }
}

fn compare_once(extra: &str, in_demo: bool, case: fn(&World, &mut Seen)) {
    let Some([direct, shim]) = World::both(extra) else {
        return;
    };
    let reference = Seen::by(&direct, case);
    Seen::by(&shim, case).assert_equals(&reference, "through serve");
    drop(shim);
    if in_demo && let Some(mut demo) = World::demo() {
        demo.target.user.clone_from(&direct.target.user);
        Seen::by(&demo, case).assert_equals(&reference, "through demo");
    }
}
