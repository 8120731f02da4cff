//! From a destination to an open connection.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::destination::Destination;
use super::error::Error;
use super::proxies::Proxies;
use super::proxy::{Protocol, Proxy};
use super::stream::{Stream, Tcp};
use super::{http_connect, socks, tcp, tls};

/// For the connection to a destination or to its proxy, TLS included.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(6);
/// For a proxy to do the same on our behalf.
pub(super) const TUNNEL_LIMIT: Duration = Duration::from_secs(6);

/// Opens connections, through a proxy where the environment asks for one. The default knows of no proxy.
#[derive(Debug, Default)]
pub struct Dialler {
    pub(super) proxies: Proxies,
    /// Certificates that are trusted besides the system's.
    bundle: OnceLock<PathBuf>,
    /// Counts the times that kept connections were given up.
    epoch: AtomicU64,
    /// Made at the first use: reading the system's certificates takes a while.
    tls: OnceCell<Arc<ClientConfig>>,
}

impl Dialler {
    /// Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` and `AWS_CA_BUNDLE`.
    pub fn from_env() -> Self {
        let dialler = Self {
            proxies: Proxies::from_variables(|name| std::env::var(name).ok()),
            ..Self::default()
        };
        if let Some(bundle) = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
            dialler.trust(bundle.into());
        }
        dialler
    }

    /// Trusts the certificates in the PEM file `bundle`, unless another file was named before, or TLS is
    /// spoken already.
    pub fn trust(&self, bundle: PathBuf) {
        // The first one stays: what the environment says wins over a profile.
        let _ = self.bundle.set(bundle);
    }

    /// Makes the next calls open connections of their own: those that are kept may have died with the network, which
    /// nothing but silence tells.
    pub fn give_up_kept(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes when kept connections are given up.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Connects to `to`, through TLS if it says so.
    ///
    /// # Errors
    /// [`enum@Error`], within 6 s to the destination or proxy, and 6 s more when the proxy has to
    /// connect.
    pub async fn dial(&self, to: &Destination) -> Result<Stream, Error> {
        match self.proxies.route(to)? {
            None => self.connect(to).await,
            Some(proxy) => self.tunnel(proxy, to).await,
        }
    }

    /// The proxy that takes HTTP requests to `to` itself, if there is one: plain ones need no tunnel, which
    /// many proxies allow to port 443 only.
    ///
    /// # Errors
    /// [`Error::InvalidProxy`].
    pub(super) fn forward(&self, to: &Destination) -> Result<Option<&Proxy>, Error> {
        let proxy = self.proxies.route(to)?;
        Ok(proxy.filter(|proxy| !to.is_tls() && proxy.protocol == Protocol::Http))
    }

    async fn tunnel(&self, proxy: &Proxy, to: &Destination) -> Result<Stream, Error> {
        tracing::debug!(%proxy, variable = proxy.variable, %to, "going through a proxy");
        let mut stream = self.connect_proxy(proxy).await?;
        let tunnelled = timeout(TUNNEL_LIMIT, async {
            match proxy.protocol {
                Protocol::Http => http_connect::connect(&mut stream, proxy, to).await,
                Protocol::Socks5 => socks::connect(&mut stream, proxy, to).await,
            }?;
            match to.is_tls() {
                true => self.secure(stream, to).await,
                false => Ok(stream),
            }
        });
        tunnelled
            .await
            .map_err(|_| Error::TimedOut(format!("{} through the proxy {proxy}", to.authority())))?
    }

    /// Connects to the proxy itself.
    ///
    /// # Errors
    /// [`enum@Error`], naming the proxy.
    pub(super) async fn connect_proxy(&self, proxy: &Proxy) -> Result<Stream, Error> {
        let proxy_name = || proxy.to_string();
        self.connect(&proxy.destination)
            .await
            .map_err(|error| match error {
                Error::Connect { source, .. } => Error::ProxyConnect {
                    proxy: proxy_name(),
                    source,
                },
                Error::Tls { source, .. } => Error::ProxyTls {
                    proxy: proxy_name(),
                    source,
                },
                Error::TimedOut(_) => Error::TimedOut(format!("the proxy {proxy}")),
                other => other,
            })
    }

    async fn connect(&self, to: &Destination) -> Result<Stream, Error> {
        let connected = async {
            let tcp = tcp::connect(to.host(), to.port()).await;
            let tcp = tcp.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp));
            let tcp = tcp.map_err(|source| Error::Connect {
                host: to.authority(),
                source: Arc::new(source),
            })?;
            let stream = Stream::Plain(Tcp::new(tcp));
            match to.is_tls() {
                true => self.secure(stream, to).await,
                false => Ok(stream),
            }
        };
        timeout(CONNECT_LIMIT, connected)
            .await
            .map_err(|_| Error::TimedOut(to.authority()))?
    }

    /// Speaks TLS with `to` over `stream`.
    pub(super) async fn secure(&self, stream: Stream, to: &Destination) -> Result<Stream, Error> {
        let name = ServerName::try_from(to.host().to_owned())
            .map_err(|_| Error::InvalidHost(to.host().to_owned()))?;
        let load = || tls::config(self.bundle.get().cloned());
        let config = self.tls.get_or_try_init(load).await;
        let config = config.map_err(|error| Error::Roots(error.into()))?;
        let connector = TlsConnector::from(Arc::clone(config));
        match connector.connect(name, stream).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(source) => Err(Error::Tls {
                host: to.authority(),
                source: Arc::new(source),
            }),
        }
    }
}

#[cfg(test)]
#[path = "dialler_tests.rs"]
mod tests;
