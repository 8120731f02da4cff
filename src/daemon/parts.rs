//! The parts of a connection as `serve` puts them together, one by one, for who examines them.

use std::sync::Arc;

use super::credentials::Keyring;
use super::instance_connect::InstanceConnect;
use super::{fleet, known_hosts, wanted};
use crate::aws::Aws;
use crate::config::Serve;
use crate::ssh::credential::LoadError;
use crate::ssh::{Credential, KnownHosts};
use crate::ssm::{Journal, Ssm};
use crate::target::Machine;
use crate::upstream::Users;

/// Who to log in as on `machine`.
pub(crate) fn users(config: &Serve, machine: &Machine) -> Users {
    wanted::users_on(config, machine)
}

/// What to log in with on `machine`, in the order in which it is tried.
///
/// # Errors
/// A file that was asked for and cannot be used.
pub(crate) fn credentials(
    config: &Serve,
    aws: &Aws,
    machine: &Machine,
) -> Result<Vec<Credential>, LoadError> {
    Keyring::default().gather(
        &config.identity,
        &config.certificate,
        InstanceConnect::of(aws, &machine.id),
        &config.target,
    )
}

/// Where the host key of `machine` is known from.
pub(crate) fn known_hosts(config: &Serve, machine: &Machine) -> KnownHosts {
    known_hosts::of(config, &machine.id)
}

/// Where the SSM sessions of this process are written down, if that is possible.
pub(crate) fn journal(config: &Serve, ssm: &Ssm) -> Option<Arc<dyn Journal>> {
    fleet::journal(fleet::place(config, ssm)).map(|journal| journal as _)
}
