//! Clients that break every rule harm themselves only: others are served meanwhile, and nothing is left behind.

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::flow::{Pattern, QUIET};
use common::net::connect;
use common::world::World;
use common::{DEADLINE, report};
use ssmshim::ssh::wire::{WriteExt as _, msg};
use ssmshim::ssh::{ClientConfig, Connection, known_hosts};

/// What the daemon may ever have resident: a debug build with some dozen of everything is at 40 MiB.
const MEMORY_KIB: u64 = 96 << 10;

/// How long a well-behaved client may take while others misbehave.
const PATIENCE: Duration = Duration::from_secs(30);

/// A target behind `ssmshim serve`, and what the daemon held before anybody misbehaved.
struct Scene {
    world: World,
    descriptors: usize,
    threads: u64,
}

impl Scene {
    fn set() -> Option<Self> {
        let world = World::serve()?;
        let mut scene = Self {
            world,
            descriptors: 0,
            threads: 0,
        };
        for _ in 0..3 {
            scene.assert_serves();
        }
        let daemon = scene.world.daemon.as_ref().expect("a daemon");
        (scene.descriptors, scene.threads) = (daemon.descriptors(), daemon.threads());
        Some(scene)
    }

    fn port(&self) -> u16 {
        self.world.target.port
    }

    /// A real ssh is let in, and gets its answer.
    fn assert_serves(&self) {
        let ssh = self.world.ssh(&[], "cat; exit 3").stdin("still here");
        let output = ssh.deadline(PATIENCE).output();
        assert_eq!(
            (output.code, output.text()),
            (3, "still here".to_owned()),
            "{output:?}"
        );
    }

    /// Everybody is served, memory has stayed within bounds, and all is given back.
    fn assert_unharmed(mut self, what: &str) {
        self.assert_serves();
        let daemon = self.world.daemon.as_mut().expect("a daemon");
        daemon.assert_up();
        let memory = daemon.memory();
        report(&format!("{what}: {memory:?}, {} threads", daemon.threads()));
        assert!(memory.peak < MEMORY_KIB, "{memory:?}");
        // Connections end as their ends are noticed, and idle threads after ten seconds.
        let started = Instant::now();
        loop {
            let daemon = self.world.daemon.as_ref().expect("a daemon");
            let (descriptors, threads) = (daemon.descriptors(), daemon.threads());
            if descriptors <= self.descriptors + 4 && threads <= self.threads + 8 {
                break;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{descriptors} descriptors, {} before; {threads} threads, {} before",
                self.descriptors,
                self.threads
            );
            self.assert_serves();
        }
    }
}

/// A reset instead of an orderly end.
fn reset(socket: TcpStream) {
    let linger = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(socket.as_fd(), linger).expect("our own socket");
}

/// Reads to the end, which must come, be it a reset.
fn assert_left(mut socket: TcpStream) {
    let ended = socket.read_to_end(&mut Vec::new());
    let waits = matches!(&ended, Err(error) if error.kind() == ErrorKind::WouldBlock);
    assert!(!waits, "the connection is kept");
}

