//! From a byte stream to an authenticated connection, in both roles.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tracing::debug;
use zeroize::{Zeroize as _, Zeroizing};

use super::auth::client::{Outcome, Unanswered};
use super::auth::{client, server};
use super::connection::{Connection, now};
use super::credential::Credential;
use super::error::{Error, Phase};
use super::host_key::{Algorithm, HostKey};
use super::memory::Memory;
use super::person::Attendance;
use super::transport::{self, Event, Transport, reason};
use super::verifier::HostKeyVerifier;
use super::wallet::Wallet;

/// Time a server has to let us in, unless configured otherwise.
const LOGIN_DEADLINE: Duration = Duration::from_secs(30);
/// Time a client has to authenticate, unless configured otherwise: what sshd gives it
/// (`LoginGraceTime`), for somebody may have to look at our host key and type "yes".
const GRACE_TIME: Duration = Duration::from_secs(120);

/// Connections that one login may take, unless configured otherwise: with the usual six tries of each, 24 tries. An
/// sshd that counts bars a client after the third that failed (`PerSourcePenalties`).
const CONNECTIONS: usize = 4;

/// What servers say who take no more tries; what else they end a connection with has other causes.
const TOO_MANY: &str = "oo many authentication failures";

/// How many characters of a server's last words are repeated in an error.
const MAX_LAST_WORDS: usize = 200;

/// Bytes after which a server changes keys: what sshd permits an AES key (2^32 blocks), and without a timer, as sshd.
/// Some clients do not cope with a change that they have not begun themselves.
const SERVER_REKEY_BYTES: u64 = 64 << 30;

/// How to log in to a server.
#[derive(Clone)]
pub struct ClientConfig {
    /// The user name.
    pub user: String,
    /// What to authenticate with, in this order, but for what `memory` knows better.
    pub credentials: Vec<Credential>,
    /// Who the server must be.
    pub verifier: Arc<dyn HostKeyVerifier>,
    /// What the transport offers.
    pub transport: transport::Config,
    /// Time for key exchange and authentication together, not counting the time that an agent or a
    /// person takes.
    pub deadline: Duration,
    /// Somebody waits for the login; without, nobody is asked for anything, nor to touch a security
    /// key, and an agent that does not sign within the deadline is taken to have asked somebody.
    pub attendance: Option<Attendance>,
    /// What logged in at this server before, and what did not.
    pub memory: Memory,
    /// How many connections [`Connection::connect_over`] opens where the server ends them after too few tries.
    pub connections: usize,
}

impl ClientConfig {
    /// Logs in as `user`, who waits for it, to the server that `verifier` accepts, with nothing yet
    /// to show.
    pub fn new(user: impl Into<String>, verifier: Arc<dyn HostKeyVerifier>) -> Self {
        Self {
            user: user.into(),
            credentials: Vec::new(),
            verifier,
            transport: transport::Config::default(),
            deadline: LOGIN_DEADLINE,
            attendance: Some(Attendance::default()),
            memory: Memory::default(),
            connections: CONNECTIONS,
        }
    }
}

/// How clients are received.
#[derive(Clone)]
pub struct ServerConfig {
    /// Our host keys, one for each algorithm.
    pub host_keys: Vec<Arc<HostKey>>,
    /// What the transport offers.
    pub transport: transport::Config,
    /// Time for key exchange and authentication together, and so for the person at the client to
    /// accept our host key.
    pub deadline: Duration,
}

impl ServerConfig {
    /// Receives clients with one host key.
    pub fn new(host_key: Arc<HostKey>) -> Self {
        Self::with_keys(vec![host_key])
    }

    /// Receives clients with `host_keys`, one for each algorithm, of which the client chooses.
    pub fn with_keys(host_keys: Vec<Arc<HostKey>>) -> Self {
        Self {
            host_keys,
            transport: transport::Config {
                rekey_bytes: SERVER_REKEY_BYTES,
                rekey_after: Duration::MAX,
                ..transport::Config::default()
            },
            deadline: GRACE_TIME,
        }
    }
}

/// Has the last word on a client that the policy accepts, and may take its time.
pub trait Doorman {
    /// Whether `user`, who has proved who they are, is let in. It is dropped when the client leaves meanwhile.
    fn admit(&mut self, user: &str) -> impl Future<Output = Admission> + Send;
}

/// What a [`Doorman`] says. Banners are shown as they are: who writes them leaves out control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The client is in.
    Welcome {
        /// Shown before.
        banner: Option<String>,
    },
    /// The client is told why not, and disconnected.
    TurnedAway {
        /// The whole story, in lines.
        banner: String,
        /// A few words, for the disconnect. Clients that may not show the banner get that here, too.
        reason: String,
    },
}

/// Lets in whoever the policy accepts.
struct OpenDoor;

