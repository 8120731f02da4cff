//! No SSM session outlives its daemon for long: those of a killed one are ended by the next.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::daemon::{Daemon, PROGRAM, aws_environment};
use common::net::call_ssm;
use common::world::{World, serve_args};
use common::{report, until};
use rustix::process::Signal;
use serde_json::Value;

/// The ids of the SSM sessions that the emulator of `world` has open.
fn open(world: &World) -> Vec<String> {
    let emulator = world.emulator.as_ref().expect("serve has one");
    let body = r#"{"State":"Active"}"#;
    let (status, answer) = call_ssm(&emulator.text("endpoint"), "DescribeSessions", body);
    assert_eq!(status, 200, "{answer}");
    let sessions = answer["Sessions"].as_array().cloned().unwrap_or_default();
    let id = |session: &Value| session["SessionId"].as_str().map(str::to_owned);
    sessions.iter().filter_map(id).collect()
}

fn kill(mut daemon: Daemon) {
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.wait().0, 128 + 9);
}

fn journals(world: &World) -> PathBuf {
    world.path("home/state/ssmshim/sessions")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Waits until the only session open is that of the daemon which is running.
fn wait_for_sweep(world: &World, old: &[String]) {
    until("the old sessions are ended", || {
        let open = open(world);
        let is_swept = open.len() == 1 && !old.contains(&open[0]);
        is_swept.then_some(())
    });
}

#[test]
fn the_session_of_a_killed_daemon_is_ended_by_the_next() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let old = open(&world);
    assert_eq!(old.len(), 1);
    kill(world.daemon.take().expect("serve has one"));
    assert_eq!(open(&world), old, "nobody could end it");
    let mut daemon = world.another(&[]);
    wait_for_sweep(&world, &old);
    until("its record is removed", || {
        (files(&journals(&world)).len() == 2).then_some(())
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().0, 0, "{}", daemon.stderr());
    assert_eq!(open(&world), [""; 0]);
    assert!(files(&journals(&world)).is_empty(), "all is tidy");
}

#[test]
fn daemons_side_by_side_leave_each_other_alone() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let first = open(&world);
    let second = world.another(&[]);
    let both = open(&world);
    assert_eq!(both.len(), 2);
    kill(second);
    let third = world.another(&[]);
    until("the session of the killed one is ended", || {
        let open = open(&world);
        (open.len() == 2 && open.contains(&first[0])).then_some(())
    });
    let untouched = open(&world);
    drop(third);
    assert!(untouched.contains(&first[0]), "the first one lives on");
    let daemon = world.daemon.as_mut().expect("serve has one");
    daemon.assert_up();
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
}

/// An orderly end without a network cannot be confirmed by anybody.
#[test]
fn the_session_of_an_end_offline_is_ended_by_the_next() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let old = open(&world);
    let emulator = world.emulator.as_ref().expect("serve has one");
    emulator.signal(Signal::STOP);
    let mut daemon = world.daemon.take().expect("serve has one");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().0, 0, "{}", daemon.stderr());
    emulator.signal(Signal::CONT);
    let _daemon = world.another(&[]);
    wait_for_sweep(&world, &old);
}

/// Arguments for a daemon of this world that logs in with `identity`.
fn serving(world: &World, identity: &Path) -> Vec<String> {
    let port = world.sshd.as_ref().expect("serve has one").port.to_string();
    serve_args(&world.emulator().text("target"), &port, identity)
}

/// A way to an emulator on which the answers to StartSession can be lost.
struct Way {
    endpoint: String,
    loses: Arc<AtomicBool>,
}

impl Way {
    fn to(endpoint: &str) -> Self {
        let far = endpoint.strip_prefix("http://").expect("a plain endpoint");
        let far = far.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket");
        let loses = Arc::new(AtomicBool::new(true));
        let shared = Arc::clone(&loses);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(&far).expect("the emulator listens");
                let is_lost = Arc::new(AtomicBool::new(false));
                let (asked, loses) = (Arc::clone(&is_lost), Arc::clone(&shared));
                let (from_near, from_far) = (near.try_clone(), far.try_clone());
                let calls = move |bytes: &[u8]| {
                    let text = String::from_utf8_lossy(bytes);
                    if text.contains("AmazonSSM.StartSession") && loses.load(Ordering::SeqCst) {
                        asked.store(true, Ordering::SeqCst);
                    }
                    true
                };
                let answers = move |_: &[u8]| !is_lost.load(Ordering::SeqCst);
                carry(from_near.expect("a handle clones"), far, calls);
                carry(from_far.expect("a handle clones"), near, answers);
            }
        });
        Self {
            endpoint: format!("http://{address}"),
            loses,
        }
    }

    fn lose_answers(&self, loses: bool) {
        self.loses.store(loses, Ordering::SeqCst);
    }
}

