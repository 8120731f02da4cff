//! The credentials of one login: what is offered, and the secrets behind it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use russh::keys::key::parse_public_key;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, PrivateKey};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::agent::{self, Agent};
use super::auth::client::{Offer, Outcome, Questions, Unanswered};
use super::credential::{AgentKeys, Authorize, CertificateFile, Credential, LockedKey, sign};
use super::known_hosts::{fingerprint, key_type};
use super::memory::{Mark, Memory};
use super::person::{Attendance, Password, Person, is_password};

/// Keys of one agent that are offered; a server would not take more tries than this.
const MAX_AGENT_KEYS: usize = 64;

/// Keys offered before one that is made for the login and all but certain to do, if there are that many that nobody has
/// named: sshd takes six tries (`MaxAuthTries`), a hardened one four.
const BEFORE_MADE: usize = 3;

/// Secrets, at the indices of the [`Offer`]s they stand behind.
pub(super) struct Wallet {
    user: String,
    /// None when nobody waits for the login.
    attendance: Option<Attendance>,
    offers: Vec<Offer>,
    secrets: Vec<Secret>,
    agents: Vec<OpenAgent>,
    /// The password used last, and for which offer.
    used: Option<(usize, Arc<Person>, Password)>,
    took_person: bool,
    took_touch: bool,
}

enum Secret {
    None,
    Key(Arc<PrivateKey>),
    Locked(Arc<LockedKey>),
    Agent {
        agent: usize,
        /// The key as the agent knows it, which is without a certificate of ours.
        key: Vec<u8>,
        /// Whether somebody named it, rather than all that the agent has.
        is_named: bool,
    },
    Ephemeral {
        key: Box<PrivateKey>,
        authorize: Arc<dyn Authorize>,
    },
    Password(Arc<Zeroizing<String>>),
    Person(Arc<Person>),
}

/// An agent and the keys that it lists.
struct OpenAgent {
    socket: PathBuf,
    agent: Agent,
    keys: Vec<Vec<u8>>,
}

impl Wallet {
    /// Opens `credentials` for logging in as `user`, connecting to agents. An agent that cannot be
    /// reached offers nothing. Asks for the passphrase of a key that cannot be offered without.
    ///
    /// They are offered in the order of the list, but that what `memory` knows to do goes first, and what was refused
    /// last, and that a key made for the login does not wait for all the keys of an agent.
    pub(super) async fn open(
        credentials: &[Credential],
        user: &str,
        attendance: Option<Attendance>,
        memory: &Memory,
    ) -> Self {
        let mut wallet = Self {
            user: user.to_owned(),
            attendance,
            offers: Vec::new(),
            secrets: Vec::new(),
            agents: Vec::new(),
            used: None,
            took_person: false,
            took_touch: false,
        };
        for credential in credentials {
            if let Credential::Agent(keys) = credential {
                wallet.open_agent(keys.socket()).await;
            }
        }
        for credential in credentials {
            match credential {
                Credential::Key {
                    key,
                    certificate,
                    label,
                } => wallet.put_open(key, certificate.as_ref(), label),
                Credential::Locked {
                    key,
                    certificate,
                    label,
                } => wallet.put_locked(key, certificate.as_ref(), label).await,
                Credential::Agent(keys) => wallet.put_agent(keys),
                Credential::Ephemeral(authorize) => wallet.put_ephemeral(authorize),
                Credential::Password(password) => {
                    let secret = Secret::Password(Arc::clone(password));
                    wallet.put(Offer::Password { retry: false }, secret);
                }
                Credential::Person(person) => wallet.put_person(person),
            }
        }
        wallet.arrange(memory, Instant::now());
        wallet
    }

    /// Puts the offers into the order in which they are made.
    fn arrange(&mut self, memory: &Memory, now: Instant) {
        let mut order: Vec<usize> = (0..self.offers.len()).collect();
        order.sort_by_cached_key(|&offer| memory.prospect(&self.user, &self.mark(offer), now));
        let is_made = |offer: &usize| matches!(self.secrets[*offer], Secret::Ephemeral { .. });
        let is_key = |offer: &&usize| matches!(self.offers[**offer], Offer::PublicKey { .. });
        let is_nameless = |offer: &usize| {
            let secret = &self.secrets[*offer];
            matches!(
                secret,
                Secret::Agent {
                    is_named: false,
                    ..
                }
            )
        };
        if let Some(at) = order.iter().position(is_made) {
            let before = &order[..at];
            let named = before.iter().rposition(|offer| !is_nameless(offer));
            let earliest = named.map_or(0, |last| last + 1);
            let keys = |end: usize| before[..end].iter().filter(is_key).count();
            let place = (earliest..at).find(|&end| keys(end) >= BEFORE_MADE);
            order[place.unwrap_or(at)..=at].rotate_right(1);
        }
        let mut all: Vec<_> = std::mem::take(&mut self.offers)
            .into_iter()
            .zip(std::mem::take(&mut self.secrets))
            .map(Some)
            .collect();
        let ordered = order.into_iter().filter_map(|offer| all[offer].take());
        (self.offers, self.secrets) = ordered.unzip();
    }

