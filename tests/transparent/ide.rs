//! What remote development does: a server started by a script on standard input, streams to it through the one
//! connection, programs beside it, and connections again and again.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStdin, ChildStdout};

use rustix::process::Signal;

use crate::common::files::{sha256_of, write_file};
use crate::common::net::{connect, connect_unix, exchange, free_port, socks5};
use crate::common::process::{Run, Running, code};
use crate::common::world::World;
use crate::common::{DEADLINE, have, until};
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        server_through_socks,
        server_at_a_socket,
        server_beside_executions,
        end_of_input_ends_the_server,
        killed_client_ends_the_server,
        uploaded_program_with_frames,
        frames_in_parallel,
        streams_in_parallel,
        proxy_to_the_server,
        connections_again_and_again,
    }
}

/// A small server: HTTP answers, and after `UPGRADE` a stream that gives back all it gets. A process each connection.
const SERVER: &str = r#"
use strict; use IO::Socket::INET; use IO::Socket::UNIX;
$SIG{CHLD} = 'IGNORE';
my $at = shift // '';
my $listener = $at ne ''
    ? IO::Socket::UNIX->new(Local => $at, Listen => 50)
    : IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 50);
die "no listener: $!" unless $listener;
$| = 1;
print 'listening=', ($at ne '' ? 'socket' : $listener->sockport), "\n";
while (my $peer = $listener->accept) {
    next if fork;
    close $listener;
    my $request = <$peer> // '';
    while (my $line = <$peer>) { last if $line =~ /^\r?$/ }
    $peer->autoflush(1);
    if ($request =~ /^UPGRADE/) {
        print $peer "HTTP/1.1 101 Switching\r\n\r\n";
        while (sysread $peer, my $bytes, 65536) {
            my $at = 0;
            while ($at < length $bytes) { $at += syswrite($peer, $bytes, length($bytes) - $at, $at) // exit }
        }
    } elsif ($request =~ m{^GET /bytes/(\d+)}) {
        print $peer "HTTP/1.1 200 OK\r\nContent-Length: $1\r\n\r\n", 'x' x $1;
    } else {
        print $peer "HTTP/1.1 404 Not Found\r\n\r\n$request";
    }
    exit;
}
"#;

/// Takes frames of a length and bytes on its input, and answers each with its bytes the other way round and its number.
const FRAMES: &str = r#"#!/usr/bin/perl
use strict;
binmode STDIN; binmode STDOUT; $| = 1;
my $number = 0;
while (read(STDIN, my $length, 4) == 4) {
    read STDIN, my $bytes, unpack 'N', $length;
    my $answer = reverse($bytes) . pack 'N', $number++;
    print pack('N', length $answer), $answer;
}
exit 7;
"#;

/// An ssh with a shell on its standard input, in which the server runs.
struct Remote {
    ssh: Running,
    shell: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The server's port; none when it listens at a socket.
    port: Option<u16>,
}

impl Remote {
    /// `ssh -T OPTIONS… HOST bash`, and the script that makes the server's program and starts it.
    fn start(world: &World, options: &[&str], at: &str) -> Self {
        let mut ssh = world.ssh(&[&["-T"], options].concat(), "bash").piped();
        let (mut shell, stdout) = (ssh.take_stdin(), ssh.take_stdout());
        let script = format!(
            "set -e\ndirectory={}\ncat > $directory/server.pl <<'END OF SERVER'\n{SERVER}\nEND OF SERVER\n\
             mkfifo $directory/said\nperl $directory/server.pl {at} > $directory/said 2>$directory/log &\nserver=$!\n\
             trap 'kill $server' EXIT\nread -r line < $directory/said\necho \"$line\"\n",
            world.text("")
        );
        shell.write_all(script.as_bytes()).expect("the shell reads");
        let mut remote = Self {
            ssh,
            shell,
            output: BufReader::new(stdout),
            port: None,
        };
        let line = remote.line();
        let listening = line.strip_prefix("listening=");
        remote.port = listening
            .unwrap_or_else(|| panic!("{line:?}; {}", remote.ssh.stderr()))
            .parse()
            .ok();
        remote
    }

    fn port(&self) -> u16 {
        self.port.expect("it listens at a port")
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the shell writes");
        line.trim_end().to_owned()
    }

    /// Has the shell run one more line, and returns its answer of one line.
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.shell, "{line}").expect("the shell reads");
        self.line()
    }
}

