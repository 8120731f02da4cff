//! Tests of the driver and its handles over in-memory pipes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Config, Error, Keepalive, SmuxSession, SmuxStream};

type Driver = JoinHandle<Result<(), Error>>;

fn client<IO>(io: IO) -> (SmuxSession, Driver)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (session, driver) = SmuxSession::client(io, Config::default());
    (session, tokio::spawn(driver))
}

fn server<IO>(io: IO) -> (SmuxSession, Driver)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (session, driver) = SmuxSession::server(io, Config::default());
    (session, tokio::spawn(driver))
}

struct World {
    client: SmuxSession,
    client_driver: Driver,
    server: SmuxSession,
    server_driver: Driver,
}

fn world(pipe_bytes: usize) -> World {
    let (a, b) = duplex(pipe_bytes);
    let (client, client_driver) = client(a);
    let (server, server_driver) = server(b);
    World {
        client,
        client_driver,
        server,
        server_driver,
    }
}

impl World {
    async fn stream(&self) -> (SmuxStream, SmuxStream) {
        let near = self.client.open().await.unwrap();
        let far = self.server.accept().await.unwrap();
        assert_eq!(near.id(), far.id());
        (near, far)
    }
}

/// Bytes that a writer can push before it has to wait for good.
///
/// Every task runs on this one thread, so when a hundred turns of all the others have not made room, nothing will.
async fn fill(stream: &mut SmuxStream) -> usize {
    let block = [0; 10_000];
    let mut total = 0;
    let mut idle_turns = 0;
    while idle_turns < 100 {
        let count = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_write(cx, &block))).await;
        if let Poll::Ready(count) = count {
            total += count.unwrap();
            idle_turns = 0;
        } else {
            tokio::task::yield_now().await;
            idle_turns += 1;
        }
    }
    total
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), work).await.unwrap()
}

