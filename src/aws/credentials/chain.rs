//! Which role is assumed with the credentials of which, as the profiles of the AWS configuration say. Pure.

use std::fmt;

use aws_config::profile::{Profile, ProfileSet};
use thiserror::Error;

/// Longer chains are a mistake; the service's own limits are reached before.
const MAX_LINKS: usize = 16;

/// Where a chain of roles begins, and the roles in the order in which they are assumed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) base: Base,
    pub(super) links: Vec<Link>,
}

/// The credentials that the first role is assumed with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Whatever the profile of this name has: an SSO login, a process, a web identity, keys.
    Profile(String),
    /// The keys that stand in the profile of this name, beside the role that is assumed with them.
    KeysOf(String),
    /// `credential_source`.
    Source(String),
}

/// A role to assume.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// The profile that says so.
    pub(super) profile: String,
    pub(super) role_arn: String,
    pub(super) external_id: Option<String>,
    pub(super) session_name: Option<String>,
    /// The device whose code is asked for: a serial number or an ARN.
    pub(super) mfa_serial: Option<String>,
    /// `duration_seconds`; the role's default without it. What is no number counts for nothing, as in the AWS CLI.
    pub(super) duration_seconds: Option<u32>,
}

impl fmt::Debug for Link {
    /// Without the external id, which some treat as a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("profile", &self.profile)
            .field("role_arn", &self.role_arn)
            .field("mfa_serial", &self.mfa_serial)
            .finish_non_exhaustive()
    }
}

/// Profiles that lead nowhere.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum Error {
    #[error("profile `{profile}` names `{missing}` as its source_profile, which does not exist")]
    NoSuchSource { profile: String, missing: String },
    #[error("the source_profile of `{profile}` leads back to itself")]
    Circle { profile: String },
    #[error("profile `{profile}` has a role_arn, but neither source_profile nor credential_source")]
    NoSource { profile: String },
    #[error("profile `{profile}` has both source_profile and credential_source")]
    TwoSources { profile: String },
}

impl Chain {
    /// Follows `source_profile` from the profile `name`, which exists.
    ///
    /// As in the SDK and the AWS CLI: a profile with `role_arn` is a role, unless it has a web identity; keys in a
    /// source profile win over its role; a profile may be its own source, for the keys beside its role.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub(super) fn of(profiles: &ProfileSet, name: &str) -> Result<Self, Error> {
        let mut links = Vec::new();
        let mut name = name.to_owned();
        let mut referrer: Option<String> = None;
        let base = loop {
            let Some(profile) = profiles.get_profile(&name) else {
                break match referrer {
                    Some(profile) => {
                        let missing = name;
                        return Err(Error::NoSuchSource { profile, missing });
                    }
                    None => Base::Profile(name),
                };
            };
            let Some(link) = Link::of(profile) else {
                break Base::Profile(name);
            };
            if referrer.is_some() && has_keys(profile) {
                break Base::KeysOf(name);
            }
            links.push(link);
            let text = |key| profile.get(key).map(str::to_owned);
            match (text("source_profile"), text("credential_source")) {
                (Some(_), Some(_)) => return Err(Error::TwoSources { profile: name }),
                (None, None) => return Err(Error::NoSource { profile: name }),
                (None, Some(source)) => break Base::Source(source),
                (Some(own), None) if own == name => break Base::KeysOf(name),
                (Some(next), None) => {
                    let is_known = links.iter().any(|link| link.profile == next);
                    if is_known || links.len() > MAX_LINKS {
                        return Err(Error::Circle { profile: name });
                    }
                    referrer = Some(std::mem::replace(&mut name, next));
                }
            }
        };
        links.reverse();
        Ok(Self { base, links })
    }

    /// Whether somebody has to be asked for a code.
    pub(super) fn needs_code(&self) -> bool {
        self.links.iter().any(|link| link.mfa_serial.is_some())
    }
}

impl Link {
    fn of(profile: &Profile) -> Option<Self> {
        if profile.get("web_identity_token_file").is_some() {
            return None;
        }
        let text = |key| {
            let value = profile.get(key).map(str::trim);
            value.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        Some(Self {
            profile: profile.name().to_owned(),
            role_arn: text("role_arn")?,
            external_id: text("external_id"),
            session_name: text("role_session_name"),
            mfa_serial: text("mfa_serial"),
            duration_seconds: text("duration_seconds").and_then(|text| text.parse().ok()),
        })
    }
}

fn has_keys(profile: &Profile) -> bool {
    let has = |key| profile.get(key).is_some();
    has("aws_access_key_id") || has("aws_secret_access_key")
}

#[cfg(test)]
pub(super) mod tests {
    use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
    use aws_types::os_shim_internal::{Env, Fs};

