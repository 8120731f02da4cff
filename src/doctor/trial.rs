//! An SSM session started, resumed and ended for the permissions that it takes.
//!
//! The permissions are tried, not read: policies have conditions, boundaries and organisations above them. The
//! session has no data channel, so that what the gateway does is another question.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::account::{failed, optional};
use super::check::{Found, Subject};
use super::examination::{Examination, Step, seen};
use crate::ssm::api::Error;
use crate::ssm::{Journal, Ssm, StartRequest};

/// Attempts to end the session.
const ENDINGS: u32 = 3;
/// Between them.
const PAUSE: Duration = Duration::from_millis(500);

/// What to try.
pub(super) struct Trial {
    pub(super) ssm: Ssm,
    pub(super) target: String,
    pub(super) port: u16,
    pub(super) journal: Option<Arc<dyn Journal>>,
}

/// What came of each call; the next one is not made where there is nothing to make it with.
struct Outcomes {
    start: oneshot::Receiver<Result<String, Error>>,
    resume: oneshot::Receiver<Result<(), Error>>,
    terminate: oneshot::Receiver<Result<(), Error>>,
}

/// Tries the three permissions. Returns whether sessions can be started.
pub(super) async fn examine(
    examination: &mut Examination<'_>,
    trial: Step<Trial>,
    tracker: &TaskTracker,
) -> Step<()> {
    let trial = match trial {
        Ok(trial) => trial,
        Err(because) => {
            examination.skip_through(Subject::TerminateSession, because);
            return Err(because);
        }
    };
    let Outcomes {
        start,
        resume,
        terminate,
    } = trial.run(tracker);
    let started = examination
        .check(Subject::StartSession, async {
            match start.await {
                Ok(Ok(id)) => Found::ok((), format!("allowed: {id}")),
                Ok(Err(error)) => failed(&error),
                Err(_) => Found::failed("given up", None),
            }
        })
        .await;
    // Neither is asked for before a connection is lost, or over.
    for (subject, outcome, allowed, otherwise) in [
        (
            Subject::ResumeSession,
            resume,
            "allowed: a lost connection can be resumed",
            "a lost connection ends what is open",
        ),
        (
            Subject::TerminateSession,
            terminate,
            "allowed: no session is left behind",
            "sessions may last until they idle out",
        ),
    ] {
        let _: Step<()> = examination
            .after(subject, seen(&started), async |()| match outcome.await {
                Ok(Ok(())) => Found::ok((), allowed),
                Ok(Err(error)) => optional(&error, otherwise),
                Err(_) => Found::failed("given up", None),
            })
            .await;
    }
    started
}

impl Trial {
    /// Makes the calls in a task of `tracker`, which goes on when nobody waits any more: a session whose id was
    /// never learnt could not be ended.
    fn run(self, tracker: &TaskTracker) -> Outcomes {
        let (started, start) = oneshot::channel();
        let (resumed, resume) = oneshot::channel();
        let (terminated, terminate) = oneshot::channel();
        tracker.spawn(async move {
            let ticket = match self.start().await {
                Ok(ticket) => ticket,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let id = ticket.session_id.clone();
            let _ = started.send(Ok(id.clone()));
            let outcome = match self.ssm.resume_session(&id, &ticket.stream_url).await {
                // That the session is over already was not for want of a permission.
                Ok(_) | Err(Error::SessionGone(_)) => Ok(()),
                Err(error) => Err(error),
            };
            let _ = resumed.send(outcome);
            let _ = terminated.send(self.terminate(&id).await);
        });
        Outcomes {
            start,
            resume,
            terminate,
        }
    }

    async fn start(&self) -> Result<crate::ssm::api::Ticket, Error> {
        let request = StartRequest::port_forwarding(&self.target, self.port);
        let reason = self.journal.as_ref().and_then(|journal| journal.reason());
        let ticket = self
            .ssm
            .start_session(
                &request.target,
                request.document.as_deref(),
                &request.parameters,
                reason.as_deref(),
            )
            .await?;
        if let Some(journal) = &self.journal {
            journal.started(&ticket.session_id);
        }
        Ok(ticket)
    }

    /// Ends the session, a few times if need be.
    async fn terminate(&self, id: &str) -> Result<(), Error> {
        let mut attempt = 1;
        let outcome = loop {
            match self.ssm.terminate_session(id).await {
                Err(error) if attempt < ENDINGS && !matches!(error, Error::AccessDenied { .. }) => {
                    attempt += 1;
                    sleep(PAUSE).await;
                }
                outcome => break outcome,
            }
        };
        if let Some(journal) = &self.journal {
            match &outcome {
                Ok(()) => journal.ended(id),
                Err(_) => journal.abandoned(id),
            }
        }
        outcome
    }
}
