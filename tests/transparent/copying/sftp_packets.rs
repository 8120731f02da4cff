//! SFTP (draft-ietf-secsh-filexfer-02) packet by packet: what sftp-server says to what no client of OpenSSH asks.

use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::symlink;
use std::sync::mpsc::{self, RecvTimeoutError};

use ssmshim::ssh::wire::WriteExt as _;

use crate::common::DEADLINE;
use crate::common::files::sha256_of;
use crate::common::process::code;
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {
        // Which extensions there are depends on the version of OpenSSH.
        version_exchange,
    }
    everywhere: {
        reads_and_writes,
        handles,
        attributes,
        names,
        pipelined_requests,
        broken_streams,
    }
}

/// Packets in their order, to be sent at once.
#[derive(Default)]
struct Script {
    bytes: Vec<u8>,
    next_id: u32,
}

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const READLINK: u8 = 19;
const SYMLINK: u8 = 20;
const EXTENDED: u8 = 200;

impl Script {
    fn new() -> Self {
        let mut script = Self::default();
        script.packet(INIT, |packet| {
            packet.put_uint32(3);
        });
        script
    }

    fn packet(&mut self, kind: u8, fields: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let mut packet = vec![kind];
        fields(&mut packet);
        self.bytes.put_string(packet);
        self
    }

    /// A request with the next number.
    fn ask(&mut self, kind: u8, fields: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        self.next_id += 1;
        let id = self.next_id;
        self.packet(kind, |packet| {
            packet.put_uint32(id);
            fields(packet);
        })
    }

    fn path(&mut self, kind: u8, path: &str) -> &mut Self {
        self.ask(kind, |packet| {
            packet.put_string(path);
        })
    }

    fn paths(&mut self, kind: u8, first: &str, second: &str) -> &mut Self {
        self.ask(kind, |packet| {
            packet.put_string(first).put_string(second);
        })
    }

    fn open(&mut self, path: &str, flags: u32) -> &mut Self {
        self.ask(OPEN, |packet| {
            packet.put_string(path).put_uint32(flags).put_uint32(0);
        })
    }

    /// A request for the handle that is the server's `number`th.
    fn handle(&mut self, kind: u8, number: u32) -> &mut Self {
        self.ask(kind, |packet| {
            packet.put_string(number.to_be_bytes());
        })
    }

    fn read(&mut self, number: u32, offset: u64, length: u32) -> &mut Self {
        self.ask(READ, |packet| {
            packet
                .put_string(number.to_be_bytes())
                .put_raw(&offset.to_be_bytes())
                .put_uint32(length);
        })
    }

    fn write(&mut self, number: u32, offset: u64, bytes: &[u8]) -> &mut Self {
        self.ask(WRITE, |packet| {
            packet
                .put_string(number.to_be_bytes())
                .put_raw(&offset.to_be_bytes())
                .put_string(bytes);
        })
    }

    fn extended(&mut self, name: &str, fields: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        self.ask(EXTENDED, |packet| {
            packet.put_string(name);
            fields(packet);
        })
    }

    /// Sends all of it and the end, and records the answers one by one; returns how many there were.
    fn run(&self, world: &World, seen: &mut Seen, label: &str) -> usize {
        let mut client = world.ssh(&["-s"], "sftp").piped();
        let mut stdin = client.take_stdin();
        let mut next = packets(client.take_stdout());
        let mut bytes = self.bytes.clone();
        // At the end of its input OpenSSH's server leaves with its answers, so the last one is waited for.
        let last_id = u32::MAX;
        bytes.put_string([&[REALPATH][..], &last_id.to_be_bytes(), &[0, 0, 0, 1, b'/']].concat());
        let writer = std::thread::spawn(move || {
            stdin.write_all(&bytes).expect("the server reads");
            stdin
        });
        let mut count = 0;
        while let Some(answer) = next() {
            if answer.get(1..5) == Some(&last_id.to_be_bytes()) {
                break;
            }
            // The version has its own case.
            if answer.first() != Some(&VERSION) {
                let text = if answer.len() > 2000 {
                    let start = answer[..13].escape_ascii();
                    format!("{start} {} bytes, {}", answer.len(), sha256_of(&answer))
                } else {
                    answer.escape_ascii().to_string()
                };
                seen.note(&format!("{label} {count}"), text);
            }
            count += 1;
        }
        drop(writer.join().expect("no panic"));
        let status = client.wait(DEADLINE);
        seen.note(&format!("{label}: status"), code(status));
        seen.bytes(&format!("{label}: stderr"), client.stderr().as_bytes());
        count
    }
}

