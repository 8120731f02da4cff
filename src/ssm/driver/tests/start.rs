//! Sessions whose agent does not answer.

use super::*;

#[tokio::test]
async fn an_agent_that_does_not_answer_gets_another_session() {
    let service = Service::start(Faults {
        silent_sessions: 1,
        ..Faults::default()
    })
    .await;
    let options = Options {
        handshake_deadline: Duration::from_millis(300),
        ..options()
    };
    let (session, _stream) = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap();
    within(session.terminate()).await;
    assert_eq!(
        service.calls(),
        [
            "StartSession",
            "TerminateSession",
            "StartSession",
            "TerminateSession"
        ]
    );
}

#[tokio::test]
async fn silence_in_all_attempts_is_an_error_with_a_hint() {
    let service = Service::start(Faults {
        silent_sessions: 9,
        ..Faults::default()
    })
    .await;
    let options = Options {
        handshake_deadline: Duration::from_millis(100),
        ..options()
    };
    let error = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::HandshakeTimeout { attempts: 3, .. }),
        "{error:?}"
    );
    assert!(error.hint().is_some());
    let started = service
        .calls()
        .iter()
        .filter(|call| *call == "StartSession")
        .count();
    let ended = service
        .calls()
        .iter()
        .filter(|call| *call == "TerminateSession")
        .count();
    assert_eq!((started, ended), (3, 3));
}

#[tokio::test]
async fn a_dropped_start_leaves_no_session_behind() {
    let service = Service::start(Faults {
        silent_sessions: 1,
        ..Faults::default()
    })
    .await;
    let options = options();
    let tracker = options.tracker.clone();
    let start = SsmSession::start(service.ssm(), request(), options);
    assert!(timeout(Duration::from_millis(300), start).await.is_err());
    tracker.close();
    within(tracker.wait()).await;
    assert_eq!(service.calls(), ["StartSession", "TerminateSession"]);
}

/// Who has left while others were being started starts nothing, and is not waited for.
#[tokio::test]
async fn whoever_leaves_before_their_turn_starts_nothing() {
    let service = Service::start(Faults::default()).await;
    let ssm = service.ssm();
    let turn = within(ssm.turn(&request().target)).await.unwrap();
    let options = options();
    let tracker = options.tracker.clone();
    let start = SsmSession::start(ssm, request(), options);
    assert!(timeout(Duration::from_millis(50), start).await.is_err());
    tracker.close();
    within(tracker.wait()).await;
    drop(turn);
    assert!(service.calls().is_empty());
}
