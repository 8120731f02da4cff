//! Flow control end to end: what one side does not read must neither grow the daemon nor stop the neighbours.
//!
//! Sizes are small enough for a debug build; `SSMSHIM_FULL=1` takes the full ones. Times are printed and
//! bounded loosely only: a busy machine is no failure.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use common::files::fifo;
use common::flow::{Gate, MIB, QUIET, Sink, Source};
use common::net::{connect, free_port};
use common::process::Running;
use common::world::World;
use common::{net, report};
use rustix::process::Signal;

cases! {
    cat_both_ways_at_once,
    download_into_a_stopped_client,
    upload_into_a_slow_reader,
    command_beside_stalled_channels,
    upload_while_the_download_is_never_read,
    forward_beside_a_stalled_forward,
    a_long_stall_does_not_grow_memory,
}

/// The most memory the daemon may ever hold, in KiB. A debug build maps a larger program.
const PEAK_KIB: u64 = if cfg!(debug_assertions) {
    96 << 10
} else {
    64 << 10
};

/// What memory may move by while everything stands still, in KiB: allocator and page noise.
const NOISE_KIB: u64 = 1 << 10;

/// The bytes of a bulk transfer: `full` when asked for, else 48 MiB, far more than all windows together.
fn size(full: u64) -> u64 {
    if full_size() { full } else { 48 * MIB }
}

fn full_size() -> bool {
    std::env::var_os("SSMSHIM_FULL").is_some()
}

/// Prints the daemon's memory and holds it to the bound; a plain sshd has none.
fn check_memory(world: &World, case: &str) {
    if let Some(daemon) = &world.daemon {
        let memory = daemon.memory();
        report(&format!(
            "{case}: peak {} MiB, {} threads",
            memory.peak >> 10,
            daemon.threads()
        ));
        assert!(
            memory.peak < PEAK_KIB,
            "{case}: {memory:?} KiB, more than {PEAK_KIB}"
        );
    }
}

fn reader(path: &Path) -> impl FnOnce() -> File + Send + 'static {
    let path = path.to_owned();
    move || File::open(path).expect("the named pipe opens")
}

fn writer(path: &Path) -> impl FnOnce() -> File + Send + 'static {
    let path = path.to_owned();
    move || {
        File::options()
            .write(true)
            .open(path)
            .expect("the named pipe opens")
    }
}

/// Waits for the client's end with status 0.
fn finish(mut client: Running) {
    let status = client.wait(common::DEADLINE);
    assert!(status.success(), "{status}: {}", client.stderr());
}

fn cat_both_ways_at_once(world: &World) {
    let bytes = size(256 * MIB);
    let started = Instant::now();
    let mut client = world.ssh(&[], "cat").piped();
    let (stdin, stdout) = (client.take_stdin(), client.take_stdout());
    let source = Source::start(move || stdin, 1, bytes);
    let sink = Sink::start(move || stdout, 1, Gate::open(), None);
    assert_eq!(source.finish(), bytes);
    assert_eq!(sink.finish(), bytes);
    finish(client);
    let rate = (bytes / MIB) as f64 / started.elapsed().as_secs_f64();
    report(&format!(
        "cat of {} MiB both ways: {rate:.0} MiB/s each",
        bytes / MIB
    ));
    check_memory(world, "cat both ways");
}

fn download_into_a_stopped_client(world: &World) {
    let bytes = size(1 << 30);
    let pipe = fifo(world.path("down"));
    let mut client = world.ssh(&[], &format!("cat {}", pipe.display())).piped();
    let stdout = client.take_stdout();
    let mut source = Source::start(writer(&pipe), 2, bytes);
    let mut sink = Sink::start(move || stdout, 2, Gate::open(), None);

    sink.progress.reach(4 * MIB);
    client.signal(Signal::STOP);
    let moved = source.progress.stalled(QUIET);
    assert!(moved < bytes, "everything went into a stopped client");
    client.signal(Signal::CONT);
    assert_eq!(source.finish(), bytes);
    assert_eq!(sink.finish(), bytes);
    finish(client);
    check_memory(world, "download into a stopped client");
}

