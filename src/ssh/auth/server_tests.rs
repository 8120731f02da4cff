use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use russh::keys::PrivateKey;

use super::*;
use crate::ssh::credential::sign;

const SESSION: &[u8] = b"the session";
const KEYS: [(&str, &str, &str); 6] = [
    (
        "ssh-ed25519",
        include_str!("../../../keys/ed25519"),
        include_str!("../../../keys/ed25519.pub"),
    ),
    (
        "rsa-sha2-256",
        include_str!("../../../keys/rsa2048"),
        include_str!("../../../keys/rsa2048.pub"),
    ),
    (
        "rsa-sha2-512",
        include_str!("../../../keys/rsa2048"),
        include_str!("../../../keys/rsa2048.pub"),
    ),
    (
        "ecdsa-sha2-nistp256",
        include_str!("../../../keys/ecdsa_p256"),
        include_str!("../../../keys/ecdsa_p256.pub"),
    ),
    (
        "ecdsa-sha2-nistp521",
        include_str!("../../../keys/ecdsa_p521"),
        include_str!("../../../keys/ecdsa_p521.pub"),
    ),
    (
        "ssh-ed25519-cert-v01@openssh.com",
        include_str!("../../../keys/user_cert"),
        include_str!("../../../keys/user_cert-cert.pub"),
    ),
];

/// The flag of a security key's signature for "somebody touched it".
const SK_TOUCHED: u8 = 0x01;
/// Where a publickey request of `alice` says that it is signed.
const SIGNED_FLAG: usize = 1 + (4 + 5) + (4 + 14) + (4 + 9);

/// Lets `alice` in with any key, and counts what it was asked.
#[derive(Default)]
struct Door {
    none: Option<Verdict>,
    second_factor: bool,
    /// Whether passwords and answers are taken unseen.
    trusting: bool,
    asked: Vec<String>,
    restarts: usize,
    has_key: bool,
}

impl Policy for Door {
    fn methods(&self) -> &[&'static str] {
        &["publickey", "none"]
    }

    fn none(&mut self, _user: &str) -> Verdict {
        if self.second_factor && self.has_key {
            return Verdict::Accept;
        }
        self.none.unwrap_or(Verdict::Reject)
    }

    fn publickey(&mut self, user: &str, _key: &PublicKey, algorithm: &str) -> Verdict {
        self.asked.push(algorithm.to_owned());
        if user != "alice" {
            return Verdict::Reject;
        }
        if self.second_factor {
            self.has_key = true;
            return Verdict::Continue;
        }
        Verdict::Accept
    }

    fn certificate(&mut self, user: &str, certificate: &Certificate, algorithm: &str) -> Verdict {
        assert_eq!(certificate.valid_principals(), ["tester", "root"]);
        self.publickey(
            user,
            &PublicKey::from(certificate.public_key().clone()),
            algorithm,
        )
    }

    fn password(&mut self, user: &str) -> Verdict {
        self.keyboard_interactive(user)
    }

    fn keyboard_interactive(&mut self, _user: &str) -> Verdict {
        if self.trusting {
            Verdict::Accept
        } else {
            Verdict::Reject
        }
    }

    fn banner(&mut self, user: &str) -> Option<String> {
        (user == "mallory").then(|| "no such user\r\n".to_owned())
    }

    fn restart(&mut self) {
        self.restarts += 1;
        self.has_key = false;
    }
}

fn service(name: &str) -> Vec<u8> {
    let mut message = vec![msg::SERVICE_REQUEST];
    message.put_string(name);
    message
}

fn request(user: &[u8], service: &str, method: &str) -> Vec<u8> {
    let mut message = vec![msg::USERAUTH_REQUEST];
    message
        .put_string(user)
        .put_string(service)
        .put_string(method);
    message
}

fn none(user: &str) -> Vec<u8> {
    request(user.as_bytes(), CONNECTION_SERVICE, "none")
}

fn password(user: &str, is_change: bool) -> Vec<u8> {
    let mut message = request(user.as_bytes(), CONNECTION_SERVICE, "password");
    message.put_bool(is_change).put_string("secret");
    if is_change {
        message.put_string("new secret");
    }
    message
}

