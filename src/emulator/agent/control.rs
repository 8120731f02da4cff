//! The agent's side of the control channel: hears of sessions, reports their end.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Settings;
use super::task::Task;
use super::worker::{self, Outcome};
use crate::emulator::frame;
use crate::emulator::session::ACCOUNT;
use crate::emulator::socket::Leg;
use crate::ssm::protocol::message::MessageType;

/// Sessions at once, as many as the real agent runs workers.
const WORKERS: usize = 1000;

/// How often the end of a session is reported, unless acknowledged (sheet §9.5).
const REPORTS: u32 = 3;

/// Time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The state behind the control channel; outlives its sockets.
pub(super) struct Control {
    instance_id: Arc<str>,
    settings: Arc<Settings>,
    workers: TaskTracker,
    stop: CancellationToken,
    /// The sessions that run, each with what cancels it.
    running: BTreeMap<String, CancellationToken>,
    ended_sender: mpsc::Sender<(String, Outcome)>,
    ended: mpsc::Receiver<(String, Outcome)>,
    /// Ends not yet acknowledged by the service; each is dropped after [`REPORTS`] tries.
    reports: VecDeque<Report>,
    timer: Pin<Box<Sleep>>,
}

struct Report {
    session_id: String,
    message: Message,
    due: Instant,
    tries: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskAcknowledge {
    task_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChannelClosed {
    session_id: String,
}

impl Control {
    pub(super) fn new(
        instance_id: Arc<str>,
        settings: Arc<Settings>,
        workers: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        // Every worker sends once, so none ever waits.
        let (ended_sender, ended) = mpsc::channel(WORKERS);
        Self {
            instance_id,
            settings,
            workers,
            stop,
            running: BTreeMap::new(),
            ended_sender,
            ended,
            reports: VecDeque::new(),
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Starts a session, unless it runs already: the service may ask more than once.
    fn start(&mut self, payload: &[u8]) {
        let task = match Task::parse(payload) {
            Ok(task) => task,
            Err(error) => {
                tracing::warn!(%error, "ignored a task");
                return;
            }
        };
        if self.running.contains_key(&task.session_id) {
            return;
        }
        if self.running.len() >= WORKERS {
            tracing::warn!(
                session_id = task.session_id,
                "too many sessions: ignored one"
            );
            return;
        }
        let id = task.session_id.clone();
        let cancel = self.stop.child_token();
        self.running.insert(id.clone(), cancel.clone());
        let ended = self.ended_sender.clone();
        let worker = worker::run(
            task,
            Arc::clone(&self.instance_id),
            Arc::clone(&self.settings),
            cancel,
        );
        self.workers.spawn(async move {
            let outcome = worker.await;
            // Nobody listens once the agent stops.
            let _ = ended.send((id, outcome)).await;
        });
    }

    fn report(&mut self, session_id: String, outcome: Outcome) {
        self.running.remove(&session_id);
        let payload = json!({
            "SchemaVersion": 1,
            "TaskId": session_id,
            "Topic": "agent_task_complete",
            "FinalTaskStatus": outcome.status.name(),
            "IsRoutingFailure": false,
            "AwsAccountId": ACCOUNT,
            "InstanceId": &*self.instance_id,
            "Output": outcome.output,
            "S3Bucket": "",
            "S3UrlSuffix": "",
            "CwlGroup": "",
            "CwlStream": "",
            "RetryNumber": 0,
        })
        .to_string();
        let message = frame::control(MessageType::AgentTaskComplete, &payload);
        self.reports.push_back(Report {
            session_id,
            message,
            due: Instant::now(),
            tries: 0,
        });
    }

    /// The next report that is due.
    fn next_report(&mut self, now: Instant) -> Option<Message> {
        let index = self.reports.iter().position(|report| report.due <= now)?;
        let report = self.reports.get_mut(index)?;
        report.tries += 1;
        report.due = now + REPORT_INTERVAL;
        let message = report.message.clone();
        if report.tries == REPORTS {
            self.reports.remove(index);
        }
        Some(message)
    }
}

impl Leg for Control {
    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn receive(&mut self, message: Message) -> ControlFlow<String> {
        let Message::Binary(message) = message else {
            return ControlFlow::Continue(());
        };
        let payload = frame::payload(&message).unwrap_or_default();
        match frame::message_type(&message) {
            Some("interactive_shell") => self.start(payload),
            Some("agent_task_acknowledge") => {
                if let Ok(acknowledged) = serde_json::from_slice::<TaskAcknowledge>(payload) {
                    self.reports
                        .retain(|report| report.session_id != acknowledged.task_id);
                }
            }
            Some("channel_closed") => {
                let closed = serde_json::from_slice::<ChannelClosed>(payload).ok();
                if let Some(cancel) = closed.and_then(|closed| self.running.get(&closed.session_id))
                {
                    cancel.cancel();
                }
            }
            other => tracing::debug!(kind = other, "ignored a message of the service"),
        }
        ControlFlow::Continue(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        while let Poll::Ready(Some((id, outcome))) = self.ended.poll_recv(cx) {
            self.report(id, outcome);
        }
        loop {
            if let Some(message) = self.next_report(Instant::now()) {
                return Poll::Ready(Some(message));
            }
            let Some(due) = self.reports.iter().map(|report| report.due).min() else {
                return Poll::Pending;
            };
            self.timer.as_mut().reset(due);
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