    /// What `offer` is told by from login to login.
    fn mark(&self, offer: usize) -> Mark {
        match (&self.offers[offer], &self.secrets[offer]) {
            (_, Secret::Ephemeral { authorize, .. }) => Mark::Made(authorize.name().to_owned()),
            (Offer::PublicKey { blob, .. }, _) => Mark::Key(blob.clone()),
            (other, _) => Mark::Method(other.method()),
        }
    }

    /// What there is to offer, in this order.
    pub(super) fn offers(&self) -> Vec<Offer> {
        self.offers.clone()
    }

    /// Whether somebody waits for the login.
    fn is_attended(&self) -> bool {
        self.attendance.is_some()
    }

    /// Whether signing for `offer` ends by itself or is waited for by somebody. An agent may want somebody to
    /// confirm, without an end.
    pub(super) fn may_take_its_time(&self, offer: usize) -> bool {
        self.is_attended() || !matches!(self.secrets.get(offer), Some(Secret::Agent { .. }))
    }

    /// Whether somebody did something that they would have to do again for the next login.
    pub(super) fn took_person(&self) -> bool {
        self.took_person
    }

    /// Whether a security key was touched.
    pub(super) fn took_touch(&self) -> bool {
        self.took_touch
    }

    async fn open_agent(&mut self, socket: &Path) {
        if self.agents.iter().any(|known| known.socket == socket) {
            return;
        }
        match Agent::open(socket).await {
            Ok((agent, keys)) => {
                debug!(socket = %socket.display(), keys = keys.len(), "ssh-agent opened");
                let socket = socket.to_owned();
                self.agents.push(OpenAgent {
                    socket,
                    agent,
                    keys,
                });
            }
            Err(error) => {
                debug!(socket = %socket.display(), %error, "ssh-agent passed over");
            }
        }
    }

    fn put(&mut self, offer: Offer, secret: Secret) {
        self.offers.push(offer);
        self.secrets.push(secret);
    }

