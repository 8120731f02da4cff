//! What real clients get: rates, latency and the daemon's memory, as a table.
//!
//! ```text
//! cargo bench --bench throughput -- [--direct] [--mib N] [--runs N] [END…]
//! ```
//!
//! Without names it measures `demo` and `serve`; `--direct` adds a plain sshd for comparison. `--mib` is
//! the size of a transfer (512), `--runs` the number of `ssh true` (30). Each end runs alone, in a world
//! of its own. For the peak memory of each flow-control case:
//!
//! ```text
//! SSMSHIM_FULL=1 cargo test --release --test flow -- --nocapture --test-threads 1 | grep measured
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use common::files::{assert_same, write_file};
use common::process::Run;
use common::world::World;

/// The longest one transfer may take.
const TRANSFER: Duration = Duration::from_secs(600);

/// What the command line asks for.
struct Options {
    ends: Vec<String>,
    mib: usize,
    runs: usize,
}

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
        "transfers of {} MiB in MiB/s; `ssh true` of {} runs",
        options.mib, options.runs
    )?;
    writeln!(
        out,
        "\n| end | download | upload | both, each | scp down | scp up | ssh true, median | p90 | daemon: peak MiB | idle MiB | threads |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|")?;
    for end in &options.ends {
        let world = match end.as_str() {
            "direct" => World::direct(),
            "demo" => World::demo(),
            "serve" => World::serve(),
            other => return Err(io::Error::other(format!("no end is called {other}"))),
        };
        match world {
            Some(world) => print(&mut out, &measure(end, &world, &options))?,
            None => writeln!(out, "| {end} | a client or server is not installed |")?,
        }
    }
    Ok(())
}

fn options(mut args: impl Iterator<Item = String>) -> Options {
    let mut options = Options {
        ends: Vec::new(),
        mib: 512,
        runs: 30,
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
