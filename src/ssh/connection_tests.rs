use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use russh::keys::{Certificate, PublicKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::UnixListener;
use zeroize::Zeroizing;

use super::*;
use crate::ssh::auth::client::{AuthenticationFailed, Outcome};
use crate::ssh::auth::server::{Policy, Verdict};
use crate::ssh::credential::{AgentKeys, Credential};
use crate::ssh::host_key::HostKey;
use crate::ssh::person::{Answer, Answers, Inquiry, Person};
use crate::ssh::transport::{Config, reason};
use crate::ssh::wire::msg;
use crate::ssh::wire::{Reader, WriteExt as _};
use crate::ssh::{Admission, ClientConfig, Doorman, HostKeyError, PinnedKey, ServerConfig};

/// Lets everybody in.
struct Open;

impl Policy for Open {
    fn methods(&self) -> &[&'static str] {
        &[]
    }

    fn none(&mut self, _user: &str) -> Verdict {
        Verdict::Accept
    }

    fn publickey(&mut self, _: &str, _: &PublicKey, _: &str) -> Verdict {
        Verdict::Accept
    }

    fn certificate(&mut self, _: &str, _: &Certificate, _: &str) -> Verdict {
        Verdict::Accept
    }

    fn banner(&mut self, user: &str) -> Option<String> {
        Some(format!("hello \x07{user}"))
    }
}

fn configs() -> (ClientConfig, ServerConfig) {
    let host_key = Arc::new(HostKey::generate().unwrap());
    let verifier = Arc::new(PinnedKey::new(host_key.public_blob()));
    (
        ClientConfig::new("alice", verifier),
        ServerConfig::new(host_key),
    )
}

/// A connection with both its ends here, over a pipe that holds `capacity` bytes a way.
async fn pair(capacity: usize) -> (Connection<DuplexStream>, Connection<DuplexStream>) {
    let (client, server) = configs();
    pair_of(client, server, capacity).await
}

async fn pair_of(
    client: ClientConfig,
    server: ServerConfig,
    capacity: usize,
) -> (Connection<DuplexStream>, Connection<DuplexStream>) {
    let (near, far) = duplex(capacity);
    let mut policy = Open;
    let (client, server) = tokio::join!(
        Connection::connect(near, client),
        Connection::accept(far, &server, &mut policy)
    );
    (client.unwrap(), server.unwrap())
}

/// Message `index` of a numbered stream, of a size that varies.
fn numbered(index: u32) -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_DATA];
    message.put_uint32(index);
    message.resize(5 + (index as usize * 7919) % 30_000, index as u8);
    message
}

#[tokio::test]
async fn both_ends_come_up_and_talk() {
    let (mut client, mut server) = pair(1024).await;
    assert_eq!((client.user(), server.user()), ("alice", "alice"));
    assert_eq!(client.banners(), ["hello alice"]);
    assert_eq!(client.session_id(), server.session_id());
    assert!(client.peer_version().contains(" ssmshim_"));

    client.send(b"\x50ping").await.unwrap();
    let (flushed, received) = tokio::join!(client.flush(), server.recv());
    flushed.unwrap();
    assert_eq!(received.unwrap().unwrap(), &b"\x50ping"[..]);

    client.close().await;
    assert_eq!(server.recv().await.unwrap(), None);
    assert_eq!(server.farewell().unwrap().reason, reason::BY_APPLICATION);
    assert_eq!(server.recv().await.unwrap(), None);
    assert!(matches!(server.send(b"\x50").await, Err(Error::Ended)));
}

/// One side that sends and receives numbered messages as a relay would, by polling.
#[derive(Default)]
struct Flood {
    sent: u32,
    received: u32,
}

impl Flood {
    const COUNT: u32 = 200;

