//! Somebody between the ends who reads and changes what is said in the clear.

use super::super::packet::{PacketReader, PacketWriter};
use super::*;
use crate::ssh::host_key;

/// What somebody between the ends sees and may change before encryption begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    ClientVersion,
    ServerVersion,
    /// A message of this number from the client.
    Client(u8),
    /// A message of this number from the server.
    Server(u8),
}

/// Hands everything one end says in the clear to `change`; what is encrypted passes as it is.
struct Wire {
    from: Role,
    greeting_seen: bool,
    encrypted: bool,
    reader: PacketReader,
    writer: PacketWriter,
}

impl Wire {
    fn new(from: Role) -> Self {
        Self {
            from,
            greeting_seen: false,
            encrypted: false,
            reader: PacketReader::new(),
            writer: PacketWriter::new(),
        }
    }

    fn pass(&mut self, mut bytes: &[u8], change: &mut impl FnMut(Said, &mut Vec<u8>)) -> BytesMut {
        let mut output = BytesMut::new();
        if !self.greeting_seen && !bytes.is_empty() {
            self.greeting_seen = true;
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let mut line = bytes[..end].to_vec();
            bytes = &bytes[end..];
            change(
                match self.from {
                    Role::Client => Said::ClientVersion,
                    Role::Server => Said::ServerVersion,
                },
                &mut line,
            );
            output.extend_from_slice(&line);
        }
        while !self.encrypted
            && let Some((_, payload)) = self.reader.read(&mut bytes).unwrap()
        {
            let mut payload = payload.to_vec();
            let number = payload[0];
            let said = match self.from {
                Role::Client => Said::Client(number),
                Role::Server => Said::Server(number),
            };
            change(said, &mut payload);
            self.writer.seal(&payload, &mut output).unwrap();
            self.encrypted = number == msg::NEWKEYS;
        }
        output.extend_from_slice(bytes);
        output
    }
}

/// Runs the first key exchange with somebody in between; the error that ended it.
fn tampered(config: &Config, mut change: impl FnMut(Said, &mut Vec<u8>)) -> Option<Error> {
    let mut pair = Pair::new(config.clone(), config.clone());
    let (mut up, mut down) = (Wire::new(Role::Client), Wire::new(Role::Server));
    loop {
        let to_server = pair.client.transport.output().split();
        let to_client = pair.server.transport.output().split();
        if to_server.is_empty() && to_client.is_empty() {
            assert!(pair.client.has(&Event::Established));
            return None;
        }
        let to_server = up.pass(&to_server, &mut change);
        let to_client = down.pass(&to_client, &mut change);
        let result = pair.server.receive(pair.now, &to_server);
        let result = result.and_then(|()| pair.client.receive(pair.now, &to_client));
        if let Err(error) = result {
            let host_key = |event: &Event| matches!(event, Event::HostKey { .. });
            assert!(!pair.client.events.iter().any(host_key));
            return Some(error);
        }
    }
}

