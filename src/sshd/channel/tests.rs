//! Messages in hexadecimal where the layout matters; otherwise what RFC 4254 says of windows, ends and replies.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::ssh::wire::Truncated;

/// `SSH_MSG_CHANNEL_OPEN` of the peer's channel 7.
fn open_message(kind: &str, window: u32, max_packet: u32, fields: &[u8]) -> Bytes {
    let mut message = Vec::new();
    message
        .put_byte(msg::CHANNEL_OPEN)
        .put_string(kind)
        .put_uint32(7)
        .put_uint32(window)
        .put_uint32(max_packet)
        .put_raw(fields);
    message.into()
}

/// A message for our channel `id`.
fn channel_message(number: u8, id: ChannelId, fields: &[u8]) -> Bytes {
    let mut message = Vec::new();
    message.put_byte(number).put_uint32(id.0).put_raw(fields);
    message.into()
}

fn data_message(id: ChannelId, data: &[u8]) -> Bytes {
    let mut fields = Vec::new();
    fields.put_string(data);
    channel_message(msg::CHANNEL_DATA, id, &fields)
}

fn request_message(id: ChannelId, name: &str, want_reply: bool, fields: &[u8]) -> Bytes {
    let mut request = Vec::new();
    request
        .put_string(name)
        .put_bool(want_reply)
        .put_raw(fields);
    channel_message(msg::CHANNEL_REQUEST, id, &request)
}

fn global_message(name: &str, want_reply: bool, fields: &[u8]) -> Bytes {
    let mut message = Vec::new();
    message
        .put_byte(msg::GLOBAL_REQUEST)
        .put_string(name)
        .put_bool(want_reply)
        .put_raw(fields);
    message.into()
}

/// A core with one open session, the peer's channel 7.
fn session(window: u32, max_packet: u32) -> (Core, ChannelId) {
    let mut core = Core::default();
    core.handle_message(&open_message("session", window, max_packet, b""))
        .unwrap();
    let Some(Event::Opening(id, ChannelType::Session)) = core.poll_event() else {
        panic!("no session")
    };
    core.confirm(id);
    core.poll_transmit().unwrap();
    (core, id)
}

fn transmitted(core: &mut Core) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| core.poll_transmit()).collect()
}

fn events(core: &mut Core) -> Vec<Event> {
    std::iter::from_fn(|| core.poll_event()).collect()
}

#[test]
fn a_session_is_confirmed_with_our_window() {
    let mut core = Core::default();
    core.handle_message(&open_message("session", 0x20_0000, 0x8000, b""))
        .unwrap();
    let [Event::Opening(id, ChannelType::Session)] = events(&mut core)[..] else {
        panic!()
    };
    core.confirm(id);
    assert_eq!(
        transmitted(&mut core),
        [b"\x5b\x00\x00\x00\x07\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x80\x00"],
    );
}

#[test]
fn unknown_channel_types_are_refused_as_sshd_does() {
    let mut core = Core::default();
    core.handle_message(&open_message("tun@openssh.com", 1, 1, b"whatever"))
        .unwrap();
    assert_eq!(events(&mut core), []);
    let expected =
        b"\x5c\x00\x00\x00\x07\x00\x00\x00\x02\x00\x00\x00\x0bopen failed\x00\x00\x00\x00";
    assert_eq!(transmitted(&mut core), [expected]);
}

#[test]
fn channel_types_with_their_fields() {
    let mut tcp = Vec::new();
    tcp.put_string("db.example")
        .put_uint32(5432)
        .put_string("127.0.0.1")
        .put_uint32(9);
    let mut unix = Vec::new();
    unix.put_string("/run/\u{e9}").put_string("").put_uint32(0);
    let cases = [
        (
            "direct-tcpip",
            tcp,
            ChannelType::DirectTcpip {
                host: b"db.example".into(),
                port: 5432,
            },
        ),
        (
            "direct-streamlocal@openssh.com",
            unix,
            ChannelType::DirectStreamlocal {
                path: "/run/\u{e9}".into(),
            },
        ),
    ];
    for (name, fields, expected) in cases {
        let mut core = Core::default();
        core.handle_message(&open_message(name, 1, 1, &fields))
            .unwrap();
        let [Event::Opening(id, kind)] = &events(&mut core)[..] else {
            panic!()
        };
        assert_eq!(*kind, expected);
        core.refuse(*id, OpenFailure::ConnectFailed, "Connection refused");
        assert_eq!(
            transmitted(&mut core)[0][..9],
            *b"\x5c\x00\x00\x00\x07\x00\x00\x00\x02"
        );
        // Refused, so gone.
        assert!(core.handle_message(&data_message(*id, b"x")).is_err());

        let short = open_message(name, 1, 1, &fields[..fields.len() - 1]);
        assert_eq!(
            core.handle_message(&short),
            Err(Error::Truncated(Truncated))
        );
        let long = open_message(name, 1, 1, &[&fields[..], b"x"].concat());
        assert_eq!(core.handle_message(&long), Err(Error::TrailingBytes));
    }
}

