//! The tracing subscriber: what is logged, and how.
//!
//! Logs go to stderr. Levels mean: `error` we stop, `warn` odd yet working, `info` what a user would
//! tell a friend, `debug` a decision and its reason, `trace` sizes and numbers of messages.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the subscriber for the whole process. A second call changes nothing.
///
/// `filter` has the syntax of `tracing_subscriber::EnvFilter`; what it does not name logs from `warn` up.
///
/// # Errors
/// When `filter` cannot be read; the text says which part.
pub fn install(filter: &str, format: Format) -> Result<(), ParseError> {
    let wanted = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse(filter)?;
    let filter = wanted.and(filter_fn(is_discreet));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(is_colourful())
        .with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().boxed(),
    };
    // The only failure is that one is installed already, by a program that uses us as a library.
    let _installed = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
    Ok(())
}

/// Our own modules never log a secret. Below `info`, HTTP and AWS libraries write down requests with
/// their signatures, tokens and URLs; that stays out whatever the filter says. The sources of credentials
/// write down at any level what a process has said or a service has answered; our errors tell it without secrets.
///
/// So stays what the SDK has to say, at `error`, of each answer with a 5xx: that it cannot close the connection, which
/// is not its own but our client's.
fn is_discreet(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    if target.starts_with("aws_config::")
        || target == "aws_smithy_runtime::client::http::connection_poisoning"
    {
        return false;
    }
    target.starts_with(env!("CARGO_CRATE_NAME")) || *metadata.level() <= Level::INFO
}

/// Colour is for terminals whose owners do not object (`NO_COLOR`).
fn is_colourful() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