fn keyboard_interactive(user: &str) -> Vec<u8> {
    let mut message = request(user.as_bytes(), CONNECTION_SERVICE, "keyboard-interactive");
    message.put_string("en").put_string("pam");
    message
}

fn blob(public: &str) -> Vec<u8> {
    STANDARD
        .decode(public.split_whitespace().nth(1).unwrap())
        .unwrap()
}

fn query(user: &str, algorithm: &str, blob: &[u8]) -> Vec<u8> {
    let mut message = request(user.as_bytes(), CONNECTION_SERVICE, "publickey");
    message
        .put_bool(false)
        .put_string(algorithm)
        .put_string(blob);
    message
}

/// A signed request, the signature being over what `user`, `session` and `blob` say.
fn signed(session: &[u8], user: &str, algorithm: &str, private: &str, blob: &[u8]) -> Vec<u8> {
    let key = PrivateKey::from_openssh(private).unwrap();
    let data = signed_data(session, user, CONNECTION_SERVICE, algorithm, blob);
    let scheme = Algorithm::from_name(algorithm.as_bytes())
        .unwrap()
        .signature;
    let signature = sign(&key, scheme, &data).unwrap();
    with_signature(user, algorithm, blob, &signature)
}

fn with_signature(user: &str, algorithm: &str, blob: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut message = request(user.as_bytes(), CONNECTION_SERVICE, "publickey");
    message
        .put_bool(true)
        .put_string(algorithm)
        .put_string(blob)
        .put_string(signature);
    message
}

/// A server past the service request.
fn server() -> Server {
    let mut server = Server::new(SESSION);
    feed(
        &mut server,
        &service(USERAUTH_SERVICE),
        &mut Door::default(),
    )
    .unwrap();
    assert_eq!(take(&mut server), [msg::SERVICE_ACCEPT]);
    server
}

fn feed(server: &mut Server, message: &[u8], policy: &mut Door) -> Result<(), Error> {
    server.handle_input(SystemTime::now(), message, policy)
}

/// The numbers of the messages sent.
fn take(server: &mut Server) -> Vec<u8> {
    std::iter::from_fn(|| server.poll_transmit())
        .map(|message| message[0])
        .collect()
}

#[test]
fn none_is_for_the_policy_to_decide() {
    let mut policy = Door {
        none: Some(Verdict::Accept),
        ..Door::default()
    };
    let mut server = server();
    feed(&mut server, &none("anybody"), &mut policy).unwrap();
    assert_eq!(take(&mut server), [msg::USERAUTH_SUCCESS]);
    assert_eq!(server.user(), Some("anybody"));
    // RFC 4252 §5.1: whatever is asked afterwards is ignored.
    feed(&mut server, &none("root"), &mut policy).unwrap();
    assert!(take(&mut server).is_empty());
    assert_eq!(server.user(), Some("anybody"));
}

/// A server that holds its answer to `anybody`, whom the policy has accepted.
fn holding() -> Server {
    let mut policy = Door {
        none: Some(Verdict::Accept),
        ..Door::default()
    };
    let mut server = server().holding();
    feed(&mut server, &none("anybody"), &mut policy).unwrap();
    assert!(take(&mut server).is_empty());
    assert_eq!((server.held(), server.user()), (Some("anybody"), None));
    server
}

#[test]
fn an_answer_is_held_until_it_is_known() {
    for banner in [None, Some("welcome\r\n")] {
        let mut server = holding();
        server.admit(banner);
        let mut expected = vec![msg::USERAUTH_SUCCESS];
        if banner.is_some() {
            expected.insert(0, msg::USERAUTH_BANNER);
        }
        assert_eq!(take(&mut server), expected);
        assert_eq!((server.held(), server.user()), (None, Some("anybody")));
        // Nobody is held any more.
        server.admit(Some("again"));
        assert!(take(&mut server).is_empty());
    }
    let mut server = holding();
    let error = server.turn_away("no such machine\r\n", "not there");
    assert_eq!(take(&mut server), [msg::USERAUTH_BANNER]);
    assert_eq!(server.user(), None);
    assert_eq!(error, Error::TurnedAway("not there".into()));
    assert_eq!(
        error.disconnect_reason(),
        reason::NO_MORE_AUTH_METHODS_AVAILABLE
    );
}

