//! The protocol of one smux session, pure: bytes and time in, bytes and events out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::{Command, Decoder, HEADER_BYTES, Header, Received, StreamId};
use super::queue::ReceiveQueue;
use super::{Config, Error, Keepalive};

/// Streams that no handle owns: not yet accepted, or dropped with last bytes to send.
///
/// The accept backlog of the official library.
const BACKLOG: usize = 1024;

/// Which side of the session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams; what the plugin is.
    Client,
    /// Accepts streams; what the agent is.
    Server,
}

/// Something a caller who was told to wait can now do. Each is reported once for each wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// [`Core::accept`] has a stream.
    Incoming,
    /// [`Core::open`] will give a stream.
    Openable,
    /// [`Core::read`] on the stream will not block.
    Readable(StreamId),
    /// [`Core::write`] on the stream will not block.
    Writable(StreamId),
    /// The session is over; [`Core::end`] says why.
    Ended,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes were taken.
    Data(usize),
    /// The peer has sent FIN and everything before it has been read.
    Eof,
    /// Nothing yet: [`Event::Readable`] will come.
    Blocked,
}

/// One smux session.
///
/// The owner feeds it with [`handle_input`](Self::handle_input) while [`wants_input`](Self::wants_input), writes
/// what [`poll_transmit`](Self::poll_transmit) gives, and wakes whom [`poll_event`](Self::poll_event) names.
#[derive(Debug)]
pub struct Core {
    role: Role,
    config: Config,
    decoder: Decoder,
    streams: BTreeMap<StreamId, Stream>,
    /// How many of `streams` are owned by a handle.
    attached: usize,
    /// Opened by the peer, oldest first; a subset of those not attached.
    incoming: VecDeque<StreamId>,
    refuses_incoming: bool,
    open_blocked: bool,
    last_id: u32,
    /// SYN and NOP, which need not wait for data. SYN must not: it precedes its stream.
    control: VecDeque<Header>,
    /// Streams with data or FIN to send, each once, in the order of their turns.
    ready: VecDeque<StreamId>,
    /// Received and unread, over all streams.
    unread_bytes: usize,
    /// Streams of a client over their budget, and when they will be reset.
    overfull: BTreeMap<StreamId, Instant>,
    timers: Option<Timers>,
    events: VecDeque<Event>,
    end: Option<Error>,
}

#[derive(Debug)]
struct Stream {
    attached: bool,
    send: SendHalf,
    receive: ReceiveHalf,
}

#[derive(Debug)]
struct SendHalf {
    state: SendState,
    buffer: BytesMut,
    /// Whether the stream is in `ready`.
    queued: bool,
    /// Whether a writer waits for [`Event::Writable`].
    blocked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendState {
    Open,
    /// FIN follows what is in the buffer.
    Closing,
    /// FIN has been sent.
    Closed,
}

#[derive(Debug)]
struct ReceiveHalf {
    state: ReceiveState,
    queue: ReceiveQueue,
    /// Whether a reader waits for [`Event::Readable`].
    blocked: bool,
}

#[derive(Debug)]
enum ReceiveState {
    Open,
    /// FIN has come.
    Finished,
    /// The handle is gone; data is dropped.
    Abandoned,
    /// The stream was reset on our side.
    Failed(Error),
}

#[derive(Debug)]
struct Timers {
    keepalive: Keepalive,
    next_nop: Instant,
    last_input: Instant,
}

impl Core {
    /// A session at its start, before any byte.
    pub fn new(role: Role, config: Config, now: Instant) -> Self {
        let timers = config.keepalive.map(|keepalive| Timers {
            keepalive,
            next_nop: now + keepalive.interval,
            last_input: now,
        });
        Self {
            role,
            config,
            decoder: Decoder::default(),
            streams: BTreeMap::new(),
            attached: 0,
            incoming: VecDeque::new(),
            refuses_incoming: false,
            open_blocked: false,
            // The official counter is advanced before use, so a client's first stream is 3.
            last_id: match role {
                Role::Client => 1,
                Role::Server => 0,
            },
            control: VecDeque::new(),
            ready: VecDeque::new(),
            unread_bytes: 0,
            overfull: BTreeMap::new(),
            timers,
            events: VecDeque::new(),
            end: None,
        }
    }

