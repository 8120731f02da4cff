//! Faults, as a foreign client meets them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::foreign_client::{Client, End, OUTPUT, Ticket, resume, start};
use super::{
    Answer, DEADLINE, Emulator, Pacing, authorization, call, call_with, echo, emulator, exchange,
    message, server,
};
use crate::emulator::fault::plan::{Ending, PlanError};
use crate::emulator::fault::{Counters, Fault, Plan};
use crate::emulator::{Error, Options, Peer};

const SSH: &str = "AWS-StartSSHSession";

/// Long enough for anything that is under way to arrive.
const SILENCE: Duration = Duration::from_millis(150);

/// Injects a fault given as JSON.
fn inject(emulator: &Emulator, fault: Value) {
    let fault: Fault = serde_json::from_value(fault).unwrap();
    emulator.faults().inject(fault).unwrap();
}

async fn until(emulator: &Emulator, reached: impl Fn(&Counters) -> bool) -> Counters {
    let faults = emulator.faults();
    let wait = tokio::time::timeout(DEADLINE, faults.wait_until(reached)).await;
    wait.unwrap_or_else(|_| panic!("{:?}", emulator.faults().counters()))
}

/// A session with an echo behind it, ready to be used.
async fn echoing(emulator: &Emulator) -> (Client, Ticket) {
    let ticket = start(emulator, SSH, server(echo).await).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    say(&mut client, b"before").await;
    (client, ticket)
}

/// Has something echoed.
async fn say(client: &mut Client, word: &[u8]) {
    client.send(OUTPUT, word).await;
    assert_eq!(client.receive_output(word.len()).await, word);
}

async fn call_resume(emulator: &Emulator, ticket: &Ticket) -> Answer {
    let id = json!({ "SessionId": ticket.session_id });
    call(emulator, "ResumeSession", id).await
}

/// An upgrade as `access_key` would ask for it; returns the status.
async fn upgrade(emulator: &Emulator, ticket: &Ticket, access_key: &str) -> u16 {
    let (_, path) = ticket.url.split_once("/v1/").unwrap();
    let head = authorization(access_key);
    let request = format!("GET /v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n");
    exchange(emulator.hub.addr, &request).await.status
}

#[tokio::test]
async fn a_client_is_cut_as_asked() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, ticket) = echoing(&emulator).await;
    for (how, end) in [
        (Ending::Reset, End::Reset),
        (Ending::Fin, End::Fin),
        (Ending::Bye, End::Close(1000, "Bye".into())),
    ] {
        assert_eq!(emulator.faults().cut(Peer::Client, how), 1);
        assert_eq!(client.end().await, end, "{how:?}");
        client
            .reopen(&resume(&emulator, &ticket.session_id).await)
            .await;
        say(&mut client, b"after").await;
    }
    let counters = emulator.faults().counters();
    assert_eq!((counters.client_cuts, counters.resumes), (3, 3));
    assert_eq!((counters.sessions, counters.resume_calls), (1, 3));
    emulator.shutdown().await;
}

#[tokio::test]
async fn an_agent_is_cut_and_comes_back() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, _) = echoing(&emulator).await;
    for (count, how) in (1..).zip([Ending::Reset, Ending::Fin, Ending::Bye]) {
        assert_eq!(emulator.faults().cut(Peer::Agent, how), 1);
        let counters = until(&emulator, |counters| counters.agent_sockets > count).await;
        assert_eq!(counters.agent_cuts, count);
        say(&mut client, b"after").await;
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_black_hole_swallows_until_it_heals() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, ticket) = echoing(&emulator).await;
    let hole = Ending::BlackHole { heals: None };
    for side in [Peer::Client, Peer::Agent] {
        assert_eq!(emulator.faults().cut(side, hole), 1);
        until(&emulator, |counters| {
            counters.client_cuts + counters.agent_cuts == 1 + u64::from(side == Peer::Agent)
        })
        .await;
        client.send(OUTPUT, b"lost?").await;
        assert!(client.hears_nothing(SILENCE).await, "{side:?}");
        // Nothing was lost, it was only not read.
        emulator.faults().clear();
        assert_eq!(client.receive_output(5).await, b"lost?");
    }

    // A new socket takes the place of the one in the hole, which does not heal any more.
    emulator.faults().cut(Peer::Client, hole);
    until(&emulator, |counters| counters.client_cuts == 2).await;
    client.send(OUTPUT, b"gone").await;
    client.next_sent -= 1;
    client
        .reopen(&resume(&emulator, &ticket.session_id).await)
        .await;
    say(&mut client, b"here").await;

    inject(
        &emulator,
        json!({"fault": "cut", "side": "client", "how": {"black_hole": {"heals_ms": 50}}}),
    );
    say(&mut client, b"by itself").await;
    emulator.shutdown().await;
}

