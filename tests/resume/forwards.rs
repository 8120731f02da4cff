//! Forwarded connections across cuts: every byte both ways, in order.

use std::io::{Read, Write};
use std::net::TcpStream;

use ssmshim::emulator::Peer;
use ssmshim::emulator::fault::plan::Amount;

use crate::common::faulty::Faulty;
use crate::common::flow::{Gate, MIB, Sink, Source};
use crate::common::net::{self, Socket, connect, free_port, serve, socks5};
use crate::{ENDINGS, SIDES};

/// Bytes of each connection, each way.
const SIZE: u64 = 6 * MIB;

#[test]
fn all_kinds_at_once() {
    let Some(faulty) = Faulty::fast() else { return };
    let [local, remote, dynamic] = [(); 3].map(|()| free_port());
    let echo = serve(net::Peer::Echo);
    let _ssh = faulty.world.forwarding(&[
        "-L",
        &format!("127.0.0.1:{local}:127.0.0.1:{echo}"),
        "-R",
        &format!("127.0.0.1:{remote}:127.0.0.1:{echo}"),
        "-D",
        &format!("127.0.0.1:{dynamic}"),
    ]);
    // All are open before the first cut; others are opened amid them.
    let old = [
        connect(local),
        connect(remote),
        socks5(dynamic, "127.0.0.1", echo),
    ];
    for side in SIDES {
        for how in ENDINGS {
            faulty.faults().cut_every(side, how, Amount::Bytes(4 * MIB));
        }
    }
    let old: Vec<_> = (1..)
        .zip(old)
        .map(|(seed, it)| Stream::start(it, seed))
        .collect();
    let new = [
        connect(local),
        connect(remote),
        socks5(dynamic, "127.0.0.1", echo),
    ];
    let new = (11..).zip(new).map(|(seed, it)| Stream::start(it, seed));
    for stream in new.chain(old).collect::<Vec<_>>() {
        stream.finish();
    }
    let counters = faulty.faults().counters();
    assert!(counters.client_cuts >= 4, "{counters:?}");
    assert!(counters.agent_cuts >= 4, "{counters:?}");
    faulty.assert_one_session();
}

/// A pattern sent into an echo and verified as it comes back.
struct Stream {
    source: Source,
    sink: Sink,
}

impl Stream {
    fn start(socket: TcpStream, seed: u64) -> Self {
        let back = socket.try_clone().expect("a socket handle clones");
        Self {
            source: Source::start(move || Half(socket), seed, SIZE),
            sink: Sink::start(move || back, seed, Gate::open(), None),
        }
    }

    fn finish(self) {
        assert_eq!(self.source.finish(), SIZE);
        assert_eq!(self.sink.finish(), SIZE);
    }
}

/// The sending half of a connection, which ends when it is dropped.
struct Half(TcpStream);

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.0.finish_writing();
    }
}

/// The listeners of a client know nothing of a cut: what is opened during one is served after it.
#[test]
fn opened_while_there_is_no_socket() {
    let Some(faulty) = Faulty::fast() else { return };
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", serve(net::Peer::Echo));
    let _ssh = faulty.world.forwarding(&["-L", &forward]);
    for how in ENDINGS {
        faulty
            .inject(r#"{"fault": "gateway", "refusal": {"status": 503}, "extent": {"times": 2}}"#);
        faulty.faults().cut(Peer::Client, how);
        let mut socket = connect(port);
        socket.write_all(b"hello").expect("the forward takes bytes");
        let mut answer = [0; 5];
        socket.read_exact(&mut answer).expect("the echo comes back");
        assert_eq!(&answer, b"hello");
    }
    assert_eq!(faulty.faults().counters().resumes, 3);
    faulty.assert_one_session();
}
