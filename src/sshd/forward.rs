//! Forwarding: connections made for the client (`direct-*`), and listeners whose connections become channels
//! (`forwarded-*`, `auth-agent@openssh.com`, `x11`).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::task::{Context as TaskContext, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tracing::{Instrument, debug, warn};

use super::Context;
use super::agent::AgentSocket;
use super::channel::{ChannelId, ChannelType, Forwarded, GlobalRequest, Stream, X11Request};
use super::pipe::Pipe;
use super::pump;
use super::unix::UnixSocket;
use super::x11::Display;

/// Listeners of one connection: each is looked at whenever the connection is.
const MAX_LISTENERS: usize = 256;

/// A socket at this end of a forward.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Connects to where a `direct-*` channel leads and serves it.
pub(super) fn connect(context: &Context, target: ChannelType, pipe: Pipe) {
    let task = async move {
        let connected = tokio::select! {
            connected = dial(&target) => connected,
            () = pipe.closed() => return,
        };
        match connected {
            Ok(socket) => {
                pipe.accept();
                splice(socket, &pipe).await;
            }
            Err(error) => {
                debug!(%target, %error, "a forward found nobody");
                pipe.refuse(reason(&target, &error));
            }
        }
    };
    spawn(context, task);
}

/// Serves a channel that the client took for a connection to one of its listeners.
pub(super) fn serve(context: &Context, socket: Socket, pipe: Pipe) {
    spawn(context, async move { splice(socket, &pipe).await });
}

/// Runs `task` until it or the server ends.
fn spawn(context: &Context, task: impl Future<Output = ()> + Send + 'static) {
    let shutdown = context.shutdown.clone();
    let task = async move {
        shutdown.run_until_cancelled(task).await;
    };
    context.tasks.spawn(task.in_current_span());
}

async fn dial(target: &ChannelType) -> io::Result<Socket> {
    match target {
        ChannelType::DirectTcpip { host, port } => {
            let host = std::str::from_utf8(host).map_err(io::Error::other)?;
            let port = u16::try_from(*port).map_err(|_| io::Error::other("port out of range"))?;
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            Ok(Socket::Tcp(stream))
        }
        ChannelType::DirectStreamlocal { path } => Ok(Socket::Unix(
            UnixStream::connect(OsStr::from_bytes(path)).await?,
        )),
        ChannelType::Session => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The system's words for `error`, as sshd sends them; of a Unix socket it does not say more than that.
fn reason(target: &ChannelType, error: &io::Error) -> String {
    if let ChannelType::DirectStreamlocal { .. } = target {
        return "open failed".to_owned();
    }
    let text = error.to_string();
    let text = text
        .strip_prefix("failed to lookup address information: ")
        .unwrap_or(&text);
    text.split(" (os error ").next().unwrap_or(text).to_owned()
}

/// Copies both ways until both have ended, each by itself.
async fn splice(socket: Socket, pipe: &Pipe) {
    async fn halves(
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        pipe: &Pipe,
    ) {
        let up = async {
            if pump::feed(pipe, &mut writer).await.is_err() {
                pipe.discard();
            }
        };
        let down = async {
            pump::drain(pipe, &mut reader, Stream::Stdout).await;
            pipe.finish();
        };
        tokio::join!(up, down);
    }
    match socket {
        Socket::Tcp(stream) => {
            let (reader, writer) = stream.into_split();
            halves(reader, writer, pipe).await;
        }
        Socket::Unix(stream) => {
            let (reader, writer) = stream.into_split();
            halves(reader, writer, pipe).await;
        }
    }
}

/// What a listener was asked for, by which it is taken back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Tcp(Vec<u8>, u16),
    Unix(Vec<u8>),
    Agent,
    /// Of the session that asked for it.
    X11(ChannelId),
}

/// The listeners of one connection; gone with it.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    listeners: BTreeMap<Key, Listener>,
    /// Whether the agent has been asked for, which counts once.
    agent_requested: bool,
}

