//! The way to AWS: proxy, names, TCP and TLS of the two endpoints, one after the other.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::check::{Found, Subject};
use super::examination::{Examination, Step};
use crate::aws::{self, Aws};
use crate::config::Serve;
use crate::net::{Destination, Dialler, Error, Stream, Via};
use crate::report::one_line;

/// Addresses that are listed.
const LISTED: usize = 3;

/// Both endpoints, as far as they were reached.
pub(super) struct Reached {
    /// Where the API is, and an open connection to it; none where a proxy is asked for each plain request.
    pub(super) api: Step<(Destination, Option<Stream>)>,
    /// Whether the message gateway would answer.
    pub(super) gateway: Step<()>,
}

/// The subjects of the checks of one endpoint.
struct Subjects {
    name: Subject,
    tcp: Subject,
    tls: Subject,
}

const API: Subjects = Subjects {
    name: Subject::ApiName,
    tcp: Subject::ApiTcp,
    tls: Subject::ApiTls,
};
const GATEWAY: Subjects = Subjects {
    name: Subject::GatewayName,
    tcp: Subject::GatewayTcp,
    tls: Subject::GatewayTls,
};

/// Checks the way to both endpoints.
pub(super) async fn examine(
    examination: &mut Examination<'_>,
    config: &Serve,
    aws: Step<&Aws>,
) -> Reached {
    let endpoints = aws.and_then(|aws| {
        // What is no URL was found out together with the region.
        let (api, gateway) = endpoints(config, aws).map_err(|_| Subject::Region)?;
        Ok((aws.ssm().dialler(), api, gateway))
    });
    let proxy = examination
        .after(
            Subject::Proxy,
            endpoints.clone(),
            async |(dialler, api, gateway)| proxy(dialler, &api, &gateway).await,
        )
        .await;
    let (dialler, api, gateway) = match endpoints {
        Ok(endpoints) => endpoints,
        Err(because) => {
            examination.skip_through(Subject::GatewayTls, because);
            return Reached {
                api: Err(because),
                gateway: Err(because),
            };
        }
    };
    let api_way = walk(examination, dialler, &api, &API, proxy).await;
    let gateway_way = walk(examination, dialler, &gateway, &GATEWAY, proxy).await;
    Reached {
        api: api_way.map(|stream| (api, stream)),
        gateway: gateway_way.map(drop),
    }
}

/// Where the API and the gateway are, as far as can be told before a session exists.
///
/// # Errors
/// [`aws::Error::InvalidRequest`] for a configured endpoint that is no URL.
pub(super) fn endpoints(
    config: &Serve,
    aws: &Aws,
) -> Result<(Destination, Destination), aws::Error> {
    let of = |service: &str, url: Option<String>| {
        let destination = url.and_then(|url| Destination::of(&url.parse().ok()?).ok());
        destination.ok_or_else(|| {
            let problem = format!("the endpoint URL of {service} is no URL");
            aws::Error::InvalidRequest(problem.into())
        })
    };
    let api = of("ssm", aws.api_url())?;
    let gateway = match &config.ssmmessages_endpoint {
        Some(replacement) => replacement.clone(),
        // Whatever answers as the API on this very computer says itself where its gateway is.
        None if api.is_loopback() => api.clone(),
        None => of("ssmmessages", aws.gateway_url())?,
    };
    Ok((api, gateway))
}

/// Which proxy leads where, and whether it lets us through.
async fn proxy(dialler: &Dialler, api: &Destination, gateway: &Destination) -> Found<()> {
    let mut ways = Vec::new();
    for to in [api, gateway] {
        match dialler.via(to) {
            Ok(via) => ways.push((to, via)),
            Err(error) => return failed(&error),
        }
    }
    if ways.iter().all(|(_, via)| via.is_none()) {
        return Found::ok((), "none, both endpoints are reached directly");
    }
    for (to, via) in &ways {
        // A plain request goes to the proxy itself, and is made later.
        if via.is_some()
            && to.is_tls()
            && let Err(error) = dialler.pass(to).await
        {
            return failed(&error);
        }
    }
    Found::ok((), told(&ways))
}

