//! The HTTP client of the AWS SDK, on our own connections.
//!
//! The SDK's default client knows neither `AWS_CA_BUNDLE` nor SOCKS, and reads the environment of proxies
//! differently. API, credential providers and WebSockets are to find the same way out, and to fail with
//! the same words.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient as SdkHttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http::header::{PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::Limited;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tower_service::Service;

use super::destination::Destination;
use super::dialler::Dialler;
use super::error::Error;
use super::http_connect::unauthenticated;
use super::stream::Stream;

/// How long a connection is kept for the next call: as long as calls follow each other at the start.
///
/// One kept longer may have been closed by the service, or lost with the network of before a sleep,
/// and a StartSession that fails on it is not repeated.
const IDLE: Duration = Duration::from_secs(5);
/// Answers of the API are a few KiB, long lists some 100 KiB.
const MAX_ANSWER: usize = 8 << 20;

/// HTTP/1.1 for the AWS SDK, over a [`Dialler`]. Clones share their connections.
///
/// Redirects are not followed, and an answer of more than 8 MiB is an error.
#[derive(Debug, Clone)]
pub struct HttpClient {
    dialler: Arc<Dialler>,
    pools: Arc<Mutex<Pools>>,
}

/// Connections that are kept, for as long as the [`Dialler`] does not give them up.
#[derive(Debug, Default)]
struct Pools {
    epoch: u64,
    /// One for each limit on connecting that somebody asked for: two or three.
    by_limit: HashMap<Option<Duration>, Pool>,
}

type Pool = Client<Connect, SdkBody>;

impl HttpClient {
    /// A client without connections.
    pub fn new(dialler: Arc<Dialler>) -> Self {
        Self {
            dialler,
            pools: Arc::default(),
        }
    }

    fn pool(&self, connect_limit: Option<Duration>) -> Pool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.dialler.epoch();
        if pools.epoch != epoch {
            pools.epoch = epoch;
            pools.by_limit.clear();
        }
        let pool = pools.by_limit.entry(connect_limit).or_insert_with(|| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .build(Connect {
                    dialler: Arc::clone(&self.dialler),
                    limit: connect_limit,
                })
        });
        pool.clone()
    }
}

impl SdkHttpClient for HttpClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Exchange {
            pool: self.pool(settings.connect_timeout()),
            dialler: Arc::clone(&self.dialler),
            limit: settings.read_timeout(),
        })
    }
}

/// One request after the other, each answered within `limit`.
#[derive(Debug)]
struct Exchange {
    pool: Pool,
    dialler: Arc<Dialler>,
    limit: Option<Duration>,
}

impl HttpConnector for Exchange {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (pool, dialler, limit) = (self.pool.clone(), Arc::clone(&self.dialler), self.limit);
        HttpConnectorFuture::new(async move {
            match limit {
                None => exchange(&pool, &dialler, request).await,
                Some(limit) => timeout(limit, exchange(&pool, &dialler, request))
                    .await
                    .map_err(|elapsed| ConnectorError::timeout(elapsed.into()))?,
            }
        })
    }
}

