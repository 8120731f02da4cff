//! What becomes of the way to the target, as programs and people are told of it.

mod common;

use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::daemon::{Daemon, aws_environment};
use common::net::{call_ssm, connect};
use common::process::{Output, code, read_until};
use common::world::{World, serve_args};
use common::{DEADLINE, until};
use serde_json::json;

#[test]
fn a_cut_link_is_told_and_resumed() {
    let Some(world) = World::serve() else { return };
    for how in ["reset", "fin", "bye"] {
        world.inject(&json!({"fault": "cut", "side": "client", "how": how}));
        let lost = world.daemon().expect("lost");
        assert_eq!(lost["resuming"], true, "{lost}");
        assert!(lost["reason"].as_str().is_some_and(|it| !it.is_empty()));
        let resumed = world.daemon().expect("resumed");
        assert!(resumed["gap_seconds"].as_f64().is_some(), "{resumed}");
        assert!(resumed["attempts"].as_u64() >= Some(1), "{resumed}");
    }
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
}

/// A hindrance is told once, however often it is met.
#[test]
fn what_hinders_a_resume_is_told_once() {
    let Some(world) = World::serve() else { return };
    let refused = json!({"faults": [
        {"fault": "api", "operation": "ResumeSession", "answer": {"failed": {"status": 503}}, "extent": {"times": 3}},
        {"fault": "cut", "side": "client", "how": "reset"},
    ]});
    world.inject(&refused);
    world.daemon().expect("lost");
    let retrying = world.daemon().expect("retrying");
    assert_eq!(retrying["attempt"], 1, "{retrying}");
    let resumed = world.daemon().expect("resumed");
    assert_eq!(resumed["attempts"], 4, "{resumed}");
}

