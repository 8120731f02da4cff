//! The calls of an SSM session: StartSession, ResumeSession, TerminateSession, and DescribeSessions.
//!
//! Credentials are resolved by the SDK's chain at each call, so that a session that outlives its
//! temporary credentials can still be resumed. Calls are not repeated here: a StartSession whose
//! answer was lost would leave a session behind, and resuming has a pace of its own.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_ssm::Client;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ssm::types::SessionState;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::error::{Disposition, without_full_stop};
use super::secret::Secret;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// A `credential_process` may hang, and nobody else limits it.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);
/// Sessions started at the same instant stall for seconds in the agent; these far apart they do not.
const START_SPACING: Duration = Duration::from_millis(50);

/// How far an account's list of sessions is read: 10 000 sessions at 200 a page.
const LISTED_PAGES: usize = 50;

type BoxError = Box<dyn StdError + Send + Sync>;

/// A call of the SSM API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// StartSession.
    Start,
    /// ResumeSession.
    Resume,
    /// TerminateSession.
    Terminate,
    /// DescribeSessions.
    Describe,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "StartSession",
            Self::Resume => "ResumeSession",
            Self::Terminate => "TerminateSession",
            Self::Describe => "DescribeSessions",
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
    #[error("the request to Systems Manager is invalid")]
    InvalidRequest(#[source] BoxError),
    /// The service failed.
    #[error("{operation} failed in the service")]
    Service {
        /// The call.
        operation: Operation,
        /// What the service said.
        #[source]
        source: BoxError,
    },
    /// The endpoint was not reached or gave no valid answer.
    #[error("the Systems Manager endpoint cannot be reached")]
    Unreachable(#[source] BoxError),
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
            Self::CredentialsMissing(_)
            | Self::CredentialsFailed(_)
            | Self::CredentialsExpired(_)
            | Self::CredentialsInvalid(_)
            | Self::Throttled { .. }
            | Self::Service { .. }
            | Self::Unreachable(_)
            | Self::Incomplete { .. } => Disposition::Resume,
            Self::TargetNotConnected(_) | Self::SessionGone(_) => Disposition::Redial,
            Self::AccessDenied { operation, .. } | Self::Refused { operation, .. } => {
                match operation {
                    Operation::Resume => Disposition::Redial,
                    _ => Disposition::Fatal,
                }
            }
            Self::MissingRegion | Self::InvalidDocument(_) | Self::InvalidRequest(_) => {
                Disposition::Fatal
            }
        }
    }

    /// Whether the cause lies with the credentials, which a person may renew at any time.
    pub fn is_credentials(&self) -> bool {
        matches!(
            self,
            Self::CredentialsMissing(_)
                | Self::CredentialsFailed(_)
                | Self::CredentialsExpired(_)
                | Self::CredentialsInvalid(_)
        )
    }

    /// What a person can do about it, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::MissingRegion => "pass --region, set AWS_REGION, or set a region in the profile",
            Self::CredentialsMissing(_) => {
                "pass --profile, set AWS_PROFILE, or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            Self::CredentialsFailed(_) => {
                "log in again (aws sso login) and see whether `aws sts get-caller-identity` works"
            }
            Self::CredentialsExpired(_) => "renew them, for example with `aws sso login`",
            Self::CredentialsInvalid(_) => {
                "check access key, secret, session token and the clock of this computer"
            }
            Self::AccessDenied { operation, .. } => match operation {
                Operation::Start => {
                    "the policy must allow ssm:StartSession on the target and the document"
                }
                Operation::Resume => "the policy must allow ssm:ResumeSession on the session",
                Operation::Terminate => "the policy must allow ssm:TerminateSession on the session",
                Operation::Describe => "the policy must allow ssm:DescribeSessions",
            },
            Self::TargetNotConnected(_) => {
                "check the id, the region and the account, and that amazon-ssm-agent is running there"
            }
            Self::InvalidDocument(_) => "check the document's name, region and parameters",
            Self::Throttled { .. } => "too many calls for this account: wait a little",
            Self::InvalidRequest(_) => "check the region's name and the endpoint URL if one is set",
            Self::Unreachable(_) => {
                "check the network, the region's name, and AWS_ENDPOINT_URL_SSM or AWS_ENDPOINT_URL if set"
            }
            Self::SessionGone(_)
            | Self::Refused { .. }
            | Self::Service { .. }
            | Self::Incomplete { .. } => return None,
        })
    }

    /// Sorts an error of the SDK by what is to be done about it.
    fn classify<E>(operation: Operation, error: SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        if let SdkError::ServiceError(service) = error {
            let status = service.raw().status().as_u16();
            return Self::classify_answer(operation, status, service.into_err());
        }
        let is_failing = error
            .raw_response()
            .is_some_and(|response| response.status().is_server_error());
        match (credentials_error(&error), &error) {
            (Some(CredentialsError::CredentialsNotLoaded(_)), _) => {
                Self::CredentialsMissing(error.into())
            }
            (Some(_), _) => Self::CredentialsFailed(error.into()),
            (None, SdkError::ConstructionFailure(_)) => Self::InvalidRequest(error.into()),
            (None, _) if is_failing => Self::Service {
                operation,
                source: error.into(),
            },
            (None, _) => Self::Unreachable(error.into()),
        }
    }

    fn classify_answer<E>(operation: Operation, status: u16, error: E) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let code = error.code().unwrap_or_default().to_owned();
        let source: BoxError = match error.message() {
            Some(message) => without_full_stop(message).to_owned().into(),
            None => error.into(),
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
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException" => Self::CredentialsInvalid(source),
            "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
                Self::AccessDenied { operation, source }
            }
            "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded" => Self::Throttled { operation, source },
            "InternalServerError" | "InternalFailure" | "ServiceUnavailable" => {
                Self::Service { operation, source }
            }
            _ if status == 429 => Self::Throttled { operation, source },
            _ if status >= 500 => Self::Service { operation, source },
            _ if code.is_empty() => Self::Unreachable(source),
            _ => Self::Refused {
                operation,
                code,
                source,
            },
        }
    }
}

