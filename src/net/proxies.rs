//! The proxies of the environment, and which of them leads where.

use super::bypass::Bypass;
use super::destination::Destination;
use super::error::Error;
use super::proxy::Proxy;

/// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
///
/// Each name counts in lower case first, as with curl, and an empty value as none.
#[derive(Debug, Clone)]
pub(super) struct Proxies {
    https: Choice,
    http: Choice,
    bypass: Bypass,
}

/// A proxy, none, or why what was said cannot be meant.
type Choice = Result<Option<Proxy>, Error>;

impl Default for Proxies {
    /// None at all.
    fn default() -> Self {
        Self::from_variables(|_| None)
    }
}

impl Proxies {
    /// Reads the variables that `variable` returns.
    pub(super) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|&name| {
                let value = variable(name)?;
                (!value.trim().is_empty()).then_some((name, value))
            })
        };
        let proxy = |names: &[&'static str]| match first(names) {
            None => Ok(None),
            Some((variable, url)) => match Proxy::parse(variable, &url) {
                Ok(proxy) => Ok(Some(proxy)),
                Err(problem) => Err(Error::InvalidProxy { variable, problem }),
            },
        };
        let exceptions = first(&["no_proxy", "NO_PROXY"]);
        Self {
            https: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            http: proxy(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            bypass: exceptions.map_or_else(Bypass::default, |(_, text)| Bypass::parse(&text)),
        }
    }

    /// The proxy for `destination`, if it is not reached directly.
    ///
    /// This computer and link-local addresses never have one: at a proxy they would be others.
    ///
    /// # Errors
    /// [`Error::InvalidProxy`]: to go without the proxy would be against what was asked for.
    pub(super) fn route(&self, destination: &Destination) -> Result<Option<&Proxy>, Error> {
        if destination.is_here_only() || self.bypass.covers(destination) {
            return Ok(None);
        }
        let choice = match destination.is_tls() {
            true => &self.https,
            false => &self.http,
        };
        choice.as_ref().map(Option::as_ref).map_err(Error::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(|name| {
            let (_, value) = variables.iter().find(|(own, _)| *own == name)?;
            Some((*value).to_owned())
        })
    }

    fn route(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let proxies = proxies(variables);
        let proxy = proxies.route(&url.parse().unwrap()).unwrap()?;
        Some(proxy.destination.authority())
    }

    #[test]
    fn the_scheme_of_the_destination_chooses_the_variable() {
        let both = [("HTTPS_PROXY", "s:1"), ("HTTP_PROXY", "p:2")];
        let all = [("HTTP_PROXY", "p:2"), ("ALL_PROXY", "socks5h://a:3")];
        let lower = [("HTTPS_PROXY", "s:1"), ("https_proxy", "l:4")];
        let empty = [("https_proxy", " "), ("HTTPS_PROXY", "s:1")];
        for (variables, url, via) in [
            (&both[..], "https://x", Some("s:1")),
            (&both, "wss://x", Some("s:1")),
            (&both, "http://x", Some("p:2")),
            (&all, "https://x", Some("a:3")),
            (&all, "http://x", Some("p:2")),
            (&lower, "https://x", Some("l:4")),
            (&lower, "http://x", None),
            (&empty, "https://x", Some("s:1")),
            (&[], "https://x", None),
        ] {
            assert_eq!(route(variables, url).as_deref(), via, "{variables:?} {url}");
        }
    }

    #[test]
    fn some_destinations_have_no_proxy() {
        let variables = [("ALL_PROXY", "p:1"), ("NO_PROXY", "direct.example")];
        for url in [
            "https://direct.example",
            "https://a.direct.example",
            "http://127.0.0.1:8022",
            "https://localhost",
            "http://169.254.169.254",
        ] {
            assert_eq!(route(&variables, url), None, "{url}");
        }
        assert!(route(&variables, "https://other.example").is_some());
    }

    #[test]
    fn an_unreadable_proxy_is_an_error_that_names_its_variable() {
        let proxies = proxies(&[("all_proxy", "gopher://ann:password@p")]);
        let route = |url: &str| proxies.route(&url.parse().unwrap());
        assert_eq!(
            route("http://127.0.0.1:8022").unwrap(),
            None,
            "it needs none"
        );
        let error = route("https://x").unwrap_err();
        let told = format!("{error} {error:?}");
        assert!(
            told.contains("all_proxy") && !told.contains("password@"),
            "{told}"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_may_stand_in_the_environment(
            proxy in "((https?|socks5)://)?[a-z:@\\[\\]%/0-9.é]{0,12}",
            exceptions in "[a-z*.,:/\\[\\]0-9 é]{0,16}",
            any: String,
        ) {
            let to = "https://a.b:1".parse().unwrap();
            for (proxy, exceptions) in [(&proxy, &exceptions), (&any, &any)] {
                let proxies = proxies(&[("ALL_PROXY", proxy), ("NO_PROXY", exceptions)]);
                let _ = proxies.route(&to);
            }
        }
    }
}
