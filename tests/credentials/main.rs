//! Where credentials come from, end to end: every source that the AWS configuration can name, against the emulated
//! STS and SSO, and what a person is told when one fails.
//!
//! The AWS CLI's side is played by botocore, the library that it is made of.

#[path = "../common/mod.rs"]
mod common;

mod account;
mod cli;
mod endpoints;
mod machine;
mod mfa;
mod sources;
mod sso;
