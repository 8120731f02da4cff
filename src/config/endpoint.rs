//! What `serve` is: one endpoint, and the targets that login names lead to.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::file::File;
use super::resolved::{
    Access, Overrides, Serve, UsageError, check_listen, expand_home, home, seconds, state_directory,
};

/// The port of the endpoint unless something else is said.
const DEFAULT_PORT: u16 = 2222;

/// How long a target that a login name has selected is kept after its last connection, unless something else is said.
const DEFAULT_IDLE_SECONDS: u64 = 600;

/// Everything `serve` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of `File`, with defaults filled in"
)]
pub struct Endpoint {
    pub listen: SocketAddr,
    pub access: Access,
    pub authorized_keys: PathBuf,
    pub host_key: PathBuf,
    pub idle: Duration,
    /// The target of names that select none, in the words it was given in.
    pub target: Option<String>,
    /// Flags and environment.
    said: File,
    file: File,
}

impl Endpoint {
    /// Puts flags, environment, file and defaults together.
    ///
    /// # Errors
    /// See [`UsageError`].
    pub fn resolve(overrides: Overrides) -> Result<Self, UsageError> {
        let file = overrides.load_file()?;
        Self::merge(overrides, file)
    }

    fn merge(overrides: Overrides, file: File) -> Result<Self, UsageError> {
        let said = overrides.values;
        let access = said.access.or(file.access).unwrap_or_default();
        let listen = said
            .listen
            .or(file.listen)
            .unwrap_or_else(|| (Ipv4Addr::LOCALHOST, DEFAULT_PORT).into());
        check_listen(listen, access, overrides.allow_remote_clients)?;
        let idle = said.idle_seconds.or(file.idle_seconds);
        let endpoint = Self {
            listen,
            access,
            authorized_keys: match said
                .authorized_keys
                .as_ref()
                .or(file.authorized_keys.as_ref())
            {
                Some(path) => expand_home(path),
                None => home()?.join(".ssh/authorized_keys"),
            },
            host_key: match said.host_key.as_ref().or(file.host_key.as_ref()) {
                Some(path) => expand_home(path),
                None => state_directory()?.join("host_key"),
            },
            idle: seconds(idle.unwrap_or(DEFAULT_IDLE_SECONDS)),
            target: said.target.as_ref().or(file.target.as_ref()).cloned(),
            said,
            file,
        };
        // What is wrong for one target is wrong for all, and better said at once.
        endpoint.toward("")?;
        Ok(endpoint)
    }

    /// How to reach `wanted`: an alias, with what is different there, or a target in any other form.
    ///
    /// Flags and environment stand beside [`Endpoint::target`]. What another alias says of itself is not theirs to
    /// change: its name is not to lead into another account, or to another user.
    ///
    /// # Errors
    /// [`UsageError::NoHome`].
    pub fn toward(&self, wanted: &str) -> Result<Serve, UsageError> {
        let mut said = self.said.clone();
        if self.target.as_deref() != Some(wanted)
            && let Some(alias) = self.file.targets.get(wanted)
        {
            said.yield_to(alias);
        }
        Serve::merge(wanted.to_owned(), said, self.file.clone())
    }

    /// The names of `[targets.NAME]`, in alphabetical order.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.file.targets.keys().map(String::as_str)
    }

    /// Whether `[targets.NAME]` is there.
    pub fn has_alias(&self, name: &str) -> bool {
        self.file.targets.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn endpoint(said: File, text: &str) -> Result<Endpoint, UsageError> {
        let overrides = Overrides {
            values: said,
            ..Overrides::default()
        };
        Endpoint::merge(overrides, File::parse(text).unwrap())
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let said = File {
            idle_seconds: Some(5),
            ..File::default()
        };
        let endpoint = endpoint(said, "target = \"web\"\nidle_seconds = 7").unwrap();
        assert_eq!(endpoint.listen, "127.0.0.1:2222".parse().unwrap());
        assert_eq!(endpoint.idle, Duration::from_secs(5));
        assert_eq!(endpoint.target.as_deref(), Some("web"));
    }

    #[test]
    fn a_target_is_optional_and_others_can_be_reached() {
        let text = "user = \"me\"\n[targets.db]\ntarget = \"i-1\"\nuser = \"postgres\"\n\
            [targets.app]\ntarget = \"i-2\"";
        let endpoint = endpoint(File::default(), text).unwrap();
        assert_eq!(endpoint.target, None);
        assert_eq!(endpoint.idle, Duration::from_secs(600));
        assert_eq!(endpoint.aliases().collect::<Vec<_>>(), ["app", "db"]);
        assert!(endpoint.has_alias("db") && !endpoint.has_alias("i-1"));
        for (wanted, target, user) in [
            ("db", "i-1", "postgres"),
            ("app", "i-2", "me"),
            ("i-3", "i-3", "me"),
        ] {
            let serve = endpoint.toward(wanted).unwrap();
            assert_eq!(
                (serve.target.as_str(), serve.user.as_deref()),
                (target, Some(user))
            );
        }
    }

    #[test]
    fn flags_are_for_the_target_beside_them() {
        let said = |target: Option<&str>| File {
            target: target.map(str::to_owned),
            user: Some("me".into()),
            profile: Some("dev".into()),
            region: Some("eu-west-1".into()),
            ssh_port: Some(2022),
            identity: vec!["flag".into()],
            ..File::default()
        };
        let text = "[targets.db]\ntarget = \"postgres\"\nprofile = \"prod\"\nuser = \"ro\"\n\
            [targets.app]\ntarget = \"app-1\"\nregion = \"us-east-1\"\nssh_port = 22\nidentity = [\"own\"]";
        let toward = |target: Option<&str>, wanted: &str| {
            let endpoint = endpoint(said(target), text).unwrap();
            let serve = endpoint.toward(wanted).unwrap();
            format!(
                "{} {}@{} {} port {} by {}",
                serve.profile.unwrap_or_default(),
                serve.user.unwrap_or_default(),
                serve.target,
                serve.region.unwrap_or_default(),
                serve.ssh_port,
                serve.identity[0].display(),
            )
        };
        for (target, wanted, reached) in [
            // The target beside the flags, wanted, and what that is.
            (Some("web"), "web", "dev me@web eu-west-1 port 2022 by flag"),
            (Some("web"), "i-1", "dev me@i-1 eu-west-1 port 2022 by flag"),
            (
                Some("web"),
                "db",
                "prod ro@postgres eu-west-1 port 2022 by flag",
            ),
            (Some("web"), "app", "dev me@app-1 us-east-1 port 22 by own"),
            (None, "db", "prod ro@postgres eu-west-1 port 2022 by flag"),
            (
                Some("db"),
                "db",
                "dev me@postgres eu-west-1 port 2022 by flag",
            ),
        ] {
            assert_eq!(toward(target, wanted), reached, "{target:?} {wanted}");
        }
    }

    #[test]
    fn the_sample_configuration_is_one() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/config.toml");
        let text = std::fs::read_to_string(Path::new(sample)).unwrap();
        let endpoint = endpoint(File::default(), &text).unwrap();
        endpoint.toward("db").unwrap();
    }
}
