//! A proxy as a URL describes it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::destination::Destination;

/// What a proxy is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP, over TLS if the destination says so.
    Http,
    /// SOCKS version 5, names resolved by the proxy.
    Socks5,
}

/// A proxy, and who we are to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) protocol: Protocol,
    pub(super) destination: Destination,
    pub(super) login: Option<Login>,
    /// The environment variable that it comes from, for people.
    pub(super) variable: &'static str,
}

/// User and password at a proxy; never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    user: Zeroizing<Vec<u8>>,
    password: Zeroizing<Vec<u8>>,
}

impl Proxy {
    /// Reads `[scheme://][user[:password]@]host[:port][/]`, where user and password are percent-encoded.
    ///
    /// Without a scheme it is an HTTP proxy. The ports are 80, 443 and 1080 unless said.
    ///
    /// # Errors
    /// What is wrong with it, without a word of what it says.
    pub(super) fn parse(variable: &'static str, url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("http", url.trim()));
        let (protocol, is_tls, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Protocol::Http, false, 80),
            "https" => (Protocol::Http, true, 443),
            "socks5" | "socks5h" => (Protocol::Socks5, false, 1080),
            _ => return Err("only http, https, socks5 and socks5h proxies are known"),
        };
        // A password may hold anything but what ends the authority.
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, beyond) = rest.split_at(end);
        // Else the beginning of a password would be taken for host and port, to be looked up and printed.
        if beyond.contains('@') {
            return Err("special characters in its user and password must be percent-encoded");
        }
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(Login::parse(login)), host),
            None => (None, authority),
        };
        if host.is_empty() {
            return Err("it has no host");
        }
        let invalid = "its host or port is invalid";
        let uri: Uri = format!("http://{host}").parse().map_err(|_| invalid)?;
        let host = Destination::of(&uri).map_err(|_| invalid)?;
        let port = uri.port_u16().unwrap_or(default_port);
        if protocol == Protocol::Socks5 && login.as_ref().is_some_and(|login| !login.fits_socks()) {
            return Err("SOCKS takes 1 to 255 bytes of user and of password");
        }
        Ok(Self {
            protocol,
            destination: Destination::new(host.host(), port, is_tls),
            login,
            variable,
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Http => self.destination.fmt(f),
            Protocol::Socks5 => write!(f, "socks5://{}", self.destination.authority()),
        }
    }
}

impl Login {
    fn parse(text: &str) -> Self {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let decode = |part| Zeroizing::new(percent_decode_str(part).collect());
        Self {
            user: decode(user),
            password: decode(password),
        }
    }

    fn fits_socks(&self) -> bool {
        [self.user(), self.password()]
            .iter()
            .all(|part| (1..=255).contains(&part.len()))
    }

    pub(super) fn user(&self) -> &[u8] {
        &self.user
    }

    pub(super) fn password(&self) -> &[u8] {
        &self.password
    }

    /// The value of Proxy-Authorization (RFC 7617), marked so that it is not printed.
    pub(super) fn basic(&self) -> HeaderValue {
        let pair = Zeroizing::new([self.user(), b":", self.password()].concat());
        let text = Zeroizing::new(format!("Basic {}", BASE64.encode(&*pair)));
        let mut value = HeaderValue::from_str(&text).expect("Base64 is printable ASCII");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Proxy, &'static str> {
        Proxy::parse("HTTPS_PROXY", url)
    }

    #[test]
    fn scheme_and_port_have_defaults() {
        for (url, told) in [
            ("proxy.example", "http://proxy.example:80"),
            ("proxy.example:3128", "http://proxy.example:3128"),
            (" http://Proxy.example:3128/ ", "http://proxy.example:3128"),
            ("HTTPS://proxy.example", "https://proxy.example:443"),
            ("https://proxy.example:80", "https://proxy.example:80"),
            ("socks5h://proxy.example", "socks5://proxy.example:1080"),
            ("socks5://u:p@[::1]", "socks5://[::1]:1080"),
            ("http://u:p@[::1]:3128", "http://[::1]:3128"),
        ] {
            assert_eq!(parse(url).unwrap().to_string(), told, "{url}");
        }
    }

    #[test]
    fn user_and_password_are_percent_decoded_and_not_printed() {
        for (url, user, password) in [
            ("http://ann:s%40cret%3a%2F@p:1", "ann", "s@cret:/"),
            ("ann:p@ss@p:1", "ann", "p@ss"),
            ("http://ann:a:b@p", "ann", "a:b"),
            ("http://ann@p", "ann", ""),
            ("http://DOMAIN%5Cann:x@p", "DOMAIN\\ann", "x"),
        ] {
            let proxy = parse(url).unwrap();
            let login = proxy.login.clone().unwrap();
            assert_eq!(login.user(), user.as_bytes(), "{url}");
            assert_eq!(login.password(), password.as_bytes(), "{url}");
            let printed = format!("{proxy} {proxy:?} {:?}", login.basic());
            assert!(!printed.contains("ann"), "{printed}");
        }
        let login = parse("http://Aladdin:open%20sesame@p").unwrap().login;
        assert_eq!(login.unwrap().basic(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_repeating_it() {
        for url in [
            "ftp://u:password@p",
            "socks4://p",
            "http://",
            "http://u:password@",
            "http://u:password@p:99999",
            "http://u:password@p q",
            "socks5://u@p",
            "http://u:1#password@p:1",
            "http://u:1/password@p",
            "u:1?password@p/",
            "socks5://u:1#password@p",
        ] {
            let problem = parse(url).unwrap_err();
            assert!(!problem.contains("password@"), "{problem}");
        }
    }
}
