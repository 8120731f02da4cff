//! Where a stream URL may lead: to AWS, or to what the configuration names.
//!
//! TokenValue and a signed request follow the URL, so an answer must not be able to send them anywhere
//! else. What is not recognized is refused; a look-alike is somebody's host too.

use http::Uri;
use http::uri::{Authority, Scheme};

use super::Error;
use crate::net::{Destination, InvalidDestination};
use crate::ssm::secret::Secret;

/// The DNS suffixes of all partitions, plain and dual-stack, as the SDK's `partitions.json` has them.
const SUFFIXES: [&str; 14] = [
    "amazonaws.com",
    "api.aws",
    "amazonaws.com.cn",
    "api.amazonwebservices.com.cn",
    "amazonaws.eu",
    "api.amazonwebservices.eu",
    "c2s.ic.gov",
    "api.aws.ic.gov",
    "sc2s.sgov.gov",
    "api.aws.scloud",
    "cloud.adc-e.uk",
    "api.cloud-aws.adc-e.uk",
    "csp.hci.ic.gov",
    "api.aws.hci.ic.gov",
];

/// The names of the message gateway before the region.
const SERVICES: [&str; 2] = ["ssmmessages", "ssmmessages-fips"];

/// The gateways that the configuration names besides those of AWS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::ssm) struct Gateways {
    /// Host of a configured API endpoint, which may be its own gateway.
    pub(in crate::ssm) api_host: Option<String>,
    /// What takes the place of scheme, host and port in every stream URL, for VPC endpoints.
    pub(in crate::ssm) replacement: Option<Destination>,
}

impl Gateways {
    /// The URI to open for `stream_url`, and where it leads.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`], [`Error::Foreign`] or [`Error::Insecure`]; none repeats more than the host.
    pub(super) fn resolve(&self, stream_url: &Secret) -> Result<(Uri, Destination), Error> {
        let uri: Uri = stream_url.expose().parse().map_err(|_| Error::InvalidUrl)?;
        if !matches!(uri.scheme_str(), Some("wss" | "ws")) {
            return Err(Error::InvalidUrl);
        }
        let given = match Destination::of(&uri) {
            Ok(given) => given,
            Err(InvalidDestination::User) => return Err(disguised(&uri)),
            Err(_) => return Err(Error::InvalidUrl),
        };
        let Some(replacement) = &self.replacement else {
            self.check(&given)?;
            return Ok((uri, given));
        };
        // The person's choice, whatever the answer says; but plain to this computer only.
        if !replacement.is_tls() && !replacement.is_loopback() {
            return Err(Error::Insecure(replacement.host().to_owned()));
        }
        Ok((replace(uri, replacement)?, replacement.clone()))
    }

    fn check(&self, given: &Destination) -> Result<(), Error> {
        let host = given.host();
        if !given.is_tls() {
            return match given.is_loopback() {
                true => Ok(()),
                false => Err(Error::Insecure(host.to_owned())),
            };
        }
        let is_configured = self.api_host.as_deref() == Some(host);
        match is_configured || (given.port() == 443 && is_gateway_of_aws(host)) {
            true => Ok(()),
            false => Err(Error::Foreign(given.authority())),
        }
    }
}

/// Whether `host` is `ssmmessages.<region>.<suffix>` of a partition; lower case, no trailing dot.
fn is_gateway_of_aws(host: &str) -> bool {
    let Some((service, rest)) = host.split_once('.') else {
        return false;
    };
    let Some((region, suffix)) = rest.split_once('.') else {
        return false;
    };
    let is_region = region.contains('-')
        && region
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    SERVICES.contains(&service) && is_region && SUFFIXES.contains(&suffix)
}

/// The error for a URL whose host stands behind a user that may look like one.
fn disguised(uri: &Uri) -> Error {
    Error::Foreign(uri.host().unwrap_or_default().to_owned())
}

