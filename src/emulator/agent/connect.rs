//! How the agent reaches the gateway: a token by POST, then a WebSocket that begins with it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use uuid::Uuid;

use crate::emulator::socket;

/// A WebSocket, client side.
pub(super) type Socket = WebSocketStream<TcpStream>;

/// Time for the token and for the upgrade, each.
const DEADLINE: Duration = Duration::from_secs(15);

/// Largest answer read.
const BODY_LIMIT: usize = 64 * 1024;

/// In place of a SigV4 signature, which nobody here verifies.
const CREDENTIAL: &str = "AWS4-HMAC-SHA256 Credential=EMULATEDAGENT/ssmmessages";

/// Why a channel could not be opened.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("cannot connect to the gateway")]
    Connect(#[source] std::io::Error),
    #[error("cannot ask the gateway for a token")]
    Http(#[source] hyper::Error),
    #[error("the gateway's answer cannot be read")]
    Answer,
    #[error("the gateway gives no token: {status}")]
    Refused { status: StatusCode, body: String },
    #[error("cannot open a WebSocket to the gateway")]
    WebSocket(#[source] WsError),
    #[error("the gateway did not answer in time")]
    TimedOut,
}

impl Error {
    /// Whether trying again is useless, judged by the text that the real agent looks for.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Refused { body, .. } if body.contains("Session is already terminated"))
    }
}

/// Opens the channel at `path`: asks for a token, upgrades `path` with `query`, and sends the
/// opening message, which is `fields` with what every opening has.
///
/// # Errors
/// [`Error`], after 30 seconds at the latest.
pub(super) async fn open(
    gateway: SocketAddr,
    path: &str,
    query: &str,
    mut fields: Value,
) -> Result<Socket, Error> {
    let token = tokio::time::timeout(DEADLINE, token(gateway, path))
        .await
        .map_err(|_| Error::TimedOut)??;
    fields["MessageSchemaVersion"] = "1.0".into();
    fields["RequestId"] = Uuid::new_v4().to_string().into();
    fields["TokenValue"] = token.into();
    let upgrade = async {
        let mut request = format!("ws://{gateway}{path}?{query}")
            .into_client_request()
            .map_err(Error::WebSocket)?;
        request.headers_mut().insert(
            AUTHORIZATION,
            hyper::header::HeaderValue::from_static(CREDENTIAL),
        );
        let stream = connect(gateway).await?;
        let (mut socket, _) =
            tokio_tungstenite::client_async_with_config(request, stream, Some(socket::config()))
                .await
                .map_err(Error::WebSocket)?;
        socket
            .send(Message::text(fields.to_string()))
            .await
            .map_err(Error::WebSocket)?;
        Ok(socket)
    };
    tokio::time::timeout(DEADLINE, upgrade)
        .await
        .map_err(|_| Error::TimedOut)?
}

/// Asks for the channel's token (CreateControlChannel, CreateDataChannel).
async fn token(gateway: SocketAddr, path: &str) -> Result<String, Error> {
    let body = json!({
        "MessageSchemaVersion": "1.0",
        "RequestId": Uuid::new_v4().to_string(),
        "ClientId": "",
    });
    let request = Request::post(path)
        .header(HOST, gateway.to_string())
        .header(AUTHORIZATION, CREDENTIAL)
        .body(Full::<Bytes>::from(body.to_string()))
        .map_err(|_| Error::Answer)?;
    let io = TokioIo::new(connect(gateway).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(Error::Http)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(Error::Http)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_LIMIT)
            .collect()
            .await
            .map_err(|_| Error::Answer)?
            .to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        if status != StatusCode::CREATED {
            return Err(Error::Refused { status, body });
        }
        element(&body, "TokenValue")
            .map(str::to_owned)
            .ok_or(Error::Answer)
    };
    // The exchange owns the sender, so the connection ends with it.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

async fn connect(gateway: SocketAddr) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect(gateway).await.map_err(Error::Connect)?;
    // Where the option is refused, messages merely leave later.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Text of the first element `name` of an XML document that has no attributes there.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_under_any_root() {
        let xml =
            "<R><MessageSchemaVersion>1.0</MessageSchemaVersion><TokenValue>abc</TokenValue></R>";
        assert_eq!(element(xml, "TokenValue"), Some("abc"));
        assert_eq!(element("<TokenValue>abc", "TokenValue"), None);
    }
}