#[test]
fn a_session_that_was_terminated_is_replaced() {
    let Some(world) = World::serve() else { return };
    let endpoint = world
        .emulator
        .as_ref()
        .expect("serve has one")
        .text("endpoint");
    let (_, answer) = call_ssm(&endpoint, "DescribeSessions", r#"{"State":"Active"}"#);
    let session_id = &answer["Sessions"][0]["SessionId"];
    let body = json!({ "SessionId": session_id }).to_string();
    let (status, answer) = call_ssm(&endpoint, "TerminateSession", &body);
    assert_eq!(status, 200, "{answer}");
    let lost = world.daemon().expect("lost");
    assert_eq!(lost["resuming"], false, "{lost}");
    let up = world.daemon().expect("up");
    assert!(up["gap_seconds"].as_f64().is_some(), "{up}");
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
}

#[test]
fn an_agent_that_is_offline_is_told_at_once_and_waited_for() {
    let Some(world) = World::serve() else { return };
    world.inject(&json!({"fault": "agent", "away_ms": 4000}));
    let lost = world.daemon().expect("lost");
    assert_eq!(lost["resuming"], false, "{lost}");
    let down = world.daemon().expect("down");
    let error = down["error"].as_str().unwrap_or_default();
    assert!(error.contains("not connected"), "{down}");
    assert!(down["hint"].is_string(), "{down}");
    // A client that comes meanwhile is held until it is there.
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
    world.daemon().expect("up");
}

/// A new connection waits for a resume as long as `--hold` says, and is then told what was lost.
#[test]
fn a_client_is_held_while_the_session_is_resumed() {
    let Some(mut world) = World::serve() else {
        return;
    };
    world.serve_again(&["--hold", "2"]);
    let away = json!({"faults": [
        {"fault": "api", "operation": "ResumeSession", "answer": {"failed": {"status": 503}}, "extent": "always"},
        {"fault": "cut", "side": "client", "how": "reset"},
    ]});
    world.inject(&away);
    world.daemon().expect("lost");
    let begun = Instant::now();
    let refused = world.ssh(&["-o", "LogLevel=INFO"], "echo works").output();
    assert!(begun.elapsed() >= Duration::from_secs(2), "it was held");
    assert_eq!(refused.code, 255, "{refused:?}");
    let words = ["was lost", "is being resumed", "ResumeSession failed"];
    assert!(
        words.iter().all(|words| refused.stderr.contains(words)),
        "{refused:?}"
    );
    world.daemon().expect("retrying");
    world.clear_faults();
    world.daemon().expect("resumed");
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
}

#[test]
fn a_person_is_told_in_words() {
    let Some(mut world) = World::serve() else {
        return;
    };
    drop(world.daemon.take());
    let emulator = world.emulator.as_ref().expect("serve has one");
    let sshd = world.sshd.as_ref().expect("serve has one");
    let mut args = serve_args(
        &emulator.text("target"),
        &sshd.port.to_string(),
        &sshd.identity,
    );
    args.extend(["--listen".to_owned(), "127.0.0.1:0".to_owned()]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let daemon = Daemon::launch(
        &world.path("home"),
        &args,
        &aws_environment(&emulator.text("endpoint")),
    );
    daemon.told("Ctrl-C stops.");
    emulator.inject(&json!({"fault": "cut", "side": "client", "how": "bye"}));
    daemon.told("connection lost (");
    daemon.told("resumed after ");
    emulator.inject(&json!({"fault": "terminate", "text": "by the administrator"}));
    let reason = daemon.told("the SSM session is over (");
    assert!(reason.contains("by the administrator"), "{reason}");
    daemon.told("reached again after ");
    assert_eq!(daemon.stdout(), "");
}

/// A session is no use without an sshd behind it: that counts as down as well.
#[test]
fn an_sshd_that_is_gone_is_told_and_waited_for() {
    let Some((world, door)) = behind_a_door() else {
        return;
    };
    let port = door.port;
    door.shut();
    world.inject(&json!({"fault": "terminate", "text": "rebooting"}));
    world.daemon().expect("lost");
    world.daemon().expect("up");
    let down = world.daemon().expect("down");
    let error = down["error"].as_str().unwrap_or_default();
    assert!(
        error.starts_with(&format!("nothing listens on port {port}")),
        "{down}"
    );
    let door = Door::open(port, world.sshd.as_ref().expect("serve has one").port);
    let up = world.daemon().expect("up");
    assert!(up["gap_seconds"].is_null(), "{up}");
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
    door.shut();
}

/// Logins that are made ahead and fail are no secret, nor tried without end: whoever comes next would fail as well.
#[test]
fn an_sshd_that_lets_nobody_in_is_told() {
    let Some((world, door)) = behind_a_door() else {
        return;
    };
    door.set(Mode::Closing);
    world.sshd.as_ref().expect("serve has one").end_sessions();
    let down = world.daemon().expect("down");
    let error = down["error"].as_str().unwrap_or_default();
    assert!(error.contains("connection closed during"), "{down}");
    assert!(down["hint"].is_string(), "{down}");
    door.set(Mode::Open);
    world.daemon().expect("up");
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
    door.shut();
}

/// A login that is under way when the tunnel is lost is begun again on the next one.
#[test]
fn a_login_under_way_moves_to_the_next_tunnel() {
    let Some((world, door)) = behind_a_door() else {
        return;
    };
    door.set(Mode::Stalled);
    // With the first tunnel go the logins that were spare.
    world.inject(&json!({"fault": "terminate", "text": "once"}));
    world.daemon().expect("lost");
    world.daemon().expect("up");
    let mut ssh = world.ssh(&[], "echo works").piped();
    until("logins are stalled", || (door.stalled() >= 2).then_some(()));
    // Those who are in go no further; the next are let through.
    door.set(Mode::Open);
    world.inject(&json!({"fault": "terminate", "text": "twice"}));
    world.daemon().expect("lost");
    world.daemon().expect("up");
    let mut answer = String::new();
    let mut stdout = ssh.take_stdout();
    stdout.read_to_string(&mut answer).expect("a pipe");
    assert_eq!(answer, "works\n", "{}", ssh.stderr());
    door.shut();
}

/// A far end whose sshd is reached through a door.
fn behind_a_door() -> Option<(World, Door)> {
    let mut door = None;
    let world = World::serve_to(|sshd| door.insert(Door::open(0, sshd.port)).port)?;
    Some((world, door?))
}

/// What a door does with those who come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They are let through.
    Open,
    /// They are let in, and no further.
    Stalled,
    /// They are sent away without a word.
    Closing,
    /// Nothing listens.
    Shut,
}

/// A way to a port. Who is through stays, whatever the mode becomes.
struct Door {
    port: u16,
    state: Arc<Mutex<(Mode, Vec<TcpStream>)>>,
    keeper: JoinHandle<()>,
}

impl Door {
    fn open(port: u16, behind: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port of our own");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(Mutex::new((Mode::Open, Vec::new())));
        let shared = Arc::clone(&state);
        let keeper = thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let mut state = shared.lock().expect("no panic under the lock");
                match state.0 {
                    Mode::Open => {
                        if let Ok(far) = TcpStream::connect(("127.0.0.1", behind)) {
                            join(near, far);
                        }
                    }
                    Mode::Stalled => state.1.push(near),
                    Mode::Closing => drop(near),
                    Mode::Shut => return,
                }
            }
        });
        Self {
            port,
            state,
            keeper,
        }
    }

    fn set(&self, mode: Mode) {
        self.state.lock().expect("no panic under the lock").0 = mode;
    }

    /// How many have been let in and no further.
    fn stalled(&self) -> usize {
        self.state.lock().expect("no panic under the lock").1.len()
    }

    fn shut(self) {
        self.set(Mode::Shut);
        drop(connect(self.port));
        self.keeper.join().expect("no panic at the door");
    }
}