    /// Makes a key that nobody accepts yet.
    fn put_ephemeral(&mut self, authorize: &Arc<dyn Authorize>) {
        let key = match PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519) {
            Ok(key) => Box::new(key),
            Err(error) => return warn!(%error, "no key for one login can be made"),
        };
        if let Some(blob) = blob_of(key.public_key().key_data(), None) {
            let authorize = Arc::clone(authorize);
            // Signed for without a query, so that it is authorized before the server hears of it.
            let label = authorize.name().to_owned();
            self.put_key(blob, &label, false, Secret::Ephemeral { key, authorize });
        }
    }

    /// Adds a key, unless it is offered already: each offer may cost one of a few tries.
    fn put_key(&mut self, blob: Vec<u8>, label: &str, query: bool, secret: Secret) {
        let is_known = self
            .offers
            .iter()
            .any(|offer| matches!(offer, Offer::PublicKey { blob: known, .. } if *known == blob));
        if !is_known {
            let label = describe(label, &blob);
            self.put(Offer::PublicKey { blob, label, query }, secret);
        }
    }

    fn put_open(
        &mut self,
        key: &Arc<PrivateKey>,
        certificate: Option<&CertificateFile>,
        label: &str,
    ) {
        if let Some(blob) = blob_of(key.public_key().key_data(), certificate) {
            // Signing costs nobody a touch: no query, one round trip less.
            self.put_key(blob, label, false, Secret::Key(Arc::clone(key)));
        }
    }

    async fn put_locked(
        &mut self,
        key: &Arc<LockedKey>,
        certificate: Option<&CertificateFile>,
        label: &str,
    ) {
        let unavailable = |outcome| Offer::Unavailable {
            method: "publickey",
            label: Some(label.to_owned()),
            outcome,
        };
        let Some(public) = key.public() else {
            match key.open(self.attendance.as_ref()).await {
                Ok(key) => self.put_open(&key, certificate, label),
                Err(outcome) => self.put(unavailable(outcome), Secret::None),
            }
            return;
        };
        let (Some(blob), Some(plain)) = (
            blob_of(public.key_data(), certificate),
            blob_of(public.key_data(), None),
        ) else {
            return;
        };
        // Somebody has given the passphrase to an agent already.
        let in_agent = self
            .agents
            .iter()
            .position(|agent| agent.keys.contains(&plain));
        if let Some(agent) = in_agent {
            let secret = Secret::Agent {
                agent,
                key: plain,
                is_named: true,
            };
            self.put_key(blob, label, true, secret);
            return;
        }
        match key.availability(self.is_attended()) {
            Ok(()) => {
                // Nobody is asked about a key that the server does not want.
                let query = !key.is_open();
                self.put_key(blob, label, query, Secret::Locked(Arc::clone(key)));
            }
            Err(why) => self.put(unavailable(Outcome::Unanswered(why)), Secret::None),
        }
    }

    fn put_agent(&mut self, keys: &AgentKeys) {
        let is_opened = |agent: &OpenAgent| agent.socket == keys.socket();
        let Some(agent) = self.agents.iter().position(is_opened) else {
            return;
        };
        let mut listed: Vec<_> = self.agents[agent]
            .keys
            .iter()
            .filter(|key| keys.only.as_ref().is_none_or(|only| is_of(key, only)))
            .take(MAX_AGENT_KEYS)
            .cloned()
            .collect();
        // One who has a certificate that is valid has it in order to use it.
        listed.sort_by_key(|key| match is_certificate(key) {
            true => 2 * u8::from(has_expired(key)),
            false => 1,
        });
        let certificate = keys.certificate.as_ref();
        let certified = certificate.and_then(|certificate| certificate.current().to_bytes().ok());
        let is_named = keys.only.is_some();
        for key in listed {
            let blob = match &keys.certificate {
                None => Some(key.clone()),
                Some(_) if is_certificate(&key) => None,
                Some(_) => certified.clone(),
            };
            let Some(blob) = blob else { continue };
            let label = if is_certificate(&blob) {
                "certificate of ssh-agent"
            } else {
                "of ssh-agent"
            };
            if self.attendance.is_none() && takes_touch(&key) {
                let outcome = Outcome::Unanswered(Unanswered::Unattended);
                let offer = Offer::Unavailable {
                    method: "publickey",
                    label: Some(describe(label, &blob)),
                    outcome,
                };
                self.put(offer, Secret::None);
                continue;
            }
            let secret = Secret::Agent {
                agent,
                key,
                is_named,
            };
            self.put_key(blob, label, true, secret);
        }
    }

    fn put_person(&mut self, person: &Arc<Person>) {
        let available = person.availability(&self.user, self.is_attended());
        // In the order of OpenSSH: questions may be for more than a password.
        for offer in [Offer::KeyboardInteractive, Offer::Password { retry: true }] {
            match available {
                Ok(()) => self.put(offer, Secret::Person(Arc::clone(person))),
                // Not even begun, for it would have to be broken off.
                Err(why) => {
                    let unavailable = Offer::Unavailable {
                        method: offer.method(),
                        label: None,
                        outcome: Outcome::Unanswered(why),
                    };
                    self.put(unavailable, Secret::None);
                }
            }
        }
    }

    /// Signs for `offer`.
    ///
    /// # Errors
    /// Why not: the key cannot, its agent declines, or nobody told its passphrase.
    pub(super) async fn sign(
        &mut self,
        offer: usize,
        algorithm: &str,
        data: &[u8],
    ) -> Result<Vec<u8>, Outcome> {
        match self.secrets.get(offer) {
            Some(Secret::Key(key)) => sign(key, algorithm, data).ok_or(Outcome::Declined),
            Some(Secret::Locked(key)) => {
                let key = key.open(self.attendance.as_ref()).await?;
                sign(&key, algorithm, data).ok_or(Outcome::Declined)
            }
            Some(Secret::Ephemeral { key, authorize }) => {
                if let Some(attendance) = &self.attendance {
                    attendance.while_asking(authorize.prepare()).await;
                }
                let is_accepted = authorize.authorize(&self.user, key.public_key()).await;
                let signature = is_accepted.then(|| sign(key, algorithm, data));
                signature.flatten().ok_or(Outcome::Declined)
            }
            Some(Secret::Agent { agent, key, .. }) => {
                let signed = self.agents[*agent].agent.sign(key, algorithm, data).await;
                self.took_touch |= takes_touch(key);
                self.took_person |= self.took_touch;
                signed.map_err(|error: agent::Error| {
                    debug!(%error, "ssh-agent did not sign");
                    Outcome::Declined
                })
            }
            _ => Err(Outcome::Declined),
        }
    }

    /// The password behind `offer`.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn password(
        &mut self,
        offer: usize,
    ) -> Result<Arc<Zeroizing<String>>, Outcome> {
        match self.secrets.get(offer) {
            Some(Secret::Password(password)) => Ok(Arc::clone(password)),
            Some(Secret::Person(person)) => {
                let person = Arc::clone(person);
                let password = person.password(&self.user, self.attendance.as_ref());
                let password = password.await.map_err(Outcome::Unanswered)?;
                let text = Arc::clone(&password.text);
                self.used = Some((offer, person, password));
                Ok(text)
            }
            _ => Err(Outcome::Declined),
        }
    }

    /// Answers questions put to `offer`.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn answer(
        &mut self,
        offer: usize,
        questions: &Questions,
    ) -> Result<Vec<Zeroizing<String>>, Outcome> {
        let Some(Secret::Person(person)) = self.secrets.get(offer) else {
            return Err(Outcome::Declined);
        };
        let person = Arc::clone(person);
        if is_password(questions) {
            // Asked twice in one conversation, it was wrong the first time.
            self.refused(offer).await;
        }
        let answers = person.answers(&self.user, questions, self.attendance.as_ref());
        let (answers, password) = answers.await.map_err(Outcome::Unanswered)?;
        match password {
            Some(password) => self.used = Some((offer, person, password)),
            None => self.took_person |= !answers.is_empty(),
        }
        Ok(answers)
    }

    /// Forgets the password that was used for `offer`, if one was.
    pub(super) async fn refused(&mut self, offer: usize) {
        if let Some((_, person, password)) = self.used.take_if(|(used, ..)| *used == offer) {
            person.forget(&self.user, &password).await;
        }
    }

    /// Has `memory` know which offers were accepted and which refused on the way.
    pub(super) fn succeeded(
        &self,
        memory: &Memory,
        accepted: impl IntoIterator<Item = usize>,
        refused: impl IntoIterator<Item = usize>,
    ) {
        let accepted = accepted.into_iter().map(|offer| self.mark(offer)).collect();
        let refused = refused.into_iter().map(|offer| self.mark(offer));
        memory.note(&self.user, accepted, refused, Instant::now());
    }
}

