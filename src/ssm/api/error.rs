//! Why calls fail, and what is to be done about it.

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use thiserror::Error;

use super::super::error::{Disposition, without_full_stop};
use super::Unavailable;
use crate::net;

type BoxError = Box<dyn StdError + Send + Sync>;

/// A call of an AWS API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// StartSession.
    Start,
    /// ResumeSession.
    Resume,
    /// TerminateSession.
    Terminate,
    /// DescribeInstanceInformation: the managed machines.
    DescribeManaged,
    /// GetConnectionStatus: whether sessions can be started now.
    ConnectionStatus,
    /// DescribeSessions: those that are open.
    DescribeSessions,
    /// DescribeInstances of EC2.
    DescribeInstances,
    /// SendSSHPublicKey of EC2 Instance Connect.
    SendKey,
    /// GetCallerIdentity of STS.
    CallerIdentity,
    /// AssumeRole of STS.
    AssumeRole,
}

impl Operation {
    /// All that is ever called.
    pub const ALL: [Self; 10] = [
        Self::Start,
        Self::Resume,
        Self::Terminate,
        Self::DescribeManaged,
        Self::ConnectionStatus,
        Self::DescribeSessions,
        Self::DescribeInstances,
        Self::SendKey,
        Self::CallerIdentity,
        Self::AssumeRole,
    ];

    /// The IAM action that a policy must allow, where the call needs one.
    pub fn permission(self) -> Option<&'static str> {
        Some(match self {
            Self::Start => "ssm:StartSession",
            Self::Resume => "ssm:ResumeSession",
            Self::Terminate => "ssm:TerminateSession",
            Self::DescribeManaged => "ssm:DescribeInstanceInformation",
            Self::ConnectionStatus => "ssm:GetConnectionStatus",
            Self::DescribeSessions => "ssm:DescribeSessions",
            Self::DescribeInstances => "ec2:DescribeInstances",
            Self::SendKey => "ec2-instance-connect:SendSSHPublicKey",
            // Anybody may ask who they are. A role is assumed as somebody else, for whom the role itself decides.
            Self::CallerIdentity | Self::AssumeRole => return None,
        })
    }

    /// The service that answers, as people call it.
    pub fn service(self) -> &'static str {
        match self {
            Self::DescribeInstances => "EC2",
            Self::SendKey => "EC2 Instance Connect",
            Self::CallerIdentity | Self::AssumeRole => "STS",
            _ => "Systems Manager",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "StartSession",
            Self::Resume => "ResumeSession",
            Self::Terminate => "TerminateSession",
            Self::DescribeManaged => "DescribeInstanceInformation",
            Self::ConnectionStatus => "GetConnectionStatus",
            Self::DescribeSessions => "DescribeSessions",
            Self::DescribeInstances => "DescribeInstances",
            Self::SendKey => "SendSSHPublicKey",
            Self::CallerIdentity => "GetCallerIdentity",
            Self::AssumeRole => "AssumeRole",
        })
    }
}

