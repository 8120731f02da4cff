//! The configuration as it is meant: flags over environment over file over default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use directories::{BaseDirs, ProjectDirs};
use serde::Deserialize;
use thiserror::Error;

use super::file::{self, Alias, File};
use crate::net::Destination;

/// Who may log in at the local endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Processes of the user that started the daemon, with any login name and no password.
    #[default]
    Owner,
    /// Holders of a key in the authorized keys file.
    Keys,
}

/// What happens when the target shows a host key that is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrictHostKey {
    /// It is refused.
    Yes,
    /// It is written down and accepted; one that changed later is refused.
    #[default]
    AcceptNew,
    /// Any key is accepted.
    Off,
}

/// What flags and environment say; wins over the file.
///
/// The same keys as in the file, and what only makes sense on the command line.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Values that replace those of the file.
    pub values: File,
    /// Another file than the usual one; it must exist.
    pub config: Option<PathBuf>,
    /// Listening beyond loopback is meant.
    pub allow_remote_clients: bool,
}

/// Everything that is needed to reach one target.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of `File`, with defaults filled in"
)]
pub struct Serve {
    pub target: String,
    /// None leaves it to the target's platform.
    pub user: Option<String>,
    pub identity: Vec<PathBuf>,
    pub certificate: Vec<PathBuf>,
    pub ssh_port: u16,
    pub profile: Option<String>,
    pub region: Option<String>,
    pub ssmmessages_endpoint: Option<Destination>,
    pub known_hosts: PathBuf,
    pub strict_host_key: StrictHostKey,
    pub hold: Duration,
}

/// A configuration that cannot be meant.
#[derive(Debug, Error)]
pub enum UsageError {
    /// The file is at fault.
    #[error(transparent)]
    File(#[from] file::Error),
    /// Nothing says what to reach.
    #[error("no target given")]
    NoTarget,
    /// The address can be reached by other machines, and that was not asked for.
    #[error("{0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// The policy `owner` cannot tell who is at another machine.
    #[error("clients of other machines need `--access keys`")]
    RemoteOwner,
    /// Neither `HOME` nor the user database names one.
    #[error("no home directory")]
    NoHome,
}

impl UsageError {
    /// What to type instead.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File(file::Error::Unreadable { path, .. }) => format!(
                "`ls -l '{}'` shows who may read it; --config FILE names another",
                path.display()
            ),
            Self::File(file::Error::Invalid { .. }) => {
                "examples/config.toml shows every key".into()
            }
            Self::NoTarget => {
                "ssmshim serve i-0123456789abcdef0, or a name that `ssmshim targets` shows, or \
                `target = …` in the configuration; without an AWS account: ssmshim demo"
                    .into()
            }
            Self::NotLoopback(address) => format!(
                "--listen 127.0.0.1:{0}; if other machines are meant to connect: \
                 --listen {address} --access keys --allow-remote-clients",
                address.port()
            ),
            Self::RemoteOwner => "--access keys --authorized-keys FILE".into(),
            Self::NoHome => "set HOME, or give --host-key and --known-hosts".into(),
        })
    }
}

impl Serve {
    /// Puts flags, environment, file and defaults together.
    ///
    /// # Errors
    /// See [`UsageError`].
    pub fn resolve(overrides: Overrides) -> Result<Self, UsageError> {
        let mut file = overrides.load_file()?;
        let target = overrides.values.target.clone().or(file.target.take());
        Self::merge(target.ok_or(UsageError::NoTarget)?, overrides.values, file)
    }

