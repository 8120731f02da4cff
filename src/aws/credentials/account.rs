//! Which profile and region are meant.

use std::path::PathBuf;

use aws_config::profile::ProfileSet;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_types::os_shim_internal::{Env, Fs};

use super::super::Error;
use crate::report::one_line;
use crate::ssm::api::Unavailable;

/// Names that are listed in a hint.
const LISTED: usize = 12;

/// What of AWS is meant, as far as somebody has said so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The profile; otherwise that of the environment.
    pub profile: Option<String>,
    /// The region; otherwise that of the environment or of the profile.
    pub region: Option<String>,
}

/// The profile in use, and the right of other sources to come before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::aws) struct Selected {
    pub(super) name: String,
    /// Named for this program: then keys in the environment are not meant, as in the AWS CLI.
    is_explicit: bool,
    /// Named at all, if only by `AWS_PROFILE`: then it has to exist.
    is_named: bool,
}

impl Account {
    /// The profile in use.
    ///
    /// # Errors
    /// The files cannot be read, or there is no such profile.
    pub(in crate::aws) async fn select(&self) -> Result<Selected, Error> {
        let selected = self.selected();
        let profiles = read(&selected.name).await?;
        let exists = profiles.get_profile(&selected.name).is_some();
        let is_needed =
            selected.is_named && !(selected.uses_environment() || selected.name == "default");
        if !exists && is_needed {
            return Err(missing(&selected.name, &profiles).into());
        }
        Ok(selected)
    }

    pub(super) fn selected(&self) -> Selected {
        let named = self.profile.clone().or_else(|| variable("AWS_PROFILE"));
        Selected {
            is_explicit: self.profile.is_some(),
            is_named: named.is_some(),
            name: named.unwrap_or_else(|| "default".into()),
        }
    }
}

impl Selected {
    /// Whether it was named for this program: then the environment says nothing about credentials.
    pub(super) fn is_explicit(&self) -> bool {
        self.is_explicit
    }

    /// Whether keys in the environment come before the profile.
    pub(super) fn uses_environment(&self) -> bool {
        let has = |name| variable(name).is_some();
        !self.is_explicit && has("AWS_ACCESS_KEY_ID") && has("AWS_SECRET_ACCESS_KEY")
    }

    /// Its name; `default` where nobody has named one.
    pub(in crate::aws) fn name(&self) -> &str {
        &self.name
    }

    /// ` --profile NAME`, or nothing where the AWS CLI needs none.
    pub(super) fn flag(&self) -> String {
        match self.is_explicit && self.name == "default" {
            // The environment may mean something else.
            true => " --profile default".to_owned(),
            false => flag(&self.name),
        }
    }
}

pub(super) fn flag(profile: &str) -> String {
    match profile {
        "default" => String::new(),
        name if name.chars().all(is_plain) => format!(" --profile {name}"),
        name => format!(" --profile '{}'", name.replace('\'', r"'\''")),
    }
}

/// Whether a shell takes `character` for itself.
fn is_plain(character: char) -> bool {
    character.is_alphanumeric() || "-_.:/@%+=,".contains(character)
}

/// The files of the AWS configuration, with `profile` selected in them.
///
/// # Errors
/// A file cannot be read, or not be understood.
pub(super) async fn read(profile: &str) -> Result<ProfileSet, Error> {
    let (fs, env) = (Fs::real(), Env::real());
    let files = EnvConfigFiles::default();
    let name = Some(profile.to_owned().into());
    let profiles = aws_config::profile::load(&fs, &env, &files, name).await;
    profiles.map_err(|error| {
        let [config, keys] = paths().map(|path| path.display().to_string());
        Unavailable::new(
            format!("the AWS configuration cannot be read: {}", one_line(&error)),
            format!("mend {config} or {keys}"),
        )
        .into()
    })
}

/// The files that are read: configuration and credentials.
pub(super) fn paths() -> [PathBuf; 2] {
    let path = |name, usual| match variable(name) {
        Some(path) => below_home(&path, home()),
        None => home().unwrap_or_default().join(usual),
    };
    [
        path("AWS_CONFIG_FILE", ".aws/config"),
        path("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
    ]
}

/// `path`, whose `~` nobody has replaced: a service's environment knows no shell.
fn below_home(path: &str, home: Option<PathBuf>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// Where the AWS CLI has its files.
pub(super) fn home() -> Option<PathBuf> {
    variable("HOME").map(PathBuf::from)
}

pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A profile that does not exist, and those that do.
fn missing(name: &str, profiles: &ProfileSet) -> Unavailable {
    let problem = format!("there is no AWS profile `{name}`");
    let [config, _] = paths();
    let remedy = match list(profiles) {
        Some(names) => format!("there are: {names}"),
        None => format!(
            "`aws configure{}` makes one; {} has none",
            flag(name),
            config.display()
        ),
    };
    Unavailable::new(problem, remedy)
}

/// The names of the first profiles, in order.
pub(super) fn list(profiles: &ProfileSet) -> Option<String> {
    let mut names: Vec<_> = profiles.profiles().collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    let mut text = names.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::chain::tests::profiles;
    use super::*;

    #[tokio::test]
    async fn a_missing_profile_names_those_there_are() {
        let some = profiles("[default]\nregion = x\n[profile work]\nregion = x\n").await;
        let error = missing("wrok", &some);
        assert_eq!(error.to_string(), "there is no AWS profile `wrok`");
        assert_eq!(error.hint(), "there are: default, work");
        let many: String = (10..30)
            .map(|n| format!("[profile p{n}]\nregion = x\n"))
            .collect();
        let error = missing("p", &profiles(&many).await);
        assert!(
            error.hint().ends_with("p20, p21 and 8 more"),
            "{}",
            error.hint()
        );
        let error = missing("a b", &profiles("").await);
        assert!(
            error
                .hint()
                .starts_with("`aws configure --profile 'a b'` makes one")
        );
    }

    #[test]
    fn commands_are_those_that_a_shell_understands() {
        for (name, flag) in [
            ("default", ""),
            ("work-1/eu.dev@corp", " --profile work-1/eu.dev@corp"),
            ("b\u{fc}ro", " --profile b\u{fc}ro"),
            ("it's $HOME", r" --profile 'it'\''s $HOME'"),
        ] {
            assert_eq!(super::flag(name), flag);
        }
    }

    #[test]
    fn a_home_is_found_as_the_sdk_finds_it() {
        let home = || Some(PathBuf::from("/home/ann"));
        assert_eq!(
            below_home("~/aws/config", home()),
            Path::new("/home/ann/aws/config")
        );
        assert_eq!(below_home("~ann/config", home()), Path::new("~ann/config"));
        assert_eq!(below_home("~/config", None), Path::new("~/config"));
    }
}
