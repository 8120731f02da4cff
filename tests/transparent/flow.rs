//! What happens when somebody does not read: how much is taken before the sender stands still, that all of it arrives
//! once reading goes on, and that nobody else waits.
//!
//! How many bytes the buffers on the way hold is no part of what is compared, for there are more of them with us
//! between; that there is a bound is. It is far below the bytes that the sender has.

mod raw_windows;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::common::DEADLINE;
use crate::common::files::{fifo, write_file};
use crate::common::flow::{Gate, MIB, QUIET, Sink, Source};
use crate::common::net::{self, connect, connect_unix, free_port};
use crate::common::process::code;
use crate::common::world::World;
use crate::seen::Seen;
use rustix::process::Signal;
use ssmshim::ssh::wire::WriteExt as _;

crate::differential! {
    compared: {}
    everywhere: {
        exec_output_unread,
        exec_input_unread,
        exec_both_unread,
        standard_error_unread,
        local_forward_down,
        local_forward_up,
        remote_forward_up,
        socket_forward_both_ways,
        remote_socket_forward,
        sftp_answers_unread,
        siblings_of_stalled_channels,
        slow_reader,
    }
}

/// What a sender has: more than all that may ever be under way.
const BYTES: u64 = 40 * MIB;

/// The most that may be under way: 9 MiB for an OpenSSH client's own forward, the sockets, and our queues.
const BOUND: u64 = 24 * MIB;

/// Lets `source` run into the closed gate of `sink`, then opens it, and records how it went.
fn stall(seen: &mut Seen, label: &str, mut source: Source, sink: Sink, gate: &Gate) {
    let moved = source.progress.stalled(QUIET);
    crate::common::report(&format!("{label}: {moved} bytes before it stood still"));
    seen.note(
        &format!("{label}: stands still"),
        moved > 0 && moved < BOUND,
    );
    gate.set(true);
    seen.note(&format!("{label}: sent"), source.finish());
    // The sink compares every byte.
    seen.note(&format!("{label}: arrived"), sink.finish());
}

fn reader(path: &Path) -> impl FnOnce() -> File + Send + 'static {
    let path = path.to_owned();
    move || File::open(path).expect("the named pipe opens")
}

fn writer(path: &Path) -> impl FnOnce() -> File + Send + 'static {
    let path = path.to_owned();
    move || {
        let open = File::options().write(true).open(path);
        open.expect("the named pipe opens")
    }
}

fn exec_output_unread(world: &World, seen: &mut Seen) {
    let pipe = fifo(world.path("pipe"));
    let command = format!("cat {}; echo end >&2; exit 6", pipe.display());
    let mut client = world.ssh(&[], &command).piped();
    let stdout = client.take_stdout();
    let gate = Gate::closed();
    let source = Source::start(writer(&pipe), 1, BYTES);
    let sink = Sink::start(move || stdout, 1, gate.clone(), None);
    stall(seen, "output", source, sink, &gate);
    seen.note("status", code(client.wait(DEADLINE)));
    seen.note("stderr", client.stderr());
}

fn exec_input_unread(world: &World, seen: &mut Seen) {
    let pipe = fifo(world.path("pipe"));
    let command = format!("cat > {}; exit 7", pipe.display());
    let mut client = world.ssh(&[], &command).piped();
    let stdin = client.take_stdin();
    let gate = Gate::closed();
    let source = Source::start(move || stdin, 2, BYTES);
    let sink = Sink::start(reader(&pipe), 2, gate.clone(), None);
    stall(seen, "input", source, sink, &gate);
    seen.note("status", code(client.wait(DEADLINE)));
}

/// One command's two streams, stuck at once and let go one after the other.
fn exec_both_unread(world: &World, seen: &mut Seen) {
    let (up, down) = (fifo(world.path("up")), fifo(world.path("down")));
    let command = format!(
        "cat {} & cat > {}; wait; exit 8",
        down.display(),
        up.display()
    );
    let mut client = world.ssh(&[], &command).piped();
    let (stdin, stdout) = (client.take_stdin(), client.take_stdout());
    let (up_gate, down_gate) = (Gate::closed(), Gate::closed());
    let up_source = Source::start(move || stdin, 3, BYTES);
    let mut down_source = Source::start(writer(&down), 4, BYTES);
    let up_sink = Sink::start(reader(&up), 3, up_gate.clone(), None);
    let down_sink = Sink::start(move || stdout, 4, down_gate.clone(), None);
    down_source.progress.stalled(QUIET);
    stall(seen, "input", up_source, up_sink, &up_gate);
    stall(seen, "output", down_source, down_sink, &down_gate);
    seen.note("status", code(client.wait(DEADLINE)));
}

