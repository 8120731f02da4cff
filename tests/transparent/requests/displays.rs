//! How long displays of the far end live, and what xauth says of them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use ssmshim::ssh::wire::{WriteExt as _, msg};

use super::x11::{COOKIE, ask, offered};
use crate::common::have;
use crate::common::world::World;
use crate::raw::{Heard, PACKET, Raw, WINDOW};
use crate::seen::Seen;

crate::differential! {
    sshd: &format!(
        "X11Forwarding yes\nSetEnv XAUTHORITY={}",
        crate::requests::x11::far_cookies().display()
    ),
    compared: {}
    everywhere: {
        connections_outlive_the_display,
        a_display_for_each_session,
        cookies_xauth_refuses,
        cookies_xauth_refuses_on_a_terminal,
        closed_before_the_command_starts,
    }
}

const PROTOCOL: &str = "MIT-MAGIC-COOKIE-1";

/// Hears up to the name of the display, and returns its port.
fn display_port(client: &mut Raw) -> u16 {
    loop {
        match client.next() {
            Heard::Data { bytes, .. } => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let number = text.strip_prefix("localhost:").expect("a display");
                let number = number
                    .split('.')
                    .next()
                    .and_then(|text| text.parse::<u16>().ok());
                return 6000 + number.expect("a number");
            }
            end @ (Heard::Close(_) | Heard::End(_)) => panic!("no display: {end:?}"),
            _ => {}
        }
    }
}

/// Accepts the channel of a display, with our number `number`.
fn accept(client: &mut Raw, seen: &mut Seen, number: u32) -> u32 {
    let recipient = offered(client, seen);
    client.send(msg::CHANNEL_OPEN_CONFIRMATION, |message| {
        message
            .put_uint32(recipient)
            .put_uint32(number)
            .put_uint32(WINDOW)
            .put_uint32(PACKET);
    });
    recipient
}

/// The display takes connections until the client has closed the session too, and those stay.
fn connections_outlive_the_display(world: &World, seen: &mut Seen) {
    if !have("xauth") {
        return;
    }
    let mut client = Raw::connect(world);
    let session = client.session(7);
    ask(&mut client, session, false, PROTOCOL, COOKIE);
    client.exec(session, "echo $DISPLAY; exec cat");
    let address = ("127.0.0.1", display_port(&mut client));
    let mut socket = TcpStream::connect(address).expect("a display");
    let channel = accept(&mut client, seen, 8);
    client.eof(session);
    client.record_until_close(seen, "process", 7);

    let _second = TcpStream::connect(address).expect("a display still");
    accept(&mut client, seen, 9);
    client.close(session);
    client.record_until_settled(seen, "closed");
    // That nobody listens there any more is not to be seen: another test may have the number by now.

    socket.write_all(b"still").expect("the channel is open");
    client.record(seen, "still", |heard| {
        matches!(heard, Heard::Data { recipient: 8, .. })
    });
    // Five windows.
    let mut heard = vec![0; 16 << 10];
    for _ in 0..20 {
        client.data(channel, &vec![b'x'; heard.len()]);
        socket.read_exact(&mut heard).expect("the channel is open");
    }
    drop(socket);
    client.record(seen, "eof", |heard| *heard == Heard::Eof(8));
    client.eof(channel);
    client.record_until_close(seen, "gone", 8);
    client.close(channel);
    client.record_until_settled(seen, "end");
}

fn a_display_for_each_session(world: &World, seen: &mut Seen) {
    if !have("xauth") {
        return;
    }
    let mut client = Raw::connect(world);
    let sessions = [client.session(7), client.session(8)];
    for session in sessions {
        ask(&mut client, session, false, PROTOCOL, COOKIE);
        client.record_until_settled(seen, "early");
    }
    let [one, two] = sessions;
    client.exec(one, "echo ${DISPLAY%%:*}; exec cat");
    client.record(seen, "exec", |heard| matches!(heard, Heard::Data { .. }));
    ask(&mut client, one, false, PROTOCOL, COOKIE);
    client.request(one, "auth-agent-req@openssh.com", true, |_| {});
    client.record_until_settled(seen, "late");
    client.close(two);
    client.record_until_close(seen, "closed", 8);
    client.eof(one);
    client.record_until_close(seen, "end", 7);
}

/// What xauth says of them is said to the client, and the command runs.
fn cookies_xauth_refuses(world: &World, seen: &mut Seen) {
    if !have("xauth") {
        return;
    }
    let mut client = Raw::connect(world);
    for (number, protocol, cookie) in [
        (7, "", COOKIE),
        (8, PROTOCOL, "abc"),
        (9, "NO-SUCH-PROTOCOL", COOKIE),
    ] {
        let session = client.session(number);
        ask(&mut client, session, false, protocol, cookie);
        client.exec(session, "echo ${DISPLAY%%:*}; cat");
        client.eof(session);
        client.record_channels(seen, protocol, 1);
        client.close(session);
    }
}

fn cookies_xauth_refuses_on_a_terminal(world: &World, seen: &mut Seen) {
    if !have("xauth") || !world.has_terminals() {
        return;
    }
    let mut client = Raw::connect(world);
    let session = client.session(7);
    client.request(session, "pty-req", true, |request| {
        request.put_string("vt100");
        for number in [80, 24, 0, 0] {
            request.put_uint32(number);
        }
        request.put_string([53, 0, 0, 0, 0, 0]);
    });
    ask(&mut client, session, false, PROTOCOL, "abc");
    client.exec(session, "echo ${DISPLAY%%:*}");
    client.record_channels(seen, "end", 1);
}

/// The command runs all the same, and its status is told.
fn closed_before_the_command_starts(world: &World, seen: &mut Seen) {
    if !have("xauth") {
        return;
    }
    let mut client = Raw::connect(world);
    let session = client.session(7);
    ask(&mut client, session, false, PROTOCOL, COOKIE);
    client.exec(session, "cat; exit 4");
    client.data(session, b"early");
    client.eof(session);
    client.close(session);
    client.record_until_close(seen, "end", 7);
}
