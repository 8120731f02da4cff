//! What is known of a target to which no session can be started.

use std::error::Error;
use std::fmt;
use std::pin::Pin;

/// Knows more of a target than the service says when it refuses a session to it.
pub trait Witness: fmt::Debug + Send + Sync {
    /// Why there can be no session now, if that is known; within seconds.
    fn ask(&self) -> Asked<'_>;
}

/// The answer of a [`Witness`].
pub type Asked<'a> = Pin<Box<dyn Future<Output = Option<Testimony>> + Send + 'a>>;

/// Why a target is out of the service's reach.
#[derive(Debug)]
pub struct Testimony {
    /// What it is, or what state it is in.
    pub cause: Box<dyn Error + Send + Sync>,
    /// What a person can do about it.
    pub hint: Option<String>,
}
