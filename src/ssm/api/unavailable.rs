//! Credentials that cannot be had: why, and what a person can do about it.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use thiserror::Error;

use super::Error;

/// Why a source has no credentials, in words that name what is configured, and the remedy.
///
/// A provider hands it out inside an error of the SDK; [`enum@Error`] finds it there again. No part of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct Unavailable {
    problem: String,
    remedy: String,
}

impl Unavailable {
    /// What is wrong, and what to do about it, both for a person.
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &str {
        &self.remedy
    }

    /// The one among the causes of `error`.
    pub(super) fn in_chain<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut cause = Some(error);
        while let Some(current) = cause {
            if let Some(found) = current.downcast_ref::<Self>() {
                return Some(found);
            }
            cause = current.source();
        }
        None
    }
}

/// The answer of a [`Prepare`].
pub type Prepared<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// Makes credentials available before the clock of a call runs, and asks a person where it takes one.
///
/// Providers of credentials are asked within the time-outs of calls, which are too short for a person who looks for
/// a code. So whoever is about to call prepares first; the provider itself then asks nobody.
pub trait Prepare: fmt::Debug + Send + Sync {
    /// Returns once there are credentials, however long a person takes. When dropped, nobody is asked any more.
    fn prepare(&self) -> Prepared<'_>;

    /// Whether somebody is being asked, or waits to be.
    fn is_asking(&self) -> bool;

    /// The service says that the credentials in use have expired, whatever they say themselves: they are not used
    /// again. Returns how they are renewed.
    fn expire(&self) -> String;

    /// What a command has to be told to use the same credentials: ` --profile NAME`, or nothing.
    fn profile_flag(&self) -> String;
}
