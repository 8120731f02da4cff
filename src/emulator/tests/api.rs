//! The AWS API.

use serde_json::json;

use super::{authorization, call, call_with, emulator_with_offline, exchange};
use crate::emulator::{Emulator, Error, Instance, Options};

#[tokio::test]
async fn requests_are_refused_with_the_services_errors() {
    let emulator = emulator_with_offline().await;
    let target = emulator.target();
    let cases = [
        (
            "StartSession",
            json!({ "Target": "i-unknown", "DocumentName": "AWS-StartSSHSession" }),
            "TargetNotConnected",
        ),
        (
            "StartSession",
            json!({ "Target": "mi-0aaaaaaaaaaaaaaaa", "DocumentName": "AWS-StartSSHSession" }),
            "TargetNotConnected",
        ),
        (
            "StartSession",
            json!({ "Target": "", "DocumentName": "AWS-StartSSHSession" }),
            "ValidationException",
        ),
        (
            "StartSession",
            json!({ "Target": "x".repeat(401) }),
            "ValidationException",
        ),
        ("StartSession", json!({}), "ValidationException"),
        (
            "StartSession",
            json!({ "Target": target, "DocumentName": "AWS-StartSomething" }),
            "InvalidDocument",
        ),
        (
            "StartSession",
            json!({ "Target": target }),
            "InvalidDocument",
        ),
        (
            "StartSession",
            json!({ "Target": target, "DocumentName": "AWS-StartSSHSession", "Parameters": { "portNumber": ["0"] } }),
            "BadRequest",
        ),
        (
            "StartSession",
            json!({ "Target": target, "DocumentName": "AWS-StartSSHSession", "Parameters": { "port": ["22"] } }),
            "BadRequest",
        ),
        (
            "StartSession",
            json!({ "Target": target, "DocumentName": "AWS-StartSSHSession", "Reason": "" }),
            "ValidationException",
        ),
        (
            "ResumeSession",
            json!({ "SessionId": "emulator-unknown" }),
            "DoesNotExistException",
        ),
        (
            "ResumeSession",
            json!({ "SessionId": "x".repeat(97) }),
            "ValidationException",
        ),
        (
            "TerminateSession",
            json!({ "SessionId": "emulator-unknown" }),
            "DoesNotExistException",
        ),
        ("DescribeSessions", json!({}), "ValidationException"),
        (
            "DescribeSessions",
            json!({ "State": "Active", "MaxResults": 201 }),
            "ValidationException",
        ),
        (
            "DescribeSessions",
            json!({ "State": "Active", "NextToken": "x" }),
            "InvalidNextToken",
        ),
        (
            "DescribeInstanceInformation",
            json!({ "Filters": [{ "Key": "Colour", "Values": ["red"] }] }),
            "InvalidFilterKey",
        ),
        (
            "DescribeInstanceInformation",
            json!({ "MaxResults": 4 }),
            "ValidationException",
        ),
        (
            "GetConnectionStatus",
            json!({ "Target": "a b" }),
            "ValidationException",
        ),
        ("SendCommand", json!({}), "UnknownOperationException"),
    ];
    for (operation, body, kind) in cases {
        let answer = call(&emulator, operation, body.clone()).await;
        assert_eq!(
            (answer.status, answer.kind()),
            (400, kind.to_owned()),
            "{operation} {body}"
        );
        let header = format!("x-amzn-errortype: {}", kind.to_ascii_lowercase());
        assert!(answer.head.contains(&header), "{}", answer.head);
        let error = answer.json();
        let text = error["message"].as_str().or(error["Message"].as_str());
        assert!(text.is_some_and(|text| !text.is_empty()), "{error}");
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn credentials_are_knobs() {
    let emulator = emulator_with_offline().await;
    let body = json!({ "Target": emulator.target() }).to_string();
    let token = |text: &str| format!("{}X-Amz-Security-Token: {text}\r\n", authorization("ASIA"));
    let cases = [
        (String::new(), Some("UnrecognizedClientException")),
        (authorization("AKIAEXPIRED1"), Some("ExpiredTokenException")),
        (authorization("AKIADENIED"), Some("AccessDeniedException")),
        (token("xxEXPIREDxx"), Some("ExpiredTokenException")),
        (token("DENIED"), Some("AccessDeniedException")),
        (authorization("whatever"), None),
        (token("whatever"), None),
    ];
    for (headers, refusal) in cases {
        let answer = call_with(&emulator, "GetConnectionStatus", &headers, &body).await;
        match refusal {
            Some(kind) => assert_eq!(answer.kind(), kind, "{headers}"),
            None => assert_eq!(answer.status, 200, "{headers}"),
        }
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn machines_are_described() {
    let emulator = emulator_with_offline().await;
    let all = call(&emulator, "DescribeInstanceInformation", json!({})).await;
    assert!(
        all.head
            .contains("content-type: application/x-amz-json-1.1")
    );
    assert!(all.head.contains("x-amzn-requestid: "));
    let all = all.json();
    let list = all["InstanceInformationList"].as_array().unwrap();
    let online = list
        .iter()
        .find(|each| each["InstanceId"] == emulator.target())
        .unwrap();
    assert_eq!(online["PingStatus"], "Online");
    assert_eq!(online["PlatformType"], "Linux");
    assert_eq!(online["AgentVersion"], "3.3.1142.0");
    assert_eq!(online["IsLatestVersion"], true);
    assert!(online["LastPingDateTime"].is_f64());
    let filtered = call(
        &emulator,
        "DescribeInstanceInformation",
        json!({ "Filters": [{ "Key": "PingStatus", "Values": ["Inactive"] }] }),
    )
    .await
    .json();
    let list = filtered["InstanceInformationList"].as_array().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["InstanceId"], "mi-0aaaaaaaaaaaaaaaa");
    assert_eq!(list[0]["ResourceType"], "ManagedInstance");
    assert_eq!(list[0]["IsLatestVersion"], false);
    for (target, status) in [
        (emulator.target(), "connected"),
        ("mi-0aaaaaaaaaaaaaaaa", "notconnected"),
        ("i-unknown", "notconnected"),
    ] {
        let answer = call(
            &emulator,
            "GetConnectionStatus",
            json!({ "Target": target }),
        )
        .await;
        assert_eq!(answer.json(), json!({ "Target": target, "Status": status }));
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn what_is_no_api_request_is_answered_too() {
    let emulator = emulator_with_offline().await;
    let addr = emulator.hub.addr;
    let page = exchange(
        addr,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(page.status, 404);
    assert!(page.body.contains("AWS_ENDPOINT_URL_SSM"));
    let garbage = exchange(addr, "\x16\x03\x01 garbage\r\n\r\n").await;
    assert_eq!(garbage.status, 400);
    let no_target = exchange(
        addr,
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(no_target.kind(), "UnknownOperationException");
    let huge = call(
        &emulator,
        "StartSession",
        json!({ "Target": "x".repeat(100_000) }),
    )
    .await;
    assert_eq!(huge.kind(), "SerializationException");
    emulator.shutdown().await;
}

#[tokio::test]
async fn senseless_options_are_refused() {
    let first = emulator_with_offline().await;
    let taken = Options {
        listen: first.hub.addr,
        ..Options::default()
    };
    let error = Emulator::start(taken).await.unwrap_err();
    assert!(matches!(error, Error::PortTaken { .. }), "{error}");
    assert!(error.hint().contains("--listen"));
    first.shutdown().await;

    let cases = [
        Options {
            listen: ([0, 0, 0, 0], 0).into(),
            ..Options::default()
        },
        Options {
            instances: Vec::new(),
            ..Options::default()
        },
        Options {
            instances: vec![Instance::default(), Instance::default()],
            ..Options::default()
        },
        Options {
            instances: vec![Instance {
                id: "no spaces".into(),
                ..Instance::default()
            }],
            ..Options::default()
        },
        Options {
            payload_bytes: 0,
            ..Options::default()
        },
    ];
    for options in cases {
        let described = format!("{options:?}");
        assert!(Emulator::start(options).await.is_err(), "{described}");
    }
}
