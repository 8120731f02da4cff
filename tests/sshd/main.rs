//! The embedded sshd by itself, with the clients that people use.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking and skips in words"
)]

mod agents;
mod copies;
mod displays;
mod forwards;
mod protocol;
mod sessions;
mod world;
