//! X11 forwarding (RFC 4254 §6.3): displays on loopback whose connections become channels.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context as TaskContext, Poll};

use tokio::net::{TcpListener, TcpStream};
use tracing::debug;

use super::channel::X11Request;
use super::forward::{accept_any, listen_at};

/// The first display that is tried: sshd's `X11DisplayOffset`.
const FIRST_DISPLAY: u16 = 10;

/// Displays that are tried; sshd's number.
const MAX_DISPLAYS: u16 = 1000;

/// Port of display 0.
const BASE_PORT: u16 = 6000;

/// A display that listens on loopback only: sshd's `X11UseLocalhost yes`.
#[derive(Debug)]
pub(super) struct Display {
    /// One for each address family.
    listeners: Vec<TcpListener>,
    number: u16,
    request: X11Request,
}

impl Display {
    /// Opens the first display that is free.
    ///
    /// # Errors
    /// When there is none, or when the client's words are not fit for xauth, to which they are given.
    pub(super) fn open(request: X11Request) -> io::Result<Self> {
        if !is_plain(&request.protocol) || !is_plain(&request.cookie.0) {
            return Err(io::Error::other("invalid X11 authentication"));
        }
        let (number, listeners) = (FIRST_DISPLAY..FIRST_DISPLAY + MAX_DISPLAYS)
            .find_map(|number| Some((number, listen(number)?)))
            .ok_or_else(|| io::Error::other("no free display"))?;
        debug!(number, "display opened");
        Ok(Self {
            listeners,
            number,
            request,
        })
    }

    /// The value for `DISPLAY`.
    pub(super) fn name(&self) -> String {
        format!("localhost:{}.{}", self.number, self.request.screen)
    }

    /// What xauth is to do, so that clients find the cookie: the commands of sshd.
    pub(super) fn authority(&self) -> Vec<u8> {
        // For xauth, `localhost` is another name of this.
        let name = format!("unix:{}.{}", self.number, self.request.screen);
        let mut commands = format!("remove {name}\nadd {name} ").into_bytes();
        commands.extend_from_slice(&self.request.protocol);
        commands.push(b' ');
        commands.extend_from_slice(&self.request.cookie.0);
        commands.push(b'\n');
        commands
    }

    /// Whether it takes no connection after the first.
    pub(super) fn takes_one(&self) -> bool {
        self.request.single_connection
    }

    /// The next client of the display.
    pub(super) fn poll_accept(
        &self,
        cx: &mut TaskContext<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        accept_any(&self.listeners, cx)
    }
}

/// Listens at the port of display `number` on every family that there is, or not at all: somebody else has it.
fn listen(number: u16) -> Option<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for ip in [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ] {
        match listen_at(SocketAddr::new(ip, BASE_PORT + number)) {
            Ok(listener) => listeners.push(listener),
            // sshd then has no display for anybody; a machine with one family is no reason.
            Err(error) if is_missing(&error) => {}
            Err(_) => return None,
        }
    }
    (!listeners.is_empty()).then_some(listeners)
}

/// Whether the address family is what is missing.
fn is_missing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Whether xauth takes `text` for one word that says nothing but itself; what sshd lets pass.
fn is_plain(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b".:/-_".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::super::channel::Cookie;
    use super::*;

    fn request(protocol: &[u8], cookie: &[u8]) -> X11Request {
        X11Request {
            single_connection: false,
            protocol: protocol.into(),
            cookie: Cookie(cookie.into()),
            screen: 3,
        }
    }

    #[tokio::test]
    async fn displays_are_the_first_that_are_free() {
        let open = || Display::open(request(b"MIT-MAGIC-COOKIE-1", b"00ff")).unwrap();
        let (one, two) = (open(), open());
        assert!(FIRST_DISPLAY <= one.number && one.number < two.number);
        let name = format!("localhost:{}.3", one.number);
        assert_eq!(one.name(), name);
        let unix = name.replace("localhost", "unix");
        let commands = format!("remove {unix}\nadd {unix} MIT-MAGIC-COOKIE-1 00ff\n");
        assert_eq!(one.authority(), commands.as_bytes());
        // A display that somebody has in one family is nobody's in the other.
        let address = (Ipv4Addr::LOCALHOST, BASE_PORT + two.number + 1);
        let Ok(_taken) = std::net::TcpListener::bind(address) else {
            return;
        };
        assert!(listen(two.number + 1).is_none());
    }

    #[tokio::test]
    async fn xauth_is_told_nothing_but_words() {
        for bad in [&b"a b"[..], b"a\nadd", b"\xe4", b"a;b", b"\0"] {
            assert!(Display::open(request(bad, b"00")).is_err());
            assert!(Display::open(request(b"MIT-MAGIC-COOKIE-1", bad)).is_err());
        }
        assert!(!format!("{:?}", request(b"p", b"5ec4e7")).contains("5ec4e7"));
    }
}