/// Why an API call failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No region is configured.
    #[error("no AWS region is configured")]
    MissingRegion,
    /// There is no such region.
    #[error("`{region}` is no AWS region")]
    UnknownRegion {
        /// What was given.
        region: String,
        /// What to do about it, with what may be meant.
        hint: String,
    },
    /// A source of credentials has none; its hint is about that source.
    #[error(transparent)]
    Credentials(#[from] Unavailable),
    /// No credentials were found in the whole chain.
    #[error("no AWS credentials found")]
    CredentialsMissing(#[source] BoxError),
    /// A source of credentials failed, such as an expired SSO login.
    #[error("AWS credentials could not be loaded")]
    CredentialsFailed(#[source] BoxError),
    /// The service says that the credentials have expired.
    #[error("AWS credentials have expired")]
    CredentialsExpired(#[source] BoxError),
    /// The service does not know the credentials, or the signature is wrong.
    #[error("AWS credentials were not accepted")]
    CredentialsInvalid(#[source] BoxError),
    /// The credentials do not permit the call.
    #[error("access denied for {operation}")]
    AccessDenied {
        /// The call.
        operation: Operation,
        /// What the service said.
        #[source]
        source: BoxError,
    },
    /// The target is unknown, offline, or in another account or region.
    #[error("target is not connected to Session Manager")]
    TargetNotConnected(#[source] BoxError),
    /// The session document does not exist or does not fit its parameters.
    #[error("session document was refused")]
    InvalidDocument(#[source] BoxError),
    /// The service does not know the SSM session any more.
    #[error("the SSM session no longer exists")]
    SessionGone(#[source] Option<BoxError>),
    /// Too many calls.
    #[error("{operation} was throttled")]
    Throttled {
        /// The call.
        operation: Operation,
        /// How long the service wants us to wait, if it says so.
        retry_after: Option<Duration>,
        /// What the service said.
        #[source]
        source: BoxError,
    },
    /// The service refuses the request as such.
    #[error("{operation} was refused ({code})")]
    Refused {
        /// The call.
        operation: Operation,
        /// The error code of the service.
        code: String,
        /// What the service said.
        #[source]
        source: BoxError,
    },
    /// The request cannot even be made, for example because of a malformed endpoint URL.
    #[error("the request to AWS is invalid")]
    InvalidRequest(#[source] BoxError),
    /// The service failed.
    #[error("{operation} failed in the service")]
    Service {
        /// The call.
        operation: Operation,
        /// How long the service wants us to wait, if it says so.
        retry_after: Option<Duration>,
        /// What the service said.
        #[source]
        source: BoxError,
    },
    /// The endpoint or a proxy on the way was not reached.
    #[error(transparent)]
    Network(#[from] net::Error),
    /// The endpoint gave no valid answer.
    #[error("the {} endpoint cannot be reached", operation.service())]
    Unreachable {
        /// The call.
        operation: Operation,
        /// What came instead of an answer.
        #[source]
        source: BoxError,
    },
    /// An answer without what it must contain.
    #[error("{operation} gave an answer without {field}")]
    Incomplete {
        /// The call.
        operation: Operation,
        /// What is missing.
        field: &'static str,
    },
}

impl Error {
    /// What recovery is left; see [`Disposition`].
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Network(error) if error.is_fatal() => Disposition::Fatal,
            Self::Network(_)
            | Self::Credentials(_)
            | Self::CredentialsMissing(_)
            | Self::CredentialsFailed(_)
            | Self::CredentialsExpired(_)
            | Self::CredentialsInvalid(_)
            | Self::Throttled { .. }
            | Self::Service { .. }
            | Self::Unreachable { .. }
            | Self::Incomplete { .. } => Disposition::Resume,
            Self::TargetNotConnected(_) | Self::SessionGone(_) => Disposition::Redial,
            Self::AccessDenied { operation, .. } | Self::Refused { operation, .. } => {
                match operation {
                    Operation::Resume => Disposition::Redial,
                    _ => Disposition::Fatal,
                }
            }
            Self::MissingRegion
            | Self::UnknownRegion { .. }
            | Self::InvalidDocument(_)
            | Self::InvalidRequest(_) => Disposition::Fatal,
        }
    }

    /// Whether the cause lies with the credentials, for AWS or for a proxy, which a person may renew at
    /// any time.
    pub fn is_credentials(&self) -> bool {
        if let Self::Network(error) = self {
            return error.is_proxy_authentication();
        }
        matches!(
            self,
            Self::Credentials(_)
                | Self::CredentialsMissing(_)
                | Self::CredentialsFailed(_)
                | Self::CredentialsExpired(_)
                | Self::CredentialsInvalid(_)
        )
    }

    /// Whether a policy denies the call in so many words, rather than that none allows it. Many such policies want an
    /// address of the company's network. Nothing but these words tells, which are IAM's for all services.
    pub(in crate::ssm) fn is_explicit_denial(&self) -> bool {
        matches!(self, Self::AccessDenied { source, .. } if source.to_string().contains("explicit deny"))
    }

    /// Whether it heals by itself: nobody has to change anything.
    pub fn is_passing(&self) -> bool {
        self.disposition() == Disposition::Resume && !self.is_credentials()
    }

    /// Whether the service may have done what it was asked for, and nobody knows: it was reached, and has not said.
    pub(in crate::ssm) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Incomplete { .. })
    }

    /// How long the service wants us to wait before the next call, if it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } | Self::Service { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What a person can do about it, if anything is known.
    pub fn hint(&self) -> Option<&str> {
        Some(match self {
            Self::MissingRegion => "pass --region, set AWS_REGION, or set a region in the profile",
            Self::UnknownRegion { hint, .. } => hint,
            Self::Credentials(unavailable) => unavailable.hint(),
            Self::CredentialsMissing(_) => {
                "pass --profile, set AWS_PROFILE, or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            Self::CredentialsFailed(_) => {
                "log in again (aws sso login) and see whether `aws sts get-caller-identity` works"
            }
            Self::CredentialsExpired(source) => match source.downcast_ref::<Unavailable>() {
                Some(unavailable) => unavailable.hint(),
                None => "renew them, for example with `aws sso login`",
            },
            Self::CredentialsInvalid(_) => {
                "check access key, secret, session token and the clock of this computer"
            }
            Self::AccessDenied {
                operation: Operation::Resume,
                ..
            } if self.is_explicit_denial() => {
                "a policy denies ssm:ResumeSession, perhaps from this network: see whether the VPN is up"
            }
            Self::AccessDenied { operation, .. } => match operation {
                Operation::Start => {
                    "the policy must allow ssm:StartSession on the target and the document"
                }
                Operation::Resume => "the policy must allow ssm:ResumeSession on the session",
                Operation::Terminate => "the policy must allow ssm:TerminateSession on the session",
                Operation::DescribeManaged => {
                    "the policy must allow ssm:DescribeInstanceInformation, or name the machine by its id (i-…)"
                }
                Operation::ConnectionStatus => "the policy must allow ssm:GetConnectionStatus",
                Operation::DescribeSessions => "the policy must allow ssm:DescribeSessions",
                Operation::DescribeInstances => "the policy must allow ec2:DescribeInstances",
                Operation::SendKey => {
                    "the policy must allow ec2-instance-connect:SendSSHPublicKey on the instance, with \
                     a condition on ec2:osuser that fits, if any; or log in with --identity FILE"
                }
                Operation::CallerIdentity => "a policy denies sts:GetCallerIdentity",
                Operation::AssumeRole => {
                    "the role's trust policy and the caller's own policies must allow sts:AssumeRole"
                }
            },
            Self::TargetNotConnected(_) => {
                "check the id, the region and the account, and that amazon-ssm-agent is running there"
            }
            Self::InvalidDocument(_) => "check the document's name, region and parameters",
            Self::Throttled { .. } => "too many calls for this account: wait a little",
            Self::InvalidRequest(_) => "check the region's name and the endpoint URL if one is set",
            Self::Network(error) => error.hint(),
            Self::Unreachable { operation, .. } => match operation {
                Operation::DescribeInstances => {
                    "check the network, the region's name, and AWS_ENDPOINT_URL_EC2 or AWS_ENDPOINT_URL if set"
                }
                Operation::SendKey => {
                    "check the network, the region's name, and AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT or \
                     AWS_ENDPOINT_URL if set"
                }
                Operation::CallerIdentity | Operation::AssumeRole => {
                    "check the network, the region's name, and AWS_ENDPOINT_URL_STS or AWS_ENDPOINT_URL if set"
                }
                _ => {
                    "check the network, the region's name, and AWS_ENDPOINT_URL_SSM or AWS_ENDPOINT_URL if set"
                }
            },
            Self::SessionGone(_)
            | Self::Refused { .. }
            | Self::Service { .. }
            | Self::Incomplete { .. } => return None,
        })
    }

    /// This error, with `renewal` for a hint if the credentials have expired.
    #[must_use]
    pub(super) fn renewed_by(self, renewal: String) -> Self {
        match self {
            Self::CredentialsExpired(source) => {
                let unavailable = Unavailable::new(source.to_string(), renewal);
                Self::CredentialsExpired(unavailable.into())
            }
            error => error,
        }
    }

    /// Sorts an error of the SDK by what is to be done about it.
    pub(crate) fn classify<E>(operation: Operation, error: SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        if let SdkError::ServiceError(service) = error {
            let status = service.raw().status().as_u16();
            let retry_after = retry_after(service.raw().headers());
            let error = service.into_err();
            let code = error.code().unwrap_or_default().to_owned();
            let source: BoxError = match error.message() {
                Some(message) => spoken(message).to_owned().into(),
                None => error.into(),
            };
            return Self::classify_answer(operation, status, retry_after, code, source);
        }
        if let Some(unavailable) = Unavailable::in_chain(&error) {
            return Self::Credentials(unavailable.clone());
        }
        if let Some(error) = net::Error::in_chain(&error) {
            return Self::Network(error.clone());
        }
        let response = error.raw_response();
        let is_failing = response.is_some_and(|response| response.status().is_server_error());
        let retry_after = response.and_then(|response| retry_after(response.headers()));
        match (credentials_error(&error), &error) {
            (Some(CredentialsError::CredentialsNotLoaded(_)), _) => {
                Self::CredentialsMissing(error.into())
            }
            (Some(_), _) => Self::CredentialsFailed(error.into()),
            (None, SdkError::ConstructionFailure(_)) => Self::InvalidRequest(error.into()),
            (None, _) if is_failing => Self::Service {
                operation,
                retry_after,
                source: error.into(),
            },
            (None, _) => Self::unanswered(operation, error),
        }
    }

    /// There was no answer, or none that can be read; the network is named where it is to blame.
    pub(crate) fn unanswered(operation: Operation, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        match net::Error::in_chain(&*source) {
            Some(error) => Self::Network(error.clone()),
            None => Self::Unreachable { operation, source },
        }
    }

    /// Sorts an error that the service itself has answered with, by its code and the HTTP status.
    pub(crate) fn classify_answer(
        operation: Operation,
        status: u16,
        retry_after: Option<Duration>,
        code: String,
        source: BoxError,
    ) -> Self {
        let throttled = |source| Self::Throttled {
            operation,
            retry_after,
            source,
        };
        let failing = |source| Self::Service {
            operation,
            retry_after,
            source,
        };
        match code.as_str() {
            "TargetNotConnected"
            | "TargetNotConnectedException"
            | "InvalidTarget"
            | "InvalidInstanceId" => Self::TargetNotConnected(source),
            "InvalidDocument" | "InvalidDocumentException" | "InvalidParameters" => {
                Self::InvalidDocument(source)
            }
            "DoesNotExistException" => Self::SessionGone(Some(source)),
            "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
                Self::CredentialsExpired(source)
            }
            "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "AuthFailure"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException" => Self::CredentialsInvalid(source),
            // AuthException is what EC2 Instance Connect says.
            "AccessDenied"
            | "AccessDeniedException"
            | "UnauthorizedOperation"
            | "AuthException" => Self::AccessDenied { operation, source },
            "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded" => throttled(source),
            "InternalServerError" | "InternalFailure" | "ServiceUnavailable" => failing(source),
            _ if status == 429 => throttled(source),
            _ if status >= 500 => failing(source),
            _ if code.is_empty() => Self::Unreachable { operation, source },
            _ => Self::Refused {
                operation,
                code,
                source,
            },
        }
    }
}

/// Whether the way out is among the causes of `error`.
pub(crate) fn blames_network(error: &(dyn StdError + 'static)) -> bool {
    net::Error::in_chain(error).is_some()
}

impl From<CredentialsError> for Error {
    fn from(error: CredentialsError) -> Self {
        if let Some(unavailable) = Unavailable::in_chain(&error) {
            return Self::Credentials(unavailable.clone());
        }
        match (net::Error::in_chain(&error), &error) {
            (_, CredentialsError::CredentialsNotLoaded(_)) => {
                Self::CredentialsMissing(error.into())
            }
            (Some(network), _) => Self::Network(network.clone()),
            (None, _) => Self::CredentialsFailed(error.into()),
        }
    }
}

/// The words of a service about an error, without the full stop.
///
/// One that does not like a signature may go on with the request as it should have been signed, the session token
/// included: that is not for anybody to read.
pub(crate) fn spoken(message: &str) -> &str {
    let end = message.find("The Canonical String");
    without_full_stop(&message[..end.unwrap_or(message.len())])
}

/// How long to wait as the service says: in AWS's own way in milliseconds, or in seconds or until a date (RFC 9110,
/// section 10.2.3), as proxies do. A date is by the clock of who sends it, and says nothing once it is over.
pub(crate) fn retry_after(headers: &Headers) -> Option<Duration> {
    let number = |name| headers.get(name)?.trim().parse().ok();
    let date = |name| -> Option<SystemTime> {
        let date = DateTime::from_str(headers.get(name)?.trim(), Format::HttpDate);
        date.ok()?.try_into().ok()
    };
    let until_date = || {
        let now = date("date").unwrap_or_else(SystemTime::now);
        date("retry-after")?.duration_since(now).ok()
    };
    number("x-amz-retry-after")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
        .or_else(until_date)
}

/// The error of the credentials chain among the causes of `error`.
fn credentials_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a CredentialsError> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref::<CredentialsError>() {
            return Some(found);
        }
        cause = current.source();
    }
    None
}
