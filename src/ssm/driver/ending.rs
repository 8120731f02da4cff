//! The end of an SSM session: by itself, or by us.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::pump::{Connection, Goal, Stop};
use super::{Driver, now};
use crate::ssm::api::{self, Ssm};
use crate::ssm::error::Error;
use crate::ssm::protocol::payload::{Flag, PayloadType};
use crate::ssm::protocol::version;
use crate::ssm::session::SessionEvent;

/// Last words may take this long before the session is terminated.
const DRAIN: Duration = Duration::from_secs(1);
/// The agent may take this long to acknowledge the TerminateSession flag.
const FLAG_WAIT: Duration = Duration::from_millis(500);
/// Attempts at TerminateSession, as far as the deadline allows.
const TERMINATE_ATTEMPTS: u32 = 3;

impl Driver {
    /// Notes the end of a session that is over by itself.
    pub(super) fn end(self, error: Error) -> Error {
        if error.is_end_of_session() {
            self.confirm_end();
        }
        tracing::debug!(%error, "ssm session is over");
        self.reports
            .status
            .send_modify(|status| status.is_connected = false);
        if let Error::Closed(text) = &error {
            self.reports
                .tell(SessionEvent::Closed { text: text.clone() });
        }
        error
    }

    /// Ends the SSM session: last words, flag, API; all within the deadline of the options.
    pub(super) async fn terminate(&mut self, connection: Option<Connection>) {
        let deadline = self.dialer.options.terminate_deadline;
        let is_over = timeout(deadline, self.terminate_gracefully(connection)).await;
        if is_over.unwrap_or(false) {
            self.confirm_end();
        } else {
            tracing::warn!("the ssm session may go on until it idles out: no confirmation in time");
        }
        self.reports
            .status
            .send_modify(|status| status.is_connected = false);
    }

    /// Ends the SSM session, and says whether the service has confirmed that it is over.
    async fn terminate_gracefully(&mut self, connection: Option<Connection>) -> bool {
        // What was cancelled was the session, not its end.
        self.cancel = CancellationToken::new();
        let ssm = self.dialer.ssm.clone();
        let session_id = self.dialer.ticket.session_id.clone();
        let Some(mut connection) = connection else {
            return terminate_by_api(&ssm, &session_id).await;
        };
        let mut stop = None;
        if self.channel.is_established() {
            let drained = now() + DRAIN;
            stop = Some(
                self.serve(&mut connection, Goal::Drained, Some(drained))
                    .await,
            );
        }
        if self.channel.is_closed() {
            return true;
        }
        if !matches!(stop, Some(Stop::Lost(_))) {
            self.queue_terminate_flag();
            let acknowledged = now() + FLAG_WAIT;
            let (is_over, _) = tokio::join!(
                terminate_by_api(&ssm, &session_id),
                self.serve(&mut connection, Goal::Drained, Some(acknowledged)),
            );
            is_over || self.channel.is_closed()
        } else {
            terminate_by_api(&ssm, &session_id).await
        }
    }

    /// The service has said that the SSM session is over.
    fn confirm_end(&self) {
        if let Some(journal) = &self.dialer.options.journal {
            journal.ended(&self.dialer.ticket.session_id);
        }
    }

    fn queue_terminate_flag(&mut self) {
        let peer = self
            .established
            .as_ref()
            .and_then(|it| it.peer_version.as_deref());
        if peer.is_some_and(version::agent_takes_terminate_flag) {
            let flag = Flag::TerminateSession.encode();
            if let Err(error) = self.channel.send(now(), PayloadType::Flag, &flag) {
                tracing::debug!(%error, "cannot send the terminate flag");
            }
        }
    }
}

/// Calls TerminateSession, a few times if need be, and says whether it has succeeded.
async fn terminate_by_api(ssm: &Ssm, session_id: &str) -> bool {
    let mut backoff = Backoff::default();
    for _ in 0..TERMINATE_ATTEMPTS {
        sleep(backoff.next_delay()).await;
        match ssm.terminate_session(session_id).await {
            Ok(()) => {
                tracing::debug!(session_id, "ssm session terminated");
                return true;
            }
            Err(error @ api::Error::AccessDenied { .. }) => {
                tracing::warn!(%error, session_id, "cannot terminate the ssm session");
                return false;
            }
            Err(error) => tracing::debug!(%error, session_id, "cannot terminate yet"),
        }
    }
    false
}
