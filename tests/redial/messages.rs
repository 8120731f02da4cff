//! A loss, message by message.

use ssmshim::ssh::wire::WriteExt as _;

use super::{LOSSES, Loss};
use crate::common::net::free_port;
use crate::common::raw::{Heard, Raw};
use crate::common::world::World;

/// A session that runs `cat` and has said so; returns the server's number.
fn running(client: &mut Raw, number: u32) -> u32 {
    let channel = client.session(number);
    client.exec(channel, "echo running; exec cat");
    loop {
        if let Heard::Data { bytes, .. } = client.next() {
            assert_eq!(bytes, b"running\n");
            return channel;
        }
    }
}

/// What the server says of our channel `number` until it closes it.
fn end_of(client: &mut Raw, number: u32) -> Vec<Heard> {
    let mut all = Vec::new();
    while all.last() != Some(&Heard::Close(number)) {
        all.push(client.next());
    }
    all
}

#[test]
fn a_session_ends_and_the_next_one_has_another_number() {
    let Some(world) = World::serve_with("", &[]) else {
        return;
    };
    let mut client = Raw::connect(&world);
    let (mut numbers, mut open) = (Vec::new(), Vec::new());
    for (ours, loss) in (0..).zip(LOSSES) {
        let channel = running(&mut client, ours);
        assert!(!numbers.contains(&channel), "{channel} of {numbers:?}");
        numbers.push(channel);
        loss.strike(&world);
        let end = end_of(&mut client, ours);
        let [notice, signal, eof, _close] = &end[..] else {
            panic!("{loss:?}: {end:?}");
        };
        let Heard::Extended { kind: 1, bytes, .. } = notice else {
            panic!("{loss:?}: {notice:?}");
        };
        let text = String::from_utf8_lossy(bytes);
        assert!(
            text.starts_with("ssmshim: the ") && text.ends_with('\n'),
            "{text}"
        );
        let Heard::Request {
            name,
            want_reply: false,
            rest,
            ..
        } = signal
        else {
            panic!("{loss:?}: {signal:?}");
        };
        assert_eq!(name, "exit-signal");
        assert!(rest.starts_with(b"\0\0\0\x03HUP\0"), "{rest:?}");
        assert_eq!(*eof, Heard::Eof(ours));
        // Nothing more is wanted there, and this is for nobody.
        client.data(channel, b"late");
        if ours % 2 == 0 {
            client.close(channel);
        } else {
            open.push(channel);
        }
    }
    for channel in open {
        client.data(channel, b"later");
        client.close(channel);
    }
    let channel = running(&mut client, 9);
    client.eof(channel);
    let end = end_of(&mut client, 9);
    assert!(
        end.iter()
            .any(|heard| matches!(heard, Heard::Request { name, .. } if name == "exit-status")),
        "{end:?}"
    );
}

/// Replies come in the order of their requests, also when an upstream ends between them.
#[test]
fn replies_keep_their_order() {
    let Some(world) = World::serve_with("", &[]) else {
        return;
    };
    let mut client = Raw::connect(&world);
    let port = free_port();
    for loss in [Loss::SessionsKilled, Loss::SessionTerminated] {
        loss.strike(&world);
        let names = ["tcpip-forward", "cancel-tcpip-forward"];
        for name in [
            "no-such@example.com",
            names[0],
            "keepalive@openssh.com",
            names[1],
        ] {
            client.global(name, true, |request| {
                if names.contains(&name) {
                    request.put_string("127.0.0.1").put_uint32(port.into());
                }
            });
        }
        let heard: Vec<_> = (0..4).map(|_| client.next()).collect();
        let (yes, no) = (Heard::GlobalSuccess(Vec::new()), Heard::GlobalFailure);
        assert_eq!(heard, [no.clone(), yes.clone(), no, yes], "{loss:?}");
    }
}

/// What a client has renounced it has renounced for all upstreams.
#[test]
fn no_more_sessions_holds_for_the_next_upstream() {
    let Some(world) = World::serve_with("", &[]) else {
        return;
    };
    let mut client = Raw::connect(&world);
    let channel = running(&mut client, 0);
    client.global("no-more-sessions@openssh.com", false, |_| {});
    client.data(channel, b"still here");
    while !matches!(client.next(), Heard::Data { .. }) {}
    Loss::SessionsKilled.strike(&world);
    end_of(&mut client, 0);
    client.close(channel);
    client.open("session", 1, |_| {});
    // sshd takes it for an attack, and says so.
    let end = client.next();
    assert!(matches!(&end, Heard::End(Some((2, _)))), "{end:?}");
}
