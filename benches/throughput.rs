//! What real clients get: rates, latency and the daemon's memory, as a table.
//!
//! ```text
//! cargo bench --bench throughput -- [--direct] [--mib N] [--runs N] [--keys N] [END…]
//! ```
//!
//! Without names it measures `demo` and `serve`; `--direct` adds a plain sshd for comparison. `--mib` is
//! the size of a transfer (512), `--runs` the number of `ssh true` (30), `--keys` the number of keystrokes that are
//! timed beside each kind of transfer (300); with `--mib 0` only they are. Each end runs alone, in a world of its
//! own. For the peak memory of each flow-control case:
//!
//! ```text
//! SSMSHIM_FULL=1 cargo test --release --test flow -- --nocapture --test-threads 1 | grep measured
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use common::files::{assert_same, write_file};
use common::process::{Run, Running};
use common::world::World;

/// The longest one transfer may take.
const TRANSFER: Duration = Duration::from_secs(600);

/// What the command line asks for.
struct Options {
    ends: Vec<String>,
    mib: usize,
    runs: usize,
    keys: usize,
}

/// What goes on while keys are pressed.
const BESIDE: [Beside; 5] = [
    Beside::Nothing,
    Beside::Other(Direction::Down),
    Beside::Other(Direction::Up),
    Beside::Same(Direction::Down),
    Beside::Same(Direction::Up),
];

/// A transfer on another local connection, or on the one of the keyboard.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Other(Direction),
    Same(Direction),
}

#[derive(Clone, Copy)]
enum Direction {
    Down,
    Up,
}

/// The time between two keystrokes: a fast typist's, a few times over.
const BETWEEN_KEYS: Duration = Duration::from_millis(10);

/// The figures of one end.
struct Figures {
    end: String,
    /// MiB/s of `ssh cat`, `ssh 'cat > …'`, both at once (each way), `scp` down and up.
    rates: [f64; 5],
    /// `ssh true`, sorted.
    latencies: Vec<Duration>,
    /// Peak and idle memory of the daemon in MiB, and its threads.
    daemon: Option<(u64, u64, u64)>,
}

fn main() -> io::Result<()> {
    let options = options(std::env::args().skip(1));
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "transfers of {} MiB in MiB/s; `ssh true` of {} runs; {} keystrokes each",
        options.mib, options.runs, options.keys
    )?;
    if options.mib > 0 {
        print_rates(&mut out, &options)?;
    }
    print_echoes(&mut out, &options)
}

fn print_rates(out: &mut impl Write, options: &Options) -> io::Result<()> {
    writeln!(
        out,
        "\n| end | download | upload | both, each | scp down | scp up | ssh true, median | p90 | daemon: peak MiB | idle MiB | threads |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|")?;
    for end in &options.ends {
        match world(end)? {
            Some(world) => print(out, &measure(end, &world, options))?,
            None => writeln!(out, "| {end} | a client or server is not installed |")?,
        }
    }
    Ok(())
}

fn world(end: &str) -> io::Result<Option<World>> {
    match end {
        "direct" => Ok(World::direct()),
        "demo" => Ok(World::demo()),
        "serve" => Ok(World::serve()),
        other => Err(io::Error::other(format!("no end is called {other}"))),
    }
}

/// A table of the time from a keystroke to its echo: median, 99th percentile, worst.
fn print_echoes(out: &mut impl Write, options: &Options) -> io::Result<()> {
    writeln!(
        out,
        "\n| keystroke echo, ms: median / p99 / worst | idle | other connection, download | upload | same connection, download | upload |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for end in &options.ends {
        let Some(world) = world(end)? else {
            continue;
        };
        write!(out, "| {end} ")?;
        for beside in BESIDE {
            let times = echoes(&world, beside, options.keys);
            let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
            let [median, p99, worst] =
                [at(50), at(99), at(100)].map(|time| time.as_secs_f64() * 1e3);
            write!(out, "| {median:.1} / {p99:.1} / {worst:.1} ")?;
            out.flush()?;
        }
        writeln!(out, "|")?;
    }
    Ok(())
}

/// How long each of `keys` keystrokes took to come back from a terminal at the far end, sorted.
fn echoes(world: &World, beside: Beside, keys: usize) -> Vec<Duration> {
    let socket = world.text("control");
    let _master = world.master(&socket);
    let same = ["-S", socket.as_str()];
    let mut keyboard = world
        .ssh(
            &[&same[..], &["-tt"]].concat(),
            "stty raw -echo; printf R; exec cat",
        )
        .piped();
    let (mut stdin, mut stdout) = (keyboard.take_stdin(), keyboard.take_stdout());
    // Before the terminal is raw it echoes by itself, and each time taken would be that of the key before.
    let mut ready = [0];
    stdout
        .read_exact(&mut ready)
        .expect("the terminal is ready");
    assert_eq!(&ready, b"R", "nothing was typed yet");
    let mut press = || {
        let mut echo = [0];
        let started = Instant::now();
        stdin.write_all(b"k").expect("the keyboard is there");
        stdout.read_exact(&mut echo).expect("the echo comes");
        started.elapsed()
    };
    press();
    let transfer = match beside {
        Beside::Nothing => None,
        Beside::Other(direction) => Some(endless(world, &[], direction)),
        Beside::Same(direction) => Some(endless(world, &same, direction)),
    };
    let mut times: Vec<_> = (0..keys.max(1))
        .map(|_| {
            thread::sleep(BETWEEN_KEYS);
            press()
        })
        .collect();
    drop(transfer);
    times.sort_unstable();
    times
}