#[tokio::test]
async fn sockets_are_cut_again_and_again() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, ticket) = echoing(&emulator).await;
    inject(
        &emulator,
        json!({"fault": "cut", "side": "client", "how": "bye", "after": {"ms": 20},
               "extent": {"times": 3}, "sessions": {"only": ticket.session_id}}),
    );
    // Another session is left alone.
    let (mut other, _) = echoing(&emulator).await;
    for _ in 0..3 {
        assert_eq!(client.end().await, End::Close(1000, "Bye".into()));
        client
            .reopen(&resume(&emulator, &ticket.session_id).await)
            .await;
    }
    assert!(client.hears_nothing_new(SILENCE).await);
    say(&mut other, b"unharmed").await;
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_cut_after_messages_is_exact() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, ticket) = echoing(&emulator).await;
    inject(
        &emulator,
        json!({"fault": "cut", "side": "client", "how": "fin", "after": {"messages": 2}, "from": "client"}),
    );
    for _ in 0..4 {
        client.send(OUTPUT, b"x").await;
    }
    assert_eq!(client.end().await, End::Fin);
    client
        .reopen(&resume(&emulator, &ticket.session_id).await)
        .await;
    // Of the four the agent has had two: acknowledged again are these, and the others are new.
    let acknowledged = client.acknowledged.len();
    for sequence in client.next_sent - 4..client.next_sent {
        client
            .send_raw(message("input_stream_data", sequence, 0, OUTPUT, b"x"))
            .await;
    }
    assert_eq!(client.receive_output(4).await, b"xxxx");
    say(&mut client, b"and on").await;
    assert!(client.acknowledged.len() > acknowledged);
    emulator.shutdown().await;
}

#[tokio::test]
async fn messages_are_lost_doubled_and_late() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, _) = echoing(&emulator).await;
    let next = client.next_received;
    inject(
        &emulator,
        json!({"fault": "messages", "from": "agent", "kind": "data", "pick": {"sequence": [next]},
               "effect": "drop", "extent": {"times": 1}}),
    );
    inject(
        &emulator,
        json!({"fault": "messages", "from": "agent", "kind": "data", "pick": {"sequence": [next + 1]},
               "effect": "duplicate", "extent": {"times": 1}}),
    );
    inject(
        &emulator,
        json!({"fault": "messages", "from": "client", "kind": "data",
               "pick": {"sequence": [client.next_sent + 2]}, "effect": {"delay": {"ms": 30}}}),
    );
    for word in [b"one", b"two", b"thr"] {
        client.send(OUTPUT, word).await;
    }
    assert_eq!(client.receive_output(9).await, b"onetwothr");
    let counters = emulator.faults().counters();
    assert_eq!(
        (counters.dropped, counters.duplicated, counters.delayed),
        (1, 1, 1)
    );

    // Acknowledgements are messages too: unacknowledged, the agent sends its message again.
    let number = client.next_received;
    inject(
        &emulator,
        json!({"fault": "messages", "from": "client", "kind": "acknowledge",
               "pick": {"sequence": [number]}, "effect": "drop", "extent": {"times": 1}}),
    );
    say(&mut client, b"again").await;
    let again = client.receive_raw_data().await;
    assert_eq!(
        (again.sequence, &again.payload[..]),
        (number, &b"again"[..])
    );
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_slow_link_is_slow_and_loses_nothing() {
    let emulator = emulator(Pacing::Off).await;
    let port = server(async |mut stream| {
        // 4 MiB and more are in nobody's buffers: the target feels the link.
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
    })
    .await;
    let ticket = start(&emulator, SSH, port).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    inject(
        &emulator,
        json!({"fault": "link", "latency_ms": 60, "jitter_ms": 20}),
    );
    let begun = Instant::now();
    client.send(OUTPUT, b"there and back").await;
    client.receive_acknowledgement().await;
    assert!(begun.elapsed() >= Duration::from_millis(120));

    // Back-pressure: what the link does not carry, the socket does not take.
    emulator.faults().clear();
    inject(
        &emulator,
        json!({"fault": "link", "from": "client", "bytes_per_second": 1000}),
    );
    let frame = message("input_stream_data", 5, 0, OUTPUT, &[0; 64 * 1024]);
    let flood = async {
        for _ in 0..1024 {
            client.send_raw(frame.clone()).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), flood)
            .await
            .is_err()
    );
    emulator.shutdown().await;
}

