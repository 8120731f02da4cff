//! Every call against the emulator, which reads requests and writes answers by a codec of its own.

use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::managed::Ping;
use super::*;
use crate::emulator::{Details, Emulator, Instance, Options};

async fn aws(endpoint: &str, token: &str) -> Aws {
    let token = (!token.is_empty()).then(|| token.to_owned());
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", token, None, "test");
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(credentials);
    Aws::new(Ssm::from_loader(loader).await.unwrap()).unwrap()
}

fn instance(number: usize) -> Instance {
    Instance {
        id: format!("i-{number:017x}"),
        name: format!("web-{number}"),
        agent: false,
        details: Details {
            lost_seconds: Some(60),
            ..Details::default()
        },
    }
}

async fn fleet(count: usize) -> Emulator {
    let mut instances = vec![Instance::default()];
    instances.extend((1..count).map(instance));
    let options = Options {
        instances,
        ..Options::default()
    };
    Emulator::start(options).await.unwrap()
}

#[tokio::test]
async fn lists_are_read_to_their_end() {
    let emulator = fleet(260).await;
    let aws = aws(&emulator.endpoint(), "").await;
    let managed = aws.describe_managed(&[]).await.unwrap();
    assert_eq!((managed.items.len(), managed.is_complete), (260, true));
    let online = managed
        .items
        .iter()
        .filter(|each| each.ping == Ping::Online);
    assert_eq!(online.count(), 1);
    let named = aws
        .describe_managed(&[("tag:Name", "web-7")])
        .await
        .unwrap();
    assert_eq!(named.items.len(), 1);
    assert_eq!(named.items[0].ping, Ping::ConnectionLost);
    assert!(named.items[0].last_ping.is_some());

    let instances = aws.describe_instances(&[]).await.unwrap();
    assert_eq!((instances.items.len(), instances.is_complete), (260, true));
    let names = ["web-7".to_owned(), "web-8".to_owned()];
    let some = aws
        .describe_instances(&[("tag:Name", &names)])
        .await
        .unwrap();
    assert_eq!(some.items.len(), 2);
    assert_eq!(some.items[0].tag("Name"), Some("web-7"));
    assert_eq!(some.items[0].state, "running");
    emulator.shutdown().await;
}

#[tokio::test]
async fn the_other_calls_are_understood() {
    let emulator = fleet(2).await;
    let aws = aws(&emulator.endpoint(), "token").await;
    let caller = aws.caller_identity().await.unwrap();
    assert_eq!(caller.account, "000000000000");
    assert!(aws.is_connected(emulator.target()).await.unwrap());
    assert!(!aws.is_connected("i-0123").await.unwrap());

    let key = include_str!("../../keys/ed25519.pub");
    aws.send_ssh_public_key(emulator.target(), "ubuntu", key)
        .await
        .unwrap();
    let error = aws
        .send_ssh_public_key("i-0123", "ubuntu", key)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("EC2InstanceNotFound"), "{error}");
    let error = aws
        .send_ssh_public_key(emulator.target(), "../etc", key)
        .await;
    assert!(error.unwrap_err().to_string().contains("InvalidArgs"));
    emulator.shutdown().await;
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let emulator = fleet(1).await;
    let endpoint = emulator.endpoint();
    for verb in ["DENY", "EXPIRE", "THROTTLE"] {
        let words = [
            Operation::DescribeInstances,
            Operation::SendKey,
            Operation::CallerIdentity,
            Operation::DescribeManaged,
        ]
        .map(|operation| format!("{verb}.{operation}"));
        let aws = aws(&endpoint, &words.join(",")).await;
        let key = include_str!("../../keys/ed25519.pub");
        let errors = [
            aws.describe_instances(&[]).await.unwrap_err(),
            aws.send_ssh_public_key(emulator.target(), "ubuntu", key)
                .await
                .unwrap_err(),
            aws.caller_identity().await.unwrap_err(),
            aws.describe_managed(&[]).await.unwrap_err(),
        ];
        for error in errors {
            let is_right = match verb {
                "DENY" => matches!(error, Error::AccessDenied { .. }),
                "EXPIRE" => matches!(error, Error::CredentialsExpired(_)),
                _ => matches!(error, Error::Throttled { .. }),
            };
            assert!(is_right, "{verb}: {error:?}");
            assert!(error.hint().is_some(), "{error:?}");
        }
    }
    emulator.shutdown().await;
}

/// Told to wait a second, a call is repeated after a second; told to wait for a minute, it says so at once.
#[tokio::test]
async fn a_call_waits_as_long_as_it_is_told_to_but_not_forever() {
    let emulator = fleet(1).await;
    let aws = aws(&emulator.endpoint(), "").await;
    let throttle = |retry_after, times| {
        let fault = json!({ "faults": [{ "fault": "api", "operation": "DescribeInstances",
            "answer": { "throttled": { "retry_after": retry_after } }, "extent": { "times": times } }] });
        let plan = serde_json::from_value(fault).unwrap();
        emulator.faults().apply(plan).unwrap();
    };
    let began = Instant::now();
    throttle(1, 1);
    assert_eq!(aws.describe_instances(&[]).await.unwrap().items.len(), 1);
    assert!(began.elapsed() >= Duration::from_secs(1));

    throttle(60, 1);
    let error = aws.describe_instances(&[]).await.unwrap_err();
    assert!(matches!(error, Error::Throttled { .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
    emulator.shutdown().await;
}

/// What DescribeInstances makes of an answer without end, or of none.
#[tokio::test]
async fn an_answer_is_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serve = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = tcp.read(&mut request).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\nconnection: close\r\n\r\n";
        tcp.write_all(head.as_bytes()).await.unwrap();
        // Ends when the client has had enough.
        while tcp.write_all(&[b' '; 1 << 16]).await.is_ok() {}
    };
    let aws = aws(&endpoint, "").await;
    let (_, answer) = tokio::join!(serve, aws.describe_instances(&[]));
    assert!(
        matches!(answer, Err(Error::Unreachable { .. })),
        "{answer:?}"
    );
    drop(listener);
    let error = aws.describe_instances(&[]).await.unwrap_err();
    let host = endpoint.trim_start_matches("http://");
    assert_eq!(error.to_string(), format!("cannot connect to {host}"));
}
