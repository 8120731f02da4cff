//! Where login names lead: what the endpoint asks of those who know the targets.

use std::pin::Pin;

use crate::upstream::Visit;

/// Knows what login names stand for.
pub trait Targets: Send + Sync + 'static {
    /// Where names lead that stand for nothing else, if anywhere. Work for a client may begin there before its name
    /// is known.
    fn usual(&self) -> Option<Visit>;

    /// Where the login name `name` leads. Asked about clients that have proved who they are, and dropped when they
    /// leave meanwhile; it takes less time than a login may.
    fn select<'a>(&'a self, name: &'a str) -> Selected<'a>;
}

/// The answer of [`Targets::select`], in time.
pub type Selected<'a> = Pin<Box<dyn Future<Output = Result<Visit, Refusal>> + Send + 'a>>;

/// Why a login name leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For the person at the client: why, what to do, and what there is. Lines that end in CR LF, without other control
    /// characters.
    pub banner: String,
    /// The same in a few words.
    pub reason: String,
}
