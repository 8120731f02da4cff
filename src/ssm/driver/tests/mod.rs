//! The driver against a service and an agent of a few lines, on real loopback sockets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, accept_async};
use uuid::Uuid;

mod causes;
mod ends;
mod journal;
mod many;
mod resume;
mod silent;
mod start;

use super::*;
use crate::ssm::api::tests::sdk_config;
use crate::ssm::protocol::data_channel::{AgentOptions, Event};
use crate::ssm::protocol::handshake::HandshakeRequest;
use crate::ssm::protocol::message::{Header, MessageType};
use crate::ssm::protocol::payload::{Flag, OpenDataChannelInput, PayloadType};
use crate::ssm::protocol::reliability::outgoing::Strategy;
use crate::ssm::{DataStream, SsmSession, api};

const PATIENCE: Duration = Duration::from_secs(20);

/// What goes wrong, and when.
#[derive(Debug, Default, Clone)]
struct Faults {
    /// Sessions handed to an agent that never answers.
    silent_sessions: usize,
    /// Sockets cut after so many binary messages; with none, before anything is read.
    cut_after: Vec<usize>,
    /// How they are cut.
    cut: Cut,
    /// Every socket is cut so, when `cut_after` is used up.
    cut_each_after: Option<usize>,
    /// Bytes a second that the gateway reads.
    bytes_per_s: Option<u32>,
    /// The agent takes nothing, while the gateway goes on to answer pings.
    stalled: bool,
    /// Garbage sent to the client at the start of each socket.
    garbage: bool,
    /// After the first socket a data message with a wrong digest comes every 2 ms, and others that
    /// are right between them, but no more progress.
    damaged: bool,
    /// The first word on every socket after the first is that the session is over.
    closed_meanwhile: bool,
    /// ResumeSession answers DoesNotExistException.
    refuses_resume: bool,
    /// ResumeSession answers AccessDeniedException.
    denies_resume: bool,
    /// ResumeSession fails so often first.
    failing_resumes: usize,
    /// Calls of ResumeSession that are never answered.
    hanging_resumes: usize,
    /// Stream URLs that the next answers to ResumeSession are to have.
    stream_urls: Vec<&'static str>,
    /// Sockets after the first that are refused.
    refused_sockets: usize,
    /// With which status.
    refusal: u16,
    /// TerminateSession fails.
    failing_terminate: bool,
}

/// How a socket ends.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// With close code 1000, as the service does hourly.
    #[default]
    Bye,
    /// TCP ends without a word of the WebSocket.
    Fin,
    /// TCP is reset.
    Reset,
    /// Nothing is read or sent any more, and nothing fails.
    BlackHole,
}

impl Faults {
    /// What the next socket is to suffer: messages to a cut, and garbage.
    fn next_socket(&mut self) -> (usize, bool) {
        let cut = match self.cut_after.is_empty() {
            true => self.cut_each_after.unwrap_or(usize::MAX),
            false => self.cut_after.remove(0),
        };
        (cut, self.garbage)
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
    pings: usize,
}

/// What the service does next of its own accord.
#[derive(Debug)]
enum Closing {
    /// Ends the socket.
    Socket(Cut),
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

    /// Starts a session that waits for nobody.
    async fn start_session(&self, options: Options) -> (SsmSession, DataStream) {
        self.start_in(surroundings(), options).await
    }

    async fn start_in(
        &self,
        surroundings: Surroundings,
        options: Options,
    ) -> (SsmSession, DataStream) {
        let started = SsmSession::start_in(surroundings, self.ssm(), request(), options);
        within(started).await.unwrap()
    }

