//! The session documents that StartSession knows: their parameters, and what an agent is given.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Name that stands for "no document named": the account's default shell.
const SHELL: &str = "SSM-SessionManagerRunShell";

/// A managed session document (sheet §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    /// The default shell.
    Shell,
    /// One plain TCP stream to a port, meant for ssh as a ProxyCommand.
    Ssh,
    /// Many connections to a port of the machine, over smux.
    PortForwarding,
    /// The same to a port of another host.
    PortForwardingToRemoteHost,
}

/// One parameter of a document.
#[derive(Debug, Clone, Copy)]
struct Parameter {
    name: &'static str,
    default: Option<&'static str>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Port,
    /// A port, or 0 or nothing for "any".
    LocalPort,
    Host,
}

const fn parameter(name: &'static str, default: Option<&'static str>, kind: Kind) -> Parameter {
    Parameter {
        name,
        default,
        kind,
    }
}

impl Document {
    /// Finds the document that StartSession's `DocumentName` names.
    pub(crate) fn named(name: Option<&str>) -> Option<Self> {
        [
            Self::Shell,
            Self::Ssh,
            Self::PortForwarding,
            Self::PortForwardingToRemoteHost,
        ]
        .into_iter()
        .find(|document| document.name() == name.unwrap_or(SHELL))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shell => SHELL,
            Self::Ssh => "AWS-StartSSHSession",
            Self::PortForwarding => "AWS-StartPortForwardingSession",
            Self::PortForwardingToRemoteHost => "AWS-StartPortForwardingSessionToRemoteHost",
        }
    }

    /// Whether the session is of type Port, the only one that the embedded agent runs.
    pub(crate) fn is_port(self) -> bool {
        self != Self::Shell
    }

    fn parameters(self) -> &'static [Parameter] {
        const SSH_PORT: Parameter = parameter("portNumber", Some("22"), Kind::Port);
        const PORT: Parameter = parameter("portNumber", Some("80"), Kind::Port);
        const LOCAL_PORT: Parameter = parameter("localPortNumber", Some("0"), Kind::LocalPort);
        const HOST: Parameter = parameter("host", None, Kind::Host);
        match self {
            Self::Shell => &[],
            Self::Ssh => &[SSH_PORT],
            Self::PortForwarding => &[PORT, LOCAL_PORT],
            Self::PortForwardingToRemoteHost => &[HOST, PORT, LOCAL_PORT],
        }
    }

    /// Checks the caller's parameters and reduces each to its single value.
    ///
    /// # Errors
    /// A sentence for the caller: an unknown or missing parameter, or a value that is not one.
    pub(crate) fn bind(
        self,
        given: BTreeMap<String, Vec<String>>,
    ) -> Result<BTreeMap<String, String>, String> {
        let mut bound = BTreeMap::new();
        for (name, values) in given {
            let Some(parameter) = self.parameters().iter().find(|known| known.name == name) else {
                return Err(format!(
                    "document {} has no parameter \"{name}\"",
                    self.name()
                ));
            };
            let [value] = <[String; 1]>::try_from(values)
                .map_err(|_| format!("parameter \"{name}\" takes exactly one value"))?;
            parameter.check(&value)?;
            bound.insert(name, value);
        }
        for parameter in self.parameters() {
            if parameter.default.is_none() && !bound.contains_key(parameter.name) {
                return Err(format!("parameter \"{}\" is required", parameter.name));
            }
        }
        Ok(bound)
    }

    /// The document as the agent gets it: placeholders and defaults are for the agent to resolve.
    pub(crate) fn content(self) -> Value {
        let (session_type, mut properties) = match self {
            Self::Shell => ("Standard_Stream", None),
            Self::Ssh => ("Port", Some(json!({}))),
            Self::PortForwarding | Self::PortForwardingToRemoteHost => {
                ("Port", Some(json!({ "type": "LocalPortForwarding" })))
            }
        };
        let mut parameters = json!({});
        for parameter in self.parameters() {
            let mut declared = json!({ "type": "String" });
            if let Some(default) = parameter.default {
                declared["default"] = default.into();
            }
            parameters[parameter.name] = declared;
            if let Some(properties) = &mut properties {
                properties[parameter.name] = format!("{{{{ {} }}}}", parameter.name).into();
            }
        }
        json!({
            "schemaVersion": "1.0",
            "description": self.name(),
            "sessionType": session_type,
            "inputs": {},
            "parameters": parameters,
            "properties": properties,
        })
    }
}

