//! The contract with other programs: events, exit status, signals, streams.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::daemon::{Daemon, aws_environment, ssmshim};
use common::net::call_ssm;
use common::world::{World, serve_args};
use rustix::process::Signal;
use serde_json::Value;

/// The SSM sessions an emulator knows in `state`, `Active` or `History`.
fn sessions(emulator: &Daemon, state: &str) -> Vec<Value> {
    let body = format!("{{\"State\":\"{state}\"}}");
    let (status, answer) = call_ssm(&emulator.text("endpoint"), "DescribeSessions", &body);
    assert_eq!(status, 200, "{answer}");
    answer["Sessions"].as_array().cloned().unwrap_or_default()
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[test]
fn ready_is_the_first_event_and_means_that_ssh_works() {
    let Some(world) = World::demo() else { return };
    let daemon = world.daemon.as_ref().expect("a demo has one");
    assert!(daemon.text("listen").starts_with("127.0.0.1:"));
    assert!(daemon.text("target").starts_with("i-"));
    assert_eq!(daemon.ready.get("endpoint"), None);
    let quick = Duration::from_secs(30);
    assert_eq!(
        world.ssh(&[], "echo works").deadline(quick).ok().text(),
        "works"
    );
}

#[test]
fn emulator_names_its_endpoint_and_target() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let emulator = Daemon::start(home.path(), &["emulator"], &[]);
    assert!(emulator.text("endpoint").starts_with("http://127.0.0.1:"));
    assert!(emulator.text("target").starts_with("i-"));
    let (status, answer) = call_ssm(
        &emulator.text("endpoint"),
        "DescribeInstanceInformation",
        "{}",
    );
    assert_eq!(status, 200, "{answer}");
    let first = &answer["InstanceInformationList"][0];
    assert_eq!(
        first["InstanceId"],
        emulator.text("target").as_str(),
        "{answer}"
    );
    assert_eq!(first["PingStatus"], "Online", "{answer}");
}

#[test]
fn emulator_takes_faults_and_tells_them() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("plan.json");
    let plan = r#"{"seed": 3, "faults": [{"fault": "link", "latency_ms": 40}]}"#;
    std::fs::write(&file, plan).expect("our own directory");
    let file = file.display().to_string();
    let drop = r#"{"fault": "messages", "pick": {"probability": 0.5}, "effect": "drop"}"#;
    let args = ["emulator", "--fault", drop, "--fault", &file, "--seed", "7"];
    let emulator = Daemon::start(home.path(), &args, &[]);
    let mut socket = TcpStream::connect(("127.0.0.1", emulator.port())).expect("it listens");
    socket
        .write_all(b"GET /faults HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let told: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(told["seed"], 7, "{told}");
    assert_eq!(told["faults"][0]["effect"], "drop", "{told}");
    assert_eq!(told["faults"][1]["latency_ms"], 40, "{told}");

    for (senseless, named) in [
        ("{", "EOF"),
        ("no/such/file", "a file is read"),
        (r#"{"fault": "cut"}"#, "side"),
        (r#"{"fault": "link", "bytes_per_second": 0}"#, "at least 1"),
    ] {
        let output = ssmshim(home.path(), &["emulator", "--fault", senseless]).output();
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains(named), "{output:?}");
    }
}

#[test]
fn signals_end_every_command_with_status_0() {
    for command in ["demo", "emulator"] {
        for signal in [Signal::INT, Signal::TERM] {
            let home = tempfile::tempdir().expect("a temporary directory");
            let mut daemon = Daemon::start(home.path(), &[command], &[]);
            daemon.signal(signal);
            let (code, took) = daemon.wait();
            assert_eq!(code, 0, "{command} after {signal:?}: {}", daemon.stderr());
            assert!(took < Duration::from_secs(20), "{command} took {took:?}");
            assert_eq!(daemon.next_event()["event"], "stopping");
        }
    }
}

#[test]
fn every_way_out_terminates_the_ssm_session() {
    for signal in [Signal::INT, Signal::TERM] {
        let Some(mut world) = World::serve() else {
            return;
        };
        let emulator = world.emulator.take().expect("serve has one");
        assert_eq!(sessions(&emulator, "Active").len(), 1);
        let mut daemon = world.daemon.take().expect("serve has one");
        let port = daemon.port();
        daemon.signal(signal);
        assert_eq!(daemon.wait().0, 0, "{}", daemon.stderr());
        assert!(!is_open(port), "the port is still open");
        assert_eq!(sessions(&emulator, "Active"), [] as [Value; 0]);
        let history = sessions(&emulator, "History");
        assert_eq!(history.len(), 1, "{history:?}");
        assert_eq!(history[0]["Status"], "Terminated", "{history:?}");
    }
}

#[test]
fn a_signal_says_goodbye_to_clients() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let mut terminal = world.terminal(&["-tt"], Some("echo started; exec sleep 1000"), (24, 80));
    terminal.expect("started");
    let mut daemon = world.daemon.take().expect("serve has one");
    daemon.signal(Signal::TERM);
    terminal.expect("stopping");
    assert_eq!(
        terminal.finish(),
        255,
        "the client knows that this was no orderly end"
    );
    assert_eq!(daemon.wait().0, 0, "{}", daemon.stderr());
}

