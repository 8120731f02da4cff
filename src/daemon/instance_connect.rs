//! EC2 Instance Connect as a credential: a key of one login, pushed when its turn has come.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use russh::keys::PublicKey;
use tracing::{debug, warn};

use crate::aws::{Aws, Error};
use crate::report::one_line;
use crate::ssh::credential::{Authorize, Authorized};

/// How long it is remembered that a push is not permitted: that changes, but seldom while somebody waits.
const DENIED: Duration = Duration::from_secs(10 * 60);

/// How long it is remembered that an instance was not ready for one, or that there was no way to the service: where
/// there is none each login waits for it in vain, but instances start, and a network that was away comes back.
const FAILED: Duration = Duration::from_secs(60);

/// Pushes keys to one instance.
pub(super) struct InstanceConnect {
    aws: Aws,
    instance: String,
    /// The last push that failed, by user: a policy may permit some (`ec2:osuser`). As many as are tried.
    failed: Mutex<BTreeMap<String, Failed>>,
}

/// A push that would end the same way for a while.
struct Failed {
    at: Instant,
    lasts: Duration,
}

impl Failed {
    /// Whether another push may end differently.
    fn is_over(&self, now: Instant) -> bool {
        now - self.at >= self.lasts
    }

    /// Whether the same was told not long ago.
    fn was_told(&self, lasts: Duration, now: Instant) -> bool {
        self.lasts == lasts && now - self.at < DENIED
    }
}

impl InstanceConnect {
    /// For the machine `id`, if it is an instance of EC2.
    pub(super) fn of(aws: &Aws, id: &str) -> Option<Self> {
        id.starts_with("i-").then(|| Self {
            aws: aws.clone(),
            instance: id.to_owned(),
            failed: Mutex::default(),
        })
    }

    async fn push(&self, user: &str, key: &PublicKey) -> bool {
        let now = Instant::now();
        let failed = self.lock().get(user).map(|failed| failed.is_over(now));
        if failed == Some(false) {
            debug!(user, "no key is pushed: that failed a while ago");
            return false;
        }
        let line = match key.to_openssh() {
            Ok(line) => line,
            Err(error) => {
                warn!(%error, "a key cannot be written down");
                return false;
            }
        };
        match self
            .aws
            .send_ssh_public_key(&self.instance, user, &line)
            .await
        {
            Ok(()) => {
                debug!(user, "a key was pushed by EC2 Instance Connect");
                true
            }
            Err(error) => {
                self.tell(user, &error);
                false
            }
        }
    }

    /// Tells what went wrong, and remembers what will go wrong again.
    fn tell(&self, user: &str, error: &Error) {
        if let Some(lasts) = lasting(error) {
            let now = Instant::now();
            let failed = Failed { at: now, lasts };
            let earlier = self.lock().insert(user.to_owned(), failed);
            // Several logins may have asked at the same time, and a network that is away is asked again and again.
            if earlier.is_some_and(|failed| failed.was_told(lasts, now)) {
                return;
            }
        }
        let hint = error.hint().unwrap_or_default();
        warn!(
            instance = self.instance,
            user,
            error = one_line(error),
            hint,
            "no key is pushed by EC2 Instance Connect"
        );
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the next push would end the same way, if it would: it is not permitted, not for such an instance, or
/// there is no way to the endpoint.
fn lasting(error: &Error) -> Option<Duration> {
    match error {
        Error::AccessDenied { .. } => Some(DENIED),
        Error::Refused { .. } | Error::Unreachable { .. } | Error::Network(_) => Some(FAILED),
        _ => None,
    }
}

impl Authorize for InstanceConnect {
    fn name(&self) -> &str {
        "of EC2 Instance Connect"
    }

    fn authorize<'a>(&'a self, user: &'a str, key: &'a PublicKey) -> Authorized<'a> {
        Box::pin(self.push(user, key))
    }

    fn prepare(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            // Why there are no credentials is told by the push.
            let _told_later = self.aws.prepare().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;
    use crate::aws::Operation;
    use crate::net;

    #[test]
    fn what_comes_back_is_tried_again_before_what_is_forbidden() {
        let away = Error::Network(net::Error::Connect {
            host: "ec2-instance-connect.eu-central-1.amazonaws.com:443".into(),
            source: Arc::new(io::ErrorKind::NetworkUnreachable.into()),
        });
        let denied = Error::AccessDenied {
            operation: Operation::SendKey,
            source: "not authorized".into(),
        };
        let throttled = Error::Throttled {
            operation: Operation::SendKey,
            retry_after: None,
            source: "slow down".into(),
        };
        let at = Instant::now();
        let failed = |error| lasting(error).map(|lasts| Failed { at, lasts });
        assert!(failed(&throttled).is_none());
        let (away, denied) = (failed(&away).unwrap(), failed(&denied).unwrap());
        assert!(!away.is_over(at) && !denied.is_over(at));
        let later = at + Duration::from_secs(60);
        assert!(away.is_over(later) && !denied.is_over(later));
        // The same is not said each minute, and something else is.
        assert!(away.was_told(FAILED, later) && !away.was_told(DENIED, later));
        let much_later = at + Duration::from_secs(600);
        assert!(denied.is_over(much_later) && !denied.was_told(DENIED, much_later));
        assert!(!away.was_told(FAILED, much_later));
    }
}
