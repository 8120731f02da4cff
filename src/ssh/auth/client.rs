//! User authentication as the client: offers are made in order until the server is content.
//!
//! A server ends a connection after some refusals, six in OpenSSH (`MaxAuthTries`; the `none` at the beginning does not
//! count, a key that was only asked about does). The next connection then begins where this one ended: see
//! [`Client::go_on`].

use std::collections::VecDeque;
use std::fmt;

use thiserror::Error;

use super::{
    ALGORITHMS, Algorithm, CONNECTION_SERVICE, USERAUTH_SERVICE, printable, put_publickey_request,
    signed_data,
};
use crate::ssh::wire::{Reader, Truncated, WriteExt as _, msg};

pub use super::failure::{Attempt, AuthenticationFailed, Outcome, Unanswered};

/// Times a person is asked again after a wrong answer, as OpenSSH's `NumberOfPasswordPrompts`.
const MAX_INTERACTIVE_TRIES: u32 = 3;
/// Rounds of questions within one keyboard-interactive request.
const MAX_ROUNDS: u32 = 32;
/// Questions in one round.
const MAX_PROMPTS: usize = 32;
/// Text of the server kept, in bytes: of one banner or question, and of all banners together.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Something to authenticate with. Secrets stay with the driver, which is asked when one is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// A public key or OpenSSH certificate.
    PublicKey {
        /// Its public part as it goes over the wire.
        blob: Vec<u8>,
        /// What to call it when it was refused.
        label: String,
        /// Whether to ask the server first if the key would do. Costs a round trip and saves a
        /// signature that somebody must confirm, or that goes to the wrong server's log.
        query: bool,
    },
    /// A password.
    Password {
        /// Whether there may be another one after a wrong one.
        retry: bool,
    },
    /// Somebody or something that answers questions (RFC 4256).
    KeyboardInteractive,
    /// What would be offered, were it not for `outcome`. It is part of the report on a failure.
    Unavailable {
        /// The method name (RFC 4252).
        method: &'static str,
        /// What to call it.
        label: Option<String>,
        /// Why it is not offered.
        outcome: Outcome,
    },
}

impl Offer {
    /// The method name (RFC 4252).
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::PublicKey { .. } => "publickey",
            Self::Password { .. } => "password",
            Self::KeyboardInteractive => "keyboard-interactive",
            Self::Unavailable { method, .. } => method,
        }
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method())?;
        match self {
            Self::PublicKey { label, .. } => write!(f, " {label}"),
            _ => Ok(()),
        }
    }
}

/// What the driver must do or know. `offer` is the index of the [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Text for the user, free of control characters.
    Banner(String),
    /// `data` is to be signed: answer with [`Client::signed`].
    Sign {
        /// Which key signs.
        offer: usize,
        /// The signature algorithm, such as `rsa-sha2-512`.
        algorithm: &'static str,
        /// What to sign.
        data: Vec<u8>,
    },
    /// The password is due: answer with [`Client::password`].
    Password {
        /// Which password.
        offer: usize,
    },
    /// The server has questions: answer with [`Client::answered`].
    Questions {
        /// Which offer answers.
        offer: usize,
        /// The questions.
        questions: Questions,
    },
    /// The server refused a password or answers; others may be asked for.
    Refused {
        /// Which offer.
        offer: usize,
    },
    /// The server is content; the connection protocol begins.
    Authenticated,
    /// Nothing is left to offer.
    Failed(AuthenticationFailed),
}

/// One round of keyboard-interactive questions (RFC 4256 §3.2), free of control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// A headline, often empty.
    pub name: String,
    /// What to tell the user first, often empty.
    pub instruction: String,
    /// The questions, of which there may be none.
    pub prompts: Vec<Prompt>,
}

/// One keyboard-interactive question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The question.
    pub text: String,
    /// Whether the answer may be seen while it is typed.
    pub echo: bool,
}

/// The server broke the protocol; the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A message does not have the fields of its number.
    #[error("malformed authentication message")]
    Malformed,
    /// A message that has no place here.
    #[error("unexpected message {0} during authentication")]
    Unexpected(u8),
    /// The server answered about another key than was asked about.
    #[error("the server accepted a key that was not offered")]
    WrongKey,
    /// The server accepted another service than was asked for.
    #[error("the server accepted a service that was not asked for")]
    WrongService,
    /// The server asks without end.
    #[error("the server asks too many questions")]
    TooManyQuestions,
}

impl From<Truncated> for Error {
    fn from(_: Truncated) -> Self {
        Self::Malformed
    }
}

