//! The SSH connection protocol (RFC 4254), server role, as a pure core: messages 80 and up in and out.
//!
//! ```text
//! handle_message ──> channels, windows ──> poll_event      what the peer opened, sent and asked for
//! confirm, respond, consumed, … ─────────> poll_transmit   control messages, ahead of all data
//! data ──────────────────────────────────> the caller      data messages, bounded by the peer's window
//! ```
//!
//! The core queues no channel data. What comes in goes out as an [`Event`] at once, and the window, granted again
//! only by [`Core::consumed`], bounds what the caller may have to hold. What goes out is formatted when the caller can send it.

mod event;
mod request;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

pub use self::event::{ChannelId, Error, Event, Exit, Forwarded, OpenFailure, Stream, Verdict};
pub use self::request::{
    ChannelRequest, ChannelType, Cookie, GlobalRequest, TerminalSize, X11Request,
};
use self::state::{Channel, Open, ReceiveWindow};
use crate::ssh::wire::{Reader, WriteExt, msg};

/// Window granted for each channel, in bytes; renewed when half of it has been consumed.
///
/// It bounds what a consumer that never reads makes us hold, and, over the round trip, the speed of an upload.
pub const WINDOW: u32 = 1024 * 1024;

/// Largest data of one message in either direction, in bytes: what OpenSSH uses, and what every transport carries (RFC 4253 §6.1).
pub const MAX_PACKET: u32 = 32 * 1024;

/// Window and largest data of the channels towards an agent or a display; what OpenSSH grants there.
const SMALL_WINDOW: u32 = 4 * SMALL_PACKET;
const SMALL_PACKET: u32 = 16 * 1024;

/// Channels of one connection, opening ones included; what OpenSSH allows.
pub const MAX_CHANNELS: usize = 16 * 1024;

/// Extended data type of the standard error stream (RFC 4254 §5.2).
const EXTENDED_DATA_STDERR: u32 = 1;

/// All channels of one connection.
#[derive(Debug, Default)]
pub struct Core {
    channels: BTreeMap<ChannelId, Channel>,
    next: u32,
    no_more_sessions: bool,
    /// Whether a reply is wanted to each global request that the caller has not answered yet, oldest first.
    unanswered: VecDeque<bool>,
    events: VecDeque<Event>,
    control: VecDeque<Vec<u8>>,
    control_bytes: usize,
}

impl Core {
    /// Takes one message numbered 80 or higher.
    ///
    /// # Errors
    /// [`Error`] when the peer broke the protocol; the core must not be used further.
    pub fn handle_message(&mut self, message: &Bytes) -> Result<Verdict, Error> {
        let mut fields = Reader::new(message);
        let number = fields.u8()?;
        match number {
            msg::GLOBAL_REQUEST => self.on_global_request(fields)?,
            // We ask for nothing globally; OpenSSH sends stray replies when a client is impatient.
            msg::REQUEST_SUCCESS | msg::REQUEST_FAILURE => {}
            msg::CHANNEL_OPEN => self.on_open(fields)?,
            msg::CHANNEL_OPEN_CONFIRMATION..=msg::CHANNEL_FAILURE => {
                let id = ChannelId(fields.u32()?);
                match number {
                    msg::CHANNEL_OPEN_CONFIRMATION => self.on_confirmation(id, fields)?,
                    msg::CHANNEL_OPEN_FAILURE => self.on_open_failure(id)?,
                    _ => self.on_channel_message(number, id, fields, message)?,
                }
            }
            _ => return Ok(Verdict::Unimplemented),
        }
        Ok(Verdict::Taken)
    }