    /// Does what can be done; whether everything has been.
    fn poll(&mut self, connection: &mut Connection<DuplexStream>, cx: &mut Context<'_>) -> bool {
        loop {
            while self.sent < Self::COUNT && connection.poll_ready(cx).is_ready() {
                connection.start_send(&numbered(self.sent)).unwrap();
                self.sent += 1;
            }
            // Also when nothing more is expected: this is where keys change.
            let Poll::Ready(message) = connection.poll_recv(cx) else {
                return self.sent == Self::COUNT && self.received == Self::COUNT;
            };
            assert_eq!(message.unwrap().unwrap(), numbered(self.received));
            self.received += 1;
        }
    }
}

#[tokio::test]
async fn both_ways_at_once_over_a_narrow_pipe() {
    let (mut client, mut server) = configs();
    // Keys change all the time, and from both ends.
    client.transport.rekey_bytes = 200_000;
    server.transport.rekey_bytes = 300_000;
    let (mut client, mut server) = pair_of(client, server, 4096).await;
    let (mut near, mut far) = (Flood::default(), Flood::default());
    poll_fn(|cx| {
        let is_done = near.poll(&mut client, cx) & far.poll(&mut server, cx);
        if is_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

#[tokio::test]
async fn senders_that_wait_go_on_reading() {
    let (mut client, mut server) = pair(4096).await;
    async fn send_then_receive(connection: &mut Connection<DuplexStream>) {
        for index in 0..40 {
            connection.send(&numbered(index)).await.unwrap();
        }
        connection.flush().await.unwrap();
        for index in 0..40 {
            assert_eq!(connection.recv().await.unwrap().unwrap(), numbered(index));
        }
    }
    // Neither side receives before it has sent everything: 1.2 MB in all.
    tokio::join!(send_then_receive(&mut client), async {
        send_then_receive(&mut server).await;
        // The client's last bytes may still need somebody to take them.
        server.flush().await.unwrap();
    });
}

#[tokio::test]
async fn output_is_bounded_when_the_peer_does_not_read() {
    let (mut client, _server) = pair(1024).await;
    let message = vec![msg::CHANNEL_DATA; 32 * 1024];
    let mut sent = 0;
    poll_fn(|cx| {
        while client.poll_ready(cx).is_ready() {
            client.start_send(&message).unwrap();
            sent += 1;
            assert!(sent < 10, "no end");
        }
        Poll::Ready(())
    })
    .await;
    assert!(client.transport().output().len() < 128 * 1024);
}

/// Counts wake-ups.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_sender_is_woken_when_the_keys_have_changed() {
    let (mut client, mut server) = pair(64 * 1024).await;
    assert!(client.can_send());
    client.transport().initiate_rekey().unwrap();
    assert!(!client.can_send());
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(Arc::clone(&alarm));
    let waiting = client.poll_ready(&mut Context::from_waker(&waker));
    assert!(waiting.is_pending());
    poll_fn(|cx| {
        assert!(server.poll_recv(cx).is_pending());
        assert!(client.poll_recv(cx).is_pending());
        if alarm.0.load(Ordering::Relaxed) > 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    assert!(poll_fn(|cx| client.poll_ready(cx)).await.is_ok());
    assert!(client.can_send());
}

/// A client that does not wait for success before it goes on asking, and its server.
async fn impatient(
    server: &ServerConfig,
    io: DuplexStream,
    far: DuplexStream,
) -> (Connection<DuplexStream>, Connection<DuplexStream>) {
    let mut client = Connection::new(io, Transport::client(Config::default(), now()));
    let mut policy = Open;
    let requests = async {
        loop {
            match client.recv_event().await.unwrap() {
                Event::HostKey { .. } => client.transport().accept_host_key(now()).unwrap(),
                Event::Established => break,
                other => panic!("{other:?}"),
            }
        }
        // All in one write: the server has success queued when it comes to the later ones.
        let mut login = vec![msg::SERVICE_REQUEST];
        login.put_string("ssh-userauth");
        let mut request = vec![msg::USERAUTH_REQUEST];
        request
            .put_string("alice")
            .put_string("ssh-connection")
            .put_string("none");
        for message in [&login, &request, &request, &request] {
            client.transport().send(message).unwrap();
        }
        client.flush().await.unwrap();
        loop {
            if client.recv_any().await.unwrap()[0] == msg::USERAUTH_SUCCESS {
                break;
            }
        }
        client.enter(Phase::Connection);
        client
    };
    let (client, server) = tokio::join!(requests, Connection::accept(far, server, &mut policy));
    (client, server.unwrap())
}

#[tokio::test]
async fn requests_that_success_has_overtaken_are_ignored_without_a_word() {
    let (_, config) = configs();
    let (near, far) = duplex(64 * 1024);
    let (mut client, mut server) = impatient(&config, near, far).await;
    for (message, is_answered) in [(msg::USERAUTH_REQUEST, false), (msg::SERVICE_REQUEST, true)] {
        client.transport().send(&[message]).unwrap();
        client.flush().await.unwrap();
        let written = poll_fn(|cx| {
            assert!(server.poll_recv(cx).is_pending());
            Poll::Ready(client.poll_read(cx).is_ready())
        })
        .await;
        assert_eq!(written, is_answered, "{message}");
    }
}

#[tokio::test]
async fn the_end_of_the_stream_counts_by_where_it_is() {
    // Between two packets it is the end, inside one it is a loss.
    for cut in [0, 1, 20] {
        let (near, mut middle) = duplex(64 * 1024);
        let (mut middle_far, far) = duplex(64 * 1024);
        let (client, server) = configs();
        let mut policy = Open;
        let ends = async {
            tokio::join!(
                Connection::connect(near, client),
                Connection::accept(far, &server, &mut policy)
            )
        };
        let (client, server) = tokio::select! {
            ends = ends => ends,
            _ = tokio::io::copy_bidirectional(&mut middle, &mut middle_far) => panic!("closed"),
        };
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        server.send(b"\x50 some message").await.unwrap();
        server.flush().await.unwrap();
        let mut bytes = vec![0; 4096];
        let length = middle_far.read(&mut bytes).await.unwrap();
        let end = if cut == 0 { length } else { cut };
        middle.write_all(&bytes[..end]).await.unwrap();
        drop(middle);
        if cut == 0 {
            assert!(client.recv().await.unwrap().is_some());
            assert_eq!(client.recv().await.unwrap(), None);
            assert_eq!(client.farewell(), None);
        } else {
            let error = client.recv().await.unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::ConnectionLost {
                        phase: Phase::Connection
                    }
                ),
                "{error}"
            );
            assert_eq!(client.recv().await.unwrap(), None, "told once");
        }
    }
}

#[tokio::test]
async fn messages_before_the_damage_are_received() {
    let (mut client, mut server) = pair(64 * 1024).await;
    server.send(b"\x50first").await.unwrap();
    server.flush().await.unwrap();
    server.io.write_all(&[0; 64]).await.unwrap();
    assert!(client.recv().await.unwrap().is_some());
    let error = client.recv().await.unwrap_err();
    assert!(matches!(error, Error::Transport(_)), "{error}");
    // And the other end is told.
    assert_eq!(server.recv().await.unwrap(), None);
    assert!(server.farewell().is_some());
}

#[tokio::test]
async fn the_last_words_are_heard_though_nothing_can_be_written() {
    let (mut client, mut server) = pair(64 * 1024).await;
    server.disconnect(reason::BY_APPLICATION, "going\x1b home");
    server.finish().await;
    drop(server);
    let unsent = client.send(b"\x50").await.and(client.flush().await);
    assert!(
        matches!(unsent, Err(Error::Io { .. } | Error::Ended)),
        "{unsent:?}"
    );
    assert_eq!(client.recv().await.unwrap(), None);
    assert_eq!(client.farewell().unwrap().description, "going home");
}

#[tokio::test]
async fn a_wrong_host_key_ends_it_before_anything_is_sent() {
    let (mut client, server) = configs();
    client.verifier = Arc::new(PinnedKey::new(*b"another"));
    let (near, far) = duplex(64 * 1024);
    let mut policy = Open;
    let (client, server) = tokio::join!(
        Connection::connect(near, client),
        Connection::accept(far, &server, &mut policy)
    );
    let error = client.unwrap_err();
    assert!(matches!(
        error,
        Error::HostKey(HostKeyError::NotPinned { .. })
    ));
    let error = server.unwrap_err();
    let Error::Refused { reason, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(reason, reason::HOST_KEY_NOT_VERIFIABLE);
}

/// A doorman who waits to be told what to say.
struct Waiting {
    asked: Option<tokio::sync::oneshot::Sender<String>>,
    says: Option<tokio::sync::oneshot::Receiver<Admission>>,
}

impl Waiting {
    fn new(
        says: tokio::sync::oneshot::Receiver<Admission>,
    ) -> (Self, tokio::sync::oneshot::Receiver<String>) {
        let (asked, question) = tokio::sync::oneshot::channel();
        let waiting = Self {
            asked: Some(asked),
            says: Some(says),
        };
        (waiting, question)
    }
}

impl Doorman for Waiting {
    async fn admit(&mut self, user: &str) -> Admission {
        let asked = self.asked.take().expect("asked once");
        asked.send(user.to_owned()).unwrap();
        let says = self.says.take().expect("asked once");
        says.await.unwrap()
    }
}

#[tokio::test]
async fn a_doorman_takes_his_time() {
    let words = || "you are\r\nexpected\r\n".to_owned();
    for admission in [
        Admission::Welcome {
            banner: Some(words()),
        },
        Admission::TurnedAway {
            banner: words(),
            reason: "not there".into(),
        },
    ] {
        let (mut client, server) = configs();
        // Other things happen meanwhile.
        client.transport.rekey_after = Duration::from_millis(20);
        let (near, far) = duplex(1024);
        let (say, says) = tokio::sync::oneshot::channel();
        let (mut doorman, asked) = Waiting::new(says);
        let mut policy = Open;
        let saying = async {
            assert_eq!(asked.await.unwrap(), "alice");
            say.send(admission.clone()).unwrap();
        };
        let (client, server, ()) = tokio::join!(
            Connection::connect(near, client),
            Connection::accept_by(far, &server, &mut policy, &mut doorman),
            saying
        );
        if let Admission::Welcome { .. } = admission {
            assert_eq!(server.unwrap().user(), "alice");
            let banners = client.unwrap().banners().concat();
            assert_eq!(banners, "hello aliceyou are\nexpected\n");
            continue;
        }
        let error = server.unwrap_err();
        assert_eq!(error.to_string(), "SSH authentication: not there");
        let Error::AuthenticationFailed(failed) = client.unwrap_err() else {
            panic!("the client is told");
        };
        assert_eq!(failed.farewell.as_deref(), Some("not there"));
    }
}

#[tokio::test]
async fn who_leaves_while_the_doorman_thinks_is_not_waited_for() {
    let (client, server) = configs();
    let (near, far) = duplex(1024);
    let (say, says) = tokio::sync::oneshot::channel();
    let (mut doorman, asked) = Waiting::new(says);
    let mut policy = Open;
    let leaving = async {
        tokio::select! {
            result = Connection::connect(near, client) => panic!("{result:?}"),
            user = asked => assert_eq!(user.unwrap(), "alice"),
        }
    };
    let (server, ()) = tokio::join!(
        Connection::accept_by(far, &server, &mut policy, &mut doorman),
        leaving
    );
    let error = server.unwrap_err();
    assert!(matches!(error, Error::ConnectionLost { .. }), "{error}");
    assert!(say.is_closed(), "nobody waits for the answer");
}

#[tokio::test]
async fn a_silent_peer_is_not_waited_for() {
    let (mut client, mut server) = configs();
    client.deadline = Duration::from_millis(20);
    server.deadline = Duration::from_millis(20);
    let (near, _far) = duplex(1024);
    let error = Connection::connect(near, client).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    let (near, _far) = duplex(1024);
    let error = Connection::accept(near, &server, &mut Open)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }));
}

