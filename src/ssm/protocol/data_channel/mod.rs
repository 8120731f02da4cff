//! The data channel of one SSM session, at either end.
//!
//! A pure core: frames and time go in through [`handle_input`](DataChannel::handle_input) and
//! [`handle_timeout`](DataChannel::handle_timeout), frames and events come out of
//! [`poll_transmit`](DataChannel::poll_transmit) and [`poll_event`](DataChannel::poll_event).
//! It knows nothing of sockets: after a resume it goes on with the same numbers.
//!
//! Data counts as processed, and is acknowledged, when its event is taken. An owner that takes no
//! events therefore holds the peer's messages unacknowledged, within bounds, and can go on feeding
//! input: acknowledgements of what it sent itself keep working.

mod config;
mod event;
mod opening;
mod receiving;
mod sending;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;

pub use self::config::{AgentOptions, Config, Origin, Role, SERVICE_PACE};
pub use self::event::{Error, Established, Event, MAX_PAYLOAD, SendError, Statistics};
use super::acknowledge::acknowledged;
use super::handshake::{self, HandshakeRequest};
use super::message::{ClientMessage, MessageType, OVERHEAD};
use super::payload::PayloadType;
use super::reliability::acknowledging::{Acknowledging, Received};
use super::reliability::incoming::Incoming;
use super::reliability::outgoing::{Outgoing, Strategy};
use super::reliability::pacer::Pacer;
use super::reliability::rtt::RttEstimator;

/// The agent waits this long for HandshakeResponse.
const HANDSHAKE_RESPONSE_WAIT: Duration = Duration::from_secs(15);
/// An agent that acknowledges and loses what comes before its port is open has this long to open it,
/// unless it says something before. It has smux then, of which the client speaks first.
const EARLY_HOLD_MUX: Duration = Duration::from_millis(500);
/// The same where the session is one connection: the server speaks first, as sshd does, and tells by
/// that that the port is open. Only one that waits for the client is sent something without that.
const EARLY_HOLD_BASIC: Duration = Duration::from_secs(20);
/// An agent that loses early data, was sent some and has said nothing of its own for so long does not hear us: what
/// came too early has killed its reader. What it was sent makes it speak sooner, were it only for a closed port.
pub(crate) const DEAF_AFTER: Duration = Duration::from_secs(10);
/// What was sent this long, and two round trips, before the last sign of life has arrived.
const CERTAIN: Duration = Duration::from_secs(2);
/// Control messages are accepted this far beyond a full outgoing buffer.
const CONTROL_RESERVE: usize = 16;

/// The reliability protocol of one SSM session, as client or as agent.
#[derive(Debug)]
pub struct DataChannel {
    role: Role,
    phase: Phase,
    outgoing: Outgoing,
    incoming: Incoming<Stream>,
    pacer: Option<Pacer>,
    /// When anything last came in.
    heard_at: Instant,
    /// When anything last came from the other end, not from the service in between.
    peer_heard_at: Instant,
    /// Whether data goes before repeated acknowledgements next.
    is_turn_of_data: bool,
    /// Client: data is held back until then, unless the agent speaks before.
    held_until: Option<Instant>,
    early: Early,
    /// Set while the pacer holds messages back.
    paced_until: Option<Instant>,
    acknowledges: Acknowledging,
    events: VecDeque<Queued>,
    /// In-order messages whose events were not taken yet.
    unconsumed: u64,
    /// Agent: stream messages are taken.
    is_ready: bool,
    is_paused: bool,
    statistics: Statistics,
    clock: Clock,
    ids: StdRng,
}

#[derive(Debug)]
enum Phase {
    /// Client: neither a HandshakeRequest nor data yet.
    Opening,
    /// Client: answered, waiting for HandshakeComplete.
    Answered(HandshakeRequest),
    /// Agent: waiting for HandshakeResponse.
    Asked {
        request: HandshakeRequest,
        since: Instant,
    },
    Open,
    Failed,
    Closed,
}

/// Client: whether what was sent first may have been lost, and the session with it.
#[derive(Debug)]
enum Early {
    /// The agent loses nothing, or has spoken since.
    Safe,
    /// It may lose what it is sent next.
    AtRisk,
    /// It was sent something then.
    Sent(Instant),
}