async fn exchange(
    pool: &Pool,
    dialler: &Dialler,
    request: HttpRequest,
) -> Result<HttpResponse, ConnectorError> {
    let user = |error: BoxError| ConnectorError::user(error);
    let mut request = request
        .try_into_http1x()
        .map_err(|error| user(error.into()))?;
    let to = Destination::of(request.uri()).map_err(|error| user(error.into()))?;
    let forward = dialler.forward(&to);
    let forward = forward.map_err(|error| ConnectorError::io(error.into()))?;
    if let Some(login) = forward.and_then(|proxy| proxy.login.as_ref()) {
        let headers = request.headers_mut();
        headers.insert(PROXY_AUTHORIZATION, login.basic());
    }
    let response = pool.request(request).await.map_err(connector_error)?;
    if let Some(proxy) = forward
        && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED
    {
        let error = unauthenticated(proxy, &schemes(response.headers()));
        return Err(ConnectorError::io(error.into()));
    }
    let bounded = |body| SdkBody::from_body_1_x(Limited::new(body, MAX_ANSWER));
    HttpResponse::try_from(response.map(bounded))
        .map_err(|error| ConnectorError::other(error.into(), None))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sorts an error as the SDK wants it; ours is taken out of its wrappings, which say nothing.
fn connector_error(error: hyper_util::client::legacy::Error) -> ConnectorError {
    match Error::in_chain(&error).cloned() {
        Some(error @ Error::TimedOut(_)) => ConnectorError::timeout(error.into()),
        Some(error) => ConnectorError::io(error.into()),
        None => ConnectorError::io(error.into()),
    }
}

/// The schemes that a proxy offers to authenticate with.
fn schemes(headers: &HeaderMap) -> Vec<String> {
    let offers = headers.get_all(PROXY_AUTHENTICATE).iter();
    offers
        .filter_map(|offer| offer.to_str().ok()?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// Opens the connections of a pool.
#[derive(Debug, Clone)]
struct Connect {
    dialler: Arc<Dialler>,
    limit: Option<Duration>,
}

impl Connect {
    async fn connect(self, uri: Uri) -> Result<TokioIo<Pooled>, Error> {
        let to = Destination::of(&uri)
            .map_err(|_| Error::InvalidHost(uri.host().unwrap_or_default().to_owned()))?;
        let dialled = self.dial(&to);
        match self.limit {
            None => dialled.await,
            Some(limit) => timeout(limit, dialled)
                .await
                .map_err(|_| Error::TimedOut(to.authority()))?,
        }
        .map(TokioIo::new)
    }

    async fn dial(&self, to: &Destination) -> Result<Pooled, Error> {
        let (stream, is_forwarded) = match self.dialler.forward(to)? {
            Some(proxy) => (self.dialler.connect_proxy(proxy).await?, true),
            None => (self.dialler.dial(to).await?, false),
        };
        Ok(Pooled {
            stream,
            is_forwarded,
        })
    }
}

impl Service<Uri> for Connect {
    type Response = TokioIo<Pooled>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection that knows how requests have to look on it.
struct Pooled {
    stream: Stream,
    is_forwarded: bool,
}

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_forwarded)
    }
}

impl AsyncRead for Pooled {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pooled {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;

    use super::*;

    /// What comes of a request that a server treats as `serve` does.
    async fn answer<F>(
        limit: Option<Duration>,
        serve: impl FnOnce(TcpStream) -> F,
    ) -> Result<Vec<u8>, BoxError>
    where
        F: Future<Output = io::Result<()>>,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let client = HttpClient::new(Arc::default());
        let exchange = Exchange {
            pool: client.pool(None),
            dialler: client.dialler,
            limit,
        };
        let call = async {
            let request = http::Request::get(url).body(SdkBody::empty())?;
            let response = exchange.call(HttpRequest::try_from(request)?).await?;
            let body = http_body_util::BodyExt::collect(response.into_body()).await?;
            Ok(body.to_bytes().to_vec())
        };
        let server = async {
            let (mut tcp, _) = listener.accept().await?;
            let _ = tcp.read(&mut [0; 4096]).await?;
            serve(tcp).await
        };
        // A client that has given up is no failure of the server.
        tokio::select! {
            biased;
            answered = call => answered,
            Ok(()) = server => Err("the server has seen its client off".into()),
        }
    }

    #[tokio::test]
    async fn an_answer_is_passed_on() {
        let said = answer(None, async |mut tcp: TcpStream| {
            tcp.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\nhi")
                .await?;
            std::future::pending().await
        });
        assert_eq!(said.await.unwrap(), b"hi");
    }

    #[tokio::test]
    async fn kept_connections_can_be_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let client = HttpClient::new(Arc::default());
        let opened = Arc::new(AtomicU32::new(0));
        let serve = async {
            let mut connections = JoinSet::new();
            while let Ok((mut tcp, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::Relaxed);
                connections.spawn(async move {
                    while tcp.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {
                        let answer = b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n";
                        tcp.write_all(answer).await.unwrap();
                    }
                });
            }
        };
        let call = async || {
            let exchange = Exchange {
                pool: client.pool(None),
                dialler: Arc::clone(&client.dialler),
                limit: None,
            };
            let request = http::Request::get(&url).body(SdkBody::empty()).unwrap();
            let request = HttpRequest::try_from(request).unwrap();
            exchange.call(request).await.unwrap();
            opened.load(Ordering::Relaxed)
        };
        let calls = async {
            let kept = call().await;
            client.dialler.give_up_kept();
            (kept, call().await)
        };
        let counts = tokio::select! {
            () = serve => unreachable!("the listener lives"),
            counts = calls => counts,
        };
        assert_eq!(counts, (1, 2));
    }

    #[tokio::test]
    async fn an_endless_answer_is_given_up() {
        let said = answer(None, async |mut tcp: TcpStream| {
            tcp.write_all(b"HTTP/1.1 200 x\r\n\r\n").await?;
            loop {
                tcp.write_all(&[b'x'; 64 << 10]).await?;
            }
        });
        let error = said.await.unwrap_err().to_string();
        assert!(error.contains("length limit exceeded"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        let limit = Some(Duration::from_millis(50));
        let said = answer(limit, async |_tcp: TcpStream| std::future::pending().await);
        let error = said.await.unwrap_err();
        let error = error.downcast::<ConnectorError>().unwrap();
        assert!(error.is_timeout(), "{error:?}");
    }
}