/// The packets of a stream, without their lengths, each waited for under the deadline.
fn packets(mut stream: impl Read + Send + 'static) -> impl FnMut() -> Option<Vec<u8>> {
    let (packet, packets) = mpsc::channel();
    std::thread::spawn(move || {
        while let Some(next) = read_packet(&mut stream) {
            if packet.send(next).is_err() {
                break;
            }
        }
    });
    move || match packets.recv_timeout(DEADLINE) {
        Ok(packet) => Some(packet),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("the server does not answer"),
    }
}

fn read_packet(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut packet).ok()?;
    Some(packet)
}

fn version_exchange(world: &World, seen: &mut Seen) {
    let extension = [&[0, 0, 0, 4][..], b"none", &[0, 0, 0, 1], b"1"].concat();
    for (version, rest) in [
        (0, &[][..]),
        (2, &[]),
        (3, &[]),
        (4, &[]),
        (u32::MAX, &[]),
        (3, &extension),
    ] {
        let mut client = world.ssh(&["-s"], "sftp").piped();
        let mut stdin = client.take_stdin();
        let mut next = packets(client.take_stdout());
        let mut packet = Vec::new();
        packet.put_string([&[INIT][..], &version.to_be_bytes(), rest].concat());
        stdin.write_all(&packet).expect("the server reads");
        let answer = next().expect("the server has a version");
        seen.bytes(&format!("version {version}"), &answer);
    }
    let mut script = Script::new();
    for name in ["limits@openssh.com", "none@example.org", ""] {
        script.extended(name, |_| {});
    }
    script.extended("users-groups-by-id@openssh.com", |packet| {
        packet
            .put_string([0; 4])
            .put_string([0, 0, 0, 0, 255, 255, 255, 255]);
    });
    script.extended("home-directory", |packet| {
        packet.put_string("");
    });
    script.run(world, seen, "extensions");
}

fn reads_and_writes(world: &World, seen: &mut Seen) {
    fs::write(world.path("file"), "0123456789").expect("our own directory");
    let (file, new) = (world.text("file"), world.text("new"));
    let mut script = Script::new();
    // Handle 0: reading only.
    script
        .open(&file, 1)
        .read(0, 0, 4)
        .read(0, 8, 100)
        .read(0, 10, 1);
    script
        .read(0, 0, 0)
        .read(0, 1 << 40, 5)
        .read(0, u64::MAX, 5)
        .write(0, 0, b"no");
    // Handle 1: reading and writing what is new; 2: appending; 3: the same once more, exclusively.
    script
        .open(&new, 1 | 2 | 8 | 16)
        .write(1, 3, b"hole before")
        .write(1, 0, b"");
    script.write(1, 1 << 20, b"far").read(1, 0, 20);
    script
        .open(&new, 2 | 4)
        .write(2, 0, b"at the end")
        .handle(CLOSE, 2);
    script
        .open(&new, 2 | 8 | 32)
        .open(&file, 0)
        .open("", 1)
        .open("/", 1)
        .open("/", 2);
    script
        .write(1, u64::MAX - 3, b"beyond")
        .read(1, 0, u32::MAX);
    let count = script.run(world, seen, "reads and writes");
    assert!(count > 15, "{count} answers");
    // What a umask would be is the server's, and the attributes of now hold the time.
    seen.note(
        "length",
        fs::metadata(&new).expect("made by the server").len(),
    );
    seen.file("file", &world.path("file"));
}

