//! The SSH transport protocol (RFC 4253) as a pure core, in both roles.
//!
//! [`Transport`] takes bytes from the wire and gives messages, takes messages and gives bytes. It
//! knows the time only as a parameter and does no input or output. Random numbers and ephemeral
//! keys come from aws-lc-rs, as do all primitives; here they are only composed.
//!
//! ```text
//! bytes -> version (once) -> packet (cipher, compression) -> dispatch -> events
//!                                                             |  KEXINIT … NEWKEYS
//!                                                          exchange (negotiation, kex, exchange_hash)
//! ```
//!
//! What holds at all times:
//! - Nothing of a packet is looked at before its tag is checked, save the length that says where it ends.
//! - Under strict key exchange nothing but the exchange itself passes before the first `SSH_MSG_NEWKEYS`,
//!   and sequence numbers begin anew with every one (OpenSSH `PROTOCOL` §1.10).
//! - No message numbered 80 and up passes before authentication, and none of the other layers while its
//!   sender changes keys. Nor do we send any then (RFC 4253 §7.1), but what a peer says is heard under its old keys, as
//!   OpenSSH does: asyncssh still sends the message by which it noticed that a change is due.
//! - At most one incomplete packet is kept; events are as many as one call's bytes hold.

pub mod algorithm;
mod cipher;
mod compression;
mod error;
mod exchange;
mod exchange_hash;
mod ext_info;
mod kex;
mod negotiation;
mod packet;
#[cfg(test)]
mod tests;
mod version;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use self::algorithm::{Cipher, Compression, Kex, Mac, Named};
use self::exchange::Exchange;
use self::ext_info::ExtInfo;
use self::packet::{PacketReader, PacketWriter};
use self::version::VersionReader;
use super::host_key::{self, HostKey};
use super::wire::{Reader, WriteExt, msg};

pub use self::error::{Error, reason};
pub use self::packet::MAX_MESSAGE;

/// Answers kept for a peer that does not read them, before it is given up.
const MAX_UNREAD_ANSWERS: usize = 1024 * 1024;

/// What a transport offers and when it changes keys.
///
/// Each list is in the order of preference; of two ends the client's order decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Key exchange methods.
    pub kex: Vec<Kex>,
    /// Host key algorithms a client accepts. A server offers those of its keys instead.
    pub host_keys: Vec<host_key::Algorithm>,
    /// Ciphers, for both directions.
    pub ciphers: Vec<Cipher>,
    /// MACs, for both directions.
    pub macs: Vec<Mac>,
    /// Compression methods, for both directions.
    pub compression: Vec<Compression>,
    /// Bytes on the wire in either direction after which keys are changed. RFC 4253 §9 recommends 1 GiB.
    pub rekey_bytes: u64,
    /// Time after which keys are changed. RFC 4253 §9 recommends one hour.
    pub rekey_after: Duration,
}

impl Default for Config {
    /// Everything, the fastest ciphers first, no compression unless the other end insists.
    fn default() -> Self {
        Self {
            kex: Kex::ALL.to_vec(),
            host_keys: host_key::Algorithm::ALL.to_vec(),
            ciphers: Cipher::ALL.to_vec(),
            macs: Mac::ALL.to_vec(),
            compression: Compression::ALL.to_vec(),
            rekey_bytes: 1 << 30,
            rekey_after: Duration::from_secs(60 * 60),
        }
    }
}

/// What happened on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Client: the server proved that it holds this host key. The key exchange waits for
    /// [`Transport::accept_host_key`].
    HostKey {
        /// The public key or certificate as it came over the wire.
        blob: Vec<u8>,
    },
    /// The first key exchange is complete: messages may be sent.
    Established,
    /// A later key exchange is complete.
    Rekeyed,
    /// A message numbered 5, 6, or 50 and up; never empty.
    Message(Bytes),
    /// The other end said that it ends the connection. Nothing follows.
    Disconnected {
        /// Its reason code ([`reason`]).
        reason: u32,
        /// Its words, not to be trusted nor printed without care.
        description: String,
    },
}

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// One end of an SSH connection: bytes go in, messages come out, and the other way round.
pub struct Transport {
    role: Role,
    config: Config,
    /// Server: our keys.
    host_keys: Vec<Arc<HostKey>>,
    /// Until the other end has identified itself.
    version: Option<VersionReader>,
    /// The identification string of the other end as it came, and for people.
    peer_version: Vec<u8>,
    peer_version_shown: String,
    reader: PacketReader,
    writer: PacketWriter,
    output: BytesMut,
    /// With the sequence number of the packet each came in.
    events: VecDeque<(u32, Event)>,
    /// The packet being handled.
    current_sequence: u32,
    /// The packet of the message that was taken last.
    last_sequence: Option<u32>,
    exchange: Exchange,
    /// The next packet belongs to a key exchange method that was not chosen.
    ignore_guess: bool,
    /// Whether both ends do strict key exchange.
    strict: bool,
    session_id: Vec<u8>,
    /// Client: the host key of the first exchange, to which later ones must keep.
    peer_host_key: Vec<u8>,
    established: bool,
    authenticated: bool,
    ended: bool,
    /// When the last exchange was complete.
    keys_since: Instant,
    ext_info: ExtInfo,
    /// The packet of ours that the other end did not know, the latest one.
    refused_sequence: Option<u32>,
}

