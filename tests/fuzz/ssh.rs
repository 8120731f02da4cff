//! What an SSH peer can send before it is trusted, and the files and keys that decide whether it is.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ssmshim::ssh::auth::client::{Client, Event, Offer};
use ssmshim::ssh::auth::server::{Policy, Server, Verdict};
use ssmshim::ssh::host_key::{self, Algorithm, HostKey};
use ssmshim::ssh::known_hosts::{KnownHosts, Mode};
use ssmshim::ssh::messages::{Message, merge_data, with_initial_window};
use ssmshim::ssh::transport::algorithm::Named as _;
use ssmshim::ssh::transport::{self, Transport};
use ssmshim::ssh::verifier::HostKeyVerifier as _;
use ssmshim::ssh::wire::{WriteExt as _, msg};

use crate::Lengths;

// Transport, before the first keys

/// An unencrypted packet (RFC 4253 §6).
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 4 + (8 - (payload.len() + 9) % 8) % 8;
    let mut packet = Vec::new();
    packet.put_uint32((1 + payload.len() + padding) as u32);
    packet.put_byte(padding as u8).put_raw(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

fn kexinit(kex: &str) -> Vec<u8> {
    let mut payload = vec![msg::KEXINIT];
    payload.put_raw(&[7; 16]);
    for names in [
        kex,
        "ssh-ed25519,rsa-sha2-512",
        "aes128-ctr,chacha20-poly1305@openssh.com",
        "aes256-gcm@openssh.com,aes128-ctr",
        "hmac-sha2-256",
        "hmac-sha2-256-etm@openssh.com,hmac-sha2-512",
        "none,zlib@openssh.com",
        "none",
        "",
        "",
    ] {
        payload.put_string(names);
    }
    payload.put_bool(false).put_uint32(0);
    payload
}

/// A point of every curve, or something as long, and what goes before and after it.
fn greetings(version: &str, strict: &str, reply: impl Fn(&[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
    let exchanges: [(&str, Vec<u8>); 3] = [
        ("curve25519-sha256", vec![9; 32]),
        ("ecdh-sha2-nistp256", [vec![4], vec![0x21; 64]].concat()),
        ("mlkem768x25519-sha256", vec![5; 1_120]),
    ];
    let mut corpus = vec![
        version.as_bytes().to_vec(),
        [b"a line of text\r\n", version.as_bytes()].concat(),
    ];
    for (kex, point) in exchanges {
        let mut greeting = version.as_bytes().to_vec();
        greeting.extend(packet(&kexinit(&format!("{kex},ext-info-c{strict}"))));
        corpus.push(greeting.clone());
        greeting.extend(packet(&[msg::IGNORE, 0, 0, 0, 1, b'x']));
        greeting.extend(packet(&reply(&point)));
        greeting.extend(packet(&[msg::NEWKEYS]));
        greeting.extend(packet(&[
            msg::DISCONNECT,
            0,
            0,
            0,
            2,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]));
        corpus.push(greeting);
    }
    corpus
}

pub(crate) fn client_greetings() -> Vec<Vec<u8>> {
    let init = |point: &[u8]| {
        let mut payload = vec![msg::KEX_ECDH_INIT];
        payload.put_string(point);
        payload
    };
    let mut corpus = greetings("SSH-2.0-PuTTY_Release_0.80\r\n", "", init);
    let strict = ",kex-strict-c-v00@openssh.com";
    corpus.extend(greetings("SSH-2.0-OpenSSH_9.2\r\n", strict, init));
    corpus
}

pub(crate) fn server_greetings() -> Vec<Vec<u8>> {
    greetings(
        "SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
        ",kex-strict-s-v00@openssh.com",
        |point| {
            let mut payload = vec![msg::KEX_ECDH_REPLY];
            payload.put_string(our_key().public_blob());
            payload.put_string(point);
            payload.put_string(sign(b"something else"));
            payload
        },
    )
}

fn sign(data: &[u8]) -> Vec<u8> {
    our_key().sign(data).expect("a signature")
}

fn our_key() -> &'static Arc<HostKey> {
    static KEY: OnceLock<Arc<HostKey>> = OnceLock::new();
    KEY.get_or_init(|| {
        let pem = include_str!("../../keys/ed25519");
        Arc::new(HostKey::from_openssh(pem).expect("a key file of ours"))
    })
}

pub(crate) fn transport_client(input: &[u8]) {
    transport(
        Transport::client(transport::Config::default(), Instant::now()),
        input,
    );
}

pub(crate) fn transport_server(input: &[u8]) {
    let keys = vec![Arc::clone(our_key())];
    let server = Transport::server(transport::Config::default(), keys, Instant::now());
    transport(server, input);
}

/// Nothing is believed without a signature or a tag, and no answer grows without bound.
///
/// A server may well get as far as new keys: that much anybody can say in clear.
fn transport(mut transport: Transport, input: &[u8]) {
    let now = Instant::now();
    for chunk in input.chunks(300) {
        let result = transport.handle_input(now, chunk);
        while let Some(event) = transport.poll_event() {
            use transport::Event::{Disconnected, Established};
            let is_harmless = matches!(event, Established | Disconnected { .. });
            assert!(is_harmless, "{event:?}");
        }
        if result.is_err() {
            break;
        }
    }
    assert!(transport.output().len() < 64 * 1024);
}

// Authentication

/// The wire forms of all public keys and certificates in `keys/`.
pub(crate) fn public_keys() -> Vec<Vec<u8>> {
    [
        include_str!("../../keys/ed25519.pub"),
        include_str!("../../keys/ecdsa_p256.pub"),
        include_str!("../../keys/ecdsa_p521.pub"),
        include_str!("../../keys/rsa2048.pub"),
        include_str!("../../keys/user_cert-cert.pub"),
        include_str!("../../keys/host_cert-cert.pub"),
        include_str!("../../keys/rsa_user_cert-cert.pub"),
    ]
    .map(|line| {
        let base64 = line.split(' ').nth(1).expect("type and key");
        STANDARD.decode(base64).expect("base64")
    })
    .to_vec()
}

fn algorithm_of(blob: &[u8]) -> &str {
    let length = u32::from_be_bytes(*blob.first_chunk().expect("a key")) as usize;
    match std::str::from_utf8(&blob[4..4 + length]).expect("a name") {
        "ssh-rsa" => "rsa-sha2-512",
        "ssh-rsa-cert-v01@openssh.com" => "rsa-sha2-512-cert-v01@openssh.com",
        name => name,
    }
}

pub(crate) fn auth_requests() -> Vec<Vec<u8>> {
    let mut service = vec![msg::SERVICE_REQUEST];
    service.put_string("ssh-userauth");
    let request = |method: &str| {
        let mut request = vec![msg::USERAUTH_REQUEST];
        request
            .put_string("someone")
            .put_string("ssh-connection")
            .put_string(method);
        request
    };
    let mut requests = vec![request("none")];
    for blob in public_keys() {
        for signature in [None, Some(sign(b"something else"))] {
            let mut request = request("publickey");
            request.put_bool(signature.is_some());
            request.put_string(algorithm_of(&blob)).put_string(&blob);
            if let Some(signature) = signature {
                request.put_string(signature);
            }
            requests.push(request);
        }
    }
    let mut password = request("password");
    password.put_bool(false).put_string("secret");
    requests.push(password);
    requests
        .iter()
        .map(|request| [Lengths::join(&service), Lengths::join(request)].concat())
        .collect()
}

/// Welcomes every key, so that signatures are looked at; nobody can make a valid one.
struct Hospitable;

impl Policy for Hospitable {
    fn methods(&self) -> &[&'static str] {
        &["publickey"]
    }

    fn publickey(&mut self, _: &str, _: &russh::keys::PublicKey, _: &str) -> Verdict {
        Verdict::Accept
    }

    fn certificate(&mut self, _: &str, _: &russh::keys::Certificate, _: &str) -> Verdict {
        Verdict::Accept
    }
}

pub(crate) fn auth_server(input: &[u8]) {
    let mut server = Server::new(b"session");
    // Within the dates of the certificates in `keys/`.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for message in Lengths(input) {
        if server.handle_input(now, message, &mut Hospitable).is_err() {
            break;
        }
        while server.poll_transmit().is_some() {}
    }
    assert_eq!(server.user(), None);
}

pub(crate) fn auth_answers() -> Vec<Vec<u8>> {
    let mut accept = vec![msg::SERVICE_ACCEPT];
    accept.put_string("ssh-userauth");
    let mut banner = vec![msg::USERAUTH_BANNER];
    banner.put_string("be \x1b[31mwelcome\n").put_string("");
    let mut failure = vec![msg::USERAUTH_FAILURE];
    failure
        .put_string("publickey,password,keyboard-interactive")
        .put_bool(true);
    let mut welcome = vec![msg::USERAUTH_PK_OK];
    welcome
        .put_string("ssh-ed25519")
        .put_string(our_key().public_blob());
    let mut questions = vec![msg::USERAUTH_INFO_REQUEST];
    questions
        .put_string("name")
        .put_string("instruction")
        .put_string("")
        .put_uint32(2);
    questions
        .put_string("Password: ")
        .put_bool(false)
        .put_string("Code: ")
        .put_bool(true);
    let success = vec![msg::USERAUTH_SUCCESS];
    let ways: [&[&Vec<u8>]; 4] = [
        &[
            &accept, &banner, &failure, &welcome, &failure, &failure, &failure,
        ],
        &[
            &accept, &failure, &failure, &failure, &questions, &questions, &success,
        ],
        &[&accept, &failure, &welcome, &banner, &success],
        &[&accept, &success],
    ];
    ways.map(|way| {
        way.iter()
            .flat_map(|message| Lengths::join(message))
            .collect()
    })
    .to_vec()
}

pub(crate) fn auth_client(input: &[u8]) {
    let key = Offer::PublicKey {
        blob: our_key().public_blob().to_vec(),
        label: "key".to_owned(),
        query: true,
    };
    let offers = vec![
        key,
        Offer::Password { retry: true },
        Offer::KeyboardInteractive,
    ];
    let mut client = Client::new(b"session", "someone", offers);
    for message in Lengths(input) {
        if client.handle_input(message).is_err() {
            break;
        }
        while let Some(event) = client.poll_event() {
            match event {
                Event::Banner(text) => assert!(!text.contains('\x1b')),
                Event::Sign { data, .. } => client.signed(Some(&sign(&data))),
                Event::Password { .. } => client.password(Some("secret")),
                Event::Questions { questions, .. } => {
                    client.answered(Some(&vec!["answer"; questions.prompts.len()]));
                }
                _ => {}
            }
        }
        while client.poll_transmit().is_some() {}
    }
}

// Messages 80 and up

pub(crate) fn connection_messages() -> Vec<Vec<u8>> {
    let mut global = vec![msg::GLOBAL_REQUEST];
    global
        .put_string("tcpip-forward")
        .put_bool(true)
        .put_string("localhost")
        .put_uint32(0);
    let mut open = vec![msg::CHANNEL_OPEN];
    open.put_string("session")
        .put_uint32(0)
        .put_uint32(2 << 20)
        .put_uint32(32 << 10);
    let mut confirmation = vec![msg::CHANNEL_OPEN_CONFIRMATION];
    confirmation
        .put_uint32(0)
        .put_uint32(1)
        .put_uint32(2 << 20)
        .put_uint32(32 << 10);
    let mut failure = vec![msg::CHANNEL_OPEN_FAILURE];
    failure
        .put_uint32(0)
        .put_uint32(1)
        .put_string("no")
        .put_string("");
    let mut data = vec![msg::CHANNEL_DATA];
    data.put_uint32(0).put_string("hello");
    let mut extended = vec![msg::CHANNEL_EXTENDED_DATA];
    extended.put_uint32(0).put_uint32(1).put_string("hello");
    let mut request = vec![msg::CHANNEL_REQUEST];
    request
        .put_uint32(0)
        .put_string("exec")
        .put_bool(true)
        .put_string("true");
    let mut corpus = vec![global, open, confirmation, failure, data, extended, request];
    corpus.push(vec![msg::CHANNEL_WINDOW_ADJUST, 0, 0, 0, 0, 0, 0x20, 0, 0]);
    corpus.push(vec![msg::CHANNEL_CLOSE, 0, 0, 0, 0]);
    corpus
}

/// What is done to a message on its way keeps it a message.
pub(crate) fn connection_message(input: &[u8]) {
    let message = Bytes::copy_from_slice(input);
    let is_valid = Message::parse(&message) != Message::Malformed;
    let clamped = with_initial_window(message.clone(), 1_000);
    assert_eq!(clamped.len(), message.len());
    assert_eq!(Message::parse(&clamped) != Message::Malformed, is_valid);
    let mut tail = Bytes::from_static(b"\x5e\0\0\0\0\0\0\0\x01x");
    if merge_data(&mut tail, &message, 4096) && is_valid {
        assert_ne!(Message::parse(&tail), Message::Malformed);
    }
}

// Keys of the other end

/// Nothing that is presented as a key verifies a signature it did not make.
pub(crate) fn host_key(input: &[u8]) {
    static SIGNATURE: OnceLock<Vec<u8>> = OnceLock::new();
    let signature = SIGNATURE.get_or_init(|| sign(b"something else"));
    for algorithm in Algorithm::ALL {
        assert!(host_key::verify(input, *algorithm, b"data", signature).is_err());
        let _ = host_key::verify(our_key().public_blob(), *algorithm, b"data", input);
    }
}

pub(crate) fn known_hosts_files() -> Vec<Vec<u8>> {
    let ed25519 = include_str!("../../keys/ed25519.pub");
    let ca = include_str!("../../keys/host_ca.pub");
    let rsa = include_str!("../../keys/rsa2048.pub");
    [
        format!("i-0123 {rsa}# comment\n\ni-4567,i-89* {ed25519}"),
        format!("@cert-authority *.example,!bad.example {ca}@revoked i-0123 {rsa}"),
        format!("|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= {ed25519}"),
        format!("[i-0123]:2222 {ed25519}"),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// A damaged file never vouches for a key that no line of it holds.
pub(crate) fn known_hosts(input: &[u8]) {
    static FILE: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let file = FILE.get_or_init(|| tempfile::NamedTempFile::new().expect("a temporary file"));
    std::fs::write(file.path(), input).expect("a writable file");
    let known = KnownHosts::new(vec![file.path().to_owned()], "i-0123", Mode::Yes);
    static OTHER: OnceLock<HostKey> = OnceLock::new();
    let other = OTHER.get_or_init(|| HostKey::generate().expect("a key"));
    assert!(known.verify(other.public_blob()).is_err());
    let _ = known.verify(our_key().public_blob());
}
