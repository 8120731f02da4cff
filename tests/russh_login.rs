//! Logins that OpenSSH without PAM cannot show, against another implementation: russh.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::client::KeyboardInteractiveAuthResponse;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::server::{Auth, Response, VerifiedPublicKey};
use russh::{MethodKind, MethodSet};
use ssmshim::server::access::{Keys, Owner};
use ssmshim::server::authorized_keys::AuthorizedKeys;
use ssmshim::ssh::auth::client::Outcome;
use ssmshim::ssh::host_key::HostKey;
use ssmshim::ssh::person::{Answer, Answers, Inquiry, Person, Unanswered};
use ssmshim::ssh::{ClientConfig, Connection, Credential, Error, PinnedKey, ServerConfig};
use tokio::io::duplex;
use zeroize::Zeroizing;

const HOST_KEY: &str = include_str!("../keys/host_cert");
const KEYS: [&str; 3] = [
    include_str!("../keys/ed25519"),
    include_str!("../keys/rsa2048"),
    include_str!("../keys/ecdsa_p384"),
];
const PUBLIC_KEYS: [&str; 3] = [
    include_str!("../keys/ed25519.pub"),
    include_str!("../keys/rsa2048.pub"),
    include_str!("../keys/ecdsa_p384.pub"),
];

/// A russh server that wants a password, or a key and then two answers.
struct Login;

impl russh::server::Handler for Login {
    type Error = russh::Error;

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, Self::Error> {
        Ok(if password == "secret" {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(Auth::Reject {
            proceed_with_methods: Some(MethodSet::from(&[MethodKind::KeyboardInteractive][..])),
            partial_success: true,
        })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(answers) = response else {
            return Ok(Auth::Partial {
                name: Cow::Borrowed("two factors"),
                instructions: Cow::Borrowed("answer"),
                prompts: Cow::Borrowed(&[
                    (Cow::Borrowed("Colour: "), true),
                    (Cow::Borrowed("Code: "), false),
                ]),
            });
        };
        let answers: Vec<_> = answers.map(|answer| answer.to_vec()).collect();
        Ok(if answers == [b"blue".to_vec(), b"42".to_vec()] {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }
}

/// Answers by the question; knows no password.
struct Somebody {
    code: &'static str,
}

impl Answer for Somebody {
    fn answer<'a>(&'a self, inquiry: &'a Inquiry<'a>) -> Answers<'a> {
        let answers = inquiry.questions.prompts.iter().map(|prompt| {
            let answer = match (prompt.text.as_str(), prompt.echo) {
                ("Colour: ", true) => "blue",
                ("Code: ", false) => self.code,
                _ => return Err(Unanswered::GaveUp),
            };
            Ok(Zeroizing::new(answer.to_owned()))
        });
        let answers = answers.collect();
        Box::pin(async move { answers })
    }
}

async fn log_in(credentials: Vec<Credential>) -> Result<(), Error> {
    let config = russh::server::Config {
        keys: vec![PrivateKey::from_openssh(HOST_KEY).unwrap()],
        auth_rejection_time: Duration::ZERO,
        ..Default::default()
    };
    let host_key = HostKey::from_openssh(HOST_KEY).unwrap();
    let verifier = Arc::new(PinnedKey::new(host_key.public_blob()));
    let mut client = ClientConfig::new("alice", verifier);
    client.credentials = credentials;
    let (near, far) = duplex(64 * 1024);
    let server = async {
        // Runs in a task of its own, which ends with the stream.
        let session = russh::server::run_stream(Arc::new(config), far, Login).await;
        session.map(|session| session.handle()).unwrap()
    };
    let (connection, _handle) = tokio::join!(Connection::connect(near, client), server);
    connection.map(drop)
}

fn password(password: &str) -> Credential {
    Credential::Password(Arc::new(Zeroizing::new(password.to_owned())))
}

fn person(code: &'static str) -> Credential {
    Credential::Person(Arc::new(Person::new(Arc::new(Somebody { code }))))
}

fn key(text: &str) -> Credential {
    Credential::Key {
        key: Arc::new(PrivateKey::from_openssh(text).unwrap()),
        certificate: None,
        label: "a key".to_owned(),
    }
}

#[tokio::test]
async fn passwords_and_answers_log_in() {
    log_in(vec![password("secret")]).await.unwrap();
    log_in(vec![password("wrong"), person("42")]).await.unwrap();
}

#[tokio::test]
async fn a_key_and_then_answers_log_in() {
    for text in KEYS {
        log_in(vec![key(text), person("42")]).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let error = log_in(vec![key(KEYS[0]), person("43")]).await.unwrap_err();
    let Error::AuthenticationFailed(failed) = error else {
        panic!("{error}");
    };
    let outcomes: Vec<_> = failed.tried.iter().map(|tried| tried.outcome).collect();
    let refused = Outcome::Refused;
    // The person was asked three times.
    assert_eq!(
        outcomes,
        [refused, Outcome::NotEnough, refused, refused, refused]
    );
}

/// A russh client that trusts everybody.
struct Trusting;

impl russh::client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _key: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

#[tokio::test]
async fn keys_of_russh_are_accepted() {
    let host_key = Arc::new(HostKey::from_openssh(HOST_KEY).unwrap());
    let config = ServerConfig::new(host_key);
    for (index, text) in KEYS.iter().enumerate() {
        let (near, far) = duplex(64 * 1024);
        let mut policy = Keys {
            authorized: Arc::new(AuthorizedKeys::parse(PUBLIC_KEYS[index])),
        };
        let client = async {
            let config = Arc::new(russh::client::Config::default());
            let mut client = russh::client::connect_stream(config, near, Trusting)
                .await
                .unwrap();
            let key = Arc::new(PrivateKey::from_openssh(text).unwrap());
            let key = PrivateKeyWithHashAlg::new(key, Some(HashAlg::Sha256));
            let result = client.authenticate_publickey("alice", key).await.unwrap();
            assert!(result.success(), "{result:?}");
        };
        let (server, ()) = tokio::join!(Connection::accept(far, &config, &mut policy), client);
        assert_eq!(server.unwrap().user(), "alice");
    }
}

/// Clients that never ask to be let in without proof.
#[tokio::test]
async fn the_owner_gets_in_with_any_password() {
    let host_key = Arc::new(HostKey::from_openssh(HOST_KEY).unwrap());
    let config = ServerConfig::new(host_key);
    for (peer, is_interactive) in [(1000, false), (1000, true), (1001, false), (1001, true)] {
        let (near, far) = duplex(64 * 1024);
        let mut policy = Owner {
            owner: 1000,
            peer: Some(peer),
        };
        let client = async {
            let config = Arc::new(russh::client::Config::default());
            let mut client = russh::client::connect_stream(config, near, Trusting)
                .await
                .unwrap();
            if is_interactive {
                let answer = client.authenticate_keyboard_interactive_start("alice", None);
                matches!(
                    answer.await.unwrap(),
                    KeyboardInteractiveAuthResponse::Success
                )
            } else {
                let answer = client.authenticate_password("alice", "secret").await;
                answer.unwrap().success()
            }
        };
        let (server, is_in) = tokio::join!(Connection::accept(far, &config, &mut policy), client);
        assert_eq!(is_in, peer == 1000);
        assert_eq!(server.is_ok(), is_in);
    }
}
