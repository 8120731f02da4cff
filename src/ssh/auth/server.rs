//! User authentication as the server: requests are checked here, a [`Policy`] decides.

use std::collections::VecDeque;
use std::time::SystemTime;

use russh::keys::{Certificate, PublicKey};
use thiserror::Error;

use super::verify::{PublicCredential, check_user_certificate};
use super::{Algorithm, CONNECTION_SERVICE, USERAUTH_SERVICE, printable, signed_data};
use crate::ssh::transport::reason;
use crate::ssh::wire::{Reader, Truncated, WriteExt as _, msg};

/// Refusals after which the client is disconnected, as in OpenSSH (`MaxAuthTries`).
const MAX_FAILURES: u32 = 6;
/// Requests of any outcome after which the client is disconnected; probes that are welcome and
/// partial successes count here only.
const MAX_REQUESTS: u32 = 64;
/// Service requests after which the client is disconnected: one before each of its requests.
const MAX_SERVICE_REQUESTS: u32 = MAX_REQUESTS;
/// Longest user name considered, in bytes.
const MAX_USER_BYTES: usize = 1024;

/// What a [`Policy`] says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The user is authenticated.
    Accept,
    /// This method succeeded and another one is needed ("partial success", RFC 4252 §5.1).
    Continue,
    /// The request is refused.
    Reject,
}

/// Who may log in.
///
/// Asked in the order of the client's requests. The core has checked the service, the encoding
/// and, before a verdict takes effect, the signature.
pub trait Policy {
    /// Method names that can still succeed, told to the client when a request is refused.
    fn methods(&self) -> &[&'static str];

    /// Told before anything is asked: how the client's software calls itself (RFC 4253 §4.2).
    fn meet(&mut self, version: &str) {
        let _ = version;
    }

    /// Whether `user` may log in with any key, even one that nothing here can read or verify.
    ///
    /// For policies that know the client by other means.
    fn any_key(&mut self, user: &str) -> bool {
        let _ = user;
        false
    }

    /// Whether `user` may log in without proving anything.
    fn none(&mut self, user: &str) -> Verdict {
        let _ = user;
        Verdict::Reject
    }

    /// Whether `user` may log in with `key`.
    ///
    /// Asked for a mere query (RFC 4252 §7) and again with a signature, so it must not count. The
    /// verdict takes effect only with a valid signature. `algorithm` is the one of the request.
    fn publickey(&mut self, user: &str, key: &PublicKey, algorithm: &str) -> Verdict {
        let _ = (user, key, algorithm);
        Verdict::Reject
    }

    /// Whether `user` may log in with `certificate`.
    ///
    /// It is a user certificate within its dates, without critical options, and its signature by
    /// [`Certificate::signature_key`] is valid. Whether that authority is trusted, whether the
    /// principals fit and what the extensions permit is for the policy to say. Otherwise as
    /// [`Policy::publickey`].
    fn certificate(&mut self, user: &str, certificate: &Certificate, algorithm: &str) -> Verdict {
        let _ = (user, certificate, algorithm);
        Verdict::Reject
    }

    /// Whether `user` may log in with whatever password they gave.
    ///
    /// For policies that know the client by other means: the text is not shown to them, and none
    /// can be changed. Lets in clients that never try `none`.
    fn password(&mut self, user: &str) -> Verdict {
        let _ = user;
        Verdict::Reject
    }

    /// Whether `user` may log in by answering no questions at all (RFC 4256 §3.1 permits the
    /// verdict at once).
    fn keyboard_interactive(&mut self, user: &str) -> Verdict {
        let _ = user;
        Verdict::Reject
    }

    /// Text shown to the user before the answer to the first request with this user name.
    fn banner(&mut self, user: &str) -> Option<String> {
        let _ = user;
        None
    }

    /// The client goes on with another user name: forgets what counted towards success.
    fn restart(&mut self) {}
}

/// The client broke the protocol, or its tries are used up; the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A message does not have the fields of its number.
    #[error("malformed authentication message")]
    Malformed,
    /// A service other than `ssh-userauth` and then `ssh-connection` was asked for.
    #[error("the client asked for the unknown service `{0}`")]
    UnknownService(String),
    /// The service was asked for again and again.
    #[error("the client asked for the service too often")]
    TooManyServiceRequests,
    /// A message that has no place here.
    #[error("unexpected message {0} during authentication")]
    Unexpected(u8),
    /// Too many requests were refused.
    #[error("too many authentication failures")]
    TooManyFailures,
    /// The client proved who it is, and what it asks for does not exist ([`Server::turn_away`]).
    #[error("{0}")]
    TurnedAway(String),
}