/// The client's side of user authentication.
#[derive(Debug)]
pub struct Client {
    session_id: Vec<u8>,
    user: String,
    server_sig_algs: Option<Vec<String>>,
    offers: Vec<Offer>,
    /// Whether each offer has been made.
    made: Vec<bool>,
    /// What came of each offer the last time.
    outcomes: Vec<Option<Outcome>>,
    /// Whether anything was refused over this connection.
    is_refused: bool,
    state: State,
    methods_left: Vec<String>,
    tried: Vec<Attempt>,
    /// What the server was content with, once it is.
    accepted_by: Option<String>,
    /// Bytes of banners that may still come.
    banner_budget: usize,
    output: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// SSH_MSG_SERVICE_ACCEPT is due.
    Service,
    /// The answer to `none` is due.
    None,
    /// An offer is being made.
    Offering { offer: usize, step: Step },
    /// Authenticated or failed.
    Done,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The server is to say whether the key would do.
    Query(Algorithm),
    /// The driver is to sign.
    Sign(Algorithm),
    /// The driver is to give the password.
    Password,
    /// The driver is to answer `count` questions; `round` counts from one.
    Questions { count: usize, round: u32 },
    /// The server is to decide, or to ask in round `round + 1`.
    Verdict { round: u32 },
}

impl Client {
    /// Starts for the connection `session_id`, logging in as `user` with `offers` in this order.
    pub fn new(session_id: &[u8], user: &str, offers: Vec<Offer>) -> Self {
        Self {
            session_id: session_id.to_vec(),
            user: user.to_owned(),
            server_sig_algs: None,
            made: vec![false; offers.len()],
            outcomes: vec![None; offers.len()],
            is_refused: false,
            offers,
            state: State::Service,
            methods_left: Vec::new(),
            tried: Vec::new(),
            accepted_by: None,
            banner_budget: MAX_TEXT_BYTES,
            output: VecDeque::from([service_request()]),
            events: VecDeque::new(),
        }
    }

    /// The server has ended the connection, saying in `words` that there were too many tries, of which the last one
    /// was refused too.
    pub fn ran_out(&mut self, words: String) -> AuthenticationFailed {
        if let State::Offering {
            offer,
            step: Step::Query(_) | Step::Verdict { .. },
        } = self.state
        {
            self.note(offer, Outcome::Refused);
        }
        self.state = State::Done;
        self.failure(Some(words))
    }

    /// Whether another connection would bring more: over this one something was refused, and there is more to offer
    /// that the server may take.
    pub fn may_go_on(&self) -> bool {
        let is_left = |(offer, made): (&Offer, &bool)| {
            !made && !matches!(offer, Offer::Unavailable { .. }) && self.takes(offer)
        };
        let mut offers = self.offers.iter().zip(&self.made);
        self.is_refused && offers.any(is_left)
    }

    /// Goes on over another connection, `session_id`, with what was not refused yet.
    ///
    /// What was accepted and was not enough is offered again, for the server does not know any more, and so is what
    /// it did not decide on.
    pub fn go_on(&mut self, session_id: &[u8]) {
        session_id.clone_into(&mut self.session_id);
        for (made, outcome) in self.made.iter_mut().zip(&mut self.outcomes) {
            *made &= !matches!(outcome, None | Some(Outcome::NotEnough));
            if !*made {
                *outcome = None;
            }
        }
        self.server_sig_algs = None;
        self.is_refused = false;
        self.state = State::Service;
        self.methods_left.clear();
        self.output = VecDeque::from([service_request()]);
    }

    /// What the server has accepted, if it is content by now: one offer, or several where one is not enough.
    pub fn accepted(&self) -> impl Iterator<Item = usize> {
        self.decided(|outcome| matches!(outcome, Outcome::Accepted | Outcome::NotEnough))
    }

    /// What the server has refused, over all connections.
    pub fn refused(&self) -> impl Iterator<Item = usize> {
        self.decided(|outcome| outcome == Outcome::Refused)
    }

    fn decided(&self, is_meant: impl Fn(Outcome) -> bool) -> impl Iterator<Item = usize> {
        let outcomes = self.outcomes.iter().enumerate();
        outcomes
            .filter_map(move |(offer, outcome)| outcome.filter(|it| is_meant(*it)).map(|_| offer))
    }

