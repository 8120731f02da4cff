//! What the SDK is given as its source of credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
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

/// Whoever holds it asks: of two who are after the same role, the second finds what the first has kept. The last
/// refusals by profile, and when they were.
static ASKING: AsyncMutex<BTreeMap<String, (Instant, Unavailable)>> =
    AsyncMutex::const_new(BTreeMap::new());

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
    loading: Arc<AsyncMutex<Option<Plan>>>,
    /// Those who wait for a person.
    asking: AtomicUsize,
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

/// A code, and the need that it was given for.
type Reply = (Need, Zeroizing<String>);

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
            loading: Arc::default(),
            asking: AtomicUsize::new(0),
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

    fn is_asking(&self) -> bool {
        self.0.asking.load(Ordering::Relaxed) > 0
    }

    fn expire(&self) -> String {
        self.0.expire();
        remedy::renewal(&self.0.selected)
    }

    fn profile_flag(&self) -> String {
        let selected = &self.0.selected;
        match selected.uses_environment() {
            true => String::new(),
            false => selected.flag(),
        }
    }
}

impl Inner {
    async fn provide(self: &Arc<Self>) -> provider::Result {
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

    async fn prepare(self: &Arc<Self>) -> Result<(), Error> {
        match self.resolve_patiently(None).await {
            Ok(_) => Ok(()),
            Err(Failure::Need(_)) => self.ask().await,
            Err(failure) => Err(error_of(failure)),
        }
    }

    /// Asks for codes until there are credentials.
    async fn ask(self: &Arc<Self>) -> Result<(), Error> {
        let profile = &self.selected.name;
        let mut refusals = self.while_asking(ASKING.lock()).await;
        let mut wrong = 0;
        let mut accepted: Option<Need> = None;
        let why = loop {
            // Others may have got them meanwhile, here or with the AWS CLI.
            let need = match self.resolve_patiently(None).await {
                Ok(_) => {
                    refusals.remove(profile);
                    return Ok(());
                }
                Err(Failure::Need(need)) => need,
                Err(failure) => return Err(error_of(failure)),
            };
            if let Some((at, why)) = refusals.get(profile)
                && at.elapsed() < REST
            {
                return Err(why.clone().into());
            }
            if accepted.as_ref().is_some_and(|last| need.at <= last.at) {
                break remedy::of_no_time(&need.role_arn);
            }
            let question = self.question(&need, wrong > 0, accepted.as_ref());
            let reply = self.while_asking(self.person.ask(&question)).await;
            let why = match reply {
                Ok(code) => match self.try_code(&need, &code).await {
                    // Another code would not be any better.
                    Err(Error::Credentials(why)) => break why,
                    Err(error) => return Err(error),
                    Ok(true) => {
                        wrong = 0;
                        accepted = Some(need);
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
            break self.unasked(&need, why);
        };
        refusals.insert(profile.clone(), (Instant::now(), why.clone()));
        Err(why.into())
    }

    /// Runs `question`, during which it shows that a person is waited for.
    async fn while_asking<T>(&self, question: impl Future<Output = T>) -> T {
        struct Asking<'a>(&'a AtomicUsize);
        impl Drop for Asking<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.asking.fetch_add(1, Ordering::Relaxed);
        let _asking = Asking(&self.asking);
        question.await
    }

    /// Whether `code` was right.
    async fn try_code(
        self: &Arc<Self>,
        need: &Need,
        code: &Zeroizing<String>,
    ) -> Result<bool, Error> {
        let code = Zeroizing::new(code.trim().to_owned());
        if code.len() != 6 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(false);
        }
        match self.resolve_patiently(Some((need.clone(), code))).await {
            // Of the next role in the chain.
            Ok(_) | Err(Failure::Need(_)) => Ok(true),
            Err(Failure::WrongCode) => Ok(false),
            Err(failure) => Err(error_of(failure)),
        }
    }

    /// `accepted` is whose code was right just now.
    fn question(&self, need: &Need, is_repeated: bool, accepted: Option<&Need>) -> Question {
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
        } else if accepted.is_some_and(|last| last.serial == *serial) {
            format!("the next code is needed to assume {role_arn}; each is accepted once")
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
        self: &Arc<Self>,
        answer: Option<Reply>,
    ) -> Result<Credentials, Failure> {
        match timeout(PATIENCE, self.resolve(answer)).await {
            Ok(resolved) => resolved,
            Err(_) => Err(self.silence()),
        }
    }

    /// Kept credentials, or those that the source has now. `answer` is somebody's to a question.
    async fn resolve(self: &Arc<Self>, answer: Option<Reply>) -> Result<Credentials, Failure> {
        if let Some(credentials) = self.kept() {
            return Ok(credentials);
        }
        let loading = Arc::clone(&self.loading).lock_owned().await;
        if let Some(credentials) = self.kept() {
            return Ok(credentials);
        }
        // To its end, whoever gives up meanwhile: a code is accepted once, so is a token that renews a login, and a
        // process that was left to itself would be started beside it again.
        let inner = Arc::clone(self);
        let loaded = tokio::spawn(async move { inner.load(loading, answer).await });
        let broken = |error| Err(Failure::Base(CredentialsError::unhandled(error)));
        loaded.await.unwrap_or_else(broken)
    }

    /// What the source has now, within [`PATIENCE`].
    async fn load(
        &self,
        mut loading: OwnedMutexGuard<Option<Plan>>,
        answer: Option<Reply>,
    ) -> Result<Credentials, Failure> {
        let loaded = timeout(PATIENCE, self.load_by(&mut loading, answer)).await;
        match loaded.unwrap_or_else(|_| Err(self.silence())) {
            Err(Failure::Base(error)) => {
                // The SDK's sources remember what they have read once.
                *loading = None;
                Err(Failure::Base(self.explain(error).await))
            }
            loaded => loaded,
        }
    }

    async fn load_by(
        &self,
        plan: &mut Option<Plan>,
        answer: Option<Reply>,
    ) -> Result<Credentials, Failure> {
        let files = stamp();
        let refused = lock(&self.refused).clone();
        let is_current = plan.as_ref().is_some_and(|plan| match plan.way {
            Way::Sdk(_) => plan.files == files && plan.refused == refused,
            Way::Roles(_) => plan.files == files,
        });
        let plan = match plan {
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
        let credentials = match &mut plan.way {
            Way::Sdk(provider) => provider.provide_credentials().await.map_err(Failure::Base),
            Way::Roles(roles) => roles.resolve(answer, refused.as_deref()).await,
        }?;
        self.keep(&credentials, files);
        Ok(credentials)
    }

    fn silence(&self) -> Failure {
        Failure::Refused(remedy::of_silence(&self.selected, PATIENCE).into())
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

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
