//! Key exchanges as they should go, and what ends them.

use super::*;
use crate::ssh::host_key;

#[test]
fn no_login_passes_while_its_sender_changes_keys() {
    for number in [msg::SERVICE_REQUEST, msg::EXT_INFO, 31, 50] {
        let mut pair = Pair::ready(Config::default());
        pair.client.transport.initiate_rekey().unwrap();
        assert!(!pair.client.transport.can_send());
        pair.client.write(&[number]);
        assert_unexpected(pair.deliver_to_server(), number);
        let mut pair = Pair::ready(Config::default());
        pair.server.transport.initiate_rekey().unwrap();
        pair.server.write(&[number]);
        let refused = pair.deliver_to_client();
        match number {
            31 => assert!(matches!(refused, Err(Error::InvalidMessage { .. }))),
            _ => assert_unexpected(refused, number),
        }
    }
}

/// asyncssh sends one message between its offer and its `SSH_MSG_NEWKEYS`, and OpenSSH takes any number.
#[test]
fn the_connection_protocol_is_heard_while_its_sender_changes_keys() {
    let mut pair = Pair::ready(Config::default());
    pair.client.messages();
    pair.server.messages();
    pair.client.transport.initiate_rekey().unwrap();
    pair.client.write(&data(10, 1));
    pair.deliver_to_server().unwrap();
    pair.client.write(&data(20, 2));
    pair.server.write(&data(30, 3));
    pair.run().unwrap();
    assert!(pair.server.has(&Event::Rekeyed) && pair.client.has(&Event::Rekeyed));
    assert_eq!(pair.server.messages(), [data(10, 1), data(20, 2)]);
    assert_eq!(pair.client.messages(), [data(30, 3)]);
}

#[test]
fn what_was_under_way_still_arrives() {
    let mut pair = Pair::ready(Config::default());
    pair.server.messages();
    pair.server.transport.initiate_rekey().unwrap();
    // The client has not heard of it.
    let messages = [data(10, 1), data(20, 2)];
    for message in &messages {
        pair.client.transport.send(message).unwrap();
    }
    pair.deliver_to_server().unwrap();
    assert_eq!(pair.server.messages(), messages);
    pair.run().unwrap();
    assert!(pair.server.has(&Event::Rekeyed) && pair.client.has(&Event::Rekeyed));
}

#[test]
fn both_may_begin_at_once() {
    let mut pair = Pair::ready(Config::default());
    for _ in 0..3 {
        pair.client.messages();
        pair.server.messages();
        pair.client.transport.initiate_rekey().unwrap();
        pair.server.transport.initiate_rekey().unwrap();
        pair.server.transport.initiate_rekey().unwrap();
        pair.run_in_chunks(100).unwrap();
        assert_eq!(pair.client.events, [Event::Rekeyed]);
        assert_eq!(pair.server.events, [Event::Rekeyed]);
    }
}

#[test]
fn sending_goes_on_with_our_new_keys() {
    let mut pair = Pair::ready(Config::default());
    pair.client.transport.initiate_rekey().unwrap();
    pair.deliver_to_server().unwrap();
    pair.deliver_to_client().unwrap();
    pair.deliver_to_server().unwrap();
    // The server has sent NEWKEYS and needs not wait for the client's.
    assert!(pair.server.transport.can_send());
    assert!(!pair.client.transport.can_send());
    pair.server.transport.send(&data(10, 1)).unwrap();
    pair.client.messages();
    pair.run().unwrap();
    assert_eq!(pair.client.messages(), [data(10, 1)]);
}

#[test]
fn exchange_messages_out_of_turn_are_refused() {
    for number in [msg::NEWKEYS, msg::KEX_ECDH_INIT] {
        let mut pair = Pair::ready(Config::default());
        pair.client.write(&[number]);
        assert_unexpected(pair.deliver_to_server(), number);
    }
    for number in [msg::NEWKEYS, msg::KEX_ECDH_REPLY] {
        let mut pair = Pair::ready(Config::default());
        pair.server.write(&[number]);
        assert_unexpected(pair.deliver_to_client(), number);
    }
    // A second offer, and NEWKEYS too early.
    for number in [msg::KEXINIT, msg::NEWKEYS] {
        let mut pair = Pair::new(Config::default(), Config::default());
        pair.greet();
        let Exchange::Proposed { ours, .. } = &pair.client.transport.exchange else {
            panic!("no offer is out");
        };
        let again = match number {
            msg::KEXINIT => ours.clone(),
            _ => vec![number],
        };
        pair.client.write(&again);
        assert_unexpected(pair.deliver_to_server(), number);
    }
    // NEWKEYS with something in it.
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.greet();
    pair.deliver_to_server().unwrap();
    let offer = pair.server.transport.output().split();
    pair.client
        .transport
        .handle_input(pair.now, &offer)
        .unwrap();
    pair.deliver_to_server().unwrap();
    pair.client.write(&[msg::NEWKEYS, 0]);
    let refused = pair.deliver_to_server();
    assert!(matches!(
        refused,
        Err(Error::InvalidMessage {
            number: msg::NEWKEYS,
            ..
        })
    ));
}

