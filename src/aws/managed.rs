//! What Systems Manager says of machines, by the SDK and page by page.

use std::time::SystemTime;

use aws_sdk_ssm::types::{ConnectionStatus, InstanceInformation, InstanceInformationStringFilter};

use super::{Aws, Error, Listed, Operation};

/// Machines on one page: the most there is.
const MACHINES_PAGE: i32 = 50;
/// Pages of machines read: 10 000 machines.
const MACHINES_PAGES: usize = 200;

/// A machine that is, or was, managed by Systems Manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// `i-…` or `mi-…`.
    pub id: String,
    /// Whether its agent answers.
    pub ping: Ping,
    /// When the agent was last heard of.
    pub last_ping: Option<SystemTime>,
    /// `Linux`, `Windows` or `MacOS`.
    pub platform_type: Option<String>,
    /// Such as `Amazon Linux`.
    pub platform_name: Option<String>,
    /// Such as `2023`.
    pub platform_version: Option<String>,
    /// Version of the agent.
    pub agent_version: Option<String>,
    /// The address that the agent tells.
    pub address: Option<String>,
    /// The machine's own name, often a full one.
    pub computer_name: Option<String>,
    /// The name given at the activation of an `mi-…`.
    pub name: Option<String>,
}

/// Whether a machine's agent answers. What the service says of it is some minutes old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ping {
    /// It does.
    Online,
    /// It did.
    ConnectionLost,
    /// It has not for 30 days, or it never did.
    Inactive,
}

impl Aws {
    /// The managed machines that pass all of `filters`, such as `("InstanceIds", "i-…")` or
    /// `("tag:Name", "web-1")`; all without any.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub async fn describe_managed(
        &self,
        filters: &[(&str, &str)],
    ) -> Result<Listed<Managed>, Error> {
        const OPERATION: Operation = Operation::DescribeManaged;
        self.ssm.prepare().await?;
        let filters = filters
            .iter()
            .map(|(key, value)| {
                InstanceInformationStringFilter::builder()
                    .key(*key)
                    .values(*value)
                    .build()
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::InvalidRequest(error.into()))?;
        let mut pages = self
            .describer
            .describe_instance_information()
            .set_filters((!filters.is_empty()).then_some(filters))
            .into_paginator()
            .page_size(MACHINES_PAGE)
            .send();
        let mut items = Vec::new();
        for _ in 0..MACHINES_PAGES {
            let Some(page) = pages.next().await else {
                return Ok(Listed::complete(items));
            };
            let page = page.map_err(|error| self.ssm.classify(OPERATION, error))?;
            let machines = page.instance_information_list.unwrap_or_default();
            items.extend(machines.into_iter().filter_map(Managed::read));
            if page.next_token.is_none_or(|token| token.is_empty()) {
                return Ok(Listed::complete(items));
            }
        }
        Ok(Listed::cut(items))
    }

    /// Whether a session to `target` could be started now; more up to date than [`Managed::ping`].
    ///
    /// # Errors
    /// [`enum@Error`].
    pub async fn is_connected(&self, target: &str) -> Result<bool, Error> {
        self.ssm.prepare().await?;
        let answer = self
            .describer
            .get_connection_status()
            .target(target)
            .send()
            .await
            .map_err(|error| self.ssm.classify(Operation::ConnectionStatus, error))?;
        Ok(answer.status == Some(ConnectionStatus::Connected))
    }
}

impl Managed {
    fn read(information: InstanceInformation) -> Option<Self> {
        use aws_sdk_ssm::types::PingStatus;

        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        Some(Self {
            id: text(information.instance_id)?,
            ping: match information.ping_status {
                Some(PingStatus::Online) => Ping::Online,
                Some(PingStatus::ConnectionLost) => Ping::ConnectionLost,
                _ => Ping::Inactive,
            },
            last_ping: information
                .last_ping_date_time
                .and_then(|time| time.try_into().ok()),
            platform_type: information
                .platform_type
                .map(|kind| kind.as_str().to_owned()),
            platform_name: text(information.platform_name),
            platform_version: text(information.platform_version),
            agent_version: text(information.agent_version),
            address: text(information.ip_address),
            computer_name: text(information.computer_name),
            name: text(information.name),
        })
    }
}
