//! Tests of the pure core: foreign bytes, a pair of cores, fairness, bounds.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::frame::{DecodeError, StreamId};
use super::session::{Core, Event, Read, Role};
use super::{Config, Error, Keepalive};

const ID: StreamId = StreamId(3);

fn core(role: Role) -> Core {
    Core::new(role, Config::default(), Instant::now())
}

fn open(core: &mut Core) -> StreamId {
    core.open().unwrap().unwrap()
}

fn feed(core: &mut Core, bytes: &[u8]) -> Result<(), Error> {
    core.handle_input(Instant::now(), Bytes::copy_from_slice(bytes))
}

/// Everything there is to send.
fn sent(core: &mut Core) -> BytesMut {
    let mut out = BytesMut::new();
    while core.poll_transmit(&mut out) {}
    out
}

/// The next frame alone.
fn frame(core: &mut Core) -> Vec<u8> {
    let mut out = BytesMut::new();
    core.poll_transmit(&mut out);
    out.to_vec()
}

fn events(core: &mut Core) -> Vec<Event> {
    std::iter::from_fn(|| core.poll_event()).collect()
}

fn read(core: &mut Core, id: StreamId) -> (Vec<u8>, Result<Read, Error>) {
    let mut got = Vec::new();
    loop {
        match core.read(id, &mut got) {
            Ok(Read::Data(_)) => {}
            end => return (got, end),
        }
    }
}

fn syn(id: u8) -> [u8; 8] {
    [1, 0, 0, 0, id, 0, 0, 0]
}

fn fin(id: u8) -> [u8; 8] {
    [1, 1, 0, 0, id, 0, 0, 0]
}

