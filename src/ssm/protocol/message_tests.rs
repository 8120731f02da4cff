use proptest::prelude::*;

use super::*;

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Bytes of the official client's serializer.
fn official() -> Vec<u8> {
    unhex(
        "00000074 696e7075745f73747265616d5f64617461 202020202020202020202020202020 00000001
         0000018bcfe56800 0000000000000000 0000000000000000 00112233445566770123456789abcdef
         2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 00000001 00000005
         68656c6c6f",
    )
}

fn hello() -> ClientMessage {
    ClientMessage {
        header: Header {
            message_type: MessageType::InputStreamData,
            created_date: 1_700_000_000_000,
            sequence_number: 0,
            flags: 0,
            message_id: Uuid::parse_str("01234567-89ab-cdef-0011-223344556677").unwrap(),
            payload_type: Some(PayloadType::Output),
        },
        payload: Bytes::from_static(b"hello"),
    }
}

#[test]
fn equals_the_official_serializer_byte_for_byte() {
    assert_eq!(official().len(), 125);
    assert_eq!(hello().encode(), official());
    assert_eq!(ClientMessage::decode(official().into()).unwrap(), hello());
}

#[test]
fn acknowledge_flags_and_identifier_are_where_the_official_client_puts_them() {
    let mut message = hello();
    message.header.message_type = MessageType::Acknowledge;
    message.header.flags = FLAG_SYN | FLAG_FIN;
    message.header.message_id = Uuid::parse_str("fedcba98-7654-3210-8899-aabbccddeeff").unwrap();
    let frame = message.encode();
    assert_eq!(frame[56..64], unhex("0000000000000003"));
    assert_eq!(frame[64..80], unhex("8899aabbccddeefffedcba9876543210"));
}

#[test]
fn the_short_header_of_the_service_starts_its_payload_at_116() {
    let mut message = hello();
    message.header.message_type = MessageType::ChannelClosed;
    message.header.payload_type = None;
    let frame = message.encode();
    assert_eq!(frame[..4], [0, 0, 0, 112]);
    assert_eq!(frame[112..116], [0, 0, 0, 5]);
    assert_eq!(&frame[116..], b"hello");
    assert_eq!(ClientMessage::decode(frame).unwrap(), message);
}

#[test]
fn the_type_is_stripped_of_nuls_and_spaces() {
    let mut frame = official();
    frame[21..36].fill(0);
    let decoded = ClientMessage::decode(frame.clone().into()).unwrap();
    assert_eq!(decoded.header.message_type, MessageType::InputStreamData);
    frame[4..36].fill(0);
    assert_eq!(
        ClientMessage::decode(frame.clone().into()),
        Err(Error::NoMessageType)
    );
    frame[4..36].fill(b' ');
    assert_eq!(
        ClientMessage::decode(frame.into()),
        Err(Error::NoMessageType)
    );
}

#[test]
fn an_unknown_type_is_kept_and_shown_safely() {
    let mut frame = official();
    frame[4..36].copy_from_slice(b"agent\x1bhealth                    ");
    let decoded = ClientMessage::decode(frame.into()).unwrap();
    assert_eq!(
        decoded.header.message_type.to_string(),
        r"agent\u{1b}health"
    );
    assert_eq!(decoded.encode()[4..17], *b"agent\x1bhealth ");
}

#[test]
fn payload_length_is_never_used_to_cut() {
    let mut frame = official();
    frame[116..120].fill(0xff);
    assert_eq!(ClientMessage::decode(frame.into()).unwrap(), hello());
}

#[test]
fn a_wrong_digest_is_an_error_except_for_publication() {
    let mut frame = official();
    frame[80] ^= 1;
    assert_eq!(
        ClientMessage::decode(frame.clone().into()),
        Err(Error::Digest)
    );
    for name in ["start_publication", "pause_publication"] {
        frame[4..36].fill(b' ');
        frame[4..4 + name.len()].copy_from_slice(name.as_bytes());
        frame[40..48].fill(0);
        let decoded = ClientMessage::decode(frame.clone().into()).unwrap();
        assert_eq!(decoded.header.message_type.name(), name);
    }
}

#[test]
fn missing_date_odd_header_length_and_size_are_errors() {
    let mut frame = official();
    frame[40..48].fill(0);
    assert_eq!(
        ClientMessage::decode(frame.into()),
        Err(Error::NoCreatedDate)
    );
    for header_length in [0_u32, 111, 113, 120, 4_000_000_000] {
        let mut frame = official();
        frame[..4].copy_from_slice(&header_length.to_be_bytes());
        assert_eq!(
            ClientMessage::decode(frame.into()),
            Err(Error::HeaderLength(header_length))
        );
    }
    let huge = Bytes::from(vec![0; MAX_MESSAGE + 1]);
    assert_eq!(
        ClientMessage::decode(huge),
        Err(Error::TooLarge(MAX_MESSAGE + 1))
    );
}

#[test]
fn an_empty_payload_is_accepted_whatever_its_digest() {
    let frame = official()[..120].to_vec();
    assert!(
        ClientMessage::decode(frame.into())
            .unwrap()
            .payload
            .is_empty()
    );
}

#[test]
fn every_truncation_is_an_error() {
    for length in 0..120 {
        let frame = official()[..length].to_vec();
        assert!(matches!(
            ClientMessage::decode(frame.into()),
            Err(Error::Truncated(_))
        ));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decode_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..125) {
        let _ = ClientMessage::decode(bytes.clone().into());
        let mut near = official();
        near.truncate(cut.max(1));
        for (at, byte) in bytes.iter().enumerate().take(3) {
            let index = (usize::from(*byte) + at * 41) % near.len();
            near[index] ^= byte;
        }
        let _ = ClientMessage::decode(near.into());
    }

    #[test]
    fn decode_inverts_encode(
        sequence_number in any::<i64>(),
        created_date in 1_u64..,
        flags in any::<u64>(),
        id in any::<u128>(),
        code in proptest::option::of(any::<u32>()),
        payload in proptest::collection::vec(any::<u8>(), 0..2048),
    ) {
        let message = ClientMessage {
            header: Header {
                message_type: MessageType::OutputStreamData,
                created_date,
                sequence_number,
                flags,
                message_id: Uuid::from_u128(id),
                payload_type: code.map(PayloadType::from_code),
            },
            payload: payload.into(),
        };
        prop_assert_eq!(ClientMessage::decode(message.encode()).unwrap(), message);
    }
}
