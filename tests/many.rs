//! Many at once: connections, forwarded connections, and nothing left behind afterwards.

mod common;

use std::io::{Read, Write};
use std::thread;

use common::flow::{Gate, MIB, Sink, Source};
use common::net::{Peer, connect, free_port, serve};
use common::world::World;

cases! {
    twenty_connections_each_moving_bytes,
    two_hundred_forwarded_connections,
    connections_one_after_another_leave_nothing,
}

/// Bytes each of the twenty connections moves both ways.
fn size() -> u64 {
    if std::env::var_os("SSMSHIM_FULL").is_some() {
        16 * MIB
    } else {
        3 * MIB
    }
}

fn twenty_connections_each_moving_bytes(world: &World) {
    thread::scope(|scope| {
        for seed in 0..20 {
            let mut client = world.ssh(&[], "cat; exit 9").piped();
            scope.spawn(move || {
                let (stdin, stdout) = (client.take_stdin(), client.take_stdout());
                let source = Source::start(move || stdin, seed, size());
                let sink = Sink::start(move || stdout, seed, Gate::open(), None);
                let (sent, got) = (source.try_finish(), sink.finish());
                assert!(
                    sent.is_ok() && got == size(),
                    "{sent:?} sent, {got} back: {}",
                    client.stderr()
                );
                let status = client.wait(common::DEADLINE);
                assert_eq!(status.code(), Some(9), "{}", client.stderr());
            });
        }
    });
}

fn two_hundred_forwarded_connections(world: &World) {
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", serve(Peer::Echo));
    let _ssh = world.forwarding(&["-L", &forward]);
    let mut sockets: Vec<_> = (0..200).map(|_| connect(port)).collect();
    for round in 0..3_u8 {
        // All are open and all have bytes under way before the first is read.
        for (n, socket) in sockets.iter_mut().enumerate() {
            socket
                .write_all(&[round ^ n as u8; 4096])
                .expect("the forward takes bytes");
        }
        for (n, socket) in sockets.iter_mut().enumerate() {
            let mut answer = [0; 4096];
            socket.read_exact(&mut answer).expect("the echo comes back");
            assert!(
                answer == [round ^ n as u8; 4096],
                "connection {n} got another's bytes"
            );
        }
    }
}

/// Descriptors and threads after many short connections are those after a few.
fn connections_one_after_another_leave_nothing(world: &World) {
    let connect_some = |count| {
        for n in 0..count {
            assert_eq!(world.ssh(&[], &format!("exit {n}")).output().code, n);
        }
    };
    connect_some(5);
    let before = world
        .daemon
        .as_ref()
        .map(|daemon| (daemon.descriptors(), daemon.threads()));
    connect_some(40);
    if let (Some((descriptors, threads)), Some(daemon)) = (before, &world.daemon) {
        let now = (daemon.descriptors(), daemon.threads());
        assert!(
            now.0 <= descriptors + 8,
            "descriptors: {descriptors} before, {} after",
            now.0
        );
        assert!(
            now.1 <= threads + 8,
            "threads: {threads} before, {} after",
            now.1
        );
    }
}