#[tokio::test]
async fn many_streams_echo_at_once() {
    let world = world(3_000);
    let server = world.server.clone();
    tokio::spawn(async move {
        while let Some(stream) = server.accept().await {
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::spawn(async move {
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
    });
    let mut clients = Vec::new();
    for number in 0..20_u8 {
        let stream = world.client.open().await.unwrap();
        clients.push(tokio::spawn(async move {
            let sent = vec![number; 100_000 + usize::from(number)];
            let (mut read, mut write) = tokio::io::split(stream);
            let send = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (_, count) = tokio::join!(send, read.read_to_end(&mut got));
            count.unwrap();
            assert!(got == sent);
        }));
    }
    for client in clients {
        within(client).await.unwrap();
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let world = world(64 * 1024);
    let (mut near, mut far) = world.stream().await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"question");
    far.write_all(b"answer").await.unwrap();
    drop(far);
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"answer");
    let error = near.write(b"more").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn the_session_ends_with_its_last_handle_and_stream() {
    let world = world(64 * 1024);
    let (mut near, mut far) = world.stream().await;
    drop(world.client);
    near.write_all(b"last words").await.unwrap();
    drop(near);
    within(world.client_driver).await.unwrap().unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
    // The client has shut its end of the pipe down; the server still held a handle.
    let end = within(world.server_driver).await.unwrap();
    assert!(matches!(end, Err(Error::Ended)));
    assert!(within(world.server.accept()).await.is_none());
}

#[tokio::test]
async fn streams_nobody_will_accept_are_refused() {
    let world = world(64 * 1024);
    let (_near, _far) = world.stream().await;
    let mut early = world.client.open().await.unwrap();
    drop(world.server);
    let mut late = world.client.open().await.unwrap();
    for stream in [&mut early, &mut late] {
        let mut got = Vec::new();
        assert_eq!(within(stream.read_to_end(&mut got)).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_lost_io_is_an_error_after_what_arrived() {
    let (io, mut peer) = duplex(64 * 1024);
    let (session, driver) = client(io);
    let mut stream = session.open().await.unwrap();
    let mut waiting = session.open().await.unwrap();
    let waiting = tokio::spawn(async move { waiting.read_u8().await });
    peer.write_all(b"\x01\x02\x09\0\x03\0\0\0par")
        .await
        .unwrap();
    drop(peer);
    let end = within(driver).await.unwrap();
    assert!(matches!(end, Err(Error::Ended)), "{end:?}");
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).await.unwrap_err();
    assert_eq!(got, b"par");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(stream.write(b"x").await.is_err());
    assert!(within(waiting).await.unwrap().is_err());
    assert!(session.open().await.is_err());
    assert!(matches!(session.ended().await, Error::Ended));
}

#[tokio::test]
async fn garbage_is_a_typed_error() {
    let (io, mut peer) = duplex(1024);
    let (session, driver) = server(io);
    let accepting = tokio::spawn(async move { session.accept().await.is_none() });
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let end = within(driver).await.unwrap();
    assert!(matches!(end, Err(Error::Protocol(_))));
    assert!(within(accepting).await.unwrap());
}

#[tokio::test]
async fn a_stopped_driver_leaves_nobody_waiting() {
    let (io, _peer) = duplex(1024);
    let (session, driver) = client(io);
    let mut stream = session.open().await.unwrap();
    let reader = tokio::spawn(async move { stream.read_u8().await });
    tokio::task::yield_now().await;
    driver.abort();
    let error = within(reader).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert!(matches!(session.ended().await, Error::Stopped));
}

#[tokio::test]
async fn an_io_that_takes_nothing_stops_writers_within_bounds() {
    let (io, _peer) = duplex(1_000);
    let (session, _driver) = client(io);
    let mut first = session.open().await.unwrap();
    let mut second = session.open().await.unwrap();
    let first_bytes = fill(&mut first).await;
    let second_bytes = fill(&mut second).await;
    // One buffer each, one output, and the pipe.
    assert!((64 * 1024..=64 * 1024 + 50 * 1024).contains(&first_bytes));
    assert!((64 * 1024..=64 * 1024 + 50 * 1024).contains(&second_bytes));
    assert!(first_bytes + second_bytes < 2 * 64 * 1024 + 50 * 1024);
}

#[tokio::test]
async fn a_reader_that_sleeps_stops_the_servers_peer_but_not_the_other_direction() {
    let world = world(1_000);
    let (mut near, mut far) = world.stream().await;
    let pushed = fill(&mut near).await;
    let bucket = 4 * 1024 * 1024;
    assert!(pushed >= bucket && pushed < bucket + 256 * 1024, "{pushed}");
    // Nobody reads upward; downward still moves, also the frame that ends the stream.
    far.write_all(b"alive").await.unwrap();
    far.shutdown().await.unwrap();
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"alive");
    near.shutdown().await.unwrap();
    let mut total = 0;
    let mut block = vec![0; 100_000];
    loop {
        match far.read(&mut block).await.unwrap() {
            0 => break,
            count => total += count,
        }
    }
    assert_eq!(total, pushed);
}

#[tokio::test]
async fn a_client_whose_writes_are_stuck_still_reads() {
    let (io, mut peer) = duplex(100);
    let (session, _driver) = client(io);
    let mut stream = session.open().await.unwrap();
    let other = session.open().await.unwrap();
    // Nobody takes what the client sends.
    let stuck = tokio::spawn(async move {
        let mut other = other;
        other.write_all(&[0; 200_000]).await
    });
    let frame = b"\x01\x02\x05\0\x03\0\0\0hello";
    let mut got = [0; 5];
    for _ in 0..1_000 {
        within(peer.write_all(frame)).await.unwrap();
        within(stream.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"hello");
    }
    stuck.abort();
}

#[tokio::test]
async fn keepalive_runs_on_the_clock() {
    let (io, mut peer) = duplex(1024);
    let config = Config {
        keepalive: Some(Keepalive {
            interval: Duration::from_millis(5),
            timeout: Duration::from_millis(50),
        }),
        ..Config::default()
    };
    let (session, driver) = SmuxSession::client(io, config);
    let driver = tokio::spawn(driver);
    let mut nops = [0; 16];
    within(peer.read_exact(&mut nops)).await.unwrap();
    assert_eq!(nops[..8], *b"\x01\x03\0\0\0\0\0\0");
    let end = within(driver).await.unwrap();
    assert!(matches!(end, Err(Error::KeepaliveTimeout)));
    assert!(matches!(session.ended().await, Error::KeepaliveTimeout));
}

/// Accepts writes at once but holds them until flushed, and lets a flush finish only when told.
struct Lazy {
    io: DuplexStream,
    flushes: usize,
    flushable: tokio::sync::watch::Receiver<bool>,
}

impl AsyncRead for Lazy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lazy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushes += 1;
        let Self { flushable, .. } = &mut *self;
        let flushed = std::pin::pin!(flushable.wait_for(|yes| *yes)).poll(cx);
        flushed.map(|_| Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_slow_flush_holds_no_writes_back() {
    let (io, mut peer) = duplex(1024);
    let (_allow, flushable) = tokio::sync::watch::channel(false);
    let (session, _driver) = client(Lazy {
        io,
        flushes: 0,
        flushable,
    });
    let mut stream = session.open().await.unwrap();
    let mut got = [0; 8];
    within(peer.read_exact(&mut got)).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"x").await.unwrap();
        let mut got = [0; 9];
        within(peer.read_exact(&mut got)).await.unwrap();
    }
}

#[tokio::test]
async fn a_read_of_nothing_does_not_wait() {
    let (io, _peer) = duplex(1024);
    let (session, _driver) = client(io);
    let mut stream = session.open().await.unwrap();
    let read = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut [])));
    within(read).await.unwrap();
    assert_eq!(stream.write(&[]).await.unwrap(), 0);
}
