//! The SSH transport with real clients: every algorithm both sides have, key exchanges under load.

mod common;

use common::flow::{CHUNK, Pattern};
use common::world::World;

cases! {
    every_cipher_moves_bytes,
    every_mac_moves_bytes,
    every_key_exchange_connects,
    compression_moves_bytes,
    rekey_under_load_both_ways,
    rekey_by_time_on_a_quiet_connection,
}

/// The algorithms our transport offers, in OpenSSH's names (see `docs` of `ssmshim::ssh`).
const CIPHERS: [&str; 6] = [
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
];
const MACS: [&str; 4] = [
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
];
const KEY_EXCHANGES: [&str; 6] = [
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
];

/// Sends `chunks` chunks through `cat` and compares what comes back.
fn round_trip(world: &World, options: &[&str], chunks: u64) {
    let pattern = Pattern::new(11);
    let bytes: Vec<u8> = (0..chunks).flat_map(|index| pattern.chunk(index)).collect();
    let output = world.ssh(options, "cat").stdin(bytes.clone()).ok();
    assert!(
        output.stdout == bytes,
        "{options:?}: what comes back differs"
    );
}

/// Whether the installed client knows `name`; an older OpenSSH lacks some.
fn client_knows(kind: &str, name: &str) -> bool {
    let known = common::process::Run::new("ssh")
        .args(["-Q", kind])
        .ok()
        .text();
    let knows = known.lines().any(|line| line == name);
    if !knows {
        common::skip(&format!("this ssh has no {name}"));
    }
    knows
}

fn every_cipher_moves_bytes(world: &World) {
    for cipher in CIPHERS.iter().filter(|name| client_knows("cipher", name)) {
        round_trip(world, &["-c", cipher], 20);
    }
}

fn every_mac_moves_bytes(world: &World) {
    for mac in MACS.iter().filter(|name| client_knows("mac", name)) {
        round_trip(world, &["-c", "aes128-ctr", "-m", mac], 20);
    }
}

fn every_key_exchange_connects(world: &World) {
    for name in KEY_EXCHANGES
        .iter()
        .filter(|name| client_knows("kex", name))
    {
        round_trip(world, &["-o", &format!("KexAlgorithms={name}")], 1);
    }
}

fn compression_moves_bytes(world: &World) {
    round_trip(world, &["-C"], 40);
    let zeros = world.ssh(&["-C"], "head -c 10000000 /dev/zero").ok();
    assert_eq!(zeros.stdout.len(), 10_000_000);
}

/// A key exchange every MiB, while bytes flow in both directions, with each kind of cipher.
fn rekey_under_load_both_ways(world: &World) {
    for cipher in [
        "aes256-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
        "aes256-ctr",
    ] {
        round_trip(
            world,
            &["-c", cipher, "-o", "RekeyLimit=1M"],
            (8 << 20) / CHUNK as u64,
        );
    }
}

fn rekey_by_time_on_a_quiet_connection(world: &World) {
    let options = ["-v", "-o", "RekeyLimit=1G 1s"];
    let output = world
        .ssh(&options, "for n in 1 2 3; do sleep 1.1; echo $n; done")
        .ok();
    assert_eq!(output.text(), "1\n2\n3");
    let exchanges = output.stderr.matches("SSH2_MSG_NEWKEYS received").count();
    assert!(
        exchanges >= 2,
        "{exchanges} key exchanges: {}",
        output.stderr
    );
}
