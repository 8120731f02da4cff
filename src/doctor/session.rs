//! A data channel to the agent, as `serve` would have it.

use std::time::{Duration, Instant};

use super::check::{Found, Subject};
use super::examination::{Examination, Step};
use super::machine::shortcoming;
use crate::report::one_line;
use crate::ssm;
use crate::target::printable;
use crate::tunnel::{self, Error, Tunnel};

/// Dials, and tells the gateway's part from the agent's, whose age is judged here if that was not possible before.
pub(super) async fn examine(
    examination: &mut Examination<'_>,
    tunnel: Step<&tunnel::Options>,
    is_age_known: bool,
) -> Step<Tunnel> {
    let options = match tunnel {
        Ok(options) => options,
        Err(because) => {
            examination.skip_through(Subject::Handshake, because);
            return Err(because);
        }
    };
    let began = Instant::now();
    let dialled = Tunnel::dial_once(options).await;
    let took = began.elapsed();
    let opened = match &dialled {
        Err(error) if !is_open(error) => failed(error),
        _ => Found::ok(
            (),
            "allowed: the message gateway has opened the data channel",
        ),
    };
    let opened = examination.note(Subject::OpenDataChannel, opened, took);
    if let Err(because) = opened {
        return examination.skip(Subject::Handshake, because);
    }
    let found = match dialled {
        Ok(tunnel) => {
            let version = tunnel.agent_version().map(printable);
            let lack = version.as_deref().filter(|_| !is_age_known);
            let lack = lack.and_then(shortcoming);
            let text = match version {
                Some(version) => format!("the agent answers, version {version}"),
                None => "the agent answers".to_owned(),
            };
            match lack {
                Some(lack) => {
                    let remedy = tunnel::update(tunnel.target(), &options.ssm.flags());
                    Found::warning(tunnel, format!("{text}, is old: {lack}"), Some(remedy))
                }
                None => Found::ok(tunnel, text),
            }
        }
        Err(error) => failed(&error),
    };
    // What it took is part of what opening took.
    examination.note(Subject::Handshake, found, Duration::ZERO)
}

/// Whether the gateway had done its part before this came.
fn is_open(error: &Error) -> bool {
    match error {
        Error::Session { source, .. } | Error::Single { source, .. } => {
            !matches!(source, ssm::Error::Api(_) | ssm::Error::WebSocket(_))
        }
        Error::Absent { .. } => false,
        Error::AgentTooOld { .. } | Error::Lost { .. } => true,
    }
}

fn failed<T>(error: &Error) -> Found<T> {
    Found::failed(one_line(error), error.hint())
}
