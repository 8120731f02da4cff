//! Whether a stream has ended because nothing listens on the port.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::Error;
use crate::tunnel::Tunnel;

/// How long word of a refusal may take to get from one task to another.
const PATIENCE: Duration = Duration::from_millis(300);

/// What the agent says of the port from a moment before a stream is opened.
///
/// It says that the port is closed without saying for which stream, just before that stream ends (protocol sheet §6.6).
pub(super) struct Refusals {
    count: watch::Receiver<u64>,
    before: u64,
}

impl Refusals {
    /// Those of `tunnel` from now on.
    pub(super) fn of(tunnel: &Tunnel) -> Self {
        let mut count = tunnel.refusals();
        let before = *count.borrow_and_update();
        Self { count, before }
    }

    /// To be asked of `tunnel` when a stream has ended without a byte.
    ///
    /// # Errors
    /// [`Error::NoSshd`], if nothing listens on the port.
    pub(super) async fn check(&mut self, tunnel: &Tunnel) -> Result<(), Error> {
        let before = self.before;
        let refused = self.count.wait_for(|count| *count > before);
        match timeout(PATIENCE, refused).await {
            Ok(Ok(_)) => Err(Error::NoSshd {
                target: tunnel.target().to_owned(),
                port: tunnel.port(),
            }),
            _ => Ok(()),
        }
    }
}
