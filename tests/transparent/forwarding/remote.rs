//! `tcpip-forward`: where the far end listens, what it answers, and what it says of each connection.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpStream};

use ssmshim::ssh::messages::channel_open_failure;
use ssmshim::ssh::wire::{Reader, WriteExt as _, msg};

use super::{HELLO, allocated_port, ask_forward, record_end, record_forwarded};
use crate::common::net::{Peer, connect, free_port, listening_at, serve};
use crate::common::until;
use crate::common::world::World;
use crate::raw::{Heard, PACKET, Raw, WINDOW};
use crate::seen::Seen;

const ADDRESSES: [&str; 7] = ["", "*", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"];

crate::differential! {
    compared: {
        // The embedded sshd has one rule (GatewayPorts no), and looks no names up.
        odd_addresses,
        malformed,
        impossible_ports,
    }
    everywhere: {
        addresses,
        port_of_the_far_ends_choice,
        taken,
        the_same_twice,
        cancel_unknown,
        pipelined_with_others,
        without_a_reply,
        several,
        connections,
        refused_by_the_client,
        gone_with_disconnect,
        gone_with_the_connection,
    }
}

mod gateway_ports {
    //! `GatewayPorts clientspecified`: the client's address is meant.

    crate::differential! {
        sshd: "GatewayPorts clientspecified",
        compared: {
            addresses,
            odd_addresses,
            connections,
        }
        everywhere: {}
    }
    use super::{addresses, connections, odd_addresses};
}

mod gateway_ports_yes {
    //! `GatewayPorts yes`: every address is meant, whatever the client says.

    crate::differential! {
        sshd: "GatewayPorts yes",
        compared: { addresses }
        everywhere: {}
    }
    use super::addresses;
}

mod permit_listen {
    //! `PermitListen`: only those ports.

    crate::differential! {
        sshd: "PermitListen localhost:* 127.0.0.1:9",
        compared: { addresses, port_of_the_far_ends_choice }
        everywhere: {}
    }
    use super::{addresses, port_of_the_far_ends_choice};
}

fn listens(seen: &mut Seen, label: &str, port: u16) -> Vec<IpAddr> {
    let addresses = listening_at(port);
    seen.note(label, format!("{addresses:?}"));
    addresses
}

/// Asks for `address` at a free port, and takes it back.
fn ask_and_cancel(client: &mut Raw, seen: &mut Seen, label: &str, address: impl AsRef<[u8]>) {
    let port = free_port();
    seen.hide(port, "<remote>");
    let address = address.as_ref();
    let reply = ask_forward(client, "tcpip-forward", address, port.into());
    seen.note(&format!("{label}: reply"), reply.to_text());
    listens(seen, &format!("{label}: listens"), port);
    let reply = ask_forward(client, "cancel-tcpip-forward", address, port.into());
    seen.note(&format!("{label}: cancelled"), reply.to_text());
    let left = listens(seen, &format!("{label}: left"), port);
    assert!(left.is_empty(), "{label}: {left:?}");
}

fn addresses(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for address in ADDRESSES {
        ask_and_cancel(&mut client, seen, &format!("{address:?}"), address);
    }
}

fn odd_addresses(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let addresses: [&[u8]; 8] = [
        b"192.0.2.1",
        b"nowhere.invalid",
        b"\xff\xfe",
        b"127.0.0.2",
        b"LOCALHOST",
        b"[::1]",
        b" ",
        &[b'a'; 3000],
    ];
    for (n, address) in addresses.into_iter().enumerate() {
        ask_and_cancel(&mut client, seen, &format!("address {n}"), address);
    }
}

/// Port 0: the reply has the port, and it is the port that is cancelled.
fn port_of_the_far_ends_choice(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for address in ["", "localhost", "127.0.0.1"] {
        let reply = ask_forward(&mut client, "tcpip-forward", address, 0);
        let Heard::GlobalSuccess(data) = &reply else {
            seen.note(address, reply.to_text());
            continue;
        };
        seen.note(&format!("{address}: bytes of the reply"), data.len());
        let port = Reader::new(data).u32().expect("a port in the reply");
        let bound = u16::try_from(port).expect("a port has 16 bits");
        let heard_at = listens(seen, &format!("{address}: listens"), bound);
        assert!(!heard_at.is_empty(), "nobody listens on {bound}");
        for port in [0, port, port] {
            let reply = ask_forward(&mut client, "cancel-tcpip-forward", address, port);
            seen.note(&format!("{address}: cancelled"), reply.to_text());
        }
        // Another process may have been given a port that is free again.
        let is_left = listening_at(bound) == heard_at;
        seen.note(&format!("{address}: left"), is_left);
    }
}

/// A port that somebody else has.
fn taken(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let port = serve(Peer::Echo);
    for address in ["127.0.0.1", "127.0.0.1"] {
        let reply = ask_forward(&mut client, "tcpip-forward", address, port.into());
        seen.note(address, reply.to_text());
        assert_eq!(reply, Heard::GlobalFailure);
    }
    let reply = ask_forward(
        &mut client,
        "cancel-tcpip-forward",
        "127.0.0.1",
        port.into(),
    );
    seen.note("cancelled", reply.to_text());
}

fn the_same_twice(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let port = u32::from(free_port());
    for (label, name) in [
        ("first", "tcpip-forward"),
        ("again", "tcpip-forward"),
        ("cancel", "cancel-tcpip-forward"),
        ("cancel again", "cancel-tcpip-forward"),
        ("once more", "tcpip-forward"),
    ] {
        let reply = ask_forward(&mut client, name, "127.0.0.1", port);
        seen.note(label, reply.to_text());
    }
    // The other client of the same user comes too late.
    let mut other = Raw::connect(world);
    let reply = ask_forward(&mut other, "tcpip-forward", "127.0.0.1", port);
    seen.note("somebody else", reply.to_text());
    let reply = ask_forward(&mut other, "cancel-tcpip-forward", "127.0.0.1", port);
    seen.note("somebody else cancels", reply.to_text());
    let port = u16::try_from(port).expect("a port");
    listens(seen, "still listens", port);
}

fn cancel_unknown(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let port = free_port();
    for address in ADDRESSES {
        let reply = ask_forward(&mut client, "cancel-tcpip-forward", address, port.into());
        seen.note(address, reply.to_text());
    }
    // The address counts, not only the port.
    let first = ask_forward(&mut client, "tcpip-forward", "localhost", port.into());
    assert!(matches!(first, Heard::GlobalSuccess(_)), "{first:?}");
    let reply = ask_forward(
        &mut client,
        "cancel-tcpip-forward",
        "127.0.0.1",
        port.into(),
    );
    seen.note("another address", reply.to_text());
    listens(seen, "listens", port);
}

fn impossible_ports(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for port in [65_536, 65_536 + 9, i32::MAX as u32, 1 << 31, u32::MAX] {
        let reply = ask_forward(&mut client, "tcpip-forward", "127.0.0.1", port);
        let text = match &reply {
            // 16 bits of it are 0: then the port is the kernel's choice.
            Heard::GlobalSuccess(data) => format!("success with {} bytes", data.len()),
            other => other.to_text(),
        };
        seen.note(&port.to_string(), text);
    }
    client.record_until_settled(seen, "after");
}

fn malformed(world: &World, seen: &mut Seen) {
    type Fields = fn(&mut Vec<u8>);
    let cases: [(&str, Fields); 4] = [
        ("no fields", |_| {}),
        ("no port", |fields| {
            fields.put_string("127.0.0.1");
        }),
        ("a NUL in the address", |fields| {
            fields.put_string("127.0\0.0.1").put_uint32(0);
        }),
        ("a field too many", |fields| {
            fields.put_string("192.0.2.1").put_uint32(1).put_byte(0);
        }),
    ];
    for (label, fields) in cases {
        for name in ["tcpip-forward", "cancel-tcpip-forward"] {
            let mut client = Raw::connect(world);
            client.global(name, true, fields);
            client.record_until_settled(seen, &format!("{name}: {label}"));
        }
    }
}

/// Global replies carry no name: their order is their meaning.
fn pipelined_with_others(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let taken = serve(Peer::Echo);
    let ports: Vec<u16> = (0..10).map(|_| free_port()).collect();
    let session = client.session(0);
    let mut replies = 0;
    let mut ask = |client: &mut Raw, name: &str, fields: &dyn Fn(&mut Vec<u8>)| {
        replies += 1;
        client.queue(msg::GLOBAL_REQUEST, |request| {
            request.put_string(name).put_bool(true);
            fields(request);
        });
    };
    for port in &ports {
        ask(&mut client, "tcpip-forward", &|fields| {
            fields.put_string("127.0.0.1").put_uint32((*port).into());
        });
        ask(&mut client, "keepalive@openssh.com", &|_| {});
        ask(&mut client, "tcpip-forward", &|fields| {
            fields.put_string("127.0.0.1").put_uint32(taken.into());
        });
        client.queue(msg::CHANNEL_REQUEST, |request| {
            request
                .put_uint32(session)
                .put_string("nobody@knows.example")
                .put_bool(true);
        });
        ask(&mut client, "cancel-tcpip-forward", &|fields| {
            fields.put_string("127.0.0.1").put_uint32((*port).into());
        });
        ask(&mut client, "nobody@knows.example", &|fields| {
            fields.put_string("text");
        });
    }
    client.flush();
    for n in 0..replies + ports.len() {
        let heard = client.next();
        seen.note(&format!("reply {n}"), heard.to_text());
    }
    client.record_until_settled(seen, "after");
}

/// No reply is asked for, and none comes; it is done all the same.
fn without_a_reply(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let (port, taken) = (free_port(), serve(Peer::Echo));
    for (label, name, port) in [
        ("forward", "tcpip-forward", port),
        ("taken", "tcpip-forward", taken),
        ("cancel", "cancel-tcpip-forward", port),
        ("unknown", "nobody@knows.example", port),
    ] {
        client.global(name, false, |fields| {
            fields.put_string("127.0.0.1").put_uint32(port.into());
        });
        client.record_until_settled(seen, label);
        if label != "taken" {
            listens(seen, &format!("{label}: listens"), port);
        }
    }
}

/// Several forwards of one connection do not get in each other's way.
fn several(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let mut ports: Vec<u16> = (0..12)
        .map(|_| allocated_port(&mut client, "127.0.0.1"))
        .collect();
    for (n, port) in (0..).zip(&ports) {
        seen.hide(port, &format!("<remote {n}>"));
    }
    let cancelled = ports.remove(5);
    let reply = ask_forward(
        &mut client,
        "cancel-tcpip-forward",
        "127.0.0.1",
        cancelled.into(),
    );
    seen.note("one cancelled", reply.to_text());
    seen.note("it is gone", listening_at(cancelled).is_empty());
    for port in ports.iter().rev() {
        let socket = connect(*port);
        let peer = socket.local_addr().expect("connected").port();
        let heard = client.next();
        record_forwarded(seen, "one of several", &heard, peer);
    }
}

/// A connection to the port: what the client is told, and bytes both ways.
fn connections(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for (number, address) in (70..).zip(["", "localhost", "127.0.0.1", "0.0.0.0", "::1"]) {
        let port = allocated_port(&mut client, address);
        seen.hide(port, "<remote>");
        let host = if address == "::1" { "::1" } else { "127.0.0.1" };
        let mut socket = TcpStream::connect((host, port)).expect("the far end listens");
        let peer = socket.local_addr().expect("connected").port();
        let heard = client.next();
        let sender = record_forwarded(seen, address, &heard, peer);
        client.send(msg::CHANNEL_OPEN_CONFIRMATION, |confirm| {
            confirm
                .put_uint32(sender)
                .put_uint32(number)
                .put_uint32(WINDOW)
                .put_uint32(PACKET);
        });
        socket.write_all(HELLO).expect("the far end reads");
        client.record(seen, "to us", |heard| matches!(heard, Heard::Data { .. }));
        client.data(sender, HELLO);
        let mut back = vec![0; HELLO.len()];
        socket.read_exact(&mut back).expect("our bytes come");
        seen.bytes("to the peer", &back);
        socket.shutdown(Shutdown::Write).expect("an open socket");
        client.record(seen, "its end", |heard| matches!(heard, Heard::Eof(_)));
        client.data(sender, b"and after its end");
        client.eof(sender);
        record_end(seen, "our end", &mut socket);
        client.record_until_close(seen, "closed", number);
        client.close(sender);
        let reply = ask_forward(&mut client, "cancel-tcpip-forward", address, port.into());
        seen.note("cancelled", reply.to_text());
    }
}

/// A client that does not take a connection, for every reason: what becomes of the peer.
fn refused_by_the_client(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let port = allocated_port(&mut client, "127.0.0.1");
    seen.hide(port, "<remote>");
    for reason in [1, 2, 3, 4, 0, 99, u32::MAX] {
        let mut socket = connect(port);
        let peer = socket.local_addr().expect("connected").port();
        let heard = client.next();
        let sender = record_forwarded(seen, "offered", &heard, peer);
        let refusal = channel_open_failure(sender, reason, "not\ntoday \u{fc}");
        client.send(msg::CHANNEL_OPEN_FAILURE, |fields| {
            fields.extend_from_slice(&refusal[1..]);
        });
        record_end(seen, &format!("refused for {reason}"), &mut socket);
    }
    client.record_until_settled(seen, "after");
}

fn gone_with_disconnect(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let port = allocated_port(&mut client, "127.0.0.1");
    let mut socket = connect(port);
    let heard = client.next();
    assert!(matches!(heard, Heard::Open { .. }), "{heard:?}");
    client.send(msg::DISCONNECT, |message| {
        message.put_uint32(11).put_string("bye").put_string("");
    });
    record_end(seen, "the peer", &mut socket);
    until("the listener is gone", || {
        listening_at(port).is_empty().then_some(())
    });
    seen.note("listeners", "gone");
}

fn gone_with_the_connection(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let port = allocated_port(&mut client, "127.0.0.1");
    let mut socket = connect(port);
    let heard = client.next();
    assert!(matches!(heard, Heard::Open { .. }), "{heard:?}");
    drop(client);
    record_end(seen, "the peer", &mut socket);
    until("the listener is gone", || {
        listening_at(port).is_empty().then_some(())
    });
    seen.note("listeners", "gone");
}
