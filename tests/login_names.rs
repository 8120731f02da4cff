//! Login names that select a target, and a user on it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use common::daemon::{Daemon, aws_environment, environment};
use common::net::{Peer, call_ssm, free_port, listening_at, serve};
use common::process::{Output, Run, Running, read_until};
use common::pty::Terminal;
use common::sshd::{Sshd, make_key};
use common::world::{Target, user};
use common::{have, until};
use serde_json::{Value, json};
use tempfile::TempDir;

const WEB: &str = "i-0123456789abcdef0";
const DB: &str = "i-0aaaaaaaaaaaaaaa1";
const TWIN: &str = "i-0aaaaaaaaaaaaaaa2";
const LOST: &str = "i-0aaaaaaaaaaaaaaa4";

/// An emulator with several machines, of which all are this one; and two sshds, which say who they are.
struct Site {
    emulator: Daemon,
    web: Sshd,
    /// Reached by the alias `db` only, which has its port.
    db: Sshd,
    directory: TempDir,
}

impl Site {
    fn start() -> Option<Self> {
        if !have("ssh") {
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        let machine = |id: &str, name: &str| json!({ "id": id, "name": name, "details": { "tags": { "Name": name } } });
        let machines = json!([
            machine(WEB, "web"),
            machine(DB, "postgres"),
            machine(TWIN, "twin"),
            machine("i-0aaaaaaaaaaaaaaa3", "twin"),
            { "id": LOST, "name": "lost", "agent": false,
                "details": { "lost_seconds": 7200, "tags": { "Name": "lost" } } },
        ]);
        std::fs::write(at("instances.json"), machines.to_string()).expect("our own directory");
        let instances = at("instances.json").display().to_string();
        let emulator = Daemon::start(&at("aws"), &["emulator", "--instances", &instances], &[]);
        let web = Sshd::start_with(&at("web"), "SetEnv WHERE=web")?;
        let db = Sshd::start_with(&at("db"), "SetEnv WHERE=db\nBanner /etc/hostname")?;
        let config = format!(
            "user = \"{}\"\nidentity = [\"{}\"]\nssh_port = {}\n\
             [targets.db]\ntarget = \"postgres\"\nidentity = [\"{}\"]\nssh_port = {}\n\
             [targets.away]\ntarget = \"lost\"\n",
            user(),
            web.identity.display(),
            web.port,
            db.identity.display(),
            db.port,
        );
        std::fs::write(at("config.toml"), config).expect("our own directory");
        make_key(&at("id_unknown"));
        Some(Self {
            emulator,
            web,
            db,
            directory,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn environment(&self) -> Vec<(String, String)> {
        let mut environment = aws_environment(&self.emulator.text("endpoint"));
        let config = self.path("config.toml").display().to_string();
        environment.push(("SSMSHIM_CONFIG".into(), config));
        environment
    }

    fn serve(&self, args: &[&str]) -> Daemon {
        self.serve_with(args, "")
    }

    /// A daemon with a session token that asks the emulator for refusals.
    fn serve_with(&self, args: &[&str], refusals: &str) -> Daemon {
        let mut environment = self.environment();
        if !refusals.is_empty() {
            environment.push(("AWS_SESSION_TOKEN".into(), refusals.into()));
        }
        let args = [&["serve"], args].concat();
        Daemon::start(&self.path("home"), &args, &environment)
    }

    fn target(&self, daemon: &Daemon, name: &str) -> Target {
        Target {
            port: daemon.port(),
            user: name.to_owned(),
            identity: self.path("id_unknown"),
        }
    }

    /// `ssh OPTIONS… NAME@… COMMAND`.
    fn ssh(&self, daemon: &Daemon, name: &str, options: &[&str], command: &str) -> Run {
        let target = self.target(daemon, name);
        Run::new("ssh")
            .args(["-o", "LogLevel=INFO"])
            .args(options)
            .args(target.options("-p"))
            .args(["-l", name, "127.0.0.1", command])
    }

    /// Which sshd a login leads to, and as whom.
    fn arrives(&self, daemon: &Daemon, name: &str) -> String {
        let run = self.ssh(daemon, name, &[], "echo $WHERE $(id -un)");
        run.ok().text()
    }

    /// An ssh that goes on until it is dropped.
    fn stays(&self, daemon: &Daemon, name: &str, options: &[&str]) -> Running {
        let options = [options, &["-o", "ExitOnForwardFailure=yes"]].concat();
        let mut ssh = self
            .ssh(daemon, name, &options, "echo established; exec cat")
            .piped();
        let said = read_until(ssh.take_stdout(), "established");
        assert!(said.is_some(), "{name}: {}", ssh.stderr());
        ssh
    }

    fn refused(&self, daemon: &Daemon, name: &str) -> Output {
        let output = self.ssh(daemon, name, &[], "echo inside").output();
        assert_eq!(output.code, 255, "{name}: {output:?}");
        assert_eq!(output.text(), "", "{name}");
        output
    }

    /// Active sessions: how many there are to each machine.
    fn sessions(&self) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for session in self.active() {
            let target = session["Target"].as_str().expect("a target").to_owned();
            *count.entry(target).or_default() += 1;
        }
        count
    }

    fn active(&self) -> Vec<Value> {
        let endpoint = self.emulator.text("endpoint");
        let (_, answer) = call_ssm(&endpoint, "DescribeSessions", r#"{"State":"Active"}"#);
        answer["Sessions"].as_array().cloned().unwrap_or_default()
    }

    /// Ends the sessions to `target`, as an administrator can.
    fn terminate(&self, target: &str) {
        let endpoint = self.emulator.text("endpoint");
        for session in self.active() {
            if session["Target"] == target {
                let body = json!({ "SessionId": session["SessionId"] }).to_string();
                call_ssm(&endpoint, "TerminateSession", &body);
            }
        }
    }
}

/// Waits for the event `name` about `target`, passing over others, and returns it.
fn event(daemon: &Daemon, name: &str, target: &str) -> Value {
    loop {
        let event = daemon.next_event();
        if event["event"] == name && event["target"] == target {
            return event;
        }
    }
}

fn once(targets: &[&str]) -> BTreeMap<String, usize> {
    let once = targets.iter().map(|&target| (target.to_owned(), 1));
    once.collect()
}

#[test]
fn a_name_leads_to_its_target_and_any_other_to_the_usual_one() {
    let Some(site) = Site::start() else { return };
    let daemon = site.serve(&["web"]);
    let me = user();
    assert_eq!(daemon.text("target"), WEB);
    for (name, place) in [
        ("anything", "web"),
        ("db", "db"),
        (WEB, "web"),
        // Without a `+` a machine's name is any name.
        ("postgres", "web"),
        ("+db", "db"),
        ("+web", "web"),
        ("+tag:Name=web", "web"),
    ] {
        assert_eq!(
            site.arrives(&daemon, name),
            format!("{place} {me}"),
            "{name}"
        );
    }
    for (name, place) in [("db", "db"), ("web", "web"), (WEB, "web")] {
        let name = format!("{me}+{name}");
        assert_eq!(
            site.arrives(&daemon, &name),
            format!("{place} {me}"),
            "{name}"
        );
    }
    assert_eq!(site.sessions(), once(&[WEB, DB]));
    let shown = site.ssh(&daemon, "db", &[], "true").ok().stderr;
    let hostname = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    assert!(
        shown.contains(hostname.trim()),
        "the target's banner: {shown}"
    );
    // The same machine by another port is another target: that is the port of the configuration.
    assert_eq!(site.arrives(&daemon, DB), format!("web {me}"));
}

#[test]
fn a_name_that_leads_nowhere_is_refused_with_what_there_is() {
    let Some(site) = Site::start() else { return };
    let daemon = site.serve(&["web"]);
    for (name, said) in [
        (
            "me+nobody",
            "ssmshim: no machine `nobody` in eu-central-1 of account 000000000000",
        ),
        ("a+b", "ssmshim: no machine `b` in eu-central-1"),
        (
            "i-0bbbbbbbbbbbbbbbb",
            "ssmshim: no machine `i-0bbbbbbbbbbbbbbbb` in",
        ),
        ("i-0123", "ssmshim: no machine `i-0123` in"),
        ("me+", "ssmshim: no target is named"),
        ("+twin", "ssmshim: `twin` means 2 machines"),
        (
            "away",
            "ssmshim: i-0aaaaaaaaaaaaaaa4 (lost) is not connected to Systems Manager: its agent was last heard of 2 h ago",
        ),
        (LOST, "ssmshim: i-0aaaaaaaaaaaaaaa4 (lost) is not connected"),
    ] {
        let output = site.refused(&daemon, name);
        let mut lines = output.stderr.lines();
        assert!(
            lines.any(|line| line.starts_with(said)),
            "{name}: {output:?}"
        );
        for more in [
            "\nhint: ",
            "\naliases: away, db",
            "Received disconnect from 127.0.0.1",
        ] {
            assert!(output.stderr.contains(more), "{name}: {output:?}");
        }
        let is_text = |c: char| !c.is_control() || c == '\n' || c == '\r';
        assert!(output.stderr.chars().all(is_text), "{output:?}");
    }
    let output = site.refused(&daemon, "me+nobody");
    let online = "\nonline: i-0aaaaaaaaaaaaaaa1 (postgres), ";
    assert!(output.stderr.contains(online), "{output:?}");
    assert!(!output.stderr.contains("(lost)"), "{output:?}");
    let output = site.refused(&daemon, "+twin");
    let candidates = "hint: name one by its id: i-0aaaaaaaaaaaaaaa2 (twin, ";
    assert!(output.stderr.contains(candidates), "{output:?}");
    assert_eq!(site.sessions(), once(&[WEB]));

    let denied = "DENY.DescribeInstanceInformation,DENY.GetConnectionStatus";
    let daemon = site.serve_with(&[], denied);
    let output = site.refused(&daemon, "web");
    let said = "ssmshim: cannot look for `web`: access denied for DescribeInstanceInformation";
    assert!(output.stderr.contains(said), "{output:?}");
}

#[test]
fn putty_shows_the_refusal() {
    if !have("plink") {
        return;
    }
    let Some(site) = Site::start() else { return };
    let daemon = site.serve(&["web"]);
    let scanned = Run::new("ssh-keyscan")
        .args([
            "-t",
            "ed25519",
            "-p",
            &daemon.port().to_string(),
            "127.0.0.1",
        ])
        .ok();
    let listed = Run::new("ssh-keygen")
        .args(["-lf", "-"])
        .stdin(scanned.stdout)
        .ok();
    let listed = listed.text();
    let fingerprint = listed.split(' ').nth(1).expect("a fingerprint");
    let plink = |name: &str| {
        Run::new("plink")
            .args(["-batch", "-noagent", "-hostkey", fingerprint])
            .args(["-P", &daemon.port().to_string(), "-l", name, "127.0.0.1"])
            .arg("echo $WHERE")
            .env("HOME", site.path(""))
            .output()
    };
    assert_eq!(plink("db").text(), "db");
    let output = plink("me+nobody");
    assert_eq!(output.text(), "", "{output:?}");
    assert!(
        output.stderr.contains("ssmshim: no machine `nobody`"),
        "{output:?}"
    );
    assert!(output.stderr.contains("aliases: away, db"), "{output:?}");
}

#[test]
fn flags_are_not_for_what_a_name_selects() {
    let Some(site) = Site::start() else { return };
    let port = site.web.port.to_string();
    let daemon = site.serve(&["web", "--ssh-port", &port, "--user", &user()]);
    let me = user();
    assert_eq!(site.arrives(&daemon, "db"), format!("db {me}"));
    assert_eq!(site.arrives(&daemon, "anything"), format!("web {me}"));
}

#[test]
fn the_demo_has_one_machine() {
    if !have("ssh") {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let daemon = Daemon::start(directory.path(), &["demo", "--pacing", "off"], &[]);
    let machine = daemon.text("target");
    let ssh = |name: &str| {
        let target = Target {
            port: daemon.port(),
            user: name.to_owned(),
            identity: directory.path().join("none"),
        };
        let run = Run::new("ssh").args(["-o", "LogLevel=INFO"]);
        let run = run.args(target.options("-p"));
        run.args(["-l", name, "127.0.0.1", "echo inside"]).output()
    };
    for name in ["anything", &machine, &format!("me+{machine}")] {
        assert_eq!(ssh(name).text(), "inside", "{name}");
    }
    for name in ["me+web", "i-0aaaaaaaaaaaaaaa9", "+"] {
        let output = ssh(name);
        assert_eq!((output.code, output.text()), (255, String::new()), "{name}");
        let said = match name {
            "+" => "ssmshim: no target is named".to_owned(),
            _ => format!("ssmshim: the demo has one machine, {machine}"),
        };
        assert!(output.stderr.contains(&said), "{name}: {output:?}");
    }
}

#[test]
fn without_a_target_every_name_has_to_select_one() {
    let Some(site) = Site::start() else { return };
    let daemon = site.serve(&[]);
    assert_eq!(daemon.ready["target"], Value::Null, "{}", daemon.ready);
    assert_eq!(site.sessions(), BTreeMap::new());
    let me = user();
    assert_eq!(site.arrives(&daemon, "web"), format!("web {me}"));
    assert_eq!(site.arrives(&daemon, "db"), format!("db {me}"));
    let output = site.refused(&daemon, "anything");
    assert!(
        output.stderr.contains("ssmshim: no machine `anything`"),
        "{output:?}"
    );
    for event in ["started", "up"] {
        assert_eq!(
            daemon.next_event(),
            json!({ "event": event, "target": WEB, "ssh_port": site.web.port })
        );
    }
    assert_eq!(site.sessions(), once(&[WEB, DB]));
    drop(daemon);
    assert_eq!(site.sessions(), BTreeMap::new());
}

#[test]
fn a_person_may_leave_it_to_login_names() {
    let Some(site) = Site::start() else { return };
    let mut variables = environment(&site.path("home"));
    variables.extend(site.environment());
    let mut args = vec!["-i".to_owned()];
    args.extend(
        variables
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    args.push(common::daemon::PROGRAM.into());
    args.extend(["serve", "--listen", "127.0.0.1:0", "--idle", "0"].map(str::to_owned));
    let mut terminal = Terminal::start("env", &args, 40, 120);
    terminal.expect("target (1-4, a name, or Enter: login names select): ");
    terminal.keys("\r");
    let shown = terminal.expect("ready: login names select the target at 127.0.0.1:");
    assert!(!shown.contains("error"), "{shown}");
    let shown = terminal.expect("Ctrl-C stops.");
    let port = shown.split("-p ").nth(1).expect("a port");
    let port = port.split(' ').next().expect("a port").to_owned();
    assert!(
        shown.contains("TARGET: away, db, an id or a name"),
        "{shown}"
    );
    let target = Target {
        port: port.parse().expect("a port"),
        user: "db".into(),
        identity: site.path("id_unknown"),
    };
    let run = Run::new("ssh").args(target.options("-p"));
    assert_eq!(run.args([&target.host(), "echo $WHERE"]).ok().text(), "db");
    terminal.expect("i-0aaaaaaaaaaaaaaa1 (postgres): selected by a login name, reaching it …");
    terminal.expect("i-0aaaaaaaaaaaaaaa1 (postgres): reached");
    terminal.expect("i-0aaaaaaaaaaaaaaa1 (postgres): not in use any more, session ended");
    terminal.keys("\x03");
    terminal.expect("stopping");
    assert_eq!(terminal.finish(), 0);
}

/// A machine by another port is another target, whatever it is called.
#[test]
fn two_targets_of_one_machine_are_told_apart() {
    let Some(site) = Site::start() else { return };
    let (db, web) = (site.db.port, site.web.port);
    let daemon = site.serve(&["db"]);
    let ready = (&daemon.ready["target"], &daemon.ready["ssh_port"]);
    assert_eq!(ready, (&json!(DB), &json!(db)));
    let _other = site.stays(&daemon, DB, &[]);
    for event in ["started", "up"] {
        let expected = json!({ "event": event, "target": DB, "ssh_port": web });
        assert_eq!(daemon.next_event(), expected);
    }
    site.terminate(DB);
    let lost: BTreeSet<_> = (0..2)
        .map(|_| event(&daemon, "lost", DB)["ssh_port"].as_u64())
        .collect();
    let both = [db, web].map(|port| Some(port.into()));
    assert_eq!(lost, BTreeSet::from(both));
}

#[test]
fn who_is_served_stays_when_the_usual_target_is_out_of_reach() {
    let Some(site) = Site::start() else { return };
    // An sshd that says nothing: the first login there goes on.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let ssh_port = silent.local_addr().expect("it is bound").port().to_string();
    let listen = format!("127.0.0.1:{}", free_port());
    let args = ["serve", "web", "--ssh-port", &ssh_port, "--listen", &listen];
    let mut daemon = Daemon::launch(&site.path("home"), &args, &site.environment());
    daemon.ready = json!({ "listen": listen });
    until("it listens", || TcpStream::connect(&listen).ok());
    let _login = silent.accept().expect("a login begins");
    let mut ssh = site.stays(&daemon, "db", &[]);
    let denied = json!({ "fault": "api", "operation": "StartSession", "answer": "denied", "extent": "always" });
    site.emulator.inject(&denied);
    site.terminate(WEB);
    let error = daemon.told("error: ");
    assert!(error.contains("access denied for StartSession"), "{error}");
    assert_eq!(site.arrives(&daemon, "db"), format!("db {}", user()));
    assert!(
        ssh.try_wait(std::time::Duration::ZERO).is_none(),
        "{}",
        ssh.stderr()
    );
    daemon.assert_up();
}

#[test]
fn a_target_that_nobody_uses_is_ended_and_comes_back() {
    let Some(site) = Site::start() else { return };
    let daemon = site.serve(&["web", "--idle", "1"]);
    let me = user();
    // In use all the while, on the same machine and on another one.
    let _usual = site.stays(&daemon, "anything", &[]);
    let _other = site.stays(&daemon, TWIN, &[]);
    for _ in 0..2 {
        assert_eq!(site.arrives(&daemon, "db"), format!("db {me}"));
        event(&daemon, "started", DB);
        event(&daemon, "up", DB);
        event(&daemon, "idle", DB);
        until("the session is terminated", || {
            (site.sessions() == once(&[WEB, TWIN])).then_some(())
        });
    }
    // A login that fails keeps nothing.
    let run = site.ssh(&daemon, "no-such-user+db", &[], "true");
    assert_ne!(run.output().code, 0);
    event(&daemon, "idle", DB);
    assert!(
        site.db.log().contains("Invalid user no-such-user"),
        "{}",
        site.db.log()
    );
}

#[test]
fn users_of_one_target_share_its_session() {
    let Some(site) = Site::start() else { return };
    let daemon = site.serve(&[]);
    let me = user();
    let _stays = site.stays(&daemon, &format!("{me}+db"), &[]);
    let output = site.ssh(&daemon, "no-such-user+db", &[], "true").output();
    assert_eq!(output.code, 255, "{output:?}");
    assert!(output.stderr.contains("no-such-user"), "{output:?}");
    assert_eq!(site.sessions(), once(&[DB]));
    // That is nothing that happened to the target.
    let refused = event(&daemon, "login_refused", DB);
    let error = refused["error"].as_str().expect("a reason");
    assert!(error.contains("no-such-user"), "{refused}");
    assert!(
        !daemon.stdout().contains(r#""down""#),
        "{}",
        daemon.stdout()
    );
    if rustix::process::geteuid().is_root() {
        let output = site.ssh(&daemon, "nobody+db", &[], "true").output();
        assert_ne!(
            output.code, 255,
            "nobody is let in, and has no shell: {output:?}"
        );
        assert!(site.db.log().contains("Accepted publickey for nobody"));
        assert_eq!(site.sessions(), once(&[DB]));
    }
    assert!(!site.web.log().contains("no-such-user"));
}

#[test]
fn each_target_is_lost_and_found_by_itself() {
    let Some(site) = Site::start() else { return };
    let daemon = site.serve(&["web"]);
    let echo = serve(Peer::Echo);
    let (near, far) = (free_port(), free_port());
    let forward = |port| format!("127.0.0.1:{port}:127.0.0.1:{echo}");
    let mut ssh = site
        .ssh(&daemon, "db", &["-N", "-R", &forward(far)], "")
        .piped();
    let _usual = site.stays(&daemon, "anything", &["-R", &forward(near)]);
    let is_heard = |port| {
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        let mut answer = [0; 5];
        socket.write_all(b"hello").is_ok() && socket.read_exact(&mut answer).is_ok()
    };
    for port in [near, far] {
        until("it listens", || is_heard(port).then_some(()));
    }
    let mut through = TcpStream::connect(("127.0.0.1", near)).expect("it listens");
    site.terminate(DB);
    let lost = event(&daemon, "lost", DB);
    assert_eq!(lost["resuming"], false, "{lost}");
    event(&daemon, "up", DB);
    until("it listens again", || is_heard(far).then_some(()));
    assert!(!listening_at(near).is_empty());
    // Nothing has happened to the other one.
    through.write_all(b"hello").expect("it is open");
    through.read_exact(&mut [0; 5]).expect("it is open");
    assert!(
        ssh.try_wait(std::time::Duration::ZERO).is_none(),
        "{}",
        ssh.stderr()
    );
}

#[test]
fn strangers_learn_and_start_nothing() {
    let Some(site) = Site::start() else { return };
    let (member, stranger) = (site.path("member"), site.path("stranger"));
    make_key(&member);
    make_key(&stranger);
    let members = member.with_extension("pub").display().to_string();
    let daemon = site.serve(&["--access", "keys", "--authorized-keys", &members]);
    let ssh = |key: &PathBuf, name: &str| {
        let key = format!("IdentityFile={}", key.display());
        let run = site.ssh(&daemon, name, &["-o", &key], "echo $WHERE");
        run.output()
    };
    for name in ["db", "me+nobody"] {
        let output = ssh(&stranger, name);
        assert_eq!(
            (output.code, output.text().as_str()),
            (255, ""),
            "{output:?}"
        );
        assert!(
            output.stderr.contains("Permission denied (publickey)"),
            "{output:?}"
        );
        assert!(!output.stderr.contains("ssmshim"), "{output:?}");
    }
    assert_eq!(site.sessions(), BTreeMap::new());
    assert_eq!(ssh(&member, "db").text(), "db");
    let output = ssh(&member, "me+nobody");
    assert!(
        output.stderr.contains("ssmshim: no machine `nobody`"),
        "{output:?}"
    );
}

#[test]
fn many_that_ask_at_once_are_one_target() {
    let Some(site) = Site::start() else { return };
    let daemon = site.serve(&[]);
    let runs: Vec<_> = (0..6)
        .map(|_| site.ssh(&daemon, "db", &[], "echo $WHERE").piped())
        .collect();
    for mut run in runs {
        assert!(
            read_until(run.take_stdout(), "db").is_some(),
            "{}",
            run.stderr()
        );
    }
    assert_eq!(site.sessions(), once(&[DB]));
    assert_eq!(
        daemon.stdout().matches(r#""started""#).count(),
        1,
        "{}",
        daemon.stdout()
    );
}
