//! What a cut costs: the time until the first byte is there again, and what a download loses, as tables.
//!
//! ```text
//! cargo bench --bench cuts -- [--runs N]
//! ```
//!
//! `serve` in front of a real sshd, with an emulator that cuts on demand. `--runs` is the number of cuts of each kind
//! (10). The echo is that of bytes sent right after the cut, through a forward that is otherwise idle. The download goes
//! at the real agent's pace, and the agent makes losses good in the real agent's way; a black hole is looked at
//! under the download only, because without bytes under way it lasts as long as the pings say.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::faulty::Faulty;
use common::net;
use ssmshim::emulator::Peer;
use ssmshim::emulator::fault::plan::Ending;

/// A way to cut, with what is in the way of the resume.
struct Cause {
    name: &'static str,
    side: Peer,
    how: Ending,
    obstacles: &'static [&'static str],
}

const HOLE: Ending = Ending::BlackHole { heals: None };

const CAUSES: [Cause; 12] = [
    Cause::plain("reset", Peer::Client, Ending::Reset),
    Cause::plain("FIN", Peer::Client, Ending::Fin),
    Cause::plain("close 1000 \"Bye\"", Peer::Client, Ending::Bye),
    Cause::plain("black hole", Peer::Client, HOLE),
    Cause::plain("reset at the agent", Peer::Agent, Ending::Reset),
    Cause::plain("close 1000 at the agent", Peer::Agent, Ending::Bye),
    Cause::behind(
        "token refused once",
        &[r#"{"fault": "gateway", "refusal": {"status": 403}}"#],
    ),
    Cause::behind(
        "gateway answers 503 three times",
        &[r#"{"fault": "gateway", "refusal": {"status": 503}, "extent": {"times": 3}}"#],
    ),
    Cause::behind(
        "API fails three times",
        &[
            r#"{"fault": "api", "operation": "ResumeSession", "answer": {"failed": {"status": 500}}, "extent": {"times": 3}}"#,
        ],
    ),
    Cause::behind(
        "credentials expired once",
        &[r#"{"fault": "expire", "gateway": false}"#],
    ),
    Cause::behind(
        "connections refused for 2 s",
        &[r#"{"fault": "network", "how": "refuse", "ms": 2000}"#],
    ),
    Cause::behind(
        "no answer for 2 s",
        &[r#"{"fault": "network", "how": "hang", "ms": 2000}"#],
    ),
];

/// Causes whose cost for a download is measured: those without obstacles.
const PLAIN: usize = 6;

/// A socket that lives shorter is not replaced at once.
const SETTLED: Duration = Duration::from_millis(1100);

/// How long a download is watched after a cut.
const WATCHED: Duration = Duration::from_secs(20);

/// Before the first cut, for the rate to be steady.
const STEADY: Duration = Duration::from_secs(5);

impl Cause {
    const fn plain(name: &'static str, side: Peer, how: Ending) -> Self {
        Self {
            name,
            side,
            how,
            obstacles: &[],
        }
    }

    const fn behind(name: &'static str, obstacles: &'static [&'static str]) -> Self {
        Self {
            name,
            side: Peer::Client,
            how: Ending::Reset,
            obstacles,
        }
    }

    /// Lets it happen.
    fn strike(&self, faulty: &Faulty) {
        for obstacle in self.obstacles {
            faulty.inject(obstacle);
        }
        let cuts = faulty.faults().cut(self.side, self.how);
        assert_eq!(cuts, 1, "{}: nothing to cut", self.name);
    }
}

fn main() -> io::Result<()> {
    let runs = runs(std::env::args().skip(1));
    let mut out = io::stdout().lock();
    print_echoes(&mut out, runs)?;
    print_downloads(&mut out, runs)
}

fn runs(mut args: impl Iterator<Item = String>) -> usize {
    let given = args
        .by_ref()
        .find(|arg| arg == "--runs")
        .and_then(|_| args.next());
    given
        .and_then(|text| text.parse().ok())
        .unwrap_or(10)
        .max(1)
}

fn print_echoes(out: &mut impl Write, runs: usize) -> io::Result<()> {
    writeln!(
        out,
        "| cause, {runs} times each | first byte: median | worst |"
    )?;
    writeln!(out, "|---|---|---|")?;
    let Some(faulty) = Faulty::fast() else {
        return writeln!(out, "| a client or server is not installed | | |");
    };
    let (_ssh, mut socket) = forward(&faulty, net::Peer::Echo);
    let mut ask = || {
        let mut answer = [0; 8];
        socket.write_all(b"anybody?").expect("the forward is there");
        socket.read_exact(&mut answer).expect("the echo comes");
    };
    ask();
    for cause in &CAUSES {
        let times = (0..runs).map(|_| {
            thread::sleep(SETTLED);
            let started = Instant::now();
            cause.strike(&faulty);
            ask();
            started.elapsed()
        });
        let [median, worst] = median_and_worst(times.collect());
        writeln!(out, "| {} | {} | {} |", cause.name, ms(median), ms(worst))?;
        out.flush()?;
    }
    faulty.assert_one_session();
    Ok(())
}

/// What is seen of a download after a cut.
struct Cost {
    /// The longest time without a byte.
    stall: Duration,
    /// The time that would have been enough for what was not delivered.
    lost: Duration,
}

fn print_downloads(out: &mut impl Write, runs: usize) -> io::Result<()> {
    writeln!(
        out,
        "\n| cause, during a download at the real agent's pace | longest stall: median | worst | transfer time lost: median | worst |"
    )?;
    writeln!(out, "|---|---|---|---|---|")?;
    let Some(faulty) = Faulty::real() else {
        return writeln!(out, "| a client or server is not installed | | | | |");
    };
    let download = Download::start(&faulty);
    let before = download.watch(STEADY);
    let rate = before.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>() / STEADY.as_secs_f64();
    for cause in &CAUSES[..PLAIN] {
        let costs: Vec<_> = (0..runs.min(5))
            .map(|_| {
                cause.strike(&faulty);
                download.cost(rate)
            })
            .collect();
        let [stall, worst_stall] = median_and_worst(costs.iter().map(|cost| cost.stall).collect());
        let [lost, worst_lost] = median_and_worst(costs.iter().map(|cost| cost.lost).collect());
        writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            cause.name,
            ms(stall),
            ms(worst_stall),
            ms(lost),
            ms(worst_lost)
        )?;
        out.flush()?;
    }
    writeln!(out, "\nat {:.2} MB/s before the first cut", rate / 1e6)?;
    faulty.assert_one_session();
    Ok(())
}

/// A download that goes on until it is dropped, as times and sizes of what came.
struct Download {
    arrivals: mpsc::Receiver<(Instant, usize)>,
    _client: common::process::Running,
}

impl Download {
    fn start(faulty: &Faulty) -> Self {
        let mut client = faulty.world.ssh(&[], "cat /dev/zero").piped();
        let mut stdout = client.take_stdout();
        let (tell, arrivals) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if tell.send((Instant::now(), count)).is_err() {
                    return;
                }
            }
        });
        Self {
            arrivals,
            _client: client,
        }
    }

    /// What comes from now on in `time`.
    fn watch(&self, time: Duration) -> Vec<(Instant, usize)> {
        let end = Instant::now() + time;
        let _before = self.arrivals.try_iter().count();
        let next = || {
            let left = end.saturating_duration_since(Instant::now());
            self.arrivals.recv_timeout(left).ok()
        };
        std::iter::from_fn(next).collect()
    }

    /// What the cut that has just happened costs a transfer of `rate` bytes a second.
    fn cost(&self, rate: f64) -> Cost {
        let cut_at = Instant::now();
        let arrivals = self.watch(WATCHED);
        let mut stall = Duration::ZERO;
        let mut last = cut_at;
        for (at, _) in &arrivals {
            stall = stall.max(at.saturating_duration_since(last));
            last = *at;
        }
        let bytes: f64 = arrivals.iter().map(|(_, bytes)| *bytes as f64).sum();
        let lost = (WATCHED.as_secs_f64() - bytes / rate).max(0.0);
        Cost {
            stall: stall.max((cut_at + WATCHED).saturating_duration_since(last)),
            lost: Duration::from_secs_f64(lost),
        }
    }
}

/// A connection through a forward to `peer`.
fn forward(faulty: &Faulty, peer: net::Peer) -> (common::world::Session, TcpStream) {
    let port = net::free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", net::serve(peer));
    let ssh = faulty.world.forwarding(&["-L", &forward]);
    (ssh, net::connect(port))
}

fn median_and_worst(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    [times[times.len() / 2], times[times.len() - 1]]
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}
