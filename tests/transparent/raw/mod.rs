//! A client that says exactly what it is told to, and writes down what it hears.
//!
//! OpenSSH's own client never asks for the unusual; here a case sends any message of the connection protocol
//! (RFC 4254), and every answer is recorded, reason codes and texts included.

mod heard;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ssmshim::ssh::credential::load_identity;
use ssmshim::ssh::known_hosts::{KnownHosts, Mode};
use ssmshim::ssh::person::{Answer, Nobody};
use ssmshim::ssh::wire::{WriteExt as _, msg};
use ssmshim::ssh::{ClientConfig, Connection};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

pub(crate) use self::heard::Heard;
use crate::common::world::World;
use crate::seen::Seen;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// The window and packet size that OpenSSH's client grants a session.
pub(crate) const WINDOW: u32 = 2 << 20;
pub(crate) const PACKET: u32 = 32 << 10;

/// What the relay passes on of a window however many channels there are.
pub(crate) const PASSED_WINDOW: u32 = 64 << 10;

/// A logged-in client that is told what to send, message by message.
pub(crate) struct Raw {
    runtime: Runtime,
    connection: Connection<TcpStream>,
    /// Heard and not yet taken.
    heard: VecDeque<Heard>,
    has_ended: bool,
}

impl Raw {
    /// Connects and logs in.
    ///
    /// # Panics
    /// When either fails.
    pub(crate) fn connect(world: &World) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let verifier = KnownHosts::new(vec![world.path("known_hosts")], "target", Mode::Off);
        let mut config = ClientConfig::new(world.target.user.clone(), Arc::new(verifier));
        let nobody: Arc<dyn Answer> = Arc::new(Nobody);
        config.credentials = load_identity(&world.target.identity, &nobody).expect("our own key");
        let connection = runtime
            .block_on(async {
                let socket = TcpStream::connect(("127.0.0.1", world.target.port)).await?;
                socket.set_nodelay(true)?;
                anyhow::Ok(Connection::connect(socket, config).await?)
            })
            .unwrap_or_else(|error| panic!("no login: {error:#}"));
        Self {
            runtime,
            connection,
            heard: VecDeque::new(),
            has_ended: false,
        }
    }

    /// Sends a message: its number and its fields.
    pub(crate) fn send(&mut self, number: u8, fields: impl FnOnce(&mut Vec<u8>)) {
        self.queue(number, fields);
        self.flush();
    }

    /// Sends a message in one write with those that follow, as far as a window and a packet allow.
    pub(crate) fn queue(&mut self, number: u8, fields: impl FnOnce(&mut Vec<u8>)) {
        let mut message = vec![number];
        fields(&mut message);
        // The server may have gone; what it said before is still to be heard.
        let _gone = self.runtime.block_on(self.connection.send(&message));
    }

    pub(crate) fn flush(&mut self) {
        let _gone = self.runtime.block_on(self.connection.flush());
    }

    /// Asks for a channel with our number `sender`.
    pub(crate) fn open(&mut self, kind: &str, sender: u32, rest: impl FnOnce(&mut Vec<u8>)) {
        self.send(msg::CHANNEL_OPEN, |message| {
            message
                .put_string(kind)
                .put_uint32(sender)
                .put_uint32(WINDOW)
                .put_uint32(PACKET);
            rest(message);
        });
    }

    /// Asks for a session with our number `sender` that grants what it is told to.
    pub(crate) fn open_session(&mut self, sender: u32, window: u32, packet: u32) {
        self.send(msg::CHANNEL_OPEN, |message| {
            message
                .put_string("session")
                .put_uint32(sender)
                .put_uint32(window)
                .put_uint32(packet);
        });
    }

    /// Opens a session with our number `sender`; returns the server's number.
    pub(crate) fn session(&mut self, sender: u32) -> u32 {
        self.open("session", sender, |_| {});
        match self.next() {
            Heard::Confirmed { sender, .. } => sender,
            other => panic!("no session: {other:?}"),
        }
    }

    /// Sends a request for the channel that the server numbers `recipient`.
    pub(crate) fn request(
        &mut self,
        recipient: u32,
        name: &str,
        want_reply: bool,
        rest: impl FnOnce(&mut Vec<u8>),
    ) {
        self.send(msg::CHANNEL_REQUEST, |message| {
            message
                .put_uint32(recipient)
                .put_string(name)
                .put_bool(want_reply);
            rest(message);
        });
    }

    /// Sends a global request.
    pub(crate) fn global(&mut self, name: &str, want_reply: bool, rest: impl FnOnce(&mut Vec<u8>)) {
        self.send(msg::GLOBAL_REQUEST, |message| {
            message.put_string(name).put_bool(want_reply);
            rest(message);
        });
    }

    /// Asks for `command`, with a reply.
    pub(crate) fn exec(&mut self, recipient: u32, command: impl AsRef<[u8]>) {
        self.request(recipient, "exec", true, |request| {
            request.put_string(command.as_ref());
        });
    }

    pub(crate) fn adjust(&mut self, recipient: u32, bytes: u32) {
        self.send(msg::CHANNEL_WINDOW_ADJUST, |message| {
            message.put_uint32(recipient).put_uint32(bytes);
        });
    }

    pub(crate) fn data(&mut self, recipient: u32, bytes: &[u8]) {
        self.send(msg::CHANNEL_DATA, |message| {
            message.put_uint32(recipient).put_string(bytes);
        });
    }

    pub(crate) fn eof(&mut self, recipient: u32) {
        self.send(msg::CHANNEL_EOF, |message| {
            message.put_uint32(recipient);
        });
    }

    pub(crate) fn close(&mut self, recipient: u32) {
        self.send(msg::CHANNEL_CLOSE, |message| {
            message.put_uint32(recipient);
        });
    }

    /// The next message but window adjustments, which come when they like, and `hostkeys-00@openssh.com`, which
    /// stops at us: the key that clients know is ours (README, limits).
    ///
    /// # Panics
    /// When none comes in time.
    pub(crate) fn next(&mut self) -> Heard {
        loop {
            match self.next_of_all() {
                Heard::Adjust { .. } => {}
                Heard::Global { name, .. } if name == "hostkeys-00@openssh.com" => {}
                heard => return heard,
            }
        }
    }

    /// The next message of any kind; [`Heard::End`] again and again once the connection has ended.
    pub(crate) fn next_of_all(&mut self) -> Heard {
        if let Some(heard) = self.heard.pop_front() {
            return heard;
        }
        if self.has_ended {
            return self.end();
        }
        let connection = &mut self.connection;
        let received = self.runtime.block_on(async {
            tokio::time::timeout(ANSWER, connection.recv())
                .await
                .expect("an answer in time")
        });
        match received {
            Ok(Some(message)) => Heard::parse(&message)
                .unwrap_or_else(|_| panic!("the server sent a malformed message: {message:?}")),
            Ok(None) | Err(_) => {
                self.has_ended = true;
                self.end()
            }
        }
    }

    /// Hears messages until one makes `is_last` true or the connection ends, and records them in the order that
    /// means something: data that came in pieces in one, and a command's status after its output. How a
    /// stream is cut, and when sshd hears of its child's death, is chance.
    pub(crate) fn record(
        &mut self,
        seen: &mut Seen,
        label: &str,
        is_last: impl Fn(&Heard) -> bool,
    ) -> Heard {
        let mut all: Vec<Heard> = Vec::new();
        // Statuses, and OpenSSH's word that the command has closed its input, wait here.
        let mut ends: Vec<Heard> = Vec::new();
        let last = loop {
            let heard = self.next();
            if is_last(&heard) || matches!(heard, Heard::End(_)) {
                break heard;
            }
            match heard {
                _ if heard.is_end_of_command() => ends.push(heard),
                Heard::Close(number) => {
                    ends.sort_by_key(Heard::to_text);
                    all.extend(ends.extract_if(.., |end| end.channel() == Some(number)));
                    all.push(heard);
                }
                _ if all.last_mut().is_some_and(|tail| tail.absorb(&heard)) => {}
                _ => all.push(heard),
            }
        };
        if let Heard::Close(number) = last {
            // How another channel's command ended belongs to what is recorded of that channel later.
            let others = ends.extract_if(.., |end| end.channel() != Some(number));
            let others: Vec<_> = others.collect();
            for end in others.into_iter().rev() {
                self.heard.push_front(end);
            }
        }
        ends.sort_by_key(Heard::to_text);
        all.append(&mut ends);
        if !all.last_mut().is_some_and(|tail| tail.absorb(&last)) {
            all.push(last.clone());
        }
        for (index, heard) in all.iter().enumerate() {
            seen.note(&format!("{label} {index}"), heard.to_text());
        }
        last
    }

    /// [`Raw::record`] until our channel `number` is closed.
    pub(crate) fn record_until_close(&mut self, seen: &mut Seen, label: &str, number: u32) {
        self.record(seen, label, |heard| *heard == Heard::Close(number));
    }

    /// Hears messages until `closes` channels are closed or the connection ends, and records them apart for each
    /// channel: its messages in their order, then each of its streams, then how the command ended. How channels
    /// and streams interleave is chance.
    pub(crate) fn record_channels(&mut self, seen: &mut Seen, label: &str, closes: usize) {
        let mut channels: BTreeMap<Option<u32>, [Vec<Heard>; 3]> = BTreeMap::new();
        let mut closed = 0;
        while closed < closes {
            let heard = self.next();
            closed += usize::from(matches!(heard, Heard::Close(_)));
            let has_ended = matches!(heard, Heard::End(_));
            let [messages, streams, ends] = channels.entry(heard.channel()).or_default();
            match heard {
                Heard::Data { .. } | Heard::Extended { .. } => {
                    if !streams.iter_mut().any(|stream| stream.absorb(&heard)) {
                        streams.push(heard);
                    }
                }
                _ if heard.is_end_of_command() => ends.push(heard),
                _ => messages.push(heard),
            }
            if has_ended {
                break;
            }
        }
        for (channel, [messages, mut streams, mut ends]) in channels {
            streams.sort_by_key(Heard::to_text);
            ends.sort_by_key(Heard::to_text);
            let all = messages.iter().chain(&streams).chain(&ends);
            let texts: Vec<_> = all.map(Heard::to_text).collect();
            seen.note(&format!("{label}: channel {channel:?}"), texts.join("\n"));
        }
    }

    /// Asks for something that the server answers at once, and hears all that it said before that.
    pub(crate) fn record_until_settled(&mut self, seen: &mut Seen, label: &str) {
        self.global("keepalive@openssh.com", true, |_| {});
        self.record(seen, label, |heard| *heard == Heard::GlobalFailure);
    }

    /// Sequence number of the last of our packets that the server answered with `SSH_MSG_UNIMPLEMENTED`.
    pub(crate) fn unimplemented(&self) -> Option<u32> {
        self.connection.refused_sequence()
    }

    fn end(&self) -> Heard {
        Heard::End(
            self.connection
                .farewell()
                .map(|farewell| (farewell.reason, farewell.description.clone())),
        )
    }
}