impl Error {
    /// The reason for SSH_MSG_DISCONNECT (RFC 4253 §11.1).
    pub fn disconnect_reason(&self) -> u32 {
        match self {
            Self::Malformed | Self::Unexpected(_) | Self::TooManyServiceRequests => {
                reason::PROTOCOL_ERROR
            }
            Self::UnknownService(_) => reason::SERVICE_NOT_AVAILABLE,
            Self::TooManyFailures | Self::TurnedAway(_) => reason::NO_MORE_AUTH_METHODS_AVAILABLE,
        }
    }
}

impl From<Truncated> for Error {
    fn from(_: Truncated) -> Self {
        Self::Malformed
    }
}

/// The server's side of user authentication.
#[derive(Debug)]
pub struct Server {
    session_id: Vec<u8>,
    state: State,
    failures: u32,
    requests: u32,
    service_requests: u32,
    /// Whom the policy accepts is not in before somebody else has said so, too.
    holds: bool,
    output: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
enum State {
    /// SSH_MSG_SERVICE_REQUEST has not come.
    Idle,
    /// Requests are answered; `user` is the name of the latest.
    Requests { user: Option<String> },
    /// The policy has accepted `user`, and the answer is held.
    Held { user: String },
    /// SSH_MSG_USERAUTH_SUCCESS is queued or sent.
    Authenticated { user: String },
}

/// What a request comes to.
enum Answer<'a> {
    Verdict(Verdict),
    /// This key would do: the client may sign (SSH_MSG_USERAUTH_PK_OK).
    KeyIsWelcome {
        algorithm: &'a [u8],
        blob: &'a [u8],
    },
}

impl Server {
    /// Starts for the connection `session_id`, before its first message.
    pub fn new(session_id: &[u8]) -> Self {
        Self {
            session_id: session_id.to_vec(),
            state: State::Idle,
            failures: 0,
            requests: 0,
            service_requests: 0,
            holds: false,
            output: VecDeque::new(),
        }
    }

    /// Holds the answer to a client that the policy accepts, until [`Server::admit`] or [`Server::turn_away`].
    ///
    /// For what takes time to find out, and is nobody's business before they have proved who they are. Requests
    /// are answered in their order (RFC 4252 §5.1), so nothing is to be handed in meanwhile.
    #[must_use]
    pub fn holding(self) -> Self {
        Self {
            holds: true,
            ..self
        }
    }

    /// The user whose answer is held.
    pub fn held(&self) -> Option<&str> {
        match &self.state {
            State::Held { user } => Some(user),
            _ => None,
        }
    }

    /// Lets the held user in, after showing `banner`. Does nothing when nobody is held.
    pub fn admit(&mut self, banner: Option<&str>) {
        if let State::Held { user } = &mut self.state {
            let user = std::mem::take(user);
            if let Some(text) = banner {
                self.queue_banner(text);
            }
            self.accept(user);
        }
    }

    /// Shows `banner` to the held user, who is not let in for `reason`, a few words. The error is for the caller to end
    /// the connection with: no other request of this client would fare better, and nobody is to type a password in vain.
    pub fn turn_away(&mut self, banner: &str, reason: &str) -> Error {
        self.queue_banner(banner);
        Error::TurnedAway(reason.to_owned())
    }

