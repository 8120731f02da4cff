//! `direct-tcpip`: what the far end answers to every kind of destination, message by message.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener};

use ssmshim::ssh::wire::{WriteExt as _, msg};

use super::{HELLO, open_direct, record_end};
use crate::common::net::{Peer, free_port, serve};
use crate::common::until;
use crate::common::world::World;
use crate::raw::{Heard, PACKET, Raw, WINDOW};
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded sshd says so in other words, or connects.
        impossible_ports,
        odd_hosts,
        odd_originators,
        // Its end of a connection that breaks the protocol has a text of its own.
        malformed,
        // After `eow@openssh.com` it ends its data before it closes.
        requests_on_it,
        // It gives up what it has not connected yet when the client goes; sshd has begun by then.
        closed_before_it_is_answered,
    }
    everywhere: {
        accepted,
        refused,
        unresolved,
        data_and_ends,
        windows,
        many_pipelined,
    }
}

/// Records the answer to an open, and closes what has been accepted.
fn answer(client: &mut Raw, seen: &mut Seen, label: &str) -> Heard {
    let heard = client.next();
    seen.note(label, heard.to_text());
    if let Heard::Confirmed {
        recipient, sender, ..
    } = heard
    {
        client.close(sender);
        client.record_until_close(seen, &format!("{label}, closed"), recipient);
    }
    heard
}

fn accepted(world: &World, seen: &mut Seen) {
    let port = u32::from(serve(Peer::Echo));
    let mut client = Raw::connect(world);
    for (n, host) in (0..).zip(["127.0.0.1", "localhost", "LOCALHOST"]) {
        open_direct(&mut client, n, host, port);
        let heard = answer(&mut client, seen, host);
        assert!(matches!(heard, Heard::Confirmed { .. }), "{heard:?}");
    }
}

fn refused(world: &World, seen: &mut Seen) {
    let port = free_port();
    seen.hide(port, "<closed>");
    let mut client = Raw::connect(world);
    for (n, host) in (0..).zip(["127.0.0.1", "localhost", "::1"]) {
        open_direct(&mut client, n, host, port.into());
        let heard = answer(&mut client, seen, host);
        assert!(matches!(heard, Heard::OpenFailed { .. }), "{heard:?}");
    }
}

/// RFC 6761 §6.4: no resolver finds a name below `invalid`.
fn unresolved(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for (n, host) in (0..).zip(["nowhere.invalid", "no where"]) {
        open_direct(&mut client, n, host, 80);
        let heard = answer(&mut client, seen, host);
        assert!(matches!(heard, Heard::OpenFailed { .. }), "{heard:?}");
    }
    client.record_until_settled(seen, "after");
}

/// Ports that no connection can be made to; the connection lives on.
fn impossible_ports(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for (n, port) in (0..).zip([0, 65_536, 65_536 + 22, i32::MAX as u32, u32::MAX]) {
        open_direct(&mut client, n, "127.0.0.1", port);
        answer(&mut client, seen, &format!("port {port}"));
    }
    client.record_until_settled(seen, "after");
}

/// Whatever the far end's resolver makes of them.
fn odd_hosts(world: &World, seen: &mut Seen) {
    let port = u32::from(serve(Peer::Echo));
    let mut client = Raw::connect(world);
    let long = [b'a'; 3000];
    let hosts: [&[u8]; 14] = [
        b"",
        b" ",
        b"127.0.0.1 ",
        b"127.1",
        b"0x7f.1",
        b"2130706433",
        b"0.0.0.0",
        b"[::1]",
        b"::ffff:127.0.0.1",
        b"::1%nothing",
        b"\xff\xfe",
        "k\u{f6}ln.invalid".as_bytes(),
        b"-oProxyCommand=false",
        &long,
    ];
    for (n, host) in (0..).zip(hosts) {
        open_direct(&mut client, n, host, port);
        answer(&mut client, seen, &format!("host {n}"));
    }
    client.record_until_settled(seen, "after");
}

