//! DescribeInstanceInformation and GetConnectionStatus.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, Kind, epoch_seconds, is_target, page};
use crate::emulator::AgentVersion;
use crate::emulator::hub::Hub;
use crate::emulator::node::Node;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ConnectionStatus {
    target: String,
}

pub(super) fn connection_status(hub: &Hub, request: ConnectionStatus) -> Result<Value, ApiError> {
    if !is_target(&request.target) {
        return Err(ApiError::new(Kind::Validation, "Target is not valid"));
    }
    let online = hub.nodes.get(&request.target).is_some_and(Node::is_online);
    let status = if online { "connected" } else { "notconnected" };
    Ok(json!({ "Target": request.target, "Status": status }))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Describe {
    #[serde(default)]
    filters: Vec<Filter>,
    max_results: Option<usize>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    key: String,
    values: Vec<String>,
}

impl Filter {
    fn matches(&self, node: &Node) -> Result<bool, ApiError> {
        let agent = node.agent();
        let value = match self.key.as_str() {
            // Containers and the like are not on this list, and their ids no values.
            "InstanceIds" if !self.values.iter().all(|id| is_listed_id(id)) => {
                return Err(ApiError::new(
                    Kind::InvalidFilterValue,
                    "The specified filter value is not valid.",
                ));
            }
            "InstanceIds" => Some(node.instance.id.clone()),
            "PingStatus" => Some(ping_status(node).to_owned()),
            "PlatformTypes" => agent.map(|agent| platform_type(node, &agent.platform)),
            "AgentVersion" => agent.map(|agent| agent.version),
            "ResourceType" => Some(resource_type(node).to_owned()),
            // Known to the service; no machine here has any.
            "ActivationIds" | "IamRole" | "AssociationStatus" | "SourceIds" | "SourceTypes" => None,
            "tag-key" => {
                let tags = node.instance.tags();
                return Ok(self.values.iter().any(|key| tags.contains_key(key)));
            }
            key => match key.strip_prefix("tag:") {
                Some(tag) => node.instance.tags().remove(tag),
                None => {
                    return Err(ApiError::new(
                        Kind::InvalidFilterKey,
                        format!("{key} is not a filter key"),
                    ));
                }
            },
        };
        Ok(value.is_some_and(|value| self.values.contains(&value)))
    }
}

fn is_listed_id(id: &str) -> bool {
    id.starts_with("i-") || id.starts_with("mi-")
}

pub(super) fn describe(hub: &Hub, request: Describe) -> Result<Value, ApiError> {
    let mut found = Vec::new();
    let managed = hub
        .nodes
        .values()
        .filter(|node| node.instance.details.managed);
    'nodes: for node in managed {
        for filter in &request.filters {
            if !filter.matches(node)? {
                continue 'nodes;
            }
        }
        found.push(information(node));
    }
    let page = page(
        found,
        request.next_token.as_deref(),
        request.max_results,
        5..=50,
    )?;
    let mut answer = json!({ "InstanceInformationList": page.items });
    if let Some(token) = page.next_token {
        answer["NextToken"] = token.into();
    }
    Ok(answer)
}

fn information(node: &Node) -> Value {
    let agent = node.agent();
    let mut information = json!({
        "InstanceId": node.instance.id,
        "PingStatus": ping_status(node),
        "ResourceType": resource_type(node),
        "ComputerName": node.instance.name,
        "Name": node.instance.name,
        "IPAddress": node.instance.details.address.to_string(),
        "IsLatestVersion": false,
        "SourceType": "AWS::EC2::Instance",
        "SourceId": node.instance.id,
    });
    if let Some(agent) = agent {
        let told = node.instance.details.agent_version.clone();
        let version = told.unwrap_or(agent.version);
        let parsed = version.parse::<AgentVersion>();
        information["IsLatestVersion"] = parsed
            .is_ok_and(|version| version >= AgentVersion::default())
            .into();
        information["AgentVersion"] = version.into();
        information["PlatformType"] = platform_type(node, &agent.platform).into();
        let seen = if node.is_online() {
            SystemTime::now()
        } else {
            agent.seen
        };
        information["LastPingDateTime"] = epoch_seconds(seen).into();
    } else if let Some(seconds) = node.instance.details.lost_seconds {
        let seen = SystemTime::now().checked_sub(Duration::from_secs(seconds));
        let seen = seen.unwrap_or(SystemTime::UNIX_EPOCH);
        information["LastPingDateTime"] = epoch_seconds(seen).into();
    }
    let details = &node.instance.details;
    if node.agent().is_some() || details.lost_seconds.is_some() {
        information["PlatformName"] = details.platform_name.as_str().into();
        information["PlatformVersion"] = details.platform_version.as_str().into();
    }
    information
}

fn ping_status(node: &Node) -> &'static str {
    if node.is_online() {
        "Online"
    } else if node.agent().is_some() || node.instance.details.lost_seconds.is_some() {
        "ConnectionLost"
    } else {
        "Inactive"
    }
}

fn platform_type(node: &Node, agent: &str) -> String {
    let configured = node.instance.details.platform_type.clone();
    configured.unwrap_or_else(|| {
        // The agent's own word is in lower case; the API's is not.
        match agent {
            "windows" => "Windows",
            "darwin" | "macos" => "MacOS",
            _ => "Linux",
        }
        .to_owned()
    })
}

fn resource_type(node: &Node) -> &'static str {
    if node.instance.id.starts_with("mi-") {
        "ManagedInstance"
    } else {
        "EC2Instance"
    }
}