    /// Opens a stream; `None` when too much is unsent, and then [`Event::Openable`] will come.
    ///
    /// The peer does not answer a SYN, so the stream can be written at once.
    ///
    /// # Errors
    /// [`Error::StreamIdsExhausted`], or why the session is over.
    pub fn open(&mut self) -> Result<Option<StreamId>, Error> {
        self.check_alive()?;
        if !self.can_open() {
            self.open_blocked = true;
            return Ok(None);
        }
        let mut id = self.last_id;
        loop {
            id = id.checked_add(2).ok_or(Error::StreamIdsExhausted)?;
            // A peer may choose any id, so also one of ours.
            if !self.streams.contains_key(&StreamId(id)) {
                break;
            }
        }
        self.last_id = id;
        let id = StreamId(id);
        self.streams.insert(id, Stream::new(true));
        self.attached += 1;
        self.control.push_back(Header::control(Command::Syn, id));
        Ok(Some(id))
    }

    /// Takes the next stream opened by the peer.
    pub fn accept(&mut self) -> Option<StreamId> {
        let id = self.incoming.pop_front()?;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.attached = true;
            self.attached += 1;
        }
        Some(id)
    }

    /// Whether [`accept`](Self::accept) has a stream.
    pub fn has_incoming(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Answers FIN to every stream that the peer opens and nobody will accept.
    pub fn refuse_incoming(&mut self) {
        self.refuses_incoming = true;
        for id in std::mem::take(&mut self.incoming) {
            self.abandon(id);
        }
    }

    /// Takes as much of `data` as the stream's buffer has room for.
    ///
    /// Returns 0 when it has none, and then [`Event::Writable`] will come. Having received FIN does not matter: it
    /// only says that the peer sends no more.
    ///
    /// # Errors
    /// [`Error::SendClosed`] after [`shutdown`](Self::shutdown), or why the stream or session is over.
    pub fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, Error> {
        self.check_alive()?;
        let stream = self.streams.get_mut(&id).ok_or(Error::UnknownStream)?;
        if let ReceiveState::Failed(error) = &stream.receive.state {
            return Err(error.clone());
        }
        if stream.send.state != SendState::Open {
            return Err(Error::SendClosed);
        }
        let capacity = self.config.send_buffer_bytes.max(1);
        let count = data.len().min(capacity - stream.send.buffer.len());
        stream.send.buffer.extend_from_slice(&data[..count]);
        stream.send.blocked = count == 0 && !data.is_empty();
        if count > 0 {
            stream.send.enqueue(id, &mut self.ready);
        }
        Ok(count)
    }

    /// Moves received bytes to `buf`, as many as there are and fit.
    ///
    /// # Errors
    /// Why the stream or session is over, once everything received before has been read.
    pub fn read(&mut self, id: StreamId, buf: &mut impl BufMut) -> Result<Read, Error> {
        let stream = self.streams.get_mut(&id).ok_or(Error::UnknownStream)?;
        let receive = &mut stream.receive;
        if receive.queue.len() > 0 {
            let count = receive.queue.read(buf);
            self.unread_bytes -= count;
            if receive.queue.len() <= self.config.stream_receive_bytes / 2 {
                self.overfull.remove(&id);
            }
            return Ok(Read::Data(count));
        }
        match &receive.state {
            ReceiveState::Open => {
                if let Some(end) = &self.end {
                    return Err(end.clone());
                }
                receive.blocked = true;
                Ok(Read::Blocked)
            }
            ReceiveState::Finished | ReceiveState::Abandoned => Ok(Read::Eof),
            ReceiveState::Failed(error) => Err(error.clone()),
        }
    }

    /// Sends FIN after what has been written. Reading goes on.
    pub fn shutdown(&mut self, id: StreamId) {
        if self.end.is_some() {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.close(id, &mut self.ready);
        }
    }

    /// Gives the stream up: FIN after what has been written, and what is or will be received is dropped.
    pub fn close(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(|stream| stream.attached) {
            self.attached -= 1;
        }
        self.abandon(id);
    }

    /// Whether more input may be given.
    ///
    /// A client pauses while a stream is over its budget, for [`Config::overrun_grace`] at most; a server while its
    /// session bucket is exhausted or 1024 streams wait to be accepted (or to be rid of).
    pub fn wants_input(&self) -> bool {
        self.end.is_none()
            && match self.role {
                Role::Client => self.overfull.is_empty(),
                Role::Server => {
                    self.unread_bytes < self.config.session_receive_bytes
                        && self.detached() < BACKLOG
                }
            }
    }

    /// Takes bytes of the peer, cut anywhere. Payload is sliced out of `input`, not copied, where it is long.
    ///
    /// PSH and FIN for streams that are unknown, or no longer known, are dropped: they were under way when this
    /// side gave the stream up. So is a SYN for a stream that exists.
    ///
    /// # Errors
    /// [`Error::Protocol`] ends the session.
    pub fn handle_input(&mut self, now: Instant, mut input: Bytes) -> Result<(), Error> {
        self.check_alive()?;
        if let Some(timers) = &mut self.timers {
            timers.last_input = now;
        }
        loop {
            match self.decoder.next(&mut input) {
                Ok(Some(Received::Syn(id))) => self.on_syn(id),
                Ok(Some(Received::Fin(id))) => self.on_fin(id),
                Ok(Some(Received::Data(id, piece))) => self.on_data(now, id, piece),
                Ok(Some(Received::Nop)) => {}
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.fail(error.into());
                    return Err(error.into());
                }
            }
        }
    }

