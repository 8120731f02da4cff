//! Whole sessions: a foreign client, the gateway, the embedded agent, a TCP server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::foreign_client::{Client, FLAG, OUTPUT, Ticket, resume, smux, start};
use super::{
    DEADLINE, Emulator, Options, Pacing, Resend, call, closed_port, echo, emulator, message, server,
};

const SYN: u8 = 0;
const FIN: u8 = 1;
const PSH: u8 = 2;

const SSH: &str = "AWS-StartSSHSession";
const FORWARDING: &str = "AWS-StartPortForwardingSession";

/// Sends `LENGTH` bytes, a counter, and closes.
async fn count(mut stream: TcpStream) {
    // The reader may leave early.
    let _ = stream.write_all(&counted(LENGTH)).await;
}

const LENGTH: usize = 300 * 1024;

/// A plain session to a server that counts.
async fn counting(options: Options) -> (Emulator, Ticket, Client) {
    let emulator = Emulator::start(options).await.unwrap();
    let ticket = start(&emulator, SSH, server(count).await).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    (emulator, ticket, client)
}

fn counted(length: usize) -> Vec<u8> {
    (0u32..).flat_map(u32::to_be_bytes).take(length).collect()
}

#[tokio::test]
async fn a_plain_session_carries_bytes_and_ends_with_the_target() {
    let emulator = emulator(Pacing::Off).await;
    let port = server(async |mut stream| {
        let mut line = [0; 5];
        stream.read_exact(&mut line).await.unwrap();
        stream.write_all(&line).await.unwrap();
    })
    .await;
    let ticket = start(&emulator, SSH, port).await;
    let mut client = Client::open(&ticket).await;
    let request = client.shake_hands("1.2.764.0").await;
    let action = &request["RequestedClientActions"][0];
    assert_eq!(action["ActionType"], "SessionType");
    assert_eq!(
        action["ActionParameters"],
        json!({ "SessionType": "Port", "Properties": { "portNumber": port.to_string() } })
    );
    client.send(OUTPUT, b"hello").await;
    assert_eq!(client.receive_output(5).await, b"hello");
    let closed = client.receive().await;
    assert_eq!(closed.kind, "channel_closed");
    assert_eq!(closed.json()["Output"], "");
    assert_eq!(closed.json()["SessionId"], ticket.session_id.as_str());
    assert_eq!(client.receive_raw().await, None);
    assert_eq!(client.acknowledged, [0, 1]);
    emulator.shutdown().await;
}