/// `uri` at `destination`, path and query as they are.
fn replace(uri: Uri, destination: &Destination) -> Result<Uri, Error> {
    let (scheme, default_port) = match destination.is_tls() {
        true => ("wss", 443),
        false => ("ws", 80),
    };
    // The Host header is part of the signature, and servers know theirs without the usual port.
    let mut authority = destination.authority();
    if destination.port() == default_port {
        authority.truncate(authority.len() - format!(":{default_port}").len());
    }
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::try_from(scheme).map_err(|_| Error::InvalidUrl)?);
    parts.authority = Some(Authority::try_from(authority).map_err(|_| Error::InvalidUrl)?);
    Uri::from_parts(parts).map_err(|_| Error::InvalidUrl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(gateways: &Gateways, url: &str) -> Result<String, Error> {
        let (uri, destination) = gateways.resolve(&Secret::new(url.to_owned()))?;
        assert_eq!(Destination::of(&uri), Ok(destination));
        Ok(uri.to_string())
    }

    const PATH: &str = "/v1/data-channel/user-0a?role=publish_subscribe&cell-number=AAE%3D";

    #[test]
    fn gateways_of_every_partition_are_known() {
        for host in [
            "ssmmessages.eu-west-1.amazonaws.com",
            "SSMMessages.EU-West-1.AmazonAWS.com",
            "ssmmessages.us-east-1.amazonaws.com:443",
            "ssmmessages-fips.us-gov-west-1.amazonaws.com",
            "ssmmessages.eu-west-1.api.aws",
            "ssmmessages-fips.us-east-1.api.aws",
            "ssmmessages.cn-north-1.amazonaws.com.cn",
            "ssmmessages.cn-northwest-1.api.amazonwebservices.com.cn",
            "ssmmessages.eusc-de-east-1.amazonaws.eu",
            "ssmmessages.us-iso-east-1.c2s.ic.gov",
            "ssmmessages.us-isob-east-1.sc2s.sgov.gov",
            "ssmmessages.eu-isoe-west-1.cloud.adc-e.uk",
            "ssmmessages.us-isof-south-1.csp.hci.ic.gov",
        ] {
            let url = format!("wss://{host}{PATH}");
            assert_eq!(resolve(&Gateways::default(), &url).unwrap(), url);
        }
    }

    #[test]
    fn look_alikes_are_refused() {
        for authority in [
            "evil.example",
            "ssmmessages.eu-west-1.amazonaws.com.evil.example",
            "ssmmessages.eu-west-1.amazonaws.com.",
            "ssmmessages.eu-west-1.amazonaws.com:8443",
            "ssmmessages.eu-west-1.amazonaws.com@evil.example",
            "ssmmessages.eu-west-1.amazonaws.com:443@evil.example",
            "user@ssmmessages.eu-west-1.amazonaws.com",
            "evil.example.ssmmessages.eu-west-1.amazonaws.com",
            "evilssmmessages.eu-west-1.amazonaws.com",
            "ssmmessages.evil.eu-west-1.amazonaws.com",
            "ssmmessages.amazonaws.com",
            "ssmmessages.evil.amazonaws.com",
            "ssmmessages.eu-west-1.evilamazonaws.com",
            "ssmmessages.eu-west-1.amazonaws.co",
            "ssmmessages.eu-west-1.aws",
            "ssmmessages..amazonaws.com",
            "bucket.s3.eu-west-1.amazonaws.com",
            "ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",
            "xn--ssmmessages-x.eu-west-1.amazonaws.com",
            "ssmmessages.eu-west-1.xn--amazonaws-x.com",
            "127.0.0.1",
            "[::1]",
            "10.0.0.1",
            "[2001:db8::1]:443",
            "169.254.169.254",
        ] {
            let url = format!("wss://{authority}/secret-path");
            let error = resolve(&Gateways::default(), &url).unwrap_err();
            assert!(matches!(error, Error::Foreign(_)), "{authority}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("secret-path"));
        }
    }

    #[test]
    fn what_is_no_stream_url_is_refused() {
        for url in [
            "",
            "/v1/data-channel",
            "https://ssmmessages.eu-west-1.amazonaws.com/",
            "http://127.0.0.1/",
            "file:///etc/passwd",
            "wss://",
            "wss:///path",
            "wss://ssmmessages.eu-west-1.amazonaws.com\\@evil.example/",
            "wss://ssmmessages.eu-west-1.amazonaws.com\t.evil.example/",
            "wss://ssmmessages.eu-west-1.amazonaws.com:/",
            "wss://ssmmessages.eu-west-1.amazonaws。com/",
            "wss://ѕsmmessages.eu-west-1.amazonaws.com/",
            "wss://ssmmessages.eu-west-1.amazonaws.com%2eevil.example/",
        ] {
            let result = resolve(&Gateways::default(), url);
            assert!(result.is_err(), "{url}");
        }
    }

    #[test]
    fn plain_sockets_lead_to_this_computer_only() {
        let none = Gateways::default();
        for url in ["ws://127.0.0.1:1/", "ws://localhost:1/", "ws://[::1]:1/"] {
            assert!(resolve(&none, url).is_ok(), "{url}");
        }
        for url in [
            "ws://10.0.0.1/",
            "ws://localhost.example.com/",
            "ws://0.0.0.0/",
            "ws://127.1/",
            "ws://ssmmessages.eu-west-1.amazonaws.com/",
        ] {
            let error = resolve(&none, url).unwrap_err();
            assert!(matches!(error, Error::Insecure(_)), "{url}");
        }
    }

    #[test]
    fn a_configured_api_may_be_its_own_gateway() {
        let gateways = Gateways {
            api_host: Some("aws.corp.example".into()),
            replacement: None,
        };
        assert!(resolve(&gateways, "wss://aws.corp.example:4566/x").is_ok());
        assert!(resolve(&gateways, "wss://AWS.corp.example/x").is_ok());
        assert!(resolve(&gateways, "wss://ssmmessages.eu-west-1.amazonaws.com/x").is_ok());
        for other in [
            "wss://a.aws.corp.example/x",
            "wss://corp.example/x",
            "wss://evil.example/x",
        ] {
            assert!(resolve(&gateways, other).is_err(), "{other}");
        }
        let plain = resolve(&gateways, "ws://aws.corp.example/x").unwrap_err();
        assert!(matches!(plain, Error::Insecure(_)));
    }

    #[test]
    fn a_gateway_of_ones_own_keeps_path_and_query() {
        let given = format!("wss://ssmmessages.eu-west-1.amazonaws.com{PATH}");
        for (own, opened) in [
            (
                "https://vpce-0.ssmmessages.eu-west-1.vpce.amazonaws.com",
                "wss://vpce-0.ssmmessages.eu-west-1.vpce.amazonaws.com",
            ),
            ("wss://gateway.example:8443/", "wss://gateway.example:8443"),
            ("https://[2001:db8::1]", "wss://[2001:db8::1]"),
            ("http://127.0.0.1:8022", "ws://127.0.0.1:8022"),
        ] {
            let gateways = Gateways {
                api_host: None,
                replacement: Some(own.parse().unwrap()),
            };
            assert_eq!(
                resolve(&gateways, &given).unwrap(),
                format!("{opened}{PATH}")
            );
            let evil = format!("wss://evil.example{PATH}");
            assert_eq!(
                resolve(&gateways, &evil).unwrap(),
                format!("{opened}{PATH}")
            );
        }
        let plain = Gateways {
            api_host: None,
            replacement: Some("http://gateway.example".parse().unwrap()),
        };
        assert!(matches!(resolve(&plain, &given), Err(Error::Insecure(_))));
    }

    proptest::proptest! {
        /// Whatever stands around the name of a gateway, it leads there or is refused.
        #[test]
        fn a_gateway_with_anything_around_it_is_that_or_refused(
            before in "[a-z0-9.@:/\\[\\]%#?\\\\-]{0,4}",
            after in "[a-z0-9.@:\\[\\]%\\\\-]{0,6}",
        ) {
            let host = "ssmmessages.eu-west-1.amazonaws.com";
            let url = format!("wss://{before}{host}{after}/x");
            if let Ok((_, to)) = Gateways::default().resolve(&Secret::new(url)) {
                proptest::prop_assert_eq!(to, Destination::new(host, 443, true));
            }
        }
    }
}
