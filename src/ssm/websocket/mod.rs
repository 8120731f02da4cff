//! The WebSocket under a data channel: `wss` to the service, `ws` to this computer only.
//!
//! The upgrade request is signed (SigV4, service `ssmmessages`) with the credentials of the moment,
//! as the service has required since 2025. URLs carry routing data and at times a signature, and are
//! never logged. Redirects are not followed.

mod gateway;
mod sign;

use std::time::Duration;

use aws_credential_types::Credentials;
use http::Uri;
use thiserror::Error;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

pub(super) use self::gateway::Gateways;
use super::error::Disposition;
use super::protocol::message::MAX_MESSAGE;
use super::secret::Secret;
use crate::net::{self, Destination, Dialler, Stream};

/// For name resolution, TCP, proxy, TLS and upgrade together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// One write to the kernel for about this much; small messages wait for no more than the next flush.
const WRITE_BUFFER: usize = 64 << 10;

/// An open WebSocket.
pub type WebSocket = WebSocketStream<Stream>;

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
    /// A host that is neither one of AWS nor one that the configuration names.
    #[error("the service sent us to {0:?}, which is no message gateway of AWS")]
    Foreign(String),
    /// No connection to the gateway.
    #[error(transparent)]
    Network(#[from] net::Error),
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
            Self::Network(error) if error.is_fatal() => Disposition::Fatal,
            Self::Network(_) | Self::Sign(_) | Self::Upgrade(_) | Self::TimedOut(_) => {
                Disposition::Resume
            }
            Self::Refused(401 | 403) => Disposition::Redial,
            Self::Refused(_) => Disposition::Resume,
            Self::InvalidUrl | Self::Insecure(_) | Self::Foreign(_) => Disposition::Fatal,
        }
    }

    /// What a person can do about it, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Insecure(_) => "use a wss:// endpoint, or the emulator on 127.0.0.1",
            Self::Foreign(_) => {
                "if that host is meant, name it: --ssmmessages-endpoint https://HOST"
            }
            Self::Network(net::Error::Connect { .. } | net::Error::TimedOut(_))
            | Self::TimedOut(_) => {
                "the network must allow port 443 to ssmmessages.<region>.amazonaws.com; \
                 with a VPC endpoint, name it: --ssmmessages-endpoint https://HOST"
            }
            Self::Network(error) => error.hint(),
            Self::Refused(401 | 403) => "the policy must allow ssmmessages:OpenDataChannel",
            _ => return None,
        })
    }
}

/// How a WebSocket is opened, but for the credentials of the moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    /// The way out.
    pub(super) dialler: &'a Dialler,
    /// Which gateways there are.
    pub(super) gateways: &'a Gateways,
    /// What the signature is for.
    pub(super) region: &'a str,
}

/// Opens the WebSocket at `url`, signed with `credentials` unless the URL is signed itself.
///
/// # Errors
/// [`enum@Error`]; within 10 s in any case.
pub(super) async fn dial(
    caller: Caller<'_>,
    url: &Secret,
    credentials: &Credentials,
) -> Result<WebSocket, Error> {
    let (uri, to) = caller.gateways.resolve(url)?;
    timeout(DIAL_TIMEOUT, upgrade(caller, uri, &to, credentials))
        .await
        .map_err(|_| Error::TimedOut(to.authority()))?
}

async fn upgrade(
    caller: Caller<'_>,
    uri: Uri,
    to: &Destination,
    credentials: &Credentials,
) -> Result<WebSocket, Error> {
    let is_signed_already = sign::has_signature(&uri);
    let mut request = uri.into_client_request().map_err(|_| Error::InvalidUrl)?;
    if !is_signed_already {
        sign::sign(&mut request, caller.region, credentials).map_err(Error::Sign)?;
    }
    let socket = connect(caller.dialler, to).await?;
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

async fn connect(dialler: &Dialler, to: &Destination) -> Result<Stream, Error> {
    let stream = dialler.dial(to).await?;
    if to.is_tls() {
        return Ok(stream);
    }
    // The name may have been resolved to anything.
    match stream.peer_address() {
        Ok(peer) if peer.ip().is_loopback() => Ok(stream),
        _ => Err(Error::Insecure(to.host().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_invalid_url_is_an_error_that_does_not_repeat_it() {
        let caller = Caller {
            dialler: &Dialler::default(),
            gateways: &Gateways::default(),
            region: "us-east-1",
        };
        let credentials = Credentials::new("AKID", "secret", None, None, "test");
        for url in ["wss://a b/secret-token", "wss://evil.example/secret-token"] {
            let secret = Secret::new(url.to_owned());
            let error = dial(caller, &secret, &credentials).await.unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret-token"));
            assert_eq!(error.disposition(), Disposition::Fatal);
        }
    }
}
