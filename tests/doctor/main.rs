//! `ssmshim doctor` against set-ups that are broken in one place each: the fault is found, by name, where it is.
//!
//! The far ends are real or emulated as everywhere: sshd, Squid, TLS of a throw-away authority, the emulator with its
//! refusals and faults. Every report is also checked for what must be true of all of them, see
//! [`patient::Visit::report`].

#[path = "../common/mod.rs"]
mod common;
#[path = "../network/front.rs"]
#[allow(dead_code, reason = "the tests of the network use more of it")]
mod front;
#[path = "../network/proxy.rs"]
#[allow(dead_code, reason = "the tests of the network use more of it")]
mod proxy;

mod account;
mod beside;
mod computer;
mod healthy;
mod login;
mod network;
mod patient;
mod target;