/// Where a WebSocket may be opened, once.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// Names the SSM session in later calls.
    pub session_id: String,
    /// StreamUrl; contains routing data, and sometimes a signature.
    pub stream_url: Secret,
    /// TokenValue.
    pub token: Secret,
}

impl Ticket {
    /// Whether the WebSocket goes to this very machine: it is plain, and plain ones are opened to
    /// loopback only.
    pub fn is_local(&self) -> bool {
        self.stream_url.expose().starts_with("ws://")
    }
}

/// The SSM API in one region, as one identity.
#[derive(Debug, Clone)]
pub struct Ssm {
    client: Client,
    credentials: SharedCredentialsProvider,
    region: String,
    last_start: Arc<Mutex<Option<Instant>>>,
}

impl Ssm {
    /// Sets up from the usual AWS environment: variables, profiles, endpoint overrides.
    ///
    /// # Errors
    /// [`Error::MissingRegion`]; credentials are looked for at the first call.
    pub async fn from_env() -> Result<Self, Error> {
        Self::from_loader(aws_config::defaults(BehaviorVersion::latest())).await
    }

    /// Sets up from `loader`, on which profile, region or endpoint may have been chosen.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub async fn from_loader(loader: aws_config::ConfigLoader) -> Result<Self, Error> {
        Self::new(&loader.load().await)
    }

    /// Sets up from `config`; only its time-outs and retries are replaced by ours.
    ///
    /// # Errors
    /// [`Error::MissingRegion`], or [`Error::CredentialsMissing`] without any provider.
    pub fn new(config: &SdkConfig) -> Result<Self, Error> {
        let region = config.region().ok_or(Error::MissingRegion)?.to_string();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        let service = aws_sdk_ssm::config::Builder::from(config)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled())
            .build();
        Ok(Self {
            client: Client::from_conf(service),
            credentials: config
                .credentials_provider()
                .ok_or_else(|| Error::CredentialsMissing("no provider is configured".into()))?,
            region,
            last_start: Arc::default(),
        })
    }

    /// The region that calls go to and that WebSockets are signed for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The credentials of this moment, for signing a WebSocket.
    ///
    /// There is always a provider, and the API calls before were signed with its credentials: that
    /// it has none now is a failure to wait out, not a reason to go on unsigned.
    ///
    /// # Errors
    /// [`Error::CredentialsMissing`] or [`Error::CredentialsFailed`], within 10 s in any case.
    pub async fn credentials(&self) -> Result<Credentials, Error> {
        self.credentials_within(CREDENTIALS_TIMEOUT).await
    }

    async fn credentials_within(&self, limit: Duration) -> Result<Credentials, Error> {
        match timeout(limit, self.credentials.provide_credentials()).await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(error @ CredentialsError::CredentialsNotLoaded(_))) => {
                Err(Error::CredentialsMissing(error.into()))
            }
            Ok(Err(error)) => Err(Error::CredentialsFailed(error.into())),
            Err(elapsed) => Err(Error::CredentialsFailed(elapsed.into())),
        }
    }

    /// Starts an SSM session. The agent waits 15 s for us from now on.
    ///
    /// Calls are spaced by 50 ms, which agents need.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub async fn start_session(
        &self,
        target: &str,
        document: Option<&str>,
        parameters: &[(String, String)],
        reason: Option<&str>,
    ) -> Result<Ticket, Error> {
        self.space_starts().await;
        let parameters: HashMap<String, Vec<String>> = parameters
            .iter()
            .map(|(name, value)| (name.clone(), vec![value.clone()]))
            .collect();
        let answer = self
            .client
            .start_session()
            .target(target)
            .set_document_name(document.map(str::to_owned))
            .set_parameters((!parameters.is_empty()).then_some(parameters))
            .set_reason(reason.map(str::to_owned))
            .send()
            .await
            .map_err(|error| Error::classify(Operation::Start, error))?;
        let missing = |field| Error::Incomplete {
            operation: Operation::Start,
            field,
        };
        Ok(Ticket {
            session_id: answer.session_id.ok_or(missing("SessionId"))?,
            stream_url: Secret::new(answer.stream_url.ok_or(missing("StreamUrl"))?),
            token: Secret::new(answer.token_value.ok_or(missing("TokenValue"))?),
        })
    }

    /// Asks for a new WebSocket of a session; `stream_url` is used again when none is given.
    ///
    /// # Errors
    /// [`Error::SessionGone`] also when the answer has no token, which means the same.
    pub async fn resume_session(
        &self,
        session_id: &str,
        stream_url: &Secret,
    ) -> Result<Ticket, Error> {
        let answer = self
            .client
            .resume_session()
            .session_id(session_id)
            .send()
            .await
            .map_err(|error| Error::classify(Operation::Resume, error))?;
        let token = answer.token_value.filter(|token| !token.is_empty());
        let stream_url = match answer.stream_url.filter(|url| !url.is_empty()) {
            Some(url) => Secret::new(url),
            None => stream_url.clone(),
        };
        Ok(Ticket {
            session_id: session_id.to_owned(),
            stream_url,
            token: Secret::new(token.ok_or(Error::SessionGone(None))?),
        })
    }

    /// Ends an SSM session; one that is gone already counts as ended.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub async fn terminate_session(&self, session_id: &str) -> Result<(), Error> {
        let answer = self
            .client
            .terminate_session()
            .session_id(session_id)
            .send()
            .await
            .map_err(|error| Error::classify(Operation::Terminate, error));
        match answer {
            Ok(_) | Err(Error::SessionGone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The ids of open sessions that were started for `reason`; no more than 50 pages are looked through.
    ///
    /// # Errors
    /// [`enum@Error`]. DescribeSessions is a permission of its own, which not everybody has who may start
    /// sessions.
    pub async fn sessions_started_for(&self, reason: &str) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        let mut page = None;
        for _ in 0..LISTED_PAGES {
            let answer = self
                .client
                .describe_sessions()
                .state(SessionState::Active)
                .max_results(200)
                .set_next_token(page)
                .send()
                .await
                .map_err(|error| Error::classify(Operation::Describe, error))?;
            let sessions = answer.sessions.unwrap_or_default().into_iter();
            let ours = sessions.filter(|session| session.reason.as_deref() == Some(reason));
            found.extend(ours.filter_map(|session| session.session_id));
            page = answer.next_token.filter(|token| !token.is_empty());
            if page.is_none() {
                break;
            }
        }
        Ok(found)
    }

    async fn space_starts(&self) {
        let mut last = self.last_start.lock().await;
        if let Some(last) = *last {
            sleep_until(last + START_SPACING).await;
        }
        *last = Some(Instant::now());
    }
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

#[cfg(test)]
#[path = "api_tests.rs"]
pub(in crate::ssm) mod tests;
