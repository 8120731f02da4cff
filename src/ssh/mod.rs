//! SSH transport (RFC 4253) and authentication (RFC 4252) in both roles.
//!
//! The boundary above is [`Connection`]: messages numbered 80 and up, in and out.

mod agent;
pub mod auth;
mod connection;
pub mod credential;
mod error;
pub mod host_key;
pub mod known_hosts;
mod login;
mod memory;
pub mod messages;
pub mod person;
pub mod transport;
pub mod verifier;
mod wallet;
pub mod wire;

pub use self::connection::{Connection, Farewell};
pub use self::credential::Credential;
pub use self::error::{Error, Phase};
pub use self::host_key::HostKey;
pub use self::known_hosts::KnownHosts;
pub use self::login::{Admission, ClientConfig, Doorman, ServerConfig};
pub use self::memory::Memory;
pub use self::person::Attendance;
pub use self::verifier::{HostKeyError, HostKeyVerifier, PinnedKey};
