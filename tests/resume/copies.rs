//! scp while the WebSocket is cut again and again.

use std::time::Duration;

use ssmshim::emulator::Peer;
use ssmshim::emulator::fault::plan::{Amount, Ending};

use crate::common::faulty::Faulty;
use crate::common::files::{assert_same, write_file};
use crate::common::flow::MIB;
use crate::common::{have, report};
use crate::{HOLE, full_size};

/// Makes a test of each way to cut.
macro_rules! cuts {
    ($($name:ident: $side:ident $how:expr, every $mib:literal MiB;)*) => {
        $(
            #[test]
            fn $name() {
                copy(Peer::$side, $how, $mib);
            }
        )*
    };
}

cuts! {
    client_reset: Client Ending::Reset, every 4 MiB;
    client_fin: Client Ending::Fin, every 4 MiB;
    client_close_1000: Client Ending::Bye, every 4 MiB;
    client_black_hole: Client HOLE, every 10 MiB;
    agent_reset: Agent Ending::Reset, every 4 MiB;
    agent_fin: Agent Ending::Fin, every 4 MiB;
    agent_close_1000: Agent Ending::Bye, every 4 MiB;
    agent_black_hole: Agent HOLE, every 10 MiB;
}

/// MiB of a copy, normally.
const SIZE: u64 = 16;

/// Copies a file there and back and asserts that it stays what it is.
///
/// Normally a socket lives for so many MiB, so that a fast and a slow machine see as many cuts; in
/// the full size for a second.
fn copy(side: Peer, how: Ending, mib: u64) {
    if !have("scp") {
        return;
    }
    let Some(faulty) = Faulty::fast() else { return };
    let (size, amount) = match full_size() {
        true => (256 * MIB, Amount::Time(Duration::from_secs(1))),
        false => (SIZE * MIB, Amount::Bytes(mib * MIB)),
    };
    let cuts = copy_both_ways(&faulty, side, how, amount, size);
    // Each way has as many lives as fit, the last of them unfinished, jitter taken off.
    let least = SIZE * 4 / (mib * 5) - 1;
    assert!(cuts >= 2 * least.max(1), "{cuts} cuts");
}

/// The real agent: a MiB in two seconds, and ten lost messages a second.
#[test]
fn the_real_agents_ways() {
    if !have("scp") {
        return;
    }
    for side in [Peer::Client, Peer::Agent] {
        let Some(faulty) = Faulty::real() else { return };
        let amount = Amount::Bytes(400 << 10);
        let cuts = copy_both_ways(&faulty, side, Ending::Reset, amount, MIB + MIB / 4);
        assert!(cuts >= 2, "{cuts} cuts");
    }
}

/// How long one copy may take.
fn deadline() -> Duration {
    crate::common::DEADLINE * if full_size() { 20 } else { 1 }
}

/// Copies there and back under cuts, and returns how many there were.
fn copy_both_ways(faulty: &Faulty, side: Peer, how: Ending, amount: Amount, size: u64) -> u64 {
    let world = &faulty.world;
    let paths = ["here.bin", "there.bin", "back.bin"].map(|name| world.path(name));
    let [here, there, back] = &paths;
    write_file(here, usize::try_from(size).expect("a size"), 17);
    faulty.faults().cut_every(side, how, amount);
    let up = world.scp(&[]).arg(here).arg(world.remote(there));
    let up = up.deadline(deadline()).ok();
    assert_same(here, there);
    let down = world.scp(&[]).arg(world.remote(there)).arg(back);
    let down = down.deadline(deadline()).ok();
    assert_same(here, back);
    faulty.faults().clear();

    let counters = faulty.faults().counters();
    let cuts = counters.client_cuts + counters.agent_cuts;
    report(&format!(
        "{} MiB with the {side:?} cut by {how:?}: up {:?}, down {:?}, {cuts} cuts, {} resumes",
        size / MIB,
        up.took,
        down.took,
        counters.resumes
    ));
    faulty.assert_one_session();
    cuts
}

/// Messages lost, doubled, late and out of order, both ways, on a link with a round trip.
#[test]
fn over_a_bad_link() {
    if !have("scp") {
        return;
    }
    let Some(faulty) = Faulty::fast() else { return };
    let world = &faulty.world;
    let size = if full_size() { 64 * MIB } else { 4 * MIB };
    let paths = ["here.bin", "there.bin", "back.bin"].map(|name| world.path(name));
    let [here, there, back] = &paths;
    write_file(here, usize::try_from(size).expect("a size"), 18);
    faulty.inject(
        r#"{"seed": 20, "faults": [
            {"fault": "messages", "pick": {"probability": 0.02}, "effect": "drop"},
            {"fault": "messages", "pick": {"probability": 0.02}, "effect": "duplicate"},
            {"fault": "messages", "pick": {"probability": 0.02}, "effect": {"delay": {"ms": 30}}},
            {"fault": "messages", "pick": {"probability": 0.02}, "effect": {"reorder": {"places": 3}}},
            {"fault": "link", "latency_ms": 10, "jitter_ms": 5}
        ]}"#,
    );
    let up = world.scp(&[]).arg(here).arg(world.remote(there));
    let up = up.deadline(deadline()).ok();
    assert_same(here, there);
    let down = world.scp(&[]).arg(world.remote(there)).arg(back);
    let down = down.deadline(deadline()).ok();
    assert_same(here, back);
    let counters = faulty.faults().counters();
    report(&format!(
        "{} MiB over a bad link: up {:?}, down {:?}, {counters:?}",
        size / MIB,
        up.took,
        down.took
    ));
    assert!(
        counters.dropped > 0 && counters.duplicated > 0,
        "{counters:?}"
    );
    assert!(
        counters.delayed > 0 && counters.reordered > 0,
        "{counters:?}"
    );
    faulty.assert_one_session();
}