/// With the service hanging, an orderly end takes a while; the second signal does not wait for it.
#[test]
fn a_second_signal_exits_at_once() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let emulator = world.emulator.take().expect("serve has one");
    let mut daemon = world.daemon.take().expect("serve has one");
    emulator.signal(Signal::STOP);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.next_event()["event"], "stopping");
    daemon.signal(Signal::TERM);
    let (code, took) = daemon.wait();
    emulator.signal(Signal::CONT);
    assert_eq!(code, 1, "{}", daemon.stderr());
    assert!(took < Duration::from_secs(3), "took {took:?}");
}

/// With the service gone for good, the first signal alone ends it in a bounded time.
#[test]
fn a_dead_service_does_not_hold_the_end() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let emulator = world.emulator.take().expect("serve has one");
    let mut daemon = world.daemon.take().expect("serve has one");
    emulator.signal(Signal::STOP);
    daemon.signal(Signal::TERM);
    let (code, took) = daemon.wait();
    emulator.signal(Signal::CONT);
    assert_eq!(code, 0, "{}", daemon.stderr());
    assert!(took < Duration::from_secs(30), "took {took:?}");
}

#[test]
fn without_json_stdout_is_empty_and_stderr_says_what_to_type() {
    for (command, words) in [
        ("demo", "ssh  -p"),
        ("emulator", "AWS_ENDPOINT_URL=http://127.0.0.1:"),
    ] {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut daemon = Daemon::launch(home.path(), &[command, "--listen", "127.0.0.1:0"], &[]);
        daemon.told("ready: ");
        daemon.told("Ctrl-C stops.");
        daemon.signal(Signal::INT);
        assert_eq!(daemon.wait().0, 0, "{}", daemon.stderr());
        assert!(daemon.stderr().contains(words), "{}", daemon.stderr());
        assert_eq!(daemon.stdout(), "", "{command}");
    }
}

#[test]
fn wrong_usage_is_status_2() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let config = home.path().join("bad.toml");
    std::fs::write(&config, "lisen = \"127.0.0.1:2222\"\n").expect("our own directory");
    let config = config.display().to_string();
    let cases: [(&[&str], &str); 9] = [
        (&[], "Usage:"),
        (&["no-such-command"], "unrecognized subcommand"),
        (&["demo", "--no-such-flag"], "unexpected argument"),
        (&["demo", "--listen", "nonsense"], "invalid value"),
        (&["demo", "--pacing", "fast"], "invalid value"),
        (
            &["demo", "--listen", "0.0.0.0:2222"],
            "not a loopback address",
        ),
        (
            &["serve", "i-1", "--strict-host-key", "maybe"],
            "invalid value",
        ),
        (
            &["serve", "i-1", "--config", "/no/such/file"],
            "cannot read /no/such/file: No such file or directory (os error 2)\nhint: `ls -l",
        ),
        (&["serve", "i-1", "--config", &config], "lisen"),
    ];
    for (args, words) in cases {
        let output = ssmshim(home.path(), args).output();
        assert_eq!(output.code, 2, "{args:?}: {output:?}");
        assert!(output.stderr.contains(words), "{args:?}: {output:?}");
        assert_eq!(output.text(), "", "{args:?}");
    }
}

