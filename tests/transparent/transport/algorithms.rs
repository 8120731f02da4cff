//! Every algorithm that the client, sshd and we share; what a person sees of those that we lack.

use crate::common::process::Run;
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {
        ciphers,
        macs,
        key_exchanges,
        host_key_algorithms,
        strict_key_exchange,
        compression_on_the_near_hop,
        ip_qos,
    }
    everywhere: {}
}

mod compressed {
    //! sshd compresses as well.

    use super::compression_on_the_near_hop;
    crate::differential! {
        sshd: "Compression yes",
        compared: { compression_on_the_near_hop }
        everywhere: {}
    }
}

/// What OpenSSH has and our transport lacks, each for a reason: SHA-1, CBC and MD5 are broken or weak, finite field
/// groups and UMAC are used by nobody who has not one of the others, and sntrup761 was superseded by mlkem768.
const LACKING: [&str; 29] = [
    "diffie-hellman-group1-sha1",
    "diffie-hellman-group14-sha1",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group-exchange-sha1",
    "diffie-hellman-group-exchange-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "3des-cbc",
    "aes128-cbc",
    "aes192-cbc",
    "aes256-cbc",
    "hmac-sha1",
    "hmac-sha1-96",
    "hmac-md5",
    "hmac-md5-96",
    "umac-64@openssh.com",
    "umac-128@openssh.com",
    "hmac-sha1-etm@openssh.com",
    "hmac-sha1-96-etm@openssh.com",
    "hmac-md5-etm@openssh.com",
    "hmac-md5-96-etm@openssh.com",
    "umac-64-etm@openssh.com",
    "umac-128-etm@openssh.com",
    "ssh-dss",
    "ssh-rsa",
    "rsa-sha2-256",
    "rsa-sha2-512",
];

/// Runs a command with each algorithm of the client's that we do not lack.
fn each(world: &World, seen: &mut Seen, query: &str, options: impl Fn(&str) -> Vec<String>) {
    let names = Run::new("ssh").args(["-Q", query]).ok().text();
    let mut shared = 0;
    for name in names.lines().filter(|name| !LACKING.contains(name)) {
        let options = options(name);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let run = world.ssh(&options, "cat; echo err >&2; exit 6");
        let output = seen.run(name, run.stdin(vec![b'x'; 200_000]));
        shared += usize::from(output.code == 6);
    }
    seen.note("shared", shared);
    assert!(shared > 2, "{shared} of {names}");
}

fn ciphers(world: &World, seen: &mut Seen) {
    each(world, seen, "cipher", |name| vec!["-c".into(), name.into()]);
}

fn macs(world: &World, seen: &mut Seen) {
    each(world, seen, "mac", |name| {
        vec!["-c".into(), "aes128-ctr".into(), "-m".into(), name.into()]
    });
}

fn key_exchanges(world: &World, seen: &mut Seen) {
    each(world, seen, "kex", |name| {
        vec!["-o".into(), format!("KexAlgorithms={name}")]
    });
}

/// Both have an Ed25519 host key; which others is each one's own affair.
fn host_key_algorithms(world: &World, seen: &mut Seen) {
    for names in [
        "ssh-ed25519",
        "ssh-ed25519,rsa-sha2-512",
        "rsa-sha2-512,ssh-ed25519",
        "+ssh-rsa",
        "-ecdsa*",
        "^ssh-ed25519",
    ] {
        let option = format!("HostKeyAlgorithms={names}");
        seen.run(names, world.ssh(&["-o", &option], "echo fine"));
    }
}

/// The lines of `ssh -vvv` that tell of the countermeasure to CVE-2023-48795, and of what the server can sign.
/// Those that begin with `Remote:` are missing: sshd says them of the key that logs in, which is ours at it.
fn strict_key_exchange(world: &World, seen: &mut Seen) {
    let output = world.ssh(&["-vvv"], "exit 3").output();
    seen.note("status", output.code);
    for wanted in [
        "kex-strict-s-v00@openssh.com",
        "will use strict KEX ordering",
        "resetting send seqnr",
        "resetting read seqnr",
        "SSH2_MSG_EXT_INFO received",
        "server-sig-algs",
        "Authenticated to 127.0.0.1",
        "Exit status 3",
        "Entering interactive session",
    ] {
        seen.note(wanted, output.stderr.contains(wanted));
    }
}

fn compression_on_the_near_hop(world: &World, seen: &mut Seen) {
    let mut noise = vec![0_u8; 3 << 20];
    let mut state = 1_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    for input in [vec![b'x'; 3 << 20], noise, Vec::new()] {
        let label = format!("{} bytes", input.len());
        let options = ["-C", "-o", "RekeyLimit=1M"];
        seen.run(&label, world.ssh(&options, "cat; exit 4").stdin(input));
    }
    let output = world.ssh(&["-C", "-v"], "true").output();
    let is_on = output.stderr.contains("Enabling compression");
    seen.note("compression", is_on);
}

fn ip_qos(world: &World, seen: &mut Seen) {
    for value in ["none", "lowdelay throughput", "af21 cs1", "ef"] {
        let option = format!("IPQoS={value}");
        seen.run(value, world.ssh(&["-o", &option], "echo fine; exit 2"));
    }
}
