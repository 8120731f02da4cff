//! Temporary credentials that the emulated STS and SSO have given out: whose they are, and until when.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

/// Credentials remembered; of more the oldest are forgotten, and then pass for any others.
const REMEMBERED: usize = 1024;

/// How credentials are given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuing {
    /// How long they are valid; without it as long as the caller wants, an hour by default.
    pub lifetime: Option<Duration>,
    /// The code that every MFA device shows.
    pub mfa_code: String,
}

impl Default for Issuing {
    fn default() -> Self {
        Self {
            lifetime: None,
            mfa_code: "123456".into(),
        }
    }
}

/// What was given out.
#[derive(Debug, Default)]
pub(crate) struct Issued {
    issuing: OnceLock<Issuing>,
    remembered: Mutex<VecDeque<Issue>>,
}

/// Credentials of somebody, for some time.
#[derive(Clone)]
pub(crate) struct Issue {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) token: String,
    pub(crate) expires: SystemTime,
    /// Whose they are.
    pub(crate) arn: String,
}

/// What is wrong with credentials that we have given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Expired,
    /// They come without their token, or with another's.
    Token,
}

impl fmt::Debug for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issue")
            .field("arn", &self.arn)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Issued {
    /// Settles how credentials are given out; only the first word counts.
    pub(crate) fn settle(&self, issuing: Issuing) {
        let _second = self.issuing.set(issuing);
    }

    pub(crate) fn is_code(&self, code: &str) -> bool {
        self.issuing.get_or_init(Issuing::default).mfa_code == code
    }

    /// Gives `arn` credentials for as long as is `wanted`.
    pub(crate) fn issue(&self, arn: &str, wanted: Duration) -> Issue {
        let lifetime = self.issuing.get_or_init(Issuing::default).lifetime;
        let random = || Uuid::new_v4().simple().to_string();
        let issue = Issue {
            access_key: format!("ASIA{}", random()[..16].to_ascii_uppercase()),
            secret_key: format!("{}{}", random(), &random()[..8]),
            token: format!("FwoGZXIvYXdz{}{}", random(), random()),
            expires: SystemTime::now() + lifetime.unwrap_or(wanted),
            arn: arn.to_owned(),
        };
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(issue.clone());
        issue
    }

    /// Whose `access_key` is, if we have given it out.
    ///
    /// # Errors
    /// It must not be used, or not so.
    pub(crate) fn check(
        &self,
        access_key: &str,
        token: Option<&str>,
    ) -> Result<Option<String>, Fault> {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let issue = remembered
            .iter()
            .find(|issue| issue.access_key == access_key);
        match issue {
            None => Ok(None),
            Some(issue) if token != Some(&issue.token) => Err(Fault::Token),
            Some(issue) if issue.expires <= SystemTime::now() => Err(Fault::Expired),
            Some(issue) => Ok(Some(issue.arn.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_good_with_their_token_and_for_their_time() {
        let issued = Issued::default();
        let hour = Duration::from_secs(3600);
        let ann = issued.issue("arn:ann", hour);
        let token = Some(ann.token.as_str());
        assert_eq!(
            issued.check(&ann.access_key, token),
            Ok(Some("arn:ann".into()))
        );
        assert_eq!(issued.check(&ann.access_key, None), Err(Fault::Token));
        assert_eq!(issued.check("AKIDEXAMPLE", token), Ok(None));
        assert!(issued.is_code("123456"));

        let brief = Issued::default();
        brief.settle(Issuing {
            lifetime: Some(Duration::ZERO),
            mfa_code: "000000".into(),
        });
        let ann = brief.issue("arn:ann", hour);
        let token = Some(ann.token.as_str());
        assert_eq!(brief.check(&ann.access_key, token), Err(Fault::Expired));
        for _ in 0..REMEMBERED {
            brief.issue("arn:others", hour);
        }
        assert_eq!(brief.check(&ann.access_key, token), Ok(None), "forgotten");
        assert!(!brief.is_code("123456"));
    }
}