#[test]
fn what_clients_write_is_logged_without_control_characters() {
    let host = b"a\x1b[2J\n\xff".to_vec();
    let kind = ChannelType::DirectTcpip { host, port: 70_000 };
    assert_eq!(kind.to_string(), r"direct-tcpip to a\x1b[2J\n\xff:70000");
}

#[test]
fn the_window_is_renewed_at_half_and_never_overrun() {
    let (mut core, id) = session(0, 0);
    let full = vec![0; MAX_PACKET as usize];
    for _ in 0..WINDOW / MAX_PACKET {
        core.handle_message(&data_message(id, &full)).unwrap();
    }
    assert_eq!(events(&mut core).len(), (WINDOW / MAX_PACKET) as usize);
    let overrun = Error::WindowOverrun {
        length: 1,
        window: 0,
    };
    assert_eq!(core.handle_message(&data_message(id, b"x")), Err(overrun));

    core.consumed(id, WINDOW as usize / 2 - 1);
    assert_eq!(transmitted(&mut core).len(), 0);
    core.consumed(id, 1);
    assert_eq!(
        transmitted(&mut core),
        [b"\x5d\x00\x00\x00\x07\x00\x08\x00\x00"]
    );
    for _ in 0..WINDOW / MAX_PACKET / 2 {
        core.handle_message(&data_message(id, &full)).unwrap();
    }
    assert!(core.handle_message(&data_message(id, b"x")).is_err());
    // More than is outstanding cannot be consumed.
    core.consumed(id, usize::MAX);
    assert_eq!(
        transmitted(&mut core),
        [b"\x5d\x00\x00\x00\x07\x00\x10\x00\x00"]
    );
}

#[test]
fn data_above_the_maximum_packet_size_is_an_error() {
    let (mut core, id) = session(0, 0);
    let length = MAX_PACKET as usize + 1;
    let message = data_message(id, &vec![0; length]);
    assert_eq!(
        core.handle_message(&message),
        Err(Error::OversizedData(length))
    );
}

#[test]
fn data_that_nobody_wants_renews_the_window_by_itself() {
    let full = vec![0; MAX_PACKET as usize];
    let (mut core, id) = session(0, 0);
    core.close(id);
    for _ in 0..4 * WINDOW / MAX_PACKET {
        // After our CLOSE no grant is sent, so the peer has to stop within one window.
        if core.handle_message(&data_message(id, &full)).is_err() {
            break;
        }
    }
    assert_eq!(events(&mut core), []);
    assert_eq!(transmitted(&mut core).len(), 1);

    let (mut core, id) = session(0, 0);
    let mut extended = Vec::new();
    extended.put_uint32(1).put_string(&full);
    for _ in 0..4 * WINDOW / MAX_PACKET {
        core.handle_message(&channel_message(msg::CHANNEL_EXTENDED_DATA, id, &extended))
            .unwrap();
    }
    assert_eq!(events(&mut core), []);
    assert_eq!(transmitted(&mut core).len(), 8);
}

#[test]
fn data_goes_out_as_window_and_packet_size_allow() {
    let (mut core, id) = session(10, 4);
    let mut message = Vec::new();
    assert_eq!(core.data(id, Stream::Stdout, b"abcdefgh", &mut message), 4);
    assert_eq!(message, b"\x5e\x00\x00\x00\x07\x00\x00\x00\x04abcd");
    assert_eq!(core.data(id, Stream::Stderr, b"ef", &mut message), 2);
    assert_eq!(
        message,
        b"\x5f\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x02ef"
    );
    assert_eq!(core.data(id, Stream::Stdout, b"ghijkl", &mut message), 4);
    assert_eq!(core.data(id, Stream::Stdout, b"kl", &mut message), 0);

    let adjust = |count: u32| channel_message(msg::CHANNEL_WINDOW_ADJUST, id, &count.to_be_bytes());
    core.handle_message(&adjust(1)).unwrap();
    core.handle_message(&adjust(1)).unwrap();
    assert_eq!(events(&mut core), [Event::Writable(id)]);
    assert_eq!(core.data(id, Stream::Stdout, b"kl", &mut message), 2);
    core.handle_message(&adjust(u32::MAX)).unwrap();
    assert_eq!(core.handle_message(&adjust(1)), Err(Error::WindowOverflow));
}

