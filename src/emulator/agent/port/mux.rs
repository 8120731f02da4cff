//! A multiplexed Port session: smux streams, each a TCP connection of its own.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, ReadBuf, copy_buf, split};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Dial, Input, Pipe};
use crate::smux::{self, SmuxSession, SmuxStream};
use crate::ssm::protocol::payload::Flag;

/// Buffer of one direction of one connection.
const COPY_BYTES: usize = 32 * 1024;

/// Serves the streams that the client opens until the session ends, which is always a failure:
/// whoever ends it otherwise drops this future, and all connections with it.
///
/// Targets are dialled one after the other and without a time limit, as the real agent does: a
/// target that does not answer keeps all later streams waiting.
///
/// # Errors
/// Why the smux session is over.
pub(in crate::emulator::agent) async fn run(
    pipe: Pipe,
    dial: &Dial,
    keepalive: bool,
) -> Result<(), smux::Error> {
    let flags = pipe.flags.clone();
    let config = smux::Config {
        keepalive: keepalive.then(smux::Keepalive::default),
        ..smux::Config::default()
    };
    let (session, driver) = SmuxSession::server(MuxPipe::new(pipe), config);
    let mut connections = JoinSet::new();
    let accept = async {
        while let Some(stream) = session.accept().await {
            while connections.try_join_next().is_some() {}
            match dial.connect().await {
                Ok(target) => {
                    connections.spawn(carry(stream, target));
                }
                Err(error) => {
                    tracing::debug!(stream = %stream.id(), %error, "cannot reach the target");
                    // Without a stream id: the FIN that dropping sends tells which it was.
                    let _ = flags.send(Flag::ConnectToPortError).await;
                    drop(stream);
                }
            }
        }
        // The session is over, and the driver is about to say why.
        pending().await
    };
    tokio::select! {
        driven = driver => driven,
        never = accept => never,
    }
}

/// Carries bytes between a stream and its connection until either side ends, then closes both.
///
/// There is no half-close (sheet §6.6). A FIN of the client is obeyed once all before it has been
/// written to the target; what the target would still have said is lost. When the target ends, its
/// last bytes and a FIN go to the client, and what the client still sends is dropped.
async fn carry(stream: SmuxStream, mut target: TcpStream) {
    let id = stream.id();
    let (from_client, mut to_client) = split(stream);
    let (from_target, mut to_target) = target.split();
    let mut from_client = BufReader::with_capacity(COPY_BYTES, from_client);
    let mut from_target = BufReader::with_capacity(COPY_BYTES, from_target);
    let ended = tokio::select! {
        up = copy_buf(&mut from_client, &mut to_target) => up,
        down = copy_buf(&mut from_target, &mut to_client) => down,
    };
    // Queues the FIN behind what was written; it cannot wait and has nothing to report.
    let _ = to_client.shutdown().await;
    tracing::trace!(stream = %id, ?ended, "connection closed");
}

/// The session's two directions as one byte stream, for smux.
struct MuxPipe {
    pipe: Pipe,
    /// What is left of the message being read.
    current: Bytes,
}

impl MuxPipe {
    fn new(pipe: Pipe) -> Self {
        Self {
            pipe,
            current: Bytes::new(),
        }
    }
}

impl AsyncRead for MuxPipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.pipe.input.poll_recv(cx)) {
                Some(Input::Data(data)) => self.current = data,
                // Means nothing in a multiplexed session.
                Some(Input::Disconnect) => {}
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..count]);
        self.current.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxPipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe.output).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe.output).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe.output).poll_shutdown(cx)
    }
}
