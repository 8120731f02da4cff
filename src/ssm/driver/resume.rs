//! From the loss of a socket to the next one.

use std::time::Instant;

use tokio::time::sleep;

use super::pump::Connection;
use super::verdict::{Failures, Next};
use super::{Driver, now};
use crate::ssm::error::{Error, describe};
use crate::ssm::session::SessionEvent;

/// The time without a socket that is known to work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap {
    since: Instant,
    /// The attempt that is to end it, counted from 1.
    attempt: u32,
}

impl Driver {
    /// Draws the conclusions from the loss of `connection`: a gap begins, or goes on if nothing was heard on it.
    pub(super) fn on_lost(&mut self, connection: &Connection, reason: String) -> Gap {
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
        match &mut self.gap {
            Some(gap) => {
                self.reports.tell(SessionEvent::Retrying {
                    attempt: gap.attempt,
                    error: reason,
                    hint: None,
                });
                gap.attempt = gap.attempt.saturating_add(1);
                *gap
            }
            None => {
                self.reports.tell(SessionEvent::Lost { reason });
                *self.gap.insert(Gap {
                    since: now(),
                    attempt: 1,
                })
            }
        }
    }

    /// Opens another socket, for as long as the session is not refused. Whether it works, nothing but what comes
    /// from it tells: see [`on_heard`](Self::on_heard).
    ///
    /// # Errors
    /// Why the session is given up: refused, or [`Error::Terminated`] when cancelled.
    pub(super) async fn resume(&mut self, mut gap: Gap) -> Result<Connection, Error> {
        let was_resumed = self.reports.status.borrow().resumes > 0;
        let mut failures = Failures::new(self.slowly, was_resumed);
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
                    self.dialer.resume(gap.attempt).await
                } => tried,
            };
            let error = match tried {
                Ok(connection) => {
                    self.gap = Some(gap);
                    return Ok(self.on_opened(connection));
                }
                Err(error) => error,
            };
            let Next::Again(at_least) = failures.judge(&error) else {
                return Err(error);
            };
            tracing::debug!(%error, attempt = gap.attempt, "cannot resume yet");
            self.backoff.wait_at_least(at_least);
            self.reports.tell(SessionEvent::Retrying {
                attempt: gap.attempt,
                error: describe(&error),
                hint: error.hint().map(str::to_owned),
            });
            gap.attempt = gap.attempt.saturating_add(1);
        }
    }

    /// Goes on over another socket.
    fn on_opened(&mut self, mut connection: Connection) -> Connection {
        connection.progress_before = self.progress();
        self.channel.on_reconnected(now());
        self.rate.skip_gap(now(), self.channel.bytes_acknowledged());
        connection
    }

    /// Something has come from the socket: the service has accepted it, and a gap is over.
    pub(super) fn on_heard(&mut self) {
        let Some(Gap { since, attempt }) = self.gap.take() else {
            return;
        };
        let gap = now().saturating_duration_since(since);
        tracing::debug!(
            gap_ms = gap.as_millis() as u64,
            attempt,
            backlog = self.channel.unacknowledged(),
            "websocket resumed"
        );
        self.reports.status.send_modify(|status| {
            status.is_connected = true;
            status.resumes += 1;
            status.last_gap = Some(gap);
            status.longest_gap = status.longest_gap.max(Some(gap));
        });
        self.reports.tell(SessionEvent::Resumed { gap });
    }

    /// Messages that have got through so far, of either direction.
    fn progress(&self) -> u64 {
        self.channel.in_order() + self.channel.statistics().acknowledged
    }
}
