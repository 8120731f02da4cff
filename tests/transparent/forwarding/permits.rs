//! Forwards that sshd's administrator does not want: refusals of the channel and of the request, and what a person sees.

use std::io::Read as _;

use ssmshim::ssh::wire::WriteExt as _;

use super::{ask_forward, open_direct, open_streamlocal};
use crate::common::net::{Peer, connect, free_port, serve, serve_unix};
use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

macro_rules! configured {
    ($($name:ident: $sshd:expr;)*) => {
        $(
            mod $name {
                use super::{messages, openssh};
                crate::differential! {
                    sshd: $sshd,
                    compared: { messages, openssh }
                    everywhere: {}
                }
            }
        )*
    };
}

configured! {
    allow_none: "AllowTcpForwarding no";
    allow_local: "AllowTcpForwarding local";
    allow_remote: "AllowTcpForwarding remote";
    allow_no_streamlocal: "AllowStreamLocalForwarding no";
    disabled: "DisableForwarding yes";
    permit_open: "PermitOpen localhost:* 127.0.0.1:9";
    permit_nothing: "PermitOpen none\nPermitListen none";
}

/// Every kind of forward, asked for message by message.
fn messages(world: &World, seen: &mut Seen) {
    let port = serve(Peer::Echo);
    let mut client = Raw::connect(world);
    for (number, host) in (0..).zip(["127.0.0.1", "localhost", "::1"]) {
        open_direct(&mut client, number, host, port.into());
        let heard = client.next();
        seen.note(&format!("to {host}"), heard.to_text());
    }
    let socket = world.path("socket");
    serve_unix(Peer::Echo, &socket);
    open_streamlocal(&mut client, 10, world.text("socket"));
    let heard = client.next();
    seen.note("to a socket", heard.to_text());
    for address in ["127.0.0.1", "localhost", ""] {
        let reply = ask_forward(&mut client, "tcpip-forward", address, free_port().into());
        seen.note(&format!("from {address:?}"), reply.to_text());
    }
    let reply = ask_forward(&mut client, "tcpip-forward", "localhost", 0);
    // The port itself is chance.
    seen.note("from any port", matches!(reply, Heard::GlobalSuccess(_)));
    client.global("streamlocal-forward@openssh.com", true, |request| {
        request.put_string(world.text("another"));
    });
    let reply = client.next();
    seen.note("from a socket", reply.to_text());
    client.record_until_settled(seen, "after");
}

/// The same with the client that people have, and what it tells them.
fn openssh(world: &World, seen: &mut Seen) {
    let (near, far) = (free_port(), serve(Peer::Greet));
    seen.hide(far, "<far>");
    seen.hide(near, "<near>");
    let ssh = world.forwarding(&[
        "-o",
        "LogLevel=INFO",
        "-L",
        &format!("{near}:127.0.0.1:{far}"),
    ]);
    let mut text = String::new();
    let _reset = connect(near).read_to_string(&mut text);
    seen.note("through -L", text);
    seen.note("stderr of -L", without_addition(&ssh.stderr()));
    seen.run("-W", world.ssh(&["-W", &format!("127.0.0.1:{far}")], ""));
    for exit in ["yes", "no"] {
        let remote = free_port();
        seen.hide(remote, "<remote>");
        let run = world.ssh(
            &[
                "-o",
                &format!("ExitOnForwardFailure={exit}"),
                "-R",
                &format!("{remote}:127.0.0.1:{far}"),
            ],
            "echo a command",
        );
        seen.run(&format!("-R, exit on failure: {exit}"), run);
    }
}

/// Without the line by which OpenSSH says that it has learnt a key: the files of known hosts are not kept.
fn without_addition(stderr: &str) -> String {
    stderr
        .lines()
        .filter(|line| !line.contains("Permanently added"))
        .collect::<Vec<_>>()
        .join("\n")
}
