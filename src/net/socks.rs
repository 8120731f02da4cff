//! SOCKS version 5 (RFC 1928) with user and password (RFC 1929): a tunnel through a SOCKS proxy.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::destination::Destination;
use super::error::{AuthenticationProblem, Error};
use super::proxy::Proxy;

const VERSION: u8 = 0x05;
const NO_AUTHENTICATION: u8 = 0x00;
const USER_AND_PASSWORD: u8 = 0x02;
const LOGIN_VERSION: u8 = 0x01;
const CONNECT: u8 = 0x01;
const IPV4: u8 = 0x01;
const NAME: u8 = 0x03;
const IPV6: u8 = 0x04;
const SUCCEEDED: u8 = 0x00;

/// Asks `proxy`, at the other end of `stream`, to connect it to `to`; it resolves the name.
///
/// # Errors
/// [`Error`], naming the proxy.
pub(super) async fn connect(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    to: &Destination,
) -> Result<(), Error> {
    let lost = |source: io::Error| Error::ProxyConnect {
        proxy: proxy.to_string(),
        source: Arc::new(source),
    };
    authenticate(stream, proxy).await?;
    stream.write_all(&request(to)?).await.map_err(lost)?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await.map_err(lost)?;
    let [version, code, _reserved, kind] = reply;
    if version != VERSION {
        return Err(misbehaved(proxy, "this is not SOCKS 5"));
    }
    if code != SUCCEEDED {
        return Err(Error::ProxyRefused {
            proxy: proxy.to_string(),
            host: to.authority(),
            reason: reason(code),
        });
    }
    // The address at the proxy's far side is of no use to us.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await.map_err(lost)?),
        _ => return Err(misbehaved(proxy, "its reply has an unknown address")),
    };
    let mut bound = [0; 255 + 2];
    let bound = &mut bound[..length + 2];
    stream.read_exact(bound).await.map_err(lost)?;
    Ok(())
}

async fn authenticate(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
) -> Result<(), Error> {
    let lost = |source: io::Error| Error::ProxyConnect {
        proxy: proxy.to_string(),
        source: Arc::new(source),
    };
    let refused = |problem| Error::ProxyAuthentication {
        proxy: proxy.to_string(),
        problem,
    };
    let hello: &[u8] = match proxy.login {
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
        None => &[VERSION, 1, NO_AUTHENTICATION],
    };
    stream.write_all(hello).await.map_err(lost)?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await.map_err(lost)?;
    if chosen[0] != VERSION {
        return Err(misbehaved(proxy, "this is not SOCKS 5"));
    }
    let login = match (chosen[1], &proxy.login) {
        (NO_AUTHENTICATION, _) => return Ok(()),
        (USER_AND_PASSWORD, Some(login)) => login,
        (_, Some(_)) => return Err(refused(AuthenticationProblem::Wrong)),
        (_, None) => return Err(refused(AuthenticationProblem::Missing)),
    };
    let mut message = Zeroizing::new(vec![LOGIN_VERSION]);
    for part in [login.user(), login.password()] {
        // `Proxy::parse` has seen to the length.
        message.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        message.extend_from_slice(part);
    }
    stream.write_all(&message).await.map_err(lost)?;
    let mut verdict = [0; 2];
    stream.read_exact(&mut verdict).await.map_err(lost)?;
    match verdict[1] {
        SUCCEEDED => Ok(()),
        _ => Err(refused(AuthenticationProblem::Wrong)),
    }
}

fn request(to: &Destination) -> Result<Vec<u8>, Error> {
    let mut request = vec![VERSION, CONNECT, 0];
    match to.address() {
        Some(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend_from_slice(&address.octets());
        }
        None => {
            let length = u8::try_from(to.host().len());
            let length = length.map_err(|_| Error::InvalidHost(to.host().to_owned()))?;
            request.extend_from_slice(&[NAME, length]);
            request.extend_from_slice(to.host().as_bytes());
        }
    }
    request.extend_from_slice(&to.port().to_be_bytes());
    Ok(request)
}

fn misbehaved(proxy: &Proxy, problem: &'static str) -> Error {
    Error::ProxyMisbehaved {
        proxy: proxy.to_string(),
        problem,
    }
}

/// The words of RFC 1928, section 6.
fn reason(code: u8) -> String {
    let words = match code {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => return format!("code {code}"),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of the bytes `said`, and what was sent.
    async fn exchange(url: &str, to: &str, said: &[u8]) -> (Result<(), Error>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1 << 10);
        far.write_all(said).await.unwrap();
        far.shutdown().await.unwrap();
        let proxy = Proxy::parse("ALL_PROXY", url).unwrap();
        let result = connect(&mut near, &proxy, &to.parse().unwrap()).await;
        drop(near);
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.unwrap();
        (result, sent)
    }

    const V4: &[u8] = &[5, 0, 0, 1, 10, 0, 0, 1, 0, 80];

    #[tokio::test]
    async fn names_travel_to_the_proxy() {
        let said = [&[5, 0], V4].concat();
        let (result, sent) = exchange("socks5h://p", "https://a.example", &said).await;
        result.unwrap();
        assert_eq!(sent, b"\x05\x01\x00\x05\x01\x00\x03\x09a.example\x01\xbb");
        let (result, sent) = exchange("socks5://p", "http://10.0.0.1", &said).await;
        result.unwrap();
        assert_eq!(
            sent,
            b"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"
        );
    }

    #[tokio::test]
    async fn user_and_password_are_told_when_asked_for() {
        let said = [&[5, 2, 1, 0], V4].concat();
        let (result, sent) = exchange("socks5h://u:pw@p", "http://10.0.0.1", &said).await;
        result.unwrap();
        assert!(
            sent.starts_with(b"\x05\x02\x00\x02\x01\x01u\x02pw\x05"),
            "{sent:?}"
        );
    }

    #[tokio::test]
    async fn refusals_are_told_apart() {
        for (url, said, told) in [
            ("socks5://p", &[5, 0xff][..], "asks for a user"),
            ("socks5://u:p@p", &[5, 0xff], "does not accept"),
            ("socks5://u:p@p", &[5, 2, 1, 1], "does not accept"),
            ("socks5://p", &[5, 0, 5, 5, 0, 1], "connection refused"),
            ("socks5://p", &[5, 0, 5, 99, 0, 1], "code 99"),
            ("socks5://p", &[5, 0, 5, 0, 0, 9], "unknown address"),
            ("socks5://p", b"HTTP/1.1 400", "not SOCKS 5"),
            ("socks5://p", &[5, 0, 5, 0, 0, 3, 255, 1], "cannot connect"),
        ] {
            let (result, _) = exchange(url, "http://10.0.0.1", said).await;
            let error = result.unwrap_err().to_string();
            assert!(error.contains(told), "{said:?}: {error}");
        }
    }
}
