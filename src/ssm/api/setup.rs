//! What the AWS configuration says, for all services alike.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;
use aws_types::service_config::ServiceConfigKey;

use crate::net::Destination;

/// Only keeps the SDK's shorter one away: the dialler has limits of its own, and names what did not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(13);
/// For a call, with its repetitions where it has any.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Systems Manager in AWS's models.
const SERVICE_ID: &str = "SSM";

/// How long a call to any service may take, from connecting to the answer.
pub(crate) fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_timeout(CALL_TIMEOUT)
        .build()
}

/// The endpoint URL that the configuration names for the service `id` of AWS's models.
///
/// One set in code wins, then the service's own variable or profile key, then `AWS_ENDPOINT_URL`: as in the
/// SDK's clients.
pub(crate) fn configured_endpoint(config: &SdkConfig, id: &str) -> Option<String> {
    let general = || config.endpoint_url().map(str::to_owned);
    if config.get_origin("endpoint_url").is_client_config() {
        return general();
    }
    setting(config, id, "AWS_ENDPOINT_URL", "endpoint_url").or_else(general)
}

/// The host of the configured endpoint of Systems Manager, if there is one.
pub(super) fn api_host(config: &SdkConfig) -> Option<String> {
    let url = configured_endpoint(config, SERVICE_ID)?;
    let endpoint = Destination::of(&url.parse().ok()?).ok()?;
    Some(endpoint.host().to_owned())
}

/// The file of certificates to trust besides the system's, from the environment or the AWS profile.
pub(super) fn ca_bundle(config: &SdkConfig) -> Option<String> {
    setting(config, SERVICE_ID, "AWS_CA_BUNDLE", "ca_bundle")
}

/// A setting for the service `id` in the environment, as `variable`, or in the AWS profile, as `key`.
fn setting(config: &SdkConfig, id: &str, variable: &str, key: &str) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id(id)
        .env(variable)
        .profile(key)
        .build()
        .ok()?;
    config.service_config()?.load_config(key)
}
