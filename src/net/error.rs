//! Why there is no connection.

use std::io;
use std::sync::Arc;

use thiserror::Error;

/// Why there is no connection. Cheap to clone: it travels through foreign error types.
///
/// A proxy is named by its URL without user and password.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Error {
    /// A variable of the environment does not name a proxy.
    #[error("{variable} is not the URL of a proxy: {problem}")]
    InvalidProxy {
        /// Its name.
        variable: &'static str,
        /// What is wrong with its value.
        problem: &'static str,
    },
    /// The trusted certificates cannot be loaded.
    #[error("cannot load trusted certificates")]
    Roots(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The host's name cannot be part of a certificate.
    #[error("{0:?} is not a host name")]
    InvalidHost(String),
    /// No TCP connection, for want of an address or of an answer.
    #[error("cannot connect to {host}")]
    Connect {
        /// `host:port`.
        host: String,
        /// Cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// No TLS connection.
    #[error("TLS with {host} failed")]
    Tls {
        /// `host:port`.
        host: String,
        /// Cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// The proxy cannot be reached, or went away while it was being asked.
    #[error("cannot connect to the proxy {proxy}")]
    ProxyConnect {
        /// The proxy.
        proxy: String,
        /// Cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// No TLS connection to the proxy itself.
    #[error("TLS with the proxy {proxy} failed")]
    ProxyTls {
        /// The proxy.
        proxy: String,
        /// Cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// The proxy does not know us.
    #[error("the proxy {proxy} {problem}")]
    ProxyAuthentication {
        /// The proxy.
        proxy: String,
        /// What it wants.
        problem: AuthenticationProblem,
    },
    /// The proxy does not let us through, or cannot reach the host itself.
    #[error("the proxy {proxy} does not connect to {host}: {reason}")]
    ProxyRefused {
        /// The proxy.
        proxy: String,
        /// `host:port`.
        host: String,
        /// Its reason, as far as it says.
        reason: String,
    },
    /// What is said to be a proxy does not speak like one.
    #[error("{proxy} does not answer like a proxy: {problem}")]
    ProxyMisbehaved {
        /// The proxy.
        proxy: String,
        /// What was odd.
        problem: &'static str,
    },
    /// It took too long.
    #[error("{0} did not answer in time")]
    TimedOut(String),
}

/// Why a proxy did not accept who we are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthenticationProblem {
    /// It asks for a user and password, and we have none.
    #[error("asks for a user and a password")]
    Missing,
    /// It does not accept those that we have.
    #[error("does not accept the user and the password")]
    Wrong,
    /// It accepts neither Basic nor nothing.
    #[error("asks for an authentication other than Basic ({0})")]
    Unsupported(String),
}

impl Error {
    /// Whether nothing will change until a person changes it and starts the program again.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::InvalidProxy { .. } | Self::Roots(_) | Self::InvalidHost(_)
        )
    }

    /// Whether a proxy does not accept who we are.
    pub fn is_proxy_authentication(&self) -> bool {
        matches!(self, Self::ProxyAuthentication { .. })
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InvalidProxy { .. } => {
                "as in HTTPS_PROXY=http://user:password@proxy.example.com:3128"
            }
            Self::Roots(_) => "check AWS_CA_BUNDLE and the system's certificates",
            Self::InvalidHost(_) | Self::Connect { .. } | Self::TimedOut(_) => {
                "check the network, the region's name, and the endpoint URL if one is set; \
                 behind a proxy, set HTTPS_PROXY"
            }
            Self::Tls { source, .. } | Self::ProxyTls { source, .. }
                if is_of_another_time(source) =>
            {
                "the certificate is not valid at this computer's time; if that is wrong: sudo timedatectl set-ntp true"
            }
            Self::Tls { .. } => "behind an inspecting proxy, set AWS_CA_BUNDLE to its certificate",
            Self::ProxyConnect { .. } => {
                "check HTTPS_PROXY (or ALL_PROXY, HTTP_PROXY), and whether the proxy runs; NO_PROXY lists hosts that need none"
            }
            Self::ProxyTls { .. } => {
                "set AWS_CA_BUNDLE to the proxy's certificate, or http:// in HTTPS_PROXY if it speaks no TLS"
            }
            Self::ProxyAuthentication { problem, .. } => match problem {
                AuthenticationProblem::Missing | AuthenticationProblem::Wrong => {
                    "put them into HTTPS_PROXY (or ALL_PROXY, HTTP_PROXY) as http://user:password@host:port, \
                     special characters percent-encoded (@ is %40)"
                }
                AuthenticationProblem::Unsupported(_) => {
                    "run a local proxy that speaks it, such as cntlm or px, and set HTTPS_PROXY to that"
                }
            },
            Self::ProxyRefused { .. } => {
                "the proxy must allow CONNECT to port 443 of ssm and ssmmessages.<region>.amazonaws.com"
            }
            Self::ProxyMisbehaved { .. } => "check scheme, host and port in HTTPS_PROXY",
        }
    }

    /// The first such error among `error` and its causes.
    pub fn in_chain<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut cause = Some(error);
        while let Some(current) = cause {
            if let Some(found) = current.downcast_ref::<Self>() {
                return Some(found);
            }
            cause = current.source();
        }
        None
    }
}

/// Whether TLS failed for a certificate that is valid at another time than now.
fn is_of_another_time(error: &io::Error) -> bool {
    use rustls::CertificateError as Invalid;

    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::InvalidCertificate(
            Invalid::Expired
                | Invalid::ExpiredContext { .. }
                | Invalid::NotValidYet
                | Invalid::NotValidYetContext { .. }
        ))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_of_another_time_calls_for_a_look_at_the_clock() {
        use rustls::CertificateError as Invalid;

        for (invalid, words) in [
            (Invalid::NotValidYet, "timedatectl"),
            (Invalid::Expired, "timedatectl"),
            (Invalid::UnknownIssuer, "AWS_CA_BUNDLE"),
        ] {
            let source = rustls::Error::InvalidCertificate(invalid);
            let error = Error::Tls {
                host: "ssm.shim.example:443".into(),
                source: Arc::new(io::Error::new(io::ErrorKind::InvalidData, source)),
            };
            assert!(error.hint().contains(words), "{}", error.hint());
        }
    }
}