impl Transport {
    /// Begins as a client. Our identification is in [`Self::output`] at once.
    pub fn client(config: Config, now: Instant) -> Self {
        Self::new(Role::Client, config, Vec::new(), now)
    }

    /// Begins as a server that holds `host_keys`, at most one per algorithm.
    pub fn server(config: Config, host_keys: Vec<Arc<HostKey>>, now: Instant) -> Self {
        Self::new(Role::Server, config, host_keys, now)
    }

    fn new(role: Role, config: Config, host_keys: Vec<Arc<HostKey>>, now: Instant) -> Self {
        let greeting = [version::OURS.as_bytes(), b"\r\n"].concat();
        Self {
            role,
            config,
            host_keys,
            version: Some(VersionReader::new(role)),
            peer_version: Vec::new(),
            peer_version_shown: String::new(),
            reader: PacketReader::new(),
            writer: PacketWriter::new(),
            output: BytesMut::from(greeting.as_slice()),
            events: VecDeque::new(),
            current_sequence: 0,
            last_sequence: None,
            exchange: Exchange::Idle,
            ignore_guess: false,
            strict: false,
            session_id: Vec::new(),
            peer_host_key: Vec::new(),
            established: false,
            authenticated: false,
            ended: false,
            keys_since: now,
            ext_info: ExtInfo::default(),
            refused_sequence: None,
        }
    }

    fn role(&self) -> Role {
        self.role
    }

    /// Takes bytes from the wire, any number of them.
    ///
    /// Every message they hold becomes an event, so the caller bounds the queue of events by taking
    /// them all before it gives more. Bytes after the end are ignored.
    ///
    /// # Errors
    /// Any [`Error`] ends the connection. When the other end could be told, the
    /// `SSH_MSG_DISCONNECT` that says why is in [`Self::output`].
    pub fn handle_input(&mut self, now: Instant, input: &[u8]) -> Result<(), Error> {
        if self.ended {
            return Ok(());
        }
        let result = self.process(now, input);
        self.fail_on(result)
    }

    fn process(&mut self, now: Instant, mut input: &[u8]) -> Result<(), Error> {
        if let Some(reader) = &mut self.version {
            let Some(version) = reader.read(&mut input)? else {
                return Ok(());
            };
            self.peer_version_shown = version::printable(&version);
            self.peer_version = version;
            self.version = None;
            self.begin_exchange()?;
        }
        while !self.ended
            && let Some((sequence, payload)) = self.reader.read(&mut input)?
        {
            self.current_sequence = sequence;
            self.dispatch(now, payload)?;
        }
        self.begin_exchange_if_due()
    }

    /// Ends the connection after an error, and tells the other end: in a line, as sshd does, while it is not known
    /// to speak SSH.
    fn fail_on(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = &result {
            match (error, self.role) {
                _ if self.version.is_none() => {
                    let (reason, words) = error.farewell();
                    self.disconnect(reason, &words);
                }
                (Error::UnsupportedVersion { .. }, Role::Server) => {
                    let text = b"Protocol major versions differ.\r\n";
                    self.output.extend_from_slice(text);
                }
                (_, Role::Server) => {
                    let text = b"Invalid SSH identification string.\r\n";
                    self.output.extend_from_slice(text);
                }
                (_, Role::Client) => {}
            }
            self.ended = true;
        }
        result
    }