/// A plain packet (RFC 4253 §6) with `payload`.
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (payload.len() + 5) % 8 + 8;
    let mut packet = Vec::new();
    packet.put_uint32(u32::try_from(payload.len() + padding + 1).expect("small"));
    packet.put_byte(u8::try_from(padding).expect("small"));
    packet.extend_from_slice(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

/// An offer that a server can agree to, without strict key exchange.
fn kexinit() -> Vec<u8> {
    let mut payload = vec![msg::KEXINIT];
    payload.extend_from_slice(&[7; 16]);
    for names in [
        "curve25519-sha256",
        "ssh-ed25519",
        "aes128-ctr",
        "aes128-ctr",
        "hmac-sha2-256",
        "hmac-sha2-256",
        "none",
        "none",
        "",
        "",
    ] {
        payload.put_string(names);
    }
    payload.put_bool(false).put_uint32(0);
    packet(&payload)
}

const VERSION: &[u8] = b"SSH-2.0-hostile\r\n";

/// A connection, and what it runs on.
type LoggedIn = (tokio::runtime::Runtime, Connection<tokio::net::TcpStream>);

/// Logs in with nothing to show.
fn log_in(scene: &Scene) -> LoggedIn {
    log_in_with(scene, |_| {})
}

fn log_in_with(scene: &Scene, configure: impl FnOnce(&mut ClientConfig)) -> LoggedIn {
    log_in_over(scene, connect(scene.port()), configure)
}

fn log_in_over(
    scene: &Scene,
    socket: TcpStream,
    configure: impl FnOnce(&mut ClientConfig),
) -> LoggedIn {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let hosts = vec![scene.world.path("known_hosts")];
    let verifier = known_hosts::KnownHosts::new(hosts, "target", known_hosts::Mode::Off);
    let mut config = ClientConfig::new("hostile", Arc::new(verifier));
    configure(&mut config);
    let connection = runtime.block_on(async {
        socket.set_nonblocking(true).expect("our own socket");
        let socket = tokio::net::TcpStream::from_std(socket).expect("our own socket");
        Connection::connect(socket, config).await
    });
    (runtime, connection.expect("a login"))
}

fn message(number: u8, fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut message = vec![number];
    fields(&mut message);
    message
}

fn open_session(number: u32, window: u32) -> Vec<u8> {
    message(msg::CHANNEL_OPEN, |fields| {
        fields.put_string("session").put_uint32(number);
        fields.put_uint32(window).put_uint32(32 << 10);
    })
}

/// Sends `message` up to `count` times and reads next to nothing; stops when it is not taken for a while, or when the
/// connection has ended. Returns how many were taken.
fn flood(
    runtime: &tokio::runtime::Runtime,
    connection: &mut Connection<tokio::net::TcpStream>,
    count: u32,
    message: impl Fn(u32) -> Vec<u8>,
) -> u32 {
    runtime.block_on(async {
        for number in 0..count {
            let message = message(number);
            let sent = tokio::time::timeout(QUIET, connection.send(&message)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return number;
            }
        }
        let _ = tokio::time::timeout(QUIET, connection.flush()).await;
        count
    })
}

/// Of every kind, one after another as fast as they come, while real clients work.
#[test]
fn connections_by_the_thousand() {
    let Some(scene) = Scene::set() else { return };
    let is_full = std::env::var_os("SSMSHIM_FULL").is_some();
    let count = if is_full { 10_000 } else { 1_000 };
    let began = Instant::now();
    let port = scene.port();
    let storm = thread::spawn(move || {
        for number in 0..count {
            let mut socket = connect(port);
            let words: &[u8] = match number % 6 {
                0 => b"",
                1 => b"SSH-2.",
                2 => VERSION,
                3 => b"\xff\x00garbage\r\n\r\n",
                4 => b"GET / HTTP/1.0\r\n\r\n",
                _ => &[VERSION, &kexinit()].concat(),
            };
            // It may be gone already.
            let _ = socket.write_all(words);
            if number % 2 == 0 {
                reset(socket);
            }
        }
    });
    while !storm.is_finished() {
        scene.assert_serves();
    }
    storm.join().expect("every connection is taken");
    report(&format!("{count} connections in {:?}", began.elapsed()));
    scene.assert_unharmed("connections");
}

/// A hundred that stay as they are, at each stage before a login, while real clients work.
#[test]
fn half_open_connections_are_held() {
    let Some(scene) = Scene::set() else { return };
    let begun = [VERSION, &kexinit()].concat();
    let stages: [&[u8]; 4] = [b"", b"SSH-2.0-half a li", VERSION, &begun];
    let held: Vec<_> = (0..100)
        .map(|number| {
            let mut socket = connect(scene.port());
            socket
                .write_all(stages[number % 4])
                .expect("the endpoint reads");
            socket
        })
        .collect();
    for _ in 0..5 {
        scene.assert_serves();
    }
    drop(held);
    scene.assert_unharmed("half-open");
}

/// A byte at a time, each between two real clients: nobody waits for it.
#[test]
fn a_byte_at_a_time() {
    let Some(scene) = Scene::set() else { return };
    let mut slow: Vec<_> = (0..20).map(|_| connect(scene.port())).collect();
    for byte in VERSION.chunks(4) {
        for socket in &mut slow {
            socket.write_all(byte).expect("the endpoint reads");
        }
        scene.assert_serves();
    }
    drop(slow);
    scene.assert_unharmed("slow");
}

/// A hundred megabytes where one line belongs; they are not even read.
#[test]
fn a_version_without_end() {
    let Some(scene) = Scene::set() else { return };
    for start in ["SSH-2.0-", "", "many\n lines\n before\n"] {
        let mut socket = connect(scene.port());
        let _ = socket.write_all(start.as_bytes());
        let taken = (0..1600)
            .take_while(|_| socket.write_all(&[b'x'; 64 << 10]).is_ok())
            .count();
        assert!(taken < 1600, "all was read");
        assert_left(socket);
    }
    scene.assert_unharmed("version");
}

/// Packets whose length is wrong or too large, before there are keys.
#[test]
fn lengths_that_cannot_be() {
    let Some(scene) = Scene::set() else { return };
    let lengths = [0, 1, 11, 256 << 10 | 4, 1 << 20, 1 << 31, u32::MAX];
    for length in lengths {
        let mut socket = connect(scene.port());
        let words = [VERSION, &length.to_be_bytes(), &[4], &[b'x'; 2000]].concat();
        let _ = socket.write_all(&words);
        for _ in 0..16 {
            let _ = socket.write_all(&[b'x'; 64 << 10]);
        }
        assert_left(socket);
    }
    scene.assert_unharmed("lengths");
}

/// Offers without end, and resets in the middle of an exchange.
#[test]
fn key_exchanges_that_lead_nowhere() {
    let Some(scene) = Scene::set() else { return };
    for _ in 0..5 {
        let mut socket = connect(scene.port());
        let _ = socket.write_all(VERSION);
        let offers = kexinit().repeat(100);
        for _ in 0..10 {
            let _ = socket.write_all(&offers);
        }
        assert_left(socket);
    }
    for _ in 0..50 {
        let mut socket = connect(scene.port());
        socket
            .write_all(&[VERSION, &kexinit()].concat())
            .expect("the endpoint reads");
        let mut answer = [0; 300];
        socket.read_exact(&mut answer).expect("its offer");
        reset(socket);
    }
    scene.assert_unharmed("key exchanges");
}

/// What is not encrypted as agreed ends the connection, whatever length it seems to have.
#[test]
fn packets_that_were_not_sealed() {
    let Some(scene) = Scene::set() else { return };
    for size in [1, 16, 100, 1 << 20] {
        // The same socket as the connection's, which has nothing to write itself.
        let mut socket = connect(scene.port());
        let shared = socket.try_clone().expect("a handle");
        let (runtime, connection) = log_in_over(&scene, shared, |_| {});
        socket.set_nonblocking(false).expect("our own socket");
        let noise = Pattern::new(3).chunk(0);
        for chunk in noise.repeat(16)[..size].chunks(64 << 10) {
            let _ = socket.write_all(chunk);
        }
        common::net::Socket::finish_writing(&socket);
        assert_left(socket);
        drop((connection, runtime));
    }
    scene.assert_unharmed("noise");
}

/// Numbers that nobody has given a meaning are answered, and the connection goes on.
#[test]
fn messages_that_nobody_knows() {
    let Some(scene) = Scene::set() else { return };
    let (runtime, mut connection) = log_in(&scene);
    let mut unknown: Vec<u8> = (83..90).chain(101..=255).collect();
    let sent = flood(&runtime, &mut connection, 100_000, |number| {
        vec![unknown[number as usize % unknown.len()], 1, 2, 3]
    });
    report(&format!("{sent} unknown messages taken"));
    scene.assert_serves();
    drop((connection, runtime));

    // Those of local extensions are for sshd to judge, which ends the connection.
    unknown.retain(|number| *number < 192);
    let (runtime, mut connection) = log_in(&scene);
    for number in unknown {
        runtime
            .block_on(connection.send(&[number]))
            .expect("it is taken");
    }
    runtime
        .block_on(connection.send(&open_session(1, 1 << 20)))
        .expect("it is taken");
    let answer = runtime
        .block_on(connection.recv())
        .expect("the connection goes on");
    let answer = answer.expect("the connection goes on");
    assert!(matches!(
        answer[0],
        msg::CHANNEL_OPEN_CONFIRMATION | msg::GLOBAL_REQUEST
    ));
    drop((connection, runtime));
    scene.assert_unharmed("unknown messages");
}

/// Floods of what needs no window, their answers unread: the sender waits, and nobody else.
#[test]
fn floods_of_requests() {
    let Some(scene) = Scene::set() else { return };
    type Make = fn(u32) -> Vec<u8>;
    let floods: [(&str, Make); 5] = [
        ("global requests", |_| {
            message(msg::GLOBAL_REQUEST, |fields| {
                fields.put_string("keepalive@openssh.com").put_bool(true);
            })
        }),
        ("large requests", |_| {
            message(msg::GLOBAL_REQUEST, |fields| {
                fields.put_string("nobody@example.com").put_bool(true);
                fields.put_string(vec![0; 30_000]);
            })
        }),
        ("channel opens", |number| open_session(number, 1 << 20)),
        ("adjustments", |number| {
            message(msg::CHANNEL_WINDOW_ADJUST, |fields| {
                fields.put_uint32(number).put_uint32(1);
            })
        }),
        ("ignored messages", |_| {
            message(2, |fields| {
                fields.put_string([0; 20_000]);
            })
        }),
    ];
    for (name, make) in floods {
        let (runtime, mut connection) = log_in(&scene);
        let sent = flood(&runtime, &mut connection, 20_000, make);
        report(&format!("{name}: {sent} taken"));
        scene.assert_serves();
        drop((connection, runtime));
    }
    scene.assert_unharmed("floods");
}

/// More than the window allows ends the connection.
#[test]
fn windows_that_are_ignored() {
    let Some(scene) = Scene::set() else { return };
    let (runtime, mut connection) = log_in(&scene);
    let number = runtime.block_on(async {
        connection
            .send(&open_session(1, 1 << 20))
            .await
            .expect("it is taken");
        loop {
            let heard = connection
                .recv()
                .await
                .expect("an answer")
                .expect("an answer");
            if heard[0] == msg::CHANNEL_OPEN_CONFIRMATION {
                break u32::from_be_bytes(heard[5..9].try_into().expect("four bytes"));
            }
        }
    });
    let data = |_| {
        message(msg::CHANNEL_DATA, |fields| {
            fields.put_uint32(number).put_string([0; 30_000]);
        })
    };
    let sent = flood(&runtime, &mut connection, 10_000, data);
    report(&format!("{sent} packets beyond the window taken"));
    let mut is_over = false;
    runtime.block_on(async {
        while !is_over {
            let heard = tokio::time::timeout(DEADLINE, connection.recv()).await;
            is_over = !matches!(heard.expect("an end in time"), Ok(Some(_)));
        }
    });
    let farewell = connection
        .farewell()
        .map(|farewell| farewell.description.clone());
    assert!(farewell.is_none_or(|text| text.contains("window")));
    drop((connection, runtime));
    scene.assert_unharmed("window");
}

/// New keys for every few messages.
#[test]
fn a_storm_of_key_exchanges() {
    let Some(scene) = Scene::set() else { return };
    let (runtime, mut connection) = log_in_with(&scene, |config| {
        config.transport.rekey_bytes = 1;
    });
    let sent = flood(&runtime, &mut connection, 300, |_| {
        message(msg::GLOBAL_REQUEST, |fields| {
            fields.put_string("keepalive@openssh.com").put_bool(true);
        })
    });
    assert_eq!(sent, 300);
    scene.assert_serves();
    drop((connection, runtime));
    scene.assert_unharmed("key changes");
}
