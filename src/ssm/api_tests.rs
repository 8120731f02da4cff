//! Answers of the service and of the network, each sorted by what is to be done about it.

use std::error::Error as _;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use aws_config::Region;
use aws_config::identity::IdentityCache;

use aws_credential_types::provider::error::CredentialsError;

use super::*;
use crate::net;
use crate::ssm::Disposition;

/// A configuration for a service on this computer.
pub(in crate::ssm) fn sdk_config(endpoint: &str) -> SdkConfig {
    let credentials = aws_credential_types::Credentials::new("AKID", "secret", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

/// The error of a StartSession that is answered with `answer`, as HTTP.
async fn error_for(answer: &str) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let ssm = Ssm::new(&sdk_config(&endpoint)).unwrap();
    let serve = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = [0; 8192];
        let _ = tcp.read(&mut request).await.unwrap();
        tcp.write_all(answer.as_bytes()).await.unwrap();
        tcp.shutdown().await.unwrap();
    };
    let (_, result) = tokio::join!(serve, ssm.start_session("i-0", None, &[], None));
    result.unwrap_err()
}

async fn error_of(status: u16, body: &str) -> Error {
    error_for(&format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
    .await
}

/// The whole chain of causes, as a person would see it.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text = format!("{text}: {current}");
        cause = current.source();
    }
    text
}