    fn dispatch(&mut self, now: Instant, payload: Bytes) -> Result<(), Error> {
        let number = payload[0];
        if number == msg::DISCONNECT {
            return self.on_disconnect(&payload);
        }
        let is_first_exchange = self.reader.is_unprotected();
        if matches!(number, 30..=49) && std::mem::take(&mut self.ignore_guess) {
            return Ok(());
        }
        // What comes after its last place is to sshd a message like any other that has none.
        let is_late_ext_info =
            number == msg::EXT_INFO && self.role == Role::Server && self.authenticated;
        if !is_late_ext_info {
            self.ext_info
                .on_message(number, self.role, self.authenticated)?;
        }
        match number {
            msg::KEXINIT => self.on_kexinit(self.current_sequence, payload),
            msg::NEWKEYS => self.on_newkeys(now, &payload),
            msg::KEX_ECDH_INIT if self.role == Role::Server => self.on_kex_init(&payload),
            msg::KEX_ECDH_REPLY if self.role == Role::Client => self.on_kex_reply(&payload),
            _ if is_first_exchange && self.strict => Err(Error::UnexpectedMessage {
                number,
                when: "in a strict key exchange",
            }),
            msg::IGNORE | msg::DEBUG => Ok(()),
            msg::UNIMPLEMENTED => self.on_unimplemented(&payload),
            8..=19 | 22..=29 => self.answer_unimplemented(self.current_sequence),
            80.. if self.authenticated => self.on_message(payload),
            _ if is_first_exchange || !self.exchange.permits_receiving() => {
                Err(Error::UnexpectedMessage {
                    number,
                    when: "during a key exchange",
                })
            }
            30..=49 => self.answer_unimplemented(self.current_sequence),
            msg::EXT_INFO if is_late_ext_info => self.answer_unimplemented(self.current_sequence),
            msg::EXT_INFO => self.ext_info.read(&payload),
            0 => Err(Error::InvalidMessage {
                number,
                problem: "there is no such number",
            }),
            _ => self.on_message(payload),
        }
    }

    /// A message for the layers above.
    fn on_message(&mut self, payload: Bytes) -> Result<(), Error> {
        let number = payload[0];
        let refused = |when| Err(Error::UnexpectedMessage { number, when });
        match (number, self.role) {
            _ if !self.established => return refused("before the host key was accepted"),
            (80.., _) if !self.authenticated => return refused("before authentication"),
            // RFC 4252 §5.1: further requests are silently ignored. A client that asks ahead is a likely one here,
            // where the first answer may be a success.
            (msg::USERAUTH_REQUEST, Role::Server) if self.authenticated => return Ok(()),
            (51..=79, Role::Server) if self.authenticated => {
                return self.answer_unimplemented(self.current_sequence);
            }
            (50..=79, Role::Client) if self.authenticated => {
                return refused("after authentication");
            }
            (msg::USERAUTH_SUCCESS, Role::Client) => self.authenticated(),
            _ => {}
        }
        self.push(Event::Message(payload));
        Ok(())
    }

    fn on_disconnect(&mut self, payload: &[u8]) -> Result<(), Error> {
        let truncated = Error::truncated(msg::DISCONNECT);
        let mut reader = Reader::new(&payload[1..]);
        let reason = reader.u32().map_err(&truncated)?;
        let description = reader.string().map_err(&truncated)?;
        let description = String::from_utf8_lossy(description).into_owned();
        self.push(Event::Disconnected {
            reason,
            description,
        });
        self.ended = true;
        Ok(())
    }

    /// The only message of ours whose refusal leaves us waiting is `SSH_MSG_KEXINIT`.
    fn on_unimplemented(&mut self, payload: &[u8]) -> Result<(), Error> {
        let refused = Reader::new(&payload[1..])
            .u32()
            .map_err(Error::truncated(msg::UNIMPLEMENTED))?;
        self.refused_sequence = Some(refused);
        match self.exchange {
            Exchange::Proposed { sequence, .. } if sequence == refused => {
                Err(Error::KeyExchange("the other end does not change keys"))
            }
            _ => Ok(()),
        }
    }

    fn answer_unimplemented(&mut self, sequence: u32) -> Result<(), Error> {
        if self.output.len() > MAX_UNREAD_ANSWERS {
            return Err(Error::NotReading);
        }
        let mut payload = vec![msg::UNIMPLEMENTED];
        payload.put_uint32(sequence);
        self.write(&payload)
    }

    fn push(&mut self, event: Event) {
        self.events.push_back((self.current_sequence, event));
    }

    /// Encrypts `payload` into the output, whatever the state.
    fn write(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.writer.seal(payload, &mut self.output)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let (sequence, event) = self.events.pop_front()?;
        if matches!(event, Event::Message(_)) {
            self.last_sequence = Some(sequence);
        }
        Some(event)
    }

