//! Logins that take somebody: passphrases, passwords and codes, asked for on the daemon's terminal.
//!
//! Passphrases are tried against a real sshd. Passwords and codes are not, since OpenSSH has them from the system's
//! accounts (PAM), which tests leave alone: there the far end is russh.

#[path = "../common/mod.rs"]
mod common;

mod agents;
mod certificates;
mod far;
mod foreign;
mod host_keys;
mod passphrases;
mod passwords;
