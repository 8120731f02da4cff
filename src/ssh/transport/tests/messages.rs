//! Which message may come when, and what becomes of it.

use super::*;

#[test]
fn nothing_of_the_connection_passes_before_authentication() {
    for number in [80, 90, 94, 192, 255] {
        let mut pair = Pair::established(Config::default());
        pair.client.write(&[number]);
        assert_unexpected(pair.run(), number);
        let mut pair = Pair::established(Config::default());
        pair.server.write(&[number]);
        assert_unexpected(pair.run(), number);
    }
}

#[test]
fn authentication_messages_pass_before_authentication() {
    let mut pair = Pair::established(Config::default());
    pair.client.events.clear();
    for number in [5, 50, 61, 79] {
        pair.client.transport.send(&[number]).unwrap();
    }
    for number in [6, 51, 53, 60] {
        pair.server.transport.send(&[number]).unwrap();
    }
    pair.run().unwrap();
    assert_eq!(
        pair.server.messages(),
        [[5], [50], [61], [79]].map(|m| m.to_vec())
    );
    assert_eq!(
        pair.client.messages(),
        [[6], [51], [53], [60]].map(|m| m.to_vec())
    );
}

#[test]
fn authentication_ends_with_success() {
    let mut pair = Pair::ready(Config::default());
    pair.server.messages();
    for number in [50, 61, 79] {
        pair.client.write(&[number]);
    }
    pair.run().unwrap();
    assert!(pair.server.messages().is_empty());
    for number in [50, 52, 53, 60] {
        let mut pair = Pair::ready(Config::default());
        pair.server.write(&[number]);
        assert_unexpected(pair.run(), number);
    }
}

#[test]
fn what_follows_success_in_the_same_bytes_passes() {
    for compression in Compression::ALL {
        let config = Config {
            compression: vec![*compression],
            ..Config::default()
        };
        let mut pair = Pair::established(config);
        pair.client.messages();
        let request = data(500, 1);
        pair.server
            .transport
            .send(&[msg::USERAUTH_SUCCESS])
            .unwrap();
        pair.server.transport.authenticated();
        pair.server.transport.send(&request).unwrap();
        let size = pair.server.transport.output().len();
        assert_eq!(size < 400, *compression == Compression::ZlibDelayed);
        pair.run().unwrap();
        assert_eq!(
            pair.client.messages(),
            [vec![msg::USERAUTH_SUCCESS], request]
        );
    }
}

#[test]
fn ext_info_has_its_places() {
    let ext_info = ExtInfo::of_server();
    // The client's first message may be one.
    let mut pair = Pair::established(Config::default());
    assert!(pair.client.transport.server_sig_algs().is_some());
    pair.client.write(&ext_info);
    pair.run().unwrap();
    // Its second may not.
    pair.client.write(&ext_info);
    assert_unexpected(pair.run(), msg::EXT_INFO);

    // The server may send another right before success, whose list replaces the first.
    let mut another = vec![msg::EXT_INFO];
    another.put_uint32(2);
    another.put_string("no-such-extension").put_string([0xff]);
    another.put_string("server-sig-algs").put_string("a,b");
    let mut pair = Pair::established(Config::default());
    pair.server.write(&another);
    pair.authenticate();
    assert_eq!(pair.client.transport.server_sig_algs().unwrap(), ["a", "b"]);
    // Not elsewhere.
    pair.server.write(&ext_info);
    assert_unexpected(pair.run(), msg::EXT_INFO);
    for next in [msg::USERAUTH_FAILURE, msg::EXT_INFO, msg::IGNORE] {
        let mut pair = Pair::established(Config::default());
        pair.server.write(&ext_info);
        pair.server.write(&[next]);
        assert_unexpected(pair.run(), msg::EXT_INFO);
    }
    // After a later key exchange it is no first message. To a server, as to sshd, it is nothing at all then.
    let mut pair = Pair::ready(Config::default());
    pair.client.transport.initiate_rekey().unwrap();
    pair.run().unwrap();
    pair.client.write(&ext_info);
    pair.run().unwrap();
    pair.server.write(&ext_info);
    assert_unexpected(pair.run(), msg::EXT_INFO);
}

#[test]
fn malformed_ext_info_is_refused() {
    let whole = ExtInfo::of_server();
    for size in 1..whole.len() {
        let mut pair = Pair::established(Config::default());
        pair.client.write(&whole[..size]);
        let refused = pair.run();
        assert!(matches!(
            refused,
            Err(Error::InvalidMessage { number: 7, .. })
        ));
    }
}

#[test]
fn unknown_transport_messages_are_answered_with_their_number() {
    for number in [8, 19, 22, 29, 31, 49] {
        let mut pair = Pair::ready(Config::default());
        let sequence = pair.client.transport.writer.sequence();
        pair.client.write(&[number]);
        // Only the refusal of our own offer has an effect, which shows the number that came back.
        pair.deliver_to_server().unwrap();
        let ours = Vec::new();
        pair.client.transport.exchange = Exchange::Proposed { ours, sequence };
        assert!(
            matches!(pair.deliver_to_client(), Err(Error::KeyExchange(_))),
            "{number}"
        );
    }
    let mut pair = Pair::ready(Config::default());
    pair.client.write(&[0]);
    assert!(matches!(
        pair.run(),
        Err(Error::InvalidMessage { number: 0, .. })
    ));
}