#[tokio::test]
async fn keys_change_when_their_time_has_come() {
    let (mut client, server) = configs();
    client.transport.rekey_after = Duration::from_millis(20);
    let (mut client, mut server) = pair_of(client, server, 64 * 1024).await;
    for _ in 0..3 {
        tokio::select! {
            event = client.recv_event() => assert_eq!(event.unwrap(), Event::Rekeyed),
            message = server.recv() => panic!("{message:?}"),
        }
    }
}

/// A server that answers authentication messages as told.
async fn scripted(
    io: DuplexStream,
    host_key: Arc<HostKey>,
    mut answer: impl FnMut(&[u8]) -> Vec<Vec<u8>>,
) {
    let mut connection = Connection::new(
        io,
        Transport::server(Config::default(), vec![host_key], now()),
    );
    while !matches!(connection.recv_event().await, Ok(Event::Established)) {}
    connection.enter(Phase::Authentication);
    while let Ok(message) = connection.recv_any().await {
        for payload in answer(&message) {
            match payload.split_first() {
                Some((&msg::DISCONNECT, text)) => {
                    connection.disconnect(2, std::str::from_utf8(text).unwrap());
                }
                _ => connection.send(&payload).await.unwrap(),
            }
            if payload[0] == msg::USERAUTH_SUCCESS {
                connection.transport().authenticated();
            }
        }
        let _ = connection.flush().await;
    }
}