    /// As `said` and `file` have it for `wanted`, which may be an alias.
    pub(super) fn merge(wanted: String, said: File, mut file: File) -> Result<Self, UsageError> {
        let target = file.follow(wanted);
        let identity = if said.identity.is_empty() {
            file.identity
        } else {
            said.identity
        };
        let certificate = if said.certificate.is_empty() {
            file.certificate
        } else {
            said.certificate
        };
        let hold = said.hold_seconds.or(file.hold_seconds).unwrap_or(30);
        Ok(Self {
            target,
            user: said.user.or(file.user),
            identity: identity.iter().map(|path| expand_home(path)).collect(),
            certificate: certificate.iter().map(|path| expand_home(path)).collect(),
            ssh_port: said.ssh_port.or(file.ssh_port).unwrap_or(22),
            profile: said.profile.or(file.profile),
            region: said.region.or(file.region),
            ssmmessages_endpoint: said.ssmmessages_endpoint.or(file.ssmmessages_endpoint),
            known_hosts: match said.known_hosts.or(file.known_hosts) {
                Some(path) => expand_home(&path),
                None => state_directory()?.join("known_hosts"),
            },
            strict_host_key: said
                .strict_host_key
                .or(file.strict_host_key)
                .unwrap_or_default(),
            hold: seconds(hold),
        })
    }
}

impl Overrides {
    /// The file that is read: the one that was named, or the usual one if it is there.
    pub fn file(&self) -> Option<PathBuf> {
        let usual = || default_config_path().filter(|path| path.exists());
        self.config.clone().or_else(usual)
    }

    /// The file that was named, or the usual one if it is there.
    pub(super) fn load_file(&self) -> Result<File, file::Error> {
        match (&self.config, default_config_path()) {
            (Some(path), _) => File::load(path),
            (None, Some(path)) if path.exists() => File::load(&path),
            (None, _) => Ok(File::default()),
        }
    }
}

impl File {
    /// What `wanted` stands for if it is an alias, whose other keys then take the place of the file's.
    fn follow(&mut self, wanted: String) -> String {
        let Some(alias) = self.targets.remove(&wanted) else {
            return wanted;
        };
        self.user = alias.user.or(self.user.take());
        self.ssh_port = alias.ssh_port.or(self.ssh_port);
        self.profile = alias.profile.or(self.profile.take());
        self.region = alias.region.or(self.region.take());
        if !alias.identity.is_empty() {
            self.identity = alias.identity;
            self.certificate.clear();
        }
        alias.target
    }

    /// Takes back what `alias` says itself.
    pub(super) fn yield_to(&mut self, alias: &Alias) {
        self.user.take_if(|_| alias.user.is_some());
        self.ssh_port.take_if(|_| alias.ssh_port.is_some());
        self.profile.take_if(|_| alias.profile.is_some());
        self.region.take_if(|_| alias.region.is_some());
        if !alias.identity.is_empty() {
            self.identity.clear();
            self.certificate.clear();
        }
    }
}

/// Whom to ask at AWS, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `File`")]
pub struct Account {
    pub profile: Option<String>,
    pub region: Option<String>,
}

impl Account {
    /// Puts flags, environment and file together; a target is not needed.
    ///
    /// # Errors
    /// [`UsageError::File`].
    pub fn resolve(overrides: &Overrides) -> Result<Self, UsageError> {
        let file = overrides.load_file()?;
        let said = &overrides.values;
        Ok(Self {
            profile: said.profile.clone().or(file.profile),
            region: said.region.clone().or(file.region),
        })
    }
}

/// The name of the current user: what the environment says, or where it says nothing, as in a job of cron, the
/// password file.
pub(crate) fn own_user() -> String {
    let said = std::env::var("USER").ok();
    said.filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let account = crate::account::Account::current();
        account.name.to_string_lossy().into_owned()
    })
}

/// Whether listening on `listen` is what a careful person would mean.
///
/// # Errors
/// [`UsageError::NotLoopback`], [`UsageError::RemoteOwner`].
pub(crate) fn check_listen(
    listen: SocketAddr,
    access: Access,
    allow_remote_clients: bool,
) -> Result<(), UsageError> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    if !allow_remote_clients {
        return Err(UsageError::NotLoopback(listen));
    }
    if access != Access::Keys {
        return Err(UsageError::RemoteOwner);
    }
    Ok(())
}

/// Where host key and known hosts live: `$XDG_STATE_HOME/ssmshim` or its usual place.
///
/// # Errors
/// [`UsageError::NoHome`].
pub(crate) fn state_directory() -> Result<PathBuf, UsageError> {
    let directories = ProjectDirs::from("", "", "ssmshim").ok_or(UsageError::NoHome)?;
    let state = directories.state_dir();
    Ok(state.unwrap_or_else(|| directories.data_dir()).into())
}

