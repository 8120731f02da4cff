//! A WebSocket lost in the middle, and an SSM session lost for good.

use std::fs::File;

use ssmshim::emulator::Peer;
use ssmshim::emulator::fault::plan::{Amount, Ending};

use crate::common::files::assert_same;
use crate::common::net::call_ssm;
use crate::common::process::code;
use crate::common::{DEADLINE, until};
use crate::{Near, both_ways, text, three};

both_ways! { not_a_byte_is_lost, a_pause_that_lasts_is_told }

fn not_a_byte_is_lost(near: &Near) {
    let [here, there, back] = three(near, 12 << 20);
    for side in [Peer::Client, Peer::Agent] {
        near.faulty
            .faults()
            .cut_every(side, Ending::Reset, Amount::Bytes(3 << 20));
        let up = near
            .ssh(&[], &format!("cat > {}", text(&there)))
            .stdin_from(File::open(&here).expect("just written"))
            .ok();
        assert_same(&here, &there);
        let down = near
            .ssh(&[], &format!("cat {}", text(&there)))
            .stdout_to(File::create(&back).expect("our own directory"))
            .ok();
        assert_same(&here, &back);
        assert_eq!(up.stderr + &down.stderr, "", "a short pause is not told");
        near.faulty.faults().clear();
    }
    let cuts = near.faulty.faults().counters();
    assert!(cuts.client_sockets > 4, "{cuts:?}");
}

fn a_pause_that_lasts_is_told(near: &Near) {
    let mut session = near.session(&[]);
    near.faulty.inject(
        r#"{"faults": [
            {"fault": "api", "operation": "ResumeSession", "answer": {"failed": {"status": 503}}, "extent": "always"},
            {"fault": "cut", "side": "client", "how": "reset"}]}"#,
    );
    let is_told = |what: &str| session.stderr().contains(what).then_some(());
    until("it is told", || is_told("not resumed yet"));
    near.faulty.faults().clear();
    until("its end is told", || is_told("resumed after"));
    drop(session.take_stdin());
    assert_eq!(code(session.wait(DEADLINE)), 0);
    let said = session.stderr();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].starts_with("ssmshim: not resumed yet: ResumeSession failed"),
        "{said}"
    );
    assert!(lines[1].starts_with("ssmshim: resumed after "), "{said}");
}

/// Nobody can go on; the person is told why.
#[test]
fn an_ssm_session_that_is_ended_ends_the_connection() {
    for way in [crate::Way::Alone, crate::Way::Shared] {
        let Some(near) = Near::start(way) else { return };
        let mut session = near.session(&[]);
        let (endpoint, _) = near.faulty.names();
        let (_, answer) = call_ssm(&endpoint, "DescribeSessions", r#"{"State":"Active"}"#);
        for open in answer["Sessions"].as_array().into_iter().flatten() {
            let body = serde_json::json!({ "SessionId": open["SessionId"] }).to_string();
            assert_eq!(call_ssm(&endpoint, "TerminateSession", &body).0, 200);
        }
        assert_eq!(code(session.wait(DEADLINE)), 255, "{way:?}");
        let said = session.stderr();
        let text = format!("error: the SSM session to {} is over: ", near.target);
        assert!(said.starts_with(&text), "{way:?}: {said}");
        assert!(said.contains("\nhint: connect again"), "{way:?}: {said}");
        assert_eq!(near.ssh(&[], "echo works").ok().text(), "works");
        near.until_tidy();
    }
}