#[test]
fn packets_stay_small_whatever_the_peer_allows() {
    let (mut core, id) = session(u32::MAX, u32::MAX);
    let mut message = Vec::new();
    let taken = core.data(id, Stream::Stdout, &vec![0; 1 << 20], &mut message);
    assert_eq!(taken, MAX_PACKET as usize);
}

#[test]
fn each_direction_ends_by_itself() {
    let (mut core, id) = session(100, 100);
    let mut message = Vec::new();
    core.handle_message(&channel_message(msg::CHANNEL_EOF, id, b""))
        .unwrap();
    core.handle_message(&channel_message(msg::CHANNEL_EOF, id, b""))
        .unwrap();
    assert_eq!(events(&mut core), [Event::Eof(id)]);
    assert_eq!(core.data(id, Stream::Stdout, b"still", &mut message), 5);
    core.eof(id);
    core.eof(id);
    assert_eq!(transmitted(&mut core), [b"\x60\x00\x00\x00\x07"]);
    assert_eq!(core.data(id, Stream::Stdout, b"over", &mut message), 0);
    core.exit(id, &Exit::Status(3));
    core.close(id);
    core.close(id);
    core.eof(id);
    let sent = transmitted(&mut core);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[1], b"\x61\x00\x00\x00\x07");
    core.handle_message(&channel_message(msg::CHANNEL_CLOSE, id, b""))
        .unwrap();
    assert_eq!(events(&mut core), [Event::Closed(id)]);
    assert_eq!(transmitted(&mut core).len(), 0);
    assert_eq!(
        core.handle_message(&channel_message(msg::CHANNEL_CLOSE, id, b"")),
        Err(Error::NoSuchChannel {
            number: msg::CHANNEL_CLOSE,
            channel: 0
        }),
    );
}

#[test]
fn a_close_is_answered_by_a_close() {
    let (mut core, id) = session(100, 100);
    core.handle_message(&channel_message(msg::CHANNEL_CLOSE, id, b""))
        .unwrap();
    assert_eq!(events(&mut core), [Event::Closed(id)]);
    // Too late for all but the exit.
    let mut message = Vec::new();
    assert_eq!(core.data(id, Stream::Stdout, b"x", &mut message), 0);
    core.eof(id);
    core.end_of_write(id);
    core.consumed(id, 1 << 20);
    core.exit(id, &Exit::Status(0));
    core.close(id);
    let sent = transmitted(&mut core);
    assert_eq!(
        (sent.len(), sent[0][0], &sent[1][..]),
        (2, 98, &b"\x61\x00\x00\x00\x07"[..])
    );
    core.exit(id, &Exit::Status(0));
    core.close(id);
    core.respond(id, true);
    assert_eq!(transmitted(&mut core).len(), 0);
    assert!(core.handle_message(&data_message(id, b"x")).is_err());
}

#[test]
fn exits_as_rfc_4254_has_them() {
    let (mut core, id) = session(0, 0);
    core.exit(id, &Exit::Status(7));
    core.exit(
        id,
        &Exit::Signal {
            name: "KILL".into(),
            core_dumped: true,
        },
    );
    core.end_of_write(id);
    assert_eq!(
        transmitted(&mut core),
        [
            &b"\x62\x00\x00\x00\x07\x00\x00\x00\x0bexit-status\x00\x00\x00\x00\x07"[..],
            b"\x62\x00\x00\x00\x07\x00\x00\x00\x0bexit-signal\x00\x00\x00\x00\x04KILL\x01\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x62\x00\x00\x00\x07\x00\x00\x00\x0feow@openssh.com\x00",
        ],
    );
    core.handle_message(&channel_message(msg::CHANNEL_EOF, id, b""))
        .unwrap();
    core.end_of_write(id);
    assert_eq!(transmitted(&mut core).len(), 0);
}

