//! AWS Systems Manager Session Manager.

pub mod protocol;
