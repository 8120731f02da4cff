//! How a session ends, and what is still said before.

use super::*;

#[tokio::test]
async fn carries_bytes_and_terminates_by_flag_and_api() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    assert!(session.established().is_multiplexed);
    let stream = echo(stream, 1 << 20).await;
    let end = within(session.terminate()).await;
    assert!(matches!(*end, Error::Terminated));
    assert_eq!(service.calls(), ["StartSession", "TerminateSession"]);
    {
        let state = service.state.lock().unwrap();
        assert_eq!(state.flags, [Flag::TerminateSession]);
        assert_eq!(state.has_authorization, [true]);
    }
    let (mut reader, mut writer) = tokio::io::split(stream);
    assert_eq!(within(reader.read(&mut [0; 8])).await.unwrap(), 0);
    assert!(writer.write(b"x").await.is_err());
}

#[tokio::test]
async fn what_was_written_last_arrives_before_the_end() {
    let service = Service::start(Faults::default()).await;
    let (session, mut stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    stream.write_all(&[5; 100_000]).await.unwrap();
    within(session.terminate()).await;
    let agent = service.agent();
    let sent = agent.lock().await.channel.statistics().received;
    assert!(sent > 100_000 / (16 << 10), "{sent}");
}

#[tokio::test]
async fn a_dropped_session_is_terminated_in_the_background() {
    let service = Service::start(Faults::default()).await;
    let options = options();
    let tracker = options.tracker.clone();
    let started = within(SsmSession::start(service.ssm(), request(), options)).await;
    drop(started);
    tracker.close();
    within(tracker.wait()).await;
    assert_eq!(service.calls(), ["StartSession", "TerminateSession"]);
}

#[tokio::test]
async fn channel_closed_is_the_end_and_comes_after_the_last_bytes() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = within(SsmSession::start(service.ssm(), request(), options()))
        .await
        .unwrap();
    let mut stream = echo(stream, 100_000).await;
    service.state.lock().unwrap().closing = Some(Closing::Session("idle for too long"));
    let end = within(session.closed()).await;
    assert!(
        matches!(&*end, Error::Closed(text) if text == "idle for too long"),
        "{end:?}"
    );
    assert_eq!(
        session.next_event().await,
        Some(SessionEvent::Closed {
            text: "idle for too long".to_owned()
        })
    );
    assert_eq!(session.next_event().await, None);
    assert_eq!(within(stream.read(&mut [0; 8])).await.unwrap(), 0);
    assert_eq!(service.calls(), ["StartSession"]);
}