    /// The authenticated user, once there is one.
    ///
    /// The transport switches after the messages of [`Server::poll_transmit`] have been sent.
    pub fn user(&self) -> Option<&str> {
        match &self.state {
            State::Authenticated { user } => Some(user),
            State::Idle | State::Requests { .. } | State::Held { .. } => None,
        }
    }

    /// The next payload to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    /// Takes the payload of one message; `now` judges the dates of certificates.
    ///
    /// # Errors
    /// Any [`enum@Error`] ends the connection, after what is queued has been sent.
    pub fn handle_input(
        &mut self,
        now: SystemTime,
        message: &[u8],
        policy: &mut dyn Policy,
    ) -> Result<(), Error> {
        let mut reader = Reader::new(message);
        match (reader.u8()?, &self.state) {
            (msg::SERVICE_REQUEST, State::Idle | State::Requests { .. }) => {
                self.service_request(reader)
            }
            (msg::USERAUTH_REQUEST, State::Requests { .. }) => self.request(now, reader, policy),
            // RFC 4252 §5.1: requests after success are ignored without a word.
            (msg::USERAUTH_REQUEST, State::Authenticated { .. }) => Ok(()),
            (number, _) => Err(Error::Unexpected(number)),
        }
    }

    /// Grants the service. Some clients (paramiko) ask before each of their requests: what has
    /// been counted and who the user is stay as they are.
    fn service_request(&mut self, mut reader: Reader<'_>) -> Result<(), Error> {
        let service = reader.string()?;
        end(reader)?;
        if service != USERAUTH_SERVICE.as_bytes() {
            return Err(unknown_service(service));
        }
        self.service_requests += 1;
        if self.service_requests > MAX_SERVICE_REQUESTS {
            return Err(Error::TooManyServiceRequests);
        }
        let mut accept = Vec::new();
        accept.put_byte(msg::SERVICE_ACCEPT).put_string(service);
        self.output.push_back(accept);
        if let State::Idle = self.state {
            self.state = State::Requests { user: None };
        }
        Ok(())
    }

    fn request(
        &mut self,
        now: SystemTime,
        mut reader: Reader<'_>,
        policy: &mut dyn Policy,
    ) -> Result<(), Error> {
        let user = reader.string()?;
        let service = reader.string()?;
        let method = reader.string()?;
        if service != CONNECTION_SERVICE.as_bytes() {
            return Err(unknown_service(service));
        }
        self.requests += 1;
        if self.requests > MAX_REQUESTS {
            return Err(Error::TooManyFailures);
        }
        // RFC 4252 §5: user names are UTF-8. One that is not cannot be anybody's.
        let Some(user) = user_name(user) else {
            return self.refuse(method, policy);
        };
        self.introduce(user, policy);
        let answer = match method {
            b"none" => {
                end(reader)?;
                Answer::Verdict(policy.none(user))
            }
            b"publickey" => self.publickey(now, user, reader, policy)?,
            b"password" => Answer::Verdict(password(user, reader, policy)?),
            b"keyboard-interactive" => {
                let _language = reader.string()?;
                let _submethods = reader.string()?;
                end(reader)?;
                Answer::Verdict(policy.keyboard_interactive(user))
            }
            _ => Answer::Verdict(Verdict::Reject),
        };
        match answer {
            Answer::Verdict(Verdict::Accept) if self.holds => {
                let user = user.to_owned();
                self.state = State::Held { user };
            }
            Answer::Verdict(Verdict::Accept) => self.accept(user.to_owned()),
            Answer::Verdict(Verdict::Continue) => self.queue_failure(policy, true),
            Answer::Verdict(Verdict::Reject) => return self.refuse(method, policy),
            Answer::KeyIsWelcome { algorithm, blob } => {
                let mut welcome = Vec::with_capacity(64 + blob.len());
                welcome
                    .put_byte(msg::USERAUTH_PK_OK)
                    .put_string(algorithm)
                    .put_string(blob);
                self.output.push_back(welcome);
            }
        }
        Ok(())
    }

