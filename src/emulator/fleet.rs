//! The emulated machines as they are described in a file: `ssmshim emulator --instances FILE`.
//!
//! ```json
//! [
//!   { "id": "i-0123456789abcdef0", "name": "web-1",
//!     "details": { "tags": { "Name": "web-1", "env": "prod" }, "platform_name": "Ubuntu" } },
//!   { "id": "i-0fedcba9876543210", "name": "ip-10-0-0-8", "agent": false,
//!     "details": { "state": "stopped", "managed": false } }
//! ]
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use super::Instance;

/// What AWS tells of a machine beyond its id; the defaults are a running Linux instance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Details {
    /// Tags of the instance; without any, the machine's name is its `Name`.
    pub tags: BTreeMap<String, String>,
    /// `Linux`, `Windows` or `MacOS`; none leaves it to what the agent says.
    pub platform_type: Option<String>,
    /// Such as `Ubuntu`.
    pub platform_name: String,
    /// Such as `24.04`.
    pub platform_version: String,
    /// Version of the agent, as the list tells it; none leaves it to what the agent says.
    pub agent_version: Option<String>,
    /// Private address.
    pub address: IpAddr,
    /// Private DNS name, in EC2.
    pub dns_name: Option<String>,
    /// State in EC2.
    pub state: String,
    /// Whether Systems Manager has ever heard of it.
    pub managed: bool,
    /// Seconds since a machine without an agent was last heard of.
    pub lost_seconds: Option<u64>,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            tags: BTreeMap::new(),
            platform_type: None,
            platform_name: "ssmshim emulator".into(),
            platform_version: env!("CARGO_PKG_VERSION").into(),
            agent_version: None,
            address: Ipv4Addr::LOCALHOST.into(),
            dns_name: None,
            state: "running".into(),
            managed: true,
            lost_seconds: None,
        }
    }
}

impl Instance {
    /// Reads a list of machines, in JSON.
    ///
    /// # Errors
    /// Where and why `text` is no such list; unknown members are errors.
    pub fn read_list(text: &str) -> Result<Vec<Self>, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The tags, as far as there are any.
    pub(crate) fn tags(&self) -> BTreeMap<String, String> {
        if self.details.tags.is_empty() {
            BTreeMap::from([("Name".to_owned(), self.name.clone())])
        } else {
            self.details.tags.clone()
        }
    }

    /// Whether EC2 knows it too.
    pub(crate) fn is_ec2(&self) -> bool {
        self.id.starts_with("i-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_unknown_members_are_errors() {
        let list = r#"[{"id": "i-1", "details": {"tags": {"env": "prod"}}}, {"id": "mi-1"}]"#;
        let list = Instance::read_list(list).unwrap();
        assert_eq!(list[0].tags()["env"], "prod");
        assert_eq!(list[1].tags()["Name"], "emulated");
        assert!(list[1].agent && !list[1].is_ec2());
        for wrong in ["{}", r#"[{"ID": "i-1"}]"#, r#"[{"details": {"tag": {}}}]"#] {
            assert!(Instance::read_list(wrong).is_err(), "{wrong}");
        }
    }
}