fn upload_into_a_slow_reader(world: &World) {
    let (bytes, rate) = if full_size() {
        (1 << 30, 32 * MIB)
    } else {
        (24 * MIB, 6 * MIB)
    };
    let pipe = fifo(world.path("up"));
    let mut client = world.ssh(&[], &format!("cat > {}", pipe.display())).piped();
    let stdin = client.take_stdin();
    let source = Source::start(move || stdin, 3, bytes);
    let sink = Sink::start(reader(&pipe), 3, Gate::open(), Some(rate));
    assert_eq!(source.finish(), bytes);
    assert_eq!(sink.finish(), bytes);
    finish(client);
    check_memory(world, "upload into a slow reader");
}

/// An upload nobody reads at the far end and a download nobody reads here, on one connection.
struct Stall {
    up: Source,
    down: Source,
    up_client: Running,
    down_client: Running,
    up_gate: Gate,
    down_gate: Gate,
    up_sink: Sink,
    down_sink: Sink,
    bytes: u64,
}

impl Stall {
    /// Starts both on the connection of the control master at `socket` and waits until they stand still.
    fn start(world: &World, socket: &str) -> Self {
        let bytes = 32 * MIB;
        let (up_pipe, down_pipe) = (fifo(world.path("up")), fifo(world.path("down")));
        let mut up_client = world
            .ssh(&["-S", socket], &format!("cat > {}", up_pipe.display()))
            .piped();
        let mut down_client = world
            .ssh(&["-S", socket], &format!("cat {}", down_pipe.display()))
            .piped();
        let (stdin, stdout) = (up_client.take_stdin(), down_client.take_stdout());
        let (up_gate, down_gate) = (Gate::closed(), Gate::closed());
        let mut stall = Self {
            up: Source::start(move || stdin, 4, bytes),
            down: Source::start(writer(&down_pipe), 5, bytes),
            up_sink: Sink::start(reader(&up_pipe), 4, up_gate.clone(), None),
            down_sink: Sink::start(move || stdout, 5, down_gate.clone(), None),
            up_client,
            down_client,
            up_gate,
            down_gate,
            bytes,
        };
        // More than the pipes at the ends hold, so the stall is the connection's own.
        stall.up.progress.reach(MIB / 2);
        stall.down.progress.reach(MIB / 2);
        assert!(stall.up.progress.stalled(QUIET) < bytes);
        assert!(stall.down.progress.stalled(QUIET) < bytes);
        stall
    }

    /// Lets both go on, and verifies every byte.
    fn release(self) {
        self.up_gate.set(true);
        self.down_gate.set(true);
        assert_eq!(self.up.finish(), self.bytes);
        assert_eq!(self.down.finish(), self.bytes);
        assert_eq!(self.up_sink.finish(), self.bytes);
        assert_eq!(self.down_sink.finish(), self.bytes);
        finish(self.up_client);
        finish(self.down_client);
    }
}

fn command_beside_stalled_channels(world: &World) {
    let socket = world.text("control");
    let _master = world.master(&socket);
    let stall = Stall::start(world, &socket);
    let mut slowest = Duration::ZERO;
    for n in 0..5 {
        let output = world
            .ssh(&["-S", &socket], &format!("echo answer {n}"))
            .ok();
        assert_eq!(output.text(), format!("answer {n}"));
        slowest = slowest.max(output.took);
    }
    report(&format!(
        "a command beside stalled channels: at most {slowest:?}"
    ));
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");

    // Bulk goes by as well, not only a line.
    let output = world
        .ssh(&["-S", &socket], "head -c 8000000 /dev/zero")
        .ok();
    assert_eq!(output.stdout.len(), 8_000_000);
    stall.release();
    check_memory(world, "a command beside stalled channels");
}

