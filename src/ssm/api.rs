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
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::http::Headers;
use aws_types::service_config::ServiceConfigKey;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::error::{Disposition, without_full_stop};
use super::secret::Secret;
use super::websocket::{Caller, Gateways};
use crate::net::{self, Destination, Dialler, HttpClient};

/// Only keeps the SDK's shorter one away: the dialler has limits of its own, and names what did not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(13);
/// For a call, with its repetitions where it has any.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// A `credential_process` may hang, and nobody else limits it.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);
/// Sessions started at the same instant stall for seconds in the agent; these far apart they do not.
const START_SPACING: Duration = Duration::from_millis(50);

/// Systems Manager in AWS's models.
const SERVICE_ID: &str = "SSM";

/// How far an account's list of sessions is read: 10 000 sessions at 200 a page.
const LISTED_PAGES: usize = 50;

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
}

impl Operation {
    /// The service that answers, as people call it.
    pub fn service(self) -> &'static str {
        match self {
            Self::DescribeInstances => "EC2",
            Self::SendKey => "EC2 Instance Connect",
            Self::CallerIdentity => "STS",
            _ => "Systems Manager",
        }
    }

    /// The variable that names another endpoint of the service.
    fn endpoint_variable(self) -> &'static str {
        match self {
            Self::DescribeInstances => "AWS_ENDPOINT_URL_EC2",
            Self::SendKey => "AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT",
            Self::CallerIdentity => "AWS_ENDPOINT_URL_STS",
            _ => "AWS_ENDPOINT_URL_SSM",
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
            Self::MissingRegion | Self::InvalidDocument(_) | Self::InvalidRequest(_) => {
                Disposition::Fatal
            }
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
            Self::CredentialsMissing(_)
                | Self::CredentialsFailed(_)
                | Self::CredentialsExpired(_)
                | Self::CredentialsInvalid(_)
        )
    }

    /// How long the service wants us to wait before the next call, if it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } | Self::Service { retry_after, .. } => *retry_after,
            _ => None,
        }
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
            },
            Self::TargetNotConnected(_) => {
                "check the id, the region and the account, and that amazon-ssm-agent is running there"
            }
            Self::InvalidDocument(_) => "check the document's name, region and parameters",
            Self::Throttled { .. } => "too many calls for this account: wait a little",
            Self::InvalidRequest(_) => "check the region's name and the endpoint URL if one is set",
            Self::Network(error) => error.hint(),
            Self::Unreachable { operation, .. } => match operation.endpoint_variable() {
                "AWS_ENDPOINT_URL_SSM" => {
                    "check the network, the region's name, and AWS_ENDPOINT_URL_SSM or AWS_ENDPOINT_URL if set"
                }
                "AWS_ENDPOINT_URL_EC2" => {
                    "check the network, the region's name, and AWS_ENDPOINT_URL_EC2 or AWS_ENDPOINT_URL if set"
                }
                _ => "check the network, the region's name, and AWS_ENDPOINT_URL if set",
            },
            Self::SessionGone(_)
            | Self::Refused { .. }
            | Self::Service { .. }
            | Self::Incomplete { .. } => return None,
        })
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
                Some(message) => without_full_stop(message).to_owned().into(),
                None => error.into(),
            };
            return Self::classify_answer(operation, status, retry_after, code, source);
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
    config: Arc<SdkConfig>,
    client: Client,
    credentials: SharedCredentialsProvider,
    region: String,
    dialler: Arc<Dialler>,
    gateways: Gateways,
    last_start: Arc<Mutex<Option<Instant>>>,
}

impl Ssm {
    /// Sets up from the usual AWS environment: variables, profiles, endpoint overrides, proxies.
    ///
    /// # Errors
    /// [`Error::MissingRegion`]; credentials are looked for at the first call.
    pub async fn from_env() -> Result<Self, Error> {
        Self::from_loader(aws_config::defaults(BehaviorVersion::latest())).await
    }