    /// Ends the current socket.
    fn cut(&self, how: Cut) {
        self.state.lock().unwrap().closing = Some(Closing::Socket(how));
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
            let status = state.lock().unwrap().faults.refusal;
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
            // Read what was only peeked at: a close with unread bytes would be a reset.
            let _ = tcp.read(&mut head).await;
            let _ = tcp.write_all(answer.as_bytes()).await;
            return;
        }
        if let Ok(websocket) = accept_async(tcp).await {
            gateway(websocket, session_id, state).await;
        }
        return;
    }
    while let Some((operation, body)) = read_request(&mut tcp).await {
        let hangs = {
            let faults = &mut state.lock().unwrap().faults;
            let hangs = operation == "ResumeSession" && faults.hanging_resumes > 0;
            faults.hanging_resumes -= usize::from(hangs);
            hangs
        };
        if hangs {
            return std::future::pending().await;
        }
        let (status, answer) = call(&state, &operation, &body, &address);
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

fn call(state: &Mutex<State>, operation: &str, body: &str, address: &str) -> (u16, String) {
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
    let mut stream_url =
        format!("ws://{address}/v1/data-channel/{session_id}?role=publish_subscribe");
    if operation == "ResumeSession" && !state.faults.stream_urls.is_empty() {
        stream_url = state.faults.stream_urls.remove(0).to_owned();
    }
    let answer = serde_json::json!({
        "SessionId": session_id,
        "StreamUrl": stream_url,
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
    let is_closed = {
        let state = state.lock().unwrap();
        state.faults.closed_meanwhile && state.opens.len() > 1
    };
    if is_closed {
        let closed = channel_closed("idle for too long");
        let _ = websocket.send(Message::Binary(closed)).await;
        return;
    }
    agent.lock().await.channel.on_reconnected(now());
    let (mut cut, garbage) = state.lock().unwrap().faults.next_socket();
    if cut == 0 {
        let how = state.lock().unwrap().faults.cut;
        return break_off(websocket, how).await;
    }
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
        let mut taken = None;
        tokio::select! {
            message = websocket.next() => match message {
                Some(Ok(Message::Binary(frame))) => taken = Some(frame),
                Some(Ok(Message::Ping(_))) => state.lock().unwrap().pings += 1,
                Some(Ok(_)) => {}
                _ => return,
            },
            () = sleep(Duration::from_millis(10)) => {}
        }
        if let Some(frame) = taken {
            let rate = state.lock().unwrap().faults.bytes_per_s;
            if let Some(rate) = rate {
                sleep(Duration::from_secs(1) * frame.len() as u32 / rate).await;
            }
            if !state.lock().unwrap().faults.stalled {
                let _ = agent.lock().await.channel.handle_input(now(), frame);
            }
            cut = cut.saturating_sub(1);
        }
        let closing = state.lock().unwrap().closing.take();
        let how = match closing {
            Some(Closing::Session(text)) => {
                let closed = channel_closed(text);
                let _ = websocket.send(Message::Binary(closed)).await;
                return;
            }
            Some(Closing::Socket(how)) => how,
            None if cut == 0 => state.lock().unwrap().faults.cut,
            None => continue,
        };
        return break_off(websocket, how).await;
    }
}

/// Ends a socket.
async fn break_off(mut websocket: WebSocketStream<TcpStream>, how: Cut) {
    match how {
        Cut::Bye => {
            let bye = CloseFrame {
                code: CloseCode::Normal,
                reason: "Bye.".into(),
            };
            let _ = websocket.close(Some(bye)).await;
            // To drop what has come and is unread would be a reset.
            while let Some(Ok(_)) = websocket.next().await {}
        }
        Cut::Fin => {
            // What was not read would make a reset of it.
            let tcp = websocket.get_mut();
            let _ = tcp.shutdown().await;
            while tcp.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
        }
        Cut::Reset => websocket.get_ref().set_zero_linger().unwrap(),
        Cut::BlackHole => std::future::pending().await,
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

/// Those in which waiting is short.
fn surroundings() -> Surroundings {
    Surroundings {
        spacing: Duration::ZERO,
        slowly: Duration::from_millis(50),
        ..Surroundings::default()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

/// Waits until the session has been resumed `count` times more, and says how long the gaps were.
async fn resumed(session: &SsmSession, count: usize) -> Vec<Duration> {
    let mut gaps = Vec::new();
    while gaps.len() < count {
        match within(session.next_event()).await.expect("a session") {
            SessionEvent::Resumed { gap } => gaps.push(gap),
            other => tracing::trace!(?other, "not yet"),
        }
    }
    gaps
}

/// Sends `count` bytes through the echo and compares what comes back.
async fn echo(stream: DataStream, count: usize) -> DataStream {
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
