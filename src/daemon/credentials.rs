//! What to log in with upstream, gathered in the order in which it is tried.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::{debug, info};

use super::instance_connect::InstanceConnect;
use super::terminal::{Asker, Terminal};
use crate::config;
use crate::ssh::Credential;
use crate::ssh::credential::{AgentKeys, LoadError, certify, load_identity};
use crate::ssh::person::{Answer, Person};

/// Keys that OpenSSH looks for, in its order.
const DEFAULT_IDENTITIES: [&str; 3] = ["id_rsa", "id_ecdsa", "id_ed25519"];

/// The identity files given, then the keys of the agent, then one made for each login, then, unless files
/// were given, the default ones, and in the end whoever sits at `terminal`. Certificates go before their keys.
///
/// # Errors
/// A file that was asked for and cannot be used.
pub(super) fn gather(
    identities: &[PathBuf],
    certificates: &[PathBuf],
    ephemeral: Option<InstanceConnect>,
    terminal: Arc<Terminal>,
    target: &str,
) -> Result<Vec<Credential>, LoadError> {
    let answer: Arc<dyn Answer> = Arc::new(Asker::new(terminal, target));
    let mut credentials = Vec::new();
    for path in identities {
        credentials.extend(load_identity(path, &answer)?);
    }
    let agent = AgentKeys::of_environment();
    if agent.is_none() {
        debug!("no ssh-agent: SSH_AUTH_SOCK is not set");
    }
    credentials.extend(agent.map(Credential::Agent));
    credentials.extend(ephemeral.map(|connect| Credential::Ephemeral(Arc::new(connect))));
    if identities.is_empty() {
        credentials.extend(default_identities(&answer));
    }
    for path in certificates {
        certify(&mut credentials, path)?;
    }
    credentials.push(Credential::Person(Arc::new(Person::new(answer))));
    Ok(credentials)
}

/// The keys of `~/.ssh` that can be used. One whose public key nobody could know without the
/// passphrase is not asked for: the target may not want it.
fn default_identities(answer: &Arc<dyn Answer>) -> Vec<Credential> {
    let mut credentials = Vec::new();
    let Ok(home) = config::home() else {
        return credentials;
    };
    for name in DEFAULT_IDENTITIES {
        let path = home.join(".ssh").join(name);
        if !path.exists() {
            continue;
        }
        match load_identity(&path, answer) {
            Ok(found) if found.iter().any(is_opaque) => info!(
                path = %path.display(),
                "not used: encrypted, and without its public key beside it"
            ),
            Ok(found) => credentials.extend(found),
            Err(error) => debug!(%error, "a default identity is not used"),
        }
    }
    credentials
}

fn is_opaque(credential: &Credential) -> bool {
    matches!(credential, Credential::Locked { key, .. } if key.public().is_none())
}
