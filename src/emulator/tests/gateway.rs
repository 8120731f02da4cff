//! The gateway's refusals: tokens, upgrades, messages that are not as they should be.

use serde_json::json;

use super::foreign_client::{Client, OUTPUT, resume, start};
use super::{Pacing, authorization, call, echo, emulator, exchange, message, server};

#[tokio::test]
async fn a_token_serves_once_and_only_its_session() {
    let emulator = emulator(Pacing::Off).await;
    let port = server(echo).await;
    let ticket = start(&emulator, "AWS-StartSSHSession", port).await;
    let mut wrong = ticket.clone();
    wrong.token = "wrong".into();
    assert_eq!(Client::open(&wrong).await.receive_raw().await, None);

    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    assert_eq!(Client::open(&ticket).await.receive_raw().await, None);
    // A used token does no harm to whoever used it first.
    client.send(OUTPUT, b"still here").await;
    assert_eq!(client.receive_output(10).await, b"still here");

    let other = start(&emulator, "AWS-StartSSHSession", port).await;
    let mut crossed = other.clone();
    crossed.url = ticket.url.clone();
    assert_eq!(Client::open(&crossed).await.receive_raw().await, None);

    let renewed = resume(&emulator, &ticket.session_id).await;
    assert_ne!(renewed.token, ticket.token);
    client.reopen(&renewed).await;
    client.send(OUTPUT, b"and again").await;
    assert_eq!(client.receive_output(9).await, b"and again");
    emulator.shutdown().await;
}

