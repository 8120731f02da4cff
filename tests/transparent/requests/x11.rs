//! X11 forwarding: `x11-req`, `x11` channels, and the cookie that ssh replaces.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::common::process::Run;
use crate::common::world::World;
use crate::common::{DEADLINE, have};
use crate::raw::{Heard, PACKET, Raw, WINDOW};
use crate::seen::Seen;

crate::differential! {
    // The cookies of the far end are written to a file of ours instead of the account's.
    sshd: &format!(
        "X11Forwarding yes\nSetEnv XAUTHORITY={}",
        super::far_cookies().display()
    ),
    compared: {}
    everywhere: {
        cookie_is_replaced,
        wrong_cookie_is_refused,
        displays_of_the_far_end,
        single_connection,
        many_connections,
        refused_by_the_client,
        odd_requests,
    }
}

/// `.Xauthority` of the far end.
pub(super) fn far_cookies() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("xauthority-{}", std::process::id()));
    // xauth says when it makes one.
    let made = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path);
    made.expect("cargo's own directory");
    path
}

pub(super) const COOKIE: &str = "00112233445566778899aabbccddeeff";

/// A display of ours that says what each client says first.
struct Display {
    name: String,
    heard: Receiver<Vec<u8>>,
}

/// A connection setup of X11 is 48 bytes with a cookie: what follows it here makes 52.
const SETUP_BYTES: usize = 52;

impl Display {
    /// `None` where a program is missing.
    fn start(world: &World) -> Option<Self> {
        if !have("xauth") || !have("perl") {
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("a bound socket").port();
        let name = format!("127.0.0.1:{}", port - 6000);
        Run::new("xauth")
            .args(["-q", "-f"])
            .arg(world.path("xauthority"))
            .args(["add", &name, "MIT-MAGIC-COOKIE-1", COOKIE])
            .ok();
        let (said, heard) = channel();
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                let mut setup = [0; SETUP_BYTES];
                if socket.read_exact(&mut setup).is_ok() && said.send(setup.to_vec()).is_err() {
                    break;
                }
                let _gone = socket.write_all(b"a display\n");
            }
        });
        Some(Self { name, heard })
    }

    fn ssh(&self, world: &World, options: &[&str], command: &str) -> Run {
        world
            .ssh(options, command)
            .env("DISPLAY", &self.name)
            .env("XAUTHORITY", world.path("xauthority"))
    }
}

/// An X11 client as far as the setup, with the cookie that xauth knows or with `$COOKIE`.
const CLIENT: &str = r#"perl -MIO::Socket::INET -e '
    $ENV{DISPLAY} =~ /^localhost:(\d+)/ or die "no display";
    $s = IO::Socket::INET->new("127.0.0.1:" . (6000 + $1)) or die "no connection";
    ($c) = `xauth list $ENV{DISPLAY}` =~ /([0-9a-f]{32})/;
    $c = $ENV{COOKIE} if $ENV{COOKIE};
    print $s pack("a x v v v v x2", "l", 11, 0, 18, 16), "MIT-MAGIC-COOKIE-1\0\0", pack("H*", $c), "more";
    $s->flush; print while <$s>; print "end\n";'"#;

/// The server sees the cookie of the display, which the far end never had.
fn cookie_is_replaced(world: &World, seen: &mut Seen) {
    let Some(display) = Display::start(world) else {
        return;
    };
    for option in ["-X", "-Y"] {
        // The extension SECURITY, which -X asks for a cookie, is none of our display's.
        let timeout = ["-o", "ForwardX11Timeout=0", "-o", "LogLevel=FATAL"];
        let options = [&[option][..], &timeout].concat();
        let output = seen.run(option, display.ssh(world, &options, CLIENT));
        if option == "-Y" {
            assert_eq!(output.text(), "a display\nend", "{output:?}");
            let setup = display.heard.recv_timeout(DEADLINE).expect("a setup");
            seen.bytes("setup", &setup);
            let cookie = &setup[32..48];
            let cookie: String = cookie.iter().map(|byte| format!("{byte:02x}")).collect();
            seen.note("is the display's", cookie == COOKIE);
        }
    }
}

fn wrong_cookie_is_refused(world: &World, seen: &mut Seen) {
    let Some(display) = Display::start(world) else {
        return;
    };
    let command = format!("export COOKIE={}; {CLIENT}", "f".repeat(32));
    seen.run(
        "-Y",
        display.ssh(world, &["-Y", "-o", "LogLevel=INFO"], &command),
    );
    seen.note("heard", display.heard.try_recv().is_ok());
}