    /// Appends the next frame to `out`; false when there is none.
    ///
    /// Streams take turns, one frame each.
    pub fn poll_transmit(&mut self, out: &mut BytesMut) -> bool {
        if let Some(header) = self.control.pop_front() {
            out.extend_from_slice(&header.encode());
            self.on_room();
            return true;
        }
        let limit = self.frame_limit();
        while let Some(id) = self.ready.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            let send = &mut stream.send;
            send.queued = false;
            if !send.buffer.is_empty() {
                let length = u16::try_from(send.buffer.len())
                    .unwrap_or(u16::MAX)
                    .min(limit);
                let header = Header {
                    command: Command::Psh,
                    length,
                    stream: id,
                };
                let payload = usize::from(length);
                out.reserve(HEADER_BYTES + payload);
                out.extend_from_slice(&header.encode());
                out.extend_from_slice(&send.buffer[..payload]);
                send.buffer.advance(payload);
                if !send.buffer.is_empty() || send.state == SendState::Closing {
                    send.enqueue(id, &mut self.ready);
                }
                // Not before half the buffer is free, so that a writer is not woken for each frame.
                if send.blocked && send.buffer.len() <= self.config.send_buffer_bytes / 2 {
                    send.blocked = false;
                    self.events.push_back(Event::Writable(id));
                }
                return true;
            }
            if send.state == SendState::Closing {
                send.state = SendState::Closed;
                out.extend_from_slice(&Header::control(Command::Fin, id).encode());
                self.forget_if_done(id);
                return true;
            }
        }
        false
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has a frame.
    pub fn has_transmit(&self) -> bool {
        !self.control.is_empty() || !self.ready.is_empty()
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.end.is_some() {
            return None;
        }
        let timers = self.timers.as_ref();
        let keepalive = timers.map(|timers| timers.next_nop.min(timers.silent_at()));
        self.overfull.values().copied().chain(keepalive).min()
    }