    /// The next payload to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    /// What happened, or what the driver must answer before anything else happens.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What has been tried until now, for when the server hangs up.
    pub fn failure(&self, farewell: Option<String>) -> AuthenticationFailed {
        AuthenticationFailed {
            user: self.user.clone(),
            others: Vec::new(),
            tried: self.tried.clone(),
            methods_left: self.methods_left.clone(),
            farewell,
        }
    }

    /// The method, and which key, that the server was content with, once it is.
    pub fn accepted_by(&self) -> Option<&str> {
        self.accepted_by.as_deref()
    }

    /// Learns which signature algorithms the server verifies (RFC 8308 §3.1).
    pub fn set_server_sig_algs(&mut self, names: &[String]) {
        self.server_sig_algs = Some(names.to_vec());
    }

    /// Takes the payload of one message.
    ///
    /// # Errors
    /// Any [`enum@Error`] ends the connection.
    pub fn handle_input(&mut self, message: &[u8]) -> Result<(), Error> {
        let mut reader = Reader::new(message);
        let number = reader.u8()?;
        match (number, self.state) {
            (msg::USERAUTH_BANNER, State::None | State::Offering { .. }) => self.banner(reader),
            (msg::SERVICE_ACCEPT, State::Service) => self.service_accepted(reader),
            (
                msg::USERAUTH_SUCCESS,
                State::None
                | State::Offering {
                    step: Step::Verdict { .. },
                    ..
                },
            ) => {
                self.accepted_by = Some(match self.state {
                    State::Offering { offer, .. } => {
                        self.outcomes[offer] = Some(Outcome::Accepted);
                        self.offers[offer].to_string()
                    }
                    _ => "none".to_owned(),
                });
                self.state = State::Done;
                self.events.push_back(Event::Authenticated);
                Ok(())
            }
            (
                msg::USERAUTH_FAILURE,
                State::None
                | State::Offering {
                    step: Step::Query(_) | Step::Verdict { .. },
                    ..
                },
            ) => self.answered_no(reader),
            // 60 means something else in each method.
            (60, State::Offering { offer, step }) => match (&self.offers[offer], step) {
                (Offer::PublicKey { .. }, Step::Query(algorithm)) => {
                    self.key_is_welcome(reader, offer, algorithm)
                }
                (Offer::KeyboardInteractive, Step::Verdict { round }) => {
                    self.asked(reader, offer, round)
                }
                (Offer::Password { .. }, Step::Verdict { .. }) => {
                    self.note(offer, Outcome::PasswordExpired);
                    self.offer_next();
                    Ok(())
                }
                _ => Err(Error::Unexpected(number)),
            },
            _ => Err(Error::Unexpected(number)),
        }
    }

    /// Answers an event that asks for something: it is not to be had because of `outcome`.
    pub fn decline(&mut self, outcome: Outcome) {
        if let State::Offering {
            offer,
            step: Step::Sign(_) | Step::Password | Step::Questions { .. },
        } = self.state
        {
            self.note(offer, outcome);
            self.offer_next();
        }
    }

    /// Answers [`Event::Sign`] with a signature blob (algorithm name and signature); `None` passes
    /// on to the next offer.
    pub fn signed(&mut self, signature: Option<&[u8]>) {
        let State::Offering {
            offer,
            step: Step::Sign(algorithm),
        } = self.state
        else {
            return;
        };
        let (Some(signature), Offer::PublicKey { blob, .. }) = (signature, &self.offers[offer])
        else {
            return self.decline(Outcome::Declined);
        };
        let mut request = Vec::new();
        put_publickey_request(
            &mut request,
            &self.user,
            CONNECTION_SERVICE,
            algorithm.name,
            blob,
            true,
        );
        request.put_string(signature);
        self.submit(offer, request, 0);
    }

    /// Answers [`Event::Password`]; `None` passes on to the next offer.
    pub fn password(&mut self, password: Option<&str>) {
        let State::Offering {
            offer,
            step: Step::Password,
        } = self.state
        else {
            return;
        };
        let Some(password) = password else {
            return self.decline(Outcome::Declined);
        };
        let mut request = self.request("password");
        // At once: a buffer that grows leaves its old bytes behind.
        request.reserve_exact(1 + 4 + password.len());
        request.put_bool(false).put_string(password);
        // What somebody has typed counts as an answer, which may be another one next time.
        let is_typed = matches!(self.offers[offer], Offer::Password { retry: true });
        self.submit(offer, request, u32::from(is_typed));
    }