#[test]
fn nothing_is_handed_in_while_an_answer_is_held() {
    for message in [none("root"), service(USERAUTH_SERVICE)] {
        let error = feed(&mut holding(), &message, &mut Door::default()).unwrap_err();
        assert_eq!(error, Error::Unexpected(message[0]));
    }
}

#[test]
fn only_who_is_accepted_is_held() {
    let mut server = server().holding();
    feed(&mut server, &none("alice"), &mut Door::default()).unwrap();
    assert_eq!(take(&mut server), [msg::USERAUTH_FAILURE]);
    assert_eq!(server.held(), None);
    server.admit(None);
    assert!(take(&mut server).is_empty());
    // A key that would do proves nothing yet.
    let key = blob(include_str!("../../../keys/ed25519.pub"));
    let message = query("alice", "ssh-ed25519", &key);
    feed(&mut server, &message, &mut Door::default()).unwrap();
    assert_eq!(take(&mut server), [msg::USERAUTH_PK_OK]);
    assert_eq!((server.held(), server.user()), (None, None));
}

#[test]
fn passwords_and_answers_are_not_looked_at() {
    for trusting in [true, false] {
        for message in [password("alice", false), keyboard_interactive("alice")] {
            let mut policy = Door {
                trusting,
                ..Door::default()
            };
            let mut server = server();
            feed(&mut server, &message, &mut policy).unwrap();
            let expected = if trusting {
                msg::USERAUTH_SUCCESS
            } else {
                msg::USERAUTH_FAILURE
            };
            assert_eq!(take(&mut server), [expected]);
            assert_eq!(server.user(), trusting.then_some("alice"));
        }
    }
    // There is none to be changed.
    let mut policy = Door {
        trusting: true,
        ..Door::default()
    };
    let mut server = server();
    feed(&mut server, &password("alice", true), &mut policy).unwrap();
    assert_eq!(take(&mut server), [msg::USERAUTH_FAILURE]);
}

#[test]
fn a_refusal_names_the_methods() {
    let mut server = server();
    feed(&mut server, &none("alice"), &mut Door::default()).unwrap();
    let mut expected = vec![msg::USERAUTH_FAILURE];
    expected.put_string("publickey,none").put_bool(false);
    assert_eq!(server.poll_transmit(), Some(expected));
    assert_eq!(server.user(), None);
}

#[test]
fn keys_of_each_kind_are_queried_and_then_signed_with() {
    for (algorithm, private, public) in KEYS {
        let blob = blob(public);
        let mut policy = Door::default();
        let mut server = server();
        feed(&mut server, &query("alice", algorithm, &blob), &mut policy).unwrap();
        let mut welcome = vec![msg::USERAUTH_PK_OK];
        welcome.put_string(algorithm).put_string(&blob);
        assert_eq!(server.poll_transmit(), Some(welcome), "{algorithm}");

        let message = signed(SESSION, "alice", algorithm, private, &blob);
        feed(&mut server, &message, &mut policy).unwrap();
        assert_eq!(take(&mut server), [msg::USERAUTH_SUCCESS], "{algorithm}");
        assert_eq!(policy.asked, [algorithm, algorithm]);
    }
}

