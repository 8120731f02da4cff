//! Logging in at the target's sshd.

use std::sync::Arc;

use tracing::debug;

use super::error::Error;
use super::refusals::Refusals;
use super::transport::Transport;
use super::users::Users;
use crate::ssh::auth::client::AuthenticationFailed;
use crate::ssh::verifier::HostKeyVerifier;
use crate::ssh::{self, Attendance, ClientConfig, Connection, Credential, Phase};
use crate::tunnel::Tunnel;

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
    /// Logs in as the first user that sshd accepts, on a stream for each: sshd does not let a client change its
    /// mind about who it is. With `attendance`, somebody waits for that and may be asked.
    ///
    /// Until it is known who is accepted, keys are tried for all of them first: nobody is asked for the password of
    /// a user who may not exist while another one is let in with a key.
    ///
    /// # Errors
    /// Why there is no transport: no sshd, a wrong key, or the tunnel went away.
    pub(crate) async fn run(
        &self,
        tunnel: &Tunnel,
        attendance: Option<Attendance>,
    ) -> Result<Transport, Error> {
        let search = self.users.search().await;
        let mut users = self.users.in_order();
        let mut refused = Vec::new();
        if search.is_some() {
            let is_key = |credential: &&Credential| !credential.is_person();
            let keys: Vec<_> = self.credentials.iter().filter(is_key).cloned().collect();
            refused = match self.try_all(&users, &keys, tunnel, &attendance).await? {
                Ok(transport) => return Ok(transport),
                Err(refused) => refused,
            };
            let takes_answers = |user: &&str| {
                let mut refused = refused.iter();
                refused.any(|failed| failed.user == **user && failed.takes_answers())
            };
            users.retain(takes_answers);
        }
        // Tries are few: what was refused just now would use up those that are left for somebody who answers.
        let is_wanted = |credential: &&Credential| {
            credential.is_person()
                || refused.is_empty()
                || refused.iter().any(AuthenticationFailed::is_half_in)
        };
        let credentials: Vec<_> = self.credentials.iter().filter(is_wanted).cloned().collect();
        match self
            .try_all(&users, &credentials, tunnel, &attendance)
            .await?
        {
            Ok(transport) => Ok(transport),
            // Those who were tried last come first.
            Err(last) => Err(refusal(tunnel, last.into_iter().chain(refused))),
        }
    }

    /// The first of `users` who is let in with `credentials`, or how each of them was refused. Nobody else is tried
    /// after one for whom somebody would have to be asked.
    async fn try_all(
        &self,
        users: &[&str],
        credentials: &[Credential],
        tunnel: &Tunnel,
        attendance: &Option<Attendance>,
    ) -> Result<Result<Transport, Vec<AuthenticationFailed>>, Error> {
        let mut refused = Vec::new();
        for user in users {
            let credentials = credentials.to_vec();
            let attendance = attendance.clone();
            match self
                .log_in_as(user, credentials, tunnel, attendance)
                .await?
            {
                Ok(transport) => {
                    self.users.accepted(user);
                    return Ok(Ok(transport));
                }
                Err(failed) => {
                    let is_enough = failed.needs_person();
                    refused.push(failed);
                    if is_enough {
                        break;
                    }
                }
            }
        }
        Ok(Err(refused))
    }

    /// Opens a stream to sshd, or several where it takes few tries on each, and logs in; the inner error is a refusal
    /// of all credentials.
    async fn log_in_as(
        &self,
        user: &str,
        credentials: Vec<Credential>,
        tunnel: &Tunnel,
        attendance: Option<Attendance>,
    ) -> Result<Result<Transport, AuthenticationFailed>, Error> {
        let mut refusals = Refusals::of(tunnel);
        let mut config = ClientConfig {
            credentials,
            attendance,
            memory: self.users.memory().clone(),
            ..ClientConfig::new(user, Arc::clone(&self.verifier))
        };
        config.connections = (config.connections / self.users.open()).max(1);
        match Connection::connect_over(|| tunnel.open(), config).await? {
            Ok(transport) => {
                debug!(user, sshd = transport.peer_version(), "logged in");
                Ok(Ok(Transport::new(transport)))
            }
            Err(ssh::Error::AuthenticationFailed(failed)) => Ok(Err(*failed)),
            Err(error) => {
                let was_early = matches!(
                    error,
                    ssh::Error::ConnectionLost {
                        phase: Phase::KeyExchange,
                    }
                );
                if was_early {
                    refusals.check(tunnel).await?;
                }
                Err(Error::Login {
                    target: tunnel.target().to_owned(),
                    source: Arc::new(error),
                })
            }
        }
    }
}

/// What is told of the refusals: the first, and who else was tried.
fn refusal(tunnel: &Tunnel, refused: impl IntoIterator<Item = AuthenticationFailed>) -> Error {
    let mut refused = refused.into_iter();
    let source = match refused.next() {
        Some(mut first) => {
            for other in refused {
                if other.user == first.user {
                    let earlier = other.tried.into_iter();
                    let earlier: Vec<_> = earlier.filter(|it| !first.tried.contains(it)).collect();
                    first.tried.splice(0..0, earlier);
                } else if !first.others.contains(&other.user) {
                    first.others.push(other.user);
                }
            }
            ssh::Error::from(Box::new(first))
        }
        None => ssh::Error::Ended,
    };
    Error::Login {
        target: tunnel.target().to_owned(),
        source: Arc::new(source),
    }
}
