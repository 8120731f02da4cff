//! The CONNECT method (RFC 9110, section 9.3.6): a tunnel through an HTTP proxy.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::destination::Destination;
use super::error::{AuthenticationProblem, Error};
use super::proxy::Proxy;

/// An answer has some hundred bytes of head; the page that may follow a refusal is not read.
const MAX_HEAD: usize = 16 << 10;

/// Asks `proxy`, at the other end of `stream`, to connect it to `to`.
///
/// # Errors
/// [`Error`], naming the proxy.
pub(super) async fn connect(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    to: &Destination,
) -> Result<(), Error> {
    let lost = |source| Error::ProxyConnect {
        proxy: proxy.to_string(),
        source: Arc::new(source),
    };
    stream.write_all(&request(proxy, to)).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut head = Vec::with_capacity(1 << 10);
    loop {
        if stream.read_buf(&mut head).await.map_err(lost)? == 0 {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let misbehaved = |problem| Error::ProxyMisbehaved {
            proxy: proxy.to_string(),
            problem,
        };
        match Answer::parse(&head) {
            Ok(Some((answer, length))) => {
                answer.judge(proxy, to)?;
                // The other end speaks after us: this is not its.
                return match length == head.len() {
                    true => Ok(()),
                    false => Err(misbehaved("it speaks after its answer")),
                };
            }
            Ok(None) if head.len() >= MAX_HEAD => return Err(misbehaved("its answer has no end")),
            Ok(None) => {}
            Err(problem) => return Err(misbehaved(problem)),
        }
    }
}

fn request(proxy: &Proxy, to: &Destination) -> Vec<u8> {
    let authority = to.authority();
    let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    let mut request =
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {agent}\r\n")
            .into_bytes();
    if let Some(login) = &proxy.login {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(login.basic().as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// What a proxy says to CONNECT.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// The schemes of its Proxy-Authenticate headers.
    schemes: Vec<String>,
}

impl Answer {
    /// The answer at the front of `bytes` and its length, or `None` while it is incomplete.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, &'static str> {
        let front = &bytes[..bytes.len().min(5)];
        if !b"HTTP/".starts_with(front) {
            return Err("this is not HTTP");
        }
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.filter(|status| status.len() == 3);
        let status = status.and_then(|status| status.parse().ok());
        let schemes = lines
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authenticate"))
            .filter_map(|(_, value)| value.split_whitespace().next())
            .map(|scheme| scheme.trim_end_matches(',').escape_debug().to_string())
            .collect();
        let status = status.ok_or("its answer has no status")?;
        Ok(Some((Self { status, schemes }, end + 4)))
    }

    fn judge(self, proxy: &Proxy, to: &Destination) -> Result<(), Error> {
        match self.status {
            200..=299 => Ok(()),
            407 => Err(unauthenticated(proxy, &self.schemes)),
            status => Err(Error::ProxyRefused {
                proxy: proxy.to_string(),
                host: to.authority(),
                reason: format!("status {status}"),
            }),
        }
    }
}

/// The error for status 407 with these `schemes` of authentication.
pub(super) fn unauthenticated(proxy: &Proxy, schemes: &[String]) -> Error {
    let has_basic = schemes
        .iter()
        .any(|scheme| scheme.eq_ignore_ascii_case("basic"));
    let problem = match proxy.login {
        _ if !has_basic && !schemes.is_empty() => {
            AuthenticationProblem::Unsupported(schemes.join(", "))
        }
        Some(_) => AuthenticationProblem::Wrong,
        None => AuthenticationProblem::Missing,
    };
    Error::ProxyAuthentication {
        proxy: proxy.to_string(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str) -> Proxy {
        Proxy::parse("HTTPS_PROXY", url).unwrap()
    }

    /// What comes of the answer `said`, and what was asked.
    async fn exchange(proxy: &Proxy, said: &[u8]) -> (Result<(), Error>, String) {
        let (mut near, mut far) = tokio::io::duplex(64 << 10);
        far.write_all(said).await.unwrap();
        far.shutdown().await.unwrap();
        let to = "https://ssm.eu-west-1.amazonaws.com".parse().unwrap();
        let result = connect(&mut near, proxy, &to).await;
        drop(near);
        let mut asked = String::new();
        far.read_to_string(&mut asked).await.unwrap();
        (result, asked)
    }

    #[tokio::test]
    async fn asks_for_host_and_port_with_user_and_password() {
        let ok = b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n";
        let (result, asked) = exchange(&proxy("http://Aladdin:open%20sesame@p"), ok).await;
        result.unwrap();
        assert_eq!(
            asked,
            concat!(
                "CONNECT ssm.eu-west-1.amazonaws.com:443 HTTP/1.1\r\n",
                "Host: ssm.eu-west-1.amazonaws.com:443\r\n",
                "User-Agent: ssmshim/",
                env!("CARGO_PKG_VERSION"),
                "\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
            )
        );
        let (result, asked) = exchange(&proxy("http://p"), b"HTTP/1.0 200\r\n\r\n").await;
        result.unwrap();
        assert!(!asked.contains("Authorization"), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_names_its_reason() {
        let basic = "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=\"a\"\r\n\r\n<html>";
        let two = "HTTP/1.1 407 x\r\nproxy-authenticate: NTLM\r\nProxy-Authenticate: basic\r\n\r\n";
        let other =
            "HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n";
        for (url, said, told) in [
            ("http://p", basic, "asks for a user and a password"),
            (
                "http://u:p@p",
                basic,
                "does not accept the user and the password",
            ),
            (
                "http://u:p@p",
                two,
                "does not accept the user and the password",
            ),
            ("http://u:p@p", other, "other than Basic (NTLM, Negotiate)"),
            ("http://u:p@p", "HTTP/1.1 407 x\r\n\r\n", "does not accept"),
            ("http://p", "HTTP/1.1 403 x\r\n\r\n", "status 403"),
            (
                "http://p",
                "HTTP/1.1 302 x\r\nLocation: http://evil.example\r\n\r\n",
                "status 302",
            ),
            ("http://p", "HTTP/1.1 100 x\r\n\r\n", "status 100"),
            (
                "http://p",
                "HTTP/1.1 200 x\r\n\r\nmore",
                "speaks after its answer",
            ),
            ("http://p", "HTTP/1.1\r\n\r\n", "no status"),
            ("http://p", "SSH-2.0-x\r\n", "not HTTP"),
            ("http://p", "HTTP/1.1 200 x\r\n", "cannot connect"),
            ("http://p", "", "cannot connect"),
        ] {
            let (result, _) = exchange(&proxy(url), said.as_bytes()).await;
            let error = result.unwrap_err().to_string();
            assert!(error.contains(told), "{said:?}: {error}");
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_given_up() {
        let said = [b"HTTP/1.1 200 x\r\n".to_vec(), vec![b'x'; 2 * MAX_HEAD]].concat();
        let (result, _) = exchange(&proxy("http://p"), &said).await;
        assert!(result.unwrap_err().to_string().contains("no end"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(front in "HTTP/1\\.1 [0-9]{3} |", rest: Vec<u8>, cut: usize) {
            let bytes = [front.as_bytes(), &rest, b"\r\n\r\n"].concat();
            let whole = Answer::parse(&bytes);
            // What is right as a whole is not wrong while it comes.
            let part = Answer::parse(&bytes[..cut % bytes.len()]);
            proptest::prop_assert!(whole.is_err() || part.is_ok());
        }
    }
}
