//! The driver against a service and an agent of a few lines, on real loopback sockets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;
use crate::ssm::SsmSession;
use crate::ssm::api::tests::sdk_config;
use crate::ssm::protocol::data_channel::{AgentOptions, Event};
use crate::ssm::protocol::handshake::HandshakeRequest;
use crate::ssm::protocol::message::{Header, MessageType};
use crate::ssm::protocol::reliability::outgoing::Strategy;

const PATIENCE: Duration = Duration::from_secs(20);

/// What goes wrong, and when.
#[derive(Debug, Default, Clone)]
struct Faults {
    /// Sessions handed to an agent that never answers.
    silent_sessions: usize,
    /// Sockets closed with 1000 "Bye" after so many binary messages.
    cut_after: Vec<usize>,
    /// Sockets that stop reading, and so answering pings, after so many binary messages.
    deaf_after: Vec<usize>,
    /// Garbage sent to the client at the start of each socket.
    garbage: bool,
    /// After the first socket a data message with a wrong digest comes every 2 ms, and others that
    /// are right between them, but no more progress.
    damaged: bool,
    /// ResumeSession answers DoesNotExistException.
    refuses_resume: bool,
    /// ResumeSession answers AccessDeniedException.
    denies_resume: bool,
    /// ResumeSession fails so often first.
    failing_resumes: usize,
    /// Sockets after the first that are refused with 403.
    refused_sockets: usize,
    /// TerminateSession fails.
    failing_terminate: bool,
}

impl Faults {
    /// What the next socket is to suffer: messages to a cut, messages to deafness, garbage.
    fn next_socket(&mut self) -> (usize, usize, bool) {
        let take = |list: &mut Vec<usize>| match list.is_empty() {
            true => usize::MAX,
            false => list.remove(0),
        };
        (
            take(&mut self.cut_after),
            take(&mut self.deaf_after),
            self.garbage,
        )
    }
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    calls: Vec<String>,
    opens: Vec<OpenDataChannelInput>,
    has_authorization: Vec<bool>,
    agents: HashMap<String, Arc<tokio::sync::Mutex<Agent>>>,
    flags: Vec<Flag>,
    closing: Option<Closing>,
}

/// What the service does next of its own accord.
#[derive(Debug)]
enum Closing {
    /// Closes the socket as it does hourly.
    Bye,
    /// Ends the SSM session with this text.
    Session(&'static str),
}

/// An agent that sends back what it gets.
#[derive(Debug)]
struct Agent {
    channel: DataChannel,
    echo: bytes::BytesMut,
}

struct Service {
    endpoint: String,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

impl Service {
    async fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            faults,
            ..State::default()
        }));
        let mut tasks = JoinSet::new();
        let (shared, address) = (Arc::clone(&state), endpoint.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(serve(tcp, Arc::clone(&shared), address.clone()));
            }
        });
        Self {
            endpoint,
            state,
            _tasks: tasks,
        }
    }

    fn ssm(&self) -> Ssm {
        Ssm::new(&sdk_config(&format!("http://{}", self.endpoint))).unwrap()
    }

    fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// The agent of the only session.
    fn agent(&self) -> Arc<tokio::sync::Mutex<Agent>> {
        let state = self.state.lock().unwrap();
        Arc::clone(state.agents.values().next().unwrap())
    }
}

