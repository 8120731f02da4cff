//! What works with which version.

use std::io::Read as _;

use rustix::process::Signal;
use ssmshim::emulator::Resend;
use ssmshim::emulator::fault::Counters;

use crate::common::daemon::{aws_environment, ssmshim};
use crate::common::faulty::Faulty;
use crate::common::files::{assert_same, write_file};
use crate::common::process::code;
use crate::common::sshd::Sshd;
use crate::common::world::serve_args;
use crate::common::{DEADLINE, have};
use crate::{AGES, Carries, agent, agent_that};

/// Not ready for so long after each handshake, as real agents are for a moment: long enough for whoever sends at once,
/// however busy this machine, and not for one that is given time.
const UNREADY: &str = r#"{"fault": "unready", "ms": 400}"#;

/// Commands, several connections at once and copies both ways.
#[test]
fn every_age_serves() {
    for (version, carries) in AGES {
        let Some(faulty) = agent(version, UNREADY) else {
            return;
        };
        let world = &faulty.world;
        for status in [0, 7] {
            let output = world.ssh(&[], &format!("cat; exit {status}")).stdin("in");
            let output = output.output();
            assert_eq!((output.code, &*output.text()), (status, "in"), "{version}");
        }
        let open = [(); 3].map(|()| world.forwarding(&[]));
        if have("scp") {
            let (here, there, back) = (world.path("here"), world.path("there"), world.path("back"));
            write_file(&here, 2 << 20, 7);
            world.scp(&[]).arg(&here).arg(world.remote(&there)).ok();
            world.scp(&[]).arg(world.remote(&there)).arg(&back).ok();
            assert_same(&here, &back);
        }
        drop(open);
        let said = said(&faulty);
        let counters = faulty.faults().counters();
        match carries {
            Carries::One => {
                assert!(counters.sessions > 4, "{version}: {counters:?}");
                let words = "too old for several connections";
                assert_eq!(said.matches(words).count(), 1, "{version}: {said}");
                assert!(
                    said.contains(version) && said.contains("AWS-UpdateSSMAgent"),
                    "{said}"
                );
            }
            Carries::Many => {
                faulty.assert_one_session();
                assert!(!said.contains("too old"), "{version}: {said}");
                // The old one would be deaf from then on, and is not sent anything so soon.
                assert_eq!(
                    counters.unready > 0,
                    version != "3.0.222.0",
                    "{version}: {counters:?}"
                );
            }
        }
    }
}

