//! What a session survives, and what it does not.

use super::*;

#[tokio::test]
async fn the_hourly_close_is_resumed() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = service.start_session(options()).await;
    let stream = echo(stream, 10_000).await;
    service.cut(Cut::Bye);
    assert_eq!(
        within(session.next_event()).await,
        Some(SessionEvent::Lost {
            reason: "closed by the service: 1000 Bye".to_owned()
        })
    );
    let resumed = within(session.next_event()).await;
    assert!(matches!(resumed, Some(SessionEvent::Resumed { .. })));
    let _stream = echo(stream, 10_000).await;
    within(session.terminate()).await;
}

#[tokio::test]
async fn not_a_byte_is_lost_over_several_sockets() {
    let service = Service::start(Faults {
        cut_after: vec![40, 300, 25],
        garbage: true,
        ..Faults::default()
    })
    .await;
    let (session, stream) = service.start_session(options()).await;
    let _stream = echo(stream, 1 << 20).await;
    // The last acknowledgements may still be on their way to a cut.
    resumed(&session, 3).await;
    within(session.terminate()).await;
    assert_eq!(session.status().resumes, 3);
    let state = service.state.lock().unwrap();
    assert_eq!(state.opens.len(), 4);
    assert!(
        state
            .opens
            .iter()
            .all(|open| open.client_id == state.opens[0].client_id)
    );
    let tokens: Vec<_> = state
        .opens
        .iter()
        .map(|open| open.token_value.as_str())
        .collect();
    assert_eq!(tokens, ["token-1", "token-2", "token-3", "token-4"]);
}

#[tokio::test]
async fn a_socket_that_answers_no_ping_is_replaced() {
    let service = Service::start(Faults {
        cut_after: vec![20],
        cut: Cut::BlackHole,
        ..Faults::default()
    })
    .await;
    let options = Options {
        ping_interval: Duration::from_millis(300),
        ping_deadline: Duration::from_millis(300),
        ..options()
    };
    let (session, stream) = service.start_session(options).await;
    let _stream = echo(stream, 100_000).await;
    assert_eq!(
        session.next_event().await.unwrap(),
        SessionEvent::Lost {
            reason: "no answer to a ping".to_owned()
        }
    );
    within(session.terminate()).await;
}

#[tokio::test]
async fn failing_resumes_are_repeated_until_one_succeeds() {
    let service = Service::start(Faults {
        cut_after: vec![10],
        failing_resumes: 3,
        ..Faults::default()
    })
    .await;
    let (session, stream) = service.start_session(options()).await;
    let _stream = echo(stream, 100_000).await;
    assert!(matches!(
        session.next_event().await,
        Some(SessionEvent::Lost { .. })
    ));
    for expected in 1..=3 {
        assert!(matches!(
            session.next_event().await,
            Some(SessionEvent::Retrying { attempt, .. }) if attempt == expected
        ));
    }
    assert!(matches!(
        session.next_event().await,
        Some(SessionEvent::Resumed { .. })
    ));
    within(session.terminate()).await;
}

/// A service that takes every socket and drops it has resumed nothing.
#[tokio::test]
async fn a_socket_from_which_nothing_comes_is_a_failed_attempt() {
    let service = Service::start(Faults {
        cut_after: vec![10, 0, 0],
        ..Faults::default()
    })
    .await;
    let (session, stream) = service.start_session(options()).await;
    let _stream = echo(stream, 100_000).await;
    let bye = "closed by the service: 1000 Bye".to_owned();
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(within(session.next_event()).await.expect("a session"));
    }
    let Some(SessionEvent::Resumed { gap }) = told.last() else {
        panic!("{told:?}");
    };
    let retrying = |attempt| SessionEvent::Retrying {
        attempt,
        error: bye.clone(),
        hint: None,
    };
    let expected = [
        SessionEvent::Lost {
            reason: bye.clone(),
        },
        retrying(1),
        retrying(2),
    ];
    assert_eq!(told[..3], expected);
    let status = session.status();
    assert_eq!((status.resumes, status.last_gap), (1, Some(*gap)));
    within(session.terminate()).await;
}

