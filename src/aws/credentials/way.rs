//! How credentials are had, as the files of the AWS configuration say.

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileSet};
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use tracing::debug;

use super::super::Error;
use super::super::endpoint::Service;
use super::super::signed::Endpoint;
use super::account::{self, Selected};
use super::cache::Cache;
use super::chain::{Base, Chain};
use super::roles::Roles;
use crate::ssm::api::Unavailable;

/// A way to credentials.
pub(super) enum Way {
    /// As the SDK does.
    Sdk(SharedCredentialsProvider),
    /// By roles of which one at least wants a code.
    Roles(Box<Roles>),
}

impl Way {
    /// How credentials are had, as the files say now.
    pub(super) async fn of(selected: &Selected, config: &SdkConfig) -> Result<Self, Error> {
        if selected.uses_environment() {
            return Ok(Self::Sdk(sdk(selected, config).await));
        }
        let profiles = account::read(selected.name()).await?;
        let chain = match Chain::of(&profiles, selected.name()) {
            Ok(chain) if chain.needs_code() => chain,
            Ok(_) => return Ok(Self::Sdk(sdk(selected, config).await)),
            Err(error) => {
                let [config, _] = account::paths();
                let remedy = format!("mend it in {}", config.display());
                return Err(Unavailable::new(error.to_string(), remedy).into());
            }
        };
        debug!(?chain, "roles that want a code");
        let region = config.region().map(ToString::to_string);
        let region = region.ok_or(Error::MissingRegion)?;
        let sts = Endpoint::new(config, &region, Service::Sts)?;
        let base = base(&chain.base, &profiles, config)?;
        let cache = account::home().map(|home| Cache::below(&home));
        let roles = Roles::new(base, chain.links, cache, sts);
        Ok(Self::Roles(Box::new(roles)))
    }
}

/// The SDK's chain, without the environment where a profile was named for us.
async fn sdk(selected: &Selected, config: &SdkConfig) -> SharedCredentialsProvider {
    let region = config.region().cloned();
    let config = provider_config(config);
    if !selected.is_explicit() {
        let chain = DefaultCredentialsChain::builder()
            .configure(config)
            .profile_name(selected.name())
            .region(region);
        return SharedCredentialsProvider::new(chain.build().await);
    }
    let profile = ProfileFileCredentialsProvider::builder()
        .configure(&config)
        .profile_name(selected.name())
        .build();
    let container = EcsCredentialsProvider::builder().configure(&config).build();
    let machine = ImdsCredentialsProvider::builder()
        .configure(&config)
        .build();
    SharedCredentialsProvider::new(
        CredentialsProviderChain::first_try("Profile", profile)
            .or_else("EcsContainer", container)
            .or_else("Ec2InstanceMetadata", machine),
    )
}

/// What the first role is assumed with.
fn base(
    base: &Base,
    profiles: &ProfileSet,
    config: &SdkConfig,
) -> Result<SharedCredentialsProvider, Error> {
    let config = provider_config(config);
    Ok(match base {
        Base::Profile(name) => SharedCredentialsProvider::new(
            ProfileFileCredentialsProvider::builder()
                .configure(&config)
                .profile_name(name)
                .build(),
        ),
        Base::KeysOf(name) => {
            let profile = profiles.get_profile(name);
            let text = |key| profile?.get(key).map(str::to_owned);
            let keys = (text("aws_access_key_id"), text("aws_secret_access_key"));
            let (Some(access_key), Some(secret_key)) = keys else {
                let problem = format!(
                    "profile `{name}` is a source_profile, but has not both aws_access_key_id and aws_secret_access_key"
                );
                let remedy = format!(
                    "`aws configure{}` sets them; or name the profile that has them as source_profile",
                    account::flag(name)
                );
                return Err(Unavailable::new(problem, remedy).into());
            };
            let token = text("aws_session_token");
            SharedCredentialsProvider::new(Credentials::new(
                access_key, secret_key, token, None, "ssmshim",
            ))
        }
        Base::Source(name) => match name.to_ascii_lowercase().as_str() {
            "environment" => {
                SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new())
            }
            "ecscontainer" => SharedCredentialsProvider::new(
                EcsCredentialsProvider::builder().configure(&config).build(),
            ),
            "ec2instancemetadata" => SharedCredentialsProvider::new(
                ImdsCredentialsProvider::builder()
                    .configure(&config)
                    .build(),
            ),
            _ => {
                let problem = format!("`{name}` is no credential_source");
                let remedy = "there are: Environment, Ec2InstanceMetadata, EcsContainer";
                return Err(Unavailable::new(problem, remedy).into());
            }
        },
    })
}

fn provider_config(config: &SdkConfig) -> ProviderConfig {
    let provider_config = ProviderConfig::without_region()
        .with_region(config.region().cloned())
        .with_use_fips(config.use_fips())
        .with_use_dual_stack(config.use_dual_stack())
        .with_behavior_version(Some(BehaviorVersion::latest()));
    match config.http_client() {
        Some(client) => provider_config.with_http_client(client),
        None => provider_config,
    }
}
