//! What becomes of a stream message that has arrived.

use std::time::Instant;

use bytes::Bytes;

use super::super::message::Header;
use super::super::payload::{self, Flag, PayloadType};
use super::super::reliability::acknowledging::Received;
use super::super::reliability::incoming::Arrival;
use super::{DataChannel, Early, Error, Established, Event, Phase, Queued, Role, Stream};

impl DataChannel {
    pub(super) fn handle_stream(
        &mut self,
        now: Instant,
        header: &Header,
        payload: Bytes,
    ) -> Result<(), Error> {
        let seq = u64::try_from(header.sequence_number)
            .map_err(|_| Error::SequenceNumber(header.sequence_number))?;
        let payload_type = header.payload_type.unwrap_or(PayloadType::Undefined);
        let received = Received {
            seq,
            id: header.message_id,
        };
        if seq == self.incoming.expected() && self.refuses(payload_type) {
            self.statistics.dropped += 1;
            return Ok(());
        }
        let bytes = payload.len();
        let stream = Stream {
            received,
            payload_type,
            payload,
            is_acknowledged: seq > self.incoming.expected(),
        };
        match self.incoming.arrive(seq, stream, bytes) {
            Arrival::InOrder(first) => {
                self.statistics.received += 1;
                let mut outcome = self.process(now, first);
                while !self.refuses(PayloadType::Output)
                    && let Some(next) = self.incoming.next_in_order()
                {
                    let processed = self.process(now, next);
                    outcome = outcome.and(processed);
                }
                outcome
            }
            Arrival::Held => {
                self.statistics.received += 1;
                self.acknowledges.acknowledge(received);
                Ok(())
            }
            Arrival::Duplicate => {
                self.statistics.duplicates += 1;
                self.acknowledge_duplicate(received, now);
                Ok(())
            }
            Arrival::Dropped => {
                self.statistics.dropped += 1;
                Ok(())
            }
        }
    }

    /// Whether an agent whose handler is not ready leaves the next message alone.
    fn refuses(&self, payload_type: PayloadType) -> bool {
        let is_handshake = matches!(
            payload_type,
            PayloadType::HandshakeResponse | PayloadType::EncChallengeResponse
        );
        !self.is_ready && !is_handshake && self.processes_first()
    }

    /// Whether a message is acknowledged once it is processed, and not before.
    fn processes_first(&self) -> bool {
        match &self.role {
            Role::Client { .. } => true,
            Role::Agent(options) => options.processes_first,
        }
    }

    /// Acknowledges a message that was there before, unless its event is still to be taken.
    fn acknowledge_duplicate(&mut self, received: Received, now: Instant) {
        let answers = match &self.role {
            Role::Client { .. } => true,
            Role::Agent(options) => options.acknowledges_duplicates,
        };
        let expected = self.incoming.expected();
        let is_waiting = received.seq < expected && received.seq + self.unconsumed >= expected;
        if answers && !is_waiting {
            self.acknowledges.acknowledge(received);
            if matches!(self.role, Role::Client { .. }) {
                self.acknowledges.on_duplicate(received.seq, now);
            }
        }
    }

    /// Takes the next message in order.
    fn process(&mut self, now: Instant, stream: Stream) -> Result<(), Error> {
        let is_agent = matches!(self.role, Role::Agent(_));
        match (stream.payload_type, is_agent) {
            (PayloadType::HandshakeRequest, false) => {
                self.settle(&stream);
                self.on_handshake_request(now, &stream.payload)
            }
            (PayloadType::HandshakeComplete, false) => {
                self.settle(&stream);
                self.on_handshake_complete(now, &stream.payload)
            }
            (PayloadType::HandshakeResponse, true) => {
                self.settle(&stream);
                self.on_handshake_response(now, &stream.payload)
            }
            _ if is_agent && !(self.is_established() && self.is_ready) => {
                // The agent acknowledges what comes too early, and throws it away. What finds a recent
                // one not ready has been refused.
                self.settle(&stream);
                Ok(())
            }
            (kind @ (PayloadType::Flag | PayloadType::Size), _) => {
                self.on_peer_data();
                let event = match kind {
                    PayloadType::Flag => Flag::decode(&stream.payload).map(Event::Flag),
                    _ => serde_json::from_slice(&stream.payload)
                        .map(Event::Size)
                        .map_err(payload::Error::from),
                };
                match event {
                    Ok(event) => self.deliver(event, &stream),
                    Err(source) => {
                        self.settle(&stream);
                        return Err(Error::Payload { kind, source });
                    }
                }
                Ok(())
            }
            (kind, _) => {
                self.on_peer_data();
                if matches!(self.phase, Phase::Opening) {
                    self.open(Established::without_handshake());
                }
                if stream.payload.is_empty() {
                    self.settle(&stream);
                } else {
                    self.deliver(Event::Data(kind, stream.payload.clone()), &stream);
                }
                Ok(())
            }
        }
    }

    /// Notes that the other end has sent something of its own: it takes what it is sent.
    fn on_peer_data(&mut self) {
        self.held_until = None;
        self.early = Early::Safe;
        self.outgoing.on_peer_data();
    }

    /// Queues an event that stands for `stream`, to be acknowledged when it is taken.
    fn deliver(&mut self, event: Event, stream: &Stream) {
        self.unconsumed += 1;
        let mut is_acknowledged = stream.is_acknowledged;
        if !is_acknowledged && !self.processes_first() {
            self.acknowledges.acknowledge(stream.received);
            is_acknowledged = true;
        }
        let message = (stream.received, is_acknowledged, stream.payload.len());
        self.events.push_back(Queued {
            event,
            message: Some(message),
        });
    }

    /// Acknowledges `stream` now and forgets it.
    pub(super) fn settle(&mut self, stream: &Stream) {
        self.incoming.release(stream.payload.len());
        if !stream.is_acknowledged {
            self.acknowledges.acknowledge(stream.received);
        }
    }
}
