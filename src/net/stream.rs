//! TCP, TLS over it, and TLS over that, as one type.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// An open connection.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(Tcp),
    /// With TLS; to a service through a proxy that speaks TLS itself, it is there twice.
    Tls(Box<TlsStream<Self>>),
}

impl Stream {
    /// The address of the nearest other end: the destination, or a proxy on the way.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(tcp) => tcp.stream.peer_addr(),
            Self::Tls(tls) => tls.get_ref().0.peer_address(),
        }
    }

    /// How often the kernel, after it had refused bytes, has taken some again: its buffer empties
    /// only when the other side acknowledges what is in it, so each time is a sign of life, of a proxy's
    /// where there is one.
    pub fn relieved(&self) -> u64 {
        match self {
            Self::Plain(tcp) => tcp.relieved,
            Self::Tls(tls) => tls.get_ref().0.relieved(),
        }
    }
}

/// A TCP connection that notes when its full send buffer has emptied.
#[derive(Debug)]
pub struct Tcp {
    stream: TcpStream,
    /// The last write found no room.
    is_full: bool,
    relieved: u64,
}

impl Tcp {
    /// Wraps a connected stream.
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            is_full: false,
            relieved: 0,
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        match &written {
            Poll::Pending => self.is_full = true,
            Poll::Ready(Ok(_)) if std::mem::take(&mut self.is_full) => self.relieved += 1,
            Poll::Ready(_) => {}
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
