//! Payload types and the bodies that are neither stream data nor handshake.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Value of MessageSchemaVersion in every JSON body.
pub const MESSAGE_SCHEMA_VERSION: &str = "1.0";

/// A payload is not what its type promises.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Not the JSON object expected.
    #[error("payload is not valid JSON of its kind")]
    Json(#[from] serde_json::Error),
    /// A flag is four bytes.
    #[error("flag payload has {0} bytes instead of 4")]
    FlagLength(usize),
}

/// What the payload of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadType {
    /// 0: acknowledgements and other messages outside the sequence.
    Undefined,
    /// 1: stream bytes, both ways.
    Output,
    /// 2: declared and unused.
    Error,
    /// 3: size of the terminal, [`Size`].
    Size,
    /// 4: declared and unused.
    Parameter,
    /// 5: agent to client.
    HandshakeRequest,
    /// 6: client to agent.
    HandshakeResponse,
    /// 7: agent to client; the stream is open.
    HandshakeComplete,
    /// 8: agent to client, encrypted sessions only.
    EncChallengeRequest,
    /// 9: client to agent, encrypted sessions only.
    EncChallengeResponse,
    /// 10: a [`Flag`].
    Flag,
    /// 11: standard error of a command.
    StdErr,
    /// 12: exit status of a command, as text.
    ExitCode,
    /// Anything else.
    Other(u32),
}

impl PayloadType {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::Undefined => 0,
            Self::Output => 1,
            Self::Error => 2,
            Self::Size => 3,
            Self::Parameter => 4,
            Self::HandshakeRequest => 5,
            Self::HandshakeResponse => 6,
            Self::HandshakeComplete => 7,
            Self::EncChallengeRequest => 8,
            Self::EncChallengeResponse => 9,
            Self::Flag => 10,
            Self::StdErr => 11,
            Self::ExitCode => 12,
            Self::Other(code) => code,
        }
    }

    /// The type of a number from the wire.
    pub fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Undefined,
            1 => Self::Output,
            2 => Self::Error,
            3 => Self::Size,
            4 => Self::Parameter,
            5 => Self::HandshakeRequest,
            6 => Self::HandshakeResponse,
            7 => Self::HandshakeComplete,
            8 => Self::EncChallengeRequest,
            9 => Self::EncChallengeResponse,
            10 => Self::Flag,
            11 => Self::StdErr,
            12 => Self::ExitCode,
            code => Self::Other(code),
        }
    }
}

/// Payload of [`PayloadType::Flag`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// 1: the client closed the connection of a plain Port session.
    DisconnectToPort,
    /// 2: the client ends the SSM session.
    TerminateSession,
    /// 3: the agent could not connect; which stream this is about is not said.
    ConnectToPortError,
    /// Anything else.
    Other(u32),
}

impl Flag {
    /// The four bytes on the wire.
    pub fn encode(self) -> [u8; 4] {
        let code: u32 = match self {
            Self::DisconnectToPort => 1,
            Self::TerminateSession => 2,
            Self::ConnectToPortError => 3,
            Self::Other(code) => code,
        };
        code.to_be_bytes()
    }

    /// Decodes the payload of a flag message.
    ///
    /// # Errors
    /// [`Error::FlagLength`] unless there are four bytes.
    pub fn decode(payload: &[u8]) -> Result<Self, Error> {
        let bytes = <[u8; 4]>::try_from(payload).map_err(|_| Error::FlagLength(payload.len()))?;
        Ok(match u32::from_be_bytes(bytes) {
            1 => Self::DisconnectToPort,
            2 => Self::TerminateSession,
            3 => Self::ConnectToPortError,
            code => Self::Other(code),
        })
    }
}

/// Payload of [`PayloadType::Size`]; the agent keeps 16 bits of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns of the terminal.
    pub cols: u32,
    /// Rows of the terminal.
    pub rows: u32,
}

/// Payload of `channel_closed`: the real end of an SSM session.
///
/// Keys that are missing read as empty: the message means the same without them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ChannelClosed {
    /// Identifier of the message, as text.
    pub message_id: String,
    /// When the session ended, as text.
    pub created_date: String,
    /// Whom the message is for.
    pub destination_id: String,
    /// The SSM session that is over.
    pub session_id: String,
    /// `channel_closed`.
    pub message_type: String,
    /// 1.
    pub schema_version: i64,
    /// Error or exit text for the user; may be empty.
    pub output: String,
}

/// Payload of `agent_session_state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentSessionState {
    /// 1.
    pub schema_version: i64,
    /// `Connected` or `Terminating`.
    pub session_state: String,
    /// The SSM session spoken of.
    pub session_id: String,
}

/// First, and only textual, WebSocket message of the client on a data channel.
///
/// There is no reply: success is that messages start to arrive.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OpenDataChannelInput {
    /// [`MESSAGE_SCHEMA_VERSION`].
    pub message_schema_version: String,
    /// Fresh for every opening.
    pub request_id: String,
    /// From StartSession or ResumeSession; a secret.
    pub token_value: String,
    /// The same for the life of the SSM session.
    #[serde(default)]
    pub client_id: String,
    /// Version of the client; the agent chooses behaviour by the one in the handshake.
    #[serde(default)]
    pub client_version: String,
}

impl std::fmt::Debug for OpenDataChannelInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenDataChannelInput")
            .field("request_id", &self.request_id)
            .field("token_value", &"[redacted]")
            .field("client_id", &self.client_id)
            .field("client_version", &self.client_version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_types_survive_their_codes() {
        for code in 0..20 {
            assert_eq!(PayloadType::from_code(code).code(), code);
        }
        assert_eq!(PayloadType::from_code(5), PayloadType::HandshakeRequest);
        assert_eq!(PayloadType::from_code(261), PayloadType::Other(261));
    }

    #[test]
    fn flags_are_big_endian() {
        assert_eq!(Flag::ConnectToPortError.encode(), [0, 0, 0, 3]);
        assert_eq!(Flag::decode(&[0, 0, 0, 2]).unwrap(), Flag::TerminateSession);
        assert!(Flag::decode(&[0, 0, 2]).is_err());
    }

    #[test]
    fn size_is_lower_case_json() {
        let size = Size { cols: 80, rows: 24 };
        let json = serde_json::to_string(&size).unwrap();
        assert_eq!(json, r#"{"cols":80,"rows":24}"#);
    }

    #[test]
    fn channel_closed_reads_what_the_service_writes_and_less() {
        let closed: ChannelClosed = serde_json::from_str(
            r#"{"MessageId":"m","CreatedDate":"d","DestinationId":"x","SessionId":"s","MessageType":"channel_closed","SchemaVersion":1,"Output":"bye","New":[1]}"#,
        )
        .unwrap();
        assert_eq!((closed.output.as_str(), closed.schema_version), ("bye", 1));
        let closed: ChannelClosed = serde_json::from_str("{}").unwrap();
        assert_eq!(closed, ChannelClosed::default());
    }

    #[test]
    fn the_opening_has_the_official_keys_and_hides_its_token() {
        let open = OpenDataChannelInput {
            message_schema_version: MESSAGE_SCHEMA_VERSION.into(),
            request_id: "r".into(),
            token_value: "secret".into(),
            client_id: "c".into(),
            client_version: "1.2.764.0".into(),
        };
        assert_eq!(
            serde_json::to_string(&open).unwrap(),
            r#"{"MessageSchemaVersion":"1.0","RequestId":"r","TokenValue":"secret","ClientId":"c","ClientVersion":"1.2.764.0"}"#
        );
        assert!(!format!("{open:?}").contains("secret"));
    }
}