fn handles(world: &World, seen: &mut Seen) {
    fs::write(world.path("file"), "0123456789").expect("our own directory");
    fs::create_dir(world.path("directory")).expect("our own directory");
    let (file, directory) = (world.text("file"), world.text("directory"));
    let mut script = Script::new();
    script
        .handle(CLOSE, 0)
        .read(0, 0, 1)
        .handle(FSTAT, 7)
        .handle(READDIR, 7);
    script.open(&file, 1).path(OPENDIR, &directory);
    script
        .read(1, 0, 1)
        .write(1, 0, b"x")
        .handle(READDIR, 0)
        .handle(CLOSE, 0);
    script
        .handle(CLOSE, 0)
        .read(0, 0, 1)
        .open(&file, 1)
        .read(0, 2, 3);
    script.handle(CLOSE, 1).handle(READDIR, 1);
    for handle in [&b""[..], b"abc", b"abcde", &[255; 4], &[b'h'; 300]] {
        script.ask(CLOSE, |packet| {
            packet.put_string(handle);
        });
    }
    script
        .path(OPENDIR, &file)
        .path(OPENDIR, "/no/such")
        .path(OPENDIR, "");
    script.extended("fsync@openssh.com", |packet| {
        packet.put_string([0; 4]);
    });
    script.extended("fsync@openssh.com", |packet| {
        packet.put_string([9; 4]);
    });
    let count = script.run(world, seen, "handles");
    assert!(count > 20, "{count} answers");
}

fn attributes(world: &World, seen: &mut Seen) {
    fs::write(world.path("file"), "0123456789").expect("our own directory");
    symlink("file", world.path("link")).expect("our own directory");
    let (file, link) = (world.text("file"), world.text("link"));
    let mut script = Script::new();
    let times = |packet: &mut Vec<u8>| {
        packet
            .put_uint32(8)
            .put_uint32(1_000_000_000)
            .put_uint32(1_100_000_000);
    };
    for (kind, path) in [(SETSTAT, &file), (SETSTAT, &link)] {
        script.ask(kind, |packet| {
            packet.put_string(path).put_uint32(4).put_uint32(0o100_640);
        });
        script.ask(kind, |packet| {
            packet
                .put_string(path)
                .put_uint32(1)
                .put_raw(&4_u64.to_be_bytes());
        });
        script.ask(kind, |packet| {
            packet
                .put_string(path)
                .put_uint32(2)
                .put_uint32(0)
                .put_uint32(0);
        });
        script.ask(kind, |packet| {
            packet.put_string(path);
            times(packet);
        });
        script.path(STAT, path);
    }
    // Nothing to set, all at once, what nobody knows, and extended attributes.
    for flags in [0, 0x8000_0000] {
        script.ask(SETSTAT, |packet| {
            packet.put_string(&file).put_uint32(flags);
            if flags > 0 {
                packet.put_uint32(1).put_string("type").put_string("value");
            }
        });
    }
    script.ask(SETSTAT, |packet| {
        packet.put_string(&file).put_uint32(1 | 4 | 8);
        packet.put_raw(&6_u64.to_be_bytes()).put_uint32(0o604);
        packet.put_uint32(1).put_uint32(2);
    });
    script
        .path(STAT, &file)
        .path(LSTAT, &file)
        .path(STAT, "/no/such")
        .path(LSTAT, "");
    script.open(&file, 2);
    script.ask(FSETSTAT, |packet| {
        packet.put_string([0; 4]);
        times(packet);
    });
    script.handle(FSTAT, 0).handle(FSTAT, 1);
    script.extended("lsetstat@openssh.com", |packet| {
        packet.put_string(&link);
        times(packet);
    });
    script.path(LSTAT, &link);
    script.extended("lsetstat@openssh.com", |packet| {
        packet
            .put_string(&link)
            .put_uint32(1)
            .put_raw(&1_u64.to_be_bytes());
    });
    let count = script.run(world, seen, "attributes");
    assert!(count > 18, "{count} answers");
    seen.file("file", &world.path("file"));
}

