//! What a failed attempt to resume leaves open. Pure.
//!
//! While the SSM session may live, nobody gives it up: a network, a service or a login that is away
//! comes back. What the service refuses is asked for again a few times, because a ticket may be too
//! fresh and credentials may be on their change, and then left to a redial.

use std::time::Duration;

use rand::{Rng, RngExt as _};

use super::super::error::{Disposition, Error};
use super::super::{api, websocket};
use crate::net;

/// Refusals of the socket that are put up with: the ticket is fresh each time, so the cause is
/// rather credentials on their change, or a gateway that does not know the ticket yet.
const MAX_SOCKET_REFUSALS: u32 = 10;
/// AccessDenied of ResumeSession is put up with so often: whoever has just switched the role may
/// switch back. StartSession may be permitted all the same, so that a redial is worth it then.
const MAX_DENIALS: u32 = 3;
/// The same where it is rather the place that is not permitted than the call: the session has been resumed before, or a
/// policy denies what another may allow, as those do that want an address of the company. With [`SLOWLY`] between them
/// that is as long as a session lives: the VPN may come back.
const MAX_DENIALS_OF_PLACE: u32 = 120;
/// Answers that the target is offline which are put up with: the agent reconnects by itself.
const MAX_OFFLINE: u32 = 20;
/// Failures of the credentials that are taken for those of a network that is away.
const QUICK_CREDENTIALS: u32 = 3;
/// Between attempts that wait for a person, who logs in again or mends a policy.
pub(super) const SLOWLY: Duration = Duration::from_secs(10);
/// The pause after a throttled call without a word on how long.
const THROTTLED: Duration = Duration::from_secs(1);
/// The longest that the service may ask us to wait.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What is to follow a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another attempt, after the usual wait, and after this one at least.
    Again(Duration),
    /// Nothing: the SSM session is given up.
    GiveUp,
}

/// Failures of one series of attempts, counted by what may be behind them.
#[derive(Debug)]
pub(super) struct Failures {
    /// Between attempts that wait for a person.
    slowly: Duration,
    was_resumed: bool,
    sockets: u32,
    denials: u32,
    offline: u32,
    credentials: u32,
}

impl Failures {
    /// None yet, of a session that `was_resumed` before or not; attempts that wait for a person are `slowly` apart.
    pub(super) fn new(slowly: Duration, was_resumed: bool) -> Self {
        Self {
            slowly,
            was_resumed,
            sockets: 0,
            denials: 0,
            offline: 0,
            credentials: 0,
        }
    }

    /// Judges the failure of one attempt.
    pub(super) fn judge(&mut self, error: &Error) -> Next {
        let at_once = Next::Again(Duration::ZERO);
        match error {
            Error::WebSocket(websocket::Error::Refused(408 | 425)) => at_once,
            Error::WebSocket(websocket::Error::Refused(429)) => Next::Again(THROTTLED),
            Error::WebSocket(websocket::Error::Refused(400..=499)) => {
                limited(&mut self.sockets, MAX_SOCKET_REFUSALS, Duration::ZERO)
            }
            // A bundle of certificates that is just being replaced, for example.
            Error::Api(api::Error::Network(net::Error::Roots(_)))
            | Error::WebSocket(websocket::Error::Network(net::Error::Roots(_))) => {
                Next::Again(self.slowly)
            }
            Error::Api(error @ api::Error::AccessDenied { .. }) => {
                let limit = match self.was_resumed || error.is_explicit_denial() {
                    true => MAX_DENIALS_OF_PLACE,
                    false => MAX_DENIALS,
                };
                limited(&mut self.denials, limit, self.slowly)
            }
            Error::Api(api::Error::TargetNotConnected(_)) => {
                limited(&mut self.offline, MAX_OFFLINE, Duration::ZERO)
            }
            Error::Api(error) if error.is_credentials() => {
                self.credentials += 1;
                match self.credentials <= QUICK_CREDENTIALS {
                    true => at_once,
                    false => Next::Again(self.slowly),
                }
            }
            Error::Api(error @ api::Error::Throttled { .. }) => {
                let asked = error.retry_after().unwrap_or(THROTTLED);
                Next::Again(asked.min(LONGEST_RETRY_AFTER))
            }
            Error::Api(error @ api::Error::Service { .. }) => {
                let asked = error.retry_after().unwrap_or_default();
                Next::Again(asked.min(LONGEST_RETRY_AFTER))
            }
            other if other.disposition() == Disposition::Resume => at_once,
            _ => Next::GiveUp,
        }
    }
}

/// The pause after StartSession was throttled for the `attempt`-th time, from 1: never less than the service has
/// `asked` for, and not together with all the others who were told the same. Longer each time if it did not say.
pub(super) fn throttled_start(
    asked: Option<Duration>,
    attempt: u32,
    rng: &mut impl Rng,
) -> Duration {
    let due = match asked {
        Some(asked) => asked.min(LONGEST_RETRY_AFTER),
        None => THROTTLED * attempt,
    };
    due.mul_f64(rng.random_range(1.0..1.25))
}

