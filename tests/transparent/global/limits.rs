//! `MaxSessions`: reason code and text, and what a person sees.

use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

macro_rules! limited {
    ($($name:ident: $sshd:expr;)*) => {
        $(
            mod $name {
                use super::{control_master, messages};
                crate::differential! {
                    sshd: $sshd,
                    compared: { messages, control_master }
                    everywhere: {}
                }
            }
        )*
    };
}

limited! {
    one: "MaxSessions 1";
    two: "MaxSessions 2";
}

mod none {
    use super::{command, messages};
    crate::differential! {
        sshd: "MaxSessions 0",
        compared: { messages, command }
        everywhere: {}
    }
}

/// More sessions than there may be, and again after one has ended.
fn messages(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let mut open = Vec::new();
    for number in 0..4 {
        client.open("session", number, |_| {});
        let heard = client.next();
        seen.note(&format!("session {number}"), heard.to_text());
        if let Heard::Confirmed { sender, .. } = heard {
            open.push((number, sender));
        }
    }
    if let Some((number, channel)) = open.pop() {
        client.close(channel);
        client.record_until_close(seen, "one ends", number);
        client.open("session", 9, |_| {});
        let heard = client.next();
        seen.note("another", heard.to_text());
    }
    client.record_until_settled(seen, "after");
}

/// What OpenSSH does when its master may have no more sessions: a connection of its own.
fn control_master(world: &World, seen: &mut Seen) {
    let socket = world.text("control");
    let _master = world.master(&socket);
    let (first, [first_command, _]) = super::started(world, &["-S", &socket], "exec cat");
    let run = world.ssh(&["-S", &socket, "-o", "LogLevel=INFO"], "echo out; exit 3");
    let output = run.output();
    seen.note("status", output.code);
    seen.bytes("stdout", &output.stdout);
    seen.note("stderr", super::without_addition(&output.stderr));
    drop(first);
    super::gone("the first command", first_command);
}

fn command(world: &World, seen: &mut Seen) {
    let output = world.ssh(&["-o", "LogLevel=INFO"], "echo out").output();
    seen.note("status", output.code);
    seen.bytes("stdout", &output.stdout);
    seen.note("stderr", super::without_addition(&output.stderr));
}
