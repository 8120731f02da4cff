//! The control channel: where an agent hears of sessions and reports their end.

use std::ops::ControlFlow;
use std::task::{Context, Poll};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::outbox::Receiver;
use super::{OpenChannel, Socket};
use crate::emulator::frame;
use crate::emulator::hub::Hub;
use crate::emulator::node::Node;
use crate::emulator::session::EndedBy;
use crate::emulator::socket::{self, End, Leg};
use crate::ssm::protocol::message::MessageType;

/// Serves the control channel of instance `id` until its socket ends or another replaces it.
///
/// # Errors
/// Gives the socket back with the reason when the instance or the token is not valid.
pub(super) async fn serve(
    hub: &Hub,
    id: &str,
    opening: OpenChannel,
    mut socket: Socket,
) -> Result<(), (Socket, &'static str)> {
    let Some(node) = hub.nodes.get(id) else {
        return Err((socket, "no such instance"));
    };
    if !node.redeem(&opening.token_value) {
        return Err((socket, "wrong or used token"));
    }
    let Some(receiver) = node.control.attach() else {
        return Err((socket, "the emulator stops"));
    };
    let version = opening.agent_version.unwrap_or_default();
    let platform = opening.platform_type.unwrap_or_default();
    tracing::debug!(target_id = id, version, "agent connected");
    node.connected(version, platform);
    let mut leg = ControlLeg {
        hub,
        node,
        receiver,
    };
    let end = socket::drive(&mut socket, &mut leg).await;
    drop(leg);
    node.disconnected();
    match end {
        End::Refused(problem) => {
            tracing::warn!(
                target_id = id,
                problem,
                "control channel closed: bad message"
            );
            socket::close(socket, CloseCode::Protocol, &problem).await;
        }
        End::Finished | End::Closed => socket::close(socket, CloseCode::Normal, "").await,
        end => tracing::debug!(target_id = id, %end, "agent disconnected"),
    }
    Ok(())
}

struct ControlLeg<'a> {
    hub: &'a Hub,
    node: &'a Node,
    receiver: Receiver,
}

/// Payload of `agent_task_complete`, as far as it matters here (sheet §9.5).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskComplete {
    task_id: String,
    #[serde(default)]
    topic: String,
    #[serde(default)]
    final_task_status: String,
    #[serde(default)]
    output: String,
}

impl ControlLeg<'_> {
    fn task_complete(&self, message: &Bytes) -> ControlFlow<String> {
        let complete = frame::payload(message)
            .and_then(|payload| serde_json::from_slice::<TaskComplete>(payload).ok());
        let (Some(complete), Some(id)) = (complete, frame::message_id(message)) else {
            return ControlFlow::Break("a malformed agent_task_complete".into());
        };
        tracing::debug!(
            session_id = complete.task_id,
            status = complete.final_task_status,
            "the agent reports a task complete"
        );
        let acknowledgement = json!({
            "SchemaVersion": 1,
            "MessageId": id.to_string(),
            "TaskId": complete.task_id,
            "Topic": complete.topic,
        });
        self.node.control.push(frame::control(
            MessageType::AgentTaskAcknowledge,
            &acknowledgement.to_string(),
        ));
        let session = self.hub.session(&complete.task_id);
        // An agent speaks only for the sessions of its own machine.
        if let Some(session) = session.filter(|found| found.request.target == self.node.instance.id)
        {
            session.end(EndedBy::Agent, complete.output);
        }
        ControlFlow::Continue(())
    }
}

impl Leg for ControlLeg<'_> {
    /// The agent's reports are answered with one message each, so its own outbox is the bound.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.node.control.poll_room(cx)
    }

    fn receive(&mut self, message: Message) -> ControlFlow<String> {
        self.node.touch();
        let Message::Binary(message) = message else {
            return ControlFlow::Break("a text message in an open control channel".into());
        };
        match frame::message_type(&message) {
            Some("agent_task_complete") => self.task_complete(&message),
            other => {
                tracing::debug!(kind = other, "ignored a message of the agent");
                ControlFlow::Continue(())
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.receiver.poll_next(cx)
    }
}