/// Where the connection comes from is the client's word, and opaque.
fn odd_originators(world: &World, seen: &mut Seen) {
    let port = u32::from(serve(Peer::Echo));
    let mut client = Raw::connect(world);
    let originators: [(&[u8], u32); 6] = [
        (b"", 0),
        (b"::1", 1),
        (b"\xff\xfe", 65_535),
        (b"127.0.0.1", 65_536),
        (b"a name", u32::MAX),
        (&[b'1'; 3000], 7),
    ];
    for (n, (address, originator_port)) in (0..).zip(originators) {
        client.open("direct-tcpip", n, |open| {
            open.put_string("127.0.0.1")
                .put_uint32(port)
                .put_string(address)
                .put_uint32(originator_port);
        });
        answer(&mut client, seen, &format!("originator {n}"));
    }
}

/// Fields that are missing, too many, or hold a NUL: sshd's own verdict, which is the connection's end for some.
fn malformed(world: &World, seen: &mut Seen) {
    fn head(open: &mut Vec<u8>) {
        open.put_string("direct-tcpip")
            .put_uint32(5)
            .put_uint32(WINDOW)
            .put_uint32(PACKET);
    }
    type Fields = fn(&mut Vec<u8>);
    let cases: [(&str, Fields); 5] = [
        ("no fields", |_| {}),
        ("no originator", |open| {
            open.put_string("127.0.0.1").put_uint32(1);
        }),
        ("a field too many", |open| {
            open.put_string("127.0.0.1")
                .put_uint32(1)
                .put_string("127.0.0.1")
                .put_uint32(2)
                .put_byte(0);
        }),
        ("a NUL in the host", |open| {
            open.put_string("127.0.0.1\0.invalid")
                .put_uint32(1)
                .put_string("127.0.0.1")
                .put_uint32(2);
        }),
        ("a host longer than the message", |open| {
            open.put_uint32(4000).put_raw(b"127.0.0.1");
        }),
    ];
    for (label, fields) in cases {
        let mut client = Raw::connect(world);
        client.send(msg::CHANNEL_OPEN, |open| {
            head(open);
            fields(open);
        });
        client.record_until_settled(seen, label);
    }
}

/// A conversation, and each way of ending it, as messages.
fn data_and_ends(world: &World, seen: &mut Seen) {
    let (echo, count) = (serve(Peer::Echo), serve(Peer::CountAfterEof));
    let greet = serve(Peer::Greet);
    let mut client = Raw::connect(world);
    let open = |client: &mut Raw, number, port: u16| {
        open_direct(client, number, "127.0.0.1", port.into());
        match client.next() {
            Heard::Confirmed { sender, .. } => sender,
            other => panic!("not accepted: {other:?}"),
        }
    };
    let channel = open(&mut client, 0, echo);
    client.data(channel, HELLO);
    client.record(seen, "echo", |heard| matches!(heard, Heard::Data { .. }));
    client.eof(channel);
    client.record(seen, "our end", |heard| *heard == Heard::Close(0));
    client.close(channel);

    let channel = open(&mut client, 1, count);
    client.data(channel, &[7; 30_000]);
    client.eof(channel);
    client.record_until_close(seen, "counted after our end", 1);
    client.close(channel);

    let channel = open(&mut client, 2, greet);
    client.record(seen, "their end first", |heard| *heard == Heard::Eof(2));
    client.data(channel, HELLO);
    client.eof(channel);
    client.record_until_close(seen, "then ours", 2);
    client.close(channel);

    // CLOSE without EOF.
    let channel = open(&mut client, 3, echo);
    client.close(channel);
    client.record_until_close(seen, "closed at once", 3);
    client.record_until_settled(seen, "after");
}

