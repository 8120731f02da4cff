//! The WebSocket under a data channel: `wss` to the service, `ws` to this computer only.
//!
//! The upgrade request is signed (SigV4, service `ssmmessages`) with the credentials of the moment,
//! as the service has required since 2025. URLs carry routing data and at times a signature, and are
//! never logged.

mod connect;
mod sign;
mod socket;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aws_credential_types::Credentials;
use http::Uri;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

pub use self::socket::{Socket, Tcp};
use super::error::Disposition;
use super::protocol::message::MAX_MESSAGE;
use super::secret::Secret;

/// For name resolution, TCP, TLS and upgrade together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// One write to the kernel for about this much; small messages wait for no more than the next flush.
const WRITE_BUFFER: usize = 64 << 10;

/// An open WebSocket.
pub type WebSocket = WebSocketStream<Socket>;

/// Why a WebSocket could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// StreamUrl is not a `ws` or `wss` URL with a host.
    #[error("the service gave an invalid stream URL")]
    InvalidUrl,
    /// Plain `ws` to another computer.
    #[error("plain ws:// is allowed to this computer only, not to {0:?}")]
    Insecure(String),
    /// No TCP connection.
    #[error("cannot connect to {host}")]
    Connect {
        /// Host of the message gateway.
        host: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// No TLS connection.
    #[error("TLS with {host} failed")]
    Tls {
        /// Host of the message gateway.
        host: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The trusted certificates cannot be loaded.
    #[error("cannot load trusted certificates")]
    Roots(#[source] BoxError),
    /// The signature cannot be made.
    #[error("cannot sign the websocket request")]
    Sign(#[source] BoxError),
    /// The gateway answered the upgrade with an HTTP error.
    #[error("the message gateway refused the websocket with status {0}")]
    Refused(u16),
    /// The upgrade failed otherwise.
    #[error("websocket upgrade failed")]
    Upgrade(#[source] Box<tungstenite::Error>),
    /// Everything together took longer than 10 s.
    #[error("{0} did not answer in time")]
    TimedOut(String),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Error {
    /// What recovery is left; see [`Disposition`].
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Sign(_)
            | Self::Upgrade(_)
            | Self::TimedOut(_) => Disposition::Resume,
            Self::Refused(401 | 403) => Disposition::Redial,
            Self::Refused(_) => Disposition::Resume,
            Self::InvalidUrl | Self::Insecure(_) | Self::Roots(_) => Disposition::Fatal,
        }
    }

    /// What a person can do about it, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Insecure(_) => "use a wss:// endpoint, or the emulator on 127.0.0.1",
            Self::Connect { .. } | Self::TimedOut(_) => {
                "the network must allow port 443 to ssmmessages.<region>.amazonaws.com"
            }
            Self::Tls { .. } => "behind an inspecting proxy, set AWS_CA_BUNDLE to its certificate",
            Self::Roots(_) => "check AWS_CA_BUNDLE and the system's certificates",
            Self::Refused(401 | 403) => "the policy must allow ssmmessages:OpenDataChannel",
            _ => return None,
        })
    }
}

/// Opens the WebSocket at `url`, signed with `credentials` unless the URL is signed itself.
///
/// # Errors
/// [`enum@Error`]; within 10 s in any case.
pub async fn dial(
    url: &Secret,
    region: &str,
    credentials: &Credentials,
) -> Result<WebSocket, Error> {
    let uri: Uri = url.expose().parse().map_err(|_| Error::InvalidUrl)?;
    let endpoint = Endpoint::of(&uri)?;
    timeout(DIAL_TIMEOUT, upgrade(uri, &endpoint, region, credentials))
        .await
        .map_err(|_| Error::TimedOut(endpoint.host.clone()))?
}

async fn upgrade(
    uri: Uri,
    endpoint: &Endpoint,
    region: &str,
    credentials: &Credentials,
) -> Result<WebSocket, Error> {
    let is_signed_already = sign::has_signature(&uri);
    let mut request = uri.into_client_request().map_err(|_| Error::InvalidUrl)?;
    if !is_signed_already {
        sign::sign(&mut request, region, credentials).map_err(Error::Sign)?;
    }
    let socket = endpoint.connect().await?;
    let config = WebSocketConfig::default()
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    match tokio_tungstenite::client_async_with_config(request, socket, Some(config)).await {
        Ok((websocket, _response)) => Ok(websocket),
        Err(tungstenite::Error::Http(response)) => Err(Error::Refused(response.status().as_u16())),
        Err(error) => Err(Error::Upgrade(Box::new(error))),
    }
}

/// Where a stream URL leads.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    port: u16,
    is_tls: bool,
}

impl Endpoint {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let (is_tls, default_port) = match uri.scheme_str() {
            Some("wss") => (true, 443),
            Some("ws") => (false, 80),
            _ => return Err(Error::InvalidUrl),
        };
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or(Error::InvalidUrl)?.trim_matches(['[', ']']);
        let endpoint = Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(default_port),
            is_tls,
        };
        let is_local = host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !is_tls && !is_local {
            return Err(Error::Insecure(endpoint.host));
        }
        Ok(endpoint)
    }

    async fn connect(&self) -> Result<Socket, Error> {
        let failed = |source| Error::Connect {
            host: self.host.clone(),
            source,
        };
        let tcp = connect::connect(&self.host, self.port)
            .await
            .map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        if !self.is_tls {
            // The name may have been resolved to anything.
            let peer: SocketAddr = tcp.peer_addr().map_err(failed)?;
            return match peer.ip().is_loopback() {
                true => Ok(Socket::Plain(Tcp::new(tcp))),
                false => Err(Error::Insecure(self.host.clone())),
            };
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|_| Error::InvalidUrl)?;
        let connector = TlsConnector::from(tls::config().await.map_err(Error::Roots)?);
        let tls = connector.connect(name, Tcp::new(tcp)).await;
        tls.map(|stream| Socket::Tls(Box::new(stream)))
            .map_err(|source| Error::Tls {
                host: self.host.clone(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, Error> {
        Endpoint::of(&url.parse().unwrap())
    }

    #[test]
    fn finds_host_port_and_scheme() {
        let real =
            endpoint("wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/s?role=x").unwrap();
        assert_eq!(
            (real.host.as_str(), real.port, real.is_tls),
            ("ssmmessages.eu-west-1.amazonaws.com", 443, true)
        );
        let local = endpoint("ws://[::1]:8080/x").unwrap();
        assert_eq!(
            (local.host.as_str(), local.port, local.is_tls),
            ("::1", 8080, false)
        );
    }

    #[test]
    fn plain_sockets_lead_to_this_computer_only() {
        for url in ["ws://127.0.0.1:1/", "ws://localhost:1/", "ws://127.8.9.1/"] {
            assert!(endpoint(url).is_ok(), "{url}");
        }
        for url in [
            "ws://10.0.0.1/",
            "ws://localhost.example.com/",
            "ws://0.0.0.0/",
        ] {
            assert!(matches!(endpoint(url), Err(Error::Insecure(_))), "{url}");
        }
        for url in ["http://127.0.0.1/", "/v1/data-channel", "https://x/"] {
            assert!(matches!(endpoint(url), Err(Error::InvalidUrl)), "{url}");
        }
    }

    #[tokio::test]
    async fn an_invalid_url_is_an_error_that_does_not_repeat_it() {
        let secret = Secret::new("wss://a b/secret-token".to_owned());
        let credentials = Credentials::new("AKID", "secret", None, None, "test");
        let error = dial(&secret, "us-east-1", &credentials).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret-token"));
    }
}