/// What is in front of the emulator, a proxy, is so for the data channel too.
#[tokio::test]
async fn the_data_channel_is_where_the_request_went() {
    let emulator = emulator(Pacing::Off).await;
    let addr = emulator.hub.addr.to_string();
    let body = r#"{"Target":"i-0123456789abcdef0","DocumentName":"AWS-StartSSHSession"}"#;
    for (host, expected) in [
        ("localhost:1234", "localhost:1234"),
        ("127.0.0.9:80", "127.0.0.9:80"),
        ("[::1]:1234", "[::1]:1234"),
        ("ssm.us-east-1.amazonaws.com", &*addr),
        ("192.0.2.1:80", &*addr),
        ("not a host", &*addr),
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             X-Amz-Target: AmazonSSM.StartSession\r\nContent-Length: {}\r\n{}\r\n{body}",
            body.len(),
            authorization("AKIAEXAMPLE"),
        );
        let answer = exchange(emulator.hub.addr, &request).await.json();
        let url = answer["StreamUrl"].as_str().unwrap();
        assert!(
            url.starts_with(&format!("ws://{expected}/v1/")),
            "{host}: {url}"
        );
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn bad_messages_close_the_socket_and_not_the_session() {
    let emulator = emulator(Pacing::Off).await;
    let port = server(echo).await;
    let ticket = start(&emulator, "AWS-StartSSHSession", port).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    let mut wrong_digest = message("input_stream_data", 1, 0, OUTPUT, b"hello");
    wrong_digest[80] ^= 1;
    let mut wrong_header = message("input_stream_data", 1, 0, OUTPUT, b"hello");
    wrong_header[3] = 200;
    let too_large = message(
        "input_stream_data",
        1,
        0,
        OUTPUT,
        &vec![0; (1 << 20) + 8192],
    );
    for bad in [wrong_digest, wrong_header, b"short".to_vec(), too_large] {
        client.send_raw(bad).await;
        while client.receive_raw().await.is_some() {}
        let ticket = resume(&emulator, &ticket.session_id).await;
        client.reopen(&ticket).await;
    }
    client.send(OUTPUT, b"unharmed").await;
    assert_eq!(client.receive_output(8).await, b"unharmed");
    emulator.shutdown().await;
}

#[tokio::test]
async fn pings_are_answered() {
    let emulator = emulator(Pacing::Off).await;
    let ticket = start(&emulator, "AWS-StartSSHSession", server(echo).await).await;
    let mut client = Client::open(&ticket).await;
    client.ping().await;
    emulator.shutdown().await;
}

/// A browser is a process of this user, whoever has made the page.
#[tokio::test]
async fn web_pages_are_refused() {
    let emulator = emulator(Pacing::Off).await;
    let upgrade = "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let start = "Connection: close\r\nX-Amz-Target: AmazonSSM.StartSession\r\n";
    let plan = r#"{"fault": "link", "latency_ms": 1}"#;
    for (line, headers, body) in [
        ("POST /faults", "Connection: close\r\n", plan),
        ("OPTIONS /faults", "Connection: close\r\n", ""),
        ("POST /", start, r#"{"Target":"i-0123456789abcdef0"}"#),
        ("GET /v1/data-channel/x", upgrade, ""),
    ] {
        for origin in ["null", "http://rebound.example:4566"] {
            let request = format!(
                "{line} HTTP/1.1\r\nHost: rebound.example:4566\r\nOrigin: {origin}\r\n\
                 Content-Length: {}\r\n{headers}{}\r\n{body}",
                body.len(),
                authorization("AKIAEXAMPLE"),
            );
            let answer = exchange(emulator.hub.addr, &request).await;
            assert_eq!(answer.status, 403, "{request}{answer:?}");
            assert!(answer.body.contains("Origin"), "{answer:?}");
        }
    }
    let report = emulator.faults().report();
    assert!(report.faults.is_empty(), "{report:?}");
    assert_eq!(report.counters.sessions, 0, "{report:?}");
    emulator.shutdown().await;
}

#[tokio::test]
async fn only_upgrades_are_upgraded() {
    let emulator = emulator(Pacing::Off).await;
    let addr = emulator.hub.addr;
    let get =
        |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
    let close = "Connection: close\r\n";
    for (request, status) in [
        (get("/v1/data-channel/x", close), 400),
        (get("/v1/other/x", close), 404),
        (get("/v1/data-channel", close), 404),
        (
            get(
                "/v1/data-channel/x",
                &format!("{close}{upgrade}Sec-WebSocket-Version: 8\r\n"),
            ),
            400,
        ),
        (
            get(
                "/v1/data-channel/x",
                &format!("{close}{upgrade}Sec-WebSocket-Version: 13\r\n"),
            ),
            400,
        ),
        (
            get(
                "/v1/data-channel/x",
                &format!("{close}{}", authorization("AKIAEXPIRED")),
            ),
            403,
        ),
    ] {
        let answer = exchange(addr, &request).await;
        assert_eq!(answer.status, status, "{request}{answer:?}");
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn sessions_are_listed_with_their_state() {
    let emulator = emulator(Pacing::Off).await;
    let ticket = start(&emulator, "AWS-StartSSHSession", server(echo).await).await;
    let list = async |state: &str| {
        let answer = call(
            &emulator,
            "DescribeSessions",
            json!({
                "State": state,
                "Filters": [{ "key": "SessionId", "value": ticket.session_id }],
            }),
        )
        .await
        .json();
        answer["Sessions"].as_array().unwrap().clone()
    };
    assert_eq!(list("Active").await[0]["Status"], "Connecting");
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    assert_eq!(list("Active").await[0]["Status"], "Connected");
    drop(client);
    while list("Active").await[0]["Status"] != "Disconnected" {
        tokio::task::yield_now().await;
    }
    let terminated = call(
        &emulator,
        "TerminateSession",
        json!({ "SessionId": ticket.session_id }),
    )
    .await;
    assert_eq!(terminated.json()["SessionId"], ticket.session_id.as_str());
    while list("History").await.is_empty() {
        tokio::task::yield_now().await;
    }
    let ended = &list("History").await[0];
    assert_eq!(ended["Status"], "Terminated");
    assert!(ended["EndDate"].as_f64() >= ended["StartDate"].as_f64());
    assert!(list("Active").await.is_empty());
    // Ending what has ended is no mistake; resuming it is.
    let again = json!({ "SessionId": ticket.session_id });
    assert_eq!(
        call(&emulator, "TerminateSession", again.clone())
            .await
            .status,
        200
    );
    let resumed = call(&emulator, "ResumeSession", again).await;
    assert_eq!(resumed.kind(), "DoesNotExistException");
    emulator.shutdown().await;
}
