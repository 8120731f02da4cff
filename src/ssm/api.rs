//! The calls of an SSM session: StartSession, ResumeSession, TerminateSession, and DescribeSessions.
//!
//! Credentials are resolved by the SDK's chain at each call, so that a session that outlives its
//! temporary credentials can still be resumed. Calls are not repeated here: a StartSession whose
//! answer was lost would leave a session behind, and resuming has a pace of its own.

mod error;
mod setup;
mod starts;
mod unavailable;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_ssm::Client;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ssm::types::SessionState;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::time::timeout;

pub use self::error::{Error, Operation};
pub(crate) use self::error::{blames_network, retry_after, spoken};
pub(crate) use self::setup::{CALL_TIMEOUT, configured_endpoint, timeouts};
use self::setup::{api_host, ca_bundle};
use self::starts::Starts;
pub use self::starts::Turn;
pub use self::unavailable::{Prepare, Prepared, Unavailable};
use super::secret::Secret;
use super::websocket::{Caller, Gateways};
use crate::net::{Destination, Dialler, HttpClient};

/// A `credential_process` may hang, and nobody else limits it.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);

/// How far an account's list of sessions is read: 10 000 sessions at 200 a page.
const LISTED_PAGES: usize = 50;

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
    preparation: Option<Arc<dyn Prepare>>,
    region: String,
    dialler: Arc<Dialler>,
    gateways: Gateways,
    starts: Arc<Starts>,
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

    /// As [`from_loader`](Self::from_loader), with the credentials of what `source` makes of the configuration,
    /// which is asked at each call.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub async fn from_source<S>(
        loader: aws_config::ConfigLoader,
        source: impl FnOnce(&SdkConfig) -> S,
    ) -> Result<Self, Error>
    where
        S: ProvideCredentials + Prepare + Clone + 'static,
    {
        let dialler = Arc::new(Dialler::from_env());
        let loader = loader.http_client(HttpClient::new(Arc::clone(&dialler)));
        let config = loader.no_credentials().load().await;
        let source = source(&config);
        let config = config
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(source.clone()))
            .identity_cache(IdentityCache::no_cache())
            .build();
        let mut ssm = Self::with_dialler(config, dialler)?;
        ssm.preparation = Some(Arc::new(source));
        Ok(ssm)
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
        // A variable that is set to nothing names none.
        let region = config.region().filter(|region| !region.as_ref().is_empty());
        let region = region.ok_or(Error::MissingRegion)?.to_string();
        if let Some(bundle) = ca_bundle(&config) {
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
            preparation: None,
            region,
            dialler,
            gateways: Gateways {
                api_host: api_host(&config),
                replacement: None,
            },
            starts: Arc::default(),
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

    /// The way out that calls and WebSockets take.
    pub(crate) fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// Whether the configuration names an endpoint, so that the region is no part of the host's name.
    pub(crate) fn has_own_endpoint(&self) -> bool {
        self.gateways.api_host.is_some()
    }

    /// The region that calls go to and that WebSockets are signed for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// What `aws` and `ssmshim` have to be told, in any shell, to mean the same account and region:
    /// ` --profile work --region eu-central-1`.
    pub fn flags(&self) -> String {
        let preparation = self.preparation.as_ref();
        let profile = preparation.map(|preparation| preparation.profile_flag());
        format!("{} --region {}", profile.unwrap_or_default(), self.region)
    }

    /// Waits until there are credentials, and has a person asked where that takes one.
    ///
    /// To be called before the clock of anything runs that calls; [`turn`](Self::turn) does it itself.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn prepare(&self) -> Result<(), Error> {
        match &self.preparation {
            Some(preparation) => preparation.prepare().await,
            None => Ok(()),
        }
    }

    /// Whether somebody is being asked for what takes part in the credentials.
    pub(crate) fn is_asking(&self) -> bool {
        let preparation = self.preparation.as_ref();
        preparation.is_some_and(|preparation| preparation.is_asking())
    }

    /// Draws the conclusions from `error`: credentials that have expired are not used again.
    pub(crate) fn concluded(&self, error: Error) -> Error {
        match (&error, &self.preparation) {
            (Error::CredentialsExpired(_), Some(preparation)) => {
                error.renewed_by(preparation.expire())
            }
            _ => error,
        }
    }

    /// The credentials of this moment, for signing a WebSocket.
    ///
    /// There is always a provider, and the API calls before were signed with its credentials: that
    /// it has none now is a failure to wait out, not a reason to go on unsigned.
    ///
    /// # Errors
    /// [`Error::Credentials`], [`Error::CredentialsMissing`], [`Error::CredentialsFailed`] or [`Error::Network`],
    /// within 10 s in any case.
    pub async fn credentials(&self) -> Result<Credentials, Error> {
        self.credentials_within(CREDENTIALS_TIMEOUT).await
    }

    async fn credentials_within(&self, limit: Duration) -> Result<Credentials, Error> {
        match timeout(limit, self.credentials.provide_credentials()).await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(error)) => Err(error.into()),
            Err(elapsed) => Err(Error::CredentialsFailed(elapsed.into())),
        }
    }

    /// Waits until a session to `target` may be started: for credentials, and for the sessions before it.
    ///
    /// For each target there is one call at a time, and 50 ms between two, which agents need. May be dropped at any
    /// time.
    ///
    /// # Errors
    /// Why there are no credentials.
    pub async fn turn(&self, target: &str) -> Result<Turn, Error> {
        self.prepare().await?;
        Ok(self.starts.turn(target).await)
    }

    /// Waits for its turn, and starts an SSM session. The agent waits 15 s for us from now on.
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
        let mut turn = self.turn(target).await?;
        self.start_session_in(&mut turn, target, document, parameters, reason)
            .await
    }

    /// As [`start_session`](Self::start_session), in a turn of this target. A session whose answer is not waited for
    /// could not be terminated.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub(super) async fn start_session_in(
        &self,
        _turn: &mut Turn,
        target: &str,
        document: Option<&str>,
        parameters: &[(String, String)],
        reason: Option<&str>,
    ) -> Result<Ticket, Error> {
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
            .map_err(|error| self.classify(Operation::Start, error))?;
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

    /// Asks for a new WebSocket of a session; `stream_url` is used again when none is given. Asks nobody for
    /// credentials: see [`prepare`](Self::prepare).
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
            .map_err(|error| self.classify(Operation::Resume, error))?;
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
            .map_err(|error| self.classify(Operation::Terminate, error));
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
                .map_err(|error| self.classify(Operation::DescribeSessions, error))?;
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

    /// Sorts an error of the SDK, and draws the conclusions.
    pub(crate) fn classify<E>(&self, operation: Operation, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.concluded(Error::classify(operation, error))
    }
}

#[cfg(test)]
#[path = "api_tests.rs"]
pub(in crate::ssm) mod tests;
