//! How credentials are had, as the files of the AWS configuration say.

use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileSet};
use aws_config::provider_config::ProviderConfig;
use aws_config::timeout::TimeoutConfig;
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

/// How long a connection to STS or SSO may take: as long as the SDK gives others.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3100);
/// How long their answers may take, with the connection. A link that swallows one would cost all of the time that there
/// is for credentials otherwise, and every resume waits for those.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

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

/// What sources of credentials are made from. They try again by themselves, over another connection, what is not answered
/// in time; processes and people have all the time that [`Source`](super::Source) gives them.
fn provider_config(config: &SdkConfig) -> ProviderConfig {
    let limits = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build();
    let provider_config = ProviderConfig::without_region()
        .with_timeout_config(limits)
        .with_region(config.region().cloned())
        .with_use_fips(config.use_fips())
        .with_use_dual_stack(config.use_dual_stack())
        .with_behavior_version(Some(BehaviorVersion::latest()));
    match config.http_client() {
        Some(client) => provider_config.with_http_client(client),
        None => provider_config,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_config::Region;
    use aws_credential_types::provider::ProvideCredentials as _;
    use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
    use aws_smithy_runtime_api::client::http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

    use super::*;

    /// Reaches nothing, and notes what was asked of it.
    #[derive(Debug, Clone, Default)]
    struct Unreachable(Arc<Mutex<Vec<HttpConnectorSettings>>>);

    impl HttpClient for Unreachable {
        fn http_connector(
            &self,
            settings: &HttpConnectorSettings,
            _: &RuntimeComponents,
        ) -> SharedHttpConnector {
            self.0.lock().unwrap().push(settings.clone());
            SharedHttpConnector::new(self.clone())
        }
    }

    impl HttpConnector for Unreachable {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            let nothing = ConnectorError::user("nothing is here".into());
            HttpConnectorFuture::ready(Err(nothing))
        }
    }

    #[tokio::test]
    async fn an_answer_of_sts_is_not_waited_for_without_end() {
        let client = Unreachable::default();
        let config = SdkConfig::builder()
            .region(Region::new("eu-central-1"))
            .http_client(client.clone())
            .build();
        let profiles = "[profile work]
            role_arn = arn:aws:iam::123456789012:role/admin
            source_profile = user
            [profile user]
            aws_access_key_id = AKIDUSER
            aws_secret_access_key = secret"
            .lines()
            .map(str::trim_start)
            .collect::<Vec<_>>()
            .join("\n");
        let profiles = EnvConfigFiles::builder()
            .with_contents(EnvConfigFileKind::Config, profiles)
            .build();
        let provider = ProfileFileCredentialsProvider::builder()
            .configure(&provider_config(&config))
            .profile_files(profiles)
            .profile_name("work")
            .build();
        provider.provide_credentials().await.unwrap_err();
        let asked = client.0.lock().unwrap();
        assert!(!asked.is_empty());
        for settings in asked.iter() {
            assert_eq!(settings.connect_timeout(), Some(CONNECT_TIMEOUT));
            assert_eq!(settings.read_timeout(), Some(READ_TIMEOUT));
        }
    }
}
