//! Forwards of TCP ports and Unix sockets, both ways.

mod direct;
mod permits;
mod remote;
mod sockets;
mod streamlocal;
mod tools;

use std::io::Read;

use ssmshim::ssh::wire::{Reader, WriteExt as _};

use crate::raw::{Heard, Raw};
use crate::seen::Seen;

/// What a forwarded connection says to show that it works.
const HELLO: &[u8] = b"hello through the forward\n";

/// Asks for a connection from the far end to `host:port`.
fn open_direct(client: &mut Raw, sender: u32, host: impl AsRef<[u8]>, port: u32) {
    client.open("direct-tcpip", sender, |open| {
        open.put_string(host)
            .put_uint32(port)
            .put_string("127.0.0.1")
            .put_uint32(40_000);
    });
}

/// Asks for a connection from the far end to the Unix socket at `path`.
fn open_streamlocal(client: &mut Raw, sender: u32, path: impl AsRef<[u8]>) {
    client.open("direct-streamlocal@openssh.com", sender, |open| {
        open.put_string(path).put_string("").put_uint32(0);
    });
}

/// `tcpip-forward` or its `cancel-`, with a reply.
fn ask_forward(client: &mut Raw, name: &str, address: impl AsRef<[u8]>, port: u32) -> Heard {
    client.global(name, true, |request| {
        request.put_string(address).put_uint32(port);
    });
    client.next()
}

/// Asks the far end for a port of its choice at `address`.
fn allocated_port(client: &mut Raw, address: &str) -> u16 {
    let reply = ask_forward(client, "tcpip-forward", address, 0);
    let Heard::GlobalSuccess(data) = &reply else {
        panic!("no port: {reply:?}");
    };
    let port = Reader::new(data).u32().expect("a port in the reply");
    u16::try_from(port).expect("a port has 16 bits")
}

/// Records a `forwarded-tcpip` open: where somebody connected to, and from where.
///
/// The originator's port is the kernel's choice; what the client is told must be the one that `peer` has.
fn record_forwarded(seen: &mut Seen, label: &str, heard: &Heard, peer: u16) -> u32 {
    let Heard::Open {
        kind, sender, rest, ..
    } = heard
    else {
        panic!("{label}: no forwarded connection: {heard:?}");
    };
    let mut fields = Reader::new(rest);
    let mut next = || {
        let address = fields.string().expect("an address").escape_ascii();
        let address = address.to_string();
        (address, fields.u32().expect("a port"))
    };
    let (connected, originator) = (next(), next());
    seen.note(
        label,
        format!(
            "{kind} to {} port {} from {}, the right port: {}, window and packet {}",
            connected.0,
            connected.1,
            originator.0,
            originator.1 == u32::from(peer),
            window_and_packet(heard),
        ),
    );
    *sender
}

fn window_and_packet(heard: &Heard) -> String {
    match heard {
        Heard::Open { window, packet, .. } => {
            format!("{} {packet}", (*window).min(crate::raw::PASSED_WINDOW))
        }
        _ => String::new(),
    }
}

/// Records all that a peer reads until its end, and how that came.
fn record_end(seen: &mut Seen, label: &str, socket: &mut impl Read) {
    let mut all = Vec::new();
    let end = socket.read_to_end(&mut all);
    seen.bytes(&format!("{label}: bytes"), &all);
    let end = end.map_or_else(|error| format!("{:?}", error.kind()), |_| "end".to_owned());
    seen.note(&format!("{label}: ended by"), end);
}
