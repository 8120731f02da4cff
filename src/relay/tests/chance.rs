//! Whatever happens in whatever order: a client and upstreams that keep to the rules never see one broken.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    Scripted, build, close, confirmation, data, eof, failure, listen, open, request, success,
};
use crate::relay::Side;
use crate::ssh::messages::{Message, channel_open_failure, window_adjust};
use crate::ssh::wire::{Reader, WriteExt, msg};

/// A global request whose reply can be told from others.
fn question(id: u32) -> Bytes {
    build(msg::GLOBAL_REQUEST, |m| {
        m.put_string("question@example.com")
            .put_bool(true)
            .put_uint32(id);
    })
}

fn keepalive() -> Bytes {
    super::global("keepalive@openssh.com", true)
}

/// One end's view of a channel.
#[derive(Debug, Default)]
struct Channel {
    /// The other side's number; none until it is open.
    peer: Option<u32>,
    /// What it may still send.
    may_send: u64,
    /// What the other side may still send.
    may_get: u64,
    has_closed: bool,
    peer_has_closed: bool,
}

/// What both ends do: number channels, keep to windows, notice when the other does not.
#[derive(Debug, Default)]
struct Channels(BTreeMap<u32, Channel>);

impl Channels {
    /// The lowest number that is free, as sshd and clients take it.
    fn free(&self) -> u32 {
        (0..).find(|number| !self.0.contains_key(number)).unwrap()
    }

    fn add(&mut self, number: u32, may_get: u32) {
        let channel = Channel {
            may_get: may_get.into(),
            ..Channel::default()
        };
        assert!(
            self.0.insert(number, channel).is_none(),
            "{number} is taken"
        );
    }

    /// One of those that are open in this direction.
    fn pick(&mut self, chance: u32) -> Option<(u32, &mut Channel)> {
        let open = |channel: &Channel| channel.peer.is_some() && !channel.has_closed;
        let mut open: Vec<_> = self.0.iter_mut().filter(|(_, c)| open(c)).collect();
        let count = u32::try_from(open.len()).unwrap();
        let index = chance.checked_rem(count)?;
        let (number, channel) = open.swap_remove(index as usize);
        Some((*number, channel))
    }

    fn forget_closed(&mut self) {
        self.0.retain(|_, c| !(c.has_closed && c.peer_has_closed));
    }

    /// A message from the other end for a channel that must be known and not closed from there.
    fn hear(&mut self, message: &[u8]) {
        let parsed = Message::parse(message);
        let number = parsed.recipient().unwrap();
        let channel = self.0.get_mut(&number);
        let channel = channel.unwrap_or_else(|| panic!("no channel {number}: {message:?}"));
        assert!(!channel.peer_has_closed, "after CLOSE: {message:?}");
        match parsed {
            Message::OpenConfirmation { sender, window, .. } => {
                assert!(channel.peer.replace(sender).is_none(), "opened twice");
                channel.may_send = window.into();
                return;
            }
            Message::OpenFailure { .. } => {
                assert!(channel.peer.is_none(), "refused after it was opened");
                self.0.remove(&number);
                return;
            }
            Message::WindowAdjust { bytes, .. } => channel.may_send += u64::from(bytes),
            Message::Data { length, .. } => {
                let left = channel.may_get.checked_sub(length.into());
                channel.may_get = left.expect("within the window");
            }
            Message::Close { .. } => channel.peer_has_closed = true,
            _ => {}
        }
        assert!(channel.peer.is_some(), "before it was open: {message:?}");
        self.forget_closed();
    }
}

#[derive(Debug, Default)]
struct Upstream {
    channels: Channels,
    /// Opens and global requests that it has not answered.
    opens: VecDeque<Bytes>,
    globals: VecDeque<Bytes>,
    /// Its own requests that the client has not answered.
    asked: usize,
    no_more_sessions: usize,
}

impl Upstream {
    fn hear(&mut self, message: Bytes) {
        match Message::parse(&message) {
            Message::GlobalRequest { name, want_reply } => {
                self.no_more_sessions += usize::from(name.starts_with(b"no-more-sessions"));
                if want_reply {
                    self.globals.push_back(message);
                }
            }
            Message::Open { kind, .. } => {
                assert!(kind != b"session" || self.no_more_sessions == 0);
                self.opens.push_back(message);
            }
            Message::GlobalReply => {
                self.asked = self.asked.checked_sub(1).expect("it has asked");
            }
            _ => self.channels.hear(&message),
        }
    }
}

/// The whole stage.
struct Play {
    pair: Scripted,
    client: Channels,
    /// Numbers of questions, none for keepalives and listeners, in the order of their asking.
    questions: VecDeque<Option<u32>>,
    next_question: u32,
    /// Opens and requests of upstream that the client has not answered.
    offered: VecDeque<Bytes>,
    has_sessions: bool,
    upstream: Option<Upstream>,
}

