//! The same SSM session over another WebSocket: what real clients notice of it, which is nothing but
//! a pause.
//!
//! Every case asserts at its end that there was one SSM session all the time. `SSMSHIM_FULL=1` takes
//! the full sizes.

#[path = "../common/mod.rs"]
mod common;

mod alive;
mod causes;
mod copies;
mod forwards;
mod holes;
mod ide;
mod shells;

use std::time::Duration;

use common::report;
use ssmshim::emulator::Peer;
use ssmshim::emulator::fault::plan::Ending;

/// The ways in which a socket ends and its end is told of it.
const ENDINGS: [Ending; 3] = [Ending::Reset, Ending::Fin, Ending::Bye];

const SIDES: [Peer; 2] = [Peer::Client, Peer::Agent];

/// A hole that a socket does not come out of.
const HOLE: Ending = Ending::BlackHole { heals: None };

fn full_size() -> bool {
    std::env::var_os("SSMSHIM_FULL").is_some()
}

/// Reports the median and the worst of some times.
fn report_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    if let (Some(median), Some(worst)) = (times.get(times.len() / 2), times.last()) {
        report(&format!(
            "{what}: median {median:?}, worst {worst:?} of {}",
            times.len()
        ));
    }
}