fn displays_of_the_far_end(world: &World, seen: &mut Seen) {
    let Some(display) = Display::start(world) else {
        return;
    };
    // Which number is free is chance.
    let command = "echo ${DISPLAY%%:*}; xauth list $DISPLAY | tr -s ' ' | cut -d' ' -f 2 | uniq; \
        xauth list $DISPLAY | grep -c ' [0-9a-f]\\{32\\}$'";
    seen.run("-Y", display.ssh(world, &["-Y"], command));
    seen.run("-x", display.ssh(world, &["-x"], "echo ${DISPLAY-unset}"));
    seen.run(
        "none",
        display
            .ssh(world, &["-Y"], "echo ${DISPLAY%%:*}")
            .env("DISPLAY", ""),
    );
}

pub(super) fn ask(client: &mut Raw, recipient: u32, single: bool, protocol: &str, cookie: &str) {
    client.request(recipient, "x11-req", true, |request| {
        request
            .put_bool(single)
            .put_string(protocol)
            .put_string(cookie)
            .put_uint32(0);
    });
}

/// A far-end program that connects to its display `count` times, saying how it went.
fn connections(count: usize) -> String {
    format!(
        r#"perl -MIO::Socket::INET -e '
        $ENV{{DISPLAY}} =~ /^localhost:(\d+)/ or die "no display";
        for (1..{count}) {{
            $s = IO::Socket::INET->new("127.0.0.1:" . (6000 + $1));
            if (!$s) {{ print "refused\n"; next }}
            print $s "hello"; $s->flush; shutdown($s, 1);
            $a = join("", <$s>); print "heard $a\n";
        }}'"#
    )
}

/// Hears up to the offer of a display's channel; returns the server's number.
pub(super) fn offered(client: &mut Raw, seen: &mut Seen) -> u32 {
    loop {
        match client.next() {
            Heard::Open {
                kind,
                sender,
                packet,
                rest,
                ..
            } => {
                // The port of who connected is chance.
                let originator = rest[..rest.len() - 4].escape_ascii();
                seen.note("offered", format!("{kind} packet {packet} {originator}"));
                return sender;
            }
            heard @ (Heard::Close(_) | Heard::End(_)) => panic!("no channel: {heard:?}"),
            heard => seen.note("heard", heard.to_text()),
        }
    }
}

/// Plays the display for one connection, under our number `number`.
fn play(client: &mut Raw, seen: &mut Seen, number: u32) {
    let recipient = offered(client, seen);
    client.send(msg::CHANNEL_OPEN_CONFIRMATION, |message| {
        message
            .put_uint32(recipient)
            .put_uint32(number)
            .put_uint32(WINDOW)
            .put_uint32(PACKET);
    });
    client.record(seen, "greeting", |heard| *heard == Heard::Eof(number));
    client.data(recipient, b"welcome");
    client.eof(recipient);
    client.record_until_close(seen, "played", number);
    client.close(recipient);
}

/// With `single connection` sshd takes one client of the display, and no other.
fn single_connection(world: &World, seen: &mut Seen) {
    for single in [true, false] {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        ask(&mut client, channel, single, "MIT-MAGIC-COOKIE-1", COOKIE);
        client.exec(channel, connections(2));
        play(&mut client, seen, 8);
        if !single {
            play(&mut client, seen, 9);
        }
        client.record_until_close(seen, &format!("single {single}"), 7);
    }
}

fn many_connections(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    ask(&mut client, channel, false, "MIT-MAGIC-COOKIE-1", COOKIE);
    client.exec(channel, connections(10));
    for number in 10..20 {
        play(&mut client, seen, number);
    }
    client.record_until_close(seen, "end", 7);
    client.record_until_settled(seen, "after");
}

fn refused_by_the_client(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    ask(&mut client, channel, false, "MIT-MAGIC-COOKIE-1", COOKIE);
    client.exec(channel, connections(2));
    for _ in 0..2 {
        let recipient = offered(&mut client, seen);
        client.send(msg::CHANNEL_OPEN_FAILURE, |message| {
            message
                .put_uint32(recipient)
                .put_uint32(1)
                .put_string("not now")
                .put_string("");
        });
    }
    client.record_until_close(seen, "end", 7);
}

fn odd_requests(world: &World, seen: &mut Seen) {
    for (protocol, cookie) in [
        ("", ""),
        ("MIT-MAGIC-COOKIE-1", "not hexadecimal"),
        ("no such protocol; id", COOKIE),
        ("\u{e4}", COOKIE),
    ] {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        ask(&mut client, channel, false, protocol, cookie);
        ask(&mut client, channel, false, protocol, cookie);
        client.record_until_settled(seen, &format!("{protocol:?} {cookie:?}"));
        client.exec(channel, "echo ${DISPLAY%%:*}");
        client.record_channels(seen, "exec", 1);
    }
}
