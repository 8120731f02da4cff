//! The handshake at the start of Port and NonInteractiveCommands sessions.
//!
//! HandshakeRequest (agent), HandshakeResponse (client), HandshakeComplete (agent). Nothing else
//! may be sent to the agent before HandshakeComplete: it acknowledges such messages and throws
//! them away.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::version;

/// Why there is no session after a handshake.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A message of the handshake is not the JSON it should be.
    #[error("malformed handshake message")]
    Malformed(#[from] serde_json::Error),
    /// The agent asked for something not implemented here, such as KMS encryption.
    #[error("the agent requires {0}, which is not supported")]
    Unsupported(String),
    /// The client did not do what the agent asked for.
    #[error("the client answered {action} with status {status}: {text}")]
    Refused {
        /// The action asked for.
        action: String,
        /// Its ActionStatus.
        status: i64,
        /// Its Error.
        text: String,
    },
    /// The agent waited in vain for the client's answer.
    #[error("no handshake response in time")]
    TimedOut,
}

/// Kinds of session, as the SessionType action names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionType {
    /// A TCP port, plain or multiplexed.
    Port,
    /// A shell.
    StandardStream,
    /// A command with a terminal.
    InteractiveCommands,
    /// A command without one.
    NonInteractiveCommands,
}

impl SessionType {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "Port" => Self::Port,
            "Standard_Stream" => Self::StandardStream,
            "InteractiveCommands" => Self::InteractiveCommands,
            "NonInteractiveCommands" => Self::NonInteractiveCommands,
            _ => return None,
        })
    }
}

/// Payload of HandshakeRequest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HandshakeRequest {
    /// Version of the agent.
    pub agent_version: String,
    /// What the client is to do.
    #[serde(default, deserialize_with = "null_as_default")]
    pub requested_client_actions: Vec<RequestedClientAction>,
}

/// One thing the client is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestedClientAction {
    /// `SessionType` or `KMSEncryption`.
    pub action_type: String,
    /// Depends on the type.
    #[serde(default)]
    pub action_parameters: Value,
}

impl HandshakeRequest {
    /// The request for a Port session with `properties`, the resolved properties of its document.
    pub fn port(agent_version: impl Into<String>, properties: Value) -> Self {
        Self {
            agent_version: agent_version.into(),
            requested_client_actions: vec![RequestedClientAction {
                action_type: SESSION_TYPE.into(),
                action_parameters: serde_json::json!({
                    "SessionType": "Port",
                    "Properties": properties,
                }),
            }],
        }
    }

    /// Type and properties of the session, if the request names a known type.
    pub fn session(&self) -> Option<(SessionType, &Value)> {
        let action = self
            .requested_client_actions
            .iter()
            .find(|action| action.action_type == SESSION_TYPE)?;
        let name = action.action_parameters.get("SessionType")?.as_str()?;
        let properties = action.action_parameters.get("Properties");
        Some((
            SessionType::from_name(name)?,
            properties.unwrap_or(&Value::Null),
        ))
    }

    /// Whether a session of this request is an smux session for a client of `client_version`.
    ///
    /// The agent looks at the client's version, the client at the agent's; with an old agent the
    /// two agree because such an agent has no smux at all.
    pub fn is_multiplexed(&self, client_version: &str) -> bool {
        let forwards = self.session().is_some_and(|(kind, properties)| {
            kind == SessionType::Port
                && properties.get("type").and_then(Value::as_str) == Some("LocalPortForwarding")
        });
        forwards
            && version::client_multiplexes(client_version)
            && version::agent_multiplexes(&self.agent_version)
    }

    /// The client's answer: the session type is taken, all else is unsupported.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the first action that is not supported; the agent will end the
    /// session on the answer that goes with it.
    pub fn answer(&self, client_version: &str) -> (HandshakeResponse, Result<(), Error>) {
        let mut outcome = Ok(());
        let processed_client_actions = self
            .requested_client_actions
            .iter()
            .map(|action| {
                let supported = action.action_type == SESSION_TYPE && self.session().is_some();
                if !supported && outcome.is_ok() {
                    outcome = Err(Error::Unsupported(describe(action)));
                }
                ProcessedClientAction {
                    action_type: action.action_type.clone(),
                    action_status: if supported { SUCCESS } else { UNSUPPORTED },
                    action_result: Value::Null,
                    error: if supported { "" } else { "unsupported action" }.into(),
                }
            })
            .collect();
        let response = HandshakeResponse {
            client_version: client_version.into(),
            processed_client_actions,
            errors: None,
        };
        (response, outcome)
    }
}

/// Payload of HandshakeResponse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HandshakeResponse {
    /// Version of the client; the agent's behaviour depends on it, see [`version`].
    #[serde(default)]
    pub client_version: String,
    /// What became of each action.
    #[serde(default, deserialize_with = "null_as_default")]
    pub processed_client_actions: Vec<ProcessedClientAction>,
    /// Other errors; `null` when there are none.
    #[serde(default)]
    pub errors: Option<Vec<String>>,
}

