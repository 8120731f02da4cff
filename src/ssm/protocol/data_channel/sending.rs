//! What leaves, and when.

use std::time::Instant;

use bytes::Bytes;
use rand::RngExt as _;
use uuid::Uuid;

use super::super::acknowledge::Acknowledge;
use super::super::message::{FLAG_SYN, Header, MessageType};
use super::super::payload::{PayloadType, Size};
use super::super::reliability::acknowledging::Received;
use super::{DataChannel, Early, Role};

impl DataChannel {
    pub(super) fn transmit_repeat(&mut self, now: Instant) -> Option<Bytes> {
        let received = self
            .acknowledges
            .transmit_repeat(now, self.pacer.as_mut())?;
        Some(self.encode_acknowledge(received, now))
    }

    pub(super) fn transmit_data(&mut self, now: Instant) -> Option<Bytes> {
        if self.is_withholding() {
            self.outgoing.withhold(now);
            return None;
        }
        if self.held_until.is_some_and(|until| now < until) {
            return None;
        }
        if !self.outgoing.has_transmit() {
            return None;
        }
        if let Some(pacer) = &mut self.pacer
            && !pacer.take(now)
        {
            self.paced_until = Some(pacer.next_at());
            return None;
        }
        let (frame, is_resend) = self.outgoing.transmit(now)?;
        if matches!(self.early, Early::AtRisk) {
            self.early = Early::Sent(now);
        }
        match is_resend {
            true => self.statistics.resent += 1,
            false => self.statistics.sent += 1,
        }
        Some(frame)
    }

    /// Sends something new to an agent that answers once, for its answer.
    ///
    /// The size of a terminal: a Port session has none, acknowledges the message and ignores it.
    pub(super) fn grant_wish(&mut self, now: Instant) {
        if self.outgoing.takes_wish() && self.is_established() {
            let size = Size { cols: 80, rows: 24 };
            self.enqueue_json(now, PayloadType::Size, &size);
        }
    }

    pub(super) fn encode_acknowledge(&mut self, received: Received, now: Instant) -> Bytes {
        let acknowledge = Acknowledge {
            message_type: self.peer_stream(),
            message_id: received.id,
            sequence_number: i64::try_from(received.seq).unwrap_or(i64::MAX),
        };
        acknowledge.encode(self.next_id(), self.clock.unix_millis(now))
    }

    pub(super) fn enqueue(&mut self, now: Instant, payload_type: PayloadType, payload: &[u8]) {
        let seq = self.outgoing.next_sequence();
        let (message_type, flags) = match self.role {
            Role::Client { .. } => (MessageType::InputStreamData, 0),
            Role::Agent(_) if seq == 0 => (MessageType::OutputStreamData, FLAG_SYN),
            Role::Agent(_) => (MessageType::OutputStreamData, 0),
        };
        let header = Header {
            message_type,
            created_date: self.clock.unix_millis(now),
            sequence_number: i64::try_from(seq).unwrap_or(i64::MAX),
            flags,
            message_id: self.next_id(),
            payload_type: Some(payload_type),
        };
        self.outgoing.push(header.encode(payload));
    }

    fn next_id(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.ids.random()).into_uuid()
    }
}
