//! What two of our own ends do together.

use super::*;

#[test]
fn every_combination_carries_messages_and_rekeys() {
    let mut configs = Vec::new();
    for kex in Kex::ALL {
        configs.push(Config {
            kex: vec![*kex],
            ..Config::default()
        });
    }
    for cipher in Cipher::ALL {
        for mac in Mac::ALL {
            for compression in Compression::ALL {
                configs.push(Config {
                    kex: vec![Kex::Curve25519],
                    ciphers: vec![*cipher],
                    macs: vec![*mac],
                    compression: vec![*compression],
                    ..Config::default()
                });
            }
        }
    }
    for config in configs {
        let mut pair = Pair::ready(config);
        for round in 0..3 {
            for size in [0, 1, 7, 8, 100, 32 * 1024] {
                let message = data(size, round);
                pair.client.transport.send(&message).unwrap();
                pair.server.transport.send(&message).unwrap();
                pair.run_in_chunks(1 + usize::from(round) * 5000).unwrap();
                assert_eq!(pair.server.messages(), [message.as_slice()]);
                assert!(pair.client.messages().contains(&Bytes::from(message)));
            }
            match round {
                0 => pair.client.transport.initiate_rekey().unwrap(),
                _ => pair.server.transport.initiate_rekey().unwrap(),
            }
            assert!(!(pair.client.transport.can_send() && pair.server.transport.can_send()));
            pair.run().unwrap();
            assert!(pair.client.has(&Event::Rekeyed) && pair.server.has(&Event::Rekeyed));
        }
    }
}