    use super::*;

    /// Profiles as a configuration file has them.
    pub(in super::super) async fn profiles(text: &str) -> ProfileSet {
        let files = EnvConfigFiles::builder()
            .with_contents(EnvConfigFileKind::Config, text)
            .build();
        let (fs, env) = (Fs::from_slice(&[]), Env::from_slice(&[]));
        aws_config::profile::load(&fs, &env, &files, None)
            .await
            .unwrap()
    }

    const CONFIG: &str = "
[profile user]
aws_access_key_id = AKID
aws_secret_access_key = secret
role_arn = arn:never
source_profile = nowhere

[profile admin]
role_arn = arn:admin
source_profile = user
mfa_serial = arn:mfa/ann
duration_seconds = 7200
external_id = 42
role_session_name = ann

[profile deep]
role_arn = arn:deep
source_profile = admin
duration_seconds = soon

[profile own]
role_arn = arn:own
source_profile = own
aws_access_key_id = AKID
aws_secret_access_key = secret

[profile machine]
role_arn = arn:machine
credential_source = Ec2InstanceMetadata

[profile web]
role_arn = arn:web
web_identity_token_file = /token

[profile over-web]
role_arn = arn:over
source_profile = web

[profile a]
role_arn = arn:a
source_profile = b
[profile b]
role_arn = arn:b
source_profile = a
[profile lost]
role_arn = arn:lost
source_profile = gone
[profile alone]
role_arn = arn:alone
[profile torn]
role_arn = arn:torn
source_profile = user
credential_source = Environment
";

    #[tokio::test]
    async fn roles_are_assumed_from_the_far_end() {
        let profiles = profiles(CONFIG).await;
        let deep = Chain::of(&profiles, "deep").unwrap();
        // Not its role.
        assert_eq!(deep.base, Base::KeysOf("user".into()));
        assert!(deep.needs_code());
        let [admin, deep] = &deep.links[..] else {
            panic!("{deep:?}")
        };
        assert_eq!(
            admin,
            &Link {
                profile: "admin".into(),
                role_arn: "arn:admin".into(),
                external_id: Some("42".into()),
                session_name: Some("ann".into()),
                mfa_serial: Some("arn:mfa/ann".into()),
                duration_seconds: Some(7200),
            }
        );
        assert_eq!((deep.duration_seconds, &*deep.role_arn), (None, "arn:deep"));
        assert!(!format!("{admin:?}").contains("42"));
    }

    #[tokio::test]
    async fn every_beginning_is_known() {
        let profiles = profiles(CONFIG).await;
        for (name, base, count) in [
            ("own", Base::KeysOf("own".into()), 1),
            ("machine", Base::Source("Ec2InstanceMetadata".into()), 1),
            ("web", Base::Profile("web".into()), 0),
            ("over-web", Base::Profile("web".into()), 1),
            ("default", Base::Profile("default".into()), 0),
        ] {
            let chain = Chain::of(&profiles, name).unwrap();
            assert_eq!((chain.base, chain.links.len()), (base, count), "{name}");
        }
    }

    #[tokio::test]
    async fn what_leads_nowhere_is_named() {
        let profiles = profiles(CONFIG).await;
        let profile = |name: &str| name.to_owned();
        for (name, error) in [
            (
                "a",
                Error::Circle {
                    profile: profile("b"),
                },
            ),
            (
                "lost",
                Error::NoSuchSource {
                    profile: profile("lost"),
                    missing: "gone".into(),
                },
            ),
            (
                "alone",
                Error::NoSource {
                    profile: profile("alone"),
                },
            ),
            (
                "torn",
                Error::TwoSources {
                    profile: profile("torn"),
                },
            ),
            // The role of `user` itself, unlike where it is the source of another.
            (
                "user",
                Error::NoSuchSource {
                    profile: profile("user"),
                    missing: "nowhere".into(),
                },
            ),
        ] {
            assert_eq!(Chain::of(&profiles, name).unwrap_err(), error);
        }
    }
}