impl Listeners {
    /// Starts or ends a listener; None where that fails, else what the success carries.
    pub(super) fn request(&mut self, request: GlobalRequest) -> Option<Vec<u8>> {
        let done = match request {
            GlobalRequest::TcpipForward { address, port } => self.listen_tcp(address, port),
            GlobalRequest::StreamlocalForward { path } => self.listen_unix(path),
            GlobalRequest::CancelTcpipForward { address, port } => {
                let port = u16::try_from(port).ok()?;
                return self
                    .listeners
                    .remove(&Key::Tcp(address, port))
                    .map(|_| Vec::new());
            }
            GlobalRequest::CancelStreamlocalForward { path } => {
                return self.listeners.remove(&Key::Unix(path)).map(|_| Vec::new());
            }
            GlobalRequest::NoMoreSessions => return Some(Vec::new()),
            GlobalRequest::Unknown => return None,
        };
        done.inspect_err(|error| warn!(%error, "cannot listen for the client"))
            .ok()
    }

    /// Listens for those who want the client's agent.
    ///
    /// False where that fails, and whenever it is asked for again: sshd has one socket for all sessions of a connection, which the
    /// first request makes or does not.
    pub(super) fn forward_agent(&mut self) -> bool {
        if std::mem::replace(&mut self.agent_requested, true) {
            return false;
        }
        self.check_room(&Key::Agent)
            .and_then(|()| AgentSocket::listen())
            .map(|socket| self.listeners.insert(Key::Agent, Listener::Agent(socket)))
            .inspect_err(|error| warn!(%error, "cannot listen for the client's agent"))
            .is_ok()
    }

    /// Where the client's agent is reached, if it is.
    pub(super) fn agent(&self) -> Option<PathBuf> {
        match self.listeners.get(&Key::Agent)? {
            Listener::Agent(socket) => Some(socket.path()),
            _ => None,
        }
    }

    /// Opens a display for session `id`; false where that fails, and when it has one.
    pub(super) fn forward_x11(&mut self, id: ChannelId, request: X11Request) -> bool {
        let key = Key::X11(id);
        self.check_room(&key)
            .and_then(|()| Display::open(request))
            .map(|display| self.listeners.insert(key, Listener::X11(display)))
            .inspect_err(|error| warn!(%error, "no display for the client"))
            .is_ok()
    }

    /// The display of session `id`, while it takes connections.
    pub(super) fn display(&self, id: ChannelId) -> Option<&Display> {
        match self.listeners.get(&Key::X11(id))? {
            Listener::X11(display) => Some(display),
            _ => None,
        }
    }

    /// Closes the display of session `id`; those connected to it stay so.
    pub(super) fn close_display(&mut self, id: ChannelId) {
        self.listeners.remove(&Key::X11(id));
    }