    /// Answers [`Event::Questions`], one answer each; `None` passes on to the next offer.
    pub fn answered<S: AsRef<str>>(&mut self, answers: Option<&[S]>) {
        let State::Offering {
            offer,
            step: Step::Questions { count, round },
        } = self.state
        else {
            return;
        };
        let Some(answers) = answers.filter(|answers| answers.len() == count) else {
            return self.decline(Outcome::Declined);
        };
        let length: usize = answers.iter().map(|answer| 4 + answer.as_ref().len()).sum();
        let mut response = Vec::with_capacity(1 + 4 + length);
        response
            .put_byte(msg::USERAUTH_INFO_RESPONSE)
            .put_uint32(answers.len() as u32);
        for answer in answers {
            response.put_string(answer.as_ref());
        }
        self.submit(offer, response, round);
    }

    fn banner(&mut self, mut reader: Reader<'_>) -> Result<(), Error> {
        let text = reader.string()?;
        let text = printable(text, self.banner_budget);
        self.banner_budget = self.banner_budget.saturating_sub(text.len());
        if !text.is_empty() {
            self.events.push_back(Event::Banner(text));
        }
        Ok(())
    }

    fn service_accepted(&mut self, mut reader: Reader<'_>) -> Result<(), Error> {
        // Some servers leave the name out, as OpenSSH's client knows too.
        if !reader.is_empty() && reader.string()? != USERAUTH_SERVICE.as_bytes() {
            return Err(Error::WrongService);
        }
        let request = self.request("none");
        self.output.push_back(request);
        self.state = State::None;
        Ok(())
    }

    fn answered_no(&mut self, mut reader: Reader<'_>) -> Result<(), Error> {
        let methods = reader.string()?;
        let partial_success = reader.bool()?;
        self.methods_left = printable(methods, MAX_TEXT_BYTES)
            .split(',')
            .filter(|method| !method.is_empty())
            .map(str::to_owned)
            .collect();
        let outcome = if partial_success {
            Outcome::NotEnough
        } else {
            Outcome::Refused
        };
        match self.state {
            State::Offering { offer, .. } => self.note(offer, outcome),
            // Once, over however many connections.
            _ if self.tried.is_empty() => self.tried.push(Attempt {
                method: "none",
                label: None,
                outcome,
            }),
            _ => {}
        }
        self.offer_next();
        Ok(())
    }

    fn key_is_welcome(
        &mut self,
        mut reader: Reader<'_>,
        offer: usize,
        algorithm: Algorithm,
    ) -> Result<(), Error> {
        // The algorithm name is not compared: servers differ in what they repeat for RSA.
        let _algorithm = reader.string()?;
        let welcome = reader.string()?;
        match &self.offers[offer] {
            Offer::PublicKey { blob, .. } if blob == welcome => {
                self.ask_to_sign(offer, algorithm);
                Ok(())
            }
            _ => Err(Error::WrongKey),
        }
    }

    fn asked(&mut self, reader: Reader<'_>, offer: usize, round: u32) -> Result<(), Error> {
        let questions = parse_questions(reader)?;
        let round = round + 1;
        if round > MAX_ROUNDS {
            return Err(Error::TooManyQuestions);
        }
        let count = questions.prompts.len();
        self.step(offer, Step::Questions { count, round });
        self.events.push_back(Event::Questions { offer, questions });
        Ok(())
    }

    /// Begins with the first offer not made yet whose method the server would take.
    fn offer_next(&mut self) {
        loop {
            let next = self
                .offers
                .iter()
                .zip(&self.made)
                .position(|(offer, made)| !made && self.takes(offer));
            let Some(offer) = next else {
                self.state = State::Done;
                self.events.push_back(Event::Failed(self.failure(None)));
                return;
            };
            self.made[offer] = true;
            match &self.offers[offer] {
                Offer::PublicKey { blob, query, .. } => {
                    let Some(algorithm) = algorithm_for(blob, self.server_sig_algs.as_deref())
                    else {
                        self.note(offer, Outcome::NoCommonAlgorithm);
                        continue;
                    };
                    if !query {
                        return self.ask_to_sign(offer, algorithm);
                    }
                    let mut request = Vec::new();
                    put_publickey_request(
                        &mut request,
                        &self.user,
                        CONNECTION_SERVICE,
                        algorithm.name,
                        blob,
                        false,
                    );
                    self.output.push_back(request);
                    self.step(offer, Step::Query(algorithm));
                }
                Offer::Unavailable { outcome, .. } => {
                    let outcome = *outcome;
                    self.note(offer, outcome);
                    continue;
                }
                Offer::Password { .. } => {
                    self.step(offer, Step::Password);
                    self.events.push_back(Event::Password { offer });
                }
                Offer::KeyboardInteractive => {
                    let mut request = self.request("keyboard-interactive");
                    // No language, no submethods: the server chooses (RFC 4256 §3.1).
                    request.put_string("").put_string("");
                    self.submit(offer, request, 0);
                }
            }
            return;
        }
    }

