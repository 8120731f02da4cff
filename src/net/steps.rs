//! A connection one step at a time, for who wants to know which of them fails: what [`Dialler::dial`] does at once.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::destination::Destination;
use super::dialler::{CONNECT_LIMIT, Dialler, TUNNEL_LIMIT};
use super::error::Error;
use super::proxy::Protocol;
use super::stream::{Stream, Tcp};
use super::{http_connect, socks, tcp};

/// A proxy on the way to a destination, as a person knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// Its URL without user and password.
    pub proxy: String,
    /// The environment variable that names it.
    pub variable: &'static str,
}

impl Dialler {
    /// The proxy that leads to `to`, if it is not reached directly.
    ///
    /// # Errors
    /// [`Error::InvalidProxy`].
    pub fn via(&self, to: &Destination) -> Result<Option<Via>, Error> {
        let proxy = self.proxies.route(to)?;
        Ok(proxy.map(|proxy| Via {
            proxy: proxy.to_string(),
            variable: proxy.variable,
        }))
    }

    /// The addresses of `to`, within 6 s.
    ///
    /// # Errors
    /// [`Error::Connect`] or [`Error::TimedOut`].
    pub async fn look_up(&self, to: &Destination) -> Result<Vec<SocketAddr>, Error> {
        let looked_up = timeout(CONNECT_LIMIT, lookup_host((to.host(), to.port())));
        match looked_up.await {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(source)) => Err(Error::Connect {
                host: to.authority(),
                source: Arc::new(source),
            }),
            Err(_) => Err(Error::TimedOut(format!("the lookup of {}", to.host()))),
        }
    }

    /// A connection to the first of the `addresses` of `to` that answers, without TLS, within 6 s.
    ///
    /// # Errors
    /// [`Error::Connect`] or [`Error::TimedOut`].
    pub async fn reach(&self, to: &Destination, addresses: &[SocketAddr]) -> Result<Stream, Error> {
        match timeout(CONNECT_LIMIT, tcp::connect_in_turns(addresses)).await {
            Ok(Ok(tcp)) => Ok(Stream::Plain(Tcp::new(tcp))),
            Ok(Err(source)) => Err(Error::Connect {
                host: to.authority(),
                source: Arc::new(source),
            }),
            Err(_) => Err(Error::TimedOut(to.authority())),
        }
    }

    /// A connection to `to` through its proxy, without TLS with `to` itself; none when it has no proxy. Within
    /// 12 s, as [`Dialler::dial`].
    ///
    /// # Errors
    /// [`enum@Error`], naming the proxy.
    pub async fn pass(&self, to: &Destination) -> Result<Option<Stream>, Error> {
        let Some(proxy) = self.proxies.route(to)? else {
            return Ok(None);
        };
        let mut stream = self.connect_proxy(proxy).await?;
        let asked = timeout(TUNNEL_LIMIT, async {
            match proxy.protocol {
                Protocol::Http => http_connect::connect(&mut stream, proxy, to).await,
                Protocol::Socks5 => socks::connect(&mut stream, proxy, to).await,
            }
        });
        match asked.await {
            Ok(passed) => passed.map(|()| Some(stream)),
            Err(_) => Err(Error::TimedOut(format!("the proxy {proxy}"))),
        }
    }

    /// Speaks TLS with `to` over `stream`, within 6 s; tells the version.
    ///
    /// # Errors
    /// [`Error::Tls`], [`Error::Roots`], [`Error::InvalidHost`] or [`Error::TimedOut`].
    pub async fn encrypt(
        &self,
        to: &Destination,
        stream: Stream,
    ) -> Result<(Stream, &'static str), Error> {
        let secured = timeout(TUNNEL_LIMIT, self.secure(stream, to)).await;
        let stream = secured.map_err(|_| Error::TimedOut(to.authority()))??;
        let version = match &stream {
            Stream::Tls(tls) => tls.get_ref().1.protocol_version(),
            Stream::Plain(_) => None,
        };
        let version = match version {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS",
        };
        Ok((stream, version))
    }
}
