//! Credentials: the SDK's sources, and beside them roles that want the code of an MFA device.
//!
//! | module | what lives there |
//! |---|---|
//! | `account` | which profile and region are meant, and whether they exist |
//! | `chain` | which role is assumed with whose credentials; pure |
//! | `roles` | assuming them one after the other, with a code where one is wanted |
//! | `cache` | the files of the AWS CLI |
//! | `source` | what the SDK is given: one answer for all who ask at the same time |
//! | `way` | how credentials are had, as the configuration says |
//! | `remedy` | failures of a source in words that name what is configured; pure |
//!
//! Roles without MFA are the SDK's own business, and so is every other source. What this adds for all of them:
//! credentials are kept until they expire and no longer, configuration files that have changed are read again, and
//! an error says what to type.

mod account;
mod cache;
mod chain;
mod remedy;
mod roles;
mod source;
mod way;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use zeroize::Zeroizing;

pub use self::account::Account;
pub(super) use self::source::Source;

/// Asks a person for the code of an MFA device.
///
/// When the future is dropped, nobody waits for the code any more.
pub trait AskCode: fmt::Debug + Send + Sync {
    /// One line as it was typed.
    fn ask<'a>(&'a self, question: &'a Question) -> Code<'a>;
}

/// The answer of an [`AskCode`].
pub type Code<'a> = Pin<Box<dyn Future<Output = Result<Zeroizing<String>, NoCode>> + Send + 'a>>;

/// What a person is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The profile that wants it, as a heading.
    pub profile: String,
    /// What it is for, in a line.
    pub reason: String,
    /// The question itself; what is typed is not shown.
    pub prompt: String,
}

/// Why there is no code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoCode {
    /// Nobody could be asked, and why.
    Nobody(String),
    /// Somebody was, and did not want to say.
    GaveUp,
}