async fn serve(mut tcp: TcpStream, state: Arc<Mutex<State>>, address: String) {
    let mut head = [0; 4096];
    let Ok(count) = tcp.peek(&mut head).await else {
        return;
    };
    let text = String::from_utf8_lossy(&head[..count]).to_lowercase();
    if text.starts_with("get ") {
        let session_id = text.split(['/', '?']).nth(3).unwrap_or_default().to_owned();
        let is_signed = text.contains("authorization: aws4-hmac-sha256 credential=akid/");
        let is_refused = {
            let mut state = state.lock().unwrap();
            state.has_authorization.push(is_signed);
            let is_refused = !state.opens.is_empty() && state.faults.refused_sockets > 0;
            state.faults.refused_sockets -= usize::from(is_refused);
            is_refused
        };
        if is_refused {
            let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
            // Read what was only peeked at: a close with unread bytes would be a reset.
            let _ = tcp.read(&mut head).await;
            let _ = tcp.write_all(answer).await;
            return;
        }
        if let Ok(websocket) = accept_async(tcp).await {
            gateway(websocket, session_id, state).await;
        }
        return;
    }
    while let Some((operation, body)) = read_request(&mut tcp).await {
        let (status, answer) = api(&state, &operation, &body, &address);
        let answer = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        );
        if tcp.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// One HTTP request: its X-Amz-Target and its body.
async fn read_request(tcp: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                head.lines().find_map(|line| {
                    let (key, value) = line.split_once(": ")?;
                    key.eq_ignore_ascii_case(name).then(|| value.to_owned())
                })
            };
            let length: usize = header("content-length")?.parse().ok()?;
            if body.len() >= length {
                let target = header("x-amz-target")?;
                return Some((target.split('.').nth(1)?.to_owned(), body.to_owned()));
            }
        }
        if tcp.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn api(state: &Mutex<State>, operation: &str, body: &str, address: &str) -> (u16, String) {
    let mut state = state.lock().unwrap();
    state.calls.push(operation.to_owned());
    let count = state.calls.len();
    let request: serde_json::Value = serde_json::from_str(body).unwrap();
    let session_id = match operation {
        "StartSession" => format!("user-{count}"),
        _ => request["SessionId"].as_str().unwrap().to_owned(),
    };
    if operation == "ResumeSession" {
        if state.faults.refuses_resume {
            return (
                400,
                r#"{"__type":"DoesNotExistException","message":"gone"}"#.to_owned(),
            );
        }
        if state.faults.denies_resume {
            return (
                400,
                r#"{"__type":"AccessDeniedException","message":"no"}"#.to_owned(),
            );
        }
        if state.faults.failing_resumes > 0 {
            state.faults.failing_resumes -= 1;
            return (
                500,
                r#"{"__type":"InternalServerError","message":"later"}"#.to_owned(),
            );
        }
    }
    if operation == "TerminateSession" && state.faults.failing_terminate {
        return (
            500,
            r#"{"__type":"InternalServerError","message":"later"}"#.to_owned(),
        );
    }
    let answer = serde_json::json!({
        "SessionId": session_id,
        "StreamUrl": format!("ws://{address}/v1/data-channel/{session_id}?role=publish_subscribe"),
        "TokenValue": format!("token-{count}"),
    });
    (200, answer.to_string())
}

