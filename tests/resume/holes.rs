//! Black holes: nothing arrives and nothing fails, and it is noticed all the same.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use ssmshim::emulator::Peer;

use crate::HOLE;
use crate::common::faulty::Faulty;
use crate::common::net::{self, connect, free_port, serve};
use crate::common::report;

/// Promised while data is in flight, and while nothing is.
const IN_FLIGHT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(30);

/// For the resume itself, and a busy machine.
const SLACK: Duration = Duration::from_secs(2);

#[test]
fn noticed_while_data_is_in_flight() {
    let Some(faulty) = Faulty::fast() else { return };
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", serve(net::Peer::Echo));
    let _ssh = faulty.world.forwarding(&["-L", &forward]);
    let mut socket = connect(port);
    for round in 1..=2 {
        assert_eq!(faulty.faults().cut(Peer::Client, HOLE), 1);
        faulty.until(|counters| counters.client_cuts == round);
        let started = Instant::now();
        socket
            .write_all(b"anybody?")
            .expect("the forward takes bytes");
        faulty.within(IN_FLIGHT + SLACK, |counters| counters.resumes == round);
        let mut answer = [0; 8];
        socket.read_exact(&mut answer).expect("the echo comes back");
        report(&format!(
            "first byte after a black hole, in flight: {:?}",
            started.elapsed()
        ));
    }
    faulty.assert_one_session();
}

#[test]
fn noticed_while_idle() {
    let Some(faulty) = Faulty::fast() else { return };
    // By then the spare connections are made, and nothing is said any more.
    faulty.inject(
        r#"{"fault": "cut", "side": "client", "how": {"black_hole": {}}, "after": {"ms": 3000}}"#,
    );
    faulty.until(|counters| counters.client_cuts == 1);
    let started = Instant::now();
    faulty.within(IDLE + SLACK, |counters| counters.resumes == 1);
    report(&format!(
        "resumed after a black hole, idle: {:?}",
        started.elapsed()
    ));
    assert_eq!(faulty.world.ssh(&[], "echo works").ok().text(), "works");
    faulty.assert_one_session();
}

/// A short one heals by itself, and nothing was lost.
#[test]
fn a_short_one_is_a_pause() {
    let Some(faulty) = Faulty::fast() else { return };
    faulty
        .inject(r#"{"fault": "cut", "side": "client", "how": {"black_hole": {"heals_ms": 700}}}"#);
    assert_eq!(faulty.world.ssh(&[], "echo works").ok().text(), "works");
    faulty.assert_one_session();
}
