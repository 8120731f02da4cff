use proptest::prelude::*;

use super::*;

const SESSION: &[u8] = b"the session";

fn blob(key_type: &str) -> Vec<u8> {
    let mut blob = Vec::new();
    blob.put_string(key_type).put_string(b"the key");
    blob
}

fn key(key_type: &str, query: bool) -> Offer {
    Offer::PublicKey {
        blob: blob(key_type),
        label: format!("my {key_type}"),
        query,
    }
}

fn message(number: u8) -> Vec<u8> {
    vec![number]
}

fn failure(methods: &str, partial: bool) -> Vec<u8> {
    let mut failure = message(msg::USERAUTH_FAILURE);
    failure.put_string(methods).put_bool(partial);
    failure
}

fn welcome(key_type: &str, blob: &[u8]) -> Vec<u8> {
    let mut welcome = message(msg::USERAUTH_PK_OK);
    welcome.put_string(key_type).put_string(blob);
    welcome
}

fn questions(prompts: &[(&str, bool)]) -> Vec<u8> {
    let mut asked = message(msg::USERAUTH_INFO_REQUEST);
    asked
        .put_string("login")
        .put_string("say\x07")
        .put_string("");
    asked.put_uint32(prompts.len() as u32);
    for (text, echo) in prompts {
        asked.put_string(text).put_bool(*echo);
    }
    asked
}

/// A client that has asked for the methods.
fn client(offers: Vec<Offer>) -> Client {
    let mut client = Client::new(SESSION, "alice", offers);
    let mut expected = message(msg::SERVICE_REQUEST);
    expected.put_string("ssh-userauth");
    assert_eq!(client.poll_transmit(), Some(expected));
    let mut accept = message(msg::SERVICE_ACCEPT);
    accept.put_string("ssh-userauth");
    client.handle_input(&accept).unwrap();
    assert_eq!(client.poll_transmit(), Some(client.request("none")));
    client
}

/// Feeds `message` and returns the method of the request that follows.
fn method_after(client: &mut Client, message: &[u8]) -> Option<String> {
    client.handle_input(message).unwrap();
    sent_method(client)
}

fn sent_method(client: &mut Client) -> Option<String> {
    let sent = client.poll_transmit()?;
    assert_eq!(sent[0], msg::USERAUTH_REQUEST);
    let mut reader = Reader::new(&sent[1..]);
    assert_eq!(reader.string().unwrap(), b"alice");
    assert_eq!(reader.string().unwrap(), b"ssh-connection");
    Some(String::from_utf8(reader.string().unwrap().to_vec()).unwrap())
}

