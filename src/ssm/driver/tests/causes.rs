//! Each way in which a link is lost or kept away, and that it costs nothing but time.

use super::clocks::tests::TestClocks;
use super::*;

/// The tests that wait for seconds run in full runs only.
fn is_full_run() -> bool {
    std::env::var_os("SSMSHIM_FULL").is_some()
}

/// A computer with these clocks.
fn computer(clocks: &TestClocks) -> Surroundings {
    let clocks = clocks.clone();
    Surroundings {
        clocks: Box::new(move || Box::new(clocks.clone())),
        ..surroundings()
    }
}

async fn next_event(session: &SsmSession) -> SessionEvent {
    within(session.next_event()).await.expect("a session")
}

/// Waits until the gateway has got `count` pings.
async fn pinged(service: &Service, count: usize) {
    within(async {
        while service.state.lock().unwrap().pings < count {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_socket_may_end_in_any_way_in_the_middle_of_a_transfer() {
    tokio::join!(
        transfer_over(Cut::Bye),
        transfer_over(Cut::Fin),
        transfer_over(Cut::Reset),
        transfer_over(Cut::BlackHole),
    );
}

async fn transfer_over(cut: Cut) {
    let service = Service::start(Faults {
        cut_after: vec![60],
        cut,
        ..Faults::default()
    })
    .await;
    let (session, stream) = service.start_session(options()).await;
    let _stream = echo(stream, 1 << 20).await;
    let gaps = resumed(&session, 1).await;
    let status = session.status();
    assert_eq!(status.last_gap, Some(gaps[0]));
    assert_eq!(status.longest_gap, Some(gaps[0]));
    within(session.terminate()).await;
}

#[tokio::test]
async fn a_socket_that_dies_idle_is_noticed_by_what_is_typed_next() {
    let service = Service::start(Faults::default()).await;
    let (session, stream) = service.start_session(options()).await;
    let stream = echo(stream, 1000).await;
    pinged(&service, 1).await;
    service.cut(Cut::BlackHole);
    sleep(Duration::from_millis(50)).await;
    let typed_at = Instant::now();
    let _stream = echo(stream, 1).await;
    let took = typed_at.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    resumed(&session, 1).await;
    within(session.terminate()).await;
}

#[tokio::test]
async fn what_keeps_the_service_away_is_told_and_waited_out() {
    let service = Service::start(Faults {
        // Nothing listens there, and the other name does not exist, or is this computer's as well.
        stream_urls: vec!["ws://127.0.0.1:1/", "ws://gateway.localhost:1/"],
        refused_sockets: 1,
        refusal: 503,
        failing_resumes: 1,
        ..Faults::default()
    })
    .await;
    let (session, mut stream) = service.start_session(options()).await;
    service.cut(Cut::Reset);
    assert!(matches!(
        next_event(&session).await,
        SessionEvent::Lost { .. }
    ));
    // Held meanwhile.
    stream.write_all(b"typed while away").await.unwrap();
    for (number, expected) in [
        "ResumeSession failed in the service",
        "cannot connect to 127.0.0.1",
        "cannot connect to gateway.localhost:1",
        "the message gateway refused the websocket with status 503",
    ]
    .into_iter()
    .enumerate()
    {
        let event = next_event(&session).await;
        assert!(
            matches!(&event, SessionEvent::Retrying { attempt, error, .. }
                if *attempt as usize == number + 1 && error.starts_with(expected)),
            "{event:?}"
        );
        assert!(!session.status().is_connected);
    }
    assert!(matches!(
        next_event(&session).await,
        SessionEvent::Resumed { .. }
    ));
    let mut text = [0; 16];
    within(stream.read_exact(&mut text)).await.unwrap();
    assert_eq!(&text, b"typed while away");
    within(session.terminate()).await;
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up_and_made_again() {
    let service = Service::start(Faults {
        hanging_resumes: 1,
        ..Faults::default()
    })
    .await;
    let (session, stream) = service.start_session(options()).await;
    service.cut(Cut::Reset);
    let _stream = echo(stream, 1000).await;
    resumed(&session, 1).await;
    within(session.terminate()).await;
}

#[tokio::test]
async fn a_session_can_be_terminated_while_a_call_hangs() {
    let service = Service::start(Faults {
        hanging_resumes: 9,
        ..Faults::default()
    })
    .await;
    let (session, _stream) = service.start_session(options()).await;
    service.cut(Cut::Reset);
    assert!(matches!(
        next_event(&session).await,
        SessionEvent::Lost { .. }
    ));
    within(session.terminate()).await;
    assert_eq!(service.calls().last().unwrap(), "TerminateSession");
}

#[tokio::test]
async fn a_socket_that_slept_to_death_is_replaced_at_once() {
    let service = Service::start(Faults::default()).await;
    let clocks = TestClocks::new();
    let (session, stream) = service.start_in(computer(&clocks), options()).await;
    let stream = echo(stream, 1000).await;
    service.cut(Cut::BlackHole);
    clocks.sleep(Duration::from_secs(3600));
    resumed(&session, 1).await;
    let _stream = echo(stream, 1000).await;
    within(session.terminate()).await;
}

#[tokio::test]
async fn a_clock_that_is_set_costs_a_ping() {
    let service = Service::start(Faults::default()).await;
    let clocks = TestClocks::new();
    let (session, stream) = service.start_in(computer(&clocks), options()).await;
    pinged(&service, 1).await;
    clocks.sleep(Duration::from_secs(600));
    pinged(&service, 2).await;
    let _stream = echo(stream, 1000).await;
    assert_eq!(session.status().resumes, 0);
    within(session.terminate()).await;
}

#[tokio::test]
async fn waking_up_ends_the_wait_for_the_next_attempt() {
    let service = Service::start(Faults {
        denies_resume: true,
        ..Faults::default()
    })
    .await;
    let clocks = TestClocks::new();
    let surroundings = Surroundings {
        slowly: PATIENCE * 10,
        ..computer(&clocks)
    };
    let (session, stream) = service.start_in(surroundings, options()).await;
    service.cut(Cut::Reset);
    assert!(matches!(
        next_event(&session).await,
        SessionEvent::Lost { .. }
    ));
    assert!(matches!(
        next_event(&session).await,
        SessionEvent::Retrying { .. }
    ));
    service.state.lock().unwrap().faults.denies_resume = false;
    clocks.sleep(Duration::from_secs(3600));
    resumed(&session, 1).await;
    let _stream = echo(stream, 1000).await;
    within(session.terminate()).await;
}

#[tokio::test]
async fn a_slow_link_and_a_slow_agent_keep_their_socket() {
    if !is_full_run() {
        return;
    }
    let slow_link = async {
        // Four seconds for each message, with many of them in the send buffer.
        let service = Service::start(Faults {
            bytes_per_s: Some(4 << 10),
            ..Faults::default()
        })
        .await;
        let (session, mut stream) = service.start_session(options()).await;
        stream.write_all(&[7; 200 << 10]).await.unwrap();
        sleep(Duration::from_secs(18)).await;
        assert_eq!(session.status().resumes, 0, "slow link");
        assert!(session.status().messages.acknowledged > 3);
    };
    let slow_agent = async {
        let service = Service::start(Faults {
            stalled: false,
            ..Faults::default()
        })
        .await;
        let (session, mut stream) = service.start_session(options()).await;
        service.state.lock().unwrap().faults.stalled = true;
        stream.write_all(&[7; 200 << 10]).await.unwrap();
        sleep(Duration::from_secs(18)).await;
        assert_eq!(session.status().resumes, 0, "slow agent");
        assert!(session.status().unacknowledged > 0);
        service.state.lock().unwrap().faults.stalled = false;
        let mut back = vec![0; 200 << 10];
        within(stream.read_exact(&mut back)).await.unwrap();
    };
    tokio::join!(slow_link, slow_agent);
}
