//! EC2 Instance Connect as a credential: a key of one login, pushed when its turn has come.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use russh::keys::PublicKey;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::aws::{Aws, Error};
use crate::report::one_line;
use crate::ssh::credential::{Authorize, Authorized};

/// How long a refusal is remembered: permissions change, but seldom while somebody waits.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// Pushes keys to one instance.
pub(super) struct InstanceConnect {
    aws: Aws,
    instance: String,
    /// When a push was refused last, by user: a policy may permit some (`ec2:osuser`). As many as are tried.
    refused: Mutex<BTreeMap<String, Instant>>,
}

impl InstanceConnect {
    /// For the machine `id`, if it is an instance of EC2.
    pub(super) fn of(aws: &Aws, id: &str) -> Option<Self> {
        id.starts_with("i-").then(|| Self {
            aws: aws.clone(),
            instance: id.to_owned(),
            refused: Mutex::default(),
        })
    }

    async fn push(&self, user: &str, key: &PublicKey) -> bool {
        if is_recent(self.lock().get(user)) {
            debug!(user, "no key is pushed: that was refused a while ago");
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
        if is_lasting(error) {
            let earlier = self.lock().insert(user.to_owned(), Instant::now());
            // Several logins may have asked at the same time.
            if is_recent(earlier.as_ref()) {
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_recent(refused: Option<&Instant>) -> bool {
    refused.is_some_and(|at| at.elapsed() < REMEMBERED)
}

/// Whether the next push would end the same way: it is not permitted, not for such an instance, or there is
/// no way to the endpoint.
fn is_lasting(error: &Error) -> bool {
    matches!(
        error,
        Error::AccessDenied { .. }
            | Error::Refused { .. }
            | Error::Unreachable { .. }
            | Error::Network(_)
    )
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
