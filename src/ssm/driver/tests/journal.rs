//! Which sessions the journal knows.

use super::*;

/// Notes what it is told: `*` for a start, then `+id` or `!`; `-id`, and `?id` for a session that was given up.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

impl crate::ssm::Journal for Notes {
    fn reason(&self) -> Option<String> {
        None
    }

    fn starting(&self) {
        self.0.lock().unwrap().push("*".to_owned());
    }

    fn started(&self, session_id: &str) {
        self.0.lock().unwrap().push(format!("+{session_id}"));
    }

    fn not_started(&self) {
        self.0.lock().unwrap().push("!".to_owned());
    }

    fn ended(&self, session_id: &str) {
        self.0.lock().unwrap().push(format!("-{session_id}"));
    }

    fn abandoned(&self, session_id: &str) {
        self.0.lock().unwrap().push(format!("?{session_id}"));
    }
}

#[tokio::test]
async fn the_journal_knows_each_session_from_its_start_to_its_confirmed_end() {
    let service = Service::start(Faults {
        silent_sessions: 1,
        ..Faults::default()
    })
    .await;
    let notes = Arc::new(Notes::default());
    let options = Options {
        handshake_deadline: Duration::from_millis(300),
        journal: Some(notes.clone()),
        ..options()
    };
    let (session, _stream) = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap();
    assert_eq!(
        *notes.0.lock().unwrap(),
        ["*", "+user-1", "-user-1", "*", "+user-3"]
    );
    within(session.terminate()).await;
    assert_eq!(notes.0.lock().unwrap().last().unwrap(), "-user-3");
}

#[tokio::test]
async fn a_session_whose_end_nobody_confirmed_stays_in_the_journal() {
    let service = Service::start(Faults {
        failing_terminate: true,
        ..Faults::default()
    })
    .await;
    let notes = Arc::new(Notes::default());
    let options = Options {
        journal: Some(notes.clone()),
        ..options()
    };
    let (session, _stream) = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap();
    within(session.terminate()).await;
    assert_eq!(*notes.0.lock().unwrap(), ["*", "+user-1", "?user-1"]);
}

#[tokio::test]
async fn a_session_closed_by_the_service_is_struck_from_the_journal() {
    let service = Service::start(Faults::default()).await;
    let notes = Arc::new(Notes::default());
    let options = Options {
        journal: Some(notes.clone()),
        ..options()
    };
    let (session, _stream) = within(SsmSession::start(service.ssm(), request(), options))
        .await
        .unwrap();
    service.state.lock().unwrap().closing = Some(Closing::Session("bye"));
    within(session.closed()).await;
    assert_eq!(*notes.0.lock().unwrap(), ["*", "+user-1", "-user-1"]);
}