/// Logs in with `credentials` to a server that answers as told.
async fn log_in(
    credentials: Vec<Credential>,
    answer: impl FnMut(&[u8]) -> Vec<Vec<u8>>,
) -> Result<(), Error> {
    log_in_by(|config| config.deadline = DEADLINE, credentials, answer).await
}

/// The same in another way than is usual.
async fn log_in_by(
    configure: impl FnOnce(&mut ClientConfig),
    credentials: Vec<Credential>,
    answer: impl FnMut(&[u8]) -> Vec<Vec<u8>>,
) -> Result<(), Error> {
    let host_key = Arc::new(HostKey::generate().unwrap());
    let verifier = Arc::new(PinnedKey::new(host_key.public_blob()));
    let mut config = ClientConfig::new("alice", verifier);
    config.credentials = credentials;
    configure(&mut config);
    let (near, far) = duplex(64 * 1024);
    tokio::select! {
        result = Connection::connect(near, config) => result.map(drop),
        () = async {
            scripted(far, host_key, answer).await;
            std::future::pending().await
        } => Ok(()),
    }
}

fn failure(methods: &str, partial: bool) -> Vec<u8> {
    let mut failure = vec![msg::USERAUTH_FAILURE];
    failure.put_string(methods).put_bool(partial);
    failure
}

