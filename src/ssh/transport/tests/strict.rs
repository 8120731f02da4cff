//! Strict key exchange, against prefix truncation (CVE-2023-48795), and peers without it.

use super::*;

#[test]
fn strict_exchanges_bear_no_stray_messages() {
    for number in [
        msg::IGNORE,
        msg::DEBUG,
        msg::UNIMPLEMENTED,
        8,
        22,
        49,
        msg::EXT_INFO,
        5,
        50,
        94,
    ] {
        // Before the offer, which shows only when the offer comes.
        for from_client in [true, false] {
            let mut pair = Pair::new(Config::default(), Config::default());
            let (sender, receiver) = match from_client {
                true => (&mut pair.client, &mut pair.server),
                false => (&mut pair.server, &mut pair.client),
            };
            let greeting = sender.transport.output().split();
            sender.write(&[number, 0, 0, 0, 9]);
            let stray = sender.transport.output().split();
            receiver.receive(pair.now, &greeting).unwrap();
            let answer = receiver.transport.output().split();
            let first = receiver.receive(pair.now, &stray);
            assert!(first.is_ok() || matches!(number, 5 | 7 | 49..), "{number}");
            if first.is_ok() {
                sender.receive(pair.now, &answer).unwrap();
                let offer = sender.transport.output().split();
                let refused = receiver.receive(pair.now, &offer);
                assert_unexpected(refused, msg::KEXINIT);
            }
        }
        // After the offer.
        let mut pair = Pair::new(Config::default(), Config::default());
        pair.greet();
        pair.client.write(&[number, 0, 0, 0, 9]);
        assert_unexpected(pair.deliver_to_server(), number);
        let mut pair = Pair::new(Config::default(), Config::default());
        pair.greet();
        pair.server.write(&[number, 0, 0, 0, 9]);
        assert_unexpected(pair.deliver_to_client(), number);
    }
    // Between the reply and NEWKEYS, where Terrapin inserts.
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.greet();
    pair.step(usize::MAX).unwrap();
    pair.server.transport.output().clear();
    pair.client.write(&[msg::IGNORE]);
    assert_unexpected(pair.deliver_to_server(), msg::IGNORE);
}

#[test]
fn without_strict_chatter_is_allowed_and_numbers_go_on() {
    for (cipher, mac) in suites() {
        let mut pair = Pair::new(only(cipher, mac), only(cipher, mac));
        pair.client.write(&[msg::IGNORE]);
        pair.greet();
        without_strict(&mut pair.client.transport);
        without_strict(&mut pair.server.transport);
        pair.client.write(&[msg::IGNORE]);
        pair.server.write(&[msg::DEBUG]);
        pair.server.write(&[9]);
        pair.run().unwrap();
        assert!(!pair.client.transport.strict && !pair.server.transport.strict);
        // IGNORE, KEXINIT, IGNORE, KEX_ECDH_INIT, UNIMPLEMENTED, NEWKEYS.
        assert_eq!(pair.client.transport.writer.sequence(), 6);
        pair.authenticate();
        pair.client.transport.initiate_rekey().unwrap();
        pair.run().unwrap();
        assert!(pair.client.has(&Event::Rekeyed));
        assert_eq!(pair.client.transport.writer.sequence(), 9);
        pair.client.transport.send(&data(10, 1)).unwrap();
        pair.run().unwrap();
    }
}

#[test]
fn without_strict_higher_messages_still_wait_for_keys() {
    for number in [msg::EXT_INFO, 5, 30, 50, 80, 94] {
        let mut pair = Pair::new(Config::default(), Config::default());
        pair.greet();
        without_strict(&mut pair.client.transport);
        without_strict(&mut pair.server.transport);
        pair.client.write(&[number, 0, 0, 0, 9]);
        let result = pair.deliver_to_server();
        if number == msg::KEX_ECDH_INIT {
            assert!(matches!(result, Err(Error::InvalidMessage { .. })));
        } else {
            assert_unexpected(result, number);
        }
    }
}

#[test]
fn strict_ends_begin_to_count_anew() {
    let mut pair = Pair::established(only(Cipher::ChaCha20Poly1305, Mac::HmacSha256));
    assert!(pair.client.transport.strict && pair.server.transport.strict);
    assert_eq!(pair.client.transport.writer.sequence(), 0);
    // SSH_MSG_EXT_INFO.
    assert_eq!(pair.server.transport.writer.sequence(), 1);
    pair.authenticate();
    for _ in 0..3 {
        pair.server.transport.initiate_rekey().unwrap();
        pair.run().unwrap();
        assert_eq!(pair.client.transport.writer.sequence(), 0);
        assert_eq!(pair.server.transport.writer.sequence(), 0);
    }
    // An end that does not is found out by every algorithm that uses the number.
    for (cipher, mac) in suites() {
        let mut pair = Pair::ready(only(cipher, mac));
        pair.client.transport.initiate_rekey().unwrap();
        pair.client.transport.strict = false;
        pair.run().unwrap();
        pair.client.transport.send(&data(10, 1)).unwrap();
        let result = pair.run();
        let uses_number = !matches!(cipher, Cipher::Aes128Gcm | Cipher::Aes256Gcm);
        assert_eq!(
            matches!(result, Err(Error::Corrupt)),
            uses_number,
            "{cipher:?}"
        );
    }
}
