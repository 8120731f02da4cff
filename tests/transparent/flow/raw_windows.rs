//! Windows (RFC 4254 §5.2) as no client of OpenSSH treats them.

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::world::World;
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        more_than_the_window,
        a_window_never_adjusted,
        a_window_in_single_bytes,
        a_sibling_of_an_exhausted_window,
        an_adjustment_too_large,
    }
}

fn exec(client: &mut Raw, number: u32, window: u32, command: &str) -> u32 {
    client.send(msg::CHANNEL_OPEN, |message| {
        message
            .put_string("session")
            .put_uint32(number)
            .put_uint32(window)
            .put_uint32(32 << 10);
    });
    let Heard::Confirmed { sender, .. } = client.next() else {
        panic!("no session");
    };
    client.request(sender, "exec", true, |request| {
        request.put_string(command);
    });
    assert_eq!(client.next(), Heard::Success(number));
    sender
}

/// Hears until `count` bytes of output have come. That the command has ended may be said before its last bytes.
fn hear(client: &mut Raw, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        match client.next() {
            Heard::Data { bytes, .. } => all.extend_from_slice(&bytes),
            Heard::Request { name, .. } if name == "eow@openssh.com" || name == "exit-status" => {}
            other => panic!("after {} bytes: {other:?}", all.len()),
        }
    }
    all
}

/// 3 MiB into a window of 2 MiB, for a command that does not read.
///
/// The sshd of some versions throws the excess away, that of others disconnects as we do (README, limits); it is this
/// client's loss alone.
fn more_than_the_window(world: &World, seen: &mut Seen) {
    let mut neighbour = Raw::connect(world);
    let mut client = Raw::connect(world);
    let channel = exec(&mut client, 1, 1 << 20, "exec sleep 100");
    let chunk = vec![b'x'; 32 << 10];
    for _ in 0..96 {
        client.data(channel, &chunk);
    }
    client.global("keepalive@openssh.com", true, |_| {});
    let heard = client.next();
    assert!(
        matches!(heard, Heard::GlobalFailure | Heard::End(Some((2, _)))),
        "{heard:?}"
    );
    exec(&mut neighbour, 1, 1 << 20, "echo unharmed");
    neighbour.record_until_close(seen, "neighbour", 1);
}

/// How many bytes come before the server answers what is asked now. When it hears that the command has ended, and says
/// so, is chance.
fn heard_until_settled(client: &mut Raw) -> usize {
    let mut count = 0;
    client.global("keepalive@openssh.com", true, |_| {});
    loop {
        match client.next() {
            Heard::Data { bytes, .. } => count += bytes.len(),
            Heard::Request { .. } => {}
            Heard::GlobalFailure => return count,
            other => panic!("neither data nor an answer: {other:?}"),
        }
    }
}

/// The window is all that ever comes, and the rest once it is adjusted.
fn a_window_never_adjusted(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = exec(&mut client, 1, 100_000, "head -c 250000 /dev/zero");
    seen.note("first", hear(&mut client, 100_000).len());
    seen.note("nothing more", heard_until_settled(&mut client));
    client.send(msg::CHANNEL_WINDOW_ADJUST, |message| {
        message.put_uint32(channel).put_uint32(1);
    });
    seen.note("one", hear(&mut client, 1).len());
    seen.note("nothing more than one", heard_until_settled(&mut client));
    client.send(msg::CHANNEL_WINDOW_ADJUST, |message| {
        message.put_uint32(channel).put_uint32(1 << 20);
    });
    seen.note("the rest", hear(&mut client, 149_999).len());
}

fn a_window_in_single_bytes(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = exec(&mut client, 1, 0, "echo hello; exit 5");
    seen.note("no window", heard_until_settled(&mut client));
    let mut all = Vec::new();
    for _ in 0..6 {
        client.send(msg::CHANNEL_WINDOW_ADJUST, |message| {
            message.put_uint32(channel).put_uint32(1);
        });
        all.extend(loop {
            match client.next() {
                Heard::Data { bytes, .. } => break bytes,
                Heard::Request { .. } => {}
                other => panic!("no data: {other:?}"),
            }
        });
    }
    seen.bytes("all", &all);
}

fn a_sibling_of_an_exhausted_window(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let stalled = exec(&mut client, 1, 50_000, "exec cat /dev/zero");
    seen.note("stalled", hear(&mut client, 50_000).len());
    for number in 2..5 {
        let channel = exec(
            &mut client,
            number,
            1 << 20,
            "head -c 300000 /dev/zero; exit 4",
        );
        client.record_until_close(seen, "sibling", number);
        client.close(channel);
    }
    client.close(stalled);
    let mut end = Vec::new();
    while end.last() != Some(&Heard::Close(1)) {
        let heard = client.next();
        assert!(!matches!(heard, Heard::End(_)), "{heard:?}");
        // Said by sshd if it learns of the command's death before it has found that there is nothing left to write.
        let is_chance = matches!(&heard, Heard::Request { name, .. } if name == "eow@openssh.com");
        if !is_chance {
            end.push(heard);
        }
    }
    let end: Vec<_> = end.iter().map(Heard::to_text).collect();
    seen.note("stalled", end.join("\n"));
    client.record_until_settled(seen, "after");
}

/// Past 2^32 - 1 in all, which §5.2 forbids: sshd leaves without a word, and we with one.
fn an_adjustment_too_large(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = exec(&mut client, 1, 1 << 20, "cat; exit 2");
    for _ in 0..2 {
        client.send(msg::CHANNEL_WINDOW_ADJUST, |message| {
            message.put_uint32(channel).put_uint32(u32::MAX);
        });
    }
    client.data(channel, b"hello");
    client.eof(channel);
    let heard = client.next();
    seen.note("has ended", matches!(heard, Heard::End(_)));
}