fn service_accept() -> Vec<u8> {
    let mut accept = vec![msg::SERVICE_ACCEPT];
    accept.put_string("ssh-userauth");
    accept
}

/// The method of an authentication request.
fn method(message: &[u8]) -> &[u8] {
    let mut reader = Reader::new(&message[1..]);
    let _user = reader.string().unwrap();
    let _service = reader.string().unwrap();
    reader.string().unwrap()
}

/// For a login whose other side is in this process too.
const DEADLINE: Duration = Duration::from_millis(500);

/// Types more slowly than logins may take.
struct Slow(&'static str);

impl Answer for Slow {
    fn answer<'a>(&'a self, inquiry: &'a Inquiry<'a>) -> Answers<'a> {
        Box::pin(async move {
            tokio::time::sleep(2 * DEADLINE).await;
            let answer = || Zeroizing::new(self.0.to_owned());
            Ok(inquiry.questions.prompts.iter().map(|_| answer()).collect())
        })
    }
}

#[tokio::test]
async fn a_password_and_a_slow_answer_log_in() {
    let credentials = vec![
        Credential::Password(Arc::new(Zeroizing::new("secret".to_owned()))),
        Credential::Person(Arc::new(Person::new(Arc::new(Slow("123456"))))),
    ];
    let result = log_in(credentials, |message| match message[0] {
        msg::SERVICE_REQUEST => vec![service_accept()],
        msg::USERAUTH_REQUEST => match method(message) {
            b"none" => vec![failure("password", false)],
            b"password" => {
                assert!(message.ends_with(b"\0\0\0\x06secret"));
                vec![failure("keyboard-interactive", true)]
            }
            _ => {
                let mut question = vec![msg::USERAUTH_INFO_REQUEST];
                question.put_string("").put_string("").put_string("");
                question.put_uint32(1).put_string("Code: ").put_bool(true);
                vec![question]
            }
        },
        _ => {
            assert!(message.ends_with(b"\0\0\0\x06123456"));
            vec![vec![msg::USERAUTH_SUCCESS]]
        }
    });
    result.await.unwrap();
}

