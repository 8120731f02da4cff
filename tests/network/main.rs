//! The way out: TLS and proxies as they are in the world, and where it must never lead.
//!
//! Squid stands between the daemon and the emulator, with a table of hosts of its own, so that names which
//! nobody else knows lead there; microsocks is the SOCKS proxy. TLS is real too: a front with a certificate of
//! a throw-away authority stands before the emulator, and sees in the clear what passes.

#[path = "../common/mod.rs"]
mod common;

mod astray;
mod endpoints;
mod front;
mod proxied;
mod proxy;
mod secrets;
mod way;