/// What upstream grants.
const WINDOW: u32 = 20_000;

/// What the client grants: more than a notice takes, or less.
const CLIENT_WINDOWS: [u32; 2] = [WINDOW, 100];

impl Play {
    fn new() -> Self {
        Self {
            pair: Scripted::alone(true),
            client: Channels::default(),
            questions: VecDeque::new(),
            next_question: 0,
            offered: VecDeque::new(),
            has_sessions: true,
            upstream: None,
        }
    }

    fn deliver(&mut self, to: Side, count: usize) -> bool {
        for done in 0..count {
            let Some(message) = self.pair.next_message(to) else {
                return done > 0;
            };
            match to {
                Side::Local => self.client_hears(message),
                Side::Upstream => {
                    let upstream = self.upstream.as_mut().expect("there is one to be told");
                    upstream.hear(message);
                }
            }
        }
        true
    }

    fn client_hears(&mut self, message: Bytes) {
        match Message::parse(&message) {
            Message::GlobalReply => {
                let asked = self.questions.pop_front().expect("something was asked");
                if let (Some(id), Ok(answered)) = (asked, Reader::new(&message[1..]).u32()) {
                    assert_eq!(id, answered, "another one's reply");
                }
            }
            Message::GlobalRequest { .. } | Message::Open { .. } => self.offered.push_back(message),
            Message::Unknown => assert!(message[0] == msg::IGNORE || message[0] == msg::DEBUG),
            _ => self.client.hear(&message),
        }
    }

    fn client_acts(&mut self, action: u8, chance: u32) {
        match action {
            0 => {
                let kind = if self.has_sessions && chance.is_multiple_of(2) {
                    "session"
                } else {
                    "direct-tcpip"
                };
                let number = self.client.free();
                let window = CLIENT_WINDOWS[usize::from(chance.is_multiple_of(3))];
                self.client.add(number, window);
                self.pair.local(open(kind, number, window));
            }
            1 => {
                let (asked, message) = match chance % 4 {
                    0 => (None, keepalive()),
                    1 => (None, listen("", chance)),
                    _ => {
                        self.next_question += 1;
                        let id = self.next_question;
                        (Some(id), question(id))
                    }
                };
                self.questions.push_back(asked);
                self.pair.local(message);
            }
            2 => {
                if let Some((_, channel)) = self.client.pick(chance) {
                    let count = channel.may_send.min(u64::from(chance % 3000));
                    channel.may_send -= count;
                    let peer = channel.peer.unwrap();
                    self.pair.local(request(peer, "pty-req"));
                    self.pair.local(data(peer, &vec![7; count as usize]));
                }
            }
            3 => {
                if let Some((_, channel)) = self.client.pick(chance) {
                    channel.may_get += u64::from(chance % 5000);
                    let peer = channel.peer.unwrap();
                    self.pair.local(window_adjust(peer, chance % 5000));
                }
            }
            4 => {
                if let Some((_, channel)) = self.client.pick(chance) {
                    channel.has_closed = true;
                    let peer = channel.peer.unwrap();
                    self.pair.local(close(peer));
                    self.client.forget_closed();
                }
            }
            5 => self.client_answers(chance),
            _ if chance.is_multiple_of(16) => {
                self.has_sessions = false;
                self.pair
                    .local(super::global("no-more-sessions@openssh.com", false));
            }
            _ => {}
        }
    }

    fn client_answers(&mut self, chance: u32) {
        let Some(message) = self.offered.pop_front() else {
            return;
        };
        let answer = match Message::parse(&message) {
            Message::Open { sender, window, .. } if chance.is_multiple_of(2) => {
                let number = self.client.free();
                self.client.add(number, WINDOW);
                let channel = self.client.0.get_mut(&number).unwrap();
                channel.peer = Some(sender);
                channel.may_send = window.into();
                confirmation(sender, number, WINDOW)
            }
            Message::Open { sender, .. } => channel_open_failure(sender, 1, "no"),
            _ => failure(),
        };
        self.pair.local(answer);
    }