fn failed(error: Error) -> AuthenticationFailed {
    match error {
        Error::AuthenticationFailed(failed) => *failed,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_leaves_what_was_tried() {
    let credentials = vec![Credential::Password(Arc::new(Zeroizing::new(
        "wrong".to_owned(),
    )))];
    let result = log_in(credentials, |message| match message[0] {
        msg::SERVICE_REQUEST => vec![service_accept()],
        _ if method(message) == b"none" => vec![failure("password", false)],
        _ => vec![[&[msg::DISCONNECT], &b"enough"[..]].concat()],
    });
    let failed = failed(result.await.unwrap_err());
    assert_eq!(failed.farewell.as_deref(), Some("enough"));
    assert_eq!(failed.tried[0].outcome, Outcome::Refused);
}

/// An agent that has `key`, and signs nothing before somebody confirms that.
async fn ask_to_confirm(listener: UnixListener, key: &[u8]) {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut wish = vec![0; client.read_u32().await.unwrap() as usize];
    client.read_exact(&mut wish).await.unwrap();
    let mut keys = vec![12];
    keys.put_uint32(1).put_string(key).put_string("comment");
    client.write_u32(keys.len() as u32).await.unwrap();
    client.write_all(&keys).await.unwrap();
    // The wish for a signature, and the end of whoever had it.
    let _ = client.read_to_end(&mut Vec::new()).await;
}

/// To ask again, unattended, would be to bother somebody again who is not there.
#[tokio::test]
async fn an_agent_that_waits_for_a_confirmation_needs_somebody() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    let key = HostKey::generate().unwrap();
    let key = key.public_blob();
    let unattended = |config: &mut ClientConfig| {
        config.attendance = None;
        // The key exchange has to fit in.
        config.deadline = 4 * DEADLINE;
    };
    let credentials = vec![Credential::Agent(AgentKeys::new(&socket))];
    let login = log_in_by(unattended, credentials, |message| match message[0] {
        msg::SERVICE_REQUEST => vec![service_accept()],
        _ if method(message) == b"none" => vec![failure("publickey", false)],
        _ => {
            let mut welcome = vec![msg::USERAUTH_PK_OK];
            welcome.put_string("ssh-ed25519").put_string(key);
            vec![welcome]
        }
    });
    let (result, ()) = tokio::join!(login, ask_to_confirm(listener, key));
    let failed = failed(result.unwrap_err());
    assert!(failed.needs_person(), "{failed}");
}

/// As sshd does where PAM accepts the key and refuses the account.
#[tokio::test]
async fn a_server_that_just_leaves_is_quoted() {
    let host_key = Arc::new(HostKey::generate().unwrap());
    let verifier = Arc::new(PinnedKey::new(host_key.public_blob()));
    let (near, far) = duplex(64 * 1024);
    let server = async {
        let mut connection = Connection::new(
            far,
            Transport::server(Config::default(), vec![host_key], now()),
        );
        while !matches!(connection.recv_event().await, Ok(Event::Established)) {}
        connection.enter(Phase::Authentication);
        connection.recv_any().await.unwrap();
        connection.send(&service_accept()).await.unwrap();
        connection.recv_any().await.unwrap();
        let words = format!("Your account has\x1b[2J\r\n\texpired.\n{}", "x".repeat(300));
        for words in ["Authorised use only\n", &words] {
            let mut banner = vec![msg::USERAUTH_BANNER];
            banner.put_string(words).put_string("");
            connection.send(&banner).await.unwrap();
        }
        connection.flush().await.unwrap();
    };
    let config = ClientConfig::new("alice", verifier);
    let (result, ()) = tokio::join!(Connection::connect(near, config), server);
    let error = result.unwrap_err();
    let Error::SentAway { said } = &error else {
        panic!("{error}");
    };
    assert!(
        said.starts_with("Your account has[2J expired. xxx"),
        "{said}"
    );
    assert_eq!(said.chars().count(), 200);
    assert!(error.hint().is_some());
}

/// Refuses whatever is offered by `methods` and ends the connection, as sshd does after six tries.
fn too_many(message: &[u8], methods: &str) -> Vec<Vec<u8>> {
    match message[0] {
        msg::SERVICE_REQUEST => vec![service_accept()],
        _ if method(message) == b"none" => vec![failure(methods, false)],
        _ => vec![[&[msg::DISCONNECT], &b"Too many authentication failures"[..]].concat()],
    }
}

#[tokio::test]
async fn one_who_is_barred_is_told_of_the_refusals() {
    let host_key = Arc::new(HostKey::generate().unwrap());
    let verifier = Arc::new(PinnedKey::new(host_key.public_blob()));
    let mut config = ClientConfig::new("alice", verifier);
    let password = |text: &str| Credential::Password(Arc::new(Zeroizing::new(text.to_owned())));
    config.credentials = vec![password("wrong"), password("never tried")];
    let opened = AtomicUsize::new(0);
    let open = async || {
        let (near, mut far) = duplex(64 * 1024);
        match opened.fetch_add(1, Ordering::Relaxed) {
            0 => {
                let answer = |message: &[u8]| too_many(message, "password");
                tokio::spawn(scripted(far, Arc::clone(&host_key), answer));
            }
            // As OpenSSH does since 9.8 (PerSourcePenalties).
            _ => far
                .write_all(b"Not allowed at this time\r\n")
                .await
                .unwrap(),
        }
        Ok::<_, std::convert::Infallible>(near)
    };
    let result = Connection::connect_over(open, config).await.unwrap();
    let failed = failed(result.unwrap_err());
    assert!(failed.farewell.unwrap().contains("Too many"));
    assert_eq!(failed.tried.last().unwrap().outcome, Outcome::Refused);
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

/// Types a wrong password, and counts how often.
#[derive(Default)]
struct Mistaken(AtomicUsize);

impl Answer for Mistaken {
    fn answer<'a>(&'a self, _inquiry: &'a Inquiry<'a>) -> Answers<'a> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(vec![Zeroizing::new("wrong".to_owned())]) })
    }
}

#[tokio::test]
async fn a_password_that_ends_the_connection_is_not_used_again() {
    let mistaken = Arc::new(Mistaken::default());
    let person = Arc::new(Person::new(Arc::clone(&mistaken) as Arc<dyn Answer>));
    for asked in 1..=2 {
        let credentials = vec![Credential::Person(Arc::clone(&person))];
        let result = log_in(credentials, |message| too_many(message, "password"));
        let failed = failed(result.await.unwrap_err());
        assert_eq!(failed.tried.last().unwrap().outcome, Outcome::Refused);
        assert_eq!(mistaken.0.load(Ordering::Relaxed), asked);
    }
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_told() {
    let result = log_in(vec![], |_| vec![vec![msg::USERAUTH_SUCCESS]]);
    let error = result.await.unwrap_err();
    assert!(matches!(error, Error::Server(_)), "{error}");
}
