//! What a plan's types cannot say: shares, statuses, what needs what.

use thiserror::Error;

use super::millis::as_millis;
use super::{Amount, Answer, Cut, Effect, Extent, Fault, Operation, Pick, Refusal};

/// Why a plan makes no sense.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Not a share.
    #[error("{field} is {value}, not from 0 to 1")]
    Share {
        /// Where.
        field: &'static str,
        /// What was given.
        value: f64,
    },
    /// Nothing, where there must be something.
    #[error("{field} is 0: give at least 1")]
    Zero {
        /// Where.
        field: &'static str,
    },
    /// Not an HTTP status of a failure.
    #[error("status {status} is not one of {low} to 599")]
    Status {
        /// What was given.
        status: u16,
        /// The lowest possible.
        low: u16,
    },
    /// Only sockets to come can be cut more than once.
    #[error(
        "a cut with an extent needs `after`: without it the sockets that are open are cut once"
    )]
    CutNow,
    /// ResumeSession alone gives tokens for sessions that exist.
    #[error("no_token is for the operation ResumeSession")]
    NoToken,
    /// A machine that is not emulated.
    #[error("{target} is not an instance with an embedded agent")]
    UnknownTarget {
        /// What was given.
        target: String,
    },
}

impl Fault {
    /// Checks what the types cannot say.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        match self {
            Self::Cut(cut) => cut.check(),
            Self::Messages(messages) => {
                match messages.pick {
                    Pick::Probability(value) => share("probability", value)?,
                    Pick::Nth(n) => positive("nth", n)?,
                    Pick::Sequence(_) => {}
                }
                if let Effect::Reorder { places } = messages.effect {
                    positive("places", places.into())?;
                }
                messages.extent.check()
            }
            Self::Link(link) => positive("bytes_per_second", link.bytes_per_second.unwrap_or(1)),
            Self::Api(api) => {
                match api.answer {
                    Answer::Failed { status } => failure(status, 500)?,
                    Answer::NoToken if api.operation != Some(Operation::ResumeSession) => {
                        return Err(PlanError::NoToken);
                    }
                    _ => {}
                }
                api.extent.check()
            }
            Self::Gateway(gateway) => {
                if let Refusal::Status(status) = gateway.refusal {
                    failure(status, 400)?;
                }
                gateway.extent.check()
            }
            Self::Expire(expire) => expire.extent.check(),
            Self::Network(network) => positive("ms", as_millis(network.time)),
            Self::Unheard(unheard) => unheard.extent.check(),
            Self::Publication(_)
            | Self::Terminate(_)
            | Self::Agent(_)
            | Self::Repeat(_)
            | Self::Unready(_)
            | Self::Headers(_) => Ok(()),
        }
    }
}

impl Cut {
    fn check(&self) -> Result<(), PlanError> {
        share("jitter", self.jitter)?;
        self.extent.check()?;
        match self.after {
            None if self.extent != Extent::default() => Err(PlanError::CutNow),
            None => Ok(()),
            Some(Amount::Messages(count)) => positive("messages", count),
            Some(Amount::Bytes(count)) => positive("bytes", count),
            Some(Amount::Time(time)) => positive("ms", as_millis(time)),
        }
    }
}

impl Extent {
    fn check(self) -> Result<(), PlanError> {
        match self {
            Self::Times(times) => positive("times", times.into()),
            Self::For(time) => positive("ms", as_millis(time)),
            Self::Always => Ok(()),
        }
    }
}

fn share(field: &'static str, value: f64) -> Result<(), PlanError> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(PlanError::Share { field, value }),
    }
}

fn positive(field: &'static str, value: u64) -> Result<(), PlanError> {
    match value {
        0 => Err(PlanError::Zero { field }),
        _ => Ok(()),
    }
}

fn failure(status: u16, low: u16) -> Result<(), PlanError> {
    match (low..=599).contains(&status) {
        true => Ok(()),
        false => Err(PlanError::Status { status, low }),
    }
}
