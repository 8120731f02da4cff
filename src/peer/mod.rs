//! Who is at the other end of a local TCP connection: the kernel knows.

mod diag;
mod table;

use std::io;
use std::net::SocketAddr;

/// The uid that owns the client's socket of the connection from `peer` to `local`, our own
/// address on it. None when there is no such socket here: the client is on another machine, in
/// another network namespace, or gone.
///
/// # Errors
/// When the kernel shows its sockets in neither of the two ways that it has.
pub async fn uid(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u32>> {
    let (peer, local) = (canonical(peer), canonical(local));
    match diag::uid(peer, local) {
        diag::Answer::Owner(uid) => Ok(Some(uid)),
        diag::Answer::Nobody => Ok(None),
        // The table is read as a file, and is long where there are many connections.
        diag::Answer::Unavailable => tokio::task::spawn_blocking(move || table::uid(peer, local))
            .await
            .map_err(io::Error::other)?,
    }
}

/// The address without scope and flow, IPv4 within IPv6 as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Both ways say the same of an open connection, and of one whose client has gone.
    #[tokio::test]
    async fn our_own_connections_are_ours() {
        let us = rustix::process::getuid().as_raw();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue; // no IPv6 here
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            let local = stream.local_addr().unwrap();
            assert_eq!(uid(peer, local).await.unwrap(), Some(us));
            assert_eq!(table::uid(peer, local).unwrap(), Some(us));
            if let diag::Answer::Owner(owner) = diag::uid(peer, local) {
                assert_eq!(owner, us);
            }

            drop(client);
            assert_eq!(uid(peer, local).await.unwrap(), None);
            assert_eq!(table::uid(peer, local).unwrap(), None);
        }
    }

    /// A listener on the client's port is not the client.
    #[tokio::test]
    async fn a_listener_is_no_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = listener.local_addr().unwrap();
        let nobody = SocketAddr::new(ours.ip(), 1);
        assert_eq!(uid(ours, nobody).await.unwrap(), None);
    }
}
