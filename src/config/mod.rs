//! Configuration: [`File`] is what is written, [`Serve`] what is meant.

mod file;
mod resolved;

pub use file::{Error, File};
pub use resolved::{Access, Overrides, Serve, StrictHostKey, UsageError};
pub(crate) use resolved::{check_listen, home, state_directory};