#[tokio::test]
async fn publication_is_paused_and_started() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, _) = echoing(&emulator).await;
    for (paused, kind) in [(true, "pause_publication"), (false, "start_publication")] {
        inject(
            &emulator,
            json!({"fault": "publication", "side": "client", "paused": paused}),
        );
        while client.receive_raw().await.unwrap().kind != kind {}
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn sessions_are_terminated_with_a_text() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, ticket) = echoing(&emulator).await;
    let (mut other, _) = echoing(&emulator).await;
    inject(
        &emulator,
        json!({"fault": "terminate", "text": "by the administrator", "sessions": {"only": ticket.session_id}}),
    );
    let closed = client.receive().await;
    assert_eq!(closed.kind, "channel_closed");
    assert_eq!(closed.json()["Output"], "by the administrator");
    until(&emulator, |counters| counters.sessions_over == 1).await;
    assert_eq!(
        call_resume(&emulator, &ticket).await.kind(),
        "DoesNotExistException"
    );
    say(&mut other, b"unharmed").await;
    emulator.shutdown().await;
}

#[tokio::test]
async fn the_api_refuses() {
    let emulator = emulator(Pacing::Off).await;
    let (_client, ticket) = echoing(&emulator).await;
    for (answer, status, kind) in [
        (
            json!({"throttled": {"retry_after": 2}}),
            400,
            "ThrottlingException",
        ),
        (
            json!({"failed": {"status": 503}}),
            503,
            "InternalServerError",
        ),
        (json!("expired"), 400, "ExpiredTokenException"),
        (json!("denied"), 400, "AccessDeniedException"),
        (json!("does_not_exist"), 400, "DoesNotExistException"),
        (json!("target_not_connected"), 400, "TargetNotConnected"),
    ] {
        inject(
            &emulator,
            json!({"fault": "api", "operation": "ResumeSession", "answer": answer, "extent": {"times": 2}}),
        );
        for _ in 0..2 {
            let refused = call_resume(&emulator, &ticket).await;
            assert_eq!((refused.status, refused.kind().as_str()), (status, kind));
            let has_header = refused.head.contains("retry-after: 2");
            assert_eq!(has_header, kind == "ThrottlingException");
        }
        // Others are answered meanwhile, and this one afterwards.
        assert_eq!(
            call(&emulator, "DescribeSessions", json!({"State": "Active"}))
                .await
                .status,
            200
        );
        assert_eq!(call_resume(&emulator, &ticket).await.status, 200);
    }
    inject(
        &emulator,
        json!({"fault": "api", "operation": "ResumeSession", "answer": "no_token"}),
    );
    let late = call_resume(&emulator, &ticket).await;
    assert_eq!(
        (late.status, &late.json()["TokenValue"]),
        (200, &Value::Null)
    );
    assert_eq!(emulator.faults().counters().api_refused, 13);
    assert!(
        emulator.faults().report().faults.is_empty(),
        "all are used up"
    );
    emulator.shutdown().await;
}

#[tokio::test]
async fn credentials_expire_until_there_are_better() {
    let emulator = emulator(Pacing::Off).await;
    let (_client, ticket) = echoing(&emulator).await;
    inject(
        &emulator,
        json!({"fault": "expire", "unless_access_key": "AKIAFRESH", "extent": "always"}),
    );
    let id = json!({ "SessionId": ticket.session_id }).to_string();
    let resume = async |key| {
        call_with(&emulator, "ResumeSession", &authorization(key), &id)
            .await
            .status
    };
    assert_eq!(resume("AKIAEXAMPLE").await, 400);
    assert_eq!(upgrade(&emulator, &ticket, "AKIAEXAMPLE").await, 403);
    assert_eq!(resume("AKIAFRESH").await, 200);
    // Accepted as far as the headers of a WebSocket, which are missing.
    assert_eq!(upgrade(&emulator, &ticket, "AKIAFRESH").await, 400);
    emulator.faults().clear();
    assert_eq!(resume("AKIAEXAMPLE").await, 200);
    emulator.shutdown().await;
}