/// Another attempt until `count` has reached `limit`.
fn limited(count: &mut u32, limit: u32, wait: Duration) -> Next {
    *count += 1;
    match *count < limit {
        true => Next::Again(wait),
        false => Next::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Arc;

    use super::*;
    use crate::ssm::api::Operation::Resume;

    #[test]
    fn a_throttled_start_waits_as_asked_or_longer_each_time() {
        let mut rng = rand::rng();
        for (asked, attempt, least) in [
            (Some(5), 1, 5),
            (Some(5), 2, 5),
            (None, 1, 1),
            (None, 2, 2),
            (Some(3600), 1, 60),
        ] {
            let asked = asked.map(Duration::from_secs);
            let least = Duration::from_secs(least);
            for _ in 0..100 {
                let pause = throttled_start(asked, attempt, &mut rng);
                assert!(pause >= least && pause <= least.mul_f64(1.25), "{pause:?}");
            }
        }
    }

    /// What follows each of `count` failures like this one.
    fn series(count: usize, error: impl Fn() -> Error) -> Vec<Next> {
        series_of(Failures::new(SLOWLY, false), count, error)
    }

    fn series_of(mut failures: Failures, count: usize, error: impl Fn() -> Error) -> Vec<Next> {
        (0..count).map(|_| failures.judge(&error())).collect()
    }

    fn again(seconds: u64) -> Next {
        Next::Again(Duration::from_secs(seconds))
    }

    #[test]
    fn what_comes_back_by_itself_is_waited_for_without_end() {
        let refused = ErrorKind::ConnectionRefused;
        let host = || "gateway".to_owned();
        let connect = |source| net::Error::Connect {
            host: host(),
            source: Arc::new(source),
        };
        for error in [
            &(|| api::Error::unanswered(Resume, "no such host").into()) as &dyn Fn() -> Error,
            &|| {
                api::Error::Incomplete {
                    operation: Resume,
                    field: "TokenValue",
                }
                .into()
            },
            &|| websocket::Error::Refused(503).into(),
            &|| websocket::Error::TimedOut(host()).into(),
            &|| api::Error::Network(connect(refused.into())).into(),
            &|| websocket::Error::Network(connect(refused.into())).into(),
            &|| {
                api::Error::Network(net::Error::ProxyConnect {
                    proxy: host(),
                    source: Arc::new(refused.into()),
                })
                .into()
            },
            &|| {
                websocket::Error::Network(net::Error::Tls {
                    host: host(),
                    source: Arc::new(ErrorKind::InvalidData.into()),
                })
                .into()
            },
        ] {
            assert_eq!(series(1000, error), vec![again(0); 1000], "{}", error());
        }
    }

    #[test]
    fn the_service_says_how_long_to_wait() {
        let throttled = |retry_after: Option<u64>| {
            series(1, || {
                api::Error::Throttled {
                    operation: Resume,
                    retry_after: retry_after.map(Duration::from_secs),
                    source: "slow down".into(),
                }
                .into()
            })
        };
        assert_eq!(throttled(None), [again(1)]);
        assert_eq!(throttled(Some(7)), [again(7)]);
        assert_eq!(throttled(Some(86_400)), [again(60)]);
        let busy = series(1, || {
            api::Error::Service {
                operation: Resume,
                retry_after: Some(Duration::from_secs(3)),
                source: "busy".into(),
            }
            .into()
        });
        assert_eq!(busy, [again(3)]);
    }

    #[test]
    fn expired_credentials_are_asked_for_slowly_after_a_few_quick_attempts() {
        for error in [
            api::Error::CredentialsExpired as fn(_) -> api::Error,
            api::Error::CredentialsFailed,
            api::Error::CredentialsInvalid,
            api::Error::CredentialsMissing,
        ] {
            let next = series(500, || error("expired".into()).into());
            assert_eq!(next[..3], [again(0); 3]);
            assert_eq!(next[3..], vec![again(10); 497]);
        }
    }

    #[test]
    fn refusals_are_tolerated_a_few_times() {
        let denied = series(3, || {
            api::Error::AccessDenied {
                operation: Resume,
                source: "no".into(),
            }
            .into()
        });
        assert_eq!(denied, [again(10), again(10), Next::GiveUp]);
        for status in [401, 403, 404, 410] {
            let refused = series(10, || websocket::Error::Refused(status).into());
            assert_eq!(refused[..9], [again(0); 9]);
            assert_eq!(refused[9], Next::GiveUp);
        }
        let offline = series(20, || api::Error::TargetNotConnected("off".into()).into());
        assert_eq!(offline[..19], [again(0); 19]);
        assert_eq!(offline[19], Next::GiveUp);
    }

    /// A policy that wants an address of the company refuses while the VPN is away.
    #[test]
    fn a_denial_that_may_be_about_the_place_is_waited_out() {
        let denied = |words: &'static str| {
            move || -> Error {
                api::Error::AccessDenied {
                    operation: Resume,
                    source: words.into(),
                }
                .into()
            }
        };
        let silent = denied("because no identity-based policy allows the ssm:ResumeSession action");
        let explicit = denied("with an explicit deny in an identity-based policy");
        for next in [
            series_of(Failures::new(SLOWLY, true), 120, silent),
            series(120, explicit),
        ] {
            assert_eq!(next[..119], vec![again(10); 119]);
            assert_eq!(next[119], Next::GiveUp);
        }
        assert_eq!(series(3, silent)[2], Next::GiveUp);
    }

    #[test]
    fn a_session_that_is_gone_is_given_up_at_once() {
        for error in [
            Error::Api(api::Error::SessionGone(None)),
            Error::Api(api::Error::Refused {
                operation: Resume,
                code: "ValidationException".into(),
                source: "no".into(),
            }),
            Error::Closed(String::new()),
        ] {
            assert_eq!(
                Failures::new(SLOWLY, false).judge(&error),
                Next::GiveUp,
                "{error}"
            );
        }
    }
}