    /// Sets up from `loader`, on which profile, region or endpoint may have been chosen.
    ///
    /// The HTTP client is ours, so that sources of credentials find the same way out.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub async fn from_loader(loader: aws_config::ConfigLoader) -> Result<Self, Error> {
        let dialler = Arc::new(Dialler::from_env());
        let loader = loader.http_client(HttpClient::new(Arc::clone(&dialler)));
        Self::with_dialler(loader.load().await, dialler)
    }

    /// Sets up from `config`; its time-outs and retries are replaced by ours, and so is a lacking HTTP
    /// client.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env), or [`Error::CredentialsMissing`] without any provider.
    pub fn new(config: &SdkConfig) -> Result<Self, Error> {
        let dialler = Arc::new(Dialler::from_env());
        let client = config.http_client();
        let client =
            client.unwrap_or_else(|| SharedHttpClient::new(HttpClient::new(Arc::clone(&dialler))));
        let config = config.clone().into_builder().http_client(client).build();
        Self::with_dialler(config, dialler)
    }

    fn with_dialler(config: SdkConfig, dialler: Arc<Dialler>) -> Result<Self, Error> {
        let region = config.region().ok_or(Error::MissingRegion)?.to_string();
        if let Some(bundle) = setting(&config, SERVICE_ID, "AWS_CA_BUNDLE", "ca_bundle") {
            dialler.trust(bundle.into());
        }
        let service = aws_sdk_ssm::config::Builder::from(&config)
            .timeout_config(timeouts())
            .retry_config(RetryConfig::disabled())
            .build();
        Ok(Self {
            client: Client::from_conf(service),
            credentials: config
                .credentials_provider()
                .ok_or_else(|| Error::CredentialsMissing("no provider is configured".into()))?,
            region,
            dialler,
            gateways: Gateways {
                api_host: api_host(&config),
                replacement: None,
            },
            last_start: Arc::default(),
            config: Arc::new(config),
        })
    }

    /// Opens WebSockets at `endpoint`, keeping path and query of every StreamUrl: for VPC endpoints
    /// whose private DNS names are not in use.
    #[must_use]
    pub fn with_message_endpoint(mut self, endpoint: Destination) -> Self {
        self.gateways.replacement = Some(endpoint);
        self
    }

    /// What opening a WebSocket takes, but for the credentials.
    pub(super) fn caller(&self) -> Caller<'_> {
        Caller {
            dialler: &self.dialler,
            gateways: &self.gateways,
            region: &self.region,
        }
    }

    /// The client, for calls that have no place here: without retries, and with our time-outs.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What it was set up from, with the HTTP client in use: for services beside Systems Manager.
    pub(crate) fn config(&self) -> &SdkConfig {
        &self.config
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
                .map_err(|error| Error::classify(Operation::DescribeSessions, error))?;
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

/// How long a call to any service may take, from connecting to the answer.
pub(crate) fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_timeout(CALL_TIMEOUT)
        .build()
}

/// The endpoint URL that the configuration names for the service `id` of AWS's models.
///
/// One set in code wins, then the service's own variable or profile key, then `AWS_ENDPOINT_URL`: as in the
/// SDK's clients.
pub(crate) fn configured_endpoint(config: &SdkConfig, id: &str) -> Option<String> {
    let general = || config.endpoint_url().map(str::to_owned);
    if config.get_origin("endpoint_url").is_client_config() {
        return general();
    }
    setting(config, id, "AWS_ENDPOINT_URL", "endpoint_url").or_else(general)
}

/// The host of the configured endpoint of Systems Manager, if there is one.
fn api_host(config: &SdkConfig) -> Option<String> {
    let url = configured_endpoint(config, SERVICE_ID)?;
    let endpoint = Destination::of(&url.parse().ok()?).ok()?;
    Some(endpoint.host().to_owned())
}

/// A setting for the service `id` in the environment, as `variable`, or in the AWS profile, as `key`.
fn setting(config: &SdkConfig, id: &str, variable: &str, key: &str) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id(id)
        .env(variable)
        .profile(key)
        .build()
        .ok()?;
    config.service_config()?.load_config(key)
}

/// What the service says in seconds (RFC 9110, section 10.2.3), or AWS's own way in milliseconds. A
/// date is not understood: services do not send one.
pub(crate) fn retry_after(headers: &Headers) -> Option<Duration> {
    let number = |name| headers.get(name)?.trim().parse().ok();
    number("x-amz-retry-after")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
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
