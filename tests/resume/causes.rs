//! What may be in the way of a resume, and is only that: the session is the same afterwards.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ssmshim::emulator::Peer;
use ssmshim::emulator::fault::Fault;
use ssmshim::emulator::fault::plan::{Amount, Cut, Ending, Extent, Sessions};

use crate::common::faulty::Faulty;
use crate::common::net::{self, connect, free_port, serve};
use crate::report_times;

/// Of a socket before it is cut.
const LIFE: Duration = Duration::from_millis(1100);

/// An echo through a forward: the first byte back ends a pause.
struct Echo {
    faulty: Faulty,
    socket: TcpStream,
    _ssh: crate::common::world::Session,
}

impl Echo {
    fn start() -> Option<Self> {
        let faulty = Faulty::fast()?;
        let port = free_port();
        let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", serve(net::Peer::Echo));
        let ssh = faulty.world.forwarding(&["-L", &forward]);
        let mut echo = Self {
            faulty,
            socket: connect(port),
            _ssh: ssh,
        };
        echo.ask();
        Some(echo)
    }

    /// Sends something and waits until it is back.
    fn ask(&mut self) {
        self.socket
            .write_all(b"anybody?")
            .expect("the forward takes bytes");
        let mut answer = [0; 8];
        self.socket
            .read_exact(&mut answer)
            .expect("the echo comes back");
        assert_eq!(&answer, b"anybody?");
    }

    /// Cuts the client with `obstacles` in the way, and returns the time from the cut to the first
    /// byte again.
    ///
    /// The socket has lived for [`LIFE`] by then: one that is lost sooner is not replaced at once.
    fn pause(&mut self, how: Ending, obstacles: &[&str]) -> Duration {
        let before = self.faulty.faults().counters();
        for obstacle in obstacles {
            self.faulty.inject(obstacle);
        }
        self.faulty.strike(Fault::Cut(Cut {
            side: Peer::Client,
            how,
            after: Some(Amount::Time(LIFE)),
            from: None,
            jitter: 0.0,
            extent: Extent::default(),
            sessions: Sessions::All,
        }));
        self.faulty
            .until(|counters| counters.client_cuts > before.client_cuts);
        let started = Instant::now();
        self.ask();
        let pause = started.elapsed();
        let after = self.faulty.faults().counters();
        assert_eq!(after.resumes, before.resumes + 1, "{obstacles:?}");
        self.faulty.assert_one_session();
        pause
    }

    /// [`Echo::pause`] some times over, reported.
    fn pauses(&mut self, what: &str, how: Ending, obstacles: &[&str], times: u32) {
        let pauses = (0..times).map(|_| self.pause(how, obstacles)).collect();
        report_times(&format!("first byte after {what}"), pauses);
        self.faulty.faults().clear();
    }
}

/// Makes a test of each obstacle.
macro_rules! obstacles {
    ($($name:ident: $what:literal, $times:literal times, [$($fault:literal),* $(,)?];)*) => {
        $(
            #[test]
            fn $name() {
                let Some(mut echo) = Echo::start() else { return };
                echo.pauses($what, Ending::Reset, &[$($fault),*], $times);
            }
        )*
    };
}

obstacles! {
    gateway_failing: "the gateway answering 503 three times", 3 times,
        [r#"{"fault": "gateway", "refusal": {"status": 503}, "extent": {"times": 3}}"#];
    token_refused: "a token refused once", 3 times,
        [r#"{"fault": "gateway", "refusal": {"status": 403}}"#];
    credentials_expired: "credentials expired once at the API", 3 times,
        [r#"{"fault": "expire", "gateway": false}"#];
    credentials_expired_at_the_gateway: "credentials expired once at the gateway", 3 times,
        [r#"{"fault": "expire", "api": false}"#];
    api_throttled: "the API throttling three times", 2 times,
        [r#"{"fault": "api", "operation": "ResumeSession", "answer": {"throttled": {"retry_after": 1}},
             "extent": {"times": 3}}"#];
    api_failing: "the API failing three times", 2 times,
        [r#"{"fault": "api", "operation": "ResumeSession", "answer": {"failed": {"status": 500}},
             "extent": {"times": 3}}"#];
    network_refusing: "two seconds of refused connections", 2 times,
        [r#"{"fault": "network", "how": "refuse", "ms": 3100}"#];
    network_hanging: "two seconds without an answer", 2 times,
        [r#"{"fault": "network", "how": "hang", "ms": 3100}"#];
    everything_at_once: "an outage, a failing API and a refused token", 1 times,
        [r#"{"fault": "network", "how": "refuse", "ms": 2100}"#,
         r#"{"fault": "api", "operation": "ResumeSession", "answer": {"failed": {"status": 503}}}"#,
         r#"{"fault": "expire", "gateway": false}"#,
         r#"{"fault": "gateway", "refusal": {"status": 502}}"#,
         r#"{"fault": "gateway", "refusal": {"status": 403}}"#];
}

#[test]
fn nothing_in_the_way() {
    let Some(mut echo) = Echo::start() else {
        return;
    };
    for (what, how) in [
        ("a reset", Ending::Reset),
        ("a FIN", Ending::Fin),
        ("close 1000", Ending::Bye),
    ] {
        echo.pauses(what, how, &[], 5);
    }
}
