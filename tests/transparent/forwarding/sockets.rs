//! What peers do to their sockets, behind `-L` and `-R`: half-close, reset, silence, crowds.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::{HELLO, record_end};
use crate::common::net::{Peer, connect, exchange, free_port, serve};
use crate::common::world::{Session, World};
use crate::common::{DEADLINE, until};
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        half_close_by_each_side,
        reset_by_the_connecting_side,
        reset_by_the_listening_side,
        closed_at_once,
        never_written,
        crowd_through_local_forward,
        crowd_through_remote_forward,
        bulk_both_ways_at_once,
        peers_end_with_the_client,
    }
}

/// A forward, and its two ends: where to connect, and who is connected to.
struct Forward {
    _ssh: Session,
    port: u16,
    accepted: Receiver<TcpStream>,
}

impl Forward {
    /// Forwards of both directions.
    fn both(world: &World) -> [(&'static str, Self); 2] {
        ["-L", "-R"].map(|option| (option, Self::new(world, option)))
    }

    fn new(world: &World, option: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let target = listener.local_addr().expect("a bound socket").port();
        let (accept, accepted) = mpsc::channel();
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                socket
                    .set_read_timeout(Some(DEADLINE))
                    .expect("a positive time");
                if accept.send(socket).is_err() {
                    break;
                }
            }
        });
        let port = free_port();
        let forward = format!("127.0.0.1:{port}:127.0.0.1:{target}");
        Self {
            _ssh: world.forwarding(&[option, &forward]),
            port,
            accepted,
        }
    }

    /// A connection through the forward, both ends.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let near = connect(self.port);
        (near, self.accept())
    }

    fn accept(&self) -> TcpStream {
        self.accepted
            .recv_timeout(DEADLINE)
            .expect("the connection arrives")
    }
}

/// Closes with a reset.
fn reset(socket: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).expect("an open socket");
    drop(socket);
}

fn say(mut socket: &TcpStream, text: &[u8]) {
    socket.write_all(text).expect("an open socket");
}

fn hear(mut socket: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    socket.read_exact(&mut bytes).expect("bytes come");
    bytes
}

/// Each side ends its direction first; the other one goes on.
fn half_close_by_each_side(world: &World, seen: &mut Seen) {
    for (option, forward) in Forward::both(world) {
        for first in ["connecting", "listening"] {
            let (near, far) = forward.connect();
            let (mut one, mut other) = if first == "connecting" {
                (near, far)
            } else {
                (far, near)
            };
            say(&one, HELLO);
            one.shutdown(Shutdown::Write).expect("an open socket");
            record_end(seen, &format!("{option} {first} ends"), &mut other);
            say(&other, &[b'x'; 5000]);
            seen.note("still open", hear(&one, 5000).len());
            say(&other, HELLO);
            other.shutdown(Shutdown::Write).expect("an open socket");
            record_end(seen, &format!("{option} the other ends"), &mut one);
        }
    }
}

fn reset_by_the_connecting_side(world: &World, seen: &mut Seen) {
    for (option, forward) in Forward::both(world) {
        let (near, mut far) = forward.connect();
        say(&near, HELLO);
        hear(&far, HELLO.len());
        reset(near);
        record_end(seen, option, &mut far);
        let (near, far) = forward.connect();
        say(&far, HELLO);
        seen.bytes(&format!("{option}: the next"), &hear(&near, HELLO.len()));
    }
}

fn reset_by_the_listening_side(world: &World, seen: &mut Seen) {
    for (option, forward) in Forward::both(world) {
        let (mut near, far) = forward.connect();
        say(&far, HELLO);
        hear(&near, HELLO.len());
        reset(far);
        record_end(seen, option, &mut near);
        let (near, far) = forward.connect();
        say(&near, HELLO);
        seen.bytes(&format!("{option}: the next"), &hear(&far, HELLO.len()));
    }
}

