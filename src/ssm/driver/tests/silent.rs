//! An agent that says nothing behind a gateway that answers pings.

use super::*;
use crate::ssm::driver::silence::Patience;

const MS: Duration = Duration::from_millis(1);

/// Surroundings with little patience, but enough for a machine that is busy with other things.
fn impatient(given_up: Duration) -> Surroundings {
    Surroundings {
        patience: Patience {
            silent: MS * 1000,
            given_up,
        },
        ..surroundings()
    }
}

async fn next_event(session: &SsmSession) -> SessionEvent {
    within(session.next_event()).await.expect("a session")
}

#[tokio::test]
async fn silence_is_told_and_nothing_is_lost_by_it() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = service.start_in(impatient(MS * 60_000), options()).await;
    let mut stream = echo(stream, 10_000).await;
    service.state.lock().unwrap().faults.stalled = true;
    let asked_at = now();
    stream.write_all(b"anybody?").await.unwrap();
    let SessionEvent::Silent { since } = next_event(&session).await else {
        panic!("nothing else happens");
    };
    assert!(since >= asked_at, "it was heard until then");
    service.state.lock().unwrap().faults.stalled = false;
    assert_eq!(next_event(&session).await, SessionEvent::Heard);
    let mut answer = [0; 8];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"anybody?");
    assert_eq!(service.calls(), ["StartSession"]);
}

#[tokio::test]
async fn a_session_whose_agent_stays_silent_is_ended() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = service.start_in(impatient(MS * 300), options()).await;
    let mut stream = echo(stream, 10_000).await;
    service.state.lock().unwrap().faults.stalled = true;
    stream.write_all(b"anybody?").await.unwrap();
    let end = within(session.closed()).await;
    assert!(matches!(&*end, Error::Silent { .. }), "{end:?}");
    assert_eq!(end.disposition(), Disposition::Redial);
    assert_eq!(service.calls(), ["StartSession", "TerminateSession"]);
}

/// Its silence is not what matters then.
#[tokio::test]
async fn a_socket_that_is_lost_meanwhile_is_resumed() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = service.start_in(impatient(MS * 60_000), options()).await;
    let mut stream = echo(stream, 10_000).await;
    service.state.lock().unwrap().faults.stalled = true;
    stream.write_all(b"anybody?").await.unwrap();
    let silent = next_event(&session).await;
    assert!(matches!(silent, SessionEvent::Silent { .. }), "{silent:?}");
    service.cut(Cut::Reset);
    let lost = next_event(&session).await;
    assert!(matches!(lost, SessionEvent::Lost { .. }), "{lost:?}");
    let resumed = next_event(&session).await;
    assert!(
        matches!(resumed, SessionEvent::Resumed { .. }),
        "{resumed:?}"
    );
    let silent = next_event(&session).await;
    assert!(matches!(silent, SessionEvent::Silent { .. }), "{silent:?}");
    service.state.lock().unwrap().faults.stalled = false;
    assert_eq!(next_event(&session).await, SessionEvent::Heard);
    let mut answer = [0; 8];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"anybody?");
}