/// Resends the next message damaged, and an acknowledged one as it was, without end.
async fn resend_damaged(mut websocket: WebSocketStream<TcpStream>) {
    let frame = |sequence_number| Header {
        message_type: MessageType::OutputStreamData,
        created_date: 1,
        sequence_number,
        flags: 0,
        message_id: Uuid::from_u128(1),
        payload_type: Some(PayloadType::Output),
    };
    let good = frame(0).encode(b"good");
    let mut bad = frame(2).encode(b"good").to_vec();
    *bad.last_mut().unwrap() ^= 1;
    let bad = bytes::Bytes::from(bad);
    for _ in 0..1000 {
        for frame in [&bad, &good] {
            if websocket
                .send(Message::Binary(frame.clone()))
                .await
                .is_err()
            {
                return;
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// The agent behind a new socket; `None` when it is to be silent.
fn admit(
    state: &Mutex<State>,
    session_id: &str,
    open: &str,
) -> Option<Arc<tokio::sync::Mutex<Agent>>> {
    let mut state = state.lock().unwrap();
    state.opens.push(serde_json::from_str(open).unwrap());
    let is_silent = state.faults.silent_sessions > state.agents.len();
    let agent = state
        .agents
        .entry(session_id.to_owned())
        .or_insert_with(new_agent);
    (!is_silent).then(|| Arc::clone(agent))
}

async fn gateway(
    mut websocket: WebSocketStream<TcpStream>,
    session_id: String,
    state: Arc<Mutex<State>>,
) {
    let Some(Ok(Message::Text(open))) = websocket.next().await else {
        return;
    };
    let Some(agent) = admit(&state, &session_id, &open) else {
        while let Some(Ok(_)) = websocket.next().await {}
        return;
    };
    let is_damaged = {
        let state = state.lock().unwrap();
        state.faults.damaged && state.opens.len() > 1
    };
    if is_damaged {
        return resend_damaged(websocket).await;
    }
    agent.lock().await.channel.on_reconnected(now());
    let (mut cut, mut deaf, garbage) = state.lock().unwrap().faults.next_socket();
    if garbage {
        for junk in [&b""[..], b"junk", &[0; 120], &[0xff; 300]] {
            websocket
                .send(Message::binary(junk.to_vec()))
                .await
                .unwrap();
        }
        websocket.send(Message::text("hello")).await.unwrap();
    }
    loop {
        {
            let mut agent = agent.lock().await;
            let Agent { channel, echo } = &mut *agent;
            channel.handle_timeout(now());
            while let Some(event) = channel.poll_event() {
                match event {
                    Event::Data(PayloadType::Output, bytes) => echo.extend_from_slice(&bytes),
                    Event::Flag(flag) => state.lock().unwrap().flags.push(flag),
                    _ => {}
                }
            }
            while !echo.is_empty() && channel.capacity() > 0 {
                let count = echo.len().min(1024);
                let chunk = echo.split_to(count);
                channel.send(now(), PayloadType::Output, &chunk).unwrap();
            }
            while let Some(frame) = channel.poll_transmit(now()) {
                if websocket.feed(Message::Binary(frame)).await.is_err() {
                    return;
                }
            }
        }
        if websocket.flush().await.is_err() {
            return;
        }
        tokio::select! {
            message = websocket.next() => match message {
                Some(Ok(Message::Binary(frame))) => {
                    let _ = agent.lock().await.channel.handle_input(now(), frame);
                    (cut, deaf) = (cut.saturating_sub(1), deaf.saturating_sub(1));
                }
                Some(Ok(_)) => {}
                _ => return,
            },
            () = sleep(Duration::from_millis(10)) => {}
        }
        let closing = state.lock().unwrap().closing.take();
        if let Some(Closing::Session(text)) = closing {
            let closed = channel_closed(text);
            let _ = websocket.send(Message::Binary(closed)).await;
            return;
        }
        if cut == 0 || closing.is_some() {
            let bye = CloseFrame {
                code: CloseCode::Normal,
                reason: "Bye.".into(),
            };
            let _ = websocket.close(Some(bye)).await;
            return;
        }
        if deaf == 0 {
            return std::future::pending().await;
        }
    }
}

fn new_agent() -> Arc<tokio::sync::Mutex<Agent>> {
    let properties = serde_json::json!({"portNumber": "22", "type": "LocalPortForwarding"});
    let request = HandshakeRequest::port("3.3.1142.0", properties);
    // The real agent resends one message per 100 ms, which would make these tests slow.
    let options = AgentOptions {
        strategy: Strategy::Recover,
        ..AgentOptions::new(Some(request))
    };
    let config = Config::agent(options);
    Arc::new(tokio::sync::Mutex::new(Agent {
        channel: DataChannel::new(config, Origin::system(), now()),
        echo: bytes::BytesMut::new(),
    }))
}

fn request() -> StartRequest {
    StartRequest::port_forwarding("i-0123456789abcdef0", 22)
}

fn options() -> Options {
    Options {
        pace: None,
        ..Options::default()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

/// Sends `count` bytes through the echo and compares what comes back.
async fn echo(stream: crate::ssm::DataStream, count: usize) -> crate::ssm::DataStream {
    let sent: Vec<u8> = (0..count).map(|n| (n / 7) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut received = vec![0; count];
    let (written, read) =
        within(async { tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received)) })
            .await;
    written.unwrap();
    read.unwrap();
    assert!(received == sent, "bytes differ");
    reader.unsplit(writer)
}

#[tokio::test]
async fn carries_bytes_and_terminates_by_flag_and_api() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    assert!(session.established().is_multiplexed);
    let stream = echo(stream, 1 << 20).await;
    let end = within(session.terminate()).await;
    assert!(matches!(*end, Error::Terminated));
    assert_eq!(service.calls(), ["StartSession", "TerminateSession"]);
    {
        let state = service.state.lock().unwrap();
        assert_eq!(state.flags, [Flag::TerminateSession]);
        assert_eq!(state.has_authorization, [true]);
    }
    let (mut reader, mut writer) = tokio::io::split(stream);
    assert_eq!(within(reader.read(&mut [0; 8])).await.unwrap(), 0);
    assert!(writer.write(b"x").await.is_err());
}

#[tokio::test]
async fn what_was_written_last_arrives_before_the_end() {
    let service = Service::start(Faults::default()).await;
    let (session, mut stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    stream.write_all(&[5; 100_000]).await.unwrap();
    within(session.terminate()).await;
    let agent = service.agent();
    let sent = agent.lock().await.channel.statistics().received;
    assert!(sent > 100_000 / (16 << 10), "{sent}");
}

#[tokio::test]
async fn the_hourly_close_is_resumed() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    let stream = echo(stream, 10_000).await;
    service.state.lock().unwrap().closing = Some(Closing::Bye);
    assert_eq!(
        within(session.next_event()).await,
        Some(SessionEvent::Lost {
            reason: "closed by the service: 1000 Bye".to_owned()
        })
    );
    let resumed = within(session.next_event()).await;
    assert!(matches!(resumed, Some(SessionEvent::Resumed { .. })));
    let _stream = echo(stream, 10_000).await;
    within(session.terminate()).await;
}

#[tokio::test]
async fn not_a_byte_is_lost_over_several_sockets() {
    let service = Service::start(Faults {
        cut_after: vec![40, 300, 25],
        garbage: true,
        ..Faults::default()
    })
    .await;
    let (session, stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    let _stream = echo(stream, 1 << 20).await;
    within(session.terminate()).await;
    assert_eq!(session.status().resumes, 3);
    let state = service.state.lock().unwrap();
    assert_eq!(state.opens.len(), 4);
    assert!(
        state
            .opens
            .iter()
            .all(|open| open.client_id == state.opens[0].client_id)
    );
    let tokens: Vec<_> = state
        .opens
        .iter()
        .map(|open| open.token_value.as_str())
        .collect();
    assert_eq!(tokens, ["token-1", "token-2", "token-3", "token-4"]);
}

#[tokio::test]
async fn a_socket_that_answers_no_ping_is_replaced() {
    let service = Service::start(Faults {
        deaf_after: vec![20],
        ..Faults::default()
    })
    .await;
    let options = Options {
        ping_interval: Duration::from_millis(300),
        ping_deadline: Duration::from_millis(300),
        ..options()
    };
    let (session, stream) = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap();
    let _stream = echo(stream, 100_000).await;
    assert_eq!(
        session.next_event().await.unwrap(),
        SessionEvent::Lost {
            reason: "no answer to a ping".to_owned()
        }
    );
    within(session.terminate()).await;
}

#[tokio::test]
async fn failing_resumes_are_repeated_until_one_succeeds() {
    let service = Service::start(Faults {
        cut_after: vec![10],
        failing_resumes: 3,
        ..Faults::default()
    })
    .await;
    let (session, stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    let _stream = echo(stream, 100_000).await;
    assert!(matches!(
        session.next_event().await,
        Some(SessionEvent::Lost { .. })
    ));
    for expected in 1..=3 {
        assert!(matches!(
            session.next_event().await,
            Some(SessionEvent::Retrying { attempt, .. }) if attempt == expected
        ));
    }
    assert!(matches!(
        session.next_event().await,
        Some(SessionEvent::Resumed { .. })
    ));
    within(session.terminate()).await;
}

#[tokio::test]
async fn a_refused_resume_is_the_end_and_asks_for_a_redial() {
    let service = Service::start(Faults {
        cut_after: vec![3],
        refuses_resume: true,
        ..Faults::default()
    })
    .await;
    let (session, mut stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    stream.write_all(b"x").await.unwrap();
    let end = within(session.closed()).await;
    assert!(
        matches!(*end, Error::Api(api::Error::SessionGone(_))),
        "{end:?}"
    );
    assert_eq!(end.disposition(), Disposition::Redial);
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test]
async fn a_session_that_may_not_be_resumed_is_terminated() {
    let service = Service::start(Faults {
        cut_after: vec![3],
        denies_resume: true,
        ..Faults::default()
    })
    .await;
    let (session, mut stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    stream.write_all(b"x").await.unwrap();
    let end = within(session.closed()).await;
    assert!(
        matches!(*end, Error::Api(api::Error::AccessDenied { .. })),
        "{end:?}"
    );
    assert_eq!(
        service.calls(),
        ["StartSession", "ResumeSession", "TerminateSession"]
    );
}

#[tokio::test]
async fn a_message_that_stays_damaged_ends_the_session() {
    let service = Service::start(Faults {
        damaged: true,
        ..Faults::default()
    })
    .await;
    let (session, _stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    service.state.lock().unwrap().closing = Some(Closing::Bye);
    let end = within(session.closed()).await;
    assert!(matches!(*end, Error::Damaged { count: 100, .. }), "{end:?}");
    assert_eq!(end.disposition(), Disposition::Redial);
    assert_eq!(
        service.calls(),
        ["StartSession", "ResumeSession", "TerminateSession"]
    );
}

#[tokio::test]
async fn a_refused_socket_is_asked_for_again() {
    let service = Service::start(Faults {
        cut_after: vec![10],
        refused_sockets: 3,
        ..Faults::default()
    })
    .await;
    let (session, stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    let _stream = echo(stream, 100_000).await;
    assert_eq!(session.status().resumes, 1);
    within(session.terminate()).await;
    let resumes = service.calls();
    let resumes = resumes.iter().filter(|call| *call == "ResumeSession");
    assert_eq!(resumes.count(), 4);
}

#[test]
fn ten_refusals_of_the_socket_are_final() {
    let error = Error::WebSocket(websocket::Error::Refused(403));
    let mut refusals = 0;
    let tolerated = std::iter::repeat_with(|| is_final(&error, &mut refusals));
    assert_eq!(tolerated.take_while(|is_final| !is_final).count(), 9);
    assert!(is_final(&Error::Api(api::Error::SessionGone(None)), &mut 0));
}

#[tokio::test]
async fn a_failed_lookup_of_credentials_is_waited_out() {
    let service = Service::start(Faults {
        cut_after: vec![10],
        ..Faults::default()
    })
    .await;
    // StartSession is signed with the first answer, kept by the SDK, and the first socket with the
    // second; the two answers after them fail.
    let config = sdk_config(&format!("http://{}", service.endpoint))
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(Flaky::default()))
        .build();
    let ssm = Ssm::new(&config).unwrap();
    let (session, stream) = within(SsmSession::start(ssm, request(), options()))
        .await
        .unwrap();
    let _stream = echo(stream, 100_000).await;
    assert!(matches!(
        session.next_event().await,
        Some(SessionEvent::Lost { .. })
    ));
    for _ in 0..2 {
        let event = session.next_event().await;
        assert!(
            matches!(&event, Some(SessionEvent::Retrying { error, .. })
                if error.starts_with("AWS credentials could not be loaded")),
            "{event:?}"
        );
    }
    within(session.terminate()).await;
    let state = service.state.lock().unwrap();
    assert_eq!(state.has_authorization, [true, true]);
}

/// A provider whose third and fourth answers are errors.
#[derive(Debug, Default)]
struct Flaky(std::sync::atomic::AtomicUsize);

impl ProvideCredentials for Flaky {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let count = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        future::ProvideCredentials::ready(match count {
            2 | 3 => Err(CredentialsError::provider_error("process failed")),
            _ => Ok(Credentials::new("AKID", "secret", None, None, "test")),
        })
    }
}

#[tokio::test]
async fn an_agent_that_does_not_answer_gets_another_session() {
    let service = Service::start(Faults {
        silent_sessions: 1,
        ..Faults::default()
    })
    .await;
    let options = Options {
        handshake_deadline: Duration::from_millis(300),
        ..options()
    };
    let (session, _stream) = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap();
    within(session.terminate()).await;
    assert_eq!(
        service.calls(),
        [
            "StartSession",
            "TerminateSession",
            "StartSession",
            "TerminateSession"
        ]
    );
}

#[tokio::test]
async fn silence_in_all_attempts_is_an_error_with_a_hint() {
    let service = Service::start(Faults {
        silent_sessions: 9,
        ..Faults::default()
    })
    .await;
    let options = Options {
        handshake_deadline: Duration::from_millis(100),
        ..options()
    };
    let error = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::HandshakeTimeout { attempts: 3, .. }),
        "{error:?}"
    );
    assert!(error.hint().is_some());
    let started = service
        .calls()
        .iter()
        .filter(|call| *call == "StartSession")
        .count();
    let ended = service
        .calls()
        .iter()
        .filter(|call| *call == "TerminateSession")
        .count();
    assert_eq!((started, ended), (3, 3));
}

#[tokio::test]
async fn a_dropped_start_leaves_no_session_behind() {
    let service = Service::start(Faults {
        silent_sessions: 1,
        ..Faults::default()
    })
    .await;
    let options = options();
    let tracker = options.tracker.clone();
    let start = SsmSession::start(service.ssm(), request(), options);
    assert!(timeout(Duration::from_millis(300), start).await.is_err());
    tracker.close();
    within(tracker.wait()).await;
    assert_eq!(service.calls(), ["StartSession", "TerminateSession"]);
}

#[tokio::test]
async fn a_dropped_session_is_terminated_in_the_background() {
    let service = Service::start(Faults::default()).await;
    let options = options();
    let tracker = options.tracker.clone();
    let started = within(SsmSession::start(service.ssm(), request(), options)).await;
    drop(started);
    tracker.close();
    within(tracker.wait()).await;
    assert_eq!(service.calls(), ["StartSession", "TerminateSession"]);
}

/// The end of a session as the service writes it: with the short header.
fn channel_closed(text: &str) -> bytes::Bytes {
    let header = Header {
        message_type: MessageType::ChannelClosed,
        created_date: 1,
        sequence_number: 0,
        flags: 0,
        message_id: Uuid::nil(),
        payload_type: None,
    };
    let body = serde_json::json!({"MessageType": "channel_closed", "Output": text});
    header.encode(body.to_string().as_bytes())
}

#[tokio::test]
async fn channel_closed_is_the_end_and_comes_after_the_last_bytes() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    let mut stream = echo(stream, 100_000).await;
    service.state.lock().unwrap().closing = Some(Closing::Session("idle for too long"));
    let end = within(session.closed()).await;
    assert!(
        matches!(&*end, Error::Closed(text) if text == "idle for too long"),
        "{end:?}"
    );
    assert_eq!(
        session.next_event().await,
        Some(SessionEvent::Closed {
            text: "idle for too long".to_owned()
        })
    );
    assert_eq!(session.next_event().await, None);
    assert_eq!(within(stream.read(&mut [0; 8])).await.unwrap(), 0);
    assert_eq!(service.calls(), ["StartSession"]);
}

/// Notes what it is told: `+id` and `-id`.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

impl crate::ssm::Journal for Notes {
    fn started(&self, session_id: &str) {
        self.0.lock().unwrap().push(format!("+{session_id}"));
    }

    fn ended(&self, session_id: &str) {
        self.0.lock().unwrap().push(format!("-{session_id}"));
    }
}

#[tokio::test]
async fn the_journal_knows_each_session_from_its_start_to_its_confirmed_end() {
    let service = Service::start(Faults {
        silent_sessions: 1,
        ..Faults::default()
    })
    .await;
    let notes = Arc::new(Notes::default());
    let options = Options {
        handshake_deadline: Duration::from_millis(300),
        journal: Some(notes.clone()),
        ..options()
    };
    let (session, _stream) = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap();
    assert_eq!(*notes.0.lock().unwrap(), ["+user-1", "-user-1", "+user-3"]);
    within(session.terminate()).await;
    assert_eq!(notes.0.lock().unwrap().last().unwrap(), "-user-3");
}

#[tokio::test]
async fn a_session_whose_end_nobody_confirmed_stays_in_the_journal() {
    let service = Service::start(Faults {
        failing_terminate: true,
        ..Faults::default()
    })
    .await;
    let notes = Arc::new(Notes::default());
    let options = Options {
        journal: Some(notes.clone()),
        ..options()
    };
    let (session, _stream) = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap();
    within(session.terminate()).await;
    assert_eq!(*notes.0.lock().unwrap(), ["+user-1"]);
}

#[tokio::test]
async fn a_session_closed_by_the_service_is_struck_from_the_journal() {
    let service = Service::start(Faults::default()).await;
    let notes = Arc::new(Notes::default());
    let options = Options {
        journal: Some(notes.clone()),
        ..options()
    };
    let (session, _stream) = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap();
    service.state.lock().unwrap().closing = Some(Closing::Session("bye"));
    within(session.closed()).await;
    assert_eq!(*notes.0.lock().unwrap(), ["+user-1", "-user-1"]);
}