    fn upstream_acts(&mut self, action: u8, chance: u32) {
        let Some(upstream) = &mut self.upstream else {
            return;
        };
        let picked = upstream.channels.pick(chance);
        let message = match (action, picked) {
            (0, _) => upstream.globals.pop_front().map(|asked| {
                let mut reader = Reader::new(&asked[1..]);
                let is_question = reader.string() == Ok(b"question@example.com");
                match (is_question, chance % 3) {
                    (true, _) => {
                        Bytes::from([&[msg::REQUEST_SUCCESS], &asked[asked.len() - 4..]].concat())
                    }
                    (false, 0) => success(),
                    (false, _) => failure(),
                }
            }),
            (1, _) => upstream.opens.pop_front().map(|asked| {
                let Message::Open { sender, window, .. } = Message::parse(&asked) else {
                    panic!("{asked:?}");
                };
                if chance.is_multiple_of(3) {
                    return channel_open_failure(sender, 1, "no");
                }
                let number = upstream.channels.free();
                upstream.channels.add(number, WINDOW);
                let channel = upstream.channels.0.get_mut(&number).unwrap();
                channel.peer = Some(sender);
                channel.may_send = window.into();
                confirmation(sender, number, WINDOW)
            }),
            (2, Some((_, channel))) => {
                let count = channel.may_send.min(u64::from(chance % 3000));
                channel.may_send -= count;
                Some(data(channel.peer.unwrap(), &vec![9; count as usize]))
            }
            (3, Some((_, channel))) => {
                channel.may_get += u64::from(chance % 5000);
                Some(window_adjust(channel.peer.unwrap(), chance % 5000))
            }
            (4, Some((_, channel))) => {
                channel.has_closed = true;
                let peer = channel.peer.unwrap();
                upstream.channels.forget_closed();
                Some(close(peer))
            }
            (5, Some((_, channel))) => Some(request(channel.peer.unwrap(), "exit-status")),
            (6, Some((_, channel))) if chance.is_multiple_of(4) => Some(eof(channel.peer.unwrap())),
            (7, _) => {
                let number = upstream.channels.free();
                upstream.channels.add(number, WINDOW);
                Some(open("forwarded-tcpip", number, WINDOW))
            }
            (8, _) => {
                upstream.asked += 1;
                Some(keepalive())
            }
            _ => None,
        };
        if let Some(message) = message {
            self.pair.upstream(message);
        }
    }

    fn fate(&mut self, action: u8, chance: u32) {
        match action {
            0 if self.upstream.is_some() => {
                self.upstream = None;
                self.pair.lose();
            }
            1 if self.upstream.is_none() => {
                self.upstream = Some(Upstream::default());
                self.pair.gain();
            }
            2 if self.upstream.is_none() => self.pair.refuse("no way up"),
            3 => match chance % 8 {
                0 | 1 => self.pair.resume(),
                kind => self.pair.set_away(Duration::from_secs(10), kind % 2 == 0),
            },
            4 => {
                self.pair.wait(super::HOLD);
                let now = self.pair.now;
                self.pair.refuse_overdue(now, "away");
                assert!(!self.pair.is_overdue(now));
            }
            _ => self
                .pair
                .wait(Duration::from_millis(u64::from(chance % 5000))),
        }
    }

    /// Lets everybody finish.
    fn settle(&mut self) {
        if self.upstream.is_none() {
            self.fate(1, 0);
        }
        loop {
            let mut is_over = !self.deliver(Side::Local, 1000);
            is_over &= !self.deliver(Side::Upstream, 1000);
            is_over &= self.offered.is_empty();
            self.client_answers(1);
            let upstream = self.upstream.as_ref().unwrap();
            is_over &= upstream.globals.is_empty() && upstream.opens.is_empty();
            self.upstream_acts(0, 0);
            self.upstream_acts(1, 1);
            for ours in [true, false] {
                let channels = if ours {
                    &mut self.client
                } else {
                    &mut self.upstream.as_mut().unwrap().channels
                };
                if channels.pick(0).is_some() {
                    is_over = false;
                    if ours {
                        self.client_acts(4, 0);
                    } else {
                        self.upstream_acts(4, 0);
                    }
                }
            }
            if is_over {
                break;
            }
        }
        assert!(
            self.questions.is_empty(),
            "unanswered: {:?}",
            self.questions
        );
        assert!(self.client.0.is_empty(), "{:?}", self.client);
        let upstream = self.upstream.as_ref().unwrap();
        assert!(upstream.channels.0.is_empty(), "{:?}", upstream.channels);
        assert_eq!(upstream.asked, 0);
        assert_eq!(self.pair.observer().open_channels(), 0);
        assert!(!self.pair.is_asking());
    }
}

fn cases() -> u32 {
    if std::env::var_os("SSMSHIM_FULL").is_some() {
        20_000
    } else {
        200
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn nobody_sees_a_rule_broken(
        steps in proptest::collection::vec((0_u8..20, any::<u8>(), any::<u32>()), 1..250),
    ) {
        let mut play = Play::new();
        for (who, action, chance) in steps {
            match who {
                0..=5 => play.client_acts(action % 7, chance),
                6..=11 => play.upstream_acts(action % 9, chance),
                12..=14 => { play.deliver(Side::Local, 1 + chance as usize % 8); }
                15..=18 if play.upstream.is_some() => {
                    play.deliver(Side::Upstream, 1 + chance as usize % 8);
                }
                _ => play.fate(action % 6, chance),
            }
        }
        play.settle();
    }
}
