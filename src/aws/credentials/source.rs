//! What the SDK is given as its source of credentials.

use std::fmt;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout};
use tracing::debug;
use zeroize::Zeroizing;

use super::super::Error;
use super::account::{self, Selected};
use super::cache;
use super::remedy;
use super::roles::{Failure, Need, is_over};
use super::way::Way;
use super::{AskCode, NoCode, Question};
use crate::ssm::api::{Prepare, Prepared, Unavailable};

/// How long a source may take before a call: a `credential_process` may open a browser, or hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long credentials without an end are kept. Whoever gives them may give others by then.
const ENDLESS: Duration = Duration::from_secs(60);
/// Codes that may be wrong, one after the other.
const TRIES: u32 = 3;
/// Nobody is asked again so soon after they did not want to answer, or had no right code.
const REST: Duration = Duration::from_secs(30);

/// The credentials of one profile; clones are the same source.
///
/// Asking it as a provider asks no person: that is for [`Prepare::prepare`], before the clock of a call runs.
#[derive(Debug, Clone)]
pub(in crate::aws) struct Source(Arc<Inner>);

struct Inner {
    selected: Selected,
    config: SdkConfig,
    person: Arc<dyn AskCode>,
    kept: Mutex<Option<Kept>>,
    /// The access key that the service has refused last.
    refused: Mutex<Option<String>>,
    /// Whoever holds it loads; the others wait for what that brings.
    loading: AsyncMutex<Option<Plan>>,
    /// Whoever holds it asks. The last refusal, and when it was.
    asking: AsyncMutex<Option<(Instant, Unavailable)>>,
}

/// Credentials that were had.
struct Kept {
    credentials: Credentials,
    until: SystemTime,
    files: Stamp,
}

/// How credentials are had, by the files of that time.
struct Plan {
    files: Stamp,
    /// The access key that was refused before.
    refused: Option<String>,
    way: Way,
}

/// Times and lengths of the configuration's files: others are other files.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("selected", &self.selected)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// The credentials of `selected`, with the region, endpoints and HTTP client of `config`.
    pub(in crate::aws) fn new(
        selected: Selected,
        config: SdkConfig,
        person: Arc<dyn AskCode>,
    ) -> Self {
        Self(Arc::new(Inner {
            selected,
            config,
            person,
            kept: Mutex::default(),
            refused: Mutex::default(),
            loading: AsyncMutex::default(),
            asking: AsyncMutex::default(),
        }))
    }
}

impl ProvideCredentials for Source {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.0.provide())
    }
}

impl Prepare for Source {
    fn prepare(&self) -> Prepared<'_> {
        Box::pin(self.0.prepare())
    }

    fn expire(&self) -> Option<String> {
        self.0.expire();
        remedy::renewal(&self.0.selected)
    }
}

impl Inner {
    async fn provide(&self) -> provider::Result {
        self.resolve(None).await.map_err(|failure| match failure {
            Failure::Base(error) => error,
            Failure::Refused(Error::Credentials(error)) => CredentialsError::provider_error(error),
            Failure::Refused(error) => CredentialsError::provider_error(error),
            Failure::Need(need) => CredentialsError::provider_error(remedy::of_need(
                &need.role_arn,
                &need.serial,
                &self.selected,
                "somebody has to type it",
            )),
            Failure::WrongCode => CredentialsError::provider_error("the code was not accepted"),
        })
    }

    async fn prepare(&self) -> Result<(), Error> {
        match self.resolve_patiently(None).await {
            Ok(_) => Ok(()),
            Err(Failure::Need(_)) => self.ask().await,
            Err(failure) => Err(error_of(failure)),
        }
    }

    /// Asks for codes until there are credentials.
    async fn ask(&self) -> Result<(), Error> {
        let mut refusal = self.asking.lock().await;
        let mut wrong = 0;
        loop {
            // Others may have got them meanwhile, here or with the AWS CLI.
            let need = match self.resolve_patiently(None).await {
                Ok(_) => {
                    *refusal = None;
                    return Ok(());
                }
                Err(Failure::Need(need)) => need,
                Err(failure) => return Err(error_of(failure)),
            };
            if let Some((at, why)) = &*refusal
                && at.elapsed() < REST
            {
                return Err(why.clone().into());
            }
            let reply = self.person.ask(&self.question(&need, wrong > 0)).await;
            let why = match reply {
                Ok(code) => match self.try_code(&need, &code).await {
                    Err(Error::Credentials(why)) => {
                        // Another code would not be any better.
                        *refusal = Some((Instant::now(), why.clone()));
                        return Err(why.into());
                    }
                    Err(error) => return Err(error),
                    Ok(true) => {
                        wrong = 0;
                        continue;
                    }
                    Ok(false) if wrong + 1 < TRIES => {
                        wrong += 1;
                        continue;
                    }
                    Ok(false) => "no code was right",
                },
                Err(NoCode::GaveUp) => "nobody has typed it",
                Err(NoCode::Nobody(why)) => {
                    return Err(self.unasked(&need, &why).into());
                }
            };
            let why = self.unasked(&need, why);
            *refusal = Some((Instant::now(), why.clone()));
            return Err(why.into());
        }
    }