fn default_config_path() -> Option<PathBuf> {
    let directories = ProjectDirs::from("", "", "ssmshim")?;
    Some(directories.config_dir().join("config.toml"))
}

/// The home directory of the current user.
pub(crate) fn home() -> Result<PathBuf, UsageError> {
    let directories = BaseDirs::new().ok_or(UsageError::NoHome)?;
    Ok(directories.home_dir().into())
}

/// As many as there can be.
pub(super) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count.min(u32::MAX.into()))
}

pub(super) fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), home()) {
        (Ok(rest), Ok(home)) => home.join(rest),
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = File::parse("target = \"i-file\"\nssh_port = 2022\nuser = \"admin\"").unwrap();
        let serve = Serve::merge("i-1".into(), File::default(), file).unwrap();
        assert_eq!(serve.target, "i-1");
        assert_eq!(
            (serve.ssh_port, serve.user.as_deref()),
            (2022, Some("admin"))
        );
        assert_eq!(serve.strict_host_key, StrictHostKey::AcceptNew);
    }

    #[test]
    fn keys_of_an_alias_take_the_place_of_keys_and_certificates() {
        let file = || {
            File::parse(
                "identity = [\"a\"]\ncertificate = [\"a-cert.pub\"]\n\
                 [targets.db]\ntarget = \"i-1\"\nidentity = [\"b\"]\n[targets.web]\ntarget = \"i-2\"\n",
            )
            .unwrap()
        };
        let keys = |name: &str, said| {
            let serve = Serve::merge(name.into(), said, file()).unwrap();
            (serve.identity, serve.certificate)
        };
        let paths = |name: &str| vec![PathBuf::from(name)];
        assert_eq!(keys("db", File::default()), (paths("b"), Vec::new()));
        assert_eq!(
            keys("web", File::default()),
            (paths("a"), paths("a-cert.pub"))
        );
        // Flags are for the usual target, and for others where the alias says nothing.
        let mut said = file();
        said.yield_to(&file().targets["db"]);
        assert_eq!(keys("db", said), (paths("b"), Vec::new()));
    }

    #[test]
    fn other_machines_are_let_in_only_when_asked_for_and_by_key() {
        let everywhere = "0.0.0.0:2222".parse().unwrap();
        let check = |access, allow| check_listen(everywhere, access, allow);
        assert!(matches!(
            check(Access::Keys, false),
            Err(UsageError::NotLoopback(_))
        ));
        assert!(matches!(
            check(Access::Owner, true),
            Err(UsageError::RemoteOwner)
        ));
        assert!(check(Access::Keys, true).is_ok());
        assert!(check_listen("[::1]:1".parse().unwrap(), Access::Owner, false).is_ok());
    }

    #[test]
    fn an_alias_wins_over_its_file_and_not_over_flags() {
        let text = "user = \"admin\"\nregion = \"eu-west-1\"\nidentity = [\"a\"]\n\
            [targets.web]\ntarget = \"tag:role=web\"\nuser = \"ubuntu\"\nssh_port = 2022\n\
            [targets.db]\ntarget = \"web\"\nidentity = [\"b\"]";
        let resolve = |wanted: &str, said| {
            Serve::merge(wanted.into(), said, File::parse(text).unwrap()).unwrap()
        };
        let web = resolve("web", File::default());
        assert_eq!(
            (web.target.as_str(), web.user.as_deref()),
            ("tag:role=web", Some("ubuntu"))
        );
        assert_eq!(
            (web.ssh_port, web.region.as_deref()),
            (2022, Some("eu-west-1"))
        );
        assert_eq!(web.identity, [PathBuf::from("a")]);
        let said = File {
            user: Some("postgres".into()),
            ..File::default()
        };
        let db = resolve("db", said);
        // An alias does not lead to another: this is a machine called `web`.
        assert_eq!(
            (db.target.as_str(), db.user.as_deref()),
            ("web", Some("postgres"))
        );
        assert_eq!((db.ssh_port, db.identity), (22, vec![PathBuf::from("b")]));
    }
}
