//! Against russh, which has the key exchange that this machine's OpenSSH may lack.

use std::borrow::Cow;
use std::net::{TcpListener, TcpStream};

use ::russh::keys::{PrivateKey, PublicKeyOrCertificate};
use ::russh::{Preferred, client, kex, server};

use super::blocking::{Blocking, DEADLINE, echo_server, message};
use super::*;

const HYBRID: &[kex::Name] = &[kex::MLKEM768X25519_SHA256];

fn preferred() -> Preferred {
    Preferred {
        kex: Cow::Borrowed(HYBRID),
        ..Preferred::default()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// A client that trusts anybody.
struct Trusting;

impl client::Handler for Trusting {
    type Error = ::russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

#[test]
fn hybrid_exchange_with_a_russh_client() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let key = Arc::new(HostKey::generate().unwrap());
    let server = std::thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        echo_server(stream, Config::default(), key)
    });
    runtime().block_on(async {
        let config = client::Config {
            preferred: preferred(),
            ..client::Config::default()
        };
        let mut session = client::connect(Arc::new(config), address, Trusting)
            .await
            .unwrap();
        let result = session.authenticate_none("anyone").await.unwrap();
        assert!(result.success());
        let goodbye = ::russh::Disconnect::ByApplication;
        session.disconnect(goodbye, "", "").await.unwrap();
    });
    server.join().unwrap();
}

/// A server that refuses everybody.
struct Refusing;

impl server::Handler for Refusing {
    type Error = ::russh::Error;
}

#[test]
fn hybrid_exchange_with_a_russh_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let key = HostKey::generate().unwrap().to_openssh().unwrap();
    let key = PrivateKey::from_openssh(key.as_bytes()).unwrap();
    let server = std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let stream = listener.accept().await.unwrap().0;
            let config = server::Config {
                keys: vec![key],
                preferred: preferred(),
                ..server::Config::default()
            };
            let session = server::run_stream(Arc::new(config), stream, Refusing).await;
            // However the client goes.
            let _ = session.unwrap().await;
        });
    });
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let transport = Transport::client(Config::default(), Instant::now());
    let mut connection = Blocking::new(transport, stream);
    connection.send(message(msg::SERVICE_REQUEST, |m| {
        m.put_string("ssh-userauth");
    }));
    connection.expect(msg::SERVICE_ACCEPT);
    assert!(connection.transport.server_sig_algs().is_some());
    drop(connection);
    server.join().unwrap();
}