/// The client reads its standard error's bytes as any others; nobody takes its output.
fn standard_error_unread(world: &World, seen: &mut Seen) {
    let pipe = fifo(world.path("pipe"));
    let command = format!(
        "cat {} & yes | head -c 300000 >&2; wait; exit 9",
        pipe.display()
    );
    let mut client = world.ssh(&[], &command).piped();
    let stdout = client.take_stdout();
    let gate = Gate::closed();
    let source = Source::start(writer(&pipe), 5, BYTES);
    let sink = Sink::start(move || stdout, 5, gate.clone(), None);
    stall(seen, "output", source, sink, &gate);
    seen.note("status", code(client.wait(DEADLINE)));
    seen.note("stderr", client.stderr().len());
}

fn local_forward_down(world: &World, seen: &mut Seen) {
    let (port, far) = (free_port(), listener());
    let _ssh = world.forwarding(&["-L", &format!("127.0.0.1:{port}:127.0.0.1:{}", far.1)]);
    let near = connect(port);
    let far = far.0.accept().expect("the forward connects").0;
    through(seen, "down", far, near);
}

fn local_forward_up(world: &World, seen: &mut Seen) {
    let (port, far) = (free_port(), listener());
    let _ssh = world.forwarding(&["-L", &format!("127.0.0.1:{port}:127.0.0.1:{}", far.1)]);
    let near = connect(port);
    let far = far.0.accept().expect("the forward connects").0;
    through(seen, "up", near, far);
}

fn remote_forward_up(world: &World, seen: &mut Seen) {
    for to_far in [true, false] {
        let (port, near) = (free_port(), listener());
        let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", near.1);
        let _ssh = world.forwarding(&["-R", &forward]);
        let far = connect(port);
        let near = near.0.accept().expect("the forward connects").0;
        if to_far {
            through(seen, "to the far end", near, far);
        } else {
            through(seen, "from the far end", far, near);
        }
    }
}

fn socket_forward_both_ways(world: &World, seen: &mut Seen) {
    let (near, far) = (world.text("near.sock"), world.text("far.sock"));
    let listener = UnixListener::bind(&far).expect("our own directory");
    let _ssh = world.forwarding(&["-L", &format!("{near}:{far}")]);
    for down in [true, false] {
        let near = connect_unix(&world.path("near.sock"));
        let far = listener.accept().expect("the forward connects").0;
        if down {
            through(seen, "down", far, near);
        } else {
            through(seen, "up", near, far);
        }
    }
}

fn remote_socket_forward(world: &World, seen: &mut Seen) {
    let (near, far) = (world.text("near.sock"), world.text("far.sock"));
    let listener = UnixListener::bind(&near).expect("our own directory");
    let _ssh = world.forwarding(&["-R", &format!("{far}:{near}")]);
    for down in [true, false] {
        let far = connect_unix(&world.path("far.sock"));
        let near = listener.accept().expect("the forward connects").0;
        if down {
            through(seen, "down", far, near);
        } else {
            through(seen, "up", near, far);
        }
    }
}

fn listener() -> (std::net::TcpListener, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("a bound socket").port();
    (listener, port)
}

/// Pushes from one end of a forwarded connection, and reads at the other only once it stands still.
fn through<W, R>(seen: &mut Seen, label: &str, from: W, to: R)
where
    W: Write + Send + 'static,
    R: Read + Send + 'static,
{
    let gate = Gate::closed();
    let source = Source::start(move || from, 6, BYTES);
    let sink = Sink::start(move || to, 6, gate.clone(), None);
    stall(seen, label, source, sink, &gate);
}

