//! AWS Systems Manager Session Manager: the API calls, the WebSocket, and one SSM session on them.
//!
//! | module | what lives there |
//! |---|---|
//! | [`protocol`] | the data channel protocol, pure |
//! | [`api`] | StartSession, ResumeSession, TerminateSession |
//! | [`websocket`] | the signed WebSocket under a data channel |
//! | [`session`] | an SSM session as a byte stream that outlives its sockets |
//!
//! A socket is expendable: the service recycles each one about hourly, and networks come and go.
//! [`session::SsmSession`] resumes on a new one and nothing is lost or doubled. Only
//! `channel_closed`, or the refusal of ResumeSession, is the end.

pub mod api;
mod driver;
pub mod error;
pub mod protocol;
pub mod secret;
pub mod session;
pub mod stream;
pub mod websocket;

pub use api::Ssm;
pub use error::{Disposition, Error};
pub use session::{Journal, Options, SessionEvent, SsmSession, StartRequest};
pub use stream::DataStream;