impl Parameter {
    fn check(&self, value: &str) -> Result<(), String> {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let valid = match self.kind {
            Kind::Port => digits && value.parse::<u16>().is_ok_and(|port| port != 0),
            Kind::LocalPort => value.is_empty() || digits && value.parse::<u16>().is_ok(),
            Kind::Host => {
                (1..=253).contains(&value.len())
                    && value.bytes().all(|byte| byte.is_ascii_graphic())
            }
        };
        if valid {
            return Ok(());
        }
        let expected = match self.kind {
            Kind::Port => "a port from 1 to 65535",
            Kind::LocalPort => "a port from 0 to 65535",
            Kind::Host => "a host name or address",
        };
        Err(format!(
            "parameter \"{}\" must be {expected}, not \"{}\"",
            self.name,
            value.escape_debug()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        pairs
            .iter()
            .map(|(name, values)| {
                let values = values.iter().map(ToString::to_string).collect();
                (name.to_string(), values)
            })
            .collect()
    }

    #[test]
    fn names_find_documents() {
        assert_eq!(Document::named(None), Some(Document::Shell));
        assert_eq!(
            Document::named(Some("AWS-StartSSHSession")),
            Some(Document::Ssh)
        );
        assert_eq!(Document::named(Some("AWS-StartSshSession")), None);
    }

    #[test]
    fn parameters_are_checked() {
        type Given = &'static [(&'static str, &'static [&'static str])];
        let cases: &[(Document, Given, bool)] = &[
            (Document::Ssh, &[], true),
            (Document::Ssh, &[("portNumber", &["22"])], true),
            (Document::Ssh, &[("portNumber", &["0"])], false),
            (Document::Ssh, &[("portNumber", &["65536"])], false),
            (Document::Ssh, &[("portNumber", &["+22"])], false),
            (Document::Ssh, &[("portNumber", &["22", "23"])], false),
            (Document::Ssh, &[("portNumber", &[])], false),
            (Document::Ssh, &[("localPortNumber", &["0"])], false),
            (
                Document::PortForwarding,
                &[("localPortNumber", &["0"])],
                true,
            ),
            (
                Document::PortForwarding,
                &[("localPortNumber", &[""])],
                true,
            ),
            (Document::PortForwardingToRemoteHost, &[], false),
            (
                Document::PortForwardingToRemoteHost,
                &[("host", &["db"])],
                true,
            ),
            (
                Document::PortForwardingToRemoteHost,
                &[("host", &["a b"])],
                false,
            ),
            (Document::Shell, &[("command", &["id"])], false),
        ];
        for (document, parameters, valid) in cases {
            let bound = document.bind(given(parameters));
            assert_eq!(
                bound.is_ok(),
                *valid,
                "{document:?} {parameters:?}: {bound:?}"
            );
        }
    }

    #[test]
    fn properties_are_placeholders() {
        let content = Document::PortForwarding.content();
        assert_eq!(content["properties"]["portNumber"], "{{ portNumber }}");
        assert_eq!(content["properties"]["type"], "LocalPortForwarding");
        assert_eq!(content["parameters"]["portNumber"]["default"], "80");
        assert!(Document::Ssh.content()["properties"].get("type").is_none());
        assert!(Document::Shell.content()["properties"].is_null());
    }
}
