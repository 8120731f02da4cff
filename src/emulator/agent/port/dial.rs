//! Where the connections of a session go.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};

use crate::emulator::agent::Settings;

/// Addresses that an agent does not forward to: the instance's own services (sheet §6.6).
const FORBIDDEN: [&str; 9] = [
    "169.254.169.254",
    "169.254.169.253",
    "169.254.169.123",
    "169.254.169.250",
    "169.254.169.251",
    "fd00:ec2::254",
    "fd00:ec2::253",
    "fd00:ec2::123",
    "fd00:ec2::240",
];

/// The one target of a Port session.
#[derive(Debug)]
pub(in crate::emulator::agent) enum Dial {
    /// A port of this machine.
    Local(u16),
    /// Where the emulator's options send that port.
    Mapped(SocketAddr),
    /// Another host, resolved once when the session starts; tried in order.
    Remote(Vec<SocketAddr>),
}

impl Dial {
    /// Reads the document's properties.
    ///
    /// # Errors
    /// The text for the user: no usable port, or a forbidden address.
    pub(in crate::emulator::agent) async fn resolve(
        properties: &Value,
        settings: &Settings,
    ) -> Result<Self, String> {
        let text = |name: &str| properties.get(name).and_then(Value::as_str);
        let port = text("portNumber")
            .and_then(|port| port.parse::<u16>().ok())
            .filter(|port| *port != 0)
            .ok_or("Port number is empty or invalid in session properties.")?;
        let host = text("host").filter(|_| settings.version.ways().dials_hosts);
        let Some(host) = host.filter(|host| !host.is_empty()) else {
            return Ok(match settings.port_map.get(&port) {
                Some(mapped) => Self::Mapped(*mapped),
                None => Self::Local(port),
            });
        };
        // A name that does not resolve makes every dial fail, not the session.
        let addresses: Vec<_> = match lookup_host((host, port)).await {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                tracing::debug!(host, %error, "cannot resolve");
                Vec::new()
            }
        };
        if let Some(address) = addresses.iter().find(|address| is_forbidden(address.ip())) {
            return Err(format!(
                "Forwarding to IP address {} is forbidden.",
                address.ip()
            ));
        }
        Ok(Self::Remote(addresses))
    }

    /// Connects, without a time limit, as the real agent does.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = match self {
            Self::Local(port) => TcpStream::connect(("localhost", *port)).await,
            Self::Mapped(address) => TcpStream::connect(address).await,
            Self::Remote(addresses) if addresses.is_empty() => Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "missing address",
            )),
            Self::Remote(addresses) => TcpStream::connect(&addresses[..]).await,
        }?;
        // Where the option is refused, small writes merely leave later.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

fn is_forbidden(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    FORBIDDEN
        .iter()
        .any(|forbidden| forbidden.parse() == Ok(ip))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::emulator::fault::Board;
    use crate::emulator::{AgentVersion, Pacing, Resend};

    #[tokio::test]
    async fn properties_become_targets() {
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST, 2022));
        let settings = Settings {
            gateway: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            version: AgentVersion::default(),
            pacing: Pacing::Off,
            resend: Resend::HeadOnly,
            payload_bytes: 1024,
            ping: std::time::Duration::from_secs(54),
            port_map: BTreeMap::from([(22, mapped)]),
            faults: Arc::new(Board::new(0)),
        };
        let resolve = async |properties| Dial::resolve(&properties, &settings).await;
        assert!(matches!(
            resolve(json!({"portNumber": "80"})).await,
            Ok(Dial::Local(80))
        ));
        assert!(matches!(
            resolve(json!({"portNumber": "22"})).await,
            Ok(Dial::Mapped(address)) if address == mapped
        ));
        assert!(matches!(
            resolve(json!({"portNumber": "22", "host": "127.0.0.1"})).await,
            Ok(Dial::Remote(addresses)) if addresses.len() == 1
        ));
        for forbidden in ["169.254.169.254", "::ffff:169.254.169.253", "fd00:ec2::254"] {
            let refused = resolve(json!({"portNumber": "80", "host": forbidden})).await;
            assert!(refused.unwrap_err().contains("is forbidden"));
        }
        for invalid in [
            json!({}),
            json!({"portNumber": "0"}),
            json!({"portNumber": "x"}),
        ] {
            assert!(resolve(invalid).await.is_err());
        }
    }
}