#[test]
fn the_host_key_may_not_change() {
    let mut pair = Pair::ready(Config::default());
    let session_id = pair.client.transport.session_id().to_vec();
    pair.client.transport.initiate_rekey().unwrap();
    pair.run().unwrap();
    assert_eq!(pair.client.transport.session_id(), session_id);
    assert_eq!(pair.server.transport.session_id(), session_id);
    pair.server.transport.host_keys = vec![Arc::new(HostKey::generate().unwrap())];
    pair.client.transport.initiate_rekey().unwrap();
    assert!(matches!(pair.run(), Err(Error::HostKeyChanged)));
}

#[test]
fn the_client_waits_for_consent() {
    let mut pair = Pair::new(Config::default(), Config::default());
    let now = pair.now;
    assert!(matches!(
        pair.client.transport.accept_host_key(now),
        Err(Error::NotReady)
    ));
    let client = &mut pair.client.transport;
    loop {
        let to_server = client.output().split();
        pair.server.receive(now, &to_server).unwrap();
        let to_client = pair.server.transport.output().split();
        if to_client.is_empty() {
            break;
        }
        client.handle_input(now, &to_client).unwrap();
    }
    let blob = pair.server.transport.host_keys[0].public_blob().to_vec();
    assert_eq!(client.poll_event(), Some(Event::HostKey { blob }));
    assert_eq!(client.poll_event(), None);
    assert!(!client.can_send() && client.output().is_empty());
    assert!(!pair.server.transport.can_send());
    client.initiate_rekey().unwrap();
    assert!(client.output().is_empty());
    client.accept_host_key(now).unwrap();
    assert!(matches!(client.accept_host_key(now), Err(Error::NotReady)));
    assert!(client.can_send());
    pair.run().unwrap();
    assert!(pair.server.has(&Event::Established));
}

#[test]
fn a_server_may_not_speak_before_consent() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.greet();
    pair.deliver_to_server().unwrap();
    pair.deliver_to_client().unwrap();
    pair.deliver_to_server().unwrap();
    pair.server.write(&[msg::SERVICE_ACCEPT]);
    let bytes = pair.server.transport.output().split();
    let refused = pair.client.transport.handle_input(pair.now, &bytes);
    assert_unexpected(refused, msg::SERVICE_ACCEPT);
}

#[test]
fn keys_change_after_bytes() {
    let config = Config {
        rekey_bytes: 100_000,
        ..Config::default()
    };
    let mut pair = Pair::established(config);
    // Not before authentication.
    for _ in 0..10 {
        pair.client.transport.send(&[50; 20_000]).unwrap();
    }
    pair.run().unwrap();
    assert!(!pair.client.has(&Event::Rekeyed));
    pair.authenticate();
    pair.client.transport.initiate_rekey().unwrap();
    pair.run().unwrap();
    pair.client.events.clear();
    let mut sent = 0;
    while pair.client.transport.can_send() {
        pair.client.transport.send(&data(20_000, 1)).unwrap();
        sent += 1;
    }
    assert_eq!(sent, 5);
    pair.run().unwrap();
    assert_eq!(pair.client.events, [Event::Rekeyed]);
    assert!(pair.client.transport.can_send() && pair.server.transport.can_send());
}

#[test]
fn keys_change_after_time() {
    let mut pair = Pair::established(Config::default());
    assert_eq!(pair.client.transport.poll_timeout(), None);
    pair.authenticate();
    let hour = Duration::from_secs(60 * 60);
    let at = pair.now + hour;
    assert_eq!(pair.client.transport.poll_timeout(), Some(at));
    let almost = at - Duration::from_millis(1);
    pair.client.transport.handle_timeout(almost).unwrap();
    assert!(pair.client.transport.can_send());
    pair.now = at + Duration::from_secs(1);
    pair.client.transport.handle_timeout(pair.now).unwrap();
    assert!(!pair.client.transport.can_send());
    assert_eq!(pair.client.transport.poll_timeout(), None);
    pair.run().unwrap();
    assert!(pair.client.has(&Event::Rekeyed) && pair.server.has(&Event::Rekeyed));
    let next = pair.now + hour;
    assert_eq!(pair.client.transport.poll_timeout(), Some(next));
    assert_eq!(pair.server.transport.poll_timeout(), Some(next));
}