#[test]
fn what_is_not_signed_right_is_refused() {
    let (algorithm, private, public) = KEYS[0];
    let blob_of_key = blob(public);
    let rsa = blob(KEYS[1].2);
    let good = signed(SESSION, "alice", algorithm, private, &blob_of_key);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    // The signature of RSA with SHA-256 under the name of SHA-512.
    let data = signed_data(SESSION, "alice", CONNECTION_SERVICE, "rsa-sha2-512", &rsa);
    let key = PrivateKey::from_openssh(KEYS[1].1).unwrap();
    let downgraded = sign(&key, "rsa-sha2-256", &data).unwrap();
    let cases: [(&str, Vec<u8>); 10] = [
        (
            "another session",
            signed(b"x", "alice", algorithm, private, &blob_of_key),
        ),
        ("a flipped bit", flipped),
        (
            "no signature",
            with_signature("alice", algorithm, &blob_of_key, b""),
        ),
        (
            "another hash",
            with_signature("alice", "rsa-sha2-512", &rsa, &downgraded),
        ),
        ("another key type", query("alice", "ssh-ed25519", &rsa)),
        ("SHA-1", query("alice", "ssh-rsa", &rsa)),
        (
            "a certificate in name only",
            query("alice", KEYS[5].0, &blob_of_key),
        ),
        (
            "an unknown algorithm",
            query("alice", "ssh-mldsa", &blob_of_key),
        ),
        (
            "a broken key",
            query("alice", algorithm, &blob_of_key[..20]),
        ),
        ("another user", {
            let mut message = good.clone();
            let at = message
                .windows(5)
                .position(|bytes| bytes == b"alice")
                .unwrap();
            message[at..at + 5].copy_from_slice(b"alicf");
            message
        }),
    ];
    for (case, message) in cases {
        let mut server = server();
        feed(&mut server, &message, &mut Door::default()).unwrap();
        assert_eq!(take(&mut server), [msg::USERAUTH_FAILURE], "{case}");
        assert_eq!(server.user(), None, "{case}");
    }
    let mut server = server();
    feed(&mut server, &good, &mut Door::default()).unwrap();
    assert_eq!(take(&mut server), [msg::USERAUTH_SUCCESS]);
}

#[test]
fn security_keys_must_have_been_touched() {
    use aws_lc_rs::digest::{SHA256, digest};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    // A security key in software, after PROTOCOL.u2f.
    let algorithm = "sk-ssh-ed25519@openssh.com";
    let pair = Ed25519KeyPair::generate().unwrap();
    let mut blob = Vec::new();
    blob.put_string(algorithm)
        .put_string(pair.public_key())
        .put_string("ssh:");
    let data = signed_data(SESSION, "alice", CONNECTION_SERVICE, algorithm, &blob);
    for (flags, claimed, expected) in [
        (SK_TOUCHED, SK_TOUCHED, msg::USERAUTH_SUCCESS),
        (0, 0, msg::USERAUTH_FAILURE),
        (0, SK_TOUCHED, msg::USERAUTH_FAILURE),
    ] {
        let mut covered = digest(&SHA256, b"ssh:").as_ref().to_vec();
        covered.put_byte(flags).put_uint32(9);
        covered.put_raw(digest(&SHA256, &data).as_ref());
        let mut signature = Vec::new();
        signature
            .put_string(algorithm)
            .put_string(pair.sign(&covered))
            .put_byte(claimed)
            .put_uint32(9);
        let mut server = server();
        let message = with_signature("alice", algorithm, &blob, &signature);
        feed(&mut server, &message, &mut Door::default()).unwrap();
        assert_eq!(take(&mut server), [expected], "{flags} {claimed}");
    }
}

#[test]
fn certificates_are_judged_by_type_signature_and_date() {
    let (algorithm, _, public) = KEYS[5];
    let certificate = blob(public);
    let host = blob(include_str!("../../../keys/host_cert-cert.pub"));
    let mut forged = certificate.clone();
    *forged.last_mut().unwrap() ^= 1;
    // The name of a principal, which the authority has signed.
    let mut renamed = certificate.clone();
    let at = renamed
        .windows(6)
        .position(|bytes| bytes == b"tester")
        .unwrap();
    renamed[at..at + 6].copy_from_slice(b"mallor");
    for blob in [&host, &forged, &renamed] {
        let mut policy = Door::default();
        let mut server = server();
        feed(&mut server, &query("alice", algorithm, blob), &mut policy).unwrap();
        assert_eq!(take(&mut server), [msg::USERAUTH_FAILURE]);
        assert!(policy.asked.is_empty());
    }
    let mut server = server();
    let before_time = SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(1);
    let message = query("alice", algorithm, &certificate);
    server
        .handle_input(before_time, &message, &mut Door::default())
        .unwrap();
    assert_eq!(take(&mut server), [msg::USERAUTH_FAILURE]);
}

