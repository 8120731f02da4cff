//! What agents and the service do to sessions, and what a person notices of it.

use std::io::{BufRead as _, BufReader, Write as _};

use crate::AGES;
use crate::agent;

/// Every socket of either end is closed after a while, as the service does after an hour: a command goes on.
#[test]
fn a_command_outlives_the_hourly_close() {
    for (version, _) in AGES.into_iter().step_by(3) {
        let Some(faulty) = agent(version, "{}") else {
            return;
        };
        let mut client = faulty.world.ssh(&[], "exec cat").piped();
        let mut stdin = client.take_stdin();
        let mut stdout = BufReader::new(client.take_stdout()).lines();
        let mut echo = |word: String| {
            writeln!(stdin, "{word}").expect("ssh reads");
            let line = stdout.next().expect("ssh writes").expect("text");
            assert_eq!(line, word, "{version}");
        };
        echo("before".into());
        let before = faulty.faults().counters();
        for side in ["client", "agent"] {
            faulty.inject(&format!(
                r#"{{"fault": "cut", "side": "{side}", "how": "bye", "after": {{"ms": 300}}, "jitter": 0.3,
                     "extent": "always"}}"#
            ));
        }
        for round in 1..=4 {
            echo(format!("round {round}"));
            faulty.until(|now| now.client_cuts >= round && now.agent_cuts >= round);
        }
        faulty.faults().clear();
        echo("after".into());
        let after = faulty.faults().counters();
        assert_eq!(
            (after.sessions, after.sessions_over),
            (before.sessions, before.sessions_over),
            "{version}"
        );
    }
}

/// A session that no agent hears of is ended and another started; the person is told.
#[test]
fn an_unheard_session_is_followed_by_another() {
    let Some(faulty) = agent("3.3.1142.0", r#"{"fault": "unheard"}"#) else {
        return;
    };
    assert_eq!(faulty.world.ssh(&[], "exit 5").output().code, 5);
    let counters = faulty.until(|counters| counters.sessions_over >= 1);
    assert_eq!(
        (counters.unheard, counters.sessions),
        (1, 2),
        "{counters:?}"
    );
    let daemon = faulty.world.daemon.as_ref().expect("serve");
    let said = daemon.stderr();
    assert!(said.contains("did not get through to the agent"), "{said}");
    assert!(!said.contains(" times"), "it was the first: {said}");
}

/// A start that is throttled is tried again when the service allows it, and the person is told.
#[test]
fn a_throttled_start_is_tried_again() {
    let throttled = r#"{"fault": "api", "operation": "StartSession", "answer": {"throttled": {"retry_after": 1}}}"#;
    let Some(faulty) = agent("3.3.1142.0", throttled) else {
        return;
    };
    let counters = faulty.faults().counters();
    assert_eq!(
        (counters.api_refused, counters.sessions),
        (1, 1),
        "{counters:?}"
    );
    let daemon = faulty.world.daemon.as_ref().expect("serve");
    let said = daemon.stderr();
    assert!(
        said.contains("StartSession was throttled, waiting"),
        "{said}"
    );
}

/// Headers of 112 bytes on all that the service says itself, at a start and after a cut.
#[test]
fn short_headers_are_understood() {
    let faults = r#"{"fault": "headers", "short": true}"#;
    let Some(faulty) = agent("3.3.1142.0", faults) else {
        return;
    };
    let daemon = faulty.world.daemon.as_ref().expect("serve");
    for round in 1..=2 {
        assert_eq!(faulty.world.ssh(&[], "exit 5").output().code, 5);
        faulty.inject(r#"{"fault": "cut", "side": "client", "how": "bye"}"#);
        faulty.until(|counters| counters.resumes >= round);
    }
    faulty.assert_one_session();
    let said = daemon.stderr();
    assert!(!said.contains("message dropped"), "{said}");
    // With its text, which is in a message of that kind.
    faulty.inject(r#"{"fault": "terminate", "text": "by the administrator"}"#);
    faulty.until(|counters| counters.sessions >= 2);
    assert_eq!(faulty.world.ssh(&[], "exit 6").output().code, 6);
    let told = daemon.stdout();
    assert!(told.contains("by the administrator"), "{told}");
}
