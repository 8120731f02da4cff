//! Logging in at the target's sshd.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::debug;

use super::error::Error;
use super::transport::Transport;
use super::users::Users;
use crate::ssh::auth::client::AuthenticationFailed;
use crate::ssh::verifier::HostKeyVerifier;
use crate::ssh::{self, ClientConfig, Connection, Credential, Phase};
use crate::tunnel::Tunnel;

/// How long word of a refusal may take to get from one task to another.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(300);

/// As whom, with what, and to whom transports log in.
pub struct Login {
    /// Users on the target.
    pub users: Users,
    /// Tried in this order.
    pub credentials: Vec<Credential>,
    /// Decides on the target's host key.
    pub verifier: Arc<dyn HostKeyVerifier>,
}

impl Login {
    /// Logs in as the first user that sshd accepts, on a stream for each: sshd does not let a client change
    /// its mind about who it is.
    ///
    /// # Errors
    /// Why there is no transport: no sshd, a wrong key, or the tunnel went away.
    pub(super) async fn run(&self, tunnel: &Tunnel) -> Result<Transport, Error> {
        let _search = self.users.search().await;
        let mut refused: Option<AuthenticationFailed> = None;
        for user in self.users.in_order() {
            match self.log_in_as(user, tunnel).await? {
                Ok(transport) => {
                    self.users.accepted(user);
                    return Ok(transport);
                }
                Err(failed) => match &mut refused {
                    Some(refused) => refused.others.push(failed.user),
                    None => refused = Some(failed),
                },
            }
        }
        let source = refused.map_or(ssh::Error::Ended, ssh::Error::from);
        Err(Error::Login {
            target: tunnel.target().to_owned(),
            source: Arc::new(source),
        })
    }

    /// Opens a stream to sshd and logs in on it; the inner error is a refusal of all credentials.
    async fn log_in_as(
        &self,
        user: &str,
        tunnel: &Tunnel,
    ) -> Result<Result<Transport, AuthenticationFailed>, Error> {
        let mut refusals = tunnel.refusals();
        let refused_before = *refusals.borrow_and_update();
        let stream = tunnel.open().await?;
        let config = ClientConfig {
            credentials: self.credentials.clone(),
            ..ClientConfig::new(user, Arc::clone(&self.verifier))
        };
        match Connection::connect(stream, config).await {
            Ok(transport) => {
                debug!(user, sshd = transport.peer_version(), "logged in");
                Ok(Ok(Transport::new(transport)))
            }
            Err(ssh::Error::AuthenticationFailed(failed)) => Ok(Err(failed)),
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