/// Passes on what `passes`, until one side ends.
fn carry(mut from: TcpStream, mut to: TcpStream, passes: impl Fn(&[u8]) -> bool + Send + 'static) {
    thread::spawn(move || {
        let mut chunk = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            if passes(&chunk[..count]) && to.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// The service starts a session and its answer does not come, so that nobody knows its id.
#[test]
fn a_session_whose_start_hangs_is_ended_by_the_next() {
    let Some(mut world) = World::serve() else {
        return;
    };
    drop(world.daemon.take());
    let emulator = world.emulator();
    let sshd = world.sshd.as_ref().expect("serve has one");
    let args = serving(&world, &sshd.identity);
    let mut args: Vec<_> = args.iter().map(String::as_str).collect();
    args.extend(["--listen", "127.0.0.1:0"]);
    let way = Way::to(&emulator.text("endpoint"));
    let environment = aws_environment(&way.endpoint);
    let serve = || Daemon::launch(&world.path("home"), &args, &environment);
    for (hurries, code) in [(false, 0), (true, 1)] {
        way.lose_answers(true);
        let before = files(&journals(&world));
        let mut daemon = serve();
        until("a session is started", || {
            (open(&world).len() == 1).then_some(())
        });
        let old = open(&world);
        daemon.signal(Signal::INT);
        if hurries {
            daemon.told("stopping");
            daemon.signal(Signal::INT);
        }
        let (ended, took) = daemon.wait();
        assert_eq!(ended, code, "{}", daemon.stderr());
        report(&format!("a hanging start is given up after {took:?}"));
        let mut left = files(&journals(&world));
        left.retain(|path| !before.contains(path));
        assert_eq!(left.len(), 2, "its record and the lock: {left:?}");
        way.lose_answers(false);
        let _daemon = serve();
        wait_for_sweep(&world, &old);
    }
}

/// A terminal that closes hangs up, and its shell may do so again.
#[test]
fn hanging_up_twice_is_no_hurry() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let emulator = world.emulator.as_ref().expect("serve has one");
    emulator.signal(Signal::STOP);
    let mut daemon = world.daemon.take().expect("serve has one");
    daemon.signal(Signal::HUP);
    daemon.expect("stopping");
    daemon.signal(Signal::HUP);
    emulator.signal(Signal::CONT);
    assert_eq!(daemon.wait().0, 0, "{}", daemon.stderr());
    assert_eq!(open(&world), [""; 0]);
}

/// Whoever starts it with `nohup` wants it to stay when the terminal goes.
#[test]
fn a_daemon_that_is_not_to_hang_up_stays() {
    let Some(mut world) = World::serve() else {
        return;
    };
    drop(world.daemon.take());
    let sshd = world.sshd.as_ref().expect("serve has one");
    let args = serving(&world, &sshd.identity);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let args = [&args[..], &["--json", "--listen", "127.0.0.1:0"]].concat();
    let environment = aws_environment(&world.emulator().text("endpoint"));
    let mut nohup = Command::new("nohup");
    nohup.arg(PROGRAM);
    let mut daemon = Daemon::launch_by(nohup, &world.path("home"), &args, &environment);
    daemon.ready = daemon.expect("ready");
    daemon.signal(Signal::HUP);
    world.target.port = daemon.port();
    assert_eq!(world.ssh(&[], "echo works").ok().text(), "works");
    daemon.signal(Signal::TERM);
    daemon.expect("stopping");
    assert_eq!(daemon.wait().0, 0, "{}", daemon.stderr());
}

/// Nobody is let in, so there is nothing to stay for.
#[test]
fn a_daemon_that_gives_up_ends_its_session() {
    let Some(mut world) = World::serve() else {
        return;
    };
    drop(world.daemon.take());
    let args = serving(&world, &world.target.identity);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let args = [&args[..], &["--listen", "127.0.0.1:0"]].concat();
    let environment = aws_environment(&world.emulator().text("endpoint"));
    let mut daemon = Daemon::launch(&world.path("home"), &args, &environment);
    assert_eq!(daemon.wait().0, 1, "{}", daemon.stderr());
    let emulator = world.emulator();
    let started = emulator.faults("GET", "")["counters"]["sessions"].clone();
    assert_eq!(started, 2, "there was one, after that of the world");
    assert_eq!(open(&world), [""; 0]);
    assert!(files(&journals(&world)).is_empty(), "all is tidy");
}

#[test]
fn a_record_that_cannot_be_read_is_told_and_left_alone() {
    let Some(mut world) = World::serve() else {
        return;
    };
    drop(world.daemon.take());
    let directory = journals(&world);
    let name = directory.join("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    let (lock, record) = (name.with_extension("lock"), name.with_extension("json"));
    fs::write(&lock, "").expect("our own directory");
    fs::write(&record, "\0\0\0").expect("our own directory");
    let daemon = world.another(&[]);
    until("it is told", || {
        let told = daemon.stderr();
        (told.contains("WARN") && told.contains(&record.display().to_string())).then_some(())
    });
    assert_eq!(open(&world).len(), 1);
    assert_eq!(fs::read(&record).expect("still there"), b"\0\0\0");
}

#[test]
fn without_a_place_for_records_it_works_and_says_so() {
    let Some(mut world) = World::serve() else {
        return;
    };
    drop(world.daemon.take());
    let directory = journals(&world);
    fs::remove_dir_all(&directory).expect("our own directory");
    fs::write(&directory, "in the way").expect("our own directory");
    let daemon = world.another(&[]);
    until("it is told", || {
        let told = daemon.stderr();
        let is_told = told.contains("cannot write down which SSM sessions are open");
        is_told.then_some(())
    });
    assert_eq!(open(&world).len(), 1);
}

/// Nobody but the daemon's emulator has its sessions, and they end together.
#[test]
fn the_demo_keeps_no_record() {
    let Some(world) = World::demo() else { return };
    assert!(!journals(&world).exists());
}

/// The records name where sessions are, so that none is ended at another place.
#[test]
fn a_daemon_of_another_region_touches_nothing() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let old = open(&world);
    kill(world.daemon.take().expect("serve has one"));
    let elsewhere = world.another(&["--region", "us-west-2"]);
    // Its own session is there, and by the time it is gone the sweep is over.
    assert_eq!(open(&world).len(), 2);
    drop(elsewhere);
    assert_eq!(open(&world), old);
    let _daemon = world.another(&[]);
    wait_for_sweep(&world, &old);
}