impl Doorman for OpenDoor {
    async fn admit(&mut self, _user: &str) -> Admission {
        Admission::Welcome { banner: None }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    /// Exchanges keys with the server at the other end of `io`, checks who it is, and logs in.
    ///
    /// # Errors
    /// An [`Error`] says which step failed; [`Error::hint`] what may help.
    pub async fn connect(io: IO, config: ClientConfig) -> Result<Self, Error> {
        Self::attempt(io, &config, &mut None).await
    }

    /// Logs in as [`Connection::connect`] does, on a stream that `open` gives.
    ///
    /// A server that ends the connection after too many tries is tried again on another stream, with what was not
    /// offered yet; on [`ClientConfig::connections`] streams at the most.
    ///
    /// # Errors
    /// The outer one is of `open`, at the first stream; the inner one says which step failed.
    pub async fn connect_over<E, Opening>(
        mut open: impl FnMut() -> Opening,
        config: ClientConfig,
    ) -> Result<Result<Self, Error>, E>
    where
        Opening: Future<Output = Result<IO, E>>,
    {
        let mut tries = None;
        let mut failure = match Self::attempt(open().await?, &config, &mut tries).await {
            Ok(connection) => return Ok(Ok(connection)),
            Err(error) => error,
        };
        for _ in 1..config.connections {
            let may_go_on = |tries: &Tries| tries.core.may_go_on() && is_end_of_tries(&failure);
            if !tries.as_ref().is_some_and(may_go_on) {
                break;
            }
            debug!(user = config.user, "going on over another connection");
            let Ok(io) = open().await else { break };
            failure = match Self::attempt(io, &config, &mut tries).await {
                Ok(connection) => return Ok(Ok(connection)),
                // Barred, most likely, of which OpenSSH 9.8 and later may say a word before the connection ends; what
                // was refused before says more, and trying again would have us barred for longer.
                Err(
                    Error::TurnedAway { .. }
                    | Error::ConnectionLost {
                        phase: Phase::KeyExchange,
                    },
                ) => break,
                Err(error) => error,
            };
        }
        Ok(Err(failure))
    }

    /// One connection of a login; `tries` is what others have come to, and comes to.
    async fn attempt(
        io: IO,
        config: &ClientConfig,
        tries: &mut Option<Tries>,
    ) -> Result<Self, Error> {
        let mut offered = config.transport.clone();
        prefer(
            &mut offered.host_keys,
            &config.verifier.expected_algorithms(),
        );
        let mut connection = Self::new(io, Transport::client(offered, now()));
        let mut deadline = Deadline::after(config.deadline);
        match connection.log_in(config, tries, &mut deadline).await {
            Ok(()) => Ok(connection),
            Err(error) => {
                if let Some(tries) = tries {
                    tries.forget_refused().await;
                }
                let error = connection.with_last_words(error);
                Err(connection.give_up(error).await)
            }
        }
    }

    /// Exchanges keys with the client at the other end of `io` and authenticates it by `policy`.
    ///
    /// # Errors
    /// An [`Error`] says which step failed. The client has been told, as far as it listens.
    pub async fn accept(
        io: IO,
        config: &ServerConfig,
        policy: &mut impl server::Policy,
    ) -> Result<Self, Error> {
        Self::accept_by(io, config, policy, &mut OpenDoor).await
    }

    /// As [`Connection::accept`], but `doorman` is asked about a client that `policy` accepts, once it has proved
    /// who it is.
    ///
    /// # Errors
    /// As [`Connection::accept`].
    pub async fn accept_by(
        io: IO,
        config: &ServerConfig,
        policy: &mut impl server::Policy,
        doorman: &mut impl Doorman,
    ) -> Result<Self, Error> {
        let transport =
            Transport::server(config.transport.clone(), config.host_keys.clone(), now());
        let mut connection = Self::new(io, transport);
        let deadline = Deadline::after(config.deadline);
        match connection.let_in(policy, doorman, &deadline).await {
            Ok(()) => Ok(connection),
            Err(error) => Err(connection.give_up(error).await),
        }
    }

    async fn log_in(
        &mut self,
        config: &ClientConfig,
        tries: &mut Option<Tries>,
        deadline: &mut Deadline,
    ) -> Result<(), Error> {
        loop {
            match deadline.bound(self.phase(), self.recv_event()).await? {
                Event::HostKey { blob } => {
                    config.verifier.verify(&blob)?;
                    self.transport().accept_host_key(now())?;
                }
                Event::Established => break,
                // Nothing else comes before the first key exchange is complete.
                _ => {}
            }
        }
        self.enter(Phase::Authentication);
        let Tries { wallet, core } = match tries {
            Some(tries) => {
                tries.core.go_on(self.session_id());
                tries
            }
            None => {
                let opening = Tries::begin(config, self.session_id());
                tries.insert(deadline.pause(opening).await)
            }
        };
        loop {
            match core.poll_event() {
                Some(client::Event::Banner(text)) => self.banners.push(text),
                Some(client::Event::Sign {
                    offer,
                    algorithm,
                    data,
                }) => {
                    let is_patient = wallet.may_take_its_time(offer);
                    let signing = wallet.sign(offer, algorithm, &data);
                    let signature = if is_patient {
                        deadline.pause(signing).await
                    } else {
                        let signing = async { Ok(signing.await) };
                        match deadline.bound(Phase::Authentication, signing).await {
                            Ok(signature) => signature,
                            // It asks somebody to confirm, most likely, and would ask again each time.
                            Err(_) => {
                                core.decline(Outcome::Unanswered(Unanswered::Unattended));
                                return Err(Box::new(core.failure(None)).into());
                            }
                        }
                    };
                    match signature {
                        Ok(signature) => core.signed(Some(&signature)),
                        Err(outcome) => core.decline(outcome),
                    }
                }
                Some(client::Event::Password { offer }) => {
                    match deadline.pause(wallet.password(offer)).await {
                        Ok(password) => core.password(Some(&password)),
                        Err(outcome) => core.decline(outcome),
                    }
                }
                Some(client::Event::Questions { offer, questions }) => {
                    match deadline.pause(wallet.answer(offer, &questions)).await {
                        Ok(answers) => {
                            let answers: Vec<_> =
                                answers.iter().map(|answer| answer.as_str()).collect();
                            core.answered(Some(&answers));
                        }
                        Err(outcome) => core.decline(outcome),
                    }
                }
                Some(client::Event::Refused { offer }) => wallet.refused(offer).await,
                Some(client::Event::Authenticated) => break,
                Some(client::Event::Failed(failed)) => return Err(Box::new(failed).into()),
                None => {
                    let exchange = self.exchange(core);
                    deadline.bound(Phase::Authentication, exchange).await?;
                }
            }
        }
        wallet.succeeded(&config.memory, core.accepted(), core.refused());
        self.took_person = wallet.took_person();
        self.accepted = core.accepted_by().unwrap_or_default().to_owned();
        self.took_touch = wallet.took_touch();
        config.user.clone_into(&mut self.user);
        self.transport().authenticated();
        self.enter(Phase::Connection);
        Ok(())
    }

    /// Sends what the core has to say, and brings it the next message.
    async fn exchange(&mut self, core: &mut client::Client) -> Result<(), Error> {
        while let Some(payload) = core.poll_transmit() {
            // It may hold a password.
            let payload = Zeroizing::new(payload);
            self.send(&payload).await?;
        }
        let message = match self.recv_any().await {
            Ok(message) => message,
            // What was tried says more.
            Err(Error::Refused { description, .. }) => {
                let failed = match description.contains(TOO_MANY) {
                    true => core.ran_out(description),
                    false => core.failure(Some(description)),
                };
                return Err(Box::new(failed).into());
            }
            Err(error) => return Err(error),
        };
        if let Some(names) = self.transport().server_sig_algs() {
            core.set_server_sig_algs(names);
        }
        core.handle_input(&message).map_err(Error::Server)
    }

    async fn let_in(
        &mut self,
        policy: &mut impl server::Policy,
        doorman: &mut impl Doorman,
        deadline: &Deadline,
    ) -> Result<(), Error> {
        // Nothing else comes before the first key exchange is complete.
        while deadline.bound(self.phase(), self.recv_event()).await? != Event::Established {}
        self.enter(Phase::Authentication);
        policy.meet(self.peer_version());
        let mut core = server::Server::new(self.session_id()).holding();
        let authentication = async {
            while core.user().is_none() {
                let verdict = if let Some(user) = core.held() {
                    match self.attending(doorman.admit(user)).await? {
                        Admission::Welcome { banner } => {
                            core.admit(banner.as_deref());
                            Ok(())
                        }
                        Admission::TurnedAway { banner, reason } => {
                            let goodbye = goodbye(self.peer_version(), &banner, reason);
                            Err(core.turn_away(&banner, &goodbye))
                        }
                    }
                } else {
                    let message = self.recv_any().await?;
                    let verdict = core.handle_input(SystemTime::now(), &message, policy);
                    wipe(message);
                    verdict
                };
                while let Some(payload) = core.poll_transmit() {
                    self.send(&payload).await?;
                }
                verdict.map_err(Error::Client)?;
            }
            // From here on compression may apply, and messages 80 and up are welcome.
            self.transport().authenticated();
            self.flush().await
        };
        deadline
            .bound(Phase::Authentication, authentication)
            .await?;
        core.user().unwrap_or_default().clone_into(&mut self.user);
        self.enter(Phase::Connection);
        Ok(())
    }

    /// The loss of a connection with what the server has told the user before it, last of all.
    fn with_last_words(&self, error: Error) -> Error {
        let words = self.banners.last().map(|banner| banner.split_whitespace());
        let words = words.map(|words| words.collect::<Vec<_>>().join(" "));
        match (error, words) {
            (
                Error::ConnectionLost {
                    phase: Phase::Authentication,
                },
                Some(words),
            ) if !words.is_empty() => Error::SentAway {
                said: words.chars().take(MAX_LAST_WORDS).collect(),
            },
            (error, _) => error,
        }
    }

    /// Tells the other end why there will be no connection.
    async fn give_up(mut self, error: Error) -> Error {
        let (reason, text) = match &error {
            // The transport has queued its own farewell.
            Error::Transport(_) => {
                self.finish().await;
                return error;
            }
            Error::Refused { .. }
            | Error::TurnedAway { .. }
            | Error::SentAway { .. }
            | Error::ConnectionLost { .. }
            | Error::Io { .. }
            | Error::Ended => return error,
            Error::HostKey(_) => (
                reason::HOST_KEY_NOT_VERIFIABLE,
                "host key verification failed".to_owned(),
            ),
            Error::AuthenticationFailed(failed) if failed.farewell.is_some() => return error,
            Error::AuthenticationFailed(_) => (
                reason::NO_MORE_AUTH_METHODS_AVAILABLE,
                "no more authentication methods".to_owned(),
            ),
            Error::Server(error) => (reason::PROTOCOL_ERROR, error.to_string()),
            Error::Client(error) => (error.disconnect_reason(), error.to_string()),
            Error::TimedOut { .. } => (reason::BY_APPLICATION, "timed out".to_owned()),
        };
        self.disconnect(reason, &text);
        self.finish().await;
        error
    }
}

/// What a login has come to, over one connection or several.
struct Tries {
    wallet: Wallet,
    core: client::Client,
}

impl Tries {
    async fn begin(config: &ClientConfig, session_id: &[u8]) -> Self {
        let (credentials, attendance) = (&config.credentials, config.attendance.clone());
        let wallet = Wallet::open(credentials, &config.user, attendance, &config.memory).await;
        let core = client::Client::new(session_id, &config.user, wallet.offers());
        Self { wallet, core }
    }

