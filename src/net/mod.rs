//! The way out of this computer, the same for API calls and WebSockets: proxies, names, TCP, TLS.
//!
//! | module | what lives there |
//! |---|---|
//! | `destination` | scheme, host and port of a URL |
//! | `proxy`, `bypass`, `proxies` | which proxy leads to a destination, by HTTPS_PROXY and its kin; pure |
//! | `http_connect`, `socks` | asking a proxy for a tunnel |
//! | `tcp`, `tls`, `stream` | the layers of a connection |
//! | `dialler` | all of it put together |
//! | `steps` | the same, one step at a time |
//! | `http` | the HTTP client of the AWS SDK on top of it |
//!
//! Nothing here follows a redirect, and no password is part of an error or a log.

mod bypass;
mod destination;
mod dialler;
mod error;
mod http;
mod http_connect;
mod proxies;
mod proxy;
mod socks;
mod steps;
mod stream;
mod tcp;
mod tls;

pub use self::destination::{Destination, InvalidDestination};
pub use self::dialler::Dialler;
pub use self::error::{AuthenticationProblem, Error};
pub use self::http::HttpClient;
pub use self::steps::Via;
pub use self::stream::{Stream, Tcp};
