//! `NO_PROXY`: where no proxy is used.

use std::net::IpAddr;

use ipnet::IpNet;

use super::destination::Destination;

/// The exceptions, as Go's `httpproxy` reads them, to which the AWS tools of many people are used.
///
/// Entries are separated by commas or white space. `*` is everything; `10.0.0.0/8` a network;
/// `10.0.0.1` an address; `example.com` that host and all below it; `.example.com` and
/// `*.example.com` only those below it. Each but a network may end in `:port`. What cannot be read is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bypass {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Network(IpNet),
    Address(IpAddr),
    /// A domain without its leading dot.
    Domain {
        name: String,
        with_itself: bool,
    },
}

impl Bypass {
    pub(super) fn parse(text: &str) -> Self {
        let entries = text.split(|c: char| c == ',' || c.is_whitespace());
        let entries = entries.filter(|entry| !entry.is_empty());
        Self {
            rules: entries.filter_map(Rule::parse).collect(),
        }
    }

    /// Whether `destination` is reached without a proxy.
    pub(super) fn covers(&self, destination: &Destination) -> bool {
        self.rules.iter().any(|rule| rule.covers(destination))
    }
}

impl Rule {
    fn parse(entry: &str) -> Option<Self> {
        if entry.contains('/') {
            return Some(Self {
                hosts: Hosts::Network(entry.parse().ok()?),
                port: None,
            });
        }
        let (host, port) = split_port(entry)?;
        let hosts = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => Hosts::Address(address.to_canonical()),
            Err(_) if host == "*" => Hosts::All,
            Err(_) => Hosts::domain(host)?,
        };
        Some(Self { hosts, port })
    }

    fn covers(&self, destination: &Destination) -> bool {
        if self.port.is_some_and(|port| port != destination.port()) {
            return false;
        }
        let address = destination.address();
        match &self.hosts {
            Hosts::All => true,
            Hosts::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Hosts::Address(own) => address == Some(*own),
            Hosts::Domain { name, with_itself } => {
                match destination
                    .host()
                    .trim_end_matches('.')
                    .strip_suffix(name.as_str())
                {
                    Some("") => *with_itself,
                    Some(above) => above.ends_with('.'),
                    None => false,
                }
            }
        }
    }
}

impl Hosts {
    fn domain(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        let text = text.strip_prefix('*').unwrap_or(&text);
        let (name, with_itself) = match text.strip_prefix('.') {
            Some(name) => (name, false),
            None => (text, true),
        };
        (!name.is_empty() && !name.contains(['*', ':'])).then(|| Self::Domain {
            name: name.to_owned(),
            with_itself,
        })
    }
}

/// Takes `:port` off; an IPv6 address has to be in brackets for that.
fn split_port(entry: &str) -> Option<(&str, Option<u16>)> {
    if entry.parse::<IpAddr>().is_ok() {
        return Some((entry, None));
    }
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.ends_with(']') => {
            Some((host, Some(port.parse().ok()?)))
        }
        _ => Some((entry, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_hosts_domains_networks_and_ports() {
        let ssm = "ssm.eu-west-1.amazonaws.com:443";
        for (rules, covered, others) in [
            ("", &[][..], &[ssm, "10.0.0.1:80"][..]),
            ("*", &[ssm, "10.0.0.1:80", "[::9]:1"], &[]),
            (
                "amazonaws.com",
                &[ssm, "amazonaws.com:1"],
                &["notamazonaws.com:1"],
            ),
            (
                ".amazonaws.com",
                &[ssm],
                &[
                    "amazonaws.com:1",
                    "notamazonaws.com:1",
                    "amazonaws.com.evil:1",
                ],
            ),
            ("*.AmazonAWS.com.", &[ssm], &["amazonaws.com:1"]),
            (
                "a, b:8080 c",
                &["a:1", "b:8080", "c:1", "x.c:1"],
                &["b:1", ssm],
            ),
            (
                "10.0.0.0/8,fd00::/8",
                &["10.9.8.7:1", "[fd01::1]:1"],
                &["11.0.0.1:1", ssm],
            ),
            (
                "10.0.0.1",
                &["10.0.0.1:1", "[::ffff:10.0.0.1]:1"],
                &["10.0.0.11:1"],
            ),
            ("10.0.0.1:80", &["10.0.0.1:80"], &["10.0.0.1:443"]),
            ("::9,[::8]:80", &["[::9]:1", "[::8]:80"], &["[::8]:1"]),
            ("*:8080", &["a:8080"], &["a:443"]),
            ("a:port,10.0.0.0/99,*a*,:,.", &[], &["a:1", "10.0.0.1:1"]),
        ] {
            let bypass = Bypass::parse(rules);
            let covers = |host: &&str| bypass.covers(&format!("http://{host}").parse().unwrap());
            for host in covered {
                assert!(covers(host), "{rules:?} covers {host}");
            }
            for host in others {
                assert!(!covers(host), "{rules:?} does not cover {host}");
            }
        }
    }
}
