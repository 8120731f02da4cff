//! Configuration: [`File`] is what is written, [`Endpoint`] what is meant, and [`Serve`] what that is for one target.

mod endpoint;
mod file;
mod resolved;

pub use endpoint::Endpoint;
pub use file::{Alias, Error, File};
pub use resolved::{Access, Account, Overrides, Serve, StrictHostKey, UsageError};
pub(crate) use resolved::{check_listen, home, own_user, state_directory};