/// Requests for a whole file, and nobody who takes the answers (draft-ietf-secsh-filexfer-02).
fn sftp_answers_unread(world: &World, seen: &mut Seen) {
    const REQUESTS: u32 = 24 << 5;
    let file = world.path("bulk");
    write_file(&file, 24 << 20, 7);
    let mut script = Vec::new();
    script.put_string([1, 0, 0, 0, 3]);
    let mut open = vec![3, 0, 0, 0, 0];
    open.put_string(file.display().to_string());
    open.put_uint32(1).put_uint32(0);
    script.put_string(open);
    for number in 0..REQUESTS {
        let mut read = vec![5];
        read.put_uint32(number).put_string([0; 4]);
        read.put_uint32(0)
            .put_uint32(number << 15)
            .put_uint32(32 << 10);
        script.put_string(read);
    }
    let socket = world.text("control");
    let _master = world.master(&socket);
    let mut client = world.ssh(&["-S", &socket, "-s"], "sftp").piped();
    let (mut stdin, mut stdout) = (client.take_stdin(), client.take_stdout());
    stdin.write_all(&script).expect("requests are short");
    for round in 0..3 {
        let run = world.ssh(&["-S", &socket], "head -c 3000000 /dev/zero | wc -c");
        seen.run(&format!("beside it {round}"), run);
    }
    let mut count = 0;
    let mut bytes = Vec::new();
    while count < REQUESTS {
        let mut length = [0; 4];
        stdout.read_exact(&mut length).expect("an answer");
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        stdout.read_exact(&mut answer).expect("an answer");
        if answer[0] == 103 {
            bytes.extend_from_slice(&answer[9..]);
            count += 1;
        }
    }
    seen.bytes("all", &bytes);
    drop(stdin);
    seen.note("status", code(client.wait(DEADLINE)));
}

/// A stalled channel of each kind on one connection, and what else goes on there.
fn siblings_of_stalled_channels(world: &World, seen: &mut Seen) {
    let socket = world.text("control");
    let (port, echo, far) = (free_port(), free_port(), listener());
    let answering = net::serve(net::Peer::Echo);
    let _master = world.forwarding(&[
        "-M",
        "-S",
        &socket,
        "-o",
        "ServerAliveInterval=1",
        "-o",
        "ServerAliveCountMax=3",
        "-L",
        &format!("127.0.0.1:{port}:127.0.0.1:{}", far.1),
        "-L",
        &format!("127.0.0.1:{echo}:127.0.0.1:{answering}"),
    ]);
    let pipe = fifo(world.path("pipe"));
    let mut client = world
        .ssh(&["-S", &socket], &format!("cat {}", pipe.display()))
        .piped();
    let stdout = client.take_stdout();
    let gate = Gate::closed();
    let mut exec = Source::start(writer(&pipe), 8, BYTES);
    let exec_sink = Sink::start(move || stdout, 8, gate.clone(), None);
    let near = connect(port);
    let far = far.0.accept().expect("the forward connects").0;
    let mut forward = Source::start(move || far, 9, BYTES);
    let forward_sink = Sink::start(move || near, 9, gate.clone(), None);
    exec.progress.stalled(QUIET);
    forward.progress.stalled(QUIET);

    for round in 0..3 {
        let label = format!("command {round}");
        seen.run(&label, world.ssh(&["-S", &socket], "echo answer; exit 3"));
        let answer = net::exchange(connect(echo), b"question");
        seen.bytes("neighbour", &answer);
    }
    let bulk = world
        .ssh(&["-S", &socket], "head -c 5000000 /dev/zero")
        .ok();
    seen.bytes("bulk beside them", &bulk.stdout);
    // Longer than the keepalives wait for an answer: the connection is there only if they had one.
    exec.progress.stays(std::time::Duration::from_secs(4));
    seen.note("master", world.control(&socket, "check", &[]).output().code);

    gate.set(true);
    seen.note("exec sent", exec.finish());
    seen.note("exec arrived", exec_sink.finish());
    seen.note("forward sent", forward.finish());
    seen.note("forward arrived", forward_sink.finish());
    seen.note("status", code(client.wait(DEADLINE)));
}

/// At a fixed rate, with the client stopped for a moment in between.
fn slow_reader(world: &World, seen: &mut Seen) {
    let pipe = fifo(world.path("pipe"));
    let mut client = world
        .ssh(&["-C"], &format!("cat {}; exit 2", pipe.display()))
        .piped();
    let stdout = client.take_stdout();
    let source = Source::start(writer(&pipe), 10, 12 * MIB);
    let mut sink = Sink::start(move || stdout, 10, Gate::open(), Some(6 * MIB));
    sink.progress.reach(2 * MIB);
    client.signal(Signal::STOP);
    sink.progress.stalled(QUIET);
    client.signal(Signal::CONT);
    seen.note("sent", source.finish());
    seen.note("arrived", sink.finish());
    seen.note("status", code(client.wait(DEADLINE)));
}