#[tokio::test]
async fn the_gateway_refuses() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, ticket) = echoing(&emulator).await;
    inject(
        &emulator,
        json!({"fault": "gateway", "refusal": {"status": 403}}),
    );
    inject(
        &emulator,
        json!({"fault": "gateway", "refusal": {"status": 502}}),
    );
    assert_eq!(upgrade(&emulator, &ticket, "AKIAEXAMPLE").await, 403);
    assert_eq!(upgrade(&emulator, &ticket, "AKIAEXAMPLE").await, 502);
    inject(&emulator, json!({"fault": "gateway", "refusal": "close"}));
    client
        .reopen(&resume(&emulator, &ticket.session_id).await)
        .await;
    assert_eq!(
        client.end().await,
        End::Close(1008, "refused by a fault".into())
    );
    // An agent is not concerned.
    inject(
        &emulator,
        json!({"fault": "gateway", "refusal": {"status": 503}, "extent": "always"}),
    );
    emulator.faults().cut(Peer::Agent, Ending::Reset);
    until(&emulator, |counters| counters.agent_sockets == 2).await;
    emulator.faults().clear();
    client
        .reopen(&resume(&emulator, &ticket.session_id).await)
        .await;
    say(&mut client, b"here").await;
    emulator.shutdown().await;
}

#[tokio::test]
async fn the_network_is_away_for_a_time() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, ticket) = echoing(&emulator).await;
    inject(
        &emulator,
        json!({"fault": "network", "how": "hang", "ms": 60_000}),
    );
    let hanging = call_resume(&emulator, &ticket);
    assert!(tokio::time::timeout(SILENCE, hanging).await.is_err());
    // What is open goes on, and the control endpoint answers.
    say(&mut client, b"still here").await;
    let cleared = exchange(
        emulator.hub.addr,
        "DELETE /faults HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(cleared.status, 200);
    assert_eq!(call_resume(&emulator, &ticket).await.status, 200);

    inject(
        &emulator,
        json!({"fault": "network", "how": "refuse", "ms": 300}),
    );
    let mut refused = 0;
    let deadline = Instant::now() + DEADLINE;
    loop {
        match TcpStream::connect(emulator.hub.addr).await {
            Ok(_) if refused > 0 => break,
            // The port is not closed yet.
            Ok(_) => {}
            Err(error) => {
                // Reset is what was accepted by nobody when the port closed.
                refused += u32::from(error.kind() == std::io::ErrorKind::ConnectionRefused);
            }
        }
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    say(&mut client, b"all the time").await;
    assert_eq!(call_resume(&emulator, &ticket).await.status, 200);
    emulator.shutdown().await;
}

#[tokio::test]
async fn an_agent_stops_and_comes_back() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, ticket) = echoing(&emulator).await;
    inject(&emulator, json!({"fault": "agent", "away_ms": 100}));
    let closed = client.receive().await;
    assert_eq!(closed.kind, "channel_closed");
    assert_eq!(closed.json()["Output"], "The agent was stopped");
    until(&emulator, |counters| counters.sessions_over == 1).await;
    assert_eq!(
        call_resume(&emulator, &ticket).await.kind(),
        "DoesNotExistException"
    );
    let target = json!({ "Target": emulator.target() });
    let status = async || {
        let answer = call(&emulator, "GetConnectionStatus", target.clone()).await;
        answer.json()["Status"].as_str().unwrap().to_owned()
    };
    until(&emulator, |counters| counters.agents_stopped == 1).await;
    while status().await != "connected" {
        tokio::task::yield_now().await;
    }
    let (mut client, ticket) = echoing(&emulator).await;

    // Silently: the session is there, and nobody in it.
    inject(
        &emulator,
        json!({"fault": "agent", "away_ms": 100, "silent": true}),
    );
    until(&emulator, |counters| counters.agents_stopped == 2).await;
    client
        .reopen(&resume(&emulator, &ticket.session_id).await)
        .await;
    client.send(OUTPUT, b"anybody?").await;
    assert!(client.hears_nothing_new(SILENCE).await);
    let unknown = Fault::Agent(crate::emulator::fault::plan::Agent {
        target: Some("i-unknown".into()),
        ..Default::default()
    });
    assert!(matches!(
        emulator.faults().inject(unknown),
        Err(PlanError::UnknownTarget { .. })
    ));
    emulator.shutdown().await;
}

/// It is told that the agent is gone before anything else is told of that.
#[tokio::test]
async fn an_agent_that_stops_is_offline_at_once() {
    let emulator = emulator(Pacing::Off).await;
    let node = &emulator.hub.nodes[emulator.target()];
    assert!(node.is_online());
    inject(&emulator, json!({"fault": "agent", "away_ms": 3_600_000}));
    assert!(!node.is_online());
    let counters = until(&emulator, |counters| counters.agents_stopped == 1).await;
    assert_eq!(counters.agent_sockets, 0);
    emulator.shutdown().await;
}

