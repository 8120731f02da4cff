//! The service's errors, in their wire shape.

use std::fmt;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::emulator::fault::plan::Answer;

/// An error as the service answers it: HTTP status, `__type`, and a message.
#[derive(Debug)]
pub(crate) struct ApiError {
    kind: Kind,
    message: String,
    status: StatusCode,
    retry_after: Option<u32>,
}

/// The errors' names in the service's model, and those common to all AWS services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    AccessDenied,
    Auth,
    BadRequest,
    DoesNotExist,
    Ec2InstanceNotFound,
    Ec2InstanceStateInvalid,
    ExpiredToken,
    InternalServer,
    InvalidArgs,
    InvalidDocument,
    InvalidFilterKey,
    InvalidFilterValue,
    InvalidNextToken,
    InvalidSignature,
    Serialization,
    Service,
    TargetNotConnected,
    Throttling,
    UnknownOperation,
    UnrecognizedClient,
    Validation,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDeniedException",
            Self::Auth => "AuthException",
            Self::BadRequest => "BadRequest",
            Self::DoesNotExist => "DoesNotExistException",
            Self::Ec2InstanceNotFound => "EC2InstanceNotFoundException",
            Self::Ec2InstanceStateInvalid => "EC2InstanceStateInvalidException",
            Self::ExpiredToken => "ExpiredTokenException",
            Self::InternalServer => "InternalServerError",
            Self::InvalidArgs => "InvalidArgsException",
            Self::InvalidDocument => "InvalidDocument",
            Self::InvalidFilterKey => "InvalidFilterKey",
            Self::InvalidFilterValue => "InvalidInstanceInformationFilterValue",
            Self::InvalidNextToken => "InvalidNextToken",
            Self::InvalidSignature => "InvalidSignatureException",
            Self::Serialization => "SerializationException",
            Self::Service => "ServiceException",
            Self::TargetNotConnected => "TargetNotConnected",
            Self::Throttling => "ThrottlingException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::UnrecognizedClient => "UnrecognizedClientException",
            Self::Validation => "ValidationException",
        }
    }

    /// Name of the message's field: errors of SSM's own model spell it with a capital.
    fn message_field(self) -> &'static str {
        match self {
            Self::Auth
            | Self::DoesNotExist
            | Self::Ec2InstanceNotFound
            | Self::Ec2InstanceStateInvalid
            | Self::InternalServer
            | Self::InvalidArgs
            | Self::InvalidDocument
            | Self::InvalidNextToken
            | Self::Service
            | Self::TargetNotConnected => "Message",
            _ => "message",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl ApiError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            status: StatusCode::BAD_REQUEST,
            retry_after: None,
        }
    }

    /// The error that a fault asks for; nothing where it asks for a success that is none.
    pub(crate) fn injected(answer: Answer) -> Option<Self> {
        let (kind, message) = match answer {
            Answer::Throttled { .. } => (Kind::Throttling, "Rate exceeded"),
            Answer::Failed { .. } => (
                Kind::InternalServer,
                "An error occurred on the server side.",
            ),
            Answer::Expired => (
                Kind::ExpiredToken,
                "The security token included in the request is expired",
            ),
            Answer::Denied => (
                Kind::AccessDenied,
                "User: arn:aws:iam::000000000000:user/emulator is not authorized to perform this action",
            ),
            Answer::DoesNotExist => (Kind::DoesNotExist, "The session does not exist."),
            Answer::TargetNotConnected => {
                (Kind::TargetNotConnected, "The target is not connected.")
            }
            Answer::NoToken => return None,
        };
        let mut error = Self::new(kind, message);
        match answer {
            Answer::Throttled { retry_after } => error.retry_after = retry_after,
            Answer::Failed { status } => {
                error.status =
                    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            }
            _ => {}
        }
        Some(error)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let body = json!({
            "__type": self.kind.name(),
            self.kind.message_field(): self.message,
        });
        let mut response = self.respond(self.status, body.to_string());
        response.headers_mut().insert(
            "x-amzn-errortype",
            HeaderValue::from_static(self.kind.name()),
        );
        response
    }

    /// An answer with a status and a body in the words of another service.
    pub(crate) fn respond(&self, status: StatusCode, body: String) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        if let Some(seconds) = self.retry_after {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
