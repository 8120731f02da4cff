//! DescribeInstanceInformation and GetConnectionStatus.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, Kind, epoch_seconds, is_target, page};
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
            "InstanceIds" => Some(node.instance.id.clone()),
            "PingStatus" => Some(ping_status(node).to_owned()),
            "PlatformTypes" => agent.map(|_| "Linux".to_owned()),
            "AgentVersion" => agent.map(|agent| agent.version),
            "ResourceType" => Some(resource_type(node).to_owned()),
            // Known to the service; no machine here has any.
            "ActivationIds" | "IamRole" | "AssociationStatus" | "SourceIds" | "SourceTypes" => None,
            // The one tag that a machine has is its name.
            "tag:Name" => Some(node.instance.name.clone()),
            key if key.starts_with("tag:") => None,
            "tag-key" => Some("Name".to_owned()),
            key => {
                return Err(ApiError::new(
                    Kind::InvalidFilterKey,
                    format!("{key} is not a filter key"),
                ));
            }
        };
        Ok(value.is_some_and(|value| self.values.contains(&value)))
    }
}

pub(super) fn describe(hub: &Hub, request: Describe) -> Result<Value, ApiError> {
    let mut found = Vec::new();
    'nodes: for node in hub.nodes.values() {
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
        "IPAddress": "127.0.0.1",
        "IsLatestVersion": true,
        "SourceType": "AWS::EC2::Instance",
        "SourceId": node.instance.id,
    });
    if let Some(agent) = agent {
        information["AgentVersion"] = agent.version.into();
        // The agent's own word is in lower case; the API's is not.
        information["PlatformType"] = match agent.platform.as_str() {
            "windows" => "Windows",
            "darwin" | "macos" => "MacOS",
            _ => "Linux",
        }
        .into();
        information["PlatformName"] = "ssmshim emulator".into();
        information["PlatformVersion"] = env!("CARGO_PKG_VERSION").into();
        let seen = if node.is_online() {
            SystemTime::now()
        } else {
            agent.seen
        };
        information["LastPingDateTime"] = epoch_seconds(seen).into();
    }
    information
}

fn ping_status(node: &Node) -> &'static str {
    if node.is_online() {
        "Online"
    } else if node.agent().is_some() {
        "ConnectionLost"
    } else {
        "Inactive"
    }
}

fn resource_type(node: &Node) -> &'static str {
    if node.instance.id.starts_with("mi-") {
        "ManagedInstance"
    } else {
        "EC2Instance"
    }
}
