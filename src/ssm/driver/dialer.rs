//! Opening the sockets of one SSM session: the first, and each that a resume brings.

use std::time::Duration;

use futures_util::SinkExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::now;
use super::pump::Connection;
use crate::ssm::api::{self, Ssm, Ticket};
use crate::ssm::error::Error;
use crate::ssm::protocol::payload::{MESSAGE_SCHEMA_VERSION, OpenDataChannelInput};
use crate::ssm::session::Options;
use crate::ssm::websocket;

/// How long ResumeSession may take at the first attempts; then as long as any call.
///
/// A network that changes right now swallows what is sent, which nothing but silence tells; giving the
/// call up makes the next attempt open another connection.
const RESUME_LIMITS: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(8)];

/// Opens sockets, each with the ticket and the credentials of its moment.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) ssm: Ssm,
    pub(super) options: Options,
    pub(super) ticket: Ticket,
    /// ClientId, the same in every opening of this session.
    client_id: Uuid,
}

impl Dialer {
    pub(super) fn new(ssm: Ssm, options: Options, ticket: Ticket) -> Self {
        Self {
            ssm,
            options,
            ticket,
            client_id: Uuid::new_v4(),
        }
    }

    /// Opens a socket with the current ticket and says who we are; there is no reply to that.
    pub(super) async fn open(&self) -> Result<Connection, Error> {
        let credentials = self.ssm.credentials().await?;
        let url = &self.ticket.stream_url;
        let dialled_at = now();
        let mut websocket = websocket::dial(self.ssm.caller(), url, &credentials).await?;
        let dialled_in = now().saturating_duration_since(dialled_at);
        let open = OpenDataChannelInput {
            message_schema_version: MESSAGE_SCHEMA_VERSION.to_owned(),
            request_id: Uuid::new_v4().to_string(),
            token_value: self.ticket.token.expose().clone(),
            client_id: self.client_id.to_string(),
            client_version: self.options.client_version.clone(),
        };
        let text = serde_json::to_string(&open).expect("a struct of strings serializes");
        // The send buffer of a new socket has room for it: this does not wait.
        websocket
            .send(Message::text(text))
            .await
            .map_err(|error| websocket::Error::Upgrade(Box::new(error)))?;
        let intervals = self.options.keepalive();
        Ok(Connection::new(websocket, intervals, dialled_in))
    }

    /// Asks for a new ticket and opens a socket with it; `attempt` counts from 1.
    ///
    /// # Errors
    /// Why this attempt failed. Takes less than a minute, as each part has its limit, but for a person who is asked
    /// for credentials.
    pub(super) async fn resume(&mut self, attempt: u32) -> Result<Connection, Error> {
        self.ssm.prepare().await?;
        // What is kept from calls of before may have died with the socket.
        self.ssm.dialler().give_up_kept();
        let Ticket {
            session_id,
            stream_url,
            ..
        } = &self.ticket;
        let call = self.ssm.resume_session(session_id, stream_url);
        let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        self.ticket = match RESUME_LIMITS.get(index) {
            Some(limit) => timeout(*limit, call)
                .await
                .map_err(|elapsed| api::Error::unanswered(api::Operation::Resume, elapsed))??,
            None => call.await?,
        };
        self.open().await
    }
}