#[tokio::test]
async fn errors_of_the_service_are_told_apart() {
    let cases = [
        ("TargetNotConnected", "not connected", Disposition::Redial),
        ("InvalidDocument", "document", Disposition::Fatal),
        (
            "AccessDeniedException",
            "access denied for StartSession",
            Disposition::Fatal,
        ),
        ("ExpiredTokenException", "expired", Disposition::Resume),
        (
            "UnrecognizedClientException",
            "not accepted",
            Disposition::Resume,
        ),
        ("ThrottlingException", "throttled", Disposition::Resume),
        (
            "InternalServerError",
            "failed in the service",
            Disposition::Resume,
        ),
        (
            "ValidationException",
            "refused (ValidationException)",
            Disposition::Fatal,
        ),
    ];
    for (code, text, disposition) in cases {
        let body = format!(r#"{{"__type":"com.amazonaws.ssm#{code}","message":"because so. "}}"#);
        let error = error_of(400, &body).await;
        let told = told(&error);
        assert!(
            told.contains(text) && told.ends_with("because so"),
            "{code}: {told}"
        );
        assert_eq!(error.disposition(), disposition, "{code}");
    }
}

/// The words that AWS has for a wrong secret key, with the request as the service has read it.
#[tokio::test]
async fn a_request_that_the_service_repeats_is_not_told() {
    let body = r#"{"__type":"InvalidSignatureException","message":"The request signature we calculated does not match.\n\nThe Canonical String for this request should have been\n'POST\nx-amz-security-token:FwoGZXIvYXdz\n'\n"}"#;
    let error = error_of(403, body).await;
    assert!(matches!(error, Error::CredentialsInvalid(_)), "{error:?}");
    assert_eq!(
        told(&error),
        "AWS credentials were not accepted: The request signature we calculated does not match"
    );
    assert!(!format!("{error:?}").contains("FwoGZXIvYXdz"));
}

#[tokio::test]
async fn answers_that_are_none_are_errors_too() {
    let garbage = error_for("SSH-2.0-OpenSSH_9.2\r\n").await;
    assert!(matches!(garbage, Error::Unreachable { .. }), "{garbage:?}");
    let incomplete = error_of(200, r#"{"SessionId":"s"}"#).await;
    assert!(
        matches!(
            incomplete,
            Error::Incomplete {
                field: "StreamUrl",
                ..
            }
        ),
        "{incomplete:?}"
    );
    let html = error_of(404, "<html>not here</html>").await;
    assert!(matches!(html, Error::Unreachable { .. }), "{html:?}");
    let busy = error_of(503, "").await;
    assert!(matches!(busy, Error::Service { .. }), "{busy:?}");
}

#[tokio::test]
async fn how_long_to_wait_is_passed_on() {
    let busy = |header: &'static str| async move {
        let error = error_for(&format!(
            "HTTP/1.1 503 x\r\n{header}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ))
        .await;
        assert!(matches!(error, Error::Service { .. }), "{error:?}");
        error.retry_after()
    };
    assert_eq!(busy("retry-after: 7").await, Some(Duration::from_secs(7)));
    let short = Some(Duration::from_millis(250));
    assert_eq!(busy("x-amz-retry-after: 250").await, short);
    let then = "retry-after: Fri, 31 Dec 1999 23:59:59 GMT";
    assert_eq!(busy(then).await, None, "it is over");
    let dated = "date: Fri, 31 Dec 1999 23:59:50 GMT\r\nretry-after: Fri, 31 Dec 1999 23:59:59 GMT";
    assert_eq!(busy(dated).await, Some(Duration::from_secs(9)));
    assert_eq!(busy("retry-after: tomorrow").await, None);
    assert_eq!(busy("x-other: 1").await, None);
    let body = r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#;
    let throttled = error_for(&format!(
        "HTTP/1.1 400 x\r\nretry-after: 2\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
    .await;
    assert!(
        matches!(throttled, Error::Throttled { .. }),
        "{throttled:?}"
    );
    assert_eq!(throttled.retry_after(), Some(Duration::from_secs(2)));
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let ssm = Ssm::new(&sdk_config(&endpoint)).unwrap();
    let error = ssm.terminate_session("s").await.unwrap_err();
    let is_named = matches!(&error, Error::Network(net::Error::Connect { host, .. }) if endpoint.ends_with(host));
    assert!(is_named, "{error:?}");
    assert_eq!(error.disposition(), Disposition::Resume);
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn missing_and_failing_credentials_are_recognized() {
    for (provider_error, is_missing) in [
        (CredentialsError::not_loaded("nothing here"), true),
        (CredentialsError::provider_error("sso login expired"), false),
    ] {
        let provider_error = Arc::new(Mutex::new(Some(provider_error)));
        let config = sdk_config("http://127.0.0.1:9")
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(Failing(provider_error)))
            .build();
        let ssm = Ssm::new(&config).unwrap();
        let error = ssm.start_session("i-0", None, &[], None).await.unwrap_err();
        assert_eq!(
            matches!(error, Error::CredentialsMissing(_)),
            is_missing,
            "{error:?}"
        );
        assert_eq!(
            matches!(error, Error::CredentialsFailed(_)),
            !is_missing,
            "{error:?}"
        );
        assert!(error.is_credentials());
    }
    let none = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url("http://127.0.0.1:9")
        .build();
    assert!(matches!(Ssm::new(&none), Err(Error::CredentialsMissing(_))));
}

#[tokio::test]
async fn credentials_that_never_come_are_an_error() {
    let soon = Duration::from_millis(50);
    let config = sdk_config("http://127.0.0.1:9")
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(Hanging))
        .identity_cache(IdentityCache::lazy().load_timeout(soon).build())
        .build();
    let ssm = Ssm::new(&config).unwrap();
    let error = ssm.credentials_within(soon).await.unwrap_err();
    assert!(matches!(error, Error::CredentialsFailed(_)), "{error:?}");
    let resumed = ssm.resume_session("s", &Secret::new(String::new())).await;
    let error = resumed.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Resume, "{error:?}");
}

/// Counts how often credentials are given up.
#[derive(Debug, Default)]
struct Renewing(AtomicU32);

impl Prepare for Renewing {
    fn prepare(&self) -> Prepared<'_> {
        Box::pin(async { Ok(()) })
    }

    fn is_asking(&self) -> bool {
        false
    }

    fn expire(&self) -> String {
        self.0.fetch_add(1, Ordering::Relaxed);
        "log in again".to_owned()
    }

    fn profile_flag(&self) -> String {
        " --profile work".to_owned()
    }
}

#[tokio::test]
async fn credentials_that_have_expired_are_not_used_again() {
    const EXPIRED: &str = "HTTP/1.1 400 x\r\ncontent-length: 34\r\nconnection: close\r\n\r\n\
        {\"__type\":\"ExpiredTokenException\"}";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let renewing = Arc::new(Renewing::default());
    let mut ssm = Ssm::new(&sdk_config(&endpoint)).unwrap();
    ssm.preparation = Some(Arc::clone(&renewing) as _);
    let refuse = async {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.read(&mut [0; 8192]).await.unwrap();
            tcp.write_all(EXPIRED.as_bytes()).await.unwrap();
        }
    };
    let url = Secret::new(String::new());
    let calls = async {
        [
            ssm.start_session("i-0", None, &[], None).await.map(drop),
            ssm.resume_session("s", &url).await.map(drop),
            ssm.terminate_session("s").await,
            ssm.sessions_started_for("it").await.map(drop),
        ]
    };
    let outcomes = tokio::select! {
        outcomes = calls => outcomes,
        () = refuse => unreachable!("it goes on"),
    };
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.hint(), Some("log in again"), "{error:?}");
    }
    assert_eq!(renewing.0.load(Ordering::Relaxed), 4);
    assert_eq!(ssm.flags(), " --profile work --region us-east-1");
}

#[derive(Debug)]
struct Hanging;

impl ProvideCredentials for Hanging {
    fn provide_credentials<'a>(
        &'a self,
    ) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        aws_credential_types::provider::future::ProvideCredentials::new(std::future::pending())
    }
}

#[test]
fn a_region_is_needed() {
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .build();
    assert!(matches!(Ssm::new(&config), Err(Error::MissingRegion)));
}

#[derive(Debug)]
struct Failing(Arc<Mutex<Option<CredentialsError>>>);

impl ProvideCredentials for Failing {
    fn provide_credentials<'a>(
        &'a self,
    ) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        aws_credential_types::provider::future::ProvideCredentials::new(async {
            let error = self.0.lock().await.take();
            Err(error.unwrap_or_else(|| CredentialsError::provider_error("asked again")))
        })
    }
}