/// A slow machine: the first connection waits until its agent is ready.
#[test]
fn every_age_may_take_its_time() {
    for (version, _) in AGES {
        // The other one is deaf then: see below.
        if version == "3.0.222.0" {
            continue;
        }
        for ms in [800, 3000] {
            let unready = format!(r#"{{"fault": "unready", "ms": {ms}}}"#);
            let Some(faulty) = agent(version, &unready) else {
                return;
            };
            let sessions = faulty.faults().counters().sessions_over;
            let output = faulty.world.ssh(&[], "exit 7").output();
            assert_eq!(output.code, 7, "{version} {ms}: {output:?}");
            let over = faulty.faults().counters().sessions_over;
            // But for that of the command, with agents that have one for each connection.
            assert!(over <= sessions + 1, "{version} {ms}");
        }
    }
}

/// Between 3.0.222.0 and 3.0.603.0 what comes too early makes a session deaf: another one is started.
#[test]
fn a_deaf_session_is_followed_by_another() {
    for ms in [1500, 3000] {
        let Some(faulty) = agent("3.0.222.0", "{}") else {
            return;
        };
        faulty.inject(&format!(r#"{{"fault": "unready", "ms": {ms}}}"#));
        let sessions = faulty.faults().counters().sessions;
        faulty.inject(r#"{"fault": "terminate", "text": "by the administrator"}"#);
        faulty.until(|counters| counters.unready > 0);
        faulty.inject(r#"{"fault": "unready", "ms": 0}"#);
        let output = faulty.world.ssh(&[], "exit 7").output();
        assert_eq!(output.code, 7, "{ms}: {output:?}");
        let counters = faulty.faults().counters();
        assert_eq!(counters.sessions, sessions + 2, "{ms}: {counters:?}");
    }
}

/// What is under way when sockets are cut arrives once and in order, with agents that acknowledge once as well.
#[test]
fn every_age_outlives_cuts() {
    for (version, _) in AGES {
        let Some(counters) = upload_through_cuts(version, "client", 700_000) else {
            return;
        };
        assert!(counters.client_cuts >= 3, "{version}: {counters:?}");
        assert!(counters.resumes >= 3, "{version}: {counters:?}");
    }
}

/// Of these cuts the client is told nothing.
#[test]
fn every_age_outlives_cuts_at_its_own_end() {
    for (version, _) in AGES {
        let Some(counters) = upload_through_cuts(version, "agent", 300_000) else {
            return;
        };
        assert!(counters.agent_cuts >= 6, "{version}: {counters:?}");
        assert_eq!(counters.resumes, 0, "{version}: {counters:?}");
    }
}

/// Copies a file to an agent of this version, whose sockets of `side` are cut when so many bytes have come from the
/// client: what it sends is what nobody acknowledges twice.
fn upload_through_cuts(version: &str, side: &str, bytes: u32) -> Option<Counters> {
    if !have("scp") {
        return None;
    }
    let faulty = agent_that(version, "{}", Resend::HeadOnly)?;
    let world = &faulty.world;
    let (here, there) = (world.path("here"), world.path("there"));
    write_file(&here, 6 << 20, 11);
    faulty.inject(&format!(
        r#"{{"fault": "cut", "side": "{side}", "how": "reset", "from": "client", "after": {{"bytes": {bytes}}},
             "extent": {{"times": 10}}}}"#
    ));
    let sessions = faulty.faults().counters().sessions;
    world.scp(&[]).arg(&here).arg(world.remote(&there)).ok();
    assert_same(&here, &there);
    let counters = faulty.faults().counters();
    // Nothing was started anew, but for a spare connection.
    assert!(counters.sessions <= sessions + 2, "{version}: {counters:?}");
    Some(counters)
}

/// Agents that write a message to the port twice when they lose their socket: those that process before they
/// acknowledge do. Nothing arrives wrong, and another session follows.
#[test]
fn what_an_agent_repeats_is_noticed() {
    if !have("scp") {
        return;
    }
    for (version, _) in AGES {
        let Some(faulty) = agent(version, r#"{"fault": "repeat", "on": true}"#) else {
            return;
        };
        let world = &faulty.world;
        let (here, there) = (world.path("here"), world.path("there"));
        write_file(&here, 4 << 20, 13);
        faulty.inject(
            r#"{"fault": "cut", "side": "agent", "how": "reset", "from": "client", "after": {"bytes": 400000},
                "extent": {"times": 5}}"#,
        );
        let copied = world.scp(&[]).arg(&here).arg(world.remote(&there)).output();
        let counters = faulty.faults().counters();
        assert!(counters.agent_cuts > 0, "{version}: {counters:?}");
        if copied.code == 0 {
            assert_same(&here, &there);
        } else {
            assert!(counters.repeated > 0, "{version}: {copied:?} {counters:?}");
        }
        if ["2.3.722.0", "3.0.196.0", "3.0.222.0"].contains(&version) {
            assert_eq!((copied.code, counters.repeated), (0, 0), "{version}");
        }
        faulty.faults().clear();
        assert_eq!(world.ssh(&[], "exit 3").output().code, 3, "{version}");
    }
}

/// An agent without smux tells the end of a connection by the end of its session.
#[test]
fn a_connection_that_sshd_loses_ends_alone() {
    let Some(faulty) = agent("2.3.722.0", "{}") else {
        return;
    };
    let world = &faulty.world;
    let mut client = world.ssh(&[], "echo said; exec cat").piped();
    let mut said = [0; 5];
    let mut stdout = client.take_stdout();
    stdout.read_exact(&mut said).expect("the command speaks");
    let _stdin = client.take_stdin();
    world.sshd.as_ref().expect("a real one").end_sessions();
    assert_eq!(code(client.wait(DEADLINE)), 255);
    let stderr = client.stderr();
    assert!(
        stderr.contains("ssmshim: the target's sshd closed"),
        "{stderr:?}"
    );
    assert_eq!(world.ssh(&[], "exit 3").output().code, 3);
}

/// A closed port is named as such, and what is told of the agent is told once.
#[test]
fn a_port_that_nothing_listens_on_is_named() {
    let Some(faulty) = agent("2.3.722.0", "{}") else {
        return;
    };
    let world = &faulty.world;
    world.sshd.as_ref().expect("a real one").stop();
    let output = world.ssh(&[], "true").output();
    assert_eq!(output.code, 255, "{output:?}");
    let told = world.daemon.as_ref().expect("serve").told("error: ");
    assert!(told.starts_with("nothing listens on port"), "{told}");
    world.sshd.as_ref().expect("a real one").start_again();
    let output = world.ssh(&[], "exit 4").output();
    assert_eq!(output.code, 4, "{output:?}");
    let words = "too old for several connections";
    assert_eq!(said(&faulty).matches(words).count(), 1);
}

/// Neither the sessions in use nor the spare ones are left behind.
#[test]
fn sessions_of_single_connections_are_ended() {
    let Some(mut faulty) = agent("3.0.196.0", "{}") else {
        return;
    };
    let open = faulty.world.forwarding(&[]);
    let daemon = faulty.world.daemon.as_mut().expect("serve");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().0, 0);
    let counters = faulty.faults().counters();
    assert!(counters.sessions >= 2, "{counters:?}");
    faulty.until(|counters| counters.sessions == counters.sessions_over);
    drop(open);
}

/// Before 2.3.672.0 an agent connects to no port: there is nothing to be done from here, and that is said.
#[test]
fn an_agent_without_ports_is_named_with_the_remedy() {
    use crate::common::daemon::Daemon;
    let directory = tempfile::tempdir().expect("a directory");
    let Some(sshd) = Sshd::start(&directory.path().join("sshd")) else {
        return;
    };
    let args = ["emulator", "--agent-version", "2.3.662.0"];
    let emulator = Daemon::start(&directory.path().join("aws"), &args, &[]);
    let args = serve_args(
        &emulator.text("target"),
        &sshd.port.to_string(),
        &sshd.identity,
    );
    let args: Vec<_> = args
        .iter()
        .map(String::as_str)
        .chain(["--listen", "127.0.0.1:0"])
        .collect();
    let mut serve = ssmshim(&directory.path().join("home"), &args);
    for (name, value) in aws_environment(&emulator.text("endpoint")) {
        serve = serve.env(&name, value);
    }
    let output = serve.output();
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("too old: before 2.3.672.0"),
        "{output:?}"
    );
    assert!(
        output
            .stderr
            .contains("hint: update the agent: aws ssm send-command"),
        "{output:?}"
    );
}

fn said(faulty: &Faulty) -> String {
    let daemon = faulty.world.daemon.as_ref().expect("serve");
    daemon.stderr()
}
