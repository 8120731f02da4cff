//! What must hold whatever the wire, the peer and the user do.

use proptest::prelude::*;

use super::*;

/// What happens on a connection, in the order it is done.
#[derive(Debug, Clone)]
enum Step {
    ClientSends(usize),
    ServerSends(usize),
    ClientRekeys,
    ServerRekeys,
    Deliver { chunk: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..5000usize).prop_map(Step::ClientSends),
        4 => (0..5000usize).prop_map(Step::ServerSends),
        1 => Just(Step::ClientRekeys),
        1 => Just(Step::ServerRekeys),
        4 => (1..3000usize).prop_map(|chunk| Step::Deliver { chunk }),
    ];
    prop::collection::vec(step, 1..40)
}

fn config() -> impl Strategy<Value = Config> {
    let suite = prop::sample::select(suites());
    let compression = prop::sample::select(Compression::ALL);
    (suite, compression, 1000..50_000u64).prop_map(|((cipher, mac), compression, rekey_bytes)| {
        Config {
            compression: vec![compression],
            rekey_bytes,
            ..only(cipher, mac)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is sent arrives once and in order, however the bytes are cut and keys are changed.
    #[test]
    fn messages_arrive_once_and_in_order(config in config(), steps in steps()) {
        let mut pair = Pair::ready(config);
        pair.client.messages();
        pair.server.messages();
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::ClientSends(size) if pair.client.transport.can_send() => {
                    to_server.push(data(size, index as u8));
                    pair.client.transport.send(to_server.last().unwrap()).unwrap();
                }
                Step::ServerSends(size) if pair.server.transport.can_send() => {
                    to_client.push(data(size, index as u8));
                    pair.server.transport.send(to_client.last().unwrap()).unwrap();
                }
                Step::ClientSends(_) | Step::ServerSends(_) => {}
                Step::ClientRekeys => pair.client.transport.initiate_rekey().unwrap(),
                Step::ServerRekeys => pair.server.transport.initiate_rekey().unwrap(),
                Step::Deliver { chunk } => {
                    pair.step(chunk).unwrap();
                }
            }
        }
        pair.run().unwrap();
        prop_assert_eq!(pair.server.messages(), to_server);
        prop_assert_eq!(pair.client.messages(), to_client);
        prop_assert!(pair.client.transport.can_send() && pair.server.transport.can_send());
    }

    /// No bit of a protected packet can be changed unnoticed.
    #[test]
    fn flipped_bits_are_detected(
        suite in prop::sample::select(suites()),
        size in 0..300usize,
        position in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut pair = Pair::ready(only(suite.0, suite.1));
        pair.server.messages();
        pair.client.transport.send(&data(size, 1)).unwrap();
        let mut bytes = pair.client.transport.output().split();
        let at = position.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let mut result = pair.server.receive(pair.now, &bytes);
        // A changed length may make the end wait for more, which then comes.
        for _ in 0..20 {
            if result.is_ok() {
                pair.client.transport.send(&data(20_000, 2)).unwrap();
                let more = pair.client.transport.output().split();
                result = pair.server.receive(pair.now, &more);
            }
        }
        prop_assert!(matches!(result, Err(Error::Corrupt)), "{:?}", result);
        prop_assert!(pair.server.messages().is_empty());
    }

    /// Nor can packets be left out, repeated, or swapped.
    #[test]
    fn rearranged_packets_are_detected(
        suite in prop::sample::select(suites()),
        order in prop::collection::vec(0..4usize, 1..6),
    ) {
        let mut pair = Pair::ready(only(suite.0, suite.1));
        pair.server.messages();
        let packets: Vec<_> = (0..4)
            .map(|fill| {
                pair.client.transport.send(&data(50, fill)).unwrap();
                pair.client.transport.output().split()
            })
            .collect();
        let right = order.iter().enumerate().take_while(|(at, index)| at == *index).count();
        let mut result = Ok(());
        for index in &order {
            if result.is_ok() {
                result = pair.server.receive(pair.now, &packets[*index]);
            }
        }
        prop_assert_eq!(pair.server.messages().len(), right);
        if right < order.len() {
            // A packet of another number may have an impossible length and so make the end wait.
            let waits = matches!(suite.0, Cipher::Aes128Gcm | Cipher::Aes256Gcm);
            prop_assert!(result.is_err() || !waits);
        }
    }

    /// Bytes of strangers end in an error or in waiting, never in a panic.
    #[test]
    fn garbage_is_harmless(
        greeting in prop::sample::select(vec!["", "SSH-2.0-x\r\n", "SSH-", "hello\n"]),
        garbage in prop::collection::vec(any::<u8>(), 0..2000),
        chunk in 1..500usize,
    ) {
        let pair = Pair::new(Config::default(), Config::default());
        for mut end in [pair.client, pair.server] {
            let bytes = [greeting.as_bytes(), &garbage].concat();
            for piece in bytes.chunks(chunk) {
                let _ = end.receive(pair.now, piece);
            }
            prop_assert!(!end.transport.can_send());
            prop_assert!(end.transport.output().len() < 10_000);
        }
    }

    /// Nor do well-packed messages that say anything at all, at any time.
    #[test]
    fn senseless_messages_are_harmless(
        moment in 0..4,
        from_client in any::<bool>(),
        number in prop_oneof![any::<u8>(), 1..=8u8, 20..=22u8, 30..=31u8],
        rest in prop::collection::vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut pair = Pair::new(Config::default(), Config::default());
        if moment == 1 {
            pair.greet();
        } else if moment > 1 {
            pair.run().unwrap();
        }
        if moment == 3 {
            pair.authenticate();
        }
        let sender = if from_client { &mut pair.client } else { &mut pair.server };
        let mut message = [&[number][..], &rest].concat();
        if number == msg::KEXINIT
            && let Exchange::Proposed { ours, .. } = &sender.transport.exchange
        {
            // A real offer with something overwritten.
            message.clone_from(ours);
            let at = cut.index(message.len() - 1) + 1;
            let count = rest.len().min(message.len() - at);
            message[at..at + count].copy_from_slice(&rest[..count]);
        }
        sender.write(&message);
        let _ = pair.run();
    }
}