    /// Greets a user name not seen in the request before.
    fn introduce(&mut self, name: &str, policy: &mut dyn Policy) {
        let State::Requests { user } = &mut self.state else {
            return;
        };
        if user.as_deref() == Some(name) {
            return;
        }
        if user.replace(name.to_owned()).is_some() {
            policy.restart();
        }
        if let Some(text) = policy.banner(name) {
            self.queue_banner(&text);
        }
    }

    fn publickey<'a>(
        &self,
        now: SystemTime,
        user: &str,
        mut reader: Reader<'a>,
        policy: &mut dyn Policy,
    ) -> Result<Answer<'a>, Error> {
        let signed = reader.bool()?;
        let name = reader.string()?;
        let blob = reader.string()?;
        let signature = if signed { Some(reader.string()?) } else { None };
        end(reader)?;

        let welcome = Ok(Answer::KeyIsWelcome {
            algorithm: name,
            blob,
        });
        if policy.any_key(user) {
            return match signature {
                Some(_) => Ok(Answer::Verdict(Verdict::Accept)),
                None => welcome,
            };
        }
        let reject = Ok(Answer::Verdict(Verdict::Reject));
        let Some(algorithm) = Algorithm::from_name(name) else {
            return reject;
        };
        let Some(credential) = PublicCredential::parse(algorithm, blob) else {
            return reject;
        };
        let verdict = match &credential {
            PublicCredential::Key(key) => policy.publickey(user, key, algorithm.name),
            PublicCredential::Certificate(certificate) => {
                if check_user_certificate(certificate, now).is_err() {
                    return reject;
                }
                policy.certificate(user, certificate, algorithm.name)
            }
        };
        if verdict == Verdict::Reject {
            return reject;
        }
        let Some(signature) = signature else {
            return welcome;
        };
        let data = signed_data(
            &self.session_id,
            user,
            CONNECTION_SERVICE,
            algorithm.name,
            blob,
        );
        if credential.verify(algorithm, blob, &data, signature) {
            Ok(Answer::Verdict(verdict))
        } else {
            reject
        }
    }

    fn accept(&mut self, user: String) {
        self.output.push_back(vec![msg::USERAUTH_SUCCESS]);
        self.state = State::Authenticated { user };
    }

    /// RFC 4252 §5.4: at any time before success.
    fn queue_banner(&mut self, text: &str) {
        let mut banner = Vec::with_capacity(16 + text.len());
        banner
            .put_byte(msg::USERAUTH_BANNER)
            .put_string(text)
            .put_string("");
        self.output.push_back(banner);
    }

    fn refuse(&mut self, method: &[u8], policy: &mut dyn Policy) -> Result<(), Error> {
        // A first `none` is the usual question for the methods, not a try.
        let is_question = method == b"none" && self.requests == 1;
        if !is_question {
            self.failures += 1;
        }
        if self.failures >= MAX_FAILURES {
            return Err(Error::TooManyFailures);
        }
        self.queue_failure(policy, false);
        Ok(())
    }

    fn queue_failure(&mut self, policy: &dyn Policy, partial_success: bool) {
        let mut failure = Vec::new();
        failure
            .put_byte(msg::USERAUTH_FAILURE)
            .put_string(policy.methods().join(","))
            .put_bool(partial_success);
        self.output.push_back(failure);
    }
}

/// RFC 4252 §8. The password itself is passed over.
fn password(user: &str, mut reader: Reader<'_>, policy: &mut dyn Policy) -> Result<Verdict, Error> {
    let is_change = reader.bool()?;
    let _password = reader.string()?;
    if is_change {
        let _new_password = reader.string()?;
    }
    end(reader)?;
    Ok(if is_change {
        Verdict::Reject
    } else {
        policy.password(user)
    })
}

fn user_name(bytes: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(bytes).ok()?;
    (name.len() <= MAX_USER_BYTES).then_some(name)
}

fn unknown_service(name: &[u8]) -> Error {
    Error::UnknownService(printable(name, 64))
}

/// Refuses what follows the last field.
fn end(reader: Reader<'_>) -> Result<(), Error> {
    if reader.is_empty() {
        Ok(())
    } else {
        Err(Error::Malformed)
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
