//! Key exchanges in the middle of everything, on both hops at once.

use std::thread;

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::net::{Peer, connect, exchange, free_port, serve};
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    sshd: "RekeyLimit 1M",
    compared: {
        bulk_both_ways,
        commands_beside_a_transfer,
        forwards,
        keepalives,
        requests_in_between,
    }
    everywhere: {}
}

mod by_time {
    //! sshd exchanges keys every second, also on spare transports.

    use super::quiet;
    crate::differential! {
        sshd: "RekeyLimit default 1s",
        compared: { quiet }
        everywhere: {}
    }
}

const LIMIT: [&str; 2] = ["-o", "RekeyLimit=1M"];

/// Bytes of each direction: a dozen key exchanges.
const BULK: usize = 12 << 20;

fn noise(bytes: usize) -> Vec<u8> {
    let pattern = crate::common::flow::Pattern::new(3);
    let chunks = (0..).flat_map(|index| pattern.chunk(index));
    chunks.take(bytes).collect()
}

fn bulk_both_ways(world: &World, seen: &mut Seen) {
    for cipher in [
        "aes128-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
        "aes256-ctr",
    ] {
        let options = [&LIMIT[..], &["-c", cipher]].concat();
        let run = world.ssh(&options, "tee /dev/stderr | sha256sum; exit 5");
        let output = run.stdin(noise(BULK / 3)).output();
        seen.note("status", output.code);
        seen.bytes("stdout", &output.stdout);
        seen.note("bytes of stderr", output.stderr.len());
        seen.run(
            "echo",
            world.ssh(&options, "cat; exit 6").stdin(noise(BULK / 3)),
        );
    }
}

/// Sessions of the same connection, beside a transfer in each direction.
fn commands_beside_a_transfer(world: &World, seen: &mut Seen) {
    let socket = world.text("control");
    let options = [&LIMIT[..], &["-M", "-S", &socket]].concat();
    let _master = world.forwarding(&options);
    let echoed = thread::scope(|scope| {
        let run = world.ssh(&["-S", &socket], "cat; exit 6");
        let bulk = scope.spawn(move || run.stdin(noise(BULK)).output());
        for n in 0..12 {
            let command = format!("cat; echo err >&2; exit {n}");
            let run = world.ssh(&["-S", &socket], &command);
            seen.run("beside", run.stdin(format!("input {n}")));
        }
        bulk.join().expect("the transfer has no complaint")
    });
    seen.output("bulk", &echoed);
}

fn forwards(world: &World, seen: &mut Seen) {
    let (near, far) = (free_port(), free_port());
    let count = serve(Peer::CountAfterEof);
    let forwards = [
        "-L",
        &format!("{near}:127.0.0.1:{count}"),
        "-R",
        &format!("127.0.0.1:{far}:127.0.0.1:{count}"),
    ];
    let _ssh = world.forwarding(&[&LIMIT[..], &forwards].concat());
    let bytes = noise(BULK / 2);
    let answers = thread::scope(|scope| {
        let bytes = &bytes;
        let both = [near, far].map(|port| scope.spawn(move || exchange(connect(port), bytes)));
        both.map(|thread| thread.join().expect("a peer without a complaint"))
    });
    for answer in answers {
        seen.bytes("counted", &answer);
    }
}

/// A client that asks whether the server is alive, which it is, in the middle of key exchanges.
fn keepalives(world: &World, seen: &mut Seen) {
    let options = [
        &LIMIT[..],
        &["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=3"],
    ];
    let command = "for n in 1 2 3 4 5 6; do head -c 2000000 /dev/zero; sleep 0.5; done; exit 3";
    seen.run("alive", world.ssh(&options.concat(), command));
}

/// Requests sent without waiting, before, within and after key exchanges: every reply comes, in order.
fn requests_in_between(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(0);
    client.request(channel, "exec", false, |request| {
        request.put_string("exec cat > /dev/null");
    });
    // A session of sshd has no window until there is a command.
    let mut window = 0_usize;
    for round in 0..100_u32 {
        for n in 0..5 {
            client.queue(msg::GLOBAL_REQUEST, |request| {
                request
                    .put_string("keepalive@openssh.com")
                    .put_bool(n != 0)
                    .put_raw(&[0; 2000]);
            });
            client.queue(msg::CHANNEL_REQUEST, |request| {
                request
                    .put_uint32(channel)
                    .put_string("nobody@knows.example")
                    .put_bool(true)
                    .put_raw(&[0; 2000]);
            });
        }
        let data = vec![7; window.min(30_000)];
        window -= data.len();
        client.data(channel, &data);
        let (mut global, mut local) = (0, 0);
        while (global, local) != (4, 5) || window < 30_000 {
            match client.next_of_all() {
                Heard::GlobalFailure => global += 1,
                Heard::Failure(0) => local += 1,
                Heard::Adjust { bytes, .. } => window += bytes as usize,
                Heard::Global { .. } => {}
                other => panic!("round {round}: {other:?}"),
            }
        }
    }
    client.eof(channel);
    client.record_until_close(seen, "the end", 0);
}

/// Nothing is said for seconds but keys are exchanged.
fn quiet(world: &World, seen: &mut Seen) {
    let options = ["-o", "RekeyLimit=1G 1s"];
    let command = "for n in 1 2 3; do sleep 1.2; echo $n; done; exit 3";
    seen.run("on both hops", world.ssh(&options, command));
    seen.run("on the far one", world.ssh(&[], command));
    seen.run("afterwards", world.ssh(&[], "echo fine"));
}
