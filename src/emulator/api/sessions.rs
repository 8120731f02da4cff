//! StartSession, ResumeSession, TerminateSession and DescribeSessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, Kind, epoch_seconds, is_target, page, rfc3339};
use crate::emulator::documents::Document;
use crate::emulator::hub::{Hub, NoRoom};
use crate::emulator::session::{EndedBy, Request, Session, owner};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Start {
    target: String,
    document_name: Option<String>,
    #[serde(default)]
    parameters: BTreeMap<String, Vec<String>>,
    reason: Option<String>,
}

pub(super) fn start(hub: &Arc<Hub>, host: &str, start: Start) -> Result<Value, ApiError> {
    if !is_target(&start.target) {
        return Err(ApiError::new(
            Kind::Validation,
            "1 validation error detected: Value at 'target' failed to satisfy constraint",
        ));
    }
    if start
        .reason
        .as_deref()
        .is_some_and(|reason| !(1..=256).contains(&reason.chars().count()))
    {
        return Err(ApiError::new(
            Kind::Validation,
            "1 validation error detected: Value at 'reason' failed to satisfy constraint",
        ));
    }
    let Some(document) = Document::named(start.document_name.as_deref()) else {
        return Err(ApiError::new(
            Kind::InvalidDocument,
            format!(
                "Document with name {} does not exist.",
                start.document_name.unwrap_or_default()
            ),
        ));
    };
    let node = hub
        .nodes
        .get(&start.target)
        .filter(|node| node.is_online())
        .ok_or_else(|| {
            ApiError::new(
                Kind::TargetNotConnected,
                format!("{} is not connected.", start.target),
            )
        })?;
    if node.instance.agent && !document.is_port() {
        return Err(ApiError::new(
            Kind::InvalidDocument,
            "the emulated agent runs Port sessions only: use AWS-StartPortForwardingSession or \
             AWS-StartSSHSession",
        ));
    }
    let parameters = document
        .bind(start.parameters)
        .map_err(|problem| ApiError::new(Kind::BadRequest, problem))?;
    let opened = hub.open(Request {
        target: start.target,
        document,
        parameters,
        reason: start.reason,
    });
    let (session, token) = opened
        .map_err(|NoRoom| ApiError::new(Kind::Throttling, "too many open sessions: end some"))?;
    tracing::info!(
        session_id = %session.id,
        target_id = %session.request.target,
        document = document.name(),
        "session started"
    );
    Ok(ticket(host, &session, token))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ById {
    session_id: String,
}

impl ById {
    fn check(&self) -> Result<(), ApiError> {
        if (1..=96).contains(&self.session_id.len()) {
            return Ok(());
        }
        Err(ApiError::new(
            Kind::Validation,
            "1 validation error detected: Value at 'sessionId' failed to satisfy constraint",
        ))
    }

    fn unknown(&self) -> ApiError {
        ApiError::new(
            Kind::DoesNotExist,
            format!("Session {} does not exist.", self.session_id),
        )
    }
}

pub(super) fn resume(hub: &Hub, host: &str, request: ById) -> Result<Value, ApiError> {
    request.check()?;
    let session = hub
        .session(&request.session_id)
        .ok_or_else(|| request.unknown())?;
    let token = session
        .renew_client_token()
        .ok_or_else(|| request.unknown())?;
    tracing::info!(session_id = %session.id, "session resumed");
    hub.faults.note(|counters| counters.resume_calls += 1);
    Ok(ticket(host, &session, token))
}

/// The answer to a resume that comes too late: a success without a token (sheet §5).
pub(super) fn resume_without_token(request: ById) -> Result<Value, ApiError> {
    request.check()?;
    Ok(json!({ "SessionId": request.session_id }))
}

pub(super) fn terminate(hub: &Hub, request: ById) -> Result<Value, ApiError> {
    request.check()?;
    match hub.session(&request.session_id) {
        Some(session) => session.end(EndedBy::Api, ""),
        None if hub.was_open(&request.session_id) => {}
        None => return Err(request.unknown()),
    }
    Ok(json!({ "SessionId": request.session_id }))
}

/// What a client needs to open its data channel, at `host`.
fn ticket(host: &str, session: &Session, token: String) -> Value {
    json!({
        "SessionId": session.id,
        "StreamUrl": format!("ws://{host}{}", session.stream_path()),
        "TokenValue": token,
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Describe {
    state: State,
    #[serde(default)]
    filters: Vec<Filter>,
    max_results: Option<usize>,
    next_token: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum State {
    Active,
    History,
}

/// A filter; unlike everywhere else in this API its keys are in lower case.
#[derive(Debug, Deserialize)]
struct Filter {
    key: String,
    value: String,
}

impl Filter {
    fn matches(&self, session: &Session) -> Result<bool, ApiError> {
        Ok(match self.key.as_str() {
            "InvokedAfter" => rfc3339(session.started) >= self.value,
            "InvokedBefore" => rfc3339(session.started) < self.value,
            "Target" => session.request.target == self.value,
            "Owner" => owner() == self.value,
            "Status" => session.status().name() == self.value,
            "SessionId" => session.id == self.value,
            "AccessType" => self.value == "Standard",
            key => {
                return Err(ApiError::new(
                    Kind::InvalidFilterKey,
                    format!("{key} is not a filter key"),
                ));
            }
        })
    }
}

pub(super) fn describe(hub: &Hub, request: Describe) -> Result<Value, ApiError> {
    let listed: Vec<_> = match request.state {
        State::Active => hub
            .open_sessions()
            .into_iter()
            .map(|session| (session, None))
            .collect(),
        State::History => hub
            .history()
            .into_iter()
            .map(|ended| (ended.session, Some((ended.ended, ended.output))))
            .collect(),
    };
    let mut found = Vec::new();
    'sessions: for (session, end) in listed {
        for filter in &request.filters {
            if !filter.matches(&session)? {
                continue 'sessions;
            }
        }
        found.push(summary(&session, end));
    }
    let page = page(
        found,
        request.next_token.as_deref(),
        request.max_results,
        1..=200,
    )?;
    let mut answer = json!({ "Sessions": page.items });
    if let Some(token) = page.next_token {
        answer["NextToken"] = token.into();
    }
    Ok(answer)
}

fn summary(session: &Session, end: Option<(SystemTime, String)>) -> Value {
    let mut summary = json!({
        "SessionId": session.id,
        "Target": session.request.target,
        "Status": session.status().name(),
        "StartDate": epoch_seconds(session.started),
        "DocumentName": session.request.document.name(),
        "Owner": owner(),
    });
    if let Some(reason) = &session.request.reason {
        summary["Reason"] = reason.as_str().into();
    }
    if let Some((ended, output)) = end {
        summary["EndDate"] = epoch_seconds(ended).into();
        if !output.is_empty() {
            summary["Details"] = output.into();
        }
    }
    summary
}