fn names(world: &World, seen: &mut Seen) {
    fs::create_dir_all(world.path("there/sub")).expect("our own directory");
    fs::write(world.path("there/file"), "text").expect("our own directory");
    symlink("nowhere", world.path("there/dangling")).expect("our own directory");
    let at = |name: &str| format!("{}/{name}", world.text("there"));
    let mut script = Script::new();
    for path in [
        "/",
        "/usr/../tmp/.",
        "/no/such",
        "/no",
        "//tmp///",
        &at("sub/.."),
        &at("dangling"),
        &at("file/below"),
        &at("none"),
        &at("none/none"),
    ] {
        script.path(REALPATH, path);
    }
    script
        .path(READLINK, &at("dangling"))
        .path(READLINK, &at("file"))
        .path(READLINK, "/no/such");
    script
        .paths(SYMLINK, "any text at all", &at("soft"))
        .path(READLINK, &at("soft"));
    script
        .paths(SYMLINK, "other", &at("file"))
        .paths(SYMLINK, "", &at("empty link"));
    script
        .paths(RENAME, &at("file"), &at("sub/moved"))
        .paths(RENAME, &at("none"), &at("x"));
    script
        .paths(RENAME, &at("sub/moved"), &at("soft"))
        .paths(RENAME, &at("sub"), &at("sub2"));
    script
        .path(REMOVE, &at("sub2"))
        .path(REMOVE, &at("none"))
        .path(RMDIR, &at("soft"));
    script
        .path(RMDIR, &at("sub2"))
        .path(REMOVE, &at("soft"))
        .path(REMOVE, "");
    for mode in [Some(0o700), Some(0o1777), None] {
        script.ask(MKDIR, |packet| {
            packet.put_string(at(&format!("made {mode:?}")));
            match mode {
                Some(mode) => packet.put_uint32(4).put_uint32(mode),
                None => packet.put_uint32(0),
            };
        });
    }
    for (name, path) in [
        ("expand-path@openssh.com", "~/a"),
        ("expand-path@openssh.com", "/tmp/../usr"),
    ] {
        script.extended(name, |packet| {
            packet.put_string(path);
        });
    }
    let count = script.run(world, seen, "names");
    assert!(count > 30, "{count} answers");
    seen.tree("there", &world.path("there"));
}

/// Thousands of requests under way at once, their answers in their order.
fn pipelined_requests(world: &World, seen: &mut Seen) {
    crate::common::files::write_file(&world.path("file"), 1_000_000, 3);
    let mut script = Script::new();
    script
        .open(&world.text("file"), 1)
        .open(&world.text("copy"), 2 | 8 | 16);
    for number in 0..3000_u64 {
        match number % 3 {
            0 => script.read(0, number * 331, 1500),
            1 => script.write(1, number * 10, number.to_string().as_bytes()),
            _ => script.path(REALPATH, &format!("/tmp/../{number}")),
        };
    }
    let count = script.run(world, seen, "pipelined");
    assert_eq!(count, 3003);
    seen.file("copy", &world.path("copy"));
}

/// What breaks the framing ends the server: with what status?
fn broken_streams(world: &World, seen: &mut Seen) {
    let start = Script::new().bytes;
    for (label, has_started, bytes) in [
        ("nothing", false, &[][..]),
        ("half a length", false, &[0, 0]),
        ("half a packet", true, &[0, 0, 0, 9, 16, 0]),
        ("a length of all bits", true, &[255; 8]),
        ("just too long", true, &[0, 4, 0, 1, 16]),
        ("garbage at once", false, b"GET / HTTP/1.0\r\n\r\n"),
        (
            "a request before the version",
            false,
            &[0, 0, 0, 9, 16, 0, 0, 0, 1, 0, 0, 0, 0],
        ),
        ("a request of no fields", true, &[0, 0, 0, 1, 16]),
        (
            "a string beyond its packet",
            true,
            &[0, 0, 0, 9, 16, 0, 0, 0, 1, 0, 0, 1, 0],
        ),
    ] {
        let mut client = world.ssh(&["-s"], "sftp").piped();
        let mut stdin = client.take_stdin();
        let mut next = packets(client.take_stdout());
        if has_started {
            stdin.write_all(&start).expect("the server reads");
            next().expect("the server has a version");
        }
        stdin.write_all(bytes).expect("the server reads");
        // What is no error yet would wait for more.
        let is_incomplete = label == "nothing" || label.starts_with("half");
        let _stdin = (!is_incomplete).then_some(stdin);
        while let Some(answer) = next() {
            seen.bytes(&format!("{label}: answer"), &answer);
        }
        seen.note(&format!("{label}: status"), code(client.wait(DEADLINE)));
        seen.bytes(&format!("{label}: stderr"), client.stderr().as_bytes());
    }
}
