//! How long `ssmshim serve` takes until `ssh` would work, as a table.
//!
//! ```text
//! cargo bench --bench ready -- [--runs N]
//! ```
//!
//! The program is started `--runs` times (20) in front of a real sshd, with an emulator on the same machine, and
//! terminated when it is ready; before that once more, for the host keys that the first start makes. The parts are told
//! apart by what it logs. With a real region each part costs the round trips that stand beside it in addition.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use common::daemon::{PROGRAM, aws_environment, environment};
use common::world::{World, serve_args};
use rustix::process::{Pid, Signal, kill_process};

/// The parts of a start: what is told when one is over, its name, and what it waits for.
const PARTS: [(&str, &str, &str); 5] = [
    ("no ssh-agent", "process, configuration", "nothing"),
    ("ssm session started", "StartSession", "TCP, TLS, one call"),
    (
        " up ",
        "gateway, agent, smux",
        "TCP, TLS, WebSocket, handshake of the agent",
    ),
    ("logged in", "SSH login", "four round trips to the machine"),
    ("\"event\":\"ready\"", "word of it", "nothing"),
];

fn main() -> io::Result<()> {
    let runs = runs(std::env::args().skip(1));
    let Some(mut world) = World::serve() else {
        return Ok(());
    };
    // It has made what a first start makes.
    drop(world.daemon.take());
    let starts: Vec<_> = (0..runs).map(|_| start(&world)).collect();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{runs} starts, ms              median    worst   and on the way"
    )?;
    for (part, (_, name, waits)) in PARTS.iter().enumerate() {
        let times = starts.iter().map(|start| {
            let before = part
                .checked_sub(1)
                .map_or(Duration::ZERO, |before| start[before]);
            start[part].saturating_sub(before)
        });
        print(&mut out, name, times.collect(), waits)?;
    }
    let whole = starts.iter().map(|start| start[PARTS.len() - 1]).collect();
    print(&mut out, "ready", whole, "")
}

fn runs(mut args: impl Iterator<Item = String>) -> usize {
    let given = args
        .by_ref()
        .find(|arg| arg == "--runs")
        .and_then(|_| args.next()?.parse().ok());
    given.unwrap_or(20).max(1)
}

fn print(
    out: &mut impl Write,
    name: &str,
    mut times: Vec<Duration>,
    waits: &str,
) -> io::Result<()> {
    times.sort();
    let millis = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let (median, worst) = (millis(times.get(times.len() / 2)), millis(times.last()));
    writeln!(out, "{name:<26} {median:>8.1} {worst:>8.1}   {waits}")
}

/// When each of [`PARTS`] was over, after the process was started.
fn start(world: &World) -> [Duration; PARTS.len()] {
    let (emulator, sshd) = (
        world.emulator(),
        world.sshd.as_ref().expect("serve has one"),
    );
    let port = sshd.port.to_string();
    let began = Instant::now();
    let mut child = Command::new(PROGRAM)
        .args(serve_args(&emulator.text("target"), &port, &sshd.identity))
        .args(["--listen", "127.0.0.1:0", "--json", "--log", "debug"])
        .env_clear()
        .envs(environment(&world.path("home")))
        .envs(aws_environment(&emulator.text("endpoint")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let (tell, lines) = mpsc::channel();
    time_lines(child.stdout.take().expect("it is piped"), tell.clone());
    time_lines(child.stderr.take().expect("it is piped"), tell);
    let reached = listen(&lines);
    end(&mut child);
    reached.map(|at| at.saturating_duration_since(began))
}

/// When each part was told to be over. What was not told in its turn took no time of its own.
fn listen(lines: &Receiver<(Instant, String)>) -> [Instant; PARTS.len()] {
    let mut reached: [Option<Instant>; PARTS.len()] = Default::default();
    let last = PARTS.len() - 1;
    while reached[last].is_none() {
        let (at, line) = lines
            .recv_timeout(common::DEADLINE)
            .expect("it becomes ready");
        let part = PARTS.iter().position(|(word, ..)| line.contains(word));
        if let Some(part) = part {
            reached[part].get_or_insert(at);
        }
    }
    let mut later = reached[last].expect("it is ready");
    for at in reached.iter_mut().rev() {
        later = at.map_or(later, |at| at.min(later));
        *at = Some(later);
    }
    reached.map(|at| at.unwrap_or(later))
}

/// Passes lines on with the time when they came.
fn time_lines(stream: impl Read + Send + 'static, tell: Sender<(Instant, String)>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ready_by_now = tell.send((Instant::now(), line));
        }
    });
}

fn end(child: &mut Child) {
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let _ = child.wait();
}