    /// Sends NOP when it is due, gives up a silent peer, and resets streams that stayed over their budget.
    ///
    /// # Errors
    /// [`Error::KeepaliveTimeout`] ends the session.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.check_alive()?;
        let wants_input = self.wants_input();
        while let Some((&id, _)) = self.overfull.iter().find(|(_, due)| now >= **due) {
            self.reset(id);
        }
        let Some(timers) = &mut self.timers else {
            return Ok(());
        };
        if now >= timers.next_nop {
            timers.next_nop = now + timers.keepalive.interval;
            let nop = Header::control(Command::Nop, StreamId(0));
            if !self.control.contains(&nop) {
                self.control.push_back(nop);
            }
        }
        if now >= timers.silent_at() {
            if wants_input {
                self.fail(Error::KeepaliveTimeout);
                return Err(Error::KeepaliveTimeout);
            }
            // It is we who did not listen.
            timers.last_input = now;
        }
        Ok(())
    }

    /// Ends the session. Readers get what was received and then `error`; everybody else gets it at once.
    pub fn fail(&mut self, error: Error) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(error);
        self.control.clear();
        self.ready.clear();
        for (id, stream) in &mut self.streams {
            stream.send.buffer = BytesMut::new();
            stream.wake(*id, &mut self.events);
        }
        self.events.push_back(Event::Ended);
    }

    /// Why the session is over, if it is.
    pub fn end(&self) -> Option<&Error> {
        self.end.as_ref()
    }

    /// Whether no stream is left and nothing is to be sent.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty() && !self.has_transmit()
    }

    /// Bytes received and not yet read, over all streams.
    pub fn unread_bytes(&self) -> usize {
        self.unread_bytes
    }

    /// Bytes of one stream received and not yet read.
    pub fn unread_of(&self, id: StreamId) -> usize {
        let stream = self.streams.get(&id);
        stream.map_or(0, |stream| stream.receive.queue.len())
    }

    /// Pretends that ids up to `last` have been used.
    #[cfg(test)]
    pub(super) fn skip_ids(&mut self, last: u32) {
        self.last_id = last;
    }

    fn check_alive(&self) -> Result<(), Error> {
        self.end.clone().map_or(Ok(()), Err)
    }

    fn detached(&self) -> usize {
        self.streams.len() - self.attached
    }

    fn can_open(&self) -> bool {
        self.detached() < BACKLOG && self.control.len() < BACKLOG
    }

    /// Short frames as soon as somebody else may want to speak: not only while somebody does, since a frame that
    /// has begun cannot be cut short any more.
    fn frame_limit(&self) -> u16 {
        let limit = if self.streams.len() > 1 {
            self.config
                .shared_frame_bytes
                .min(self.config.max_frame_bytes)
        } else {
            self.config.max_frame_bytes
        };
        u16::try_from(limit).unwrap_or(u16::MAX).max(1)
    }

    fn on_syn(&mut self, id: StreamId) {
        // An agent opens no streams, and a client that queued them would have to bound them by not reading.
        if self.role == Role::Client || self.streams.contains_key(&id) {
            return;
        }
        self.streams.insert(id, Stream::new(false));
        if self.refuses_incoming {
            self.abandon(id);
        } else {
            self.incoming.push_back(id);
            self.events.push_back(Event::Incoming);
        }
    }

    fn on_fin(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && matches!(stream.receive.state, ReceiveState::Open)
        {
            stream.receive.state = ReceiveState::Finished;
            stream.receive.wake(id, &mut self.events);
            // No more will come, so there is nothing to wait for.
            self.overfull.remove(&id);
        }
    }

    fn on_data(&mut self, now: Instant, id: StreamId, piece: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !matches!(stream.receive.state, ReceiveState::Open) {
            return;
        }
        self.unread_bytes += piece.len();
        stream.receive.queue.push(piece);
        stream.receive.wake(id, &mut self.events);
        if self.role == Role::Client
            && stream.receive.queue.len() > self.config.stream_receive_bytes
        {
            let due = now + self.config.overrun_grace;
            self.overfull.entry(id).or_insert(due);
        }
    }

    /// Ends one stream on this side: its reader and writer get an error, the peer gets FIN.
    fn reset(&mut self, id: StreamId) {
        self.overfull.remove(&id);
        if let Some(stream) = self.streams.get_mut(&id) {
            self.unread_bytes -= stream.receive.clear();
            stream.receive.state = ReceiveState::Failed(Error::ReceiveOverrun);
            stream.send.buffer = BytesMut::new();
            stream.send.close(id, &mut self.ready);
            stream.wake(id, &mut self.events);
        }
    }

    /// Detaches the stream from its handle, if it had one; the caller has counted that.
    fn abandon(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.attached = false;
        self.overfull.remove(&id);
        self.unread_bytes -= stream.receive.clear();
        stream.receive.state = ReceiveState::Abandoned;
        if self.end.is_some() {
            stream.send.state = SendState::Closed;
        } else {
            stream.send.close(id, &mut self.ready);
        }
        self.forget_if_done(id);
    }

    /// An id stays known until FIN has gone out and the handle has gone, and is never used again by us.
    fn forget_if_done(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get(&id)
            && !stream.attached
            && stream.send.state == SendState::Closed
        {
            self.streams.remove(&id);
            self.on_room();
        }
    }

    fn on_room(&mut self) {
        if self.open_blocked && self.can_open() {
            self.open_blocked = false;
            self.events.push_back(Event::Openable);
        }
    }
}

impl Stream {
    fn new(attached: bool) -> Self {
        Self {
            attached,
            send: SendHalf {
                state: SendState::Open,
                buffer: BytesMut::new(),
                queued: false,
                blocked: false,
            },
            receive: ReceiveHalf {
                state: ReceiveState::Open,
                queue: ReceiveQueue::default(),
                blocked: false,
            },
        }
    }

    /// Tells whoever waits on either half.
    fn wake(&mut self, id: StreamId, events: &mut VecDeque<Event>) {
        self.receive.wake(id, events);
        if std::mem::take(&mut self.send.blocked) {
            events.push_back(Event::Writable(id));
        }
    }
}

impl SendHalf {
    fn enqueue(&mut self, id: StreamId, ready: &mut VecDeque<StreamId>) {
        if !self.queued {
            self.queued = true;
            ready.push_back(id);
        }
    }

    fn close(&mut self, id: StreamId, ready: &mut VecDeque<StreamId>) {
        if self.state == SendState::Open {
            self.state = SendState::Closing;
            self.enqueue(id, ready);
        }
    }
}

impl ReceiveHalf {
    /// Drops what is unread and returns how much it was.
    fn clear(&mut self) -> usize {
        std::mem::take(&mut self.queue).len()
    }

    fn wake(&mut self, id: StreamId, events: &mut VecDeque<Event>) {
        if std::mem::take(&mut self.blocked) {
            events.push_back(Event::Readable(id));
        }
    }
}

impl Timers {
    fn silent_at(&self) -> Instant {
        self.last_input + self.keepalive.timeout
    }
}
