//! A TCP connection to a name that has several addresses, of which some may lead nowhere.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// For each address. A network that swallows one family then costs little of the whole dial's limit.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to the first address of `host` that answers; the two families take turns.
///
/// # Errors
/// The error of the last address, or of the name's resolution.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = lookup_host((host, port)).await?;
    let addresses: Vec<_> = addresses.collect();
    connect_in_turns(&addresses).await
}

/// Connects to the first of `addresses` that answers; the two families take turns.
///
/// # Errors
/// The error of the last address.
pub(super) async fn connect_in_turns(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    connect_any(&interleave(addresses.to_vec()), ADDRESS_TIMEOUT).await
}

async fn connect_any(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = io::Error::new(io::ErrorKind::TimedOut, elapsed),
        }
        tracing::debug!(%address, error = %last, "no connection, trying the next address");
    }
    Err(last)
}

/// Lets the families take turns, beginning with that of the first address: the resolver knows which
/// one is preferred (RFC 8305, section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == is_v6);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    loop {
        let pair = [preferred.next(), other.next()];
        if pair == [None, None] {
            return turns;
        }
        turns.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    #[test]
    fn families_take_turns() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        for (resolved, tried) in [
            (
                &["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"][..],
                &["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"][..],
            ),
            (
                &["1.1.1.1:1", "[::1]:1", "[::2]:1"],
                &["1.1.1.1:1", "[::1]:1", "[::2]:1"],
            ),
            (&["1.1.1.1:1"], &["1.1.1.1:1"]),
            (&[], &[]),
        ] {
            assert_eq!(interleave(addresses(resolved)), addresses(tried));
        }
    }

    /// An address that swallows what is sent to it: a listener whose backlog is full.
    async fn black_hole() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(tcp)) = timeout(SOON, TcpStream::connect(address)).await {
            waiting.push(tcp);
        }
        (address, listener, waiting)
    }

    #[tokio::test]
    async fn an_address_that_never_answers_costs_its_share_only() {
        let (dead, _listener, _waiting) = black_hole().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let tcp = connect_any(&[dead, alive], SOON).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), alive);
        let error = connect_any(&[dead], SOON).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(connect_any(&[], SOON).await.is_err());
    }
}
