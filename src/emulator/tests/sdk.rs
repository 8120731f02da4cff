//! The API as AWS's own SDK reads it.

use aws_credential_types::Credentials;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::{BehaviorVersion, Region};
use aws_sdk_ssm::error::ProvideErrorMetadata as _;
use aws_sdk_ssm::types::{ConnectionStatus, PingStatus, SessionState, SessionStatus};

use super::emulator_with_offline;
use crate::emulator::Emulator;

fn client(emulator: &Emulator, access_key: &str) -> Client {
    Client::from_conf(
        aws_sdk_ssm::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(emulator.endpoint())
            .credentials_provider(Credentials::new(access_key, "secret", None, None, "test"))
            .build(),
    )
}

#[tokio::test]
async fn the_sdk_understands_the_answers() {
    let emulator = emulator_with_offline().await;
    let sdk = client(&emulator, "AKIAEXAMPLE");
    let started = sdk
        .start_session()
        .target(emulator.target())
        .document_name("AWS-StartSSHSession")
        .reason("to see")
        .parameters("portNumber", vec!["22".into()])
        .send()
        .await
        .unwrap();
    let id = started.session_id().unwrap();
    assert!(started.stream_url().unwrap().starts_with("ws://127.0.0.1:"));
    let resumed = sdk.resume_session().session_id(id).send().await.unwrap();
    assert_ne!(started.token_value(), resumed.token_value());

    let listed = sdk
        .describe_sessions()
        .state(SessionState::Active)
        .send()
        .await
        .unwrap();
    let listed = &listed.sessions()[0];
    assert_eq!(listed.status(), Some(&SessionStatus::Connecting));
    assert_eq!(listed.reason(), Some("to see"));
    assert!(listed.start_date().unwrap().secs() > 1_700_000_000);

    let machines = sdk.describe_instance_information().send().await.unwrap();
    let online = machines.instance_information_list().iter();
    let online: Vec<_> = online
        .filter(|each| each.ping_status() == Some(&PingStatus::Online))
        .collect();
    assert_eq!(online.len(), 1);
    let status = sdk
        .get_connection_status()
        .target(emulator.target())
        .send()
        .await
        .unwrap();
    assert_eq!(status.status(), Some(&ConnectionStatus::Connected));
    sdk.terminate_session().session_id(id).send().await.unwrap();
    emulator.shutdown().await;
}

#[tokio::test]
async fn the_sdk_understands_the_refusals() {
    let emulator = emulator_with_offline().await;
    let start = async |access_key: &str, target: &str, document: &str| {
        let error = client(&emulator, access_key)
            .start_session()
            .target(target)
            .document_name(document)
            .send()
            .await
            .unwrap_err()
            .into_service_error();
        assert!(error.message().is_some_and(|message| !message.is_empty()));
        error
    };
    let target = emulator.target();
    assert!(
        start("A", "i-unknown", "AWS-StartSSHSession")
            .await
            .is_target_not_connected()
    );
    assert!(
        start("A", target, "AWS-StartNothing")
            .await
            .is_invalid_document()
    );
    for (access_key, code) in [
        ("EXPIRED", "ExpiredTokenException"),
        ("DENIED", "AccessDeniedException"),
    ] {
        let error = start(access_key, target, "AWS-StartSSHSession").await;
        assert_eq!(error.code(), Some(code));
    }
    let unknown = client(&emulator, "A")
        .resume_session()
        .session_id("unknown")
        .send()
        .await
        .unwrap_err()
        .into_service_error();
    assert!(unknown.is_does_not_exist_exception());
    emulator.shutdown().await;
}