/// A client that grants little gets no more than that, and the rest once it grants more.
fn windows(world: &World, seen: &mut Seen) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let port = listener.local_addr().expect("a bound socket").port();
    let peer = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("the far end connects");
        socket.write_all(&[b'x'; 1000]).expect("room for a little");
        socket.shutdown(Shutdown::Write).expect("an open socket");
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let mut client = Raw::connect(world);
    client.send(msg::CHANNEL_OPEN, |open| {
        open.put_string("direct-tcpip")
            .put_uint32(0)
            .put_uint32(10)
            .put_uint32(8)
            .put_string("127.0.0.1")
            .put_uint32(port.into())
            .put_string("127.0.0.1")
            .put_uint32(1);
    });
    let heard = client.next();
    seen.note("opened", heard.to_text());
    let Heard::Confirmed {
        sender: channel, ..
    } = heard
    else {
        panic!("not accepted: {heard:?}");
    };
    let mut all = 0;
    let mut longest = 0;
    for (granted, total) in [(0, 10), (1, 11), (100, 111), (5000, 1000)] {
        if granted > 0 {
            client.send(msg::CHANNEL_WINDOW_ADJUST, |adjust| {
                adjust.put_uint32(channel).put_uint32(granted);
            });
        }
        while all < total {
            match client.next() {
                Heard::Data { bytes, .. } => {
                    all += bytes.len();
                    longest = longest.max(bytes.len());
                }
                other => panic!("{all} of {total}: {other:?}"),
            }
        }
        seen.note(&format!("{total} granted"), all);
    }
    // The maximum packet size is a promise, however the relay cuts.
    seen.note("no packet above the maximum", longest <= 8);
    client.record(seen, "the end", |heard| *heard == Heard::Eof(0));
    client.close(channel);
    client.record_until_close(seen, "closed", 0);
    peer.join().expect("a peer without a complaint");
}

/// Every one is answered, each with its own number; in which order is the kernel's affair.
fn many_pipelined(world: &World, seen: &mut Seen) {
    let (open, closed) = (serve(Peer::Echo), free_port());
    let mut client = Raw::connect(world);
    for number in 0..40_u32 {
        let port = if number % 2 == 0 { open } else { closed };
        client.queue(msg::CHANNEL_OPEN, |message| {
            message
                .put_string("direct-tcpip")
                .put_uint32(1000 + number)
                .put_uint32(WINDOW)
                .put_uint32(PACKET)
                .put_string("127.0.0.1")
                .put_uint32(port.into())
                .put_string("127.0.0.1")
                .put_uint32(number);
        });
    }
    client.flush();
    let mut answers: Vec<_> = (0..40).map(|_| client.next()).collect();
    answers.sort_by_key(|heard| match heard {
        Heard::Confirmed { recipient, .. } | Heard::OpenFailed { recipient, .. } => *recipient,
        other => panic!("no answer to an open: {other:?}"),
    });
    for heard in answers {
        // Which number is free when depends on the order of the answers.
        let text = match heard {
            Heard::Confirmed { recipient, .. } => format!("{recipient} accepted"),
            other => other.to_text(),
        };
        seen.note("answer", text);
    }
    client.record_until_settled(seen, "after");
}

/// A client that does not wait for the answer and leaves.
fn closed_before_it_is_answered(world: &World, seen: &mut Seen) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let port = listener.local_addr().expect("a bound socket").port();
    let mut client = Raw::connect(world);
    // One who leaves before we have a transport for it has asked nobody.
    client.record_until_settled(seen, "before");
    open_direct(&mut client, 0, "127.0.0.1", port.into());
    drop(client);
    listener.set_nonblocking(true).expect("a bound socket");
    let (mut socket, _) = until("the far end connects", || listener.accept().ok());
    socket.set_nonblocking(false).expect("an open socket");
    record_end(seen, "the peer", &mut socket);
}

/// Requests that mean nothing on such a channel.
fn requests_on_it(world: &World, seen: &mut Seen) {
    let port = serve(Peer::Echo);
    let mut client = Raw::connect(world);
    open_direct(&mut client, 0, "127.0.0.1", port.into());
    let Heard::Confirmed {
        sender: channel, ..
    } = client.next()
    else {
        panic!("not accepted");
    };
    for name in ["exec", "nobody@knows.example", "eow@openssh.com"] {
        client.request(channel, name, name != "eow@openssh.com", |request| {
            if name == "exec" {
                request.put_string("echo no");
            }
        });
        client.record_until_settled(seen, name);
    }
    client.close(channel);
    client.record_until_close(seen, "closed", 0);
}
