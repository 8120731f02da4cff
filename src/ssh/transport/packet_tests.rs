use super::super::algorithm::{Cipher, Kex, Mac, Named};
use super::super::cipher::{Direction, Suite};
use super::super::exchange_hash::{KeySource, Letters};
use super::super::kex::{self, ClientKex};
use super::*;

/// Both ends of one direction, under fresh keys.
fn protections(cipher: Cipher, mac: Mac) -> (Protection, Protection) {
    let (_, init) = ClientKex::begin(Kex::Curve25519).unwrap();
    let (_, secret) = kex::respond(Kex::Curve25519, &init).unwrap();
    let source = KeySource {
        algorithm: kex::hash(Kex::Curve25519),
        secret: &secret,
        hash: b"hash",
        session_id: b"session",
        letters: Letters::CLIENT_TO_SERVER,
    };
    let suite = Suite {
        cipher,
        mac: Some(mac),
    };
    let make = |direction| Protection::new(suite, direction, &source).unwrap();
    (make(Direction::Outgoing), make(Direction::Incoming))
}

fn keys(protection: Protection) -> Keys {
    Keys {
        protection,
        compression: Compression::None,
    }
}

fn ends(cipher: Cipher, mac: Mac) -> (PacketWriter, PacketReader) {
    let (outgoing, incoming) = protections(cipher, mac);
    let (mut writer, mut reader) = (PacketWriter::new(), PacketReader::new());
    writer.rekey(keys(outgoing), true, true);
    reader.rekey(keys(incoming), true, true);
    (writer, reader)
}

fn for_each_suite(check: impl Fn(Cipher, Mac)) {
    for cipher in Cipher::ALL {
        for mac in Mac::ALL {
            check(*cipher, *mac);
        }
    }
}

#[test]
fn impossible_lengths_are_refused() {
    // RFC 4253 §6: at least 16 bytes in all, in blocks of 8.
    for length in [0, 1, 4, 5, 11, 13, 16, 262_145, 262_148, 262_149, u32::MAX] {
        let mut reader = PacketReader::new();
        let refused = reader.read(&mut &length.to_be_bytes()[..]);
        assert!(matches!(refused, Err(Error::InvalidPacket(_))), "{length}");
    }
    for length in [12, 20, 262_140] {
        let mut reader = PacketReader::new();
        assert!(
            reader
                .read(&mut &u32::to_be_bytes(length)[..])
                .unwrap()
                .is_none()
        );
    }
    // Under encryption it is not told apart from a wrong tag.
    for_each_suite(|cipher, mac| {
        let (mut outgoing, incoming) = protections(cipher, mac);
        let mut packet = vec![0xff; 64];
        let mut tag = vec![0; outgoing.tag_size()];
        outgoing.seal(0, &mut packet, &mut tag).unwrap();
        let mut reader = PacketReader::new();
        reader.rekey(keys(incoming), true, true);
        assert!(matches!(
            reader.read(&mut packet.as_slice()),
            Err(Error::Corrupt)
        ));
    });
}