    /// Whether the server has named the method of `offer` among those that it takes.
    fn takes(&self, offer: &Offer) -> bool {
        self.methods_left.iter().any(|left| left == offer.method())
    }

    fn ask_to_sign(&mut self, offer: usize, algorithm: Algorithm) {
        let Offer::PublicKey { blob, .. } = &self.offers[offer] else {
            return;
        };
        let data = signed_data(
            &self.session_id,
            &self.user,
            CONNECTION_SERVICE,
            algorithm.name,
            blob,
        );
        self.step(offer, Step::Sign(algorithm));
        self.events.push_back(Event::Sign {
            offer,
            algorithm: algorithm.signature,
            data,
        });
    }

    /// Records how `offer` ended. A person who answered wrongly is asked again.
    fn note(&mut self, offer: usize, outcome: Outcome) {
        let kind = &self.offers[offer];
        let was_asked = matches!(
            self.state,
            State::Offering {
                step: Step::Verdict { round: 1.. },
                ..
            }
        );
        let method = kind.method();
        let label = match kind {
            Offer::PublicKey { label, .. } => Some(label.clone()),
            Offer::Unavailable { label, .. } => label.clone(),
            Offer::Password { .. } | Offer::KeyboardInteractive => None,
        };
        self.tried.push(Attempt {
            method,
            label,
            outcome,
        });
        self.outcomes[offer] = Some(outcome);
        self.is_refused |= outcome == Outcome::Refused;
        if was_asked && outcome == Outcome::Refused {
            let tries = self.tried.iter().filter(|tried| tried.method == method);
            self.made[offer] = tries.count() >= MAX_INTERACTIVE_TRIES as usize;
            self.events.push_back(Event::Refused { offer });
        }
    }

    fn submit(&mut self, offer: usize, message: Vec<u8>, round: u32) {
        self.output.push_back(message);
        self.step(offer, Step::Verdict { round });
    }

    fn step(&mut self, offer: usize, step: Step) {
        self.state = State::Offering { offer, step };
    }

    fn request(&self, method: &str) -> Vec<u8> {
        let mut request = Vec::new();
        request
            .put_byte(msg::USERAUTH_REQUEST)
            .put_string(&self.user)
            .put_string(CONNECTION_SERVICE)
            .put_string(method);
        request
    }
}

fn service_request() -> Vec<u8> {
    let mut request = Vec::new();
    request
        .put_byte(msg::SERVICE_REQUEST)
        .put_string(USERAUTH_SERVICE);
    request
}

/// The algorithm to use the key or certificate `blob` with; none for a type of key that is not
/// known here.
///
/// Only RSA leaves a choice, and it is the server's. A key is offered even if the server lists
/// nothing for it: the list need not be complete (RFC 8308 §3.1), as OpenSSH 7.4 shows, which
/// verifies `rsa-sha2-512` without saying so. A refusal costs one try.
fn algorithm_for(blob: &[u8], server_sig_algs: Option<&[String]>) -> Option<Algorithm> {
    let key_type = Reader::new(blob).string().ok()?;
    let candidates = || {
        let is_candidate = |algorithm: &&Algorithm| algorithm.key_type.as_bytes() == key_type;
        ALGORITHMS.iter().filter(is_candidate).copied()
    };
    let is_listed = |algorithm: &Algorithm| {
        let names = server_sig_algs.unwrap_or_default();
        names.iter().any(|name| name == algorithm.signature)
    };
    candidates().find(is_listed).or_else(|| candidates().next())
}

fn parse_questions(mut reader: Reader<'_>) -> Result<Questions, Error> {
    let text = |reader: &mut Reader<'_>| -> Result<String, Error> {
        Ok(printable(reader.string()?, MAX_TEXT_BYTES))
    };
    let name = text(&mut reader)?;
    let instruction = text(&mut reader)?;
    let _language = reader.string()?;
    let count = reader.u32()? as usize;
    if count > MAX_PROMPTS {
        return Err(Error::TooManyQuestions);
    }
    let mut prompts = Vec::with_capacity(count);
    for _ in 0..count {
        prompts.push(Prompt {
            text: text(&mut reader)?,
            echo: reader.bool()?,
        });
    }
    Ok(Questions {
        name,
        instruction,
        prompts,
    })
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
