//! One upstream SSH connection, and how long it may serve.

use std::time::Duration;

use tokio::time::Instant;

use crate::ssh::Connection;
use crate::tunnel::Stream;

/// How long after its login a transport may be handed to another client.
///
/// sshd fixes groups, limits and whether the account is valid when somebody logs in. Whoever connects
/// after a change expects to see it.
const SERVICE_LIFE: Duration = Duration::from_secs(10 * 60);

/// One SSH connection to the target's sshd, authenticated.
pub struct Transport {
    /// Messages numbered 80 and up.
    pub connection: Connection<Stream>,
    retires_at: Instant,
}

impl Transport {
    /// Has just logged in.
    pub(super) fn new(connection: Connection<Stream>) -> Self {
        Self {
            connection,
            retires_at: Instant::now() + SERVICE_LIFE,
        }
    }

    /// When it is too old for another client.
    pub(super) fn retires_at(&self) -> Instant {
        self.retires_at
    }

    /// What sshd said before the login.
    pub(super) fn banner(&self) -> Option<String> {
        let text = self.connection.banners().concat();
        (!text.is_empty()).then_some(text)
    }
}
