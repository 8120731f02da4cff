//! `--hold` bounds the whole wait, whatever hangs.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::process::{Output, Run, code};
use crate::common::{DEADLINE, until};
use crate::{Near, Way};

/// Longer than any call may take.
const NO_ANSWER: &str = r#"{"fault": "network", "how": "hang", "ms": 600000}"#;

#[track_caller]
fn assert_held(output: &Output, target: &str, seconds: u32) {
    let expected = format!(
        "error: no connection to {target} within {seconds} s\n\
         hint: `ssmshim doctor {target}` looks for what is in the way; --hold SECONDS waits longer\n"
    );
    assert_eq!((output.code, &*output.stderr), (1, &*expected));
    assert_eq!(output.text(), "");
}

#[test]
fn a_name_is_looked_for_no_longer() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    near.faulty.inject(NO_ANSWER);
    let output = near.connect(&["127.0.0.1", "--hold", "1"]).output();
    near.faulty.faults().clear();
    assert_held(&output, "127.0.0.1", 1);
}

/// It would wait for its own hold time.
#[test]
fn a_daemon_is_waited_for_no_longer() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    near.faulty.inject(NO_ANSWER);
    near.faulty
        .inject(r#"{"fault": "cut", "side": "client", "how": "reset"}"#);
    near.daemon().expect("lost");
    let args = [&near.usual()[..], &["--hold", "1"]].concat();
    let output = near.connect(&args).output();
    near.faulty.faults().clear();
    assert_held(&output, &near.target, 1);
    near.until_tidy();
}

/// The daemon knows why, and says so when its own time is over.
#[test]
fn a_daemon_has_time_to_say_why() {
    let Some(mut faulty) = crate::Faulty::fast() else {
        return;
    };
    let Some(sshd) = faulty.world.sshd.clone() else {
        return;
    };
    let (endpoint, target) = faulty.names();
    drop(faulty.world.daemon.take());
    faulty.world.daemon = Some(crate::common::world::serve_at(
        &faulty.world.path(""),
        (&endpoint, &target),
        &sshd.port.to_string(),
        &sshd.identity,
        &["--hold", "2"],
    ));
    let Some(near) = Near::with(Way::Shared, faulty) else {
        return;
    };
    near.faulty.inject(NO_ANSWER);
    near.faulty
        .inject(r#"{"fault": "cut", "side": "client", "how": "reset"}"#);
    near.daemon().expect("lost");
    let output = near.connect(&near.usual()).output();
    near.faulty.faults().clear();
    let text = format!("error: the connection to {} was lost ", near.target);
    assert!(output.stderr.starts_with(&text), "{output:?}");
    assert_eq!(output.code, 1);
    near.until_tidy();
}

/// The service has started a session, and the answer is lost: nobody can end it who does not look for it.
#[test]
fn a_session_of_a_lost_answer_is_ended_by_the_next() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    let relay = Relay::start(&near);
    let connect = |args: &[&str]| relay.lead(near.connect(args));
    let before = near.all_sessions();
    relay.lose_answers(true);
    // As long as it takes here to get as far as the call, and never as long as a call may take.
    let is_started = ["2", "6", "12"].iter().any(|hold| {
        let args = [&near.usual()[..], &["--hold", hold]].concat();
        let output = connect(&args).output();
        assert_held(&output, &near.target, hold.parse().expect("a number"));
        near.all_sessions() > before
    });
    assert!(is_started, "it gets as far as that");
    assert_ne!(near.open_sessions(), 0, "nobody knows of it");
    relay.lose_answers(false);
    let mut running = connect(&near.usual()).piped();
    let (stdin, mut stdout) = (running.take_stdin(), running.take_stdout());
    let mut word = [0; 8];
    let read = stdout.read_exact(&mut word);
    assert!(read.is_ok(), "{}", running.stderr());
    until("the lost session is ended", || {
        (near.open_sessions() == 1).then_some(())
    });
    drop((stdin, stdout));
    assert_eq!(code(running.wait(DEADLINE)), 0, "{}", running.stderr());
    near.until_tidy();
    near.until_no_records();
}

/// A way to the service on which answers can be lost.
struct Relay {
    endpoint: String,
    is_deaf: Arc<AtomicBool>,
}

impl Relay {
    fn start(near: &Near) -> Self {
        let (endpoint, _) = near.faulty.names();
        let service = endpoint.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let is_deaf = Arc::new(AtomicBool::new(false));
        let lost = Arc::clone(&is_deaf);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(service) = TcpStream::connect(&service) else {
                    continue;
                };
                let lost = Arc::clone(&lost);
                let (Ok(from), Ok(to)) = (client.try_clone(), service.try_clone()) else {
                    continue;
                };
                thread::spawn(move || copy(from, to, || false));
                thread::spawn(move || copy(service, client, || lost.load(Ordering::SeqCst)));
            }
        });
        Self {
            endpoint: format!("http://{address}"),
            is_deaf,
        }
    }

    fn lose_answers(&self, is_deaf: bool) {
        self.is_deaf.store(is_deaf, Ordering::SeqCst);
    }

    /// Sends `run` this way.
    fn lead(&self, run: Run) -> Run {
        run.env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_ENDPOINT_URL_SSM", &self.endpoint)
    }
}

/// Copies to the end, but for what `is_lost` when it comes.
fn copy(mut from: TcpStream, mut to: TcpStream, is_lost: impl Fn() -> bool) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || (!is_lost() && to.write_all(&buffer[..count]).is_err()) {
            break;
        }
    }
    let _gone = to.shutdown(Shutdown::Write);
}