/// The service gives a socket for a session that has ended meanwhile, and says so there.
#[tokio::test]
async fn a_session_that_ended_meanwhile_is_not_resumed() {
    let service = Service::start(Faults {
        cut_after: vec![3],
        closed_meanwhile: true,
        ..Faults::default()
    })
    .await;
    let (session, mut stream) = service.start_session(options()).await;
    stream.write_all(b"x").await.unwrap();
    let end = within(session.closed()).await;
    assert!(matches!(&*end, Error::Closed(_)), "{end:?}");
    let mut told = Vec::new();
    while let Some(event) = session.next_event().await {
        told.push(event);
    }
    assert!(
        matches!(
            &told[..],
            [SessionEvent::Lost { .. }, SessionEvent::Closed { .. }]
        ),
        "{told:?}"
    );
    assert_eq!(session.status().resumes, 0);
}

#[tokio::test]
async fn a_refused_resume_is_the_end_and_asks_for_a_redial() {
    let service = Service::start(Faults {
        cut_after: vec![3],
        refuses_resume: true,
        ..Faults::default()
    })
    .await;
    let (session, mut stream) = service.start_session(options()).await;
    stream.write_all(b"x").await.unwrap();
    let end = within(session.closed()).await;
    assert!(
        matches!(*end, Error::Api(api::Error::SessionGone(_))),
        "{end:?}"
    );
    assert_eq!(end.disposition(), Disposition::Redial);
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test]
async fn a_session_that_may_not_be_resumed_is_terminated() {
    let service = Service::start(Faults {
        cut_after: vec![3],
        denies_resume: true,
        ..Faults::default()
    })
    .await;
    let (session, mut stream) = service.start_session(options()).await;
    stream.write_all(b"x").await.unwrap();
    let end = within(session.closed()).await;
    assert!(
        matches!(*end, Error::Api(api::Error::AccessDenied { .. })),
        "{end:?}"
    );
    assert_eq!(
        service.calls(),
        [
            "StartSession",
            "ResumeSession",
            "ResumeSession",
            "ResumeSession",
            "TerminateSession"
        ]
    );
}

#[tokio::test]
async fn a_refused_socket_is_asked_for_again() {
    let service = Service::start(Faults {
        cut_after: vec![10],
        refused_sockets: 3,
        refusal: 403,
        ..Faults::default()
    })
    .await;
    let (session, stream) = service.start_session(options()).await;
    let _stream = echo(stream, 100_000).await;
    assert_eq!(session.status().resumes, 1);
    within(session.terminate()).await;
    let resumes = service.calls();
    let resumes = resumes.iter().filter(|call| *call == "ResumeSession");
    assert_eq!(resumes.count(), 4);
}

#[tokio::test]
async fn a_failed_lookup_of_credentials_is_waited_out() {
    let service = Service::start(Faults {
        cut_after: vec![10],
        ..Faults::default()
    })
    .await;
    // StartSession is signed with the first answer, kept by the SDK, and the first socket with the
    // second; the two answers after them fail.
    let config = sdk_config(&format!("http://{}", service.endpoint))
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(Flaky::default()))
        .build();
    let ssm = Ssm::new(&config).unwrap();
    let (session, stream) = within(SsmSession::start(ssm, request(), options()))
        .await
        .unwrap();
    let _stream = echo(stream, 100_000).await;
    assert!(matches!(
        session.next_event().await,
        Some(SessionEvent::Lost { .. })
    ));
    for _ in 0..2 {
        let event = session.next_event().await;
        assert!(
            matches!(&event, Some(SessionEvent::Retrying { error, .. })
                if error.starts_with("AWS credentials could not be loaded")),
            "{event:?}"
        );
    }
    within(session.terminate()).await;
    let state = service.state.lock().unwrap();
    assert_eq!(state.has_authorization, [true, true]);
}

/// A provider whose third and fourth answers are errors.
#[derive(Debug, Default)]
struct Flaky(std::sync::atomic::AtomicUsize);

impl ProvideCredentials for Flaky {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let count = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        future::ProvideCredentials::ready(match count {
            2 | 3 => Err(CredentialsError::provider_error("process failed")),
            _ => Ok(Credentials::new("AKID", "secret", None, None, "test")),
        })
    }
}

#[tokio::test]
async fn a_message_that_stays_damaged_ends_the_session() {
    let service = Service::start(Faults {
        damaged: true,
        ..Faults::default()
    })
    .await;
    let (session, _stream) = service.start_session(options()).await;
    service.cut(Cut::Bye);
    let end = within(session.closed()).await;
    assert!(matches!(*end, Error::Damaged { count: 100, .. }), "{end:?}");
    assert_eq!(end.disposition(), Disposition::Redial);
    assert_eq!(
        service.calls(),
        ["StartSession", "ResumeSession", "TerminateSession"]
    );
}
