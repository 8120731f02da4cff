//! A machine as Systems Manager and EC2 know it together.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::aws::ec2::Instance;
use crate::aws::managed::Managed;
pub use crate::aws::managed::Ping;

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// `i-…`, `mi-…`, or another id that sessions are started to.
    pub id: String,
    /// The tag Name, or the name given at an activation.
    pub name: Option<String>,
    /// The name that the machine has for itself.
    pub computer_name: Option<String>,
    /// Private DNS name in EC2.
    pub dns_name: Option<String>,
    /// Private address.
    pub address: Option<String>,
    /// What Systems Manager says of its agent; none when it does not know the machine.
    pub ping: Option<Ping>,
    /// When the agent was last heard of.
    pub last_ping: Option<SystemTime>,
    /// State in EC2, such as `stopped`, where EC2 was asked.
    pub state: Option<String>,
    /// `Linux`, `Windows` or `MacOS`.
    pub platform_type: Option<String>,
    /// Such as `Amazon Linux`.
    pub platform_name: Option<String>,
    /// Such as `2023`.
    pub platform_version: Option<String>,
    /// Version of the agent.
    pub agent_version: Option<String>,
}

impl Machine {
    /// A machine of which nothing but its id is known.
    pub fn unknown(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            name: None,
            computer_name: None,
            dns_name: None,
            address: None,
            ping: None,
            last_ping: None,
            state: None,
            platform_type: None,
            platform_name: None,
            platform_version: None,
            agent_version: None,
        }
    }

    /// Whether a session could be started, as far as the list tells.
    pub fn is_online(&self) -> bool {
        self.ping == Some(Ping::Online)
    }

    /// Whether Systems Manager knows it.
    pub fn is_managed(&self) -> bool {
        self.ping.is_some()
    }

    /// The platform in a few words, such as `Amazon Linux 2023`.
    pub fn platform(&self) -> Option<String> {
        let name = self
            .platform_name
            .as_ref()
            .or(self.platform_type.as_ref())?;
        Some(match &self.platform_version {
            Some(version) => format!("{name} {version}"),
            None => name.clone(),
        })
    }

    /// Whether `text` is a part of what the machine is called or known by, whatever the case.
    pub fn matches(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let words = [
            Some(&self.id),
            self.name.as_ref(),
            self.computer_name.as_ref(),
            self.dns_name.as_ref(),
            self.address.as_ref(),
            self.platform_name.as_ref(),
        ];
        words
            .into_iter()
            .flatten()
            .any(|word| word.to_lowercase().contains(&text))
    }

    /// The id, and the name if there is one: `i-… (web-1)`.
    pub fn title(&self) -> String {
        match self.name.as_ref().or(self.computer_name.as_ref()) {
            Some(name) => format!("{} ({})", self.id, printable(name)),
            None => self.id.clone(),
        }
    }

    /// Adds what EC2 knows.
    fn learn(&mut self, instance: &Instance) {
        if let Some(name) = instance.tag("Name") {
            self.name = Some(name.to_owned());
        }
        self.dns_name.clone_from(&instance.private_dns_name);
        if self.address.is_none() {
            self.address.clone_from(&instance.private_address);
        }
        if self.platform_name.is_none() && self.platform_type.is_none() {
            self.platform_type.clone_from(&instance.platform);
        }
        self.state = Some(instance.state.clone());
    }
}

impl From<Managed> for Machine {
    fn from(managed: Managed) -> Self {
        Self {
            name: managed.name,
            computer_name: managed.computer_name,
            address: managed.address,
            ping: Some(managed.ping),
            last_ping: managed.last_ping,
            platform_type: managed.platform_type,
            platform_name: managed.platform_name,
            platform_version: managed.platform_version,
            agent_version: managed.agent_version,
            ..Self::unknown(managed.id)
        }
    }
}

/// Both lists as one, managed machines first; terminated instances are left out.
pub fn merge(managed: Vec<Managed>, instances: &[Instance]) -> Vec<Machine> {
    let mut machines: Vec<Machine> = managed.into_iter().map(Machine::from).collect();
    let places: HashMap<String, usize> = (0..)
        .zip(&machines)
        .map(|(place, machine)| (machine.id.clone(), place))
        .collect();
    for instance in instances {
        let known = places.get(&instance.id);
        if let Some(known) = known.and_then(|place| machines.get_mut(*place)) {
            known.learn(instance);
        } else if instance.state != "terminated" {
            let mut machine = Machine::unknown(&instance.id);
            machine.learn(instance);
            machines.push(machine);
        }
    }
    machines
}

/// `text` without what would steer a terminal: it comes from machines and tags of others.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn managed(id: &str) -> Managed {
        Managed {
            id: id.into(),
            ping: Ping::Online,
            last_ping: None,
            platform_type: Some("Linux".into()),
            platform_name: None,
            platform_version: None,
            agent_version: None,
            address: None,
            computer_name: Some("ip-10-0-0-7".into()),
            name: None,
        }
    }

    fn instance(id: &str, state: &str) -> Instance {
        Instance {
            id: id.into(),
            state: state.into(),
            private_address: Some("10.0.0.7".into()),
            tags: vec![("Name".into(), "web\u{1b}[2J".into())],
            ..Instance::default()
        }
    }

    #[test]
    fn what_both_know_is_one_machine() {
        let instances = [
            instance("i-1", "running"),
            instance("i-2", "stopped"),
            instance("i-3", "terminated"),
        ];
        let machines = merge(vec![managed("mi-1"), managed("i-1")], &instances);
        let ids: Vec<_> = machines.iter().map(|machine| machine.id.as_str()).collect();
        assert_eq!(ids, ["mi-1", "i-1", "i-2"]);
        assert_eq!(machines[0].title(), "mi-1 (ip-10-0-0-7)");
        assert_eq!(machines[1].title(), "i-1 (web?[2J)");
        assert_eq!(machines[1].address.as_deref(), Some("10.0.0.7"));
        assert_eq!(machines[1].platform().as_deref(), Some("Linux"));
        assert!(machines[1].is_online() && !machines[2].is_managed());
        assert!(
            machines[1].matches("WEB")
                && machines[0].matches("ip-10")
                && !machines[0].matches("web")
        );
    }
}