fn psh(id: u8, payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = u16::try_from(payload.len()).unwrap().to_le_bytes();
    let mut frame = vec![1, 2, l0, l1, id, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn a_client_writes_what_the_plugin_would() {
    let mut client = core(Role::Client);
    let first = open(&mut client);
    let second = open(&mut client);
    assert_eq!((first, second), (StreamId(3), StreamId(5)));
    assert_eq!(client.write(second, b"hello").unwrap(), 5);
    client.shutdown(second);
    let expected = [
        &b"\x01\x00\x00\x00\x03\x00\x00\x00"[..],
        b"\x01\x00\x00\x00\x05\x00\x00\x00",
        b"\x01\x02\x05\x00\x05\x00\x00\x00hello",
        b"\x01\x01\x00\x00\x05\x00\x00\x00",
    ]
    .concat();
    assert_eq!(sent(&mut client), expected);
    assert!(!client.has_transmit());
}

#[test]
fn a_server_takes_what_the_plugin_writes() {
    let mut server = core(Role::Server);
    let foreign = b"\x01\x00\x00\x00\x03\x00\x00\x00\x01\x02\x05\x00\x03\x00\x00\x00hello\x01\x01\x00\x00\x03\x00\x00\x00";
    feed(&mut server, foreign).unwrap();
    assert_eq!(events(&mut server), [Event::Incoming]);
    assert_eq!(server.accept(), Some(ID));
    let (got, end) = read(&mut server, ID);
    assert_eq!(got, b"hello");
    assert_eq!(end.unwrap(), Read::Eof);

    // FIN of the client ended only its own direction.
    assert_eq!(server.write(ID, b"bye").unwrap(), 3);
    server.close(ID);
    assert_eq!(
        sent(&mut server),
        b"\x01\x02\x03\x00\x03\x00\x00\x00bye\x01\x01\x00\x00\x03\x00\x00\x00"[..]
    );
    assert!(server.is_idle());
}

#[test]
fn a_server_accepts_any_id_once() {
    let mut server = core(Role::Server);
    for id in [4, 255, 4, 7] {
        feed(&mut server, &syn(id)).unwrap();
    }
    let accepted: Vec<_> = std::iter::from_fn(|| server.accept()).collect();
    assert_eq!(accepted, [StreamId(4), StreamId(255), StreamId(7)]);
    // Its own ids are even and pass over those in use.
    assert_eq!(open(&mut server), StreamId(2));
    assert_eq!(open(&mut server), StreamId(6));
}

#[test]
fn a_client_takes_no_streams_from_the_peer() {
    let mut client = core(Role::Client);
    feed(&mut client, &syn(2)).unwrap();
    feed(&mut client, &psh(2, b"x")).unwrap();
    assert_eq!(client.accept(), None);
    assert!(client.is_idle());
    assert_eq!(client.unread_bytes(), 0);
}

#[test]
fn frames_for_unknown_streams_are_dropped() {
    for role in [Role::Client, Role::Server] {
        let mut core = core(role);
        feed(&mut core, &psh(9, b"lost")).unwrap();
        feed(&mut core, &fin(9)).unwrap();
        assert!(core.is_idle());
        assert_eq!(core.unread_bytes(), 0);
        assert_eq!(events(&mut core), []);
    }
}

#[test]
fn data_after_fin_is_dropped() {
    let mut client = core(Role::Client);
    open(&mut client);
    feed(
        &mut client,
        &[psh(3, b"a"), fin(3).to_vec(), psh(3, b"b")].concat(),
    )
    .unwrap();
    let (got, end) = read(&mut client, ID);
    assert_eq!((&got[..], end.unwrap()), (&b"a"[..], Read::Eof));
}

#[test]
fn an_abandoned_stream_sends_its_last_bytes_and_takes_none() {
    let mut client = core(Role::Client);
    open(&mut client);
    feed(&mut client, &psh(3, b"unread")).unwrap();
    client.write(ID, b"last").unwrap();
    client.close(ID);
    assert_eq!(client.unread_bytes(), 0);
    feed(&mut client, &psh(3, b"late")).unwrap();
    assert_eq!(client.unread_bytes(), 0);
    let wire = [syn(3).to_vec(), psh(3, b"last"), fin(3).to_vec()].concat();
    assert_eq!(sent(&mut client), wire);
    assert!(client.is_idle());
    assert!(matches!(client.write(ID, b"x"), Err(Error::UnknownStream)));
}

#[test]
fn nothing_is_written_after_shutdown() {
    let mut client = core(Role::Client);
    open(&mut client);
    client.shutdown(ID);
    client.shutdown(ID);
    assert!(matches!(client.write(ID, b"x"), Err(Error::SendClosed)));
    assert_eq!(sent(&mut client), [syn(3), fin(3)].concat());
    feed(&mut client, &psh(3, b"still here")).unwrap();
    assert_eq!(read(&mut client, ID).0, b"still here");
}

#[test]
fn another_protocol_ends_the_session_after_what_came_before() {
    let mut client = core(Role::Client);
    open(&mut client);
    let (_, blocked) = read(&mut client, ID);
    assert_eq!(blocked.unwrap(), Read::Blocked);
    let wire = [psh(3, b"before"), vec![2, 0, 0, 0, 3, 0, 0, 0]].concat();
    let error = feed(&mut client, &wire).unwrap_err();
    assert!(matches!(
        error,
        Error::Protocol(DecodeError::UnsupportedVersion(2))
    ));
    assert_eq!(events(&mut client), [Event::Readable(ID), Event::Ended]);
    let (got, end) = read(&mut client, ID);
    assert_eq!(got, b"before");
    assert!(matches!(end, Err(Error::Protocol(_))));
    assert!(client.write(ID, b"x").is_err());
    assert!(client.open().is_err());
    assert!(!client.has_transmit());
    client.close(ID);
    assert!(client.is_idle());
}

#[test]
fn ids_run_out_without_wrapping() {
    let mut client = core(Role::Client);
    client.skip_ids(u32::MAX - 2);
    assert_eq!(open(&mut client), StreamId(u32::MAX));
    assert!(matches!(client.open(), Err(Error::StreamIdsExhausted)));
    assert!(matches!(client.open(), Err(Error::StreamIdsExhausted)));
}

#[test]
fn streams_take_turns_and_a_keystroke_waits_for_one_short_frame_each() {
    let mut client = core(Role::Client);
    let bulk = [open(&mut client), open(&mut client), open(&mut client)];
    let interactive = open(&mut client);
    sent(&mut client);
    let block = vec![0; 64 * 1024];
    for id in bulk {
        assert_eq!(client.write(id, &block).unwrap(), block.len());
    }
    let turns: Vec<_> = (0..6).map(|_| frame(&mut client)).collect();
    let speakers: Vec<_> = turns.iter().map(|frame| frame[4]).collect();
    assert_eq!(speakers, [3, 5, 7, 3, 5, 7]);
    assert!(turns.iter().all(|frame| frame.len() == 8 + 8 * 1024));

    client.write(interactive, b"k").unwrap();
    let turns: Vec<_> = (0..4).map(|_| frame(&mut client)).collect();
    let speakers: Vec<_> = turns.iter().map(|frame| frame[4]).collect();
    assert_eq!(speakers, [3, 5, 7, 9]);
    assert_eq!(turns[3], psh(9, b"k"));
}

#[test]
fn a_stream_alone_sends_long_frames() {
    let mut client = core(Role::Client);
    let id = open(&mut client);
    sent(&mut client);
    client.write(id, &[0; 40_000]).unwrap();
    assert_eq!(frame(&mut client).len(), 8 + 32 * 1024);
    assert_eq!(frame(&mut client).len(), 8 + 40_000 - 32 * 1024);
}

#[test]
fn a_writer_waits_when_its_buffer_is_full() {
    let mut client = core(Role::Client);
    let id = open(&mut client);
    let other = open(&mut client);
    sent(&mut client);
    assert_eq!(client.write(id, &[0; 100_000]).unwrap(), 64 * 1024);
    assert_eq!(client.write(id, &[0; 100_000]).unwrap(), 0);
    assert_eq!(client.write(other, b"not me").unwrap(), 6);
    assert_eq!(events(&mut client), []);
    sent(&mut client);
    assert_eq!(events(&mut client), [Event::Writable(id)]);
    assert_eq!(client.write(id, &[0; 10]).unwrap(), 10);
}

#[test]
fn a_client_waits_shortly_and_resets_only_the_stream_that_overran() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut client = core(Role::Client);
    let slow = open(&mut client);
    let good = open(&mut client);
    sent(&mut client);
    client.write(slow, b"never goes out").unwrap();
    let payload = vec![7; 32 * 1024];
    let feed_at = |client: &mut Core, millis, frame: Vec<u8>| {
        client.handle_input(at(millis), frame.into()).unwrap();
    };
    for _ in 0..256 {
        feed_at(&mut client, 0, psh(3, &payload));
    }
    assert_eq!(client.unread_bytes(), 8 * 1024 * 1024);
    assert!(client.wants_input());
    assert_eq!(client.poll_timeout(), None);
    feed_at(&mut client, 500, psh(3, b"!"));
    assert!(!client.wants_input());
    assert_eq!(client.poll_timeout(), Some(at(1500)));
    client.handle_timeout(at(1499)).unwrap();
    assert!(!client.wants_input());

    client.handle_timeout(at(1500)).unwrap();
    assert!(client.wants_input());
    assert_eq!(client.poll_timeout(), None);
    assert_eq!(client.unread_bytes(), 0);
    assert!(matches!(
        read(&mut client, slow).1,
        Err(Error::ReceiveOverrun)
    ));
    assert!(matches!(
        client.write(slow, b"x"),
        Err(Error::ReceiveOverrun)
    ));
    assert_eq!(sent(&mut client), fin(3)[..]);

    feed_at(&mut client, 1600, psh(3, b"late"));
    feed_at(&mut client, 1600, psh(5, b"unharmed"));
    assert_eq!(read(&mut client, good).0, b"unharmed");
    client.close(slow);
    client.close(good);
    sent(&mut client);
    assert!(client.is_idle());
}

#[test]
fn a_reader_that_catches_up_or_leaves_is_not_reset() {
    let config = Config {
        stream_receive_bytes: 100,
        ..Config::default()
    };
    let mut client = Core::new(Role::Client, config, Instant::now());
    let id = open(&mut client);
    let other = open(&mut client);
    feed(&mut client, &psh(3, &[0; 101])).unwrap();
    assert!(!client.wants_input());
    let mut got = Vec::new();
    let mut some = bytes::BufMut::limit(&mut got, 50);
    client.read(id, &mut some).unwrap();
    assert!(!client.wants_input());
    let mut one = bytes::BufMut::limit(&mut got, 1);
    client.read(id, &mut one).unwrap();
    assert!(client.wants_input());

    // After FIN there is nothing more to hold off.
    feed(&mut client, &[psh(3, &[0; 60]), fin(3).to_vec()].concat()).unwrap();
    assert!(client.wants_input());
    feed(&mut client, &psh(5, &[0; 101])).unwrap();
    assert!(!client.wants_input());
    client.close(other);
    assert!(client.wants_input());
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn a_server_stops_reading_while_its_bucket_is_exhausted() {
    let mut server = core(Role::Server);
    feed(&mut server, &[syn(3), syn(5)].concat()).unwrap();
    let (slow, other) = (server.accept().unwrap(), server.accept().unwrap());
    let payload = vec![7; 32 * 1024];
    let mut frames = 0;
    while server.wants_input() {
        feed(&mut server, &psh(3 + 2 * (frames % 2), &payload)).unwrap();
        frames += 1;
    }
    assert_eq!(server.unread_bytes(), 4 * 1024 * 1024);
    // The bucket is the session's: any reader makes room, and so does giving a stream up.
    let mut one = Vec::new();
    assert!(matches!(server.read(other, &mut one), Ok(Read::Data(_))));
    assert!(server.wants_input());
    while server.wants_input() {
        feed(&mut server, &psh(5, &payload)).unwrap();
    }
    server.close(slow);
    assert!(server.wants_input());
}

#[test]
fn a_server_stops_reading_at_a_full_backlog() {
    let mut server = core(Role::Server);
    let mut id = 1_u32;
    while server.wants_input() {
        let mut syn = syn(0);
        syn[4..].copy_from_slice(&id.to_le_bytes());
        feed(&mut server, &syn).unwrap();
        id += 2;
    }
    assert_eq!(id, 1 + 2 * 1024);
    assert!(server.accept().is_some());
    assert!(server.wants_input());
    // Nobody is left to accept: every one of them is answered.
    server.refuse_incoming();
    assert_eq!(sent(&mut server).len(), 1023 * 8);
    feed(&mut server, &syn(2)).unwrap();
    assert_eq!(sent(&mut server), fin(2)[..]);
}

#[test]
fn opening_waits_while_too_much_is_unsent() {
    let mut client = core(Role::Client);
    let mut opened = 0;
    while let Some(id) = client.open().unwrap() {
        client.close(id);
        opened += 1;
    }
    assert_eq!(opened, 1024);
    frame(&mut client);
    assert_eq!(events(&mut client), []);
    sent(&mut client);
    assert_eq!(events(&mut client), [Event::Openable]);
    assert!(client.open().unwrap().is_some());
}

#[test]
fn nop_is_sent_when_asked_for_and_silence_is_noticed() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(core(Role::Client).poll_timeout(), None);
    let config = Config {
        keepalive: Some(Keepalive::default()),
        ..Config::default()
    };
    let mut client = Core::new(Role::Client, config, start);
    assert_eq!(client.poll_timeout(), Some(at(10)));
    client.handle_timeout(at(10)).unwrap();
    assert_eq!(sent(&mut client), b"\x01\x03\0\0\0\0\0\0"[..]);
    // The io takes nothing: NOPs do not pile up.
    client.handle_timeout(at(20)).unwrap();
    let nop = Bytes::from_static(b"\x01\x03\0\0\0\0\0\0");
    client.handle_input(at(25), nop).unwrap();
    client.handle_timeout(at(30)).unwrap();
    assert_eq!(sent(&mut client).len(), 8);
    client.handle_timeout(at(54)).unwrap();
    assert!(matches!(
        client.handle_timeout(at(55)),
        Err(Error::KeepaliveTimeout)
    ));
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn a_server_that_does_not_read_does_not_call_its_peer_silent() {
    let start = Instant::now();
    let config = Config {
        keepalive: Some(Keepalive::default()),
        session_receive_bytes: 1,
        ..Config::default()
    };
    let mut server = Core::new(Role::Server, config, start);
    let wire = [syn(3).to_vec(), psh(3, b"x")].concat();
    server.handle_input(start, wire.into()).unwrap();
    assert!(!server.wants_input());
    server
        .handle_timeout(start + Duration::from_secs(31))
        .unwrap();
}

/// One side of a [`Pair`], with what its application still means to write and what it has read.
struct Side {
    core: Core,
    plans: BTreeMap<StreamId, VecDeque<u8>>,
    received: BTreeMap<StreamId, Vec<u8>>,
}

impl Side {
    fn new(role: Role, config: Config) -> Self {
        Self {
            core: Core::new(role, config, Instant::now()),
            plans: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    /// Writes and reads as far as possible, `grain` bytes a call; returns whether anything moved.
    fn work(&mut self, grain: usize) -> bool {
        let mut moved = false;
        for (id, plan) in &mut self.plans {
            let chunk: Vec<u8> = plan.iter().copied().take(grain).collect();
            let count = self.core.write(*id, &chunk).unwrap_or(0);
            plan.drain(..count);
            moved |= count > 0;
            if plan.is_empty() {
                self.core.shutdown(*id);
            }
            let got = self.received.entry(*id).or_default();
            let before = got.len();
            let mut buf = bytes::BufMut::limit(&mut *got, grain);
            self.core.read(*id, &mut buf).unwrap();
            moved |= got.len() > before;
        }
        moved
    }
}

fn pattern(id: StreamId, length: usize) -> VecDeque<u8> {
    (0..length)
        .map(|n| (n as u32).wrapping_mul(31).wrapping_add(id.0) as u8)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_arrives_once_and_in_order(
        lengths in prop::collection::vec((0_usize..40_000, 0_usize..40_000), 1..5),
        cuts in prop::collection::vec(1_usize..9_000, 1..20),
        grain in 1_usize..70_000,
        send_buffer_bytes in 1_usize..70_000,
        session_receive_bytes in 1_usize..70_000,
        shared_frame_bytes in 0_usize..70_000,
    ) {
        let grain = grain.max(64);
        let config = Config {
            send_buffer_bytes: send_buffer_bytes.max(64),
            session_receive_bytes,
            shared_frame_bytes,
            ..Config::default()
        };
        let mut client = Side::new(Role::Client, config.clone());
        let mut server = Side::new(Role::Server, config);
        let mut expected = Vec::new();
        for (up, down) in &lengths {
            let id = open(&mut client.core);
            client.plans.insert(id, pattern(id, *up));
            expected.push((id, *up, *down));
        }
        let mut cuts = cuts.into_iter().cycle();
        let (mut upward, mut downward) = (BytesMut::new(), BytesMut::new());
        loop {
            let mut moved = client.work(grain) | server.work(grain);
            if upward.is_empty() {
                moved |= client.core.poll_transmit(&mut upward);
            }
            if downward.is_empty() {
                moved |= server.core.poll_transmit(&mut downward);
            }
            for (link, to) in [(&mut upward, &mut server), (&mut downward, &mut client)] {
                let count = link.len().min(cuts.next().unwrap());
                if count > 0 && to.core.wants_input() {
                    let input = link.split_to(count).freeze();
                    to.core.handle_input(Instant::now(), input).unwrap();
                    moved = true;
                }
            }
            while let Some(id) = server.core.accept() {
                let length = expected.iter().find(|plan| plan.0 == id).unwrap().2;
                server.plans.insert(id, pattern(id, length));
                moved = true;
            }
            if !moved {
                break;
            }
        }
        for (id, up, down) in expected {
            prop_assert!(pattern(id, up) == server.received[&id]);
            prop_assert!(pattern(id, down) == client.received[&id]);
            for side in [&mut client, &mut server] {
                prop_assert_eq!(side.core.read(id, &mut Vec::new()).unwrap(), Read::Eof);
                side.core.close(id);
            }
        }
        prop_assert!(client.core.is_idle() && server.core.is_idle());
    }

    #[test]
    fn arbitrary_bytes_end_the_session_at_worst(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10),
        is_client in any::<bool>(),
    ) {
        let mut core = core(if is_client { Role::Client } else { Role::Server });
        open(&mut core);
        for mut chunk in chunks {
            // Half of them look like frames.
            if chunk.len() > 8 && chunk[8] % 2 == 0 {
                let header = [1, chunk[1] % 4, chunk[2] % 32, 0, chunk[4] % 8, 0, 0, 0];
                chunk[..8].copy_from_slice(&header);
            }
            let failed = feed(&mut core, &chunk).is_err();
            prop_assert_eq!(failed, core.end().is_some());
            if failed {
                break;
            }
            while let Some(id) = core.accept() {
                let _ = core.write(id, b"hello");
                let _ = core.read(id, &mut Vec::new());
            }
            sent(&mut core);
            events(&mut core);
        }
    }
}