/// A stream message without what is not needed any more.
#[derive(Debug)]
struct Stream {
    received: Received,
    payload_type: PayloadType,
    payload: Bytes,
    /// Acknowledged on arrival, because it came early.
    is_acknowledged: bool,
}

#[derive(Debug)]
struct Queued {
    event: Event,
    /// The message behind the event: to be acknowledged if need be, and its bytes released.
    message: Option<(Received, bool, usize)>,
}

#[derive(Debug)]
struct Clock {
    start: Instant,
    unix_time: Duration,
}

impl Clock {
    /// CreatedDate at `now`, never 0.
    fn unix_millis(&self, now: Instant) -> u64 {
        let time = self.unix_time + now.saturating_duration_since(self.start);
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

impl DataChannel {
    /// A channel of a new SSM session, made at `now`; an agent's has its request ready to send.
    pub fn new(config: Config, origin: Origin, now: Instant) -> Self {
        let (strategy, rtt) = match &config.role {
            Role::Client { .. } => (
                Strategy::Recover,
                RttEstimator::new(Duration::from_millis(100), Duration::from_secs(3)),
            ),
            Role::Agent(options) => (
                options.strategy,
                RttEstimator::new(Duration::ZERO, Duration::from_secs(1)),
            ),
        };
        let mut channel = Self {
            role: config.role,
            phase: Phase::Opening,
            outgoing: Outgoing::new(strategy, config.outgoing, rtt),
            incoming: Incoming::new(config.incoming),
            pacer: config.pace.map(|rate| Pacer::new(rate, now)),
            heard_at: now,
            peer_heard_at: now,
            is_turn_of_data: false,
            held_until: None,
            early: Early::Safe,
            paced_until: None,
            acknowledges: Acknowledging::new(config.pace.is_some(), now),
            events: VecDeque::new(),
            unconsumed: 0,
            is_ready: true,
            is_paused: false,
            statistics: Statistics::default(),
            clock: Clock {
                start: now,
                unix_time: origin.unix_time,
            },
            ids: StdRng::seed_from_u64(origin.seed),
        };
        channel.start(now);
        channel
    }

    /// Takes one binary WebSocket message.
    ///
    /// # Errors
    /// [`Error`] when it is not as it should be. The channel goes on: a message that was not
    /// understood is not acknowledged and comes again; other complaints are for the log.
    pub fn handle_input(&mut self, now: Instant, frame: Bytes) -> Result<(), Error> {
        self.heard_at = now;
        let ClientMessage { header, payload } = ClientMessage::decode(frame)?;
        match header.message_type {
            MessageType::InputStreamData | MessageType::OutputStreamData => {
                if header.message_type != self.peer_stream() {
                    return Err(Error::Direction(header.message_type));
                }
                self.peer_heard_at = now;
                self.unpause();
                self.handle_stream(now, &header, payload)
            }
            MessageType::Acknowledge => {
                self.peer_heard_at = now;
                self.unpause();
                let seq = acknowledged(&payload).map_err(Error::Acknowledge)?;
                let is_news = self.outgoing.on_acknowledge(seq, now)?;
                self.statistics.acknowledged += u64::from(is_news);
                Ok(())
            }
            MessageType::ChannelClosed => {
                self.handle_closed(&payload);
                Ok(())
            }
            MessageType::PausePublication => {
                self.set_paused(true);
                Ok(())
            }
            MessageType::StartPublication => {
                self.set_paused(false);
                Ok(())
            }
            // Both official ends ignore what they do not know.
            _ => Ok(()),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.paced_until.is_some_and(|until| until <= now) {
            self.paced_until = None;
        }
        if self.held_until.is_some_and(|until| until <= now) {
            self.held_until = None;
        }
        self.acknowledges.handle_timeout(now);
        if let Phase::Asked { since, .. } = self.phase
            && now >= since + HANDSHAKE_RESPONSE_WAIT
        {
            self.fail(handshake::Error::TimedOut);
        }
        if !self.is_withholding() {
            self.outgoing.handle_timeout(now);
            self.grant_wish(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let handshake = match self.phase {
            Phase::Asked { since, .. } => Some(since + HANDSHAKE_RESPONSE_WAIT),
            _ => None,
        };
        let resend = match self.is_withholding() {
            true => None,
            false => self.outgoing.poll_timeout(),
        };
        let repeat = self.acknowledges.poll_timeout();
        [handshake, resend, self.held_until, self.paced_until, repeat]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next binary WebSocket message to send: fresh acknowledgements, then, in turns, those
    /// repeated after a reconnect and data, of which resends go first.
    ///
    /// In turns, because a socket that does not last must bring both forward.
    /// Only to be called when the WebSocket can take a message: it counts as sent at `now`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        if let Some(received) = self.acknowledges.transmit(now) {
            return Some(self.encode_acknowledge(received, now));
        }
        self.is_turn_of_data = !self.is_turn_of_data;
        match self.is_turn_of_data {
            true => self
                .transmit_data(now)
                .or_else(|| self.transmit_repeat(now)),
            false => self
                .transmit_repeat(now)
                .or_else(|| self.transmit_data(now)),
        }
    }

    /// The next event; taking a data event acknowledges its message.
    pub fn poll_event(&mut self) -> Option<Event> {
        let Queued { event, message } = self.events.pop_front()?;
        if let Some((received, is_acknowledged, bytes)) = message {
            self.unconsumed -= 1;
            self.incoming.release(bytes);
            if !is_acknowledged {
                self.acknowledges.acknowledge(received);
            }
        }
        Some(event)
    }

    /// Payload bytes that [`send`](Self::send) would take now; 0 is back-pressure.
    pub fn capacity(&self) -> usize {
        match self.phase {
            Phase::Open => self.outgoing.capacity().saturating_sub(OVERHEAD),
            _ => 0,
        }
    }

    /// Queues `payload` as one message.
    ///
    /// A message larger than [`capacity`](Self::capacity) is taken as long as that is not 0.
    ///
    /// # Errors
    /// [`SendError`]; nothing was queued then.
    pub fn send(
        &mut self,
        now: Instant,
        payload_type: PayloadType,
        payload: &[u8],
    ) -> Result<(), SendError> {
        match self.phase {
            Phase::Open => {}
            Phase::Closed | Phase::Failed => return Err(SendError::Closed),
            _ => return Err(SendError::NotEstablished),
        }
        if payload.is_empty() {
            return Err(SendError::Empty);
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(SendError::TooLarge(payload.len()));
        }
        let is_control = matches!(payload_type, PayloadType::Flag | PayloadType::Size);
        if self.capacity() == 0 && !(is_control && self.outgoing.unsent() < CONTROL_RESERVE) {
            return Err(SendError::Full);
        }
        self.enqueue(now, payload_type, payload);
        Ok(())
    }

    /// Continues on a new WebSocket.
    ///
    /// The client repeats its recent acknowledgements, so that the agent's one-at-a-time resend is
    /// not spent on what arrived, and resends its own backlog in order. Repeats are paced if data is,
    /// and leave behind fresh acknowledgements. The agent only ends a pause.
    pub fn on_reconnected(&mut self, now: Instant) {
        self.unpause();
        if let Early::Sent(since) = &mut self.early {
            *since = now;
        }
        self.outgoing.on_reconnected(now);
        self.grant_wish(now);
        if matches!(self.role, Role::Agent(_)) {
            return;
        }
        let round_trips = self.outgoing.rtt().round_trip() * 2;
        let since = self.heard_at.checked_sub(CERTAIN + round_trips);
        let held = self.incoming.held().map(|(_, stream)| stream.received);
        self.acknowledges
            .repeat(since.unwrap_or(self.clock.start), held);
    }

    /// Agent: whether stream messages are taken; while not, they are refused without an
    /// acknowledgement, as by an agent whose handler is not ready, or acknowledged and lost, as by an
    /// old one.
    pub fn set_ready(&mut self, is_ready: bool) {
        self.is_ready = is_ready;
    }

    /// Whether data may be sent, buffer space aside.
    pub fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether `channel_closed` has arrived; its event may be still to come, after data.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Agent: whether the service has asked for a pause that is not over.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether nothing is on its way: all sent is acknowledged, all received acknowledged and taken.
    pub fn is_idle(&self) -> bool {
        self.outgoing.is_empty() && self.acknowledges.is_empty() && self.events.is_empty()
    }

    /// Messages of ours, sent or not, from the oldest unacknowledged on.
    pub fn unacknowledged(&self) -> usize {
        self.outgoing.len()
    }

    /// Messages of ours not yet handed out by [`poll_transmit`](Self::poll_transmit).
    ///
    /// An owner that sends only while this is 0 keeps its bytes together, for larger messages.
    pub fn unsent(&self) -> usize {
        self.outgoing.unsent()
    }

    /// Bytes of our messages not yet acknowledged, headers included.
    pub fn bytes_in_flight(&self) -> usize {
        self.outgoing.bytes()
    }

    /// Bytes of our messages acknowledged since the beginning, headers included.
    pub fn bytes_acknowledged(&self) -> u64 {
        self.outgoing.acknowledged()
    }

    /// Whether the peer owes an acknowledgement of something that was sent.
    pub fn is_awaiting_peer(&self) -> bool {
        self.outgoing.is_awaiting()
    }

    /// When the peer was last heard: a stream message or an acknowledgement, new or repeated.
    pub fn peer_heard_at(&self) -> Instant {
        self.peer_heard_at
    }

    /// Client: when the agent counts as deaf, if it says nothing of its own before: then only another SSM session
    /// helps, and nothing is lost with this one.
    pub fn deaf_at(&self) -> Option<Instant> {
        match self.early {
            Early::Sent(since) => Some(since + DEAF_AFTER),
            Early::Safe | Early::AtRisk => None,
        }
    }

    /// Messages of the peer that wait for one before them.
    pub fn held(&self) -> usize {
        self.incoming.held().len()
    }

    /// Messages of the peer that have arrived in order, without gaps, since the beginning.
    pub fn in_order(&self) -> u64 {
        self.incoming.expected()
    }

    /// Messages in order whose events have been taken, or that have none.
    pub fn consumed(&self) -> u64 {
        self.incoming.expected().saturating_sub(self.unconsumed)
    }

    /// The measured round trip between the two ends; `None` before the first measurement.
    pub fn round_trip(&self) -> Option<Duration> {
        let rtt = self.outgoing.rtt();
        rtt.is_measured().then(|| rtt.round_trip())
    }

    /// Counters since the beginning.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The type of stream messages that the other end sends.
    fn peer_stream(&self) -> MessageType {
        match self.role {
            Role::Client { .. } => MessageType::OutputStreamData,
            Role::Agent(_) => MessageType::InputStreamData,
        }
    }

    fn handle_closed(&mut self, payload: &[u8]) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        self.phase = Phase::Closed;
        // The end is the end, also when its text cannot be read.
        let closed = serde_json::from_slice(payload).unwrap_or_default();
        self.tell(Event::Closed(closed));
    }

    /// Whether a paused agent holds stream messages back.
    fn is_withholding(&self) -> bool {
        self.is_paused && matches!(self.role, Role::Agent(_))
    }

    fn set_paused(&mut self, is_paused: bool) {
        if self.is_paused == is_paused {
            return;
        }
        self.is_paused = is_paused;
        // The last word counts: an owner that takes no events learns of one change only.
        let is_publication =
            |queued: &Queued| matches!(queued.event, Event::Paused | Event::Started);
        if self.events.back().is_some_and(is_publication) {
            self.events.pop_back();
        }
        self.tell(if is_paused {
            Event::Paused
        } else {
            Event::Started
        });
    }

    /// Any sign of life of the client ends the pause of an agent.
    fn unpause(&mut self) {
        if matches!(self.role, Role::Agent(_)) {
            self.set_paused(false);
        }
    }

    /// Queues an event that stands for no message.
    fn tell(&mut self, event: Event) {
        let message = None;
        self.events.push_back(Queued { event, message });
    }
}

#[cfg(test)]
mod tests;
