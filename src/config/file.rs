//! The configuration file as it is written.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::resolved::{Access, StrictHostKey};
use crate::net::Destination;

/// `config.toml`: every key optional, unknown keys are errors. `examples/config.toml` shows them all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The managed machine to reach.
    pub target: Option<String>,
    /// Address of the local endpoint.
    pub listen: Option<SocketAddr>,
    /// User on the target.
    pub user: Option<String>,
    /// Private keys; `~/` is the home directory.
    #[serde(default)]
    pub identity: Vec<PathBuf>,
    /// OpenSSH certificates of those keys, or of keys of the agent.
    #[serde(default)]
    pub certificate: Vec<PathBuf>,
    /// Port of the target's sshd.
    pub ssh_port: Option<u16>,
    /// AWS profile.
    pub profile: Option<String>,
    /// AWS region.
    pub region: Option<String>,
    /// What takes the place of scheme, host and port in every StreamUrl.
    pub ssmmessages_endpoint: Option<Destination>,
    /// Who may log in at the local endpoint.
    pub access: Option<Access>,
    /// Keys of those who may, with `access = "keys"`.
    pub authorized_keys: Option<PathBuf>,
    /// Host key of the local endpoint.
    pub host_key: Option<PathBuf>,
    /// Host keys of targets.
    pub known_hosts: Option<PathBuf>,
    /// Whether unknown host keys of targets are accepted.
    pub strict_host_key: Option<StrictHostKey>,
    /// Seconds that a client waits for the target.
    pub hold_seconds: Option<u64>,
    /// Seconds that a target which a login name has selected is kept after its last connection.
    pub idle_seconds: Option<u64>,
    /// Names of one's own for targets: `[targets.NAME]`.
    #[serde(default)]
    pub targets: BTreeMap<String, Alias>,
}

/// `[targets.NAME]`: a target under a name of one's own, and what is different there.
///
/// What it says wins over the rest of the file. Flags and environment win over it where it is the target that they are
/// given with, and not where a login name selects it: they are meant for the other one then.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// The machine, in any form that a target has; not another alias.
    pub target: String,
    /// User on it.
    pub user: Option<String>,
    /// Private keys for it; `~/` is the home directory.
    #[serde(default)]
    pub identity: Vec<PathBuf>,
    /// Port of its sshd.
    pub ssh_port: Option<u16>,
    /// AWS profile to reach it with.
    pub profile: Option<String>,
    /// AWS region that it is in.
    pub region: Option<String>,
}

/// A configuration file that cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not TOML, or holds a key or value that means nothing here.
    #[error("cannot use {}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

impl File {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// Where and why it is not a configuration.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// See [`enum@Error`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
            path: path.into(),
            source,
        })?;
        Self::parse(&text).map_err(|source| Error::Invalid {
            path: path.into(),
            source: Box::new(source),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_errors() {
        let error = File::parse("lisen = \"127.0.0.1:22\"").unwrap_err();
        assert!(error.to_string().contains("lisen"), "{error}");
    }

    #[test]
    fn an_endpoint_is_a_url_without_a_path() {
        let file = File::parse("ssmmessages_endpoint = \"https://vpce-1.example\"").unwrap();
        let endpoint = file.ssmmessages_endpoint.unwrap();
        assert_eq!(endpoint.to_string(), "https://vpce-1.example:443");
        for url in ["vpce-1.example", "https://vpce-1.example/path"] {
            assert!(File::parse(&format!("ssmmessages_endpoint = \"{url}\"")).is_err());
        }
    }

    #[test]
    fn an_alias_needs_a_target_and_knows_its_keys() {
        let file = File::parse("[targets.web]\ntarget = \"i-1\"\nuser = \"admin\"").unwrap();
        assert_eq!(file.targets["web"].user.as_deref(), Some("admin"));
        for wrong in [
            "[targets.web]\nuser = \"x\"",
            "[targets.web]\ntarget = \"x\"\nlisten = \"y\"",
        ] {
            assert!(File::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(File::parse("").unwrap(), File::default());
    }
}
