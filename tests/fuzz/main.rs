//! No bytes from outside make a decoder panic, or hold more than it may.
//!
//! A small deterministic mutation fuzzer: it takes valid byte strings, damages them, and feeds every decoder that
//! reads what others wrote. The same seed gives the same inputs, so a failure names what to repeat:
//!
//! ```text
//! SSMSHIM_FUZZ_SEED=7 SSMSHIM_FUZZ_ROUNDS=1000000 cargo test --release --test fuzz
//! ```
//!
//! A new decoder is an entry in [`TARGETS`]: a corpus of valid inputs, and a function that feeds one input and
//! asserts what must hold whatever it is.

mod smux;
mod ssh;
mod ssm;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A decoder under test.
struct Target {
    name: &'static str,
    corpus: fn() -> Vec<Vec<u8>>,
    run: fn(&[u8]),
    /// One input in so many rounds, for what is slow.
    cost: u64,
}

const TARGETS: &[Target] = &[
    Target {
        name: "smux frames",
        corpus: smux::corpus,
        run: smux::frames,
        cost: 2,
    },
    Target {
        name: "smux client",
        corpus: smux::corpus,
        run: smux::client,
        cost: 1,
    },
    Target {
        name: "smux server",
        corpus: smux::corpus,
        run: smux::server,
        cost: 1,
    },
    Target {
        name: "ssm message",
        corpus: ssm::messages,
        run: ssm::message,
        cost: 1,
    },
    Target {
        name: "ssm client",
        corpus: ssm::conversation,
        run: ssm::client,
        cost: 1,
    },
    Target {
        name: "ssm agent",
        corpus: ssm::conversation,
        run: ssm::agent,
        cost: 1,
    },
    Target {
        name: "ssh transport client",
        corpus: ssh::server_greetings,
        run: ssh::transport_client,
        cost: 1,
    },
    Target {
        name: "ssh transport server",
        corpus: ssh::client_greetings,
        run: ssh::transport_server,
        cost: 1,
    },
    Target {
        name: "ssh auth client",
        corpus: ssh::auth_answers,
        run: ssh::auth_client,
        cost: 1,
    },
    Target {
        name: "ssh auth server",
        corpus: ssh::auth_requests,
        run: ssh::auth_server,
        cost: 2,
    },
    Target {
        name: "ssh messages",
        corpus: ssh::connection_messages,
        run: ssh::connection_message,
        cost: 1,
    },
    Target {
        name: "ssh host key",
        corpus: ssh::public_keys,
        run: ssh::host_key,
        cost: 1,
    },
    Target {
        name: "ssh known_hosts",
        corpus: ssh::known_hosts_files,
        run: ssh::known_hosts,
        cost: 10,
    },
];

/// Inputs per target in an ordinary test run: about three seconds for all of them in a debug build.
const ROUNDS: u64 = 2_000;

/// Longer inputs are cut, so that insertions cannot make a run arbitrarily slow.
const MAX_INPUT_BYTES: usize = 16 * 1024;

#[test]
fn decoders_survive_damaged_input() {
    let seed = variable("SSMSHIM_FUZZ_SEED", 1);
    let rounds = variable("SSMSHIM_FUZZ_ROUNDS", ROUNDS);
    for target in TARGETS {
        if let Err(failure) = fuzz(target, seed, rounds) {
            panic!("{failure}");
        }
    }
}

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().expect("a number"),
        Err(_) => default,
    }
}

/// Feeds the corpus as it is, and then `rounds` damaged inputs; the error says which one a target did not survive.
fn fuzz(target: &Target, seed: u64, rounds: u64) -> Result<(), String> {
    let corpus = (target.corpus)();
    let check = |what: &str, input: &[u8]| {
        catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|_| {
            let name = target.name;
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{name}: {what} with seed {seed} failed: {hex}")
        })
    };
    for (number, valid) in corpus.iter().enumerate() {
        check(&format!("valid input {number}"), valid)?;
    }
    let mut random = Random(seed);
    for round in 0..rounds / target.cost {
        let input = damage(&corpus, &mut random);
        check(&format!("round {round}"), &input)?;
    }
    Ok(())
}

/// A corpus entry with one to eight things wrong.
fn damage(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    /// Where lengths, counts and tags go wrong: at the edges of their types, and around the limits in use.
    const EDGES: &[u32] = &[
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        0x7f,
        0x80,
        0xff,
        0x100,
        0x7fff,
        0x8000,
        0xffff,
        0x1_0000,
        35_000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        0xffff_ffff,
    ];
    let mut input = random.pick(corpus).clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let end = at + random.below((input.len() - at).min(64) + 1);
        match random.below(10) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => input.truncate(at),
            3 => drop(input.drain(at..end)),
            4 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            5 => {
                let noise: Vec<u8> = (0..random.below(16)).map(|_| random.next() as u8).collect();
                input.splice(at..at, noise);
            }
            6 => {
                let other = random.pick(corpus);
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            7 => input.extend_from_slice(random.pick::<Vec<u8>>(corpus)),
            edge @ (8 | 9) => {
                let value = *random.pick(EDGES);
                let bytes = if edge == 8 {
                    value.to_be_bytes()
                } else {
                    value.to_le_bytes()
                };
                // Two bytes of it for u16 fields: the low ones are the last of big-endian, the first of little-endian.
                let bytes = match (random.below(2), edge) {
                    (0, _) => &bytes[..],
                    (_, 8) => &bytes[2..],
                    _ => &bytes[..2],
                };
                let end = (at + bytes.len()).min(input.len());
                input.splice(at..end, bytes.iter().copied());
            }
            _ => {}
        }
        input.truncate(MAX_INPUT_BYTES);
    }
    input
}

/// SplitMix64: the same everywhere and for ever, which is all that is asked of it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Messages behind their lengths, for decoders that get whole messages from below: damage reaches their borders too.
struct Lengths<'a>(&'a [u8]);

impl Lengths<'_> {
    fn join(message: &[u8]) -> Vec<u8> {
        [&(message.len() as u16).to_be_bytes(), message].concat()
    }
}

impl<'a> Iterator for Lengths<'a> {
    type Item = &'a [u8];

    /// The next message; the last one may be shorter than announced.
    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (message, rest) = rest.split_at(length.min(rest.len()));
        self.0 = rest;
        Some(message)
    }
}

// The fuzzer itself

#[test]
fn the_fuzzer_finds_a_length_that_is_believed() {
    let target = Target {
        name: "naive",
        corpus: || vec![b"\0\0\0\x05hello".to_vec()],
        run: |input| {
            let Some((length, body)) = input.split_first_chunk::<4>() else {
                return;
            };
            let _ = &body[..u32::from_be_bytes(*length) as usize];
        },
        cost: 1,
    };
    let failure = fuzz(&target, 1, 1_000).unwrap_err();
    assert!(failure.starts_with("naive: round "), "{failure}");
    assert_eq!(fuzz(&target, 1, 1_000).unwrap_err(), failure);
}
