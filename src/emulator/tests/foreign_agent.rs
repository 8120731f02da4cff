//! An agent that is not ours in the agent's place.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::foreign_client::{Client, OUTPUT, Ticket};
use super::{DEADLINE, Parsed, call, emulator_with_offline, exchange, message};

const INSTANCE: &str = "mi-0aaaaaaaaaaaaaaaa";

struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Creates and opens a channel as an agent does.
    async fn open(addr: SocketAddr, path: &str, query: &str, opening: Value) -> Self {
        Self::open_with(addr, path, query, opening, None).await
    }

    /// As [`Socket::open`], with `early` sent before the opening message.
    async fn open_with(
        addr: SocketAddr,
        path: &str,
        query: &str,
        mut opening: Value,
        early: Option<Vec<u8>>,
    ) -> Self {
        let body = r#"{"MessageSchemaVersion":"1.0","RequestId":"r"}"#;
        let created = exchange(
            addr,
            &format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        )
        .await;
        assert_eq!(created.status, 201, "{created:?}");
        assert!(
            created
                .body
                .contains("<MessageSchemaVersion>1.0</MessageSchemaVersion>")
        );
        let (_, token) = created.body.split_once("<TokenValue>").unwrap();
        opening["TokenValue"] = token.split_once("</TokenValue>").unwrap().0.into();
        let stream = TcpStream::connect(addr).await.unwrap();
        let url = format!("ws://{addr}{path}?{query}");
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        if let Some(early) = early {
            socket.send(Message::binary(early)).await.unwrap();
        }
        socket
            .send(Message::text(opening.to_string()))
            .await
            .unwrap();
        Self(socket)
    }

    async fn send(&mut self, frame: Vec<u8>) {
        self.0.send(Message::binary(frame)).await.unwrap();
    }

    async fn receive(&mut self) -> Parsed {
        let next = tokio::time::timeout(DEADLINE, self.0.next()).await;
        match next.expect("no message in time") {
            Some(Ok(Message::Binary(frame))) => Parsed::new(&frame),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_gateway_serves_a_foreign_agent() {
    let emulator = emulator_with_offline().await;
    let addr = emulator.hub.addr;
    let mut control = Socket::open(
        addr,
        &format!("/v1/control-channel/{INSTANCE}"),
        "role=subscribe&stream=input",
        json!({
            "Cookie": null, "MessageSchemaVersion": "1.0", "RequestId": "r",
            "AgentVersion": "3.3.9999.0", "PlatformType": "linux",
        }),
    )
    .await;
    let status = async || {
        let answer = call(
            &emulator,
            "GetConnectionStatus",
            json!({ "Target": INSTANCE }),
        )
        .await;
        answer.json()["Status"].as_str().unwrap().to_owned()
    };
    while status().await != "connected" {
        tokio::task::yield_now().await;
    }

    // A shell is nothing to the service: a foreign agent may well have one.
    let started = call(&emulator, "StartSession", json!({ "Target": INSTANCE })).await;
    assert_eq!(started.status, 200, "{started:?}");
    let ticket = Ticket::new(&started.json());
    let mut client = Client::open(&ticket).await;
    let told = control.receive().await;
    assert_eq!(told.kind, "interactive_shell");
    let again = control.receive().await;
    assert_eq!(
        (again.kind, again.payload),
        (told.kind.clone(), told.payload.clone())
    );
    let content: Value = serde_json::from_str(told.json()["Content"].as_str().unwrap()).unwrap();
    assert_eq!(content["SessionId"], ticket.session_id.as_str());
    assert_eq!(content["DocumentContent"]["sessionType"], "Standard_Stream");

    let mut data = Socket::open(
        addr,
        &format!("/v1/data-channel/{}", ticket.session_id),
        "role=publish_subscribe",
        json!({ "MessageSchemaVersion": "1.0", "ClientInstanceId": INSTANCE, "ClientId": "" }),
    )
    .await;
    assert_eq!(data.receive().await.kind, "start_publication");
    let state =
        json!({ "SchemaVersion": 1, "SessionState": "Connected", "SessionId": ticket.session_id });
    data.send(message(
        "agent_session_state",
        0,
        3,
        0,
        state.to_string().as_bytes(),
    ))
    .await;

    // Passed as they are, both ways.
    assert_eq!(
        client.receive_raw().await.unwrap().kind,
        "start_publication"
    );
    let output = message("output_stream_data", 0, 1, OUTPUT, b"$ ");
    data.send(output.clone()).await;
    let received = client.receive_raw().await.unwrap();
    assert_eq!(received, Parsed::new(&output));
    client.acknowledge(&received).await;
    let acknowledge = data.receive().await;
    assert_eq!(
        (acknowledge.kind.as_str(), acknowledge.flags),
        ("acknowledge", 3)
    );
    client.send(OUTPUT, b"exit\r").await;
    assert_eq!(data.receive().await.payload, b"exit\r");

    // While the client is away the agent is paused, and what it sends is dropped.
    drop(client);
    assert_eq!(data.receive().await.kind, "pause_publication");
    data.send(message("output_stream_data", 1, 0, OUTPUT, b"lost"))
        .await;
    let resumed = call(
        &emulator,
        "ResumeSession",
        json!({ "SessionId": ticket.session_id }),
    )
    .await;
    let mut client = Client::open(&Ticket::new(&resumed.json())).await;
    assert_eq!(data.receive().await.kind, "start_publication");
    assert_eq!(
        client.receive_raw().await.unwrap().kind,
        "start_publication"
    );
    let output = message("output_stream_data", 1, 0, OUTPUT, b"resent");
    data.send(output.clone()).await;
    assert_eq!(client.receive_raw().await.unwrap(), Parsed::new(&output));

    // While the agent is away the client is told so. It may begin with what it has to send.
    drop(data);
    assert_eq!(
        client.receive_raw().await.unwrap().kind,
        "pause_publication"
    );
    let early = message("output_stream_data", 2, 0, OUTPUT, b"too early");
    let mut data = Socket::open_with(
        addr,
        &format!("/v1/data-channel/{}", ticket.session_id),
        "role=publish_subscribe",
        json!({ "MessageSchemaVersion": "1.0", "ClientInstanceId": INSTANCE, "ClientId": "" }),
        Some(early),
    )
    .await;
    assert_eq!(data.receive().await.kind, "start_publication");
    assert_eq!(
        client.receive_raw().await.unwrap().kind,
        "start_publication"
    );
    let output = message("output_stream_data", 2, 0, OUTPUT, b"again");
    data.send(output.clone()).await;
    assert_eq!(client.receive_raw().await.unwrap(), Parsed::new(&output));

    let complete = json!({
        "SchemaVersion": 1, "TaskId": ticket.session_id, "Topic": "agent_task_complete",
        "FinalTaskStatus": "Success", "IsRoutingFailure": false, "AwsAccountId": "", "InstanceId": INSTANCE,
        "Output": "Exiting session", "S3Bucket": "", "S3UrlSuffix": "", "CwlGroup": "", "CwlStream": "",
        "RetryNumber": 0,
    });
    control
        .send(message(
            "agent_task_complete",
            0,
            0,
            0,
            complete.to_string().as_bytes(),
        ))
        .await;
    let acknowledged = control.receive().await;
    assert_eq!(acknowledged.kind, "agent_task_acknowledge");
    assert_eq!(
        acknowledged.json()["MessageId"],
        "01234567-89ab-cdef-0011-223344556677"
    );
    assert_eq!(acknowledged.json()["TaskId"], ticket.session_id.as_str());
    let closed = client.receive_raw().await.unwrap();
    assert_eq!(closed.json()["Output"], "Exiting session");
    assert_eq!(data.receive().await.kind, "channel_closed");

    drop(control);
    while status().await != "notconnected" {
        tokio::task::yield_now().await;
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn strangers_get_no_channel() {
    let emulator = emulator_with_offline().await;
    for path in ["/v1/control-channel/i-unknown", "/v1/data-channel/unknown"] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let answer = exchange(emulator.hub.addr, &request).await;
        assert_eq!(answer.status, 403);
        assert!(
            answer.body.contains("<AccessDeniedException>"),
            "{answer:?}"
        );
    }
    emulator.shutdown().await;
}
