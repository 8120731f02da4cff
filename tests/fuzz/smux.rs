//! smux frames, alone and in a session.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use ssmshim::smux::frame::{Decoder, Received, StreamId};
use ssmshim::smux::session::{Core, Read, Role};
use ssmshim::smux::{Config, Error};

/// A session of the client, cut after every frame.
pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let mut client = Core::new(Role::Client, Config::default(), Instant::now());
    let mut wire = BytesMut::new();
    let mut corpus = Vec::new();
    for length in [0, 1, 5, 300, 9_000] {
        let id = client
            .open()
            .expect("a live session")
            .expect("an empty one");
        client
            .write(id, &vec![0x5a; length])
            .expect("an open stream");
        client.shutdown(id);
        while client.poll_transmit(&mut wire) {
            corpus.push(wire.to_vec());
        }
    }
    // Frames for the streams a client under test has opened itself, without SYN.
    corpus
        .push(b"\x01\x02\x05\0\x03\0\0\0hello\x01\x03\0\0\0\0\0\0\x01\x01\0\0\x03\0\0\0".to_vec());
    corpus
}

/// The frames in `input` are the same however it is cut.
pub(crate) fn frames(input: &[u8]) {
    let whole = decode(input, input.len().max(1));
    assert_eq!(decode(input, 1), whole);
    assert_eq!(decode(input, 7), whole);
}

/// Kind, stream and payload, that of neighbours joined.
type Frame = (&'static str, StreamId, Vec<u8>);

/// The frames of `input`, and whether they ended in an error.
fn decode(input: &[u8], cut: usize) -> (Vec<Frame>, bool) {
    let mut decoder = Decoder::default();
    let mut frames: Vec<Frame> = Vec::new();
    let mut rest = Bytes::copy_from_slice(input);
    while !rest.is_empty() {
        let mut chunk = rest.split_to(cut.min(rest.len()));
        loop {
            match decoder.next(&mut chunk) {
                Ok(Some(Received::Data(id, piece))) => match frames.last_mut() {
                    Some(("PSH", last, data)) if *last == id => data.extend_from_slice(&piece),
                    _ => frames.push(("PSH", id, piece.to_vec())),
                },
                Ok(Some(Received::Syn(id))) => frames.push(("SYN", id, Vec::new())),
                Ok(Some(Received::Fin(id))) => frames.push(("FIN", id, Vec::new())),
                Ok(Some(Received::Nop)) => frames.push(("NOP", StreamId(0), Vec::new())),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

pub(crate) fn client(input: &[u8]) {
    session(Role::Client, input);
}

pub(crate) fn server(input: &[u8]) {
    session(Role::Server, input);
}

/// A core stays within its bounds, keeps answering, and can always be left.
fn session(role: Role, input: &[u8]) {
    let config = Config {
        stream_receive_bytes: 500,
        session_receive_bytes: 500,
        ..Config::default()
    };
    let now = Instant::now();
    let mut core = Core::new(role, config, now);
    let mut streams: Vec<StreamId> = Vec::new();
    for _ in 0..2 {
        streams.extend(core.open().expect("a live session"));
    }
    let mut output = BytesMut::new();
    let mut due = now;
    for (turn, chunk) in input.chunks(61).enumerate() {
        if core.wants_input()
            && core
                .handle_input(due, Bytes::copy_from_slice(chunk))
                .is_err()
        {
            break;
        }
        streams.extend(core.accept());
        // One stream in three is never read, the others now and then.
        for (number, id) in streams.iter().enumerate() {
            if number % 3 != 0 && turn % 4 == 0 {
                let _: Result<Read, Error> = core.read(*id, &mut Vec::new());
                let _: Result<usize, Error> = core.write(*id, chunk);
            }
        }
        let streams_at_most = if role == Role::Client {
            streams.len()
        } else {
            1
        };
        assert!(core.unread_bytes() <= streams_at_most * (500 + 61));
        while core.poll_event().is_some() {}
        output.clear();
        core.poll_transmit(&mut output);
        if let Some(timeout) = core.poll_timeout() {
            due = timeout;
            let _: Result<(), Error> = core.handle_timeout(due);
        }
    }
    core.refuse_incoming();
    for id in streams {
        core.close(id);
    }
    while core.poll_transmit(&mut output) {}
    assert!(core.is_idle());
    assert_eq!(core.unread_bytes(), 0);
}