/// Each service has its own endpoint, and its own variable to name another one.
#[test]
fn an_endpoint_out_of_reach_is_named_with_its_variable() {
    for (operation, variable) in [
        (Operation::Start, "AWS_ENDPOINT_URL_SSM "),
        (Operation::DescribeInstances, "AWS_ENDPOINT_URL_EC2 "),
        (Operation::SendKey, "AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT "),
        (Operation::CallerIdentity, "AWS_ENDPOINT_URL_STS "),
        (Operation::AssumeRole, "AWS_ENDPOINT_URL_STS "),
    ] {
        let error = Error::unanswered(operation, "no answer");
        let hint = error.hint().unwrap();
        assert!(hint.contains(variable), "{hint}");
    }
}

/// The policies of the README, which people paste.
mod policies {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::Operation;
    use crate::ssm::StartRequest;

    /// For the WebSocket, which is no call of an API.
    const OPEN_CHANNEL: &str = "ssmmessages:OpenDataChannel";

    fn policies() -> Vec<Value> {
        let readme = include_str!("../../README.md");
        let blocks = readme.split("```json\n").skip(1);
        let blocks = blocks.filter_map(|rest| rest.split("```").next());
        let parsed = blocks.map(|block| serde_json::from_str(block).unwrap());
        parsed
            .filter(|block: &Value| block["Version"] == "2012-10-17")
            .collect()
    }

    fn statements(policy: &Value) -> &[Value] {
        policy["Statement"].as_array().unwrap()
    }

    /// A member that is one text, or a list of them.
    fn texts(member: &Value) -> Vec<&str> {
        match member {
            Value::Array(list) => list.iter().map(|text| text.as_str().unwrap()).collect(),
            one => vec![one.as_str().unwrap()],
        }
    }

    fn actions(policy: &Value) -> BTreeSet<&str> {
        let actions = statements(policy).iter();
        actions.flat_map(|it| texts(&it["Action"])).collect()
    }

    #[test]
    fn they_allow_what_is_called_and_nothing_else() {
        let policies = policies();
        let allowed: BTreeSet<_> = policies.iter().flat_map(actions).collect();
        let called = Operation::ALL.into_iter().filter_map(Operation::permission);
        assert_eq!(allowed, called.chain([OPEN_CHANNEL]).collect());
        let required = [
            OPEN_CHANNEL,
            "ssm:ResumeSession",
            "ssm:StartSession",
            "ssm:TerminateSession",
        ];
        assert_eq!(actions(&policies[0]), required.into());
    }

    #[test]
    fn they_name_the_documents_that_sessions_are_started_with() {
        let documents = |policies: &[Value]| -> BTreeSet<String> {
            let statements = policies.iter().flat_map(statements);
            let resources = statements.flat_map(|statement| texts(&statement["Resource"]));
            let documents = resources.filter_map(|arn| arn.rsplit_once(":document/"));
            documents.map(|(_, name)| name.to_owned()).collect()
        };
        let policies = policies();
        let usual = StartRequest::port_forwarding("i-1", 22).document;
        let with_old_agents = StartRequest::single_port("i-1", 22).document;
        assert_eq!(
            documents(&policies[..1]),
            usual.clone().into_iter().collect()
        );
        let both = usual.into_iter().chain(with_old_agents).collect();
        assert_eq!(documents(&policies), both);
    }

    #[test]
    fn each_is_as_narrow_as_it_can_be() {
        for statement in policies().iter().flat_map(statements) {
            assert_eq!(statement["Effect"], "Allow");
            let actions = texts(&statement["Action"]);
            let resources = texts(&statement["Resource"]);
            // What lists has no resources to name, and neither has any action of the message gateway.
            let is_wide = |action: &&str| {
                action.contains(":Describe") || action.contains(":Get") || *action == OPEN_CHANNEL
            };
            let is_wide = actions.iter().all(is_wide);
            assert_eq!(resources == ["*"], is_wide, "{statement}");
            if resources.iter().any(|it| it.contains(":session/")) {
                // Ids of sessions begin with the name of a user or of a role's session, `aws:userid` with an id.
                let owner = &statement["Condition"]["StringEquals"];
                let owner = &owner["ssm:resourceTag/aws:ssmmessages:session-id"];
                assert_eq!(owner, "${aws:userid}", "{statement}");
            }
            assert!(actions.iter().all(|it| !it.contains('*')), "{statement}");
            if actions == ["ssm:StartSession"] {
                // Where it is lacking in one, other documents may be used: shells, and other hosts behind the machine.
                let check =
                    &statement["Condition"]["BoolIfExists"]["ssm:SessionDocumentAccessCheck"];
                assert_eq!(check, "true", "{statement}");
                // Documents have no tags, so a condition on one would never be met.
                let has_document = resources.iter().any(|it| it.contains(":document/"));
                let has_tag = statement["Condition"].to_string().contains("resourceTag");
                assert!(!(has_document && has_tag), "{statement}");
            }
        }
    }

    #[test]
    fn every_operation_is_listed_once() {
        let names: BTreeSet<_> = Operation::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), Operation::ALL.len());
    }
}
