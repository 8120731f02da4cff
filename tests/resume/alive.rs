//! Clients that ask whether we live, while the target is away for longer than their patience.

use std::io::{Read, Write};
use std::time::Duration;

use ssmshim::emulator::Peer;
use ssmshim::emulator::fault::Fault;
use ssmshim::emulator::fault::plan::{Network, Outage};

use crate::common::DEADLINE;
use crate::common::faulty::Faulty;
use crate::{ENDINGS, HOLE};

/// A lost socket is known at once; a black hole is noticed after a few seconds, so that only a client
/// with some more patience can be helped. Either outage is longer than the patience.
#[test]
fn an_impatient_client_outlives_an_outage() {
    for (how, interval, away) in [(ENDINGS[0], 1, 8), (HOLE, 2, 12)] {
        let Some(faulty) = Faulty::fast() else { return };
        let options = [
            "-o",
            &format!("ServerAliveInterval={interval}"),
            "-o",
            "ServerAliveCountMax=3",
        ];
        let mut client = faulty.world.ssh(&options, "cat; exit 7").piped();
        let (mut stdin, mut stdout) = (client.take_stdin(), client.take_stdout());
        let mut answer = [0; 8];
        stdin.write_all(b"before..").expect("ssh reads");
        stdout.read_exact(&mut answer).expect("cat answers");

        // No answer to anything new.
        faulty.strike(Fault::Network(Network {
            how: Outage::Hang,
            time: Duration::from_secs(away),
        }));
        faulty.faults().cut(Peer::Client, how);
        stdin.write_all(b"meantime").expect("ssh reads");
        stdout.read_exact(&mut answer).expect("cat answers later");
        assert_eq!(&answer, b"meantime");
        drop(stdin);
        let status = client.wait(DEADLINE);
        assert_eq!(status.code(), Some(7), "{}", client.stderr());
        let counters = faulty.within(Duration::ZERO, |counters| counters.resumes == 1);
        assert_eq!(counters.outages, 1);
        faulty.assert_one_session();
    }
}