/// A transfer that is under way, and goes on until it is dropped.
fn endless(world: &World, options: &[&str], direction: Direction) -> Running {
    match direction {
        Direction::Down => {
            let mut client = world.ssh(options, "cat /dev/zero").piped();
            let mut stdout = client.take_stdout();
            let mut begun = vec![0; 16 << 20];
            stdout.read_exact(&mut begun).expect("the transfer begins");
            thread::spawn(move || while stdout.read(&mut begun).is_ok_and(|count| count > 0) {});
            client
        }
        Direction::Up => {
            let mut client = world.ssh(options, "cat > /dev/null").piped();
            let mut stdin = client.take_stdin();
            let chunk = vec![0; 16 << 20];
            stdin.write_all(&chunk).expect("the transfer begins");
            thread::spawn(move || while stdin.write_all(&chunk).is_ok() {});
            client
        }
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Options {
    let mut options = Options {
        ends: Vec::new(),
        mib: 512,
        runs: 30,
        keys: 300,
    };
    let mut direct = false;
    while let Some(arg) = args.next() {
        let mut number = |default| {
            args.next()
                .and_then(|text| text.parse().ok())
                .unwrap_or(default)
        };
        match arg.as_str() {
            // cargo's own.
            "--bench" => {}
            "--direct" => direct = true,
            "--mib" => options.mib = number(512),
            "--keys" => options.keys = number(300),
            "--runs" => options.runs = number(30).max(1),
            _ => options.ends.push(arg),
        }
    }
    if options.ends.is_empty() {
        options.ends = vec!["demo".to_owned(), "serve".to_owned()];
    }
    if direct {
        options.ends.insert(0, "direct".to_owned());
    }
    options
}

fn measure(end: &str, world: &World, options: &Options) -> Figures {
    let (file, copy, back) = (world.path("file"), world.path("copy"), world.path("back"));
    write_file(&file, options.mib << 20, 1);
    let download = format!("cat {}", file.display());

    // The first connection pays for what later ones find warm.
    world.ssh(&[], "true").ok();
    let mut latencies: Vec<_> = (0..options.runs)
        .map(|_| world.ssh(&[], "true").ok().took)
        .collect();
    latencies.sort_unstable();
    let idle = world
        .daemon
        .as_ref()
        .map(|daemon| daemon.memory().now >> 10);

    let open = || File::open(&file).expect("we have written it");
    let nowhere = || {
        File::options()
            .write(true)
            .open("/dev/null")
            .expect("every system has it")
    };
    let rate = |run: Run| {
        let started = Instant::now();
        run.deadline(TRANSFER).ok();
        options.mib as f64 / started.elapsed().as_secs_f64()
    };
    let rates = [
        rate(world.ssh(&[], &download).stdout_to(nowhere())),
        rate(world.ssh(&[], "cat > /dev/null").stdin_from(open())),
        rate(
            world
                .ssh(&[], "cat")
                .stdin_from(open())
                .stdout_to(nowhere()),
        ),
        rate(world.scp(&[]).arg(world.remote(&file)).arg(&back)),
        rate(world.scp(&[]).arg(&file).arg(world.remote(&copy))),
    ];
    assert_same(&file, &back);
    assert_same(&file, &copy);
    let daemon = world.daemon.as_ref().map(|daemon| {
        (
            daemon.memory().peak >> 10,
            idle.unwrap_or_default(),
            daemon.threads(),
        )
    });
    Figures {
        end: end.to_owned(),
        rates,
        latencies,
        daemon,
    }
}

fn print(out: &mut impl Write, figures: &Figures) -> io::Result<()> {
    write!(out, "| {} ", figures.end)?;
    for rate in figures.rates {
        write!(out, "| {rate:.0} ")?;
    }
    for part in [5, 9] {
        let at = (figures.latencies.len() * part / 10).min(figures.latencies.len() - 1);
        write!(
            out,
            "| {:.0} ms ",
            figures.latencies[at].as_secs_f64() * 1e3
        )?;
    }
    match figures.daemon {
        Some((peak, idle, threads)) => writeln!(out, "| {peak} | {idle} | {threads} |"),
        None => writeln!(out, "| | | |"),
    }
}
