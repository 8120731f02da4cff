//! A chain of roles of which some want a code.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use tracing::{debug, info};
use zeroize::Zeroizing;

use super::super::signed::Endpoint;
use super::super::sts::{self, Assumption, SecondFactor};
use super::cache::Cache;
use super::chain::Link;
use super::remedy;
use crate::aws::Error;
use crate::ssm::api::Unavailable;

/// Credentials that expire within this time count as expired: a call is under way for a moment.
pub(super) const MARGIN: Duration = Duration::from_secs(10);

/// The roles, whose credentials the first is assumed with, and what is known of their credentials.
#[derive(Debug)]
pub(super) struct Roles {
    base: SharedCredentialsProvider,
    links: Vec<Link>,
    /// For each link, the last that were had.
    memory: Vec<Option<Credentials>>,
    cache: Option<Cache>,
    sts: Endpoint,
}

/// A role that cannot be assumed without a code.
#[derive(Debug, Clone)]
pub(super) struct Need {
    /// Its place in the chain.
    pub(super) at: usize,
    pub(super) role_arn: String,
    pub(super) serial: String,
    /// There were credentials, which have expired while we run.
    pub(super) is_renewal: bool,
}

/// Why there are no credentials.
#[derive(Debug)]
pub(super) enum Failure {
    /// Somebody has to be asked.
    Need(Need),
    /// The code was not accepted.
    WrongCode,
    /// A role was refused, or STS not reached.
    Refused(Error),
    /// The source of the first role failed.
    Base(CredentialsError),
}

impl Roles {
    pub(super) fn new(
        base: SharedCredentialsProvider,
        links: Vec<Link>,
        cache: Option<Cache>,
        sts: Endpoint,
    ) -> Self {
        Self {
            base,
            memory: vec![None; links.len()],
            links,
            cache,
            sts,
        }
    }

    /// The credentials of the last role, but not those of the access key `refused`. An answer is a code, and the
    /// need that it was given for.
    ///
    /// # Errors
    /// [`Failure`]. What was assumed on the way is kept.
    pub(super) async fn resolve(
        &mut self,
        answer: Option<(Need, Zeroizing<String>)>,
        refused: Option<&str>,
    ) -> Result<Credentials, Failure> {
        let mut begin = 0;
        let mut credentials = None;
        for at in (0..self.links.len()).rev() {
            credentials = self.valid(at, refused);
            if credentials.is_some() {
                begin = at + 1;
                break;
            }
        }
        let mut credentials = match credentials {
            Some(credentials) => credentials,
            None => self
                .base
                .provide_credentials()
                .await
                .map_err(Failure::Base)?,
        };
        for at in begin..self.links.len() {
            let code = answer.as_ref().filter(|(need, _)| need.at == at);
            credentials = self
                .assume(at, &credentials, code.map(|(_, code)| code))
                .await?;
        }
        Ok(credentials)
    }

    /// What was had for the role at `at`, by us or by the AWS CLI, if it is still good.
    fn valid(&mut self, at: usize, refused: Option<&str>) -> Option<Credentials> {
        let is_good = |credentials: &Credentials| {
            !is_over(credentials) && refused != Some(credentials.access_key_id())
        };
        let own = self.memory[at].clone().filter(is_good);
        if own.is_some() {
            return own;
        }
        let kept = self.cache.as_ref()?.load(&self.links[at]);
        let kept = kept.filter(is_good)?;
        self.memory[at] = Some(kept.clone());
        Some(kept)
    }

    async fn assume(
        &mut self,
        at: usize,
        credentials: &Credentials,
        code: Option<&Zeroizing<String>>,
    ) -> Result<Credentials, Failure> {
        let link = &self.links[at];
        let second_factor = match (&link.mfa_serial, code) {
            (None, _) => None,
            (Some(serial), Some(code)) => Some(SecondFactor { serial, code }),
            (Some(serial), None) => {
                return Err(Failure::Need(Need {
                    at,
                    role_arn: link.role_arn.clone(),
                    serial: serial.clone(),
                    is_renewal: self.memory[at].is_some(),
                }));
            }
        };
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let usual = format!("ssmshim-{}", since_epoch.unwrap_or_default().as_secs());
        let wanted = Assumption {
            role_arn: &link.role_arn,
            session_name: link.session_name.as_deref().unwrap_or(&usual),
            external_id: link.external_id.as_deref(),
            duration_seconds: link.duration_seconds,
            second_factor,
        };
        let assumed = sts::assume_role(&self.sts, credentials, &wanted).await;
        let assumed = assumed.map_err(|error| match sts::is_wrong_code(&error) {
            true => Failure::WrongCode,
            false => Failure::Refused(refused(error, link)),
        })?;
        info!(role = link.role_arn, "role assumed");
        if let Some(cache) = &self.cache
            && let Err(error) = cache.store(link, &assumed)
        {
            debug!(%error, "credentials are not kept for the AWS CLI");
        }
        self.memory[at] = Some(assumed.credentials.clone());
        Ok(assumed.credentials)
    }
}

/// Whether `credentials` have expired, or will before they are used.
pub(super) fn is_over(credentials: &Credentials) -> bool {
    let expires = credentials.expiry();
    expires.is_some_and(|expires| expires <= SystemTime::now() + MARGIN)
}

/// A refusal in words that name the role and whose credentials it was wanted with.
fn refused(error: Error, link: &Link) -> Error {
    match error {
        Error::AccessDenied { source, .. } => {
            remedy::of_denied_role(&link.role_arn, &link.profile, &source.to_string()).into()
        }
        Error::CredentialsInvalid(source) | Error::CredentialsExpired(source) => Unavailable::new(
            format!("role {} cannot be assumed: {source}", link.role_arn),
            format!(
                "renew the credentials that profile `{}` starts from",
                link.profile
            ),
        )
        .into(),
        other => other,
    }
}