/// Neither side says anything; one of them closes as soon as it can.
fn closed_at_once(world: &World, seen: &mut Seen) {
    for (option, forward) in Forward::both(world) {
        for round in 0..5 {
            drop(connect(forward.port));
            let mut far = forward.accept();
            record_end(seen, &format!("{option} {round} connecting"), &mut far);
            drop(far);
            let (mut near, far) = forward.connect();
            drop(far);
            record_end(seen, &format!("{option} {round} listening"), &mut near);
        }
    }
}

/// Open for long, with nothing to say, while others come and go.
fn never_written(world: &World, seen: &mut Seen) {
    for (option, forward) in Forward::both(world) {
        let silent: Vec<_> = (0..10).map(|_| forward.connect()).collect();
        for _ in 0..10 {
            let (near, mut far) = forward.connect();
            say(&near, HELLO);
            drop(near);
            record_end(seen, option, &mut far);
        }
        for (near, mut far) in silent {
            drop(near);
            record_end(seen, &format!("{option} silent"), &mut far);
        }
    }
}

fn crowd_through_local_forward(world: &World, seen: &mut Seen) {
    crowd(world, seen, "-L");
}

fn crowd_through_remote_forward(world: &World, seen: &mut Seen) {
    crowd(world, seen, "-R");
}

/// Two hundred at once, all open before the first is served; each gets its own bytes back.
fn crowd(world: &World, seen: &mut Seen, option: &str) {
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", serve(Peer::Echo));
    let ssh = world.forwarding(&[option, &forward]);
    let sockets: Vec<_> = (0..200).map(|_| connect(port)).collect();
    for (n, socket) in sockets.iter().enumerate() {
        say(socket, &[n as u8; 4096]);
    }
    let mut right = 0;
    for (n, socket) in sockets.into_iter().enumerate() {
        right += usize::from(hear(&socket, 4096) == [n as u8; 4096]);
        let mut socket = socket;
        socket.shutdown(Shutdown::Write).expect("an open socket");
        let mut rest = Vec::new();
        right += usize::from(socket.read_to_end(&mut rest).is_ok_and(|count| count == 0));
    }
    seen.note("right answers and ends", right);
    assert_eq!(right, 400);
    seen.note("stderr", ssh.stderr());
}

/// Each direction carries more than all windows and buffers hold, at the same time.
fn bulk_both_ways_at_once(world: &World, seen: &mut Seen) {
    const BYTES: usize = 6 << 20;
    for (option, forward) in Forward::both(world) {
        let (near, far) = forward.connect();
        let answers = thread::scope(|scope| {
            let both = [(&near, 1), (&far, 2)].map(|(socket, byte)| {
                scope.spawn(move || {
                    let mut writer = socket.try_clone().expect("a socket clones");
                    let sending = thread::spawn(move || {
                        writer.write_all(&vec![byte; BYTES]).expect("bytes go");
                        writer.shutdown(Shutdown::Write).expect("an open socket");
                    });
                    let mut all = Vec::new();
                    let mut reader = socket;
                    reader.read_to_end(&mut all).expect("bytes come");
                    sending.join().expect("the sender has no complaint");
                    all
                })
            });
            both.map(|thread| thread.join().expect("the reader has no complaint"))
        });
        for (end, all) in ["connecting", "listening"].into_iter().zip(&answers) {
            seen.bytes(&format!("{option} {end}"), all);
        }
    }
}

/// The client is killed: its peers are told, and its listeners are gone, here and there.
fn peers_end_with_the_client(world: &World, seen: &mut Seen) {
    for (option, forward) in Forward::both(world) {
        let (mut near, mut far) = forward.connect();
        say(&near, HELLO);
        hear(&far, HELLO.len());
        let Forward {
            _ssh: ssh, port, ..
        } = forward;
        drop(ssh);
        let (one, name) = match option {
            "-L" => (&mut far, "far"),
            _ => (&mut near, "near"),
        };
        record_end(seen, &format!("{option} {name}"), one);
        until("the listener is gone", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .is_err()
                .then_some(())
        });
        seen.note(&format!("{option} listener"), "gone");
    }
    let echo = serve(Peer::Echo);
    let port = free_port();
    let _ssh = world.forwarding(&["-L", &format!("{port}:127.0.0.1:{echo}")]);
    seen.bytes("another client", &exchange(connect(port), HELLO));
}