fn expect_failed(client: &mut Client) -> AuthenticationFailed {
    match client.poll_event() {
        Some(Event::Failed(failed)) => failed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn none_may_be_enough() {
    let mut client = client(vec![Offer::Password { retry: false }]);
    client.handle_input(&[msg::USERAUTH_SUCCESS]).unwrap();
    assert_eq!(client.poll_event(), Some(Event::Authenticated));
    assert_eq!(client.poll_transmit(), None);
}

#[test]
fn a_key_is_queried_before_somebody_must_touch_it() {
    let mut client = client(vec![key("ssh-ed25519", true)]);
    let sent = method_after(&mut client, &failure("publickey", false));
    assert_eq!(sent.as_deref(), Some("publickey"));
    assert_eq!(client.poll_event(), None, "not asked to sign yet");
    client
        .handle_input(&welcome("ssh-ed25519", &blob("ssh-ed25519")))
        .unwrap();
    let expected = signed_data(
        SESSION,
        "alice",
        "ssh-connection",
        "ssh-ed25519",
        &blob("ssh-ed25519"),
    );
    assert_eq!(
        client.poll_event(),
        Some(Event::Sign {
            offer: 0,
            algorithm: "ssh-ed25519",
            data: expected.clone()
        })
    );
    client.signed(Some(b"signature"));
    let sent = client.poll_transmit().unwrap();
    // What was signed is the request itself, after the session identifier.
    let mut request = expected[4 + SESSION.len()..].to_vec();
    request.put_string(b"signature");
    assert_eq!(sent, request);
    client.handle_input(&[msg::USERAUTH_SUCCESS]).unwrap();
    assert_eq!(client.poll_event(), Some(Event::Authenticated));
}

#[test]
fn offers_are_made_in_order_and_by_method() {
    let mut client = client(vec![
        Offer::Password { retry: false },
        key("ssh-ed25519", true),
        Offer::KeyboardInteractive,
        key("ssh-rsa", true),
    ]);
    let all = failure("publickey,keyboard-interactive", false);
    assert_eq!(
        method_after(&mut client, &all).as_deref(),
        Some("publickey")
    );
    assert_eq!(
        method_after(&mut client, &all).as_deref(),
        Some("keyboard-interactive")
    );
    assert_eq!(
        method_after(&mut client, &all).as_deref(),
        Some("publickey")
    );
    // Only now the server takes a password.
    client.handle_input(&failure("password", false)).unwrap();
    assert_eq!(client.poll_event(), Some(Event::Password { offer: 0 }));
    client.password(Some("secret"));
    let sent = client.poll_transmit().unwrap();
    let mut expected = client.request("password");
    expected.put_bool(false).put_string("secret");
    assert_eq!(sent, expected);
    client.handle_input(&failure("password", false)).unwrap();

    let failed = expect_failed(&mut client);
    assert_eq!(failed.methods_left, ["password"]);
    assert_eq!(
        failed.to_string(),
        "the server refused user `alice`: none (refused), publickey my ssh-ed25519 (refused), \
         keyboard-interactive (refused), publickey my ssh-rsa (refused), password (refused); \
         it accepts password"
    );
}

#[test]
fn partial_success_goes_on_with_the_rest() {
    let mut client = client(vec![
        key("ssh-ed25519", false),
        Offer::Password { retry: false },
    ]);
    client.handle_input(&failure("publickey", false)).unwrap();
    assert!(matches!(client.poll_event(), Some(Event::Sign { .. })));
    client.signed(Some(b"signature"));
    client.poll_transmit().unwrap();
    client.handle_input(&failure("password", true)).unwrap();
    assert_eq!(client.poll_event(), Some(Event::Password { offer: 1 }));
    client.password(None);
    let failed = expect_failed(&mut client);
    let outcomes: Vec<_> = failed.tried.iter().map(|tried| tried.outcome).collect();
    assert_eq!(
        outcomes,
        [Outcome::Refused, Outcome::NotEnough, Outcome::Declined]
    );
}

#[test]
fn the_rsa_algorithm_is_one_the_server_verifies() {
    let names = |list: &str| -> Vec<String> { list.split(',').map(str::to_owned).collect() };
    let cases = [
        ("ssh-rsa", None, Some("rsa-sha2-512")),
        (
            "ssh-rsa",
            Some("ssh-ed25519,rsa-sha2-256"),
            Some("rsa-sha2-256"),
        ),
        (
            "ssh-rsa",
            Some("rsa-sha2-256,rsa-sha2-512"),
            Some("rsa-sha2-512"),
        ),
        // OpenSSH 7.4 lists this and verifies more.
        ("ssh-rsa", Some("ssh-ed25519,ssh-rsa"), Some("rsa-sha2-512")),
        (
            "ssh-rsa-cert-v01@openssh.com",
            Some("rsa-sha2-256"),
            Some("rsa-sha2-256-cert-v01@openssh.com"),
        ),
        ("ssh-ed25519", Some("rsa-sha2-256"), Some("ssh-ed25519")),
        ("ssh-dss", None, None),
        ("", None, None),
    ];
    for (key_type, list, expected) in cases {
        let list = list.map(names);
        let chosen = algorithm_for(&blob(key_type), list.as_deref());
        assert_eq!(chosen.map(|chosen| chosen.name), expected, "{key_type}");
    }

    let mut client = client(vec![key("ssh-dss", true)]);
    client.handle_input(&failure("publickey", false)).unwrap();
    let failed = expect_failed(&mut client);
    assert_eq!(failed.tried[1].outcome, Outcome::NoCommonAlgorithm);
}

#[test]
fn questions_are_answered_and_asked_again_after_a_typo() {
    let mut client = client(vec![Offer::KeyboardInteractive]);
    let refused = failure("keyboard-interactive", false);
    client.handle_input(&refused).unwrap();
    for attempt in 1..=MAX_INTERACTIVE_TRIES {
        let mut expected = client.request("keyboard-interactive");
        expected.put_string("").put_string("");
        assert_eq!(client.poll_transmit(), Some(expected));
        client
            .handle_input(&questions(&[("Password: ", false)]))
            .unwrap();
        let Some(Event::Questions {
            offer: 0,
            questions: asked,
        }) = client.poll_event()
        else {
            panic!("no questions");
        };
        assert_eq!(asked.instruction, "say");
        assert_eq!(
            asked.prompts,
            [Prompt {
                text: "Password: ".to_owned(),
                echo: false
            }]
        );
        client.answered(Some(&["wrong"]));
        let mut expected = message(msg::USERAUTH_INFO_RESPONSE);
        expected.put_uint32(1).put_string("wrong");
        assert_eq!(client.poll_transmit(), Some(expected));
        // PAM ends with a round without questions.
        client.handle_input(&questions(&[])).unwrap();
        assert!(matches!(client.poll_event(), Some(Event::Questions { .. })));
        client.answered::<&str>(Some(&[]));
        client.poll_transmit().unwrap();
        client.handle_input(&refused).unwrap();
        assert_eq!(client.poll_event(), Some(Event::Refused { offer: 0 }));
        assert!(attempt < MAX_INTERACTIVE_TRIES || client.poll_transmit().is_none());
    }
    assert_eq!(expect_failed(&mut client).tried.len(), 4);
}

#[test]
fn a_typed_password_is_asked_for_again() {
    let mut client = client(vec![Offer::Password { retry: true }]);
    let refused = failure("password", false);
    client.handle_input(&refused).unwrap();
    for attempt in 1..=MAX_INTERACTIVE_TRIES {
        assert_eq!(client.poll_event(), Some(Event::Password { offer: 0 }));
        client.password(Some("wrong"));
        assert_eq!(sent_method(&mut client).as_deref(), Some("password"));
        client.handle_input(&refused).unwrap();
        assert_eq!(client.poll_event(), Some(Event::Refused { offer: 0 }));
        assert!(client.poll_transmit().is_none(), "attempt {attempt}");
    }
    assert_eq!(expect_failed(&mut client).tried.len(), 4);
}

#[test]
fn what_cannot_be_offered_is_told_and_costs_nothing() {
    let unavailable = |method, why| Offer::Unavailable {
        method,
        label: Some("it".to_owned()),
        outcome: Outcome::Unanswered(why),
    };
    let mut client = client(vec![
        unavailable("publickey", Unanswered::Unattended),
        unavailable("hostbased", Unanswered::GaveUp),
        unavailable("password", Unanswered::NoTerminal),
    ]);
    client
        .handle_input(&failure("publickey,password", false))
        .unwrap();
    assert_eq!(client.poll_transmit(), None);
    let failed = expect_failed(&mut client);
    let outcomes: Vec<_> = failed.tried[1..].iter().map(|one| one.outcome).collect();
    let expected = [Unanswered::Unattended, Unanswered::NoTerminal];
    assert_eq!(outcomes, expected.map(Outcome::Unanswered));
    assert!(failed.needs_person());
    assert!(failed.hint().contains("on a terminal"), "{failed}");
    assert!(failed.to_string().contains("no terminal to ask on"));
}

#[test]
fn an_expired_password_is_said() {
    let mut client = client(vec![Offer::Password { retry: false }]);
    client.handle_input(&failure("password", false)).unwrap();
    client.poll_event().unwrap();
    client.password(Some("old"));
    client.poll_transmit().unwrap();
    let mut change = message(msg::USERAUTH_PASSWD_CHANGEREQ);
    change.put_string("change it").put_string("");
    client.handle_input(&change).unwrap();
    let failed = expect_failed(&mut client);
    assert_eq!(failed.tried[1].outcome, Outcome::PasswordExpired);
}

#[test]
fn banners_are_clean_and_bounded() {
    let mut client = client(vec![]);
    let banner = |text: &[u8]| {
        let mut banner = message(msg::USERAUTH_BANNER);
        banner.put_string(text).put_string("");
        banner
    };
    client.handle_input(&banner(b"hello \x1b[31m\n")).unwrap();
    assert_eq!(
        client.poll_event(),
        Some(Event::Banner("hello [31m\n".to_owned()))
    );
    let mut total = 0;
    for _ in 0..10 {
        client.handle_input(&banner(&[b'x'; 8000])).unwrap();
        if let Some(Event::Banner(text)) = client.poll_event() {
            total += text.len();
        }
    }
    assert!(total <= MAX_TEXT_BYTES, "{total}");
}

#[test]
fn a_server_out_of_step_is_refused() {
    let other_key = welcome("ssh-ed25519", &blob("ssh-rsa"));
    let cases: [(Vec<u8>, Error); 6] = [
        (message(msg::USERAUTH_SUCCESS), Error::Unexpected(52)),
        (other_key, Error::WrongKey),
        (message(msg::USERAUTH_PK_OK), Error::Malformed),
        (message(msg::SERVICE_ACCEPT), Error::Unexpected(6)),
        (message(msg::USERAUTH_REQUEST), Error::Unexpected(50)),
        (vec![msg::USERAUTH_FAILURE, 0, 0, 0, 9], Error::Malformed),
    ];
    for (message, expected) in cases {
        // A query is on its way: success cannot be the answer.
        let mut client = client(vec![key("ssh-ed25519", true)]);
        client.handle_input(&failure("publickey", false)).unwrap();
        assert_eq!(client.handle_input(&message), Err(expected), "{message:?}");
    }
    let mut early = Client::new(SESSION, "alice", vec![]);
    assert_eq!(
        early.handle_input(&[msg::USERAUTH_SUCCESS]),
        Err(Error::Unexpected(52))
    );
    let mut wrong = message(msg::SERVICE_ACCEPT);
    wrong.put_string("ssh-connection");
    assert_eq!(early.handle_input(&wrong), Err(Error::WrongService));
}

#[test]
fn endless_questions_are_ended() {
    let mut client = client(vec![Offer::KeyboardInteractive]);
    client
        .handle_input(&failure("keyboard-interactive", false))
        .unwrap();
    for _ in 0..MAX_ROUNDS {
        client.handle_input(&questions(&[("?", true)])).unwrap();
        client.poll_event().unwrap();
        client.answered(Some(&["!"]));
    }
    let endless = client.handle_input(&questions(&[("?", true)]));
    assert_eq!(endless, Err(Error::TooManyQuestions));
}

/// A client that has offered `count` of its keys over one connection, all of them refused.
fn refused(client: &mut Client, count: usize) {
    for _ in 0..=count {
        client.handle_input(&failure("publickey", false)).unwrap();
    }
    client.output.clear();
}

#[test]
fn another_connection_begins_where_one_ended() {
    let keys = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"];
    let mut client = client(keys.map(|name| key(name, true)).into());
    assert!(!client.may_go_on(), "nothing was refused");
    refused(&mut client, 1);
    let failed = client.ran_out("Too many".into());
    assert_eq!(failed.tried.len(), 3, "what was under way was refused too");
    assert!(client.may_go_on());
    client.go_on(b"another session");
    assert_eq!(client.poll_transmit(), Some(service_request()));
    client.handle_input(&[msg::SERVICE_ACCEPT]).unwrap();
    assert_eq!(sent_method(&mut client).as_deref(), Some("none"));
    client.handle_input(&failure("publickey", false)).unwrap();
    let sent = client.poll_transmit().unwrap();
    assert!(sent.ends_with(&blob("ssh-rsa")), "the first new one");
    client
        .handle_input(&welcome("rsa-sha2-512", &blob("ssh-rsa")))
        .unwrap();
    let Some(Event::Sign { offer: 2, data, .. }) = client.poll_event() else {
        panic!("it is to be signed for");
    };
    assert!(data[4..].starts_with(b"another session"));
    client.signed(Some(b"signature"));
    client.handle_input(&[msg::USERAUTH_SUCCESS]).unwrap();
    assert_eq!(client.accepted().collect::<Vec<_>>(), [2]);
    assert_eq!(client.refused().collect::<Vec<_>>(), [0, 1]);
}

/// Without a word nothing is known of what was under way, and of several that are wanted all are wanted again.
#[test]
fn what_was_not_decided_is_offered_again() {
    let keys = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"];
    let mut client = client(keys.map(|name| key(name, true)).into());
    client.handle_input(&failure("publickey", false)).unwrap();
    client.handle_input(&failure("publickey", true)).unwrap();
    client.handle_input(&failure("publickey", false)).unwrap();
    assert_eq!(client.refused().collect::<Vec<_>>(), [1]);
    assert!(!client.may_go_on(), "all were offered");
    client.go_on(b"another session");
    let sent = |client: &mut Client| loop {
        let sent = client.poll_transmit()?;
        if sent.len() > 60 {
            return Some(sent);
        }
    };
    client.handle_input(&[msg::SERVICE_ACCEPT]).unwrap();
    client.handle_input(&failure("publickey", false)).unwrap();
    assert!(sent(&mut client).unwrap().ends_with(&blob("ssh-ed25519")));
    client.handle_input(&failure("publickey", true)).unwrap();
    assert!(sent(&mut client).unwrap().ends_with(&blob("ssh-rsa")));
    client.handle_input(&failure("publickey", false)).unwrap();
    assert!(matches!(client.poll_event(), Some(Event::Failed(_))));
}

#[test]
fn hints_fit_what_was_tried() {
    let failed = |tried: Vec<Attempt>, left: &str| AuthenticationFailed {
        user: "alice".to_owned(),
        others: Vec::new(),
        tried,
        methods_left: vec![left.to_owned()],
        farewell: None,
    };
    let refused = Attempt {
        method: "publickey",
        label: None,
        outcome: Outcome::Refused,
    };
    assert!(failed(vec![], "publickey").hint().contains("ssh-add"));
    assert!(
        failed(vec![refused], "publickey")
            .hint()
            .contains("authorized_keys")
    );
    assert!(failed(vec![], "password").hint().contains("user name"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_it_panic(
        messages in prop::collection::vec((50u8..70, prop::collection::vec(any::<u8>(), 0..60)), 1..8),
    ) {
        let mut client = client(vec![
            key("ssh-ed25519", true),
            Offer::KeyboardInteractive,
            Offer::Password { retry: false },
        ]);
        client.handle_input(&failure("publickey,keyboard-interactive,password", false)).unwrap();
        for (number, fields) in messages {
            let mut message = vec![number];
            message.extend(fields);
            if client.handle_input(&message).is_err() {
                break;
            }
            client.signed(Some(b"signature"));
            client.answered(Some(&["answer"]));
            client.password(Some("password"));
        }
    }
}
