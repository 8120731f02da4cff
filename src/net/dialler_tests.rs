//! Ways through real sockets; proxies of the real world are met in `tests/proxy`.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn through(proxy: &str) -> Dialler {
    let proxies = Proxies::from_variables(|name| (name == "ALL_PROXY").then(|| proxy.to_owned()));
    Dialler {
        proxies,
        ..Dialler::default()
    }
}

#[tokio::test]
async fn a_proxy_that_is_away_is_named() {
    let (listener, address) = listener().await;
    drop(listener);
    let to = "https://ssm.eu-west-1.amazonaws.com".parse().unwrap();
    let dialler = through(&format!("http://ann:password@{address}"));
    let error = dialler.dial(&to).await.unwrap_err();
    let told = format!("{error} {error:?} {dialler:?}");
    assert!(
        told.contains(&address) && !told.contains("password@"),
        "{told}"
    );
    assert!(matches!(error, Error::ProxyConnect { .. }) && !error.is_fatal());
}

#[tokio::test]
async fn this_computer_is_reached_without_the_proxy() {
    let (listener, address) = listener().await;
    let to = format!("http://{address}").parse().unwrap();
    let dialler = through("http://127.0.0.1:1");
    let (dialled, accepted) = tokio::join!(dialler.dial(&to), listener.accept());
    assert_eq!(
        dialled.unwrap().peer_address().unwrap().to_string(),
        address
    );
    accepted.unwrap();
}

#[test]
fn plain_http_is_given_to_an_http_proxy_itself() {
    let plain = "http://endpoint.example:8080".parse().unwrap();
    let secure = "https://endpoint.example".parse().unwrap();
    for (proxy, to, is_forwarded) in [
        ("http://p:1", &plain, true),
        ("https://p:1", &plain, true),
        ("http://p:1", &secure, false),
        ("socks5h://p:1", &plain, false),
    ] {
        assert_eq!(
            through(proxy).forward(to).unwrap().is_some(),
            is_forwarded,
            "{proxy} {to}"
        );
    }
}

#[tokio::test]
async fn a_tunnel_carries_what_follows() {
    let (listener, address) = listener().await;
    let dialler = through(&address);
    let to = "http://gateway.example:8080".parse().unwrap();
    let proxy = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut asked = [0; 1024];
        let count = tcp.read(&mut asked).await.unwrap();
        tcp.write_all(b"HTTP/1.1 200 x\r\n\r\n").await.unwrap();
        let mut byte = [0];
        tcp.read_exact(&mut byte).await.unwrap();
        (String::from_utf8_lossy(&asked[..count]).into_owned(), byte)
    };
    let client = async {
        let mut stream = dialler.dial(&to).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream
    };
    let (_stream, (asked, byte)) = tokio::join!(client, proxy);
    assert!(asked.starts_with("CONNECT gateway.example:8080 HTTP/1.1\r\n"));
    assert_eq!(byte, *b"x");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_named() {
    let (listener, address) = listener().await;
    let to = format!("https://{address}").parse().unwrap();
    let server = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        tcp
    };
    let dialler = Dialler::default();
    let (dialled, _tcp) = tokio::join!(dialler.dial(&to), server);
    let error = dialled.unwrap_err();
    assert!(
        matches!(&error, Error::Tls { host, .. } if *host == address),
        "{error:?}"
    );
}