#[test]
fn rejecting_names_the_message_taken_last() {
    let mut pair = Pair::ready(Config::default());
    pair.client.transport.send(&[200]).unwrap();
    let sequence = pair.client.transport.writer.sequence();
    pair.client.transport.send(&[201]).unwrap();
    pair.client.transport.send(&[202]).unwrap();
    let bytes = pair.client.transport.output().split();
    let server = &mut pair.server.transport;
    server.handle_input(pair.now, &bytes).unwrap();
    server.poll_event().unwrap();
    assert_eq!(
        server.poll_event(),
        Some(Event::Message(Bytes::from_static(&[201])))
    );
    server.reject_last().unwrap();
    let once = server.output().len();
    server.reject_last().unwrap();
    assert_eq!(server.output().len(), once);
    let ours = Vec::new();
    pair.client.transport.exchange = Exchange::Proposed { ours, sequence };
    assert!(matches!(
        pair.deliver_to_client(),
        Err(Error::KeyExchange(_))
    ));
}

#[test]
fn answers_nobody_reads_are_bounded() {
    let mut pair = Pair::ready(Config::default());
    let mut rounds = 0;
    let error = loop {
        for _ in 0..1000 {
            pair.client.write(&[8]);
        }
        rounds += 1;
        if let Err(error) = pair.deliver_to_server() {
            break error;
        }
        assert!(rounds < 100);
    };
    assert!(matches!(error, Error::NotReading));
    assert!(pair.server.transport.output().len() < MAX_UNREAD_ANSWERS + 1000);
}

#[test]
fn chatter_is_ignored() {
    let mut pair = Pair::ready(Config::default());
    pair.server.messages();
    pair.client.write(&[msg::IGNORE]);
    pair.client.write(&[msg::DEBUG, 1, 2, 3]);
    pair.client.write(&[msg::UNIMPLEMENTED, 0, 0, 0, 1]);
    pair.client.transport.initiate_rekey().unwrap();
    pair.client.write(&[msg::IGNORE]);
    pair.client.write(&[msg::DEBUG]);
    pair.run().unwrap();
    assert!(pair.server.has(&Event::Rekeyed));
    assert!(pair.server.messages().is_empty());
}

#[test]
fn goodbye_ends_everything() {
    let mut pair = Pair::ready(Config::default());
    let client = &mut pair.client.transport;
    client.send(&data(1, 1)).unwrap();
    client.disconnect(reason::BY_APPLICATION, "so long");
    assert!(!client.can_send());
    assert!(matches!(client.send(&data(1, 1)), Err(Error::NotReady)));
    let size = client.output().len();
    client.disconnect(reason::BY_APPLICATION, "again");
    client.initiate_rekey().unwrap();
    assert_eq!(client.output().len(), size);
    // What was said before still counts, what comes after does not.
    pair.server.messages();
    let bytes = pair.client.transport.output().split();
    pair.server.receive(pair.now, &bytes).unwrap();
    pair.server.receive(pair.now, b"whatever").unwrap();
    let goodbye = Event::Disconnected {
        reason: reason::BY_APPLICATION,
        description: "so long".to_owned(),
    };
    let message = Event::Message(Bytes::from(data(1, 1)));
    assert_eq!(pair.server.events, [message, goodbye]);
    assert!(!pair.server.transport.can_send());
    assert_eq!(pair.server.transport.poll_timeout(), None);
}

#[test]
fn an_error_is_told_to_the_other_end() {
    let mut pair = Pair::ready(Config::default());
    pair.server.messages();
    pair.client.transport.send(&data(100, 1)).unwrap();
    let middle = pair.client.transport.output().len() / 2;
    pair.client.transport.output()[middle] ^= 1;
    assert!(matches!(pair.deliver_to_server(), Err(Error::Corrupt)));
    assert!(pair.server.messages().is_empty());
    pair.deliver_to_client().unwrap();
    let goodbye = Event::Disconnected {
        reason: reason::PROTOCOL_ERROR,
        description: "Packet corrupt".to_owned(),
    };
    assert_eq!(pair.client.events.last(), Some(&goodbye));
}

#[test]
fn strangers_get_no_packets() {
    let mut pair = Pair::new(Config::default(), Config::default());
    let request = b"GET / HTTP/1.1\r\n\r\n";
    let result = pair.server.receive(pair.now, request);
    assert!(matches!(result, Err(Error::NotSsh { seen }) if seen == "GET / HTTP/1.1"));
    let said = format!(
        "{}\r\nInvalid SSH identification string.\r\n",
        version::OURS
    );
    assert_eq!(pair.server.transport.output(), said.as_bytes());
    pair.server.receive(pair.now, b"SSH-2.0-late\r\n").unwrap();
    assert_eq!(pair.server.transport.peer_version(), "");
}

#[test]
fn sending_out_of_turn_is_a_mistake() {
    let mut pair = Pair::new(Config::default(), Config::default());
    assert!(matches!(
        pair.client.transport.send(&[80]),
        Err(Error::NotReady)
    ));
    pair.run().unwrap();
    for size in [0, MAX_MESSAGE + 1] {
        let refused = pair.client.transport.send(&vec![94; size]);
        assert!(matches!(refused, Err(Error::InvalidSize(_))));
    }
    assert!(pair.client.transport.output().is_empty());
    pair.authenticate();
    for config in [Compression::None, Compression::ZlibDelayed] {
        let mut pair = Pair::ready(Config {
            compression: vec![config],
            ..Config::default()
        });
        pair.server.messages();
        let mut largest = vec![0; MAX_MESSAGE];
        aws_lc_rs::rand::fill(&mut largest).unwrap();
        largest[0] = msg::CHANNEL_DATA;
        pair.client.transport.send(&largest).unwrap();
        pair.run().unwrap();
        assert!(pair.server.messages() == [largest]);
    }
}
