//! A service that sends us where we must not go.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::common::daemon::{Daemon, aws_environment};
use crate::common::have;
use crate::common::sshd::make_key;
use crate::common::world::serve_args;

/// Answers every request with what `answer` makes of its head and body.
fn service(answer: impl Fn(&str) -> String + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("a bound socket").port();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                if let Some(request) = read_request(&mut socket) {
                    let _ = socket.write_all(answer(&request).as_bytes());
                }
            });
        }
    });
    port
}

fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head
        .to_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    socket.read_exact(&mut vec![0; length]).ok()?;
    Some(head)
}

fn json(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The API's answers, which lead the session to `stream_url`. Asked about the target, it says in the same answer
/// that it is online.
fn granting(stream_url: String) -> impl Fn(&str) -> String + Clone + Send + 'static {
    move |_| {
        json(&format!(
            "{{\"SessionId\":\"test-0123456789abcdef0\",\"TokenValue\":\"token-value\",\
             \"StreamUrl\":\"{stream_url}\",\
             \"InstanceInformationList\":[{{\"InstanceId\":\"i-0123456789abcdef0\",\"PingStatus\":\"Online\"}}]}}"
        ))
    }
}

/// A daemon whose API is at `port` of this computer.
fn daemon(directory: &std::path::Path, port: u16) -> Daemon {
    let key = directory.join("id");
    make_key(&key);
    let mut arguments = serve_args("i-0123456789abcdef0", "22", &key);
    arguments.extend(["--json", "--listen", "127.0.0.1:0"].map(str::to_owned));
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let environment = aws_environment(&format!("http://127.0.0.1:{port}"));
    Daemon::launch(&directory.join("home"), &arguments, &environment)
}

/// A port that tells of every connection.
fn trap() -> (u16, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("a bound socket").port();
    let (caught, catches) = mpsc::channel();
    thread::spawn(move || {
        for _ in listener.incoming().flatten() {
            let _ = caught.send(());
        }
    });
    (port, catches)
}

#[test]
fn a_stream_url_to_a_stranger_is_not_followed() {
    if !have("ssh-keygen") {
        return;
    }
    let (stranger, catches) = trap();
    for host in [
        format!("localhost:{stranger}"),
        format!("ssmmessages.eu-central-1.amazonaws.com@localhost:{stranger}"),
        "ssmmessages.eu-central-1.amazonaws.com.evil.example".to_owned(),
    ] {
        let url = format!("wss://{host}/v1/data-channel/secret-path");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut daemon = daemon(directory.path(), service(granting(url)));
        let error = daemon.told("error: ");
        assert!(error.contains("no message gateway of AWS"), "{error}");
        let hint = daemon.told("hint: ");
        assert!(hint.contains("--ssmmessages-endpoint"), "{hint}");
        assert_eq!(daemon.wait().0, 1, "waiting would not heal it");
        assert!(!daemon.stderr().contains("secret-path"));
    }
    assert!(catches.try_recv().is_err(), "nobody went there");
}

#[test]
fn a_redirect_is_not_followed() {
    if !have("ssh-keygen") {
        return;
    }
    let (stranger, catches) = trap();
    let redirect = move |_: &str| {
        format!(
            "HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:{stranger}/\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
    };
    let gateway = service(redirect);
    let to_gateway = granting(format!("ws://127.0.0.1:{gateway}/v1/data-channel/x"));
    for (api, told) in [
        (service(redirect), ""),
        (service(to_gateway), "refused the websocket with status 307"),
    ] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let daemon = daemon(directory.path(), api);
        let error = daemon.told("error: ");
        assert!(error.contains(told), "{error}");
    }
    assert!(catches.try_recv().is_err(), "nobody went there");
}