    /// Takes in what the server refused when it ended the connection: a password that is kept would be the next one too.
    async fn forget_refused(&mut self) {
        while let Some(event) = self.core.poll_event() {
            if let client::Event::Refused { offer } = event {
                self.wallet.refused(offer).await;
            }
        }
    }
}

/// Whether a server may have had enough of tries: some just hang up then.
fn is_end_of_tries(error: &Error) -> bool {
    match error {
        Error::AuthenticationFailed(failed) => {
            let farewell = failed.farewell.as_deref();
            farewell.is_some_and(|words| words.contains(TOO_MANY))
        }
        Error::SentAway { .. } => true,
        Error::ConnectionLost { phase } => *phase == Phase::Authentication,
        _ => false,
    }
}

/// The last words to a client that is turned away. OpenSSH has shown the banner by then; others, PuTTY among them, keep
/// it until the next answer and forget it when the connection ends.
fn goodbye(version: &str, banner: &str, reason: String) -> String {
    if version.contains("OpenSSH") {
        return reason;
    }
    let lines: Vec<&str> = banner.lines().collect();
    lines.join("; ")
}

/// Overwrites what may have been a password.
fn wipe(message: Bytes) {
    // A packet that is not compressed, as none is before authentication, has a buffer of its own.
    if let Ok(mut message) = message.try_into_mut() {
        message.as_mut().zeroize();
    }
}

/// Moves `expected` to the front, in its order, and keeps that of the others, as OpenSSH does: a
/// server that has a key we know should show that one.
fn prefer(offered: &mut [Algorithm], expected: &[Algorithm]) {
    offered.sort_by_key(|algorithm| {
        let place = expected.iter().position(|one| one == algorithm);
        place.unwrap_or(expected.len())
    });
}

/// The time by which a connection must be up.
struct Deadline {
    at: Instant,
    allowed: Duration,
}

impl Deadline {
    fn after(allowed: Duration) -> Self {
        Self {
            at: Instant::now() + allowed,
            allowed,
        }
    }

    /// Runs `work` of `phase` until the deadline.
    async fn bound<T>(
        &self,
        phase: Phase,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout_at(self.at, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut {
                phase,
                after: self.allowed,
            }),
        }
    }

    /// Runs `work` without the clock: somebody looks for a token or types.
    async fn pause<T>(&mut self, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let result = work.await;
        self.at += started.elapsed();
        result
    }
}