/// `http://proxy:3128 (HTTPS_PROXY) for a:443 and b:443`.
fn told(ways: &[(&Destination, Option<Via>)]) -> String {
    let name = |via: &Option<Via>| match via {
        Some(Via { proxy, variable }) => format!("{proxy} ({variable})"),
        None => "none".to_owned(),
    };
    let mut text = String::new();
    for (to, via) in ways {
        let earlier = ways.iter().take_while(|(other, _)| other != to);
        match earlier.last() {
            // Writing to a string cannot fail.
            Some((_, other)) if other == via => {
                let _ = write!(text, " and {}", to.authority());
            }
            earlier => {
                let comma = if earlier.is_some() { ", " } else { "" };
                let _ = write!(text, "{comma}{} for {}", name(via), to.authority());
            }
        }
    }
    text
}

/// Goes to one endpoint step by step, and returns the connection if there is one of our own.
async fn walk(
    examination: &mut Examination<'_>,
    dialler: &Dialler,
    to: &Destination,
    subjects: &Subjects,
    proxy: Step<()>,
) -> Step<Option<Stream>> {
    let has_proxy = matches!(dialler.via(to), Ok(Some(_)) | Err(_));
    let direct = if has_proxy {
        for subject in [subjects.name, subjects.tcp] {
            let _: Step<()> = examination
                .check(subject, async {
                    Found::needless((), "the proxy does that")
                })
                .await;
        }
        proxy.map(|()| None)
    } else {
        let addresses = examination.check(subjects.name, look_up(dialler, to)).await;
        examination
            .after(subjects.tcp, addresses, async |addresses| {
                reach(dialler, to, &addresses).await
            })
            .await
            .map(Some)
    };
    examination
        .after(subjects.tls, direct, async |direct| {
            secure(dialler, to, direct).await
        })
        .await
}

/// Speaks TLS over a direct connection, or else over one through the proxy.
async fn secure(
    dialler: &Dialler,
    to: &Destination,
    direct: Option<Stream>,
) -> Found<Option<Stream>> {
    if !to.is_tls() {
        return Found::needless(direct, format_args!("{to} is plain"));
    }
    let stream = match direct {
        Some(stream) => Ok(Some(stream)),
        None => dialler.pass(to).await,
    };
    let stream = match stream {
        Ok(Some(stream)) => stream,
        // Not where there is neither: a proxy was found before.
        Ok(None) => return Found::needless(None, "there is no connection"),
        Err(error) => return failed(&error),
    };
    match dialler.encrypt(to, stream).await {
        Ok((stream, version)) => {
            Found::ok(Some(stream), format!("{version} with {}", to.authority()))
        }
        Err(error) => failed(&error),
    }
}

async fn look_up(dialler: &Dialler, to: &Destination) -> Found<Vec<SocketAddr>> {
    match dialler.look_up(to).await {
        Ok(addresses) if to.address().is_some() => {
            Found::needless(addresses, format_args!("{} is an address", to.host()))
        }
        Ok(addresses) => {
            let mut listed: Vec<_> = addresses
                .iter()
                .take(LISTED)
                .map(|address| address.ip().to_string())
                .collect();
            if addresses.len() > LISTED {
                listed.push("…".to_owned());
            }
            let text = format!("{} is {}", to.host(), listed.join(", "));
            Found::ok(addresses, text)
        }
        Err(error) => failed(&error),
    }
}

async fn reach(dialler: &Dialler, to: &Destination, addresses: &[SocketAddr]) -> Found<Stream> {
    match dialler.reach(to, addresses).await {
        Ok(stream) => {
            let peer = stream.peer_address();
            let peer = peer.map_or_else(|_| to.authority(), |peer| peer.to_string());
            Found::ok(stream, format!("connected to {peer}"))
        }
        Err(error) => failed(&error),
    }
}

fn failed<T>(error: &Error) -> Found<T> {
    Found::failed(one_line(error), Some(error.hint().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_told_once() {
        let (api, gateway) = (
            Destination::new("a", 443, true),
            Destination::new("b", 443, true),
        );
        let via = Some(Via {
            proxy: "http://p:1".into(),
            variable: "HTTPS_PROXY",
        });
        let both = [(&api, via.clone()), (&gateway, via.clone())];
        assert_eq!(told(&both), "http://p:1 (HTTPS_PROXY) for a:443 and b:443");
        let one = [(&api, via), (&gateway, None)];
        assert_eq!(
            told(&one),
            "http://p:1 (HTTPS_PROXY) for a:443, none for b:443"
        );
    }
}
