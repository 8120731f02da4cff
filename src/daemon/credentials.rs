//! What to log in with upstream, gathered in the order in which it is tried.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::debug;
use zeroize::Zeroizing;

use super::instance_connect::InstanceConnect;
use crate::config;
use crate::ssh::Credential;
use crate::ssh::credential::{LoadError, load_identity};

/// Keys that OpenSSH looks for, in its order.
const DEFAULT_IDENTITIES: [&str; 3] = ["id_rsa", "id_ecdsa", "id_ed25519"];

/// The identity files given, or the agent without any; then what is made for one login; then, without identity
/// files, the default keys that need no passphrase.
///
/// # Errors
/// A file that was asked for and cannot be used.
pub(super) fn gather(
    identities: &[PathBuf],
    ephemeral: Option<InstanceConnect>,
) -> Result<Vec<Credential>, LoadError> {
    let mut credentials = Vec::new();
    for path in identities {
        credentials.extend(load_identity(path, &mut ask_passphrase)?);
    }
    if identities.is_empty() {
        credentials.extend(Credential::agent_of_environment());
    }
    credentials.extend(ephemeral.map(|connect| Credential::Ephemeral(Arc::new(connect))));
    if !identities.is_empty() {
        return Ok(credentials);
    }
    let Ok(home) = config::home() else {
        return Ok(credentials);
    };
    for name in DEFAULT_IDENTITIES {
        let path = home.join(".ssh").join(name);
        if !path.exists() {
            continue;
        }
        match load_identity(&path, &mut |_| None) {
            Ok(found) => credentials.extend(found),
            Err(error) => debug!(%error, "a default identity is not used"),
        }
    }
    Ok(credentials)
}

/// Asks on the terminal, if there is one.
fn ask_passphrase(path: &Path) -> Option<Zeroizing<String>> {
    if !std::io::stdin().is_terminal() {
        return None;
    }
    let prompt = format!("passphrase for {}: ", path.display());
    rpassword::prompt_password(prompt).ok().map(Zeroizing::new)
}
