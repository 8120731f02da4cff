//! The message gateway: tokens, WebSockets, and what passes between the two ends of a session.

mod control_channel;
mod data_channel;
pub(crate) mod outbox;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::api;
use super::fault::plan::Refusal;
use super::http::{BODY_LIMIT, Permit, text};
use super::hub::Hub;
use super::socket;

/// A WebSocket, server side.
type Socket = WebSocketStream<TcpStream>;

/// The permission that the signature of a client's upgrade has to have.
const OPEN_DATA_CHANNEL: &str = "OpenDataChannel";

/// Time for the peer to send its opening text message.
const OPEN_DEADLINE: Duration = Duration::from_secs(15);

/// Which channel a path names.
#[derive(Debug, Clone)]
enum Channel {
    /// `/v1/control-channel/<instance-id>`
    Control(String),
    /// `/v1/data-channel/<session-id>`
    Data(String),
}

impl Channel {
    fn parse(path: &str) -> Option<Self> {
        let (kind, id) = path.strip_prefix("/v1/")?.split_once('/')?;
        match kind {
            "control-channel" => Some(Self::Control(id.into())),
            "data-channel" => Some(Self::Data(id.into())),
            _ => None,
        }
    }
}

/// The text message that opens a channel, from a client or an agent (sheet §2, §9.2, §9.4).
///
/// What is not read here (`RequestId`, `ClientId`, …) may be absent, as on the real service.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OpenChannel {
    token_value: String,
    client_version: Option<String>,
    agent_version: Option<String>,
    platform_type: Option<String>,
}

/// Whether a request comes from a client and not from an agent.
///
/// A client's WebSocket has the query of the StreamUrl, which tells the service the way.
pub(crate) fn is_of_client(request: &Request<Incoming>) -> bool {
    let uri = request.uri();
    let has_query = || {
        uri.query()
            .is_some_and(|query| query.contains("cell-number"))
    };
    !uri.path().starts_with("/v1/") || has_query()
}

/// Answers a request for one of the channels.
pub(crate) async fn handle(hub: &Arc<Hub>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(channel) = Channel::parse(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "no such channel\n");
    };
    if let Err(refusal) = api::check_knobs(request.headers()) {
        return text(StatusCode::FORBIDDEN, format!("{}\n", refusal.kind()));
    }
    if let Err(refusal) = api::identity::caller(hub, request.headers()) {
        return text(StatusCode::FORBIDDEN, format!("{}\n", refusal.kind()));
    }
    match *request.method() {
        Method::POST => create(hub, channel, request).await,
        Method::GET => {
            let is_of_client = is_of_client(&request);
            if is_of_client
                && let Err(refusal) = api::check_operation(request.headers(), OPEN_DATA_CHANNEL)
            {
                return text(StatusCode::FORBIDDEN, format!("{}\n", refusal.kind()));
            }
            let refusal = is_of_client
                .then(|| hub.faults.on_upgrade(api::access_key(request.headers())))
                .flatten();
            if let Some(Refusal::Status(status)) = refusal {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                return text(status, "refused by a fault\n");
            }
            upgrade(hub, channel, refusal, request)
        }
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "POST or GET\n"),
    }
}

/// Gives an agent the token for a channel of its own: 201 and XML, nothing else will do.
async fn create(hub: &Hub, channel: Channel, request: Request<Incoming>) -> Response<Full<Bytes>> {
    // The body says nothing that the path does not; it is read so that the connection can go on.
    if Limited::new(request.into_body(), BODY_LIMIT)
        .collect()
        .await
        .is_err()
    {
        return text(StatusCode::BAD_REQUEST, "the body cannot be read\n");
    }
    let (root, token) = match &channel {
        Channel::Control(id) => match hub.nodes.get(id) {
            Some(node) => ("CreateControlChannelResult", node.issue_token()),
            None => return denied("the instance is not one of the emulator's"),
        },
        Channel::Data(id) => match hub.session(id).and_then(|found| found.renew_agent_token()) {
            Some(token) => ("CreateDataChannelResult", token),
            None => return denied("Session is already terminated"),
        },
    };
    let body = format!(
        "<{root}><MessageSchemaVersion>1.0</MessageSchemaVersion><TokenValue>{token}</TokenValue></{root}>"
    );
    xml(StatusCode::CREATED, body)
}

/// A refusal in the shape that the real agent looks for.
fn denied(message: &str) -> Response<Full<Bytes>> {
    let body =
        format!("<AccessDeniedException><Message>{message}</Message></AccessDeniedException>");
    xml(StatusCode::FORBIDDEN, body)
}

fn xml(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = text(status, body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    response
}

/// Turns the connection into a WebSocket, served by a task of its own.
fn upgrade(
    hub: &Arc<Hub>,
    channel: Channel,
    refusal: Option<Refusal>,
    mut request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let key = match websocket_key(request.headers()) {
        Ok(key) => key,
        Err(problem) => return text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let permit = request.extensions_mut().remove::<Permit>();
    let serving = Arc::clone(hub);
    hub.tasks.spawn(async move {
        let _permit = permit;
        match upgraded.await {
            Ok(upgraded) => {
                // What was upgraded is what the port accepted.
                let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
                    return;
                };
                let socket = WebSocketStream::from_partially_read(
                    parts.io.into_inner(),
                    parts.read_buf.into(),
                    Role::Server,
                    Some(socket::config()),
                )
                .await;
                let stop = serving.stop.clone();
                tokio::select! {
                    () = serve(&serving, channel, refusal, socket) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => tracing::debug!(%error, "connection ended before its upgrade"),
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, key);
    response
}

/// Checks an upgrade request (RFC 6455 §4.2.1) and returns the accept key.
fn websocket_key(headers: &HeaderMap) -> Result<HeaderValue, &'static str> {
    let has = |name: HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(token))
    };
    if !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
        return Err("a WebSocket upgrade is expected here");
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return Err("Sec-WebSocket-Version must be 13");
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .ok_or("Sec-WebSocket-Key is missing")?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| "Sec-WebSocket-Key is not a key")
}

/// Reads the opening message and hands the socket to the channel it is for.
async fn serve(hub: &Hub, channel: Channel, refusal: Option<Refusal>, mut socket: Socket) {
    let opening = match tokio::time::timeout(OPEN_DEADLINE, read_opening(&mut socket)).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(problem)) => return refuse(socket, &channel, problem).await,
        Err(_) => return refuse(socket, &channel, "no opening message in time").await,
    };
    if refusal.is_some() {
        return refuse(socket, &channel, "refused by a fault").await;
    }
    let refused = match &channel {
        Channel::Control(id) => control_channel::serve(hub, id, opening, socket).await,
        Channel::Data(id) => data_channel::serve(hub, id, opening, socket).await,
    };
    if let Err((socket, problem)) = refused {
        refuse(socket, &channel, problem).await;
    }
}

/// Waits for the text message that every channel begins with.
///
/// An agent that reconnects may send stream data before it, as the real one does: that is dropped, and it sends it
/// again.
async fn read_opening(socket: &mut Socket) -> Result<OpenChannel, &'static str> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text).map_err(|_| "the opening message is malformed");
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => {}
            Some(Ok(_)) => return Err("the first message must be the opening text message"),
            Some(Err(_)) | None => return Err("the connection ended before its opening message"),
        }
    }
}

/// Closes a socket that asked for something it may not have. There is no reply on the wire beside
/// the close frame (sheet §2), so the log has the reason.
async fn refuse(socket: Socket, channel: &Channel, problem: &str) {
    tracing::warn!(?channel, problem, "channel refused");
    socket::close(socket, CloseCode::Policy, problem).await;
}