/// Copies both ways until both have ended.
fn join(near: TcpStream, far: TcpStream) {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    };
    let pair = near
        .try_clone()
        .and_then(|near| Ok((near, far.try_clone()?)));
    if let Ok((near_too, far_too)) = pair {
        copy(near, far);
        copy(far_too, near_too);
    }
}

/// Logins kept spare live on through a resume: sshd sees no others.
#[test]
fn spare_logins_survive_a_resume() {
    let Some(world) = World::serve() else { return };
    let sshd = world.sshd.as_ref().expect("serve has one");
    let logins = || {
        let log = sshd.log();
        log.lines()
            .filter(|line| line.contains("Accepted publickey"))
            .count()
    };
    until("two logins are spare", || (logins() == 2).then_some(()));
    world.inject(&json!({"fault": "cut", "side": "client", "how": "reset"}));
    world.daemon().expect("lost");
    world.daemon().expect("resumed");
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
    // The one that was used is replaced; none was lost.
    until("a spare is replaced", || (logins() == 3).then_some(()));
}

/// The worker of the session at the agent is gone, and the service does not know: it keeps the socket and the session.
fn kill_worker(world: &World) {
    let stopped = || world.emulator().faults("GET", "")["counters"]["agents_stopped"].as_u64();
    let before = stopped();
    world.inject(&json!({"fault": "agent", "away_ms": 100, "silent": true}));
    until("it is gone", || (stopped() > before).then_some(()));
}

/// The client's error, which is to be that the agent does not answer, with something to do about it.
fn assert_told_of_silence(refused: &Output) {
    assert_eq!(refused.code, 255, "{refused:?}");
    let words = [
        "ssmshim: the SSM agent on ",
        " has not answered for ",
        "(hint: see there whether amazon-ssm-agent is alive",
    ];
    assert!(
        words.iter().all(|words| refused.stderr.contains(words)),
        "{refused:?}"
    );
}

/// Its socket lives, its pings are answered: only what is not acknowledged tells.
#[test]
fn an_agent_that_died_behind_a_living_socket_is_told() {
    let Some(world) = World::serve_with("", &["--hold", "2"]) else {
        return;
    };
    kill_worker(&world);
    // The first one has a login that was spare, and asks it for a channel; the next one does not get as far.
    let refused = world.ssh(&["-o", "LogLevel=INFO"], "echo works").output();
    assert_told_of_silence(&refused);
    let silent = world.daemon().expect("silent");
    assert!(silent["silent_seconds"].as_f64() >= Some(8.0), "{silent}");
    let begun = Instant::now();
    let refused = world.ssh(&["-o", "LogLevel=INFO"], "echo works").output();
    assert!(begun.elapsed() >= Duration::from_secs(2), "it was held");
    assert_told_of_silence(&refused);
    world.terminate_sessions();
    let lost = world.daemon().expect("lost");
    assert_eq!(lost["resuming"], false, "{lost}");
    world.daemon().expect("up");
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
}

/// A channel is refused; what was open stays so until the session is given up, and the connection after that.
#[test]
fn a_silent_agent_costs_a_connection_no_more_than_its_channels() {
    let Some(world) = World::serve_with("", &["--hold", "2"]) else {
        return;
    };
    let socket = world.text("control");
    // It asks for life more often than most do, and gives up after twelve seconds.
    let options = ["-N", "-o", "ServerAliveInterval=3", "-o", "LogLevel=INFO"];
    let options = [&options[..], &["-M", "-S", &socket]].concat();
    let master = world.ssh(&options, "").piped();
    until("the master listens", || {
        let check = world.control(&socket, "check", &[]).output();
        (check.code == 0).then_some(())
    });
    let mut running = world
        .ssh(&["-S", &socket], "echo established; exec cat")
        .piped();
    let said = read_until(running.take_stdout(), "established");
    assert!(said.is_some(), "{}", running.stderr());
    let _stdin = running.take_stdin();
    kill_worker(&world);
    let refused = world.ssh(&["-S", &socket], "echo works").output();
    assert!(refused.code != 0, "{refused:?}");
    world.daemon().expect("silent");
    assert!(running.try_wait(Duration::ZERO).is_none(), "it goes on");
    let told = master.stderr();
    assert!(told.contains(" has not answered for "), "{told}");
    world.terminate_sessions();
    world.daemon().expect("lost");
    assert_eq!(code(running.wait(DEADLINE)), 255);
    let works = world.ssh(&["-S", &socket], "echo works").ok();
    assert_eq!(works.text(), "works");
}