#[tokio::test]
async fn an_agent_repeats_what_it_could_not_acknowledge() {
    let emulator = emulator(Pacing::Off).await;
    for (on, echoed) in [(false, &b"twice?"[..]), (true, b"twice?twice?")] {
        let (mut client, ticket) = echoing(&emulator).await;
        inject(&emulator, json!({"fault": "repeat", "on": on}));
        client.send(OUTPUT, b"twice?").await;
        let sent = client.next_sent - 1;
        assert_eq!(client.receive_output(6).await, b"twice?");
        let sockets = emulator.faults().counters().agent_sockets;
        inject(
            &emulator,
            json!({"fault": "cut", "side": "agent", "how": "reset", "sessions": {"only": ticket.session_id}}),
        );
        until(&emulator, |counters| counters.agent_sockets > sockets).await;
        client
            .send_raw(message("input_stream_data", sent, 0, OUTPUT, b"twice?"))
            .await;
        client.send(OUTPUT, b".").await;
        assert_eq!(
            client.receive_output(echoed.len() - 5).await,
            [&echoed[6..], b"."].concat()
        );
    }
    assert_eq!(emulator.faults().counters().repeated, 1);
    emulator.shutdown().await;
}

#[tokio::test]
async fn the_control_endpoint_speaks_http() {
    let emulator = emulator(Pacing::Off).await;
    let (_client, ticket) = echoing(&emulator).await;
    let ask = async |method: &str, body: &str| {
        let length = body.len();
        let request = format!(
            "{method} /faults HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        exchange(emulator.hub.addr, &request).await
    };
    let injected = ask(
        "POST",
        r#"{"seed": 7, "faults": [{"fault": "link", "latency_ms": 1}, {"fault": "api", "answer": "denied"}]}"#,
    )
    .await;
    assert_eq!(injected.status, 200, "{injected:?}");
    let told = ask("GET", "").await.json();
    assert_eq!(told["seed"], 7);
    assert_eq!(told["faults"][0]["latency_ms"], 1);
    assert_eq!(told["faults"][1]["answer"], "denied");
    assert_eq!(told["counters"]["sessions"], 1);
    assert_eq!(told["sessions"][0]["id"], ticket.session_id.as_str());
    assert_eq!(told["sessions"][0]["status"], "Connected");
    assert_eq!(
        (
            &told["sessions"][0]["client"],
            &told["sessions"][0]["agent"]
        ),
        (&json!(true), &json!(true))
    );
    let cleared = ask("DELETE", "").await.json();
    assert_eq!(cleared["faults"], json!([]));

    for (body, named) in [
        ("{", "not a plan"),
        (r#"{"falts": []}"#, "falts"),
        (r#"{"fault": "cut", "side": "client", "how": "rst"}"#, "rst"),
        (
            r#"{"faults": [{"fault": "repeat", "on": true}, {"fault": "link", "bytes_per_second": 0}]}"#,
            "at least 1",
        ),
    ] {
        let refused = ask("POST", body).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        let error = refused.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(named), "{error}");
        assert!(
            refused.json()["example"]
                .as_str()
                .unwrap()
                .parse::<Plan>()
                .is_ok()
        );
    }
    assert!(!emulator.hub.faults.repeats(), "all of a plan or nothing");
    assert_eq!(ask("PUT", "").await.status, 405);
    emulator.shutdown().await;
}

#[tokio::test]
async fn faults_may_be_there_from_the_start() {
    let plan: Plan = r#"{"seed": 3, "faults": [{"fault": "gateway", "refusal": {"status": 503}}]}"#
        .parse()
        .unwrap();
    let options = Options {
        pacing: Pacing::Off,
        faults: plan,
        ..Options::default()
    };
    let emulator = Emulator::start(options).await.unwrap();
    assert_eq!(emulator.faults().seed(), 3);
    let ticket = start(&emulator, SSH, server(echo).await).await;
    assert_eq!(upgrade(&emulator, &ticket, "AKIAEXAMPLE").await, 503);
    emulator.shutdown().await;

    let senseless = r#"{"fault": "link", "bytes_per_second": 0}"#.parse().unwrap();
    let options = Options {
        faults: senseless,
        ..Options::default()
    };
    assert!(matches!(
        Emulator::start(options).await,
        Err(Error::Fault(_))
    ));
}