/// It gives acknowledgements no time at the end, and has sent everything by then all the same.
#[tokio::test]
async fn an_old_agent_loses_no_last_words() {
    let options = Options {
        agent_version: "2.3.722.0".parse().unwrap(),
        pacing: Pacing::Real,
        ..Options::default()
    };
    let (emulator, _ticket, mut client) = counting(options).await;
    assert!(client.receive_output(LENGTH).await == counted(LENGTH));
    assert_eq!(client.receive().await.kind, "channel_closed");
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_multiplexed_session_carries_streams() {
    let emulator = emulator(Pacing::Off).await;
    let ticket = start(&emulator, FORWARDING, server(echo).await).await;
    let mut client = Client::open(&ticket).await;
    let request = client.shake_hands("1.2.764.0").await;
    let properties = &request["RequestedClientActions"][0]["ActionParameters"]["Properties"];
    assert_eq!(properties["type"], "LocalPortForwarding");
    // Two streams, and frames that do not keep to the messages' borders.
    let bytes = [
        smux(SYN, 3, b""),
        smux(SYN, 5, b""),
        smux(PSH, 3, b"three"),
        smux(PSH, 5, b"five"),
    ]
    .concat();
    client.send(OUTPUT, &bytes[..13]).await;
    client.send(OUTPUT, &bytes[13..]).await;
    let (three, five) = (smux(PSH, 3, b"three"), smux(PSH, 5, b"five"));
    let answer = client.receive_output(three.len() + five.len()).await;
    let either = [
        [three.clone(), five.clone()].concat(),
        [five, three].concat(),
    ];
    assert!(either.contains(&answer), "{answer:?}");
    // A FIN is answered with one, after what came before it has reached the target.
    client.send(OUTPUT, &smux(FIN, 3, b"")).await;
    assert_eq!(client.receive_output(8).await, smux(FIN, 3, b""));
    client.send(OUTPUT, &smux(PSH, 5, b"still")).await;
    assert_eq!(client.receive_output(13).await, smux(PSH, 5, b"still"));
    emulator.shutdown().await;
}

#[tokio::test]
async fn an_old_client_gets_a_plain_session_that_dials_again() {
    let emulator = emulator(Pacing::Off).await;
    let ticket = start(&emulator, FORWARDING, server(echo).await).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.1.69").await;
    client.send(OUTPUT, b"one").await;
    assert_eq!(client.receive_output(3).await, b"one");
    client.send(FLAG, &[0, 0, 0, 1]).await;
    client.send(OUTPUT, b"two").await;
    assert_eq!(client.receive_output(3).await, b"two");
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_refused_dial_is_told() {
    let emulator = emulator(Pacing::Off).await;
    let port = closed_port().await;
    let mut client = Client::open(&start(&emulator, FORWARDING, port).await).await;
    client.shake_hands("1.2.764.0").await;
    client.send(OUTPUT, &smux(SYN, 3, b"")).await;
    let flag = client.receive().await;
    assert_eq!(
        (flag.payload_type, &flag.payload[..]),
        (FLAG, &[0, 0, 0, 3][..])
    );
    assert_eq!(client.receive_output(8).await, smux(FIN, 3, b""));

    let mut client = Client::open(&start(&emulator, SSH, port).await).await;
    client.shake_hands("1.2.764.0").await;
    let closed = client.receive().await;
    assert_eq!(closed.kind, "channel_closed");
    let output = closed.json()["Output"].as_str().unwrap().to_owned();
    assert!(output.contains("Unable to connect"), "{output}");
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_client_that_comes_too_late_hears_why() {
    let emulator = emulator(Pacing::Off).await;
    let answer = call(
        &emulator,
        "StartSession",
        json!({
            "Target": emulator.target(),
            "DocumentName": "AWS-StartPortForwardingSessionToRemoteHost",
            "Parameters": { "portNumber": ["80"], "host": ["169.254.169.254"] },
        }),
    )
    .await;
    let ticket = Ticket::new(&answer.json());
    let id = json!({ "SessionId": ticket.session_id });
    // The agent has refused by then.
    while call(&emulator, "ResumeSession", id.clone()).await.status == 200 {}
    let mut client = Client::open(&ticket).await;
    let closed = client.receive().await;
    assert_eq!(closed.kind, "channel_closed");
    let output = closed.json()["Output"].as_str().unwrap().to_owned();
    assert!(output.contains("169.254.169.254 is forbidden"), "{output}");
    assert_eq!(client.receive_raw().await, None);
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_backlog_is_resent_at_once_when_asked_for() {
    let options = Options {
        pacing: Pacing::Off,
        resend: Resend::Backlog,
        ..Options::default()
    };
    let (emulator, ticket, mut client) = counting(options).await;
    // Of 300 messages under way, all are lost.
    while client.receive_raw().await.unwrap().sequence < 100 {}
    let ticket = resume(&emulator, &ticket.session_id).await;
    client.reopen(&ticket).await;
    let begun = Instant::now();
    assert!(client.receive_output(LENGTH).await == counted(LENGTH));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_resume_loses_nothing() {
    let emulator = emulator(Pacing::Off).await;
    // Every byte asks for the next 4 KiB.
    let port = server(async |mut stream| {
        for part in counted(LENGTH).chunks(4096) {
            if stream.read_u8().await.is_err() || stream.write_all(part).await.is_err() {
                return;
            }
        }
        // Stays: an end of the target would be the session's, two seconds later.
        let _ = stream.read_u8().await;
    })
    .await;
    let ticket = start(&emulator, SSH, port).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    client.send(OUTPUT, b"1234").await;
    let mut received = client.receive_output(16 * 1024).await;
    client.send(OUTPUT, b"5").await;
    // These are lost with the socket: received and never acknowledged, or received by nobody.
    while client.receive_raw().await.unwrap().kind != "output_stream_data" {}
    let ticket = resume(&emulator, &ticket.session_id).await;
    client.reopen(&ticket).await;
    client.send(OUTPUT, b"67").await;
    received.extend(client.receive_output(12 * 1024).await);
    assert!(received == counted(28 * 1024));
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_gap_of_the_client_is_filled_and_duplicates_are_acknowledged_again() {
    let emulator = emulator(Pacing::Off).await;
    let ticket = start(&emulator, SSH, server(echo).await).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    let late = message("input_stream_data", 1, 0, OUTPUT, b"first ");
    client
        .send_raw(message("input_stream_data", 2, 0, OUTPUT, b"second"))
        .await;
    client.send_raw(late.clone()).await;
    assert_eq!(client.receive_output(12).await, b"first second");
    client.acknowledged.clear();
    client.send_raw(late).await;
    client
        .send_raw(message("input_stream_data", 3, 0, OUTPUT, b"."))
        .await;
    assert_eq!(client.receive_output(1).await, b".");
    while client.acknowledged != [1, 3] {
        let acknowledge = client.receive_raw().await.unwrap();
        let number = acknowledge.json()["AcknowledgedMessageSequenceNumber"].as_i64();
        client.acknowledged.extend(number);
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_can_still_send() {
    let emulator = emulator(Pacing::Off).await;
    let (done, mut all_came) = tokio::sync::mpsc::channel(1);
    // Floods the client and counts what it sends.
    let port = server(move |mut stream: TcpStream| {
        let done = done.clone();
        async move {
            let (mut reader, mut writer) = stream.split();
            let flood = async { while writer.write_all(&[0; 4096]).await.is_ok() {} };
            let count = async {
                let mut sum = vec![0; 8 << 20];
                reader.read_exact(&mut sum).await.unwrap();
                done.send(()).await.unwrap();
            };
            tokio::join!(flood, count);
        }
    })
    .await;
    let ticket = start(&emulator, SSH, port).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    // Long enough for every buffer on the way back to be full.
    for _ in 0..128 {
        client.send(OUTPUT, &[1; 64 * 1024]).await;
    }
    tokio::time::timeout(DEADLINE, all_came.recv())
        .await
        .unwrap();
    drop(client);
    emulator.shutdown().await;
}

#[tokio::test]
async fn only_the_oldest_message_is_resent() {
    let emulator = emulator(Pacing::Off).await;
    let ticket = start(&emulator, SSH, server(count).await).await;
    let mut client = Client::open(&ticket).await;
    // Before the first is sent: a client that gets its turn late finds resends that wait for it.
    let begun = Instant::now();
    client.shake_hands("1.2.764.0").await;
    // All 300 messages arrive, none is acknowledged.
    let mut seen = BTreeMap::new();
    while seen.len() < 300 {
        let received = client.receive_raw().await.unwrap();
        if received.kind == "output_stream_data" {
            seen.insert(received.sequence, received);
        }
    }
    for _ in 0..3 {
        let again = client.receive_raw().await.unwrap();
        assert_eq!((again.sequence, &again.id), (2, &seen[&2].id));
    }
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert!(seen.values().all(|message| message.payload.len() <= 1024));
    emulator.shutdown().await;
}

#[tokio::test]
async fn the_agents_pause_is_a_millisecond_a_message() {
    let emulator = emulator(Pacing::Real).await;
    let ticket = start(&emulator, SSH, server(count).await).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    let begun = Instant::now();
    assert!(client.receive_output(LENGTH).await == counted(LENGTH));
    let elapsed = begun.elapsed();
    // 300 messages; the upper bound leaves room for a busy machine.
    assert!(elapsed >= Duration::from_millis(280), "{elapsed:?}");
    assert!(elapsed <= Duration::from_millis(1500), "{elapsed:?}");
    emulator.shutdown().await;
}

#[tokio::test]
async fn sessions_are_ended_by_api_and_by_flag() {
    let emulator = emulator(Pacing::Off).await;
    let port = server(echo).await;
    let ticket = start(&emulator, FORWARDING, port).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    let id = json!({ "SessionId": ticket.session_id });
    assert_eq!(call(&emulator, "TerminateSession", id).await.status, 200);
    assert_eq!(client.receive().await.kind, "channel_closed");
    assert_eq!(client.receive_raw().await, None);

    let ticket = start(&emulator, FORWARDING, port).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    client.send(FLAG, &[0, 0, 0, 2]).await;
    assert_eq!(client.receive().await.kind, "channel_closed");
    assert_eq!(client.receive_raw().await, None);
    emulator.shutdown().await;
}

#[tokio::test]
async fn shutdown_tells_clients_and_is_prompt() {
    let emulator = emulator(Pacing::Off).await;
    let ticket = start(&emulator, FORWARDING, server(echo).await).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    let begun = Instant::now();
    let (closed, ()) = tokio::join!(client.receive(), emulator.shutdown());
    assert_eq!(closed.json()["Output"], "The emulator was stopped");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}