#[test]
fn a_partial_success_counts_until_the_user_changes() {
    let (algorithm, private, public) = KEYS[0];
    let mut policy = Door {
        second_factor: true,
        ..Door::default()
    };
    let mut server = server();
    let key = signed(SESSION, "alice", algorithm, private, &blob(public));
    feed(&mut server, &key, &mut policy).unwrap();
    let failure = server.poll_transmit().unwrap();
    assert_eq!(
        (failure[0], failure.last()),
        (msg::USERAUTH_FAILURE, Some(&1))
    );
    assert_eq!(server.user(), None);

    feed(&mut server, &none("root"), &mut policy).unwrap();
    assert_eq!(take(&mut server), [msg::USERAUTH_FAILURE]);
    assert_eq!(policy.restarts, 1);
    feed(&mut server, &none("alice"), &mut policy).unwrap();
    assert_eq!(take(&mut server), [msg::USERAUTH_FAILURE]);

    feed(&mut server, &key, &mut policy).unwrap();
    feed(&mut server, &none("alice"), &mut policy).unwrap();
    assert_eq!(
        take(&mut server),
        [msg::USERAUTH_FAILURE, msg::USERAUTH_SUCCESS]
    );
    assert_eq!(server.user(), Some("alice"));
}

#[test]
fn a_banner_goes_before_the_first_answer() {
    let mut server = server();
    let mut policy = Door::default();
    feed(&mut server, &none("mallory"), &mut policy).unwrap();
    assert_eq!(
        take(&mut server),
        [msg::USERAUTH_BANNER, msg::USERAUTH_FAILURE]
    );
    feed(&mut server, &none("mallory"), &mut policy).unwrap();
    assert_eq!(take(&mut server), [msg::USERAUTH_FAILURE]);
}

#[test]
fn tries_are_limited() {
    let mut server = server();
    let mut policy = Door::default();
    feed(&mut server, &none("alice"), &mut policy).unwrap();
    let password = password("alice", false);
    for _ in 1..MAX_FAILURES {
        feed(&mut server, &password, &mut policy).unwrap();
    }
    let verdict = feed(&mut server, &password, &mut policy);
    assert_eq!(verdict, Err(Error::TooManyFailures));
}

#[test]
fn queries_are_limited_too() {
    let mut server = server();
    let mut policy = Door::default();
    let welcome = query("alice", KEYS[0].0, &blob(KEYS[0].2));
    for _ in 0..MAX_REQUESTS {
        feed(&mut server, &welcome, &mut policy).unwrap();
    }
    let verdict = feed(&mut server, &welcome, &mut policy);
    assert_eq!(verdict, Err(Error::TooManyFailures));
}

#[test]
fn the_service_may_be_asked_for_again() {
    let mut server = server();
    let mut policy = Door::default();
    // The question for the methods is none of the tries, before and after.
    feed(&mut server, &service(USERAUTH_SERVICE), &mut policy).unwrap();
    feed(&mut server, &none("mallory"), &mut policy).unwrap();
    assert_eq!(
        take(&mut server),
        [
            msg::SERVICE_ACCEPT,
            msg::USERAUTH_BANNER,
            msg::USERAUTH_FAILURE
        ]
    );
    let password = password("mallory", false);
    for _ in 1..MAX_FAILURES {
        feed(&mut server, &service(USERAUTH_SERVICE), &mut policy).unwrap();
        feed(&mut server, &password, &mut policy).unwrap();
        let answers = take(&mut server);
        assert_eq!(answers, [msg::SERVICE_ACCEPT, msg::USERAUTH_FAILURE]);
    }
    assert_eq!(policy.restarts, 0);
    feed(&mut server, &service(USERAUTH_SERVICE), &mut policy).unwrap();
    let verdict = feed(&mut server, &password, &mut policy);
    assert_eq!(verdict, Err(Error::TooManyFailures));
}

