//! Where a connection leads: what a URL says before its path.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use serde::Deserialize;
use thiserror::Error;

/// All but the last 16 bits of the addresses over which EC2 tells an instance of itself by IPv6: `fd00:ec2::254` is its
/// metadata, `fd00:ec2::23` the credentials of a pod of EKS.
const INSTANCE_V6: [u16; 7] = [0xfd00, 0xec2, 0, 0, 0, 0, 0];

/// Host, port and whether TLS is spoken there.
///
/// The host is in lower case and without brackets. Two destinations are equal when one connection
/// could serve both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Destination {
    host: String,
    port: u16,
    is_tls: bool,
}

/// A URL that names no destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidDestination {
    /// It is no URL at all.
    #[error("not a URL")]
    NotAUrl,
    /// Neither `https` nor `wss`, `http` nor `ws`.
    #[error("not an https:// URL")]
    Scheme,
    /// No host.
    #[error("no host")]
    Host,
    /// A user or password before the host, which has no meaning here and disguises where it leads.
    #[error("a user before the host")]
    User,
    /// More than scheme, host and port.
    #[error("more than scheme, host and port")]
    Path,
}

impl Destination {
    /// A destination put together; `host` is a name or an address without brackets.
    pub fn new(host: &str, port: u16, is_tls: bool) -> Self {
        Self {
            host: host.to_ascii_lowercase(),
            port,
            is_tls,
        }
    }

    /// Where `uri` leads, whatever its path.
    ///
    /// # Errors
    /// [`InvalidDestination`], never because of a path.
    pub fn of(uri: &Uri) -> Result<Self, InvalidDestination> {
        let (is_tls, default_port) = match uri.scheme_str() {
            Some("https" | "wss") => (true, 443),
            Some("http" | "ws") => (false, 80),
            _ => return Err(InvalidDestination::Scheme),
        };
        let authority = uri.authority().ok_or(InvalidDestination::Host)?;
        if authority.as_str().contains('@') {
            return Err(InvalidDestination::User);
        }
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(InvalidDestination::Host);
        }
        // `host:` and `host:99999` have a colon and no port.
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(0) => return Err(InvalidDestination::NotAUrl),
            Some(port) => port,
            None if has_port => return Err(InvalidDestination::NotAUrl),
            None => default_port,
        };
        Ok(Self::new(host, port, is_tls))
    }

    /// Name or address, in lower case, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// `host:port`, as in HTTP's `Host` and CONNECT.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The address that the host is, if it is none that must be looked up.
    pub fn address(&self) -> Option<IpAddr> {
        let address: IpAddr = self.host.parse().ok()?;
        Some(address.to_canonical())
    }

    /// Whether the host names this very computer: `localhost` (RFC 6761) or a loopback address.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.address().is_some_and(|address| address.is_loopback())
    }

    /// Whether the host means something else on another computer, so that no proxy can reach it: this
    /// computer, and link-local addresses, where the credentials of instances and containers come from.
    pub fn is_here_only(&self) -> bool {
        let is_link_local = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments().starts_with(&INSTANCE_V6),
        };
        self.is_loopback() || self.address().is_some_and(is_link_local)
    }
}

impl FromStr for Destination {
    type Err = InvalidDestination;

    /// Reads `https://host[:port][/]`; `wss`, `http` and `ws` will do as well.
    fn from_str(url: &str) -> Result<Self, InvalidDestination> {
        let uri: Uri = url.parse().map_err(|_| InvalidDestination::NotAUrl)?;
        let destination = Self::of(&uri)?;
        match uri.path_and_query().map(|path| path.as_str()) {
            None | Some("" | "/") => Ok(destination),
            Some(_) => Err(InvalidDestination::Path),
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = InvalidDestination;

    fn try_from(url: String) -> Result<Self, InvalidDestination> {
        url.parse()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_scheme_host_and_port() {
        for (url, told) in [
            ("https://Proxy.Example.com", "https://proxy.example.com:443"),
            ("wss://a.example/", "https://a.example:443"),
            ("http://a.example:8080", "http://a.example:8080"),
            ("ws://[::1]:8080", "http://[::1]:8080"),
            ("https://10.0.0.1:444", "https://10.0.0.1:444"),
        ] {
            let destination: Destination = url.parse().unwrap();
            assert_eq!(destination.to_string(), told);
        }
    }

    #[test]
    fn what_else_stands_in_a_url_is_refused() {
        use InvalidDestination as Invalid;
        for (url, problem) in [
            ("ftp://a.example", Invalid::Scheme),
            ("a.example:443", Invalid::Scheme),
            ("a.example", Invalid::Scheme),
            ("/path", Invalid::Scheme),
            ("https://", Invalid::NotAUrl),
            ("https://a b", Invalid::NotAUrl),
            ("https://bücher.example", Invalid::NotAUrl),
            ("https://a.example:0", Invalid::NotAUrl),
            ("https://a.example:", Invalid::NotAUrl),
            ("https://a.example:99999", Invalid::NotAUrl),
            ("https://user@a.example", Invalid::User),
            ("https://user:password@a.example", Invalid::User),
            ("https://a.example/path", Invalid::Path),
            ("https://a.example/?query", Invalid::Path),
        ] {
            assert_eq!(url.parse::<Destination>(), Err(problem), "{url}");
        }
    }

    #[test]
    fn some_hosts_mean_this_computer() {
        let to = |host| Destination::new(host, 1, false);
        for host in [
            "localhost",
            "LOCALHOST",
            "a.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(to(host).is_loopback() && to(host).is_here_only(), "{host}");
        }
        for host in [
            "169.254.169.254",
            "169.254.170.2",
            "fe80::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
        ] {
            assert!(!to(host).is_loopback() && to(host).is_here_only(), "{host}");
        }
        for host in [
            "localhost.example.com",
            "0.0.0.0",
            "10.0.0.1",
            "fd00::1",
            "fd00:ec2::1:23",
            "notlocalhost",
        ] {
            assert!(!to(host).is_here_only(), "{host}");
        }
    }
}