    /// Whether `code` was right.
    async fn try_code(&self, need: &Need, code: &Zeroizing<String>) -> Result<bool, Error> {
        let code = Zeroizing::new(code.trim().to_owned());
        if code.len() != 6 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(false);
        }
        match self.resolve_patiently(Some((need, &code))).await {
            // Of the next role in the chain.
            Ok(_) | Err(Failure::Need(_)) => Ok(true),
            Err(Failure::WrongCode) => Ok(false),
            Err(failure) => Err(error_of(failure)),
        }
    }

    fn question(&self, need: &Need, is_repeated: bool) -> Question {
        let Need {
            role_arn, serial, ..
        } = need;
        let reason = if is_repeated {
            "that was not a code which is valid now; one has 6 digits and is accepted once"
                .to_owned()
        } else if need.is_renewal {
            format!(
                "the credentials of {role_arn} have expired; what is connected goes on meanwhile"
            )
        } else {
            format!("a code is needed to assume {role_arn}")
        };
        Question {
            profile: self.selected.name.clone(),
            reason,
            // In the words of the AWS CLI.
            prompt: format!("Enter MFA code for {serial}: "),
        }
    }

    fn unasked(&self, need: &Need, why: &str) -> Unavailable {
        remedy::of_need(&need.role_arn, &need.serial, &self.selected, why)
    }

    /// As [`resolve`](Self::resolve), with an end.
    async fn resolve_patiently(
        &self,
        answer: Option<(&Need, &Zeroizing<String>)>,
    ) -> Result<Credentials, Failure> {
        match timeout(PATIENCE, self.resolve(answer)).await {
            Ok(resolved) => resolved,
            Err(_) => Err(Failure::Refused(
                remedy::of_silence(&self.selected, PATIENCE).into(),
            )),
        }
    }

    /// Kept credentials, or those that the source has now. `answer` is somebody's to a question.
    async fn resolve(
        &self,
        answer: Option<(&Need, &Zeroizing<String>)>,
    ) -> Result<Credentials, Failure> {
        if let Some(credentials) = self.kept() {
            return Ok(credentials);
        }
        let mut loading = self.loading.lock().await;
        if let Some(credentials) = self.kept() {
            return Ok(credentials);
        }
        let files = stamp();
        let refused = lock(&self.refused).clone();
        let is_current = loading.as_ref().is_some_and(|plan| match plan.way {
            Way::Sdk(_) => plan.files == files && plan.refused == refused,
            Way::Roles(_) => plan.files == files,
        });
        let plan = match &mut *loading {
            Some(plan) if is_current => plan,
            stale => {
                let way = Way::of(&self.selected, &self.config)
                    .await
                    .map_err(Failure::Refused)?;
                let refused = refused.clone();
                stale.insert(Plan {
                    files,
                    refused,
                    way,
                })
            }
        };
        let loaded = match &mut plan.way {
            Way::Sdk(provider) => provider.provide_credentials().await.map_err(Failure::Base),
            Way::Roles(roles) => roles.resolve(answer, refused.as_deref()).await,
        };
        match loaded {
            Ok(credentials) => {
                self.keep(&credentials, files);
                Ok(credentials)
            }
            Err(Failure::Base(error)) => {
                // The SDK's sources remember what they have read once.
                *loading = None;
                Err(Failure::Base(self.explain(error).await))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Uses the credentials in use no more.
    fn expire(&self) {
        if let Some(kept) = lock(&self.kept).take() {
            debug!("the service says that the credentials have expired");
            let access_key = kept.credentials.access_key_id().to_owned();
            *lock(&self.refused) = Some(access_key);
        }
    }

    fn kept(&self) -> Option<Credentials> {
        let mut kept = lock(&self.kept);
        let is_good = |kept: &Kept| kept.until > SystemTime::now() && kept.files == stamp();
        if !kept.as_ref().is_some_and(is_good) {
            *kept = None;
        }
        kept.as_ref().map(|kept| kept.credentials.clone())
    }

    fn keep(&self, credentials: &Credentials, files: Stamp) {
        let until = match credentials.expiry() {
            // Nearly over: good for this call only.
            Some(_) if is_over(credentials) => return,
            Some(expires) => expires - super::roles::MARGIN,
            None => SystemTime::now() + ENDLESS,
        };
        *lock(&self.kept) = Some(Kept {
            credentials: credentials.clone(),
            until,
            files,
        });
    }

    /// The failure of an SDK's source in words that help.
    async fn explain(&self, error: CredentialsError) -> CredentialsError {
        let profiles = account::read(&self.selected.name).await.ok();
        remedy::explain(error, &self.selected, profiles.as_ref(), |login| {
            cache::sso_token(login).is_some_and(|path| path.exists())
        })
    }
}

fn error_of(failure: Failure) -> Error {
    match failure {
        Failure::Base(error) => error.into(),
        Failure::Refused(error) => error,
        Failure::Need(_) | Failure::WrongCode => {
            Error::CredentialsFailed("the code was not accepted".into())
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stamp() -> Stamp {
    account::paths().map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}