    /// Client: goes on after [`Event::HostKey`]. A caller that does not accept the key calls
    /// [`Self::disconnect`] with [`reason::HOST_KEY_NOT_VERIFIABLE`] instead.
    ///
    /// # Errors
    /// [`Error::NotReady`] at any other time.
    pub fn accept_host_key(&mut self, now: Instant) -> Result<(), Error> {
        if self.role != Role::Client || self.established || self.ended {
            return Err(Error::NotReady);
        }
        self.send_newkeys()?;
        self.complete_exchange(now);
        Ok(())
    }

    /// Whether [`Self::send`] is possible: not before [`Event::Established`], not between our
    /// `SSH_MSG_KEXINIT` and our `SSH_MSG_NEWKEYS`, not after the end.
    pub fn can_send(&self) -> bool {
        self.established && !self.ended && self.exchange.permits_sending()
    }

    /// Encrypts one message into [`Self::output`]. Begins a key exchange afterwards when one is due.
    ///
    /// # Errors
    /// [`Error::NotReady`] unless [`Self::can_send`]; [`Error::InvalidSize`] when it is empty or
    /// larger than [`MAX_MESSAGE`].
    pub fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        if !self.can_send() {
            return Err(Error::NotReady);
        }
        self.write(payload)?;
        self.begin_exchange_if_due()
    }

    /// Bytes for the wire; the driver takes what it has written off the front.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Ends the connection: queues `SSH_MSG_DISCONNECT`, after which nothing is sent or received.
    pub fn disconnect(&mut self, reason: u32, text: &str) {
        if self.ended {
            return;
        }
        self.ended = true;
        let mut payload = vec![msg::DISCONNECT];
        payload.put_uint32(reason).put_string(text).put_string("");
        // A goodbye that cannot be said is not worth an error: the connection is over either way.
        let _ = self.write(&payload);
    }

    /// Answers the message taken last by [`Self::poll_event`] with `SSH_MSG_UNIMPLEMENTED`, once.
    ///
    /// # Errors
    /// [`Error::NotReading`] when the other end lets too many of them pile up.
    pub fn reject_last(&mut self) -> Result<(), Error> {
        let Some(sequence) = self.last_sequence.take().filter(|_| !self.ended) else {
            return Ok(());
        };
        let result = self.answer_unimplemented(sequence);
        self.fail_on(result)
    }

    /// Authentication has succeeded: messages numbered 80 and up pass, `zlib@openssh.com` begins.
    ///
    /// A server calls this right after it has sent `SSH_MSG_USERAUTH_SUCCESS`. A client need not: the
    /// transport sees that message itself, because the next packet may already be compressed.
    pub fn authenticated(&mut self) {
        if !std::mem::replace(&mut self.authenticated, true) {
            self.reader.authenticated();
            self.writer.authenticated();
        }
    }

    /// The session identifier: the first exchange hash (RFC 4253 §7.2). Empty before the first key exchange.
    pub fn session_id(&self) -> &[u8] {
        &self.session_id
    }

    /// What the other end has said so far instead of identifying itself: at most 80 printable characters.
    pub fn preamble(&self) -> Option<String> {
        self.version.as_ref()?.seen()
    }

    /// The identification string of the other end, made printable; empty until it came.
    pub fn peer_version(&self) -> &str {
        &self.peer_version_shown
    }

    /// Signature algorithms the server accepts for user authentication, when it told (RFC 8308 §3.1).
    pub fn server_sig_algs(&self) -> Option<&[String]> {
        self.ext_info.server_sig_algs()
    }

    /// Sequence number of the last packet that the other end answered with `SSH_MSG_UNIMPLEMENTED`.
    pub fn refused_sequence(&self) -> Option<u32> {
        self.refused_sequence
    }

    /// Whether the input ended inside a packet, so that its end would cut something off.
    pub fn is_within_packet(&self) -> bool {
        self.version.is_some() || self.reader.is_within_packet()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.authenticated && !self.ended && self.exchange.is_idle();
        self.keys_since
            .checked_add(self.config.rekey_after)
            .filter(|_| waits)
    }

    /// Changes keys when it is time to.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the cryptographic library fails.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        match self.poll_timeout() {
            Some(at) if at <= now => self.initiate_rekey(),
            _ => Ok(()),
        }
    }

    /// Changes keys now, unless that is going on already or there are none yet.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the cryptographic library fails.
    pub fn initiate_rekey(&mut self) -> Result<(), Error> {
        if !self.established || self.ended {
            return Ok(());
        }
        self.begin_exchange()
    }
}
