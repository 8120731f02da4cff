//! Calls of AWS beyond the SSM sessions themselves: which machines there are, and who we are.
//!
//! | module | what lives there |
//! |---|---|
//! | `endpoint` | where a service is, by region, partition and configuration; pure |
//! | `signed` | a signed call without an SDK: JSON 1.1 and Query, with deadline and bounded answers |
//! | [`ec2`] | DescribeInstances |
//! | [`instance_connect`] | SendSSHPublicKey |
//! | [`sts`] | GetCallerIdentity, AssumeRole |
//! | `region` | whether a name can be a region's; pure |
//! | [`credentials`] | the sources of credentials, roles with MFA among them |
//! | [`managed`] | DescribeInstanceInformation, GetConnectionStatus, by the SDK |
//!
//! The SDK crates of EC2 and its like take minutes to compile; the few calls that are needed are
//! signed here instead. They go by the same configuration as [`Ssm`]: its region, credentials
//! (resolved at each call), HTTP client, endpoint variables, and its [`enum@Error`].

pub mod credentials;
pub mod ec2;
mod endpoint;
pub mod instance_connect;
pub mod managed;
mod region;
mod signed;
pub mod sts;

use std::sync::Arc;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ssm::Client;

use self::credentials::{Account, AskCode, Source};
use self::endpoint::Service;
use self::signed::Endpoint;
use crate::ssm::Ssm;
pub use crate::ssm::api::{Error, Operation};

/// AWS in one region, as one identity; clones share connections.
#[derive(Debug, Clone)]
pub struct Aws {
    ssm: Ssm,
    /// For calls that only ask, and may be repeated.
    describer: Client,
    endpoints: Arc<Endpoints>,
}

/// Calls of one kind that the service throttles or fails are tried so often.
const ATTEMPTS: u32 = 3;

#[derive(Debug)]
struct Endpoints {
    ec2: Endpoint,
    instance_connect: Endpoint,
    sts: Endpoint,
}

impl Aws {
    /// AWS as its environment and configuration files describe `account`; `person` is asked for MFA codes.
    ///
    /// # Errors
    /// There is no such profile or region. Credentials are looked for at the first call, or by
    /// [`prepare`](Self::prepare).
    pub async fn of(account: &Account, person: Arc<dyn AskCode>) -> Result<Self, Error> {
        let selected = account.select().await?;
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).profile_name(selected.name());
        if let Some(region) = &account.region {
            loader = loader.region(Region::new(region.clone()));
        }
        let ssm = Ssm::from_source(loader, |config| {
            Source::new(selected, config.clone(), person)
        });
        let ssm = ssm.await?;
        if !ssm.has_own_endpoint() {
            region::check(ssm.region())?;
        }
        Self::new(ssm)
    }

    /// Waits until there are credentials; see [`Ssm::prepare`].
    ///
    /// # Errors
    /// Why there are none.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.ssm.prepare().await
    }

    /// Sets up beside `ssm`, with its configuration; nothing is called yet.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for a region that cannot be part of a name.
    pub fn new(ssm: Ssm) -> Result<Self, Error> {
        let endpoint = |service| Endpoint::new(ssm.config(), ssm.region(), service);
        let endpoints = Endpoints {
            ec2: endpoint(Service::Ec2)?,
            instance_connect: endpoint(Service::InstanceConnect)?,
            sts: endpoint(Service::Sts)?,
        };
        let describer = ssm.client().config().to_builder();
        let describer = describer
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .build();
        Ok(Self {
            ssm,
            describer: Client::from_conf(describer),
            endpoints: Arc::new(endpoints),
        })
    }

    /// The API of SSM sessions, with the same configuration.
    pub fn ssm(&self) -> &Ssm {
        &self.ssm
    }

    /// The URL of Systems Manager's API; none in a region that cannot be part of a name.
    pub fn api_url(&self) -> Option<String> {
        Service::Ssm.url(self.ssm.config(), self.region())
    }

    /// The URL where the message gateway usually is; the service names it anew for each session.
    pub fn gateway_url(&self) -> Option<String> {
        Service::Messages.url(self.ssm.config(), self.region())
    }

    /// The region that calls go to.
    pub fn region(&self) -> &str {
        self.ssm.region()
    }
}

/// What a call that answers in pages has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// In the service's order.
    pub items: Vec<T>,
    /// Whether these are all; false when there were more pages than are read.
    pub is_complete: bool,
}

impl<T> Listed<T> {
    fn complete(items: Vec<T>) -> Self {
        Self {
            items,
            is_complete: true,
        }
    }

    fn cut(items: Vec<T>) -> Self {
        Self {
            items,
            is_complete: false,
        }
    }
}

#[cfg(test)]
mod tests;