#[test]
fn help_and_version_are_data() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let version = ssmshim(home.path(), &["--version"]).ok();
    assert_eq!(
        version.text(),
        format!("ssmshim {}", env!("CARGO_PKG_VERSION"))
    );
    for args in [
        ["--help", "--help"],
        ["serve", "--help"],
        ["demo", "--help"],
        ["emulator", "--help"],
    ] {
        let output = ssmshim(home.path(), &args).ok();
        assert!(output.text().contains("Usage: ssmshim"), "{output:?}");
        // What all commands have comes after what is their own.
        let options = output.text();
        let options = options
            .lines()
            .map(str::trim_start)
            .filter(|line| line.starts_with("--"));
        let options: Vec<_> = options.collect();
        assert!(
            options.ends_with(&["--log <FILTER>", "--log-format <FORMAT>"]),
            "{options:?}"
        );
        assert_eq!(output.stderr, "");
    }
}

/// The host key outlives the daemon, and nobody else can read it.
#[test]
fn host_key_is_made_once_and_kept_private() {
    use std::os::unix::fs::PermissionsExt;
    let Some(mut world) = World::demo() else {
        return;
    };
    let known_hosts = format!("UserKnownHostsFile={}", world.text("known_hosts"));
    let alias = ["-o", &known_hosts, "-o", "HostKeyAlias=endpoint"];
    world
        .ssh(
            &[&alias[..], &["-o", "StrictHostKeyChecking=accept-new"]].concat(),
            "true",
        )
        .ok();

    let key = world.path("home/state/ssmshim/host_key");
    let mode = std::fs::metadata(&key)
        .expect("the key is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    world.daemon = None;
    let again = Daemon::start(&world.path("home"), &["demo"], &[]);
    world.target.port = again.port();
    world
        .ssh(
            &[&alias[..], &["-o", "StrictHostKeyChecking=yes"]].concat(),
            "true",
        )
        .ok();
    world.daemon = Some(again);
}

/// A value on the command line wins over the environment, and that one over the file.
#[test]
fn flags_win_over_environment_over_file() {
    let Some(mut world) = World::serve() else {
        return;
    };
    world.daemon = None;
    let (Some(emulator), Some(sshd)) = (&world.emulator, &world.sshd) else {
        return;
    };
    let config = world.path("config.toml");
    let text = format!(
        "target = \"{}\"\nssh_port = 1\nuser = \"nobody-of-the-file\"\nidentity = [\"{}\"]\n",
        emulator.text("target"),
        sshd.identity.display()
    );
    std::fs::write(&config, text).expect("our own directory");
    let mut environment = aws_environment(&emulator.text("endpoint"));
    environment.push(("SSMSHIM_SSH_PORT".into(), sshd.port.to_string()));
    environment.push(("SSMSHIM_USER".into(), "nobody-of-the-environment".into()));
    let config = config.display().to_string();
    let args = [
        "serve",
        "--config",
        &config,
        "--user",
        &common::world::user(),
    ];
    let daemon = Daemon::start(&world.path("other-home"), &args, &environment);
    world.target.port = daemon.port();
    assert_eq!(world.ssh(&[], "id -un").ok().text(), common::world::user());
    drop(daemon);
    // What is wrong in the file alone is wrong: the port there has no sshd.
    let args = serve_args(&emulator.text("target"), "1", &sshd.identity);
    let args: Vec<_> = args
        .iter()
        .map(String::as_str)
        .chain(["--listen", "127.0.0.1:0"])
        .collect();
    let daemon = Daemon::launch(&world.path("third-home"), &args, &environment);
    assert!(
        daemon.told("error: ").contains("port 1 "),
        "{}",
        daemon.stderr()
    );
}