#[test]
fn requests_with_their_fields() {
    let (mut core, id) = session(0, 0);
    let mut pty = Vec::new();
    pty.put_string("xterm")
        .put_uint32(80)
        .put_uint32(24)
        .put_uint32(640)
        .put_uint32(480)
        .put_string(b"\x00");
    let mut env = Vec::new();
    env.put_string("LANG").put_string(b"\xff");
    let mut command = Vec::new();
    command.put_string(b"echo \xff");
    let mut size = Vec::new();
    size.put_uint32(1).put_uint32(2).put_uint32(3).put_uint32(4);
    let cases = [
        (
            "pty-req",
            pty,
            ChannelRequest::Pty {
                term: b"xterm".into(),
                size: TerminalSize {
                    columns: 80,
                    rows: 24,
                    width_pixels: 640,
                    height_pixels: 480,
                },
                modes: b"\x00".into(),
            },
        ),
        ("shell", Vec::new(), ChannelRequest::Shell),
        (
            "exec",
            command.clone(),
            ChannelRequest::Exec(b"echo \xff".into()),
        ),
        (
            "subsystem",
            command.clone(),
            ChannelRequest::Subsystem(b"echo \xff".into()),
        ),
        (
            "env",
            env,
            ChannelRequest::Env {
                name: b"LANG".into(),
                value: b"\xff".into(),
            },
        ),
        (
            "window-change",
            size,
            ChannelRequest::WindowChange(TerminalSize {
                columns: 1,
                rows: 2,
                width_pixels: 3,
                height_pixels: 4,
            }),
        ),
        (
            "signal",
            command.clone(),
            ChannelRequest::Signal(b"echo \xff".into()),
        ),
        ("break", vec![0; 4], ChannelRequest::Break),
        ("eow@openssh.com", Vec::new(), ChannelRequest::EndOfWrite),
        (
            "auth-agent-req@openssh.com",
            Vec::new(),
            ChannelRequest::AgentForward,
        ),
        (
            "x11-req",
            b"\x01\x00\x00\x00\x12MIT-MAGIC-COOKIE-1\x00\x00\x00\x0400ff\x00\x00\x00\x02".into(),
            ChannelRequest::X11Forward(X11Request {
                single_connection: true,
                protocol: b"MIT-MAGIC-COOKIE-1".into(),
                cookie: Cookie(b"00ff".into()),
                screen: 2,
            }),
        ),
    ];
    for (name, fields, expected) in cases {
        core.handle_message(&request_message(id, name, false, &fields))
            .unwrap();
        assert_eq!(events(&mut core), [Event::Request(id, expected)]);
        core.respond(id, true);
        let long = [&fields[..], b"x"].concat();
        assert!(
            core.handle_message(&request_message(id, name, false, &long))
                .is_err(),
            "{name}"
        );
        if let Some((_, short)) = fields.split_last() {
            assert!(
                core.handle_message(&request_message(id, name, false, short))
                    .is_err(),
                "{name}"
            );
        }
    }
    core.handle_message(&request_message(id, "unheard-of", true, b"anything"))
        .unwrap();
    assert_eq!(
        events(&mut core),
        [Event::Request(id, ChannelRequest::Unknown)]
    );
    assert_eq!(transmitted(&mut core).len(), 0);
}

#[test]
fn replies_go_out_in_the_order_of_the_requests_that_want_them() {
    let (mut core, id) = session(0, 0);
    for want_reply in [true, false, true] {
        core.handle_message(&request_message(id, "unknown", want_reply, b""))
            .unwrap();
    }
    for success in [true, true, false, true] {
        core.respond(id, success);
    }
    assert_eq!(
        transmitted(&mut core),
        [b"\x63\x00\x00\x00\x07", b"\x64\x00\x00\x00\x07"]
    );

    let mut forward = Vec::new();
    forward.put_string("").put_uint32(0);
    core.handle_message(&global_message("tcpip-forward", true, &forward))
        .unwrap();
    core.handle_message(&global_message("keepalive@openssh.com", true, b""))
        .unwrap();
    core.handle_message(&global_message("keepalive@openssh.com", false, b""))
        .unwrap();
    core.handle_message(&global_message("cancel-tcpip-forward", true, &forward))
        .unwrap();
    assert_eq!(
        events(&mut core)[4 - 1],
        Event::Global(GlobalRequest::TcpipForward {
            address: Vec::new(),
            port: 0
        }),
    );
    core.respond_global(Some(&[0, 0, 4, 1]));
    core.respond_global(None);
    core.respond_global(None);
    core.respond_global(Some(b""));
    assert_eq!(
        transmitted(&mut core),
        [&b"\x51\x00\x00\x04\x01"[..], b"\x52", b"\x51"]
    );
}