#[test]
fn the_service_is_not_granted_without_end() {
    let mut server = server();
    let again = service(USERAUTH_SERVICE);
    for _ in 1..MAX_SERVICE_REQUESTS {
        feed(&mut server, &again, &mut Door::default()).unwrap();
    }
    let verdict = feed(&mut server, &again, &mut Door::default());
    assert_eq!(verdict, Err(Error::TooManyServiceRequests));
}

#[test]
fn the_service_is_not_granted_after_success() {
    let mut policy = Door {
        none: Some(Verdict::Accept),
        ..Door::default()
    };
    let mut server = server();
    feed(&mut server, &none("alice"), &mut policy).unwrap();
    let verdict = feed(&mut server, &service(USERAUTH_SERVICE), &mut policy);
    assert_eq!(verdict, Err(Error::Unexpected(msg::SERVICE_REQUEST)));
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let mut trailing = none("alice");
    trailing.push(0);
    let mut longer_password = password("alice", false);
    longer_password.push(0);
    let cases: [(Vec<u8>, Error); 9] = [
        (
            request(b"alice", CONNECTION_SERVICE, "password"),
            Error::Malformed,
        ),
        (longer_password, Error::Malformed),
        (
            request(b"alice", CONNECTION_SERVICE, "keyboard-interactive"),
            Error::Malformed,
        ),
        (
            service("ssh-evil"),
            Error::UnknownService("ssh-evil".to_owned()),
        ),
        (
            request(b"alice", "ssh-evil", "none"),
            Error::UnknownService("ssh-evil".to_owned()),
        ),
        (vec![msg::USERAUTH_SUCCESS], Error::Unexpected(52)),
        (vec![msg::USERAUTH_INFO_RESPONSE], Error::Unexpected(61)),
        (vec![msg::USERAUTH_REQUEST, 0, 0], Error::Malformed),
        (trailing, Error::Malformed),
    ];
    for (message, expected) in cases {
        let verdict = feed(&mut server(), &message, &mut Door::default());
        assert_eq!(verdict, Err(expected), "{message:?}");
    }
    let mut fresh = Server::new(SESSION);
    let verdict = feed(&mut fresh, &none("alice"), &mut Door::default());
    assert_eq!(
        verdict,
        Err(Error::Unexpected(50)),
        "before the service request"
    );
    let verdict = feed(&mut fresh, &service("ssh-connection"), &mut Door::default());
    assert!(matches!(verdict, Err(Error::UnknownService(_))));
    assert_eq!(
        feed(&mut fresh, &[], &mut Door::default()),
        Err(Error::Malformed)
    );
}

#[test]
fn a_user_name_that_is_no_text_is_refused() {
    let long = "x".repeat(MAX_USER_BYTES + 1);
    for user in [&b"\xff\xfe"[..], long.as_bytes()] {
        let mut policy = Door {
            none: Some(Verdict::Accept),
            ..Door::default()
        };
        let mut server = server();
        let message = request(user, CONNECTION_SERVICE, "none");
        feed(&mut server, &message, &mut policy).unwrap();
        assert_eq!(take(&mut server), [msg::USERAUTH_FAILURE]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_it_panic(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..8)) {
        let mut server = server();
        for message in messages {
            if feed(&mut server, &message, &mut Door::default()).is_err() {
                break;
            }
        }
        prop_assert_eq!(server.user(), None);
    }

    #[test]
    fn no_damage_to_a_signed_request_lets_anybody_in(
        which in 0..KEYS.len(),
        at in any::<prop::sample::Index>(),
        bits in 1u8..,
    ) {
        // A certificate and RSA, which take longest, are covered by the same code.
        let (algorithm, private, public) = KEYS[which.min(1) * 5];
        let mut message = signed(SESSION, "alice", algorithm, private, &blob(public));
        let at = at.index(message.len());
        message[at] ^= bits;
        let mut server = server();
        let _ = feed(&mut server, &message, &mut Door::default());
        // `true` is any byte but zero (RFC 4251 §5).
        let is_boolean = at == SIGNED_FLAG && message[at] != 0;
        prop_assert!(server.user().is_none() || is_boolean);
    }
}
