//! From the loss of a socket to the next one.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::pump::Connection;
use super::verdict::{Failures, Next};
use super::{Driver, now};
use crate::ssm::error::{Error, describe};
use crate::ssm::session::SessionEvent;

impl Driver {
    /// Draws the conclusions from the loss of `connection`.
    pub(super) fn on_lost(&mut self, connection: &Connection, reason: String) {
        let lived = connection.age(now());
        let was_useful = self.progress() > connection.progress_before;
        tracing::debug!(
            reason,
            lived_ms = lived.as_millis() as u64,
            was_useful,
            "websocket lost, resuming"
        );
        self.backoff.on_lost(lived, was_useful);
        self.silence.on_lost();
        self.reports.status.send_modify(|status| {
            status.is_connected = false;
            status.unacknowledged = self.channel.unacknowledged();
            status.messages = self.channel.statistics();
        });
        self.reports.tell(SessionEvent::Lost { reason });
    }

    /// Replaces the socket, for as long as the session is not refused.
    ///
    /// # Errors
    /// Why the session is given up: refused, or [`Error::Terminated`] when cancelled.
    pub(super) async fn resume(&mut self, lost_at: Instant) -> Result<Connection, Error> {
        let mut attempt = 1_u32;
        let mut failures = Failures::new(self.slowly);
        loop {
            let delay = self.backoff.next_delay();
            let tried = tokio::select! {
                () = self.cancel.cancelled() => return Err(Error::Terminated),
                slept = self.wakeups.woken() => {
                    // What was under way is as dead as the socket, and what was wrong may be over.
                    tracing::info!(slept_s = slept.as_secs(), "woken up, trying again at once");
                    self.backoff.reset();
                    continue;
                }
                tried = async {
                    sleep(delay).await;
                    self.dialer.resume(attempt).await
                } => tried,
            };
            let error = match tried {
                Ok(connection) => {
                    let gap = now().saturating_duration_since(lost_at);
                    return Ok(self.on_resumed(connection, gap, attempt));
                }
                Err(error) => error,
            };
            let Next::Again(at_least) = failures.judge(&error) else {
                return Err(error);
            };
            tracing::debug!(%error, attempt, "cannot resume yet");
            self.backoff.wait_at_least(at_least);
            self.reports.tell(SessionEvent::Retrying {
                attempt,
                error: describe(&error),
                hint: error.hint().map(str::to_owned),
            });
            attempt = attempt.saturating_add(1);
        }
    }

    fn on_resumed(
        &mut self,
        mut connection: Connection,
        gap: Duration,
        attempt: u32,
    ) -> Connection {
        tracing::debug!(
            gap_ms = gap.as_millis() as u64,
            attempt,
            backlog = self.channel.unacknowledged(),
            "websocket resumed"
        );
        connection.progress_before = self.progress();
        self.channel.on_reconnected(now());
        self.rate.skip_gap(now(), self.channel.bytes_acknowledged());
        self.reports.status.send_modify(|status| {
            status.is_connected = true;
            status.resumes += 1;
            status.last_gap = Some(gap);
            status.longest_gap = status.longest_gap.max(Some(gap));
        });
        self.reports.tell(SessionEvent::Resumed { gap });
        connection
    }

    /// Messages that have got through so far, of either direction.
    fn progress(&self) -> u64 {
        self.channel.in_order() + self.channel.statistics().acknowledged
    }
}
