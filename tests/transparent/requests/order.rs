//! Requests without waiting, and the order of their replies.

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::world::World;
use crate::raw::{Heard, PACKET, Raw, WINDOW};
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        replies_across_channels,
        requests_among_global_requests,
    }
}

fn queue_request(client: &mut Raw, channel: u32, name: &str, want_reply: bool, fields: &[u8]) {
    client.queue(msg::CHANNEL_REQUEST, |message| {
        message
            .put_uint32(channel)
            .put_string(name)
            .put_bool(want_reply)
            .put_raw(fields);
    });
}

/// Requests on five channels in one write: sshd answers one after the other, whatever they are about.
fn replies_across_channels(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channels: Vec<_> = (0..5).map(|number| client.session(number)).collect();
    for round in 0..4_u8 {
        for channel in &channels {
            let name: &[u8] = if round % 2 == 0 {
                b"\0\0\0\x04LC_A"
            } else {
                b"\0\0\0\x04NO_A"
            };
            let fields = [name, b"\0\0\0\x01x"].concat();
            queue_request(&mut client, *channel, "env", round != 2, &fields);
        }
        queue_request(
            &mut client,
            channels[usize::from(round)],
            "no@example.com",
            true,
            b"",
        );
    }
    client.flush();
    client.record_until_settled(seen, "replies");
    for channel in channels {
        client.close(channel);
    }
    client.record_channels(seen, "closed", 5);
}

/// Replies of all kinds keep the order of what they answer, also those to opens.
fn requests_among_global_requests(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    let global = |client: &mut Raw, name: &str, want_reply: bool, fields: &[u8]| {
        client.queue(msg::GLOBAL_REQUEST, |message| {
            message
                .put_string(name)
                .put_bool(want_reply)
                .put_raw(fields);
        });
    };
    for round in 0..6 {
        queue_request(
            &mut client,
            channel,
            "env",
            true,
            b"\0\0\0\x04LC_A\0\0\0\x01x",
        );
        global(&mut client, "keepalive@openssh.com", true, b"");
        queue_request(&mut client, channel, "no@example.com", true, b"");
        global(
            &mut client,
            "never-heard-of@example.com",
            round % 2 == 0,
            b"",
        );
        global(
            &mut client,
            "cancel-tcpip-forward",
            true,
            b"\0\0\0\x01x\0\0\0\x05",
        );
        client.queue(msg::CHANNEL_OPEN, |message| {
            message
                .put_string("never-heard-of@example.com")
                .put_uint32(100 + round)
                .put_uint32(WINDOW)
                .put_uint32(PACKET);
        });
        queue_request(
            &mut client,
            channel,
            "window-change",
            round % 2 == 1,
            &[0; 16],
        );
    }
    client.flush();
    // Two in each round, and a third in every other one.
    let failures = std::cell::Cell::new(15);
    client.record(seen, "replies", |heard| {
        failures.set(failures.get() - i32::from(*heard == Heard::GlobalFailure));
        failures.get() == 0
    });
    client.record_until_settled(seen, "after");
}
