//! ssmshim: a local SSH server that fronts AWS Systems Manager Session Manager.
//!
//! # The way of one keystroke
//!
//! ```text
//! ssh -TCP-> server -> relay -----> upstream ----> smux ---> ssm data channel ==WebSocket==> service ==> agent -> sshd
//!     decrypt         as it is      encrypt        PSH sid   input_stream_data seq=n            <- acknowledge n
//!                                                            kept in `outgoing` until acknowledged: this is the safety net
//! ```
//!
//! # Modules
//!
//! | module | what lives there |
//! |---|---|
//! | [`cli`] | arguments, commands, all printing, exit status |
//! | [`doctor`] | what a connection needs, checked one by one, each with a verdict and a remedy |
//! | [`daemon`] | wiring of the parts into `serve`, `connect` and `demo`; start, drain and stop; the fleet of targets |
//! | [`config`] | configuration file, environment and flags, resolved into one value |
//! | [`server`] | the local endpoint: listener, access policy, host key, who is at the other end |
//! | [`relay`] | local connection and upstream transport joined message by message; observer, queues |
//! | [`upstream`] | a target: warm pools of authenticated SSH transports over one tunnel |
//! | [`tunnel`] | SSM session + data channel + smux as plain byte streams |
//! | [`target`] | a name, an address or a tag made into one machine that can be reached |
//! | [`aws`] | credentials, MFA included; signed calls beyond SSM sessions: which machines there are, who we are |
//! | [`smux`] | smux v1: many streams over one byte stream |
//! | [`ssm`] | Session Manager: API calls, WebSocket, and the reliability protocol in `ssm::protocol` |
//! | [`net`] | the way out: proxies, TCP, TLS, and the SDK's HTTP client on them |
//! | [`ssh`] | SSH transport and authentication, both roles; above it, messages 80 and up |
//! | [`sshd`] | an embedded SSH server, used by `demo` and `emulator` |
//! | [`emulator`] | a local Session Manager: API, message gateway, agent |
//! | [`peer`] | the uid at the other end of a local connection, for `server` and `emulator` |
//! | [`telemetry`] | the tracing subscriber |
//!
//! Dependencies point down only:
//! `cli > doctor > daemon > server > relay > upstream > tunnel > { smux | ssm }`; `server, upstream, sshd > ssh`;
//! `cli, daemon > target > aws > ssm > net`; `emulator > { ssm::protocol, smux, sshd }`. `tests/layering.rs` checks it.

mod account;
pub mod aws;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod emulator;
pub mod net;
pub mod peer;
pub mod relay;
mod report;
pub mod server;
pub mod smux;
pub mod ssh;
pub mod sshd;
pub mod ssm;
pub mod target;
pub mod telemetry;
pub mod tunnel;
pub mod upstream;