#[test]
fn the_clients_order_decides() {
    let client = Config {
        kex: vec![Kex::EcdhP384, Kex::Curve25519],
        ciphers: vec![Cipher::Aes192Ctr, Cipher::Aes128Gcm],
        macs: vec![Mac::HmacSha512, Mac::HmacSha256Etm],
        ..Config::default()
    };
    let mut pair = Pair::new(client, Config::default());
    pair.greet();
    pair.deliver_to_server().unwrap();
    let Exchange::AwaitingInit { negotiated, .. } = &pair.server.transport.exchange else {
        panic!("the offers are not met");
    };
    assert_eq!(negotiated.kex, Kex::EcdhP384);
    let suite = negotiated.suites.client_to_server;
    assert_eq!(suite.cipher, Cipher::Aes192Ctr);
    assert_eq!(suite.mac, Some(Mac::HmacSha512));
    pair.run().unwrap();
    assert!(pair.client.has(&Event::Established));
}

#[test]
fn ends_without_anything_in_common_say_so() {
    let ours = Config::default();
    let cases = [
        (
            "key exchange",
            Config {
                kex: vec![],
                ..ours.clone()
            },
        ),
        (
            "cipher",
            Config {
                ciphers: vec![],
                ..ours.clone()
            },
        ),
        (
            "compression",
            Config {
                compression: vec![],
                ..ours.clone()
            },
        ),
        (
            "MAC",
            Config {
                ciphers: vec![Cipher::Aes128Ctr],
                macs: vec![],
                ..ours.clone()
            },
        ),
        (
            "host key",
            Config {
                host_keys: vec![host_key::Algorithm::plain(host_key::Scheme::EcdsaP256)],
                ..ours.clone()
            },
        ),
    ];
    for (expected, client) in cases {
        let mut pair = Pair::new(client, ours.clone());
        pair.greet();
        let theirs = pair.deliver_to_server();
        let is_named = |error: &Result<(), Error>| matches!(error, Err(Error::NoCommonAlgorithm { kind, .. }) if *kind == expected);
        assert!(is_named(&theirs), "{theirs:?}");
        assert!(is_named(&pair.deliver_to_client()));
    }
    // A MAC is not needed where the cipher has one.
    let client = Config {
        ciphers: vec![Cipher::ChaCha20Poly1305],
        macs: vec![],
        ..ours.clone()
    };
    let mut pair = Pair::new(client, ours);
    pair.run().unwrap();
}

/// Sets `first_kex_packet_follows`.
fn announce_guess(transport: &mut Transport) {
    change_offer(transport, |offer| {
        let at = offer.len() - 5;
        offer[at] = 1;
    });
}

#[test]
fn wrong_guesses_are_ignored() {
    // The client's first choice is not the server's.
    let client = Config {
        kex: vec![Kex::EcdhP256, Kex::Curve25519],
        ..Config::default()
    };
    let server = Config {
        kex: vec![Kex::Curve25519],
        ..Config::default()
    };
    let mut pair = Pair::new(client.clone(), server.clone());
    pair.greet();
    announce_guess(&mut pair.client.transport);
    pair.client.write(&[msg::KEX_ECDH_INIT, 1, 2, 3]);
    pair.run().unwrap();
    pair.authenticate();
    // The same from the server.
    let mut pair = Pair::new(client, server.clone());
    pair.greet();
    announce_guess(&mut pair.server.transport);
    pair.server.write(&[msg::KEX_ECDH_REPLY, 1, 2, 3]);
    pair.run().unwrap();
    pair.authenticate();
    // A right guess is the message itself, sent early.
    let mut pair = Pair::new(server.clone(), server);
    pair.greet();
    announce_guess(&mut pair.client.transport);
    pair.run().unwrap();
    pair.authenticate();
}

#[test]
fn names_find_their_algorithms() {
    fn check<T: Named + std::fmt::Debug>() {
        for algorithm in T::ALL {
            assert_eq!(T::from_name(algorithm.name().as_bytes()), Some(*algorithm));
        }
        assert_eq!(T::from_name(b""), None);
        assert_eq!(T::from_name(b"ssh-rsa"), None);
    }
    check::<Kex>();
    check::<Cipher>();
    check::<Mac>();
    check::<Compression>();
    check::<host_key::Algorithm>();
    check::<host_key::Scheme>();
}
