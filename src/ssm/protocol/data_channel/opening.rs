//! How a data channel opens: the handshake as either end sees it.

use std::time::Instant;

use super::super::handshake::{
    self, HandshakeComplete, HandshakeRequest, HandshakeResponse, SessionType,
};
use super::super::payload::PayloadType;
use super::super::version;
use super::{
    DataChannel, EARLY_HOLD_BASIC, EARLY_HOLD_MUX, Early, Error, Established, Event, Phase, Role,
};

impl DataChannel {
    /// What happens before anything arrives: the agent asks, or opens at once.
    pub(super) fn start(&mut self, now: Instant) {
        let Role::Agent(options) = &self.role else {
            return;
        };
        match options.handshake.clone() {
            Some(request) => {
                self.enqueue_json(now, PayloadType::HandshakeRequest, &request);
                self.phase = Phase::Asked {
                    request,
                    since: now,
                };
            }
            None => self.open(Established::without_handshake()),
        }
    }

    /// Client: answers, and fails at once when it cannot do what is asked.
    pub(super) fn on_handshake_request(
        &mut self,
        now: Instant,
        payload: &[u8],
    ) -> Result<(), Error> {
        let Role::Client { version } = &self.role else {
            return Ok(());
        };
        if !matches!(self.phase, Phase::Opening) {
            return Err(Error::UnexpectedHandshake(PayloadType::HandshakeRequest));
        }
        let request: HandshakeRequest = match serde_json::from_slice(payload) {
            Ok(request) => request,
            Err(error) => {
                self.fail(error.into());
                return Ok(());
            }
        };
        let (response, outcome) = request.answer(version);
        self.enqueue_json(now, PayloadType::HandshakeResponse, &response);
        match outcome {
            Ok(()) => {
                self.phase = Phase::Answered(request.clone());
                self.tell(Event::HandshakeRequest(request));
            }
            Err(error) => self.fail(error),
        }
        Ok(())
    }

    /// Client: data may be sent from now on.
    pub(super) fn on_handshake_complete(
        &mut self,
        now: Instant,
        payload: &[u8],
    ) -> Result<(), Error> {
        let Role::Client { version } = &self.role else {
            return Ok(());
        };
        let Phase::Answered(request) = &self.phase else {
            return Err(Error::UnexpectedHandshake(PayloadType::HandshakeComplete));
        };
        let complete: HandshakeComplete = match serde_json::from_slice(payload) {
            Ok(complete) => complete,
            Err(error) => {
                self.fail(error.into());
                return Ok(());
            }
        };
        let mut established = Established::between(request, version);
        established.peer_version = Some(request.agent_version.clone());
        established.customer_message = complete.customer_message;
        self.outgoing.expect_refusal();
        if version::agent_loses_early_data(&request.agent_version) {
            self.early = Early::AtRisk;
            self.held_until = Some(match established.is_multiplexed {
                true => now + EARLY_HOLD_MUX,
                false => now + EARLY_HOLD_BASIC,
            });
        }
        // A probe that means nothing to the session is known for ports only.
        let is_port = matches!(established.session, Some((SessionType::Port, _)));
        if is_port && !version::agent_acknowledges_duplicates(&request.agent_version) {
            self.outgoing.expect_single_answers();
        }
        self.open(established);
        Ok(())
    }

    /// Agent: judges the answer and completes the handshake.
    pub(super) fn on_handshake_response(
        &mut self,
        now: Instant,
        payload: &[u8],
    ) -> Result<(), Error> {
        let (Phase::Asked { request, since }, Role::Agent(options)) = (&self.phase, &self.role)
        else {
            return Err(Error::UnexpectedHandshake(PayloadType::HandshakeResponse));
        };
        let response: Result<HandshakeResponse, _> = serde_json::from_slice(payload);
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                self.fail(error.into());
                return Ok(());
            }
        };
        if let Err(error) = response.check() {
            self.fail(error);
            return Ok(());
        }
        let mut established = Established::between(request, &response.client_version);
        established.peer_version = Some(response.client_version);
        let elapsed = now.saturating_duration_since(*since);
        let complete = HandshakeComplete::new(elapsed, options.customer_message.clone());
        self.enqueue_json(now, PayloadType::HandshakeComplete, &complete);
        self.open(established);
        Ok(())
    }

    pub(super) fn open(&mut self, established: Established) {
        self.phase = Phase::Open;
        self.tell(Event::Established(established));
    }

    pub(super) fn fail(&mut self, error: handshake::Error) {
        self.phase = Phase::Failed;
        self.tell(Event::HandshakeFailed(error));
    }

    pub(super) fn enqueue_json(
        &mut self,
        now: Instant,
        kind: PayloadType,
        body: &impl serde::Serialize,
    ) {
        let payload = serde_json::to_vec(body).expect("plain structs and JSON values serialize");
        self.enqueue(now, kind, &payload);
    }
}
