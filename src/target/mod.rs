//! Targets: what a person calls a machine, made into one machine that can be reached.
//!
//! | module | what lives there |
//! |---|---|
//! | [`selector`] | a target as it is written: id, tag, address or name; pure |
//! | [`machine`] | a machine as Systems Manager and EC2 know it together; pure |
//! | [`find`] | the machine that a selector means among many, or why there is none; pure |
//! | [`users`] | the user names that a platform's images come with; pure |
//! | [`lookup`] | asks AWS what the pure parts need to know |
//! | [`wanted`] | a target that may be tried before all about it is known |
//!
//! An id is taken at its word: a session is tried at once, and AWS is asked about it meanwhile, or when that fails.
//! Everything else has to be found first.

pub mod find;
pub mod lookup;
pub mod machine;
pub mod selector;
pub mod users;
pub mod wanted;

pub use find::{Error, roughly, timestamp};
pub use lookup::{Listing, list, resolve};
pub use machine::{Machine, Ping, printable};
pub use selector::Selector;
pub use wanted::Wanted;
