//! Calls of AWS beyond the SSM sessions themselves: which machines there are, and who we are.
//!
//! | module | what lives there |
//! |---|---|
//! | `endpoint` | where a service is, by region, partition and configuration; pure |
//! | `signed` | a signed call without an SDK: JSON 1.1 and Query, with deadline and bounded answers |
//! | [`ec2`] | DescribeInstances |
//! | [`instance_connect`] | SendSSHPublicKey |
//! | [`sts`] | GetCallerIdentity |
//! | [`managed`] | DescribeInstanceInformation, GetConnectionStatus, by the SDK |
//!
//! The SDK crates of EC2 and its like take minutes to compile; the few calls that are needed are
//! signed here instead. They go by the same configuration as [`Ssm`]: its region, credentials
//! (resolved at each call), HTTP client, endpoint variables, and its [`enum@Error`].

pub mod ec2;
mod endpoint;
pub mod instance_connect;
pub mod managed;
mod signed;
pub mod sts;

use std::sync::Arc;

use aws_config::retry::RetryConfig;
use aws_sdk_ssm::Client;

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
    /// Sets up beside `ssm`, with its configuration; nothing is called yet.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for a region that cannot be part of a name.
    pub fn new(ssm: Ssm) -> Result<Self, Error> {
        let endpoint = |service| Endpoint::new(&ssm, service);
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