#[test]
fn impossible_padding_is_refused() {
    for_each_suite(|cipher, mac| {
        let read_with = |padding: u8| {
            let (mut outgoing, incoming) = protections(cipher, mac);
            let mut packet = vec![7; 32 + LENGTH_BYTES - outgoing.aligned_length_bytes()];
            let length = (packet.len() - LENGTH_BYTES) as u32;
            packet[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
            packet[LENGTH_BYTES] = padding;
            let mut tag = vec![0; outgoing.tag_size()];
            outgoing.seal(0, &mut packet, &mut tag).unwrap();
            packet.extend(tag);
            let mut reader = PacketReader::new();
            reader.rekey(keys(incoming), true, true);
            (length as u8, reader.read(&mut packet.as_slice()))
        };
        let (length, result) = read_with(4);
        assert!(result.unwrap().is_some());
        assert!(read_with(length - 2).1.unwrap().is_some());
        // Too few, no payload, past the end.
        for padding in [0, 3, length - 1, length, 255] {
            let (_, result) = read_with(padding);
            assert!(
                matches!(result, Err(Error::InvalidPacket(_))),
                "{cipher:?} {padding}"
            );
        }
    });
}

#[test]
fn padding_is_the_least_allowed() {
    for_each_suite(|cipher, mac| {
        let (mut writer, mut reader) = ends(cipher, mac);
        for size in 1..100 {
            let mut output = BytesMut::new();
            writer.seal(&vec![9; size], &mut output).unwrap();
            let overhead = output.len() - size - HEADER - writer.protection.tag_size();
            assert!((4..4 + writer.protection.block_size()).contains(&overhead));
            let (_, payload) = reader.read(&mut &output[..]).unwrap().unwrap();
            assert_eq!(payload, vec![9; size]);
        }
    });
}

#[test]
fn no_nonce_is_used_twice() {
    for_each_suite(|cipher, mac| {
        let payload = [42; 64];
        let mut seen = std::collections::HashSet::new();
        for _ in 0..2 {
            // New keys, but the same sequence numbers: as after a strict key exchange.
            let (mut writer, mut reader) = ends(cipher, mac);
            for _ in 0..20 {
                let mut output = BytesMut::new();
                writer.seal(&payload, &mut output).unwrap();
                // The payload alone: length and random padding would differ by themselves.
                assert!(seen.insert(output[16..64].to_vec()), "{cipher:?}");
                reader.read(&mut &output[..]).unwrap().unwrap();
            }
        }
    });
}

#[test]
fn sequence_numbers_come_round_but_keys_end_before() {
    for_each_suite(|cipher, mac| {
        let (mut writer, mut reader) = ends(cipher, mac);
        writer.sequence = u32::MAX;
        reader.sequence = u32::MAX;
        for expected in [u32::MAX, 0, 1] {
            let mut output = BytesMut::new();
            writer.seal(&[1], &mut output).unwrap();
            let (sequence, _) = reader.read(&mut &output[..]).unwrap().unwrap();
            assert_eq!(sequence, expected);
        }
        assert!(!writer.is_rekey_due(1 << 30));
        writer.usage.packets = REKEY_PACKETS;
        assert!(writer.is_rekey_due(1 << 30));
        writer.usage.packets = MAX_PACKETS_PER_KEY - 1;
        let mut output = BytesMut::new();
        writer.seal(&[1], &mut output).unwrap();
        assert!(matches!(
            writer.seal(&[1], &mut output),
            Err(Error::SequenceExhausted)
        ));
        reader.usage.packets = MAX_PACKETS_PER_KEY;
        let refused = reader.read(&mut &output[..]);
        assert!(matches!(refused, Err(Error::SequenceExhausted)));
    });
}

#[test]
fn at_most_one_packet_is_kept() {
    let (mut writer, mut reader) = ends(Cipher::Aes128Gcm, Mac::HmacSha256);
    let mut output = BytesMut::new();
    for _ in 0..10 {
        writer.seal(&[1; 1000], &mut output).unwrap();
    }
    let mut input = &output[..output.len() - 1];
    let mut count = 0;
    while reader.read(&mut input).unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 9);
    assert!(input.is_empty());
    assert!(reader.partial.len() < 1100);
}

#[test]
fn bytes_count_towards_new_keys() {
    let (mut writer, mut reader) = ends(Cipher::Aes128Gcm, Mac::HmacSha256);
    let mut output = BytesMut::new();
    writer.seal(&[1; 1000], &mut output).unwrap();
    reader.read(&mut &output[..]).unwrap();
    let size = output.len() as u64;
    assert!(writer.is_rekey_due(size) && reader.is_rekey_due(size));
    assert!(!writer.is_rekey_due(size + 1) && !reader.is_rekey_due(size + 1));
}