#[test]
fn the_signature_covers_everything_said() {
    const WRONG: host_key::Error = host_key::Error::WrongSignature;
    let version: fn(&mut Vec<u8>) = |line| line[9] ^= 1;
    let cookie: fn(&mut Vec<u8>) = |offer| offer[16] ^= 1;
    let reserved: fn(&mut Vec<u8>) = |offer| *offer.last_mut().unwrap() ^= 1;
    let last: fn(&mut Vec<u8>) = |message| *message.last_mut().unwrap() ^= 1;
    // In the reply: the last byte of the host key, and a byte in the middle of the public value.
    let host_key: fn(&mut Vec<u8>) = |reply| reply[4 + 4 + 11 + 4 + 32] ^= 1;
    let value: fn(&mut Vec<u8>) = |reply| reply[1 + 4 + 51 + 4 + 16] ^= 1;
    let cases = [
        (Said::ClientVersion, version),
        (Said::ServerVersion, version),
        (Said::Client(msg::KEXINIT), cookie),
        (Said::Client(msg::KEXINIT), reserved),
        (Said::Server(msg::KEXINIT), cookie),
        (Said::Server(msg::KEXINIT), reserved),
        (Said::Client(msg::KEX_ECDH_INIT), last),
        (Said::Server(msg::KEX_ECDH_REPLY), host_key),
        (Said::Server(msg::KEX_ECDH_REPLY), value),
        (Said::Server(msg::KEX_ECDH_REPLY), last),
    ];
    for kex in [Kex::Curve25519, Kex::MlKem768X25519] {
        let config = Config {
            kex: vec![kex],
            ..Config::default()
        };
        assert!(tampered(&config, |_, _| {}).is_none());
        for (what, change) in cases {
            let mut times = 0;
            let error = tampered(&config, |said, bytes| {
                if said == what {
                    times += 1;
                    change(bytes);
                }
            });
            assert_eq!(times, 1, "{what:?}");
            let is_wrong = matches!(error, Some(Error::HostKey(error)) if error == WRONG);
            assert!(is_wrong, "{kex:?} {what:?}: {error:?}");
        }
    }
}

#[test]
fn a_signature_of_another_exchange_is_refused() {
    // Somebody who recorded a reply, complete with signature, plays it again.
    let mut recorded = Vec::new();
    let record = |said, bytes: &mut Vec<u8>| {
        if said == Said::Server(msg::KEX_ECDH_REPLY) {
            recorded = bytes.clone();
        }
    };
    assert!(tampered(&Config::default(), record).is_none());
    let error = tampered(&Config::default(), |said, bytes| {
        if said == Said::Server(msg::KEX_ECDH_REPLY) {
            bytes.clone_from(&recorded);
        }
    });
    let expected = host_key::Error::WrongSignature;
    assert!(matches!(error, Some(Error::HostKey(error)) if error == expected));
}

#[test]
fn a_weaker_choice_cannot_be_forced() {
    // Taking names from the lists changes the hash even where the choice stays the same.
    for name in [
        "aes128-gcm@openssh.com",
        "kex-strict-c-v00@openssh.com",
        "curve25519-sha256",
    ] {
        let error = tampered(&Config::default(), |said, bytes| {
            let is_name = |window: &[u8]| window == name.as_bytes();
            if said == Said::Client(msg::KEXINIT)
                && let Some(at) = bytes.windows(name.len()).position(is_name)
            {
                bytes[at] = b'x';
            }
        });
        assert!(error.is_some(), "{name}");
    }
}

#[test]
fn low_order_points_end_the_exchange() {
    for (number, at) in [
        (msg::KEX_ECDH_INIT, 5),
        (msg::KEX_ECDH_REPLY, 1 + 4 + 51 + 4),
    ] {
        let config = Config {
            kex: vec![Kex::Curve25519],
            ..Config::default()
        };
        let error = tampered(&config, |said, bytes| {
            if matches!(said, Said::Client(n) | Said::Server(n) if n == number) {
                bytes[at..at + 32].fill(0);
            }
        });
        assert!(matches!(error, Some(Error::KeyExchange(_))), "{error:?}");
    }
}

#[test]
fn malformed_exchange_messages_are_refused() {
    for number in [msg::KEXINIT, msg::KEX_ECDH_INIT, msg::KEX_ECDH_REPLY] {
        for keep in [1, 2, 20, 30] {
            let error = tampered(&Config::default(), |said, bytes| {
                if matches!(said, Said::Client(n) | Said::Server(n) if n == number) {
                    bytes.truncate(keep);
                }
            });
            let expected =
                matches!(error, Some(Error::InvalidMessage { number: n, .. }) if n == number);
            assert!(expected, "{number} {keep}: {error:?}");
        }
        if number != msg::KEXINIT {
            let error = tampered(&Config::default(), |said, bytes| {
                if matches!(said, Said::Client(n) | Said::Server(n) if n == number) {
                    bytes.push(0);
                }
            });
            assert!(matches!(error, Some(Error::InvalidMessage { .. })));
        }
    }
}
