//! What to log in with upstream, gathered in the order in which it is tried.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{debug, info};

use super::instance_connect::InstanceConnect;
use super::terminal::{Asker, Terminal};
use crate::config;
use crate::ssh::Credential;
use crate::ssh::credential::{AgentKeys, LoadError, certify, load_identity};
use crate::ssh::person::{Answer, Person};

/// Keys that OpenSSH looks for, in its order.
const DEFAULT_IDENTITIES: [&str; 3] = ["id_rsa", "id_ecdsa", "id_ed25519"];

/// What all targets log in with. An encrypted key is the same for all of them, and so its passphrase is asked for once.
pub(super) struct Keyring {
    terminal: Arc<Terminal>,
    /// The encrypted ones, by the file. As many as the configuration names.
    locked: Mutex<BTreeMap<PathBuf, Vec<Credential>>>,
}

impl Default for Keyring {
    fn default() -> Self {
        Self {
            terminal: Arc::new(Terminal::new()),
            locked: Mutex::default(),
        }
    }
}

impl Keyring {
    /// The identity files given, then the keys of the agent, then one made for each login, then, unless files
    /// were given, the default ones, and in the end whoever sits at the terminal. Certificates go before their keys.
    ///
    /// # Errors
    /// A file that was asked for and cannot be used.
    pub(super) fn gather(
        &self,
        identities: &[PathBuf],
        certificates: &[PathBuf],
        ephemeral: Option<InstanceConnect>,
        target: &str,
    ) -> Result<Vec<Credential>, LoadError> {
        let answer: Arc<dyn Answer> = Arc::new(Asker::new(Arc::clone(&self.terminal), target));
        let mut credentials = Vec::new();
        for path in identities {
            credentials.extend(self.load(path, &answer)?);
        }
        let agent = AgentKeys::of_environment();
        if agent.is_none() {
            debug!("no ssh-agent: SSH_AUTH_SOCK is not set");
        }
        credentials.extend(agent.map(Credential::Agent));
        credentials.extend(ephemeral.map(|connect| Credential::Ephemeral(Arc::new(connect))));
        if identities.is_empty() {
            credentials.extend(self.default_identities(&answer));
        }
        for path in certificates {
            certify(&mut credentials, path)?;
        }
        credentials.push(Credential::Person(Arc::new(Person::new(answer))));
        Ok(credentials)
    }

    /// The keys of `~/.ssh` that can be used. One whose public key nobody could know without the
    /// passphrase is not asked for: the target may not want it.
    fn default_identities(&self, answer: &Arc<dyn Answer>) -> Vec<Credential> {
        let mut credentials = Vec::new();
        let Ok(home) = config::home() else {
            return credentials;
        };
        for name in DEFAULT_IDENTITIES {
            let path = home.join(".ssh").join(name);
            if !path.exists() {
                continue;
            }
            match self.load(&path, answer) {
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

    /// The credentials in the file at `path`. One that had to be opened stays open, as it was then.
    fn load(&self, path: &Path, answer: &Arc<dyn Answer>) -> Result<Vec<Credential>, LoadError> {
        let mut locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = locked.get(path) {
            return Ok(known.clone());
        }
        let loaded = load_identity(path, answer)?;
        let is_locked = |credential: &Credential| matches!(credential, Credential::Locked { .. });
        if loaded.iter().any(is_locked) {
            locked.insert(path.to_owned(), loaded.clone());
        }
        Ok(loaded)
    }
}

fn is_opaque(credential: &Credential) -> bool {
    matches!(credential, Credential::Locked { key, .. } if key.public().is_none())
}
