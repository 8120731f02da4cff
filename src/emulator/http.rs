//! The one port: accepts connections, and tells the API's requests from the gateway's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, DATE, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::geteuid;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fault::control;
use super::fault::plan::Outage;
use super::hub::Hub;
use super::{api, gateway};
use crate::peer;

/// Connections at once: every session has two, and the API needs some.
const CONNECTIONS: usize = 4096;

/// Time for a client to send the head of a request, and for an idle connection to stay.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after a failed accept, which is mostly a shortage of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Largest request body taken.
pub(crate) const BODY_LIMIT: usize = 64 * 1024;

/// Pending connections, as many as tokio asks for by default.
const BACKLOG: u32 = 1024;

/// Accepts connections until the hub stops.
pub(crate) async fn serve(hub: Arc<Hub>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let serve = async {
        let mut listener = listener;
        loop {
            tokio::select! {
                () = accept(&hub, &listener, &connections) => return,
                () = hub.faults.outage(Outage::Refuse) => {}
            }
            drop(listener);
            let closed = hold(hub.addr).await;
            hub.faults.outage_over(Outage::Refuse).await;
            listener = match closed.listen(BACKLOG) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!(%error, "cannot listen again"),
            };
        }
    };
    tokio::select! {
        () = serve => {}
        () = hub.stop.cancelled() => {}
    }
}

async fn accept(hub: &Arc<Hub>, listener: &TcpListener, connections: &Arc<Semaphore>) {
    // The semaphore is never closed, so the loop ends only by cancellation.
    while let Ok(permit) = Arc::clone(connections).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) if !is_trusted(&stream, peer).await => {
                tracing::debug!(%peer, "refused: not a process of this user, or gone already");
            }
            Ok((stream, peer)) => {
                let connection = connection(Arc::clone(hub), stream, Arc::new(permit));
                hub.tasks.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%peer, %error, "connection failed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes the port without listening: connections are refused, and nobody else can have it.
async fn hold(addr: SocketAddr) -> TcpSocket {
    loop {
        let bound = if addr.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .and_then(|socket| {
            // The connections of before are still on this port.
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            Ok(socket)
        });
        match bound {
            Ok(socket) => return socket,
            Err(error) => {
                tracing::warn!(%error, %addr, "cannot hold the port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the client is a process of ours, or of root.
///
/// An agent connects to ports of this machine as us. Whoever may start sessions gets what we get
/// there: the endpoint of a running daemon, for one, which lets its owner in without a password.
async fn is_trusted(stream: &TcpStream, peer: SocketAddr) -> bool {
    let Ok(local) = stream.local_addr() else {
        return false;
    };
    let uid = peer::uid(peer, local).await;
    matches!(uid, Ok(Some(uid)) if uid == 0 || uid == geteuid().as_raw())
}

/// One connection's place among [`CONNECTIONS`]; goes with it when it is upgraded.
pub(crate) type Permit = Arc<OwnedSemaphorePermit>;

/// Serves one connection; an upgraded one goes on in a task of its own.
async fn connection(hub: Arc<Hub>, stream: TcpStream, permit: Permit) -> Result<(), hyper::Error> {
    // Small messages must leave at once; where the option is refused they merely leave later.
    let _ = stream.set_nodelay(true);
    let stop = hub.stop.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Permit::clone(&permit));
        let hub = Arc::clone(&hub);
        async move {
            let mut response = route(&hub, request).await;
            if let Some(date) = api::date(&hub.faults) {
                response.headers_mut().insert(DATE, date);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        served = connection => served,
        () = stop.cancelled() => Ok(()),
    }
}

/// Answers a request, unless a web page has made it.
///
/// A browser is a process of ours, and pages of anybody's can have it send requests here that start sessions, inject
/// faults or open WebSockets. It names the page in all of these; SDKs, agents and plugins have none to name.
async fn route(hub: &Arc<Hub>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.headers().contains_key(ORIGIN) {
        return text(
            StatusCode::FORBIDDEN,
            "not for web pages: send the request without an Origin header\n",
        );
    }
    if request.uri().path() == control::PATH {
        return control::handle(hub, request).await;
    }
    if gateway::is_of_client(&request) {
        hub.faults.outage_over(Outage::Hang).await;
    }
    if request.uri().path().starts_with("/v1/") {
        gateway::handle(hub, request).await
    } else if api::identity::is_meant(&request) {
        api::identity::handle(hub, request).await
    } else if request.uri().path() == "/" && request.method() == Method::POST {
        api::handle(hub, request).await
    } else {
        text(
            StatusCode::NOT_FOUND,
            "This is ssmshim's local Session Manager: the API is POST / with X-Amz-Target \
             AmazonSSM.*; set AWS_ENDPOINT_URL_SSM to this address. Faults are at /faults.\n",
        )
    }
}

/// A plain answer for people and logs.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