fn upload_while_the_download_is_never_read(world: &World) {
    let bytes = size(256 * MIB);
    let pipe = fifo(world.path("up"));
    // The far end stops writing when the upload is complete; this side never reads a byte of it.
    let command = format!("cat /dev/zero & cat > {}; kill $!; exit 5", pipe.display());
    let mut client = world.ssh(&[], &command).piped();
    let (stdin, unread) = (client.take_stdin(), client.take_stdout());
    let source = Source::start(move || stdin, 6, bytes);
    let sink = Sink::start(reader(&pipe), 6, Gate::open(), None);
    assert_eq!(source.finish(), bytes);
    assert_eq!(sink.finish(), bytes);
    check_memory(world, "upload while the download is never read");
    // Letting go of stdout ends the client, which had no reader for what it holds.
    drop(unread);
    client.wait(common::DEADLINE);
}

fn forward_beside_a_stalled_forward(world: &World) {
    let (echo, bulk) = (free_port(), free_port());
    let source = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let bulk_port = source.local_addr().expect("a bound socket").port();
    let _ssh = world.forwarding(&[
        "-L",
        &format!("127.0.0.1:{echo}:127.0.0.1:{}", net::serve(net::Peer::Echo)),
        "-L",
        &format!("127.0.0.1:{bulk}:127.0.0.1:{bulk_port}"),
    ]);
    // The neighbour is open before the other one stalls.
    let mut neighbour = connect(echo);
    let mut answer = [0; 4];
    let mut ask = |word: &[u8; 4]| {
        let started = Instant::now();
        neighbour
            .write_all(word)
            .expect("the neighbour takes bytes");
        neighbour
            .read_exact(&mut answer)
            .expect("the neighbour answers");
        assert_eq!(&answer, word);
        started.elapsed()
    };
    ask(b"one.");

    let bytes = 32 * MIB;
    let stalled = connect(bulk);
    let accepted = source.accept().expect("the forward connects").0;
    let mut sending = Source::start(move || accepted, 7, bytes);
    assert!(sending.progress.stalled(QUIET) < bytes);
    let slowest = (0..20).map(|_| ask(b"two.")).max().unwrap_or_default();
    report(&format!(
        "a neighbour of a stalled forward answers within {slowest:?}"
    ));
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");

    let sink = Sink::start(move || stalled, 7, Gate::open(), None);
    assert_eq!(sending.finish(), bytes);
    assert_eq!(sink.finish(), bytes);
    ask(b"end.");
    check_memory(world, "a forward beside a stalled forward");
}

fn a_long_stall_does_not_grow_memory(world: &World) {
    let period = Duration::from_secs(if full_size() { 60 } else { 5 });
    let socket = world.text("control");
    let _master = world.master(&socket);
    let mut stall = Stall::start(world, &socket);
    let before = world.daemon.as_ref().map(|daemon| daemon.memory().now);
    stall.up.progress.stays(period);
    stall.down.progress.stays(Duration::from_millis(1));
    if let (Some(before), Some(daemon)) = (before, &world.daemon) {
        let after = daemon.memory().now;
        assert!(
            after < before + NOISE_KIB,
            "grew from {before} to {after} KiB in {period:?}"
        );
    }
    stall.release();
    check_memory(world, "a long stall");
}

/// The link between the agent and sshd is slow, so everything between here and there fills up.
#[test]
fn upload_over_a_paced_link() {
    let (bytes, rate) = if full_size() {
        (1 << 30, 20 * MIB)
    } else {
        (24 * MIB, 6 * MIB)
    };
    let Some(world) = World::serve_to(|sshd| net::paced_link(sshd.port, rate)) else {
        return;
    };
    let pipe = fifo(world.path("up"));
    let mut client = world.ssh(&[], &format!("cat > {}", pipe.display())).piped();
    let stdin = client.take_stdin();
    let source = Source::start(move || stdin, 8, bytes);
    let sink = Sink::start(reader(&pipe), 8, Gate::open(), None);
    assert_eq!(source.finish(), bytes);
    assert_eq!(sink.finish(), bytes);
    finish(client);
    check_memory(&world, "upload over a paced link");
}
