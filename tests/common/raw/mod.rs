//! A client that says exactly what it is told to.
//!
//! OpenSSH's own client never asks for the unusual; here a case sends any message of the connection protocol
//! (RFC 4254), and hears every answer, reason codes and texts included.

mod heard;

use std::collections::VecDeque;
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
    pub(crate) heard: VecDeque<Heard>,
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