    /// The next thing that the peer caused.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next control message, to be sent before any data.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let message = self.control.pop_front()?;
        self.control_bytes -= message.len();
        Some(message)
    }

    /// Bytes of control messages that wait in [`Self::poll_transmit`].
    ///
    /// Grows when a peer asks for much and reads nothing; the caller stops reading from such a peer.
    pub fn backlog_bytes(&self) -> usize {
        self.control_bytes
    }

    /// Accepts a channel that the peer opens.
    pub fn confirm(&mut self, id: ChannelId) {
        let Some(Channel::Offered(open)) = self.channels.remove(&id) else {
            return;
        };
        let mut message = Vec::with_capacity(17);
        message
            .put_byte(msg::CHANNEL_OPEN_CONFIRMATION)
            .put_uint32(open.peer)
            .put_uint32(id.0)
            .put_uint32(WINDOW)
            .put_uint32(MAX_PACKET);
        self.channels.insert(id, Channel::Open(open));
        self.transmit(message);
    }

    /// Refuses a channel that the peer opens.
    pub fn refuse(&mut self, id: ChannelId, failure: OpenFailure, description: &str) {
        if let Some(Channel::Offered(open)) = self.channels.remove(&id) {
            self.transmit_open_failure(open.peer, failure, description);
        }
    }

    /// Offers a channel to the peer; [`Event::Opened`] or [`Event::Refused`] follows.
    ///
    /// None when there are [`MAX_CHANNELS`].
    pub fn open(&mut self, forwarded: &Forwarded) -> Option<ChannelId> {
        let (name, window, max_packet) = match forwarded {
            Forwarded::Tcpip { .. } => ("forwarded-tcpip", WINDOW, MAX_PACKET),
            Forwarded::Streamlocal { .. } => {
                ("forwarded-streamlocal@openssh.com", WINDOW, MAX_PACKET)
            }
            Forwarded::Agent => ("auth-agent@openssh.com", SMALL_WINDOW, SMALL_PACKET),
            Forwarded::X11 { .. } => ("x11", SMALL_WINDOW, SMALL_PACKET),
        };
        let receive = ReceiveWindow::new(window, max_packet);
        let id = self.allocate(Channel::Requested(receive))?;
        let mut message = Vec::with_capacity(128);
        message
            .put_byte(msg::CHANNEL_OPEN)
            .put_string(name)
            .put_uint32(id.0)
            .put_uint32(window)
            .put_uint32(max_packet);
        match forwarded {
            Forwarded::Tcpip {
                address,
                port,
                originator,
                originator_port,
            } => message
                .put_string(address)
                .put_uint32(*port)
                .put_string(originator)
                .put_uint32(*originator_port),
            // The second string is reserved (PROTOCOL of OpenSSH, section 2.4).
            Forwarded::Streamlocal { path } => message.put_string(path).put_string(b""),
            Forwarded::Agent => &mut message,
            Forwarded::X11 {
                originator,
                originator_port,
            } => message.put_string(originator).put_uint32(*originator_port),
        };
        self.transmit(message);
        Some(id)
    }

    /// Answers the oldest request of the channel that has no answer yet, if an answer is wanted.
    pub fn respond(&mut self, id: ChannelId, success: bool) {
        let Some(open) = self.open_mut(id) else {
            return;
        };
        if open.unanswered.pop_front() != Some(true) || open.close_sent {
            return;
        }
        let mut message = Vec::with_capacity(5);
        message
            .put_byte(if success {
                msg::CHANNEL_SUCCESS
            } else {
                msg::CHANNEL_FAILURE
            })
            .put_uint32(open.peer);
        self.transmit(message);
    }

    /// Answers the oldest global request that has no answer yet, if an answer is wanted: with what a success carries, or a failure.
    pub fn respond_global(&mut self, success: Option<&[u8]>) {
        if self.unanswered.pop_front() != Some(true) {
            return;
        }
        let mut message = Vec::with_capacity(5);
        match success {
            Some(payload) => message.put_byte(msg::REQUEST_SUCCESS).put_raw(payload),
            None => message.put_byte(msg::REQUEST_FAILURE),
        };
        self.transmit(message);
    }

    /// Reports that `count` bytes of [`Event::Data`] have left our hands, and renews the window when that is due.
    pub fn consumed(&mut self, id: ChannelId, count: usize) {
        let Some(open) = self.open_mut(id) else {
            return;
        };
        let Some(grant) = open.receive.consumed(count) else {
            return;
        };
        if open.close_sent || open.close_received || open.eof_received {
            return;
        }
        let mut message = Vec::with_capacity(9);
        message
            .put_byte(msg::CHANNEL_WINDOW_ADJUST)
            .put_uint32(open.peer)
            .put_uint32(grant);
        self.transmit(message);
    }

    /// Formats the beginning of `data` as one message, at most what window and packet size allow.
    ///
    /// Replaces what `message` holds and returns the length taken of `data`; 0 when nothing may be sent now.
    pub fn data(
        &mut self,
        id: ChannelId,
        stream: Stream,
        data: &[u8],
        message: &mut Vec<u8>,
    ) -> usize {
        let Some(open) = self.open_mut(id) else {
            return 0;
        };
        if open.eof_sent || open.close_sent || open.close_received {
            return 0;
        }
        let taken = open.send.take(data.len());
        if taken == 0 {
            return 0;
        }
        message.clear();
        match stream {
            Stream::Stdout => message.put_byte(msg::CHANNEL_DATA).put_uint32(open.peer),
            Stream::Stderr => message
                .put_byte(msg::CHANNEL_EXTENDED_DATA)
                .put_uint32(open.peer)
                .put_uint32(EXTENDED_DATA_STDERR),
        };
        message.put_string(&data[..taken]);
        taken
    }

    /// Reports the end of the process of a session; also after the peer's CLOSE, which OpenSSH's client sends as soon as both
    /// directions are at EOF.
    pub fn exit(&mut self, id: ChannelId, exit: &Exit) {
        self.notify(id, |message, peer| match exit {
            Exit::Status(status) => {
                request(message, peer, "exit-status").put_uint32(*status);
            }
            Exit::Signal { name, core_dumped } => {
                request(message, peer, "exit-signal")
                    .put_string(name)
                    .put_bool(*core_dumped)
                    .put_string(b"")
                    .put_string(b"");
            }
        });
    }

    /// Tells the peer that what it still sends is thrown away (`eow@openssh.com`), unless it has sent EOF.
    pub fn end_of_write(&mut self, id: ChannelId) {
        if self
            .open_mut(id)
            .is_some_and(|open| !open.eof_received && !open.close_received)
        {
            self.notify(id, |message, peer| {
                request(message, peer, "eow@openssh.com");
            });
        }
    }

    /// Notes that the peer reads no more of the standard output: OpenSSH says no EOF to such a one.
    pub fn unread(&mut self, id: ChannelId) {
        if let Some(open) = self.open_mut(id) {
            open.unread = true;
        }
    }

    /// Ends our direction of the channel, after the last data.
    pub fn eof(&mut self, id: ChannelId) {
        if self.open_mut(id).is_some_and(|open| {
            !std::mem::replace(&mut open.eof_sent, true) && !open.close_received && !open.unread
        }) {
            self.notify(id, |message, peer| {
                message.put_byte(msg::CHANNEL_EOF).put_uint32(peer);
            });
        }
    }

    /// Closes the channel, after the last data. Its number is free once both sides have closed it.
    pub fn close(&mut self, id: ChannelId) {
        self.notify(id, |message, peer| {
            message.put_byte(msg::CHANNEL_CLOSE).put_uint32(peer);
        });
        let Some(open) = self.open_mut(id) else {
            return;
        };
        open.close_sent = true;
        if open.close_received {
            self.channels.remove(&id);
        }
    }

    /// Whether the channel still has its number: not both sides have closed it.
    pub fn knows(&self, id: ChannelId) -> bool {
        self.channels.contains_key(&id)
    }

    fn on_global_request(&mut self, mut fields: Reader<'_>) -> Result<(), Error> {
        let (name, want_reply) = (fields.string()?, fields.bool()?);
        let request = request::global_request(name, fields)?;
        self.no_more_sessions |= request == GlobalRequest::NoMoreSessions;
        self.unanswered.push_back(want_reply);
        self.events.push_back(Event::Global(request));
        Ok(())
    }

    fn on_open(&mut self, mut fields: Reader<'_>) -> Result<(), Error> {
        let name = fields.string()?;
        let (peer, window, max_packet) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let Some(kind) = request::channel_type(name, fields)? else {
            self.transmit_open_failure(peer, OpenFailure::ConnectFailed, "open failed");
            return Ok(());
        };
        if self.no_more_sessions && kind == ChannelType::Session {
            return Err(Error::UnexpectedSession);
        }
        let receive = ReceiveWindow::new(WINDOW, MAX_PACKET);
        match self.allocate(Channel::Offered(Open::new(
            peer, window, max_packet, receive,
        ))) {
            Some(id) => self.events.push_back(Event::Opening(id, kind)),
            None => {
                self.transmit_open_failure(peer, OpenFailure::ResourceShortage, "too many channels")
            }
        }
        Ok(())
    }

    fn on_confirmation(&mut self, id: ChannelId, mut fields: Reader<'_>) -> Result<(), Error> {
        let (peer, window, max_packet) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let Some(Channel::Requested(receive)) = self.channels.remove(&id) else {
            return Err(no_such(msg::CHANNEL_OPEN_CONFIRMATION, id));
        };
        let open = Open::new(peer, window, max_packet, receive);
        self.channels.insert(id, Channel::Open(open));
        self.events.push_back(Event::Opened(id));
        Ok(())
    }

    fn on_open_failure(&mut self, id: ChannelId) -> Result<(), Error> {
        let Some(Channel::Requested(_)) = self.channels.get(&id) else {
            return Err(no_such(msg::CHANNEL_OPEN_FAILURE, id));
        };
        self.channels.remove(&id);
        self.events.push_back(Event::Refused(id));
        Ok(())
    }

    /// Acts on the messages that need an open channel.
    fn on_channel_message(
        &mut self,
        number: u8,
        id: ChannelId,
        mut fields: Reader<'_>,
        message: &Bytes,
    ) -> Result<(), Error> {
        let Some(Channel::Open(open)) = self.channels.get_mut(&id) else {
            // As OpenSSH does: an adjustment may have crossed with the end.
            if number == msg::CHANNEL_WINDOW_ADJUST {
                return Ok(());
            }
            return Err(no_such(number, id));
        };
        if open.close_received {
            return Ok(());
        }
        match number {
            msg::CHANNEL_WINDOW_ADJUST => {
                let was_shut = open.send.is_shut();
                open.send.adjust(fields.u32()?)?;
                if was_shut {
                    self.events.push_back(Event::Writable(id));
                }
            }
            msg::CHANNEL_DATA | msg::CHANNEL_EXTENDED_DATA => {
                let known = number == msg::CHANNEL_DATA || {
                    let _stream = fields.u32()?;
                    false
                };
                let data = fields.string()?;
                open.receive.take(data.len())?;
                // A client has no extended data to give (RFC 4254 §6.6 has it the other way), and nothing follows EOF.
                if known && !open.eof_received && !open.close_sent && !data.is_empty() {
                    self.events
                        .push_back(Event::Data(id, message.slice_ref(data)));
                } else {
                    let length = data.len();
                    self.consumed(id, length);
                }
            }
            msg::CHANNEL_EOF if !std::mem::replace(&mut open.eof_received, true) => {
                self.events.push_back(Event::Eof(id));
            }
            msg::CHANNEL_CLOSE => {
                open.close_received = true;
                if open.close_sent {
                    self.channels.remove(&id);
                }
                self.events.push_back(Event::Closed(id));
            }
            msg::CHANNEL_REQUEST => {
                let (name, want_reply) = (fields.string()?, fields.bool()?);
                let request = request::channel_request(name, fields)?;
                if !open.close_sent {
                    open.unanswered.push_back(want_reply);
                    self.events.push_back(Event::Request(id, request));
                }
            }
            // Another EOF; SUCCESS and FAILURE, for no request of ours wants a reply.
            _ => {}
        }
        Ok(())
    }

    fn open_mut(&mut self, id: ChannelId) -> Option<&mut Open> {
        match self.channels.get_mut(&id)? {
            Channel::Open(open) => Some(open),
            Channel::Offered(_) | Channel::Requested(_) => None,
        }
    }

    /// Gives `channel` the next free number. Numbers are not used again soon, so that a late message meets no stranger.
    fn allocate(&mut self, channel: Channel) -> Option<ChannelId> {
        if self.channels.len() >= MAX_CHANNELS {
            return None;
        }
        loop {
            let id = ChannelId(self.next);
            self.next = self.next.wrapping_add(1);
            if let std::collections::btree_map::Entry::Vacant(entry) = self.channels.entry(id) {
                entry.insert(channel);
                return Some(id);
            }
        }
    }

    /// Sends what `format` writes for the peer's number of an open channel.
    fn notify(&mut self, id: ChannelId, format: impl FnOnce(&mut Vec<u8>, u32)) {
        let Some(open) = self.open_mut(id) else {
            return;
        };
        if open.close_sent {
            return;
        }
        let mut message = Vec::with_capacity(64);
        format(&mut message, open.peer);
        self.transmit(message);
    }

    fn transmit_open_failure(&mut self, peer: u32, failure: OpenFailure, description: &str) {
        let mut message = Vec::with_capacity(64);
        message
            .put_byte(msg::CHANNEL_OPEN_FAILURE)
            .put_uint32(peer)
            .put_uint32(failure.code())
            .put_string(description)
            .put_string(b"");
        self.transmit(message);
    }

    fn transmit(&mut self, message: Vec<u8>) {
        self.control_bytes += message.len();
        self.control.push_back(message);
    }
}

/// Begins a channel request that wants no reply.
fn request<'a>(message: &'a mut Vec<u8>, peer: u32, name: &str) -> &'a mut Vec<u8> {
    message
        .put_byte(msg::CHANNEL_REQUEST)
        .put_uint32(peer)
        .put_string(name)
        .put_bool(false)
}

fn no_such(number: u8, id: ChannelId) -> Error {
    Error::NoSuchChannel {
        number,
        channel: id.0,
    }
}