#[test]
fn no_session_after_no_more_sessions() {
    let (mut core, _) = session(0, 0);
    core.handle_message(&global_message("no-more-sessions@openssh.com", false, b""))
        .unwrap();
    let message = open_message("session", 0, 0, b"");
    assert_eq!(core.handle_message(&message), Err(Error::UnexpectedSession));
    let mut path = Vec::new();
    path.put_string("/s").put_string("").put_uint32(0);
    let message = open_message("direct-streamlocal@openssh.com", 0, 0, &path);
    assert_eq!(core.handle_message(&message), Ok(Verdict::Taken));
}

#[test]
fn forwarded_channels_are_opened_towards_the_client() {
    let mut core = Core::default();
    let tcp = Forwarded::Tcpip {
        address: b"localhost".into(),
        port: 8080,
        originator: "::1".into(),
        originator_port: 5,
    };
    let id = core.open(&tcp).unwrap();
    let mut expected = Vec::new();
    expected
        .put_byte(90)
        .put_string("forwarded-tcpip")
        .put_raw(&[0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0x80, 0])
        .put_string("localhost")
        .put_uint32(8080)
        .put_string("::1")
        .put_uint32(5);
    assert_eq!(transmitted(&mut core), [expected]);
    // Nothing but the answer may come, and the answer only once.
    assert!(core.handle_message(&data_message(id, b"x")).is_err());
    let confirmation = channel_message(
        msg::CHANNEL_OPEN_CONFIRMATION,
        id,
        &[0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 2],
    );
    core.handle_message(&confirmation).unwrap();
    assert_eq!(events(&mut core), [Event::Opened(id)]);
    let mut message = Vec::new();
    assert_eq!(core.data(id, Stream::Stdout, b"abc", &mut message), 2);
    assert_eq!(message[..5], *b"\x5e\x00\x00\x00\x09");
    assert!(core.handle_message(&confirmation).is_err());

    let id = core
        .open(&Forwarded::Streamlocal { path: b"/s".into() })
        .unwrap();
    let failure = channel_message(msg::CHANNEL_OPEN_FAILURE, id, b"");
    core.handle_message(&failure).unwrap();
    assert_eq!(events(&mut core), [Event::Refused(id)]);
    assert!(core.handle_message(&failure).is_err());
}

#[test]
fn there_are_only_so_many_channels() {
    let mut core = Core::default();
    for _ in 0..MAX_CHANNELS {
        core.handle_message(&open_message("session", 0, 0, b""))
            .unwrap();
    }
    assert_eq!(events(&mut core).len(), MAX_CHANNELS);
    core.handle_message(&open_message("session", 0, 0, b""))
        .unwrap();
    assert_eq!(
        transmitted(&mut core)[0][..9],
        *b"\x5c\x00\x00\x00\x07\x00\x00\x00\x04"
    );
    assert_eq!(
        core.open(&Forwarded::Streamlocal { path: Vec::new() }),
        None
    );
}

/// The opens of OpenSSH towards an agent and a display, with its windows of 64 KiB and packets of 16 KiB.
#[test]
fn agents_and_displays_are_offered_in_small_windows() {
    let mut core = Core::default();
    let agent = core.open(&Forwarded::Agent).unwrap();
    let display = core.open(&Forwarded::X11 {
        originator: "127.0.0.1".into(),
        originator_port: 0xabcd,
    });
    assert_eq!(
        transmitted(&mut core),
        [
            &b"\x5a\x00\x00\x00\x16auth-agent@openssh.com\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x40\x00"[..],
            b"\x5a\x00\x00\x00\x03x11\x00\x00\x00\x01\x00\x01\x00\x00\x00\x00\x40\x00\
              \x00\x00\x00\x09127.0.0.1\x00\x00\xab\xcd",
        ]
    );
    assert!(core.knows(display.unwrap()));

    let mut confirmation = Vec::new();
    confirmation.put_uint32(7).put_uint32(1000).put_uint32(1000);
    core.handle_message(&channel_message(
        msg::CHANNEL_OPEN_CONFIRMATION,
        agent,
        &confirmation,
    ))
    .unwrap();
    assert_eq!(events(&mut core), [Event::Opened(agent)]);
    // Half of the window is granted again when it is consumed, and no more is taken than the whole.
    let data = data_message(agent, &[0; 0x4000]);
    for _ in 0..4 {
        core.handle_message(&data).unwrap();
    }
    core.consumed(agent, 0x7fff);
    assert_eq!(transmitted(&mut core).len(), 0);
    core.consumed(agent, 0x10_0000);
    assert_eq!(
        transmitted(&mut core),
        [b"\x5d\x00\x00\x00\x07\x00\x01\x00\x00"]
    );
    for _ in 0..4 {
        core.handle_message(&data).unwrap();
    }
    assert!(matches!(
        core.handle_message(&data),
        Err(Error::WindowOverrun { .. })
    ));
    let (mut core, _) = session(0, 0);
    let agent = core.open(&Forwarded::Agent).unwrap();
    core.handle_message(&channel_message(
        msg::CHANNEL_OPEN_CONFIRMATION,
        agent,
        &confirmation,
    ))
    .unwrap();
    assert_eq!(
        core.handle_message(&data_message(agent, &[0; 0x4001])),
        Err(Error::OversizedData(0x4001))
    );
}

