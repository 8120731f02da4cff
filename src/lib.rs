//! ssmshim: a local SSH server that fronts AWS Systems Manager Session Manager.

pub mod emulator;
pub mod peer;
pub mod relay;
mod report;
pub mod server;
pub mod smux;
pub mod ssh;
pub mod sshd;
pub mod ssm;
pub mod tunnel;
pub mod upstream;
