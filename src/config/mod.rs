//! Configuration: [`File`] is what is written, [`Serve`] what is meant.

mod file;
mod resolved;

pub use file::{Alias, Error, File};
pub use resolved::{Access, Account, Overrides, Serve, StrictHostKey, UsageError};
pub(crate) use resolved::{check_listen, home, own_user, state_directory};