#[test]
fn a_channel_is_known_until_both_sides_have_closed_it() {
    for ours_first in [true, false] {
        let (mut core, id) = session(0, 0);
        let close = channel_message(msg::CHANNEL_CLOSE, id, b"");
        for ours in [ours_first, !ours_first] {
            assert!(core.knows(id));
            if ours {
                core.close(id);
            } else {
                core.handle_message(&close).unwrap();
            }
        }
        assert!(!core.knows(id));
    }
}

#[test]
fn unknown_message_numbers_are_left_to_the_transport() {
    let mut core = Core::default();
    for number in [83, 89, 101, 192, 255] {
        assert_eq!(
            core.handle_message(&Bytes::from(vec![number])),
            Ok(Verdict::Unimplemented)
        );
    }
    assert_eq!(
        core.handle_message(&Bytes::new()),
        Err(Error::Truncated(Truncated))
    );
    assert_eq!(
        core.handle_message(&Bytes::from_static(b"\x51")),
        Ok(Verdict::Taken)
    );
}

/// Messages that are often valid, for channels that often exist.
fn arbitrary_message() -> impl Strategy<Value = Vec<u8>> {
    let id = 0_u32..4;
    let data = proptest::collection::vec(any::<u8>(), 0..40);
    let names = proptest::sample::select(vec![
        "session",
        "direct-tcpip",
        "shell",
        "exec",
        "env",
        "pty-req",
        "signal",
        "tcpip-forward",
        "x11-req",
        "auth-agent-req@openssh.com",
        "x",
    ]);
    prop_oneof![
        (80_u8..=101, data.clone()).prop_map(|(number, rest)| [&[number][..], &rest].concat()),
        (91_u8..=100, id.clone(), data.clone())
            .prop_map(|(number, id, rest)| { [&[number][..], &id.to_be_bytes(), &rest].concat() }),
        (names.clone(), any::<u32>(), any::<u32>())
            .prop_map(|(name, window, size)| open_message(name, window, size, b"").to_vec()),
        (id.clone(), names.clone(), any::<bool>(), data.clone()).prop_map(
            |(id, name, reply, rest)| request_message(ChannelId(id), name, reply, &rest).to_vec()
        ),
        (names, any::<bool>(), data.clone())
            .prop_map(|(name, reply, rest)| global_message(name, reply, &rest).to_vec()),
        (id, data).prop_map(|(id, data)| data_message(ChannelId(id), &data).to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever comes, the core neither panics nor counts wrong, and every request can be answered.
    #[test]
    fn any_messages_are_survived(messages in proptest::collection::vec(arbitrary_message(), 0..60)) {
        let mut core = Core::default();
        let mut out = Vec::new();
        for message in messages {
            if core.handle_message(&Bytes::from(message)).is_err() {
                break;
            }
            for event in events(&mut core) {
                match event {
                    Event::Opening(id, ChannelType::DirectTcpip { .. }) => core.refuse(id, OpenFailure::ConnectFailed, "no"),
                    Event::Opening(id, _) => core.confirm(id),
                    Event::Data(id, data) => {
                        core.consumed(id, data.len());
                        let taken = core.data(id, Stream::Stderr, &data, &mut out);
                        prop_assert!(taken <= data.len());
                    }
                    Event::Request(id, request) => core.respond(id, request != ChannelRequest::Unknown),
                    Event::Global(_) => core.respond_global(None),
                    Event::Eof(id) => core.eof(id),
                    Event::Writable(id) => core.close(id),
                    Event::Opened(_) | Event::Refused(_) | Event::Closed(_) => {}
                }
            }
            let waiting = core.backlog_bytes();
            let sent: usize = transmitted(&mut core).iter().map(Vec::len).sum();
            prop_assert_eq!(sent, waiting);
        }
    }
}