/// What goes over the wire: the certificate as it is now, where there is one, in place of the key.
fn blob_of(key: &KeyData, certificate: Option<&CertificateFile>) -> Option<Vec<u8>> {
    match certificate {
        Some(certificate) => certificate.current().to_bytes().ok(),
        None => {
            use russh::keys::ssh_encoding::Encode as _;
            key.encode_vec().ok()
        }
    }
}

/// Whether the key or certificate `blob` is of the key `only`.
fn is_of(blob: &[u8], only: &KeyData) -> bool {
    match parse_public_key(blob).map(KeyData::from) {
        Ok(KeyData::Certificate(certificate)) => certificate.public_key() == only,
        Ok(key) => key == *only,
        Err(_) => false,
    }
}

fn is_certificate(blob: &[u8]) -> bool {
    key_type(blob).is_some_and(|name| name.contains("-cert-"))
}

/// Whether somebody must touch something for each signature.
fn takes_touch(blob: &[u8]) -> bool {
    key_type(blob).is_some_and(|name| name.starts_with("sk-") || name.starts_with("webauthn-sk-"))
}

/// What to call a key in messages: where it is from, its type and fingerprint, and whether its
/// certificate is out of date.
fn describe(label: &str, blob: &[u8]) -> String {
    let key_type = key_type(blob).unwrap_or("key");
    let mut text = format!("{label} {key_type} {}", fingerprint(blob));
    if has_expired(blob) {
        text.push_str(" which has expired");
    }
    text
}

/// Whether `blob` is a certificate whose time is over.
fn has_expired(blob: &[u8]) -> bool {
    if !is_certificate(blob) {
        return false;
    }
    let Ok(KeyData::Certificate(certificate)) = parse_public_key(blob).map(KeyData::from) else {
        return false;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.is_ok_and(|now| certificate.valid_before() <= now.as_secs())
}