/// What became of one action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProcessedClientAction {
    /// As in the request.
    #[serde(default)]
    pub action_type: String,
    /// 1 success, 2 failed, 3 unsupported.
    #[serde(default)]
    pub action_status: i64,
    /// Depends on the type; ignored for `SessionType`.
    #[serde(default)]
    pub action_result: Value,
    /// Empty on success.
    #[serde(default, deserialize_with = "null_as_default")]
    pub error: String,
}

impl HandshakeResponse {
    /// Judges the answer as the agent does: every action listed must have succeeded.
    ///
    /// # Errors
    /// [`Error::Refused`] names the first that has not.
    pub fn check(&self) -> Result<(), Error> {
        let failed = self
            .processed_client_actions
            .iter()
            .find(|action| action.action_status != SUCCESS);
        match failed {
            None => Ok(()),
            Some(action) => Err(Error::Refused {
                action: action.action_type.clone(),
                status: action.action_status,
                text: action.error.clone(),
            }),
        }
    }
}

/// Payload of HandshakeComplete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HandshakeComplete {
    /// Duration in nanoseconds.
    #[serde(default)]
    pub handshake_time_to_complete: i64,
    /// Text for the user; often empty.
    #[serde(default, deserialize_with = "null_as_default")]
    pub customer_message: String,
}

impl HandshakeComplete {
    /// The payload of a handshake that took `elapsed`.
    pub fn new(elapsed: Duration, customer_message: impl Into<String>) -> Self {
        Self {
            handshake_time_to_complete: i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX),
            customer_message: customer_message.into(),
        }
    }
}

const SESSION_TYPE: &str = "SessionType";
const SUCCESS: i64 = 1;
const UNSUPPORTED: i64 = 3;

fn describe(action: &RequestedClientAction) -> String {
    match action.action_type.as_str() {
        SESSION_TYPE => format!(
            "the session type {}",
            action.action_parameters["SessionType"]
        ),
        other => format!("the action {other:?}"),
    }
}

/// Go writes `null` where it has an empty slice.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = r#"{"AgentVersion":"3.3.1142.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port","Properties":{"portNumber":"22","type":"LocalPortForwarding"}}}]}"#;

    #[test]
    fn a_port_request_is_understood_and_answered_like_the_official_client() {
        let request: HandshakeRequest = serde_json::from_str(REQUEST).unwrap();
        let (kind, properties) = request.session().unwrap();
        assert_eq!(kind, SessionType::Port);
        assert_eq!(properties["portNumber"], "22");
        let (response, outcome) = request.answer("1.2.764.0");
        outcome.unwrap();
        response.check().unwrap();
        assert_eq!(
            serde_json::to_string(&response).unwrap(),
            r#"{"ClientVersion":"1.2.764.0","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":1,"ActionResult":null,"Error":""}],"Errors":null}"#
        );
        let properties = properties.clone();
        assert_eq!(HandshakeRequest::port("3.3.1142.0", properties), request);
    }

    #[test]
    fn multiplexing_needs_the_property_and_both_versions() {
        let mut request: HandshakeRequest = serde_json::from_str(REQUEST).unwrap();
        assert!(request.is_multiplexed("1.2.764.0"));
        assert!(!request.is_multiplexed("1.1.69"));
        request.agent_version = "3.0.196.0".into();
        assert!(!request.is_multiplexed("1.2.764.0"));
        let plain = HandshakeRequest::port("3.3.1142.0", serde_json::json!({"portNumber": "22"}));
        assert!(!plain.is_multiplexed("1.2.764.0"));
    }

    #[test]
    fn encryption_is_answered_unsupported_and_reported() {
        let request: HandshakeRequest = serde_json::from_str(
            r#"{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k"}},{"ActionType":"SessionType","ActionParameters":{"SessionType":"Standard_Stream","Properties":null}}]}"#,
        )
        .unwrap();
        let (response, outcome) = request.answer("1.2.764.0");
        assert!(matches!(outcome, Err(Error::Unsupported(text)) if text.contains("KMSEncryption")));
        assert_eq!(response.processed_client_actions[0].action_status, 3);
        assert_eq!(response.processed_client_actions[1].action_status, 1);
        assert!(matches!(
            response.check(),
            Err(Error::Refused { status: 3, .. })
        ));
    }

    #[test]
    fn nulls_of_go_are_empty() {
        let request: HandshakeRequest =
            serde_json::from_str(r#"{"AgentVersion":"1","RequestedClientActions":null}"#).unwrap();
        assert_eq!(request.session(), None);
        let complete: HandshakeComplete =
            serde_json::from_str(r#"{"HandshakeTimeToComplete":12,"CustomerMessage":null}"#)
                .unwrap();
        assert_eq!(
            complete,
            HandshakeComplete::new(Duration::from_nanos(12), "")
        );
    }
}
