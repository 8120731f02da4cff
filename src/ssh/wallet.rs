//! The credentials of one login: what is offered, and the secrets behind it.

use std::sync::Arc;

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};
use tokio::net::UnixStream;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::auth::client::{Offer, Questions};
use super::credential::{Answer, Authorize, Credential, sign};
use super::wire::Reader;

/// Keys of one agent that are offered; a server would not take more tries than this.
const MAX_AGENT_KEYS: usize = 64;

/// Secrets, at the indices of the [`Offer`]s they stand behind.
#[derive(Default)]
pub(super) struct Wallet {
    user: String,
    secrets: Vec<Secret>,
    agents: Vec<AgentClient<UnixStream>>,
}

enum Secret {
    Key(Arc<PrivateKey>),
    Agent {
        agent: usize,
        identity: Box<AgentIdentity>,
    },
    Ephemeral {
        key: Box<PrivateKey>,
        authorize: Arc<dyn Authorize>,
    },
    Password(Arc<Zeroizing<String>>),
    Answers(Arc<dyn Answer>),
}

impl Wallet {
    /// Opens `credentials` for a login as `user`, connecting to agents. An agent that cannot be reached offers
    /// nothing.
    pub(super) async fn open(credentials: &[Credential], user: &str) -> (Self, Vec<Offer>) {
        let mut wallet = Self {
            user: user.to_owned(),
            ..Self::default()
        };
        let mut offers = Vec::new();
        for credential in credentials {
            match credential {
                Credential::Key {
                    key,
                    certificate,
                    label,
                } => {
                    let blob = match certificate {
                        Some(certificate) => certificate.to_bytes(),
                        None => key.public_key().to_bytes(),
                    };
                    let Ok(blob) = blob else { continue };
                    let label = format!("{label} {}", describe(key.public_key()));
                    // Signing costs nobody a touch: no query, one round trip less.
                    let secret = Secret::Key(Arc::clone(key));
                    wallet.put_key(&mut offers, blob, label, false, secret);
                }
                Credential::Agent { socket, only } => {
                    let only = only.as_deref();
                    if let Err(error) = wallet.open_agent(&mut offers, socket, only).await {
                        warn!(socket = %socket.display(), %error, "ssh-agent does not answer");
                    }
                }
                Credential::Ephemeral(authorize) => {
                    wallet.put_ephemeral(&mut offers, Arc::clone(authorize));
                }
                Credential::Password(password) => {
                    offers.push(Offer::Password);
                    wallet.secrets.push(Secret::Password(Arc::clone(password)));
                }
                Credential::KeyboardInteractive(answer) => {
                    offers.push(Offer::KeyboardInteractive);
                    wallet.secrets.push(Secret::Answers(Arc::clone(answer)));
                }
            }
        }
        (wallet, offers)
    }

    async fn open_agent(
        &mut self,
        offers: &mut Vec<Offer>,
        socket: &std::path::Path,
        only: Option<&PublicKey>,
    ) -> Result<(), russh::keys::Error> {
        let mut client = AgentClient::connect_uds(socket).await?;
        let identities = client.request_identities().await?;
        debug!(keys = identities.len(), "ssh-agent opened");
        let agent = self.agents.len();
        self.agents.push(client);
        let wanted = identities.into_iter().filter(|identity| {
            only.is_none_or(|only| identity.public_key().key_data() == only.key_data())
        });
        for identity in wanted.take(MAX_AGENT_KEYS) {
            let blob = match &identity {
                AgentIdentity::PublicKey { key, .. } => key.to_bytes(),
                AgentIdentity::Certificate { certificate, .. } => certificate.to_bytes(),
            };
            let Ok(blob) = blob else { continue };
            let kind = match &identity {
                AgentIdentity::PublicKey { .. } => "of ssh-agent",
                AgentIdentity::Certificate { .. } => "certificate of ssh-agent",
            };
            let label = format!("{kind} {}", describe(&identity.public_key()));
            let identity = Box::new(identity);
            let secret = Secret::Agent { agent, identity };
            self.put_key(offers, blob, label, true, secret);
        }
        Ok(())
    }

    /// Makes a key that nobody accepts yet.
    fn put_ephemeral(&mut self, offers: &mut Vec<Offer>, authorize: Arc<dyn Authorize>) {
        let key = match PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519) {
            Ok(key) => Box::new(key),
            Err(error) => return warn!(%error, "no key for one login can be made"),
        };
        let Ok(blob) = key.public_key().to_bytes() else {
            return;
        };
        let label = format!("{} {}", authorize.name(), describe(key.public_key()));
        // Signed for without a query, so that it is authorized before the server hears of it.
        let secret = Secret::Ephemeral { key, authorize };
        self.put_key(offers, blob, label, false, secret);
    }

    /// Adds a key, unless it is offered already: each offer may cost one of a few tries.
    fn put_key(
        &mut self,
        offers: &mut Vec<Offer>,
        blob: Vec<u8>,
        label: String,
        query: bool,
        secret: Secret,
    ) {
        let is_known = offers
            .iter()
            .any(|offer| matches!(offer, Offer::PublicKey { blob: known, .. } if *known == blob));
        if !is_known {
            offers.push(Offer::PublicKey { blob, label, query });
            self.secrets.push(secret);
        }
    }

    /// Signs for `offer`; none when its key cannot or its agent declines.
    pub(super) async fn sign(
        &mut self,
        offer: usize,
        algorithm: &str,
        data: &[u8],
    ) -> Option<Vec<u8>> {
        match self.secrets.get(offer)? {
            Secret::Key(key) => sign(key, algorithm, data),
            Secret::Ephemeral { key, authorize } => {
                let is_accepted = authorize.authorize(&self.user, key.public_key()).await;
                is_accepted.then(|| sign(key, algorithm, data)).flatten()
            }
            Secret::Agent { agent, identity } => {
                let hash = match Algorithm::new(algorithm).ok()? {
                    Algorithm::Rsa { hash } => hash,
                    _ => None::<HashAlg>,
                };
                let client = self.agents.get_mut(*agent)?;
                match client.sign_request(identity, hash, data.to_vec()).await {
                    // The signature comes appended to the data, as a string.
                    Ok(signed) => {
                        let mut reader = Reader::new(signed.get(data.len()..)?);
                        reader.string().ok().map(<[u8]>::to_vec)
                    }
                    Err(error) => {
                        debug!(%error, "ssh-agent did not sign");
                        None
                    }
                }
            }
            Secret::Password(_) | Secret::Answers(_) => None,
        }
    }

    /// The password behind `offer`.
    pub(super) fn password(&self, offer: usize) -> Option<&str> {
        match self.secrets.get(offer)? {
            Secret::Password(password) => Some(password),
            _ => None,
        }
    }

    /// Answers questions put to `offer`.
    pub(super) async fn answer(
        &self,
        offer: usize,
        questions: &Questions,
    ) -> Option<Vec<Zeroizing<String>>> {
        match self.secrets.get(offer)? {
            Secret::Answers(answer) => answer.answer(questions).await,
            _ => None,
        }
    }
}

fn describe(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}