fn get(mut socket: impl crate::common::net::Socket, path: &str) -> Vec<u8> {
    write!(socket, "GET {path} HTTP/1.1\r\nHost: server\r\n\r\n").expect("the server reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("the server answers");
    answer
}

/// Asks for a stream of bytes both ways.
fn upgrade(mut socket: impl Read + Write) -> impl Read + Write {
    socket
        .write_all(b"UPGRADE / HTTP/1.1\r\n\r\n")
        .expect("the server reads");
    let mut answer = [0; 26];
    socket.read_exact(&mut answer).expect("the server answers");
    assert_eq!(&answer, b"HTTP/1.1 101 Switching\r\n\r\n");
    socket
}

/// Many small messages to and fro, and the hash of all that came.
fn converse(seen: &mut Seen, label: &str, stream: &mut (impl Read + Write), rounds: usize) {
    let mut all = Vec::new();
    for round in 0..rounds {
        let message = format!("{round} {}", "m".repeat(round * 37 % 500));
        stream
            .write_all(message.as_bytes())
            .expect("the server reads");
        let mut echo = vec![0; message.len()];
        stream.read_exact(&mut echo).expect("the server answers");
        all.extend_from_slice(&echo);
    }
    seen.note(label, sha256_of(&all));
}

fn server_through_socks(world: &World, seen: &mut Seen) {
    let proxy = free_port();
    let mut remote = Remote::start(world, &["-D", &format!("127.0.0.1:{proxy}")], "");
    let port = remote.port();
    let mut stream = upgrade(socks5(proxy, "127.0.0.1", port));
    converse(seen, "stream", &mut stream, 300);
    for path in ["/none", "/bytes/0", "/bytes/3000000"] {
        seen.bytes(path, &get(socks5(proxy, "localhost", port), path));
    }
    // The shell still listens, and so does the stream from before.
    seen.note("shell", remote.ask("echo still here; cd /; true"));
    seen.note("directory", remote.ask("pwd"));
    converse(seen, "stream later", &mut stream, 300);
    drop(stream);
    drop(remote.shell);
    seen.note("status", code(remote.ssh.wait(DEADLINE)));
    seen.note("stderr", remote.ssh.stderr());
}

fn server_at_a_socket(world: &World, seen: &mut Seen) {
    let (near, far) = (world.text("near.sock"), world.text("far.sock"));
    let mut remote = Remote::start(world, &["-L", &format!("{near}:{far}")], &far);
    let near = world.path("near.sock");
    let mut stream = upgrade(connect_unix(&near));
    converse(seen, "stream", &mut stream, 300);
    for path in ["/none", "/bytes/3000000"] {
        seen.bytes(path, &get(connect_unix(&near), path));
    }
    converse(seen, "stream later", &mut stream, 100);
    seen.note("shell", remote.ask("echo still here"));
    // A client stays as long as a forwarded connection does.
    drop(stream);
    drop(remote.shell);
    seen.note("status", code(remote.ssh.wait(DEADLINE)));
}

/// On connections of their own, and on the server's.
fn server_beside_executions(world: &World, seen: &mut Seen) {
    let (proxy, socket) = (free_port(), world.text("control"));
    let dynamic = format!("127.0.0.1:{proxy}");
    let remote = Remote::start(world, &["-M", "-S", &socket, "-D", &dynamic], "");
    let mut stream = upgrade(socks5(proxy, "127.0.0.1", remote.port()));
    for round in 0..5 {
        converse(seen, "stream", &mut stream, 50);
        let command = format!("cat; echo {round} >&2; exit {round}");
        let own = world.ssh(&[], &command).stdin("of its own");
        seen.run(&format!("own {round}"), own);
        let shared = world.ssh(&["-S", &socket], &command).stdin("shared");
        seen.run(&format!("shared {round}"), shared);
    }
    let answer = exchange(
        socks5(proxy, "127.0.0.1", remote.port()),
        b"nonsense\r\n\r\n",
    );
    seen.bytes("nonsense", &answer);
    seen.run("exit", world.control(&socket, "exit", &[]));
    drop(remote.shell);
    let _status = { remote.ssh }.wait(DEADLINE);
}

/// Waits until nobody listens at `port`, for which there is no event at this end.
fn gone(port: u16) -> bool {
    let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    until("nobody listens", || (!listens()).then_some(true))
}

fn end_of_input_ends_the_server(world: &World, seen: &mut Seen) {
    let mut remote = Remote::start(world, &[], "");
    let port = remote.port();
    drop(connect(port));
    writeln!(remote.shell, "exit 5").expect("the shell reads");
    seen.note("status", code(remote.ssh.wait(DEADLINE)));
    seen.note("server is gone", gone(port));
}

fn killed_client_ends_the_server(world: &World, seen: &mut Seen) {
    for signal in [Signal::KILL, Signal::TERM, Signal::HUP] {
        let _old = fs::remove_file(world.path("said"));
        let mut remote = Remote::start(world, &[], "");
        let port = remote.port();
        drop(connect(port));
        remote.ssh.signal(signal);
        seen.note(&format!("{signal:?}"), code(remote.ssh.wait(DEADLINE)));
        seen.note("server is gone", gone(port));
    }
}

/// Uploads the program as a file of no mode to speak of, and makes it one to run.
fn upload(world: &World, seen: &mut Seen) -> String {
    fs::write(world.path("frames.pl"), FRAMES).expect("our own directory");
    let program = world.text("bin/frames");
    let script = format!(
        "mkdir {0}/bin\nput {0}/frames.pl {program}\nchmod 755 {program}\n",
        world.path("").display()
    );
    if have("sftp") {
        seen.run("upload", world.sftp(&script));
    }
    seen.file("program", &world.path("bin/frames"));
    program
}

/// Sends frames of odd sizes and reads the answer to each; returns the hash of both.
fn frames(mut input: impl Write, mut output: impl Read, count: usize, seed: usize) -> String {
    let mut all = Vec::new();
    for number in 0..count {
        let length = (number * 131 + seed) % 700;
        let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
        let mut frame = u32::try_from(length).expect("short").to_be_bytes().to_vec();
        frame.extend_from_slice(&bytes);
        input.write_all(&frame).expect("the program reads");
        let mut answer = vec![0; length + 8];
        output.read_exact(&mut answer).expect("the program answers");
        all.extend_from_slice(&frame);
        all.extend_from_slice(&answer);
    }
    sha256_of(&all)
}

fn uploaded_program_with_frames(world: &World, seen: &mut Seen) {
    let program = upload(world, seen);
    let mut client = world.ssh(&["-T"], &program).piped();
    let (stdin, stdout) = (client.take_stdin(), client.take_stdout());
    seen.note("conversation", frames(stdin, stdout, 3000, 1));
    seen.note("status", code(client.wait(DEADLINE)));
}

fn frames_in_parallel(world: &World, seen: &mut Seen) {
    let program = upload(world, seen);
    let socket = world.text("control");
    let _master = world.master(&socket);
    let clients: Vec<_> = (0..10)
        .map(|number| {
            let mut client = world.ssh(&["-S", &socket, "-T"], &program).piped();
            std::thread::spawn(move || {
                let (stdin, stdout) = (client.take_stdin(), client.take_stdout());
                let hash = frames(stdin, stdout, 300, number);
                (hash, code(client.wait(DEADLINE)))
            })
        })
        .collect();
    for client in clients {
        let (hash, status) = client.join().expect("no panic");
        seen.note("conversation", hash);
        seen.note("status", status);
    }
}

fn streams_in_parallel(world: &World, seen: &mut Seen) {
    let proxy = free_port();
    let remote = Remote::start(world, &["-D", &format!("127.0.0.1:{proxy}")], "");
    let port = remote.port();
    let streams: Vec<_> = (0..30)
        .map(|number| {
            std::thread::spawn(move || {
                let path = format!("/bytes/{}", number * 10_000);
                let answer = get(socks5(proxy, "127.0.0.1", port), &path);
                let mut stream = upgrade(socks5(proxy, "127.0.0.1", port));
                let message = vec![u8::try_from(number).expect("small"); 100_000];
                stream.write_all(&message).expect("the server reads");
                let mut echo = vec![0; message.len()];
                stream.read_exact(&mut echo).expect("the server answers");
                (sha256_of(&answer), sha256_of(&echo))
            })
        })
        .collect();
    for stream in streams {
        let (answer, echo) = stream.join().expect("no panic");
        seen.note("answer", answer);
        seen.note("echo", echo);
    }
}

/// `-W` for a request, and as the way to a second ssh, which logs in at the same place.
fn proxy_to_the_server(world: &World, seen: &mut Seen) {
    let remote = Remote::start(world, &[], "");
    let to = format!("127.0.0.1:{}", remote.port());
    let mut client = Run::new("ssh")
        .args(["-W", &to])
        .args(world.target.options("-p"))
        .arg(world.target.host())
        .piped();
    let (mut stdin, mut stdout) = (client.take_stdin(), client.take_stdout());
    stdin
        .write_all(b"GET /bytes/500000 HTTP/1.1\r\n\r\n")
        .expect("the client reads");
    let mut answer = Vec::new();
    stdout.read_to_end(&mut answer).expect("the server answers");
    seen.bytes("answer", &answer);
    drop(stdin);
    seen.note("status", code(client.wait(DEADLINE)));

    let sshd = world.target.port;
    let proxy = format!(
        "ProxyCommand={} -W 127.0.0.1:{sshd} {}",
        world.ssh_command(),
        world.target.host()
    );
    for status in [0, 6] {
        let command = format!("cat | sha256sum; exit {status}");
        let inner = world
            .ssh(&["-o", &proxy], &command)
            .stdin(vec![b'x'; 1_000_000]);
        seen.run(&format!("second ssh {status}"), inner);
    }
    let nowhere = Run::new("ssh")
        .args(["-W", "127.0.0.1:1"])
        .args(world.target.options("-p"))
        .arg(world.target.host());
    seen.run("nowhere", nowhere);
}

fn connections_again_and_again(world: &World, seen: &mut Seen) {
    write_file(&world.path("file"), 100_000, 1);
    for round in 0..10 {
        let command = format!("sha256sum < {}; exit {round}", world.text("file"));
        seen.run(&format!("round {round}"), world.ssh(&["-T"], &command));
        let socket = world.text("control");
        let master = world.master(&socket);
        let shared = world.ssh(&["-S", &socket], "cat").stdin(format!("{round}"));
        seen.run(&format!("shared {round}"), shared);
        drop(master);
        let _socket = fs::remove_file(&socket);
    }
}
