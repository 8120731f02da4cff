//! What an agent is told to do: the `interactive_shell` message (sheet §9.3).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

/// A session to run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Task {
    pub(super) session_id: String,
    /// `Port`, `Standard_Stream`, …
    pub(super) session_type: String,
    /// The document's properties, placeholders replaced.
    pub(super) properties: Value,
}

/// Why a message is no task.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("the task is not the JSON it should be")]
    Json(#[from] serde_json::Error),
    #[error("document schema version {0:?} is not 1.0")]
    SchemaVersion(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    content: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    document_content: DocumentContent,
    session_id: String,
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentContent {
    schema_version: String,
    session_type: String,
    #[serde(default)]
    parameters: BTreeMap<String, Declaration>,
    #[serde(default)]
    properties: Value,
}

#[derive(Deserialize)]
struct Declaration {
    default: Option<Value>,
}

impl Task {
    /// Reads the payload of an `interactive_shell` message.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Error> {
        let envelope: Envelope = serde_json::from_slice(payload)?;
        let content: Content = serde_json::from_str(&envelope.content)?;
        let document = content.document_content;
        if document.schema_version != "1.0" {
            return Err(Error::SchemaVersion(document.schema_version));
        }
        let mut values = content.parameters;
        for (name, declaration) in document.parameters {
            if let Some(default) = declaration.default {
                values.entry(name).or_insert(default);
            }
        }
        Ok(Self {
            session_id: content.session_id,
            session_type: document.session_type,
            properties: substitute(document.properties, &values),
        })
    }
}

/// Replaces `{{ name }}` in every string of `value`.
///
/// A placeholder that is the whole string is replaced by the raw value, whatever its type.
fn substitute(value: Value, values: &BTreeMap<String, Value>) -> Value {
    match value {
        Value::String(text) => substitute_text(text, values),
        Value::Array(items) => items
            .into_iter()
            .map(|item| substitute(item, values))
            .collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, member)| (name, substitute(member, values)))
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

fn substitute_text(text: String, values: &BTreeMap<String, Value>) -> Value {
    let mut result = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            break;
        };
        let Some(value) = values.get(name.trim()) else {
            // Not one of ours: stays as it is.
            result.push_str(&rest[..rest.len() - after.len()]);
            rest = after;
            continue;
        };
        if before.is_empty() && after.is_empty() && result.is_empty() {
            return value.clone();
        }
        result.push_str(before);
        match value {
            Value::String(value) => result.push_str(value),
            other => result.push_str(&other.to_string()),
        }
        rest = after;
    }
    result.push_str(rest);
    result.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As in sheet §9.3, shortened.
    const PAYLOAD: &str = r#"{"SchemaVersion":1,"TaskId":"s-1","Topic":"aws.ssm.startSession","Content":"{\"DocumentName\":\"AWS-StartPortForwardingSession\",\"DocumentContent\":{\"schemaVersion\":\"1.0\",\"description\":\"x\",\"sessionType\":\"Port\",\"inputs\":{},\"parameters\":{\"portNumber\":{\"type\":\"String\",\"default\":\"80\"},\"localPortNumber\":{\"type\":\"String\",\"default\":\"0\"}},\"properties\":{\"portNumber\":\"{{ portNumber }}\",\"localPortNumber\":\"{{ localPortNumber }}\",\"type\":\"LocalPortForwarding\"}},\"SessionId\":\"s-1\",\"Parameters\":{\"portNumber\":\"8080\"},\"RunAsUser\":\"\",\"SessionOwner\":\"arn:aws:iam::111122223333:user/x\"}"}"#;

    #[test]
    fn the_sheets_example_is_understood() {
        let task = Task::parse(PAYLOAD.as_bytes()).unwrap();
        assert_eq!(task.session_id, "s-1");
        assert_eq!(task.session_type, "Port");
        assert_eq!(
            task.properties,
            json!({"portNumber": "8080", "localPortNumber": "0", "type": "LocalPortForwarding"})
        );
    }

    #[test]
    fn placeholders_are_replaced() {
        let values = BTreeMap::from([("a".into(), json!(["x"])), ("b".into(), json!("y"))]);
        for (text, replaced) in [
            ("{{ a }}", json!(["x"])),
            ("{{b}}", json!("y")),
            ("-{{ b }}-{{b}}", json!("-y-y")),
            ("{{ c }}{{b}}", json!("{{ c }}y")),
            ("{{ b", json!("{{ b")),
            ("", json!("")),
        ] {
            assert_eq!(substitute(json!(text), &values), replaced, "{text}");
        }
    }

    #[test]
    fn other_schemas_are_refused() {
        let payload = PAYLOAD.replace(r#"schemaVersion\":\"1.0"#, r#"schemaVersion\":\"2.2"#);
        assert!(matches!(
            Task::parse(payload.as_bytes()),
            Err(Error::SchemaVersion(_))
        ));
        assert!(Task::parse(b"{}").is_err());
    }
}