    /// The next connection to any of the listeners.
    pub(super) fn poll_accept(&mut self, cx: &mut TaskContext<'_>) -> Poll<(Forwarded, Socket)> {
        for (key, listener) in &self.listeners {
            loop {
                match listener.poll_accept(key, cx) {
                    Poll::Ready(Ok(accepted)) => {
                        if listener.takes_one() {
                            let key = key.clone();
                            self.listeners.remove(&key);
                        }
                        return Poll::Ready(accepted);
                    }
                    // It had gone before we looked; another may be behind it.
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {
                    }
                    // Out of descriptors: the next look is when a channel closes and frees one.
                    Poll::Ready(Err(error)) => {
                        warn!(%error, "a forwarded connection was not accepted");
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
        Poll::Pending
    }

    /// Listens on loopback only, whatever `address` says: sshd's `GatewayPorts no`.
    ///
    /// On both families, or on the one whose loopback address was asked for by number, as sshd does: the client
    /// has then said which one it needs, and the other is no substitute.
    fn listen_tcp(&mut self, address: Vec<u8>, port: u32) -> io::Result<Vec<u8>> {
        let requested = u16::try_from(port).map_err(|_| io::Error::other("port out of range"))?;
        self.check_room(&Key::Tcp(address.clone(), requested))?;
        let mut listeners = Vec::new();
        let mut bound = requested;
        let mut failure = None;
        let (v4, v6) = (
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        );
        let wanted: &[IpAddr] = match address.as_slice() {
            b"127.0.0.1" => &[v4],
            b"::1" => &[v6],
            _ => &[v4, v6],
        };
        for &ip in wanted {
            match listen_at(SocketAddr::new(ip, bound)) {
                Ok(listener) => {
                    bound = listener.local_addr()?.port();
                    listeners.push(listener);
                }
                Err(error) => failure = Some(error),
            }
        }
        // One family is enough: many machines have no IPv6.
        if listeners.is_empty() {
            return Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()));
        }
        debug!(port = bound, "listening for the client");
        self.listeners
            .insert(Key::Tcp(address, bound), Listener::Tcp(listeners));
        Ok(if requested == 0 {
            u32::from(bound).to_be_bytes().to_vec()
        } else {
            Vec::new()
        })
    }

    /// Listens at a path that does not exist yet, for this user only: sshd's `StreamLocalBindMask 0177`.
    fn listen_unix(&mut self, path: Vec<u8>) -> io::Result<Vec<u8>> {
        let key = Key::Unix(path.clone());
        self.check_room(&key)?;
        let path = PathBuf::from(OsStr::from_bytes(&path));
        let listener = Listener::Unix(UnixSocket::listen(&path)?);
        self.listeners.insert(key, listener);
        Ok(Vec::new())
    }

    fn check_room(&self, key: &Key) -> io::Result<()> {
        if self.listeners.contains_key(key) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        if self.listeners.len() >= MAX_LISTENERS {
            return Err(io::Error::other("too many listeners"));
        }
        Ok(())
    }
}

/// Listens at one address.
pub(super) fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The next connection to any of the `listeners`, which are those of one address.
pub(super) fn accept_any(
    listeners: &[TcpListener],
    cx: &mut TaskContext<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    for listener in listeners {
        if let Poll::Ready((stream, originator)) = listener.poll_accept(cx)? {
            stream.set_nodelay(true)?;
            return Poll::Ready(Ok((stream, originator)));
        }
    }
    Poll::Pending
}

#[derive(Debug)]
enum Listener {
    /// One for each address family.
    Tcp(Vec<TcpListener>),
    Unix(UnixSocket),
    Agent(AgentSocket),
    X11(Display),
}

impl Listener {
    /// Whether it is gone with its first connection.
    fn takes_one(&self) -> bool {
        matches!(self, Self::X11(display) if display.takes_one())
    }

    fn poll_accept(
        &self,
        key: &Key,
        cx: &mut TaskContext<'_>,
    ) -> Poll<io::Result<(Forwarded, Socket)>> {
        match (self, key) {
            (Self::Tcp(listeners), Key::Tcp(address, port)) => {
                accept_any(listeners, cx).map_ok(|(stream, originator)| {
                    let forwarded = Forwarded::Tcpip {
                        address: address.clone(),
                        port: u32::from(*port),
                        originator: originator.ip().to_string(),
                        originator_port: u32::from(originator.port()),
                    };
                    (forwarded, Socket::Tcp(stream))
                })
            }
            (Self::Unix(socket), Key::Unix(path)) => socket.poll_accept(cx).map_ok(|stream| {
                (
                    Forwarded::Streamlocal { path: path.clone() },
                    Socket::Unix(stream),
                )
            }),
            (Self::Agent(socket), _) => socket
                .poll_accept(cx)
                .map_ok(|stream| (Forwarded::Agent, Socket::Unix(stream))),
            (Self::X11(display), _) => display.poll_accept(cx).map_ok(|(stream, originator)| {
                let forwarded = Forwarded::X11 {
                    originator: originator.ip().to_string(),
                    originator_port: u32::from(originator.port()),
                };
                (forwarded, Socket::Tcp(stream))
            }),
            _ => Poll::Pending,
        }
    }
}
