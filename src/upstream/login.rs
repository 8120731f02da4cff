//! Logging in at the target's sshd.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::debug;

use super::error::Error;
use super::transport::Transport;
use crate::ssh::verifier::HostKeyVerifier;
use crate::ssh::{self, Attendance, ClientConfig, Connection, Credential, Phase};
use crate::tunnel::Tunnel;

/// How long word of a refusal may take to get from one task to another.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(300);

/// As whom, with what, and to whom transports log in.
pub struct Login {
    /// User on the target.
    pub user: String,
    /// Tried in this order.
    pub credentials: Vec<Credential>,
    /// Decides on the target's host key.
    pub verifier: Arc<dyn HostKeyVerifier>,
}

impl Login {
    /// Opens a stream to sshd and logs in on it. With `attendance`, somebody waits for that and may
    /// be asked.
    ///
    /// # Errors
    /// Why there is no transport: no sshd, a wrong key, or the tunnel went away.
    pub(super) async fn run(
        &self,
        tunnel: &Tunnel,
        attendance: Option<Attendance>,
    ) -> Result<Transport, Error> {
        let mut refusals = tunnel.refusals();
        let refused_before = *refusals.borrow_and_update();
        let stream = tunnel.open().await?;
        let config = ClientConfig {
            credentials: self.credentials.clone(),
            attendance,
            ..ClientConfig::new(&self.user, Arc::clone(&self.verifier))
        };
        match Connection::connect(stream, config).await {
            Ok(transport) => {
                debug!(sshd = transport.peer_version(), "logged in");
                Ok(Transport::new(transport))
            }
            Err(error) => {
                let target = tunnel.target().to_owned();
                let was_early = matches!(
                    error,
                    ssh::Error::ConnectionLost {
                        phase: Phase::KeyExchange,
                    }
                );
                // The agent says that a port is closed without saying for which stream, just before that
                // stream ends (protocol sheet §6.6).
                let refused = refusals.wait_for(|count| *count > refused_before);
                if was_early && timeout(REFUSAL_PATIENCE, refused).await.is_ok() {
                    let port = tunnel.port();
                    return Err(Error::NoSshd { target, port });
                }
                Err(Error::Login {
                    target,
                    source: Arc::new(error),
                })
            }
        }
    }
}
