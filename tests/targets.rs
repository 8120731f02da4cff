//! Targets by whatever name, the list of them, who logs in there, and keys pushed by Instance Connect.

mod common;

use std::path::{Path, PathBuf};

use common::daemon::{Daemon, aws_environment, environment, ssmshim};
use common::process::Output;
use common::pty::Terminal;
use common::sshd::Sshd;
use common::until;
use common::world::user;
use serde_json::{Value, json};
use tempfile::TempDir;

const WEB: &str = "i-0123456789abcdef0";
const OLD_WEB: &str = "i-0aaaaaaaaaaaaaaa1";
const TWIN_A: &str = "i-0aaaaaaaaaaaaaaa2";
const TWIN_B: &str = "i-0aaaaaaaaaaaaaaa3";
const STOPPED: &str = "i-0aaaaaaaaaaaaaaa4";
const UNMANAGED: &str = "i-0aaaaaaaaaaaaaaa5";
const NODE: &str = "mi-0aaaaaaaaaaaaaaa6";
const LOST: &str = "i-0aaaaaaaaaaaaaaa7";
const TASK: &str = "ecs:prod_0f3e5d7c9b1a4e6f8a0b2c4d6e8f0a1b_0f3e5d7c9b1a-0265927825";
const JOB: &str = "sagemaker-training-job:train-1_algo-1";

/// An emulator with machines of every kind, and a home.
struct Fleet {
    emulator: Daemon,
    directory: TempDir,
}

impl Fleet {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let instances = directory.path().join("instances.json");
        std::fs::write(&instances, machines().to_string()).expect("our own directory");
        let instances = instances.display().to_string();
        let keys = directory.path().join("keys").display().to_string();
        let emulator = Daemon::start(
            &directory.path().join("aws"),
            &[
                "emulator",
                "--instances",
                &instances,
                "--pushed-keys",
                &keys,
            ],
            &[],
        );
        Self {
            emulator,
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The environment of a daemon, with a session token that asks the emulator for refusals.
    fn environment(&self, refusals: &str) -> Vec<(String, String)> {
        let mut environment = aws_environment(&self.emulator.text("endpoint"));
        if !refusals.is_empty() {
            environment.push(("AWS_SESSION_TOKEN".into(), refusals.into()));
        }
        environment
    }

    fn run(&self, args: &[&str], refusals: &str) -> Output {
        let run = ssmshim(&self.path("home"), args);
        let environment = self.environment(refusals);
        let run = environment
            .iter()
            .fold(run, |run, (name, value)| run.env(name, value));
        run.output()
    }

    /// What `serve` says of a target that it does not serve.
    fn refused(&self, target: &str, refusals: &str) -> String {
        let output = self.run(&["serve", target, "--listen", "127.0.0.1:0"], refusals);
        assert_eq!(output.code, 1, "{target}: {output:?}");
        assert_eq!(output.text(), "", "{target}");
        let error: Vec<_> = output.stderr.lines().skip(1).collect();
        error.join("\n")
    }

    /// A daemon for `target` in front of `sshd`.
    fn serve(&self, sshd: &Sshd, target: &str, extra: &[&str], refusals: &str) -> Daemon {
        let port = sshd.port.to_string();
        let args = [&["serve", target, "--ssh-port", &port][..], extra].concat();
        Daemon::start(&self.path("home"), &args, &self.environment(refusals))
    }

    /// [`Self::serve`] that nobody waits for.
    fn launch(
        &self,
        sshd: &Sshd,
        target: &str,
        extra: &[&str],
        environment: &[(String, String)],
    ) -> Daemon {
        let port = sshd.port.to_string();
        let args = [
            "serve",
            target,
            "--listen",
            "127.0.0.1:0",
            "--ssh-port",
            &port,
        ];
        Daemon::launch(&self.path("home"), &[&args, extra].concat(), environment)
    }
}

fn machines() -> Value {
    let lost = |id: &str, name: &str, seconds: u64| {
        json!({ "id": id, "name": name, "agent": false, "details": { "lost_seconds": seconds,
            "tags": { "Name": name }, "address": "10.0.0.9" } })
    };
    json!([
        { "id": WEB, "name": "ip-10-0-0-7.eu-central-1.compute.internal", "details": {
            "tags": { "Name": "web", "env": "prod" }, "platform_name": "Ubuntu", "platform_version": "24.04",
            "address": "10.0.0.7", "dns_name": "ip-10-0-0-7.eu-central-1.compute.internal" } },
        lost(OLD_WEB, "web", 86_400 * 9),
        { "id": TWIN_A, "name": "a", "details": { "tags": { "Name": "twin" }, "address": "10.0.0.1" } },
        { "id": TWIN_B, "name": "b", "details": { "tags": { "Name": "twin" }, "address": "10.0.0.2" } },
        { "id": STOPPED, "name": "s", "agent": false, "details": { "state": "stopped", "lost_seconds": 600,
            "tags": { "Name": "batch" } } },
        { "id": UNMANAGED, "name": "u", "agent": false, "details": { "managed": false,
            "tags": { "Name": "bare" }, "address": "10.0.0.5" } },
        { "id": NODE, "name": "office.example.com", "details": { "platform_name": "Debian GNU/Linux",
            "platform_version": "12", "address": "192.168.1.2" } },
        lost(LOST, "lost", 3 * 3600),
        // On no list, but connected.
        { "id": TASK, "name": "task", "details": { "managed": false } },
        { "id": JOB, "name": "job", "details": { "managed": false } },
    ])
}

#[test]
fn every_way_to_name_a_machine_leads_to_it() {
    let fleet = Fleet::start();
    let Some(sshd) = Sshd::start(&fleet.path("sshd")) else {
        return;
    };
    let identity = sshd.identity.display().to_string();
    let user = user();
    let login = ["--user", &user, "--identity", &identity];
    let config = fleet.path("config.toml");
    let text = format!("[targets.shop]\ntarget = \"tag:env=prod\"\nuser = \"{user}\"\n");
    std::fs::write(&config, text).expect("our own directory");
    let config = config.display().to_string();
    for (name, id) in [
        (WEB, WEB),
        // Of two that have the name, the one that is online.
        ("web", WEB),
        ("tag:env=prod", WEB),
        ("10.0.0.7", WEB),
        ("ip-10-0-0-7", WEB),
        ("ip-10-0-0-7.eu-central-1.compute.internal", WEB),
        ("OFFICE", NODE),
        (NODE, NODE),
        (TASK, TASK),
        (JOB, JOB),
    ] {
        let daemon = fleet.serve(&sshd, name, &login, "");
        assert_eq!(daemon.text("target"), id, "{name}");
    }
    let alias = ["--config", &config, "--identity", &identity];
    let daemon = fleet.serve(&sshd, "shop", &alias, "");
    assert_eq!(daemon.text("target"), WEB);
    // EC2 may be forbidden; the id is taken at its word when everything is.
    let daemon = fleet.serve(&sshd, "web", &login, "DENY.DescribeInstances");
    assert_eq!(daemon.text("target"), WEB);
    let all = "DENY.DescribeInstances,DENY.DescribeInstanceInformation,DENY.GetConnectionStatus";
    let daemon = fleet.serve(&sshd, WEB, &login, all);
    assert_eq!(daemon.text("target"), WEB);
}

/// What a machine is called is asked only when somebody has to know: who logs in, or why it cannot be reached.
#[test]
fn a_session_to_an_id_waits_for_no_other_call() {
    let fleet = Fleet::start();
    let Some(sshd) = Sshd::start(&fleet.path("sshd")) else {
        return;
    };
    let failing = |operation| json!({ "fault": "api", "operation": operation, "answer": { "failed": { "status": 503 } }, "extent": "always" });
    let rules = ["DescribeInstanceInformation", "GetConnectionStatus"].map(failing);
    let plan = json!({ "faults": rules });
    fleet.emulator.inject(&plan);
    let refused = || fleet.emulator.faults("GET", "")["counters"]["api_refused"].clone();
    let identity = sshd.identity.display().to_string();
    let user = user();
    let login = ["--user", &user, "--identity", &identity];
    let daemon = fleet.serve(&sshd, WEB, &login, "");
    assert_eq!(daemon.text("target"), WEB);
    assert_eq!(refused(), 0, "nobody asked");
    // Whose users are wanted is asked about, and an answer that does not come hurts nobody.
    let daemon = fleet.serve(&sshd, NODE, &["--identity", &identity], "");
    assert_eq!(daemon.text("target"), NODE);
    assert_ne!(refused(), 0, "it was asked");
}

/// A daemon that is started before the network is there knows the platform's users once it is.
#[test]
fn what_aws_could_not_tell_at_first_is_asked_again() {
    let fleet = Fleet::start();
    let Some(sshd) = Sshd::start(&fleet.path("sshd")) else {
        return;
    };
    let failing =
        json!({ "fault": "api", "answer": { "failed": { "status": 503 } }, "extent": "always" });
    fleet.emulator.inject(&failing);
    let identity = sshd.identity.display().to_string();
    let daemon = fleet.launch(
        &sshd,
        WEB,
        &["--identity", &identity, "--log", "info"],
        &fleet.environment("DENY.SendSSHPublicKey"),
    );
    until("AWS did not tell", || {
        daemon.stderr().contains("tried unseen").then_some(())
    });
    fleet.emulator.faults("DELETE", "");
    until("the image's user is tried", || {
        sshd.log().contains(" ubuntu ").then_some(())
    });
}

#[test]
fn a_target_that_cannot_be_reached_is_named_as_what_it_is() {
    let fleet = Fleet::start();
    for (target, words) in [
        (
            "twin",
            "error: `twin` means 2 machines\nhint: name one by its id: i-0aaaaaaaaaaaaaaa2 (twin, 10.0.0.1, online), \
             i-0aaaaaaaaaaaaaaa3 (twin, 10.0.0.2, online)",
        ),
        (
            "nobody",
            "error: no machine `nobody` in eu-central-1 of account 000000000000\nhint: `ssmshim targets --region eu-central-1` lists what \
             is there; --region and --profile look elsewhere",
        ),
        (
            "i-0bbbbbbbbbbbbbbbb",
            "error: no machine `i-0bbbbbbbbbbbbbbbb` in eu-central-1 of account 000000000000",
        ),
        (
            "tag:env=test",
            "error: no machine `tag:env=test` in eu-central-1 of account 000000000000",
        ),
        (
            STOPPED,
            "error: i-0aaaaaaaaaaaaaaa4 (batch) is stopped\nhint: aws ec2 start-instances --instance-ids \
             i-0aaaaaaaaaaaaaaa4 --region eu-central-1",
        ),
        ("batch", "error: i-0aaaaaaaaaaaaaaa4 (batch) is stopped\n"),
        (
            UNMANAGED,
            "error: i-0aaaaaaaaaaaaaaa5 (bare) is running, but Systems Manager does not know it\nhint: give it \
             a role with the policy AmazonSSMManagedInstanceCore",
        ),
        ("bare", "error: i-0aaaaaaaaaaaaaaa5 (bare) is running, but"),
        (
            "10.0.0.5",
            "error: i-0aaaaaaaaaaaaaaa5 (bare) is running, but",
        ),
        (
            LOST,
            "error: i-0aaaaaaaaaaaaaaa7 (lost) is not connected to Systems Manager: its agent was last heard of \
             3 h ago (",
        ),
        (
            "ecs:cluster_0123_0123-1",
            "error: ecs:cluster_0123_0123-1 is not connected to Systems Manager\nhint: see that the task runs \
             and was started with execute command enabled",
        ),
        (
            "sagemaker-training-job:train_algo-1",
            "error: sagemaker-training-job:train_algo-1 is not connected",
        ),
    ] {
        let said = fleet.refused(target, "");
        assert!(said.starts_with(words), "{target}: {said}");
        assert!(said.contains("\nhint: "), "{target}: {said}");
    }
    // What the list says is old, and the question whether it still holds is not permitted: an id is tried.
    let said = fleet.refused(LOST, "DENY.GetConnectionStatus");
    assert!(
        said.starts_with("error: cannot reach i-0aaaaaaaaaaaaaaa7: target is not connected"),
        "{said}"
    );
    let said = fleet.refused("lost", "DENY.GetConnectionStatus");
    assert!(
        said.starts_with("error: i-0aaaaaaaaaaaaaaa7 (lost) is not connected to Systems"),
        "{said}"
    );
    let said = fleet.refused("web", "DENY.DescribeInstanceInformation");
    assert!(
        said.starts_with(
            "error: cannot look for `web`: access denied for DescribeInstanceInformation"
        ),
        "{said}"
    );
    assert!(
        said.contains("\nhint: the policy must allow ssm:DescribeInstanceInformation, or name"),
        "{said}"
    );
    let said = fleet.refused("web", "EXPIRE.DescribeInstanceInformation");
    assert!(said.contains("AWS credentials have expired"), "{said}");
    // That passes by itself.
    let daemon = Daemon::launch(
        &fleet.path("home"),
        &["serve", "web", "--listen", "127.0.0.1:0"],
        &fleet.environment("THROTTLE.DescribeInstanceInformation"),
    );
    let said = daemon.told("error: ");
    assert!(
        said.contains("DescribeInstanceInformation was throttled"),
        "{said}"
    );
    daemon.told("still trying");
}

#[test]
fn a_search_ends_when_nobody_wants_it_any_more() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // Takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("it is bound"));
    let mut environment = aws_environment(&endpoint);
    environment.push(("SSMSHIM_LISTEN".into(), "127.0.0.1:0".into()));
    let mut daemon = Daemon::launch(directory.path(), &["serve", "web"], &environment);
    let _asked = silent.accept().expect("it asks");
    daemon.signal(rustix::process::Signal::INT);
    let (code, took) = daemon.wait();
    assert_eq!(code, 0, "{}", daemon.stderr());
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
}

#[test]
fn targets_are_listed_for_people_and_for_programs() {
    let fleet = Fleet::start();
    let table = fleet.run(&["targets"], "");
    assert_eq!((table.code, table.stderr.as_str()), (0, ""), "{table:?}");
    let text = table.text();
    let version = agent_version(&fleet);
    let columns = |line: &str| -> Vec<String> {
        line.split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(|cell| cell.replace(&version, "AGENT"))
            .collect()
    };
    let own = format!("ssmshim emulator {}", env!("CARGO_PKG_VERSION"));
    let rows: Vec<_> = text.lines().map(columns).collect();
    let expected: [&[&str]; 8] = [
        &["ID", "NAME", "PING", "PLATFORM", "AGENT", "ADDRESS"],
        &[
            NODE,
            "office.example.com",
            "online",
            "Debian GNU/Linux 12",
            "AGENT",
            "192.168.1.2",
        ],
        &[TWIN_A, "twin", "online", &own, "AGENT", "10.0.0.1"],
        &[TWIN_B, "twin", "online", &own, "AGENT", "10.0.0.2"],
        &[WEB, "web", "online", "Ubuntu 24.04", "AGENT", "10.0.0.7"],
        &[STOPPED, "batch", "lost 10 min ago", &own, "-", "127.0.0.1"],
        &[LOST, "lost", "lost 3 h ago", &own, "-", "10.0.0.9"],
        &[OLD_WEB, "web", "lost 9 days ago", &own, "-", "10.0.0.9"],
    ];
    assert_eq!(rows, expected.map(<[&str]>::to_vec), "{text}");

    let lines = fleet.run(&["targets", "tag:env=prod", "--json"], "");
    assert_eq!((lines.code, lines.stderr.as_str()), (0, ""));
    let mut line: Value = serde_json::from_str(&lines.text()).expect("one object");
    assert!(line["last_ping"].is_string(), "{line}");
    line["last_ping"] = Value::Null;
    let expected = json!({
        "id": WEB, "name": "web", "computer_name": "ip-10-0-0-7.eu-central-1.compute.internal",
        "ping": "online", "last_ping": null, "platform": "Ubuntu 24.04", "platform_type": "Linux",
        "agent": version, "address": "10.0.0.7",
        "dns_name": "ip-10-0-0-7.eu-central-1.compute.internal",
    });
    assert_eq!(line, expected);
    assert_eq!(
        fleet
            .run(&["targets", "TWIN", "--json"], "")
            .text()
            .lines()
            .count(),
        2
    );
}

#[test]
fn a_list_says_what_is_missing() {
    let fleet = Fleet::start();
    let none = fleet.run(&["targets", "nobody"], "");
    assert_eq!((none.code, none.text().as_str()), (0, ""));
    assert_eq!(
        none.stderr,
        "no managed machine with `nobody` in eu-central-1\n"
    );
    let unnamed = fleet.run(&["targets", WEB], "DENY.DescribeInstances");
    assert_eq!(unnamed.code, 0);
    assert!(
        unnamed
            .text()
            .contains("ip-10-0-0-7.eu-central-1.compute.internal"),
        "{unnamed:?}"
    );
    assert!(
        unnamed
            .stderr
            .starts_with("note: EC2 does not tell names: access denied for DescribeInstances")
    );
    assert!(
        unnamed
            .stderr
            .contains("\nhint: the policy must allow ec2:DescribeInstances\n")
    );
    let denied = fleet.run(&["targets"], "DENY.DescribeInstanceInformation");
    assert_eq!(denied.code, 1, "{denied:?}");
    assert!(
        denied
            .stderr
            .starts_with("error: access denied for DescribeInstanceInformation"),
        "{denied:?}"
    );
    let wrong = fleet.run(&["targets", "--config", "/nonexistent.toml"], "");
    assert_eq!(wrong.code, 2, "{wrong:?}");
}

/// The version that the emulated agents tell.
fn agent_version(fleet: &Fleet) -> String {
    let lines = fleet.run(&["targets", WEB, "--json"], "");
    let line: Value = serde_json::from_str(&lines.text()).expect("one object");
    line["agent"]
        .as_str()
        .expect("an agent's version")
        .to_owned()
}

/// Arguments of `env` for the program in the environment of a daemon.
fn program(fleet: &Fleet) -> Vec<String> {
    let mut variables = environment(&fleet.path("home"));
    variables.extend(fleet.environment(""));
    let variables = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let mut args: Vec<_> = std::iter::once("-i".to_owned()).chain(variables).collect();
    args.push(common::daemon::PROGRAM.into());
    args
}

/// Whoever reads a terminal from its background is stopped by the kernel.
#[test]
fn nobody_is_asked_from_the_background() {
    let fleet = Fleet::start();
    let command =
        r#"set -m; env "$@" serve --listen 127.0.0.1:0 & read line; kill %1; wait; exit 4"#;
    let mut args: Vec<String> = ["-c", command, "bash"].map(str::to_owned).into();
    args.extend(program(&fleet));
    let mut terminal = Terminal::start("bash", &args, 24, 80);
    terminal.expect("ready: login names select the target at 127.0.0.1:");
    terminal.keys("\r");
    assert_eq!(terminal.finish(), 4);
}

#[test]
fn without_a_target_a_person_is_asked() {
    let fleet = Fleet::start();
    let Some(sshd) = Sshd::start(&fleet.path("sshd")) else {
        return;
    };
    let mut args = program(&fleet);
    let (port, identity) = (sshd.port.to_string(), sshd.identity.display().to_string());
    let options = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--ssh-port",
        &port,
        "--user",
        &user(),
        "--identity",
        &identity,
    ];
    args.extend(options.map(str::to_owned));
    let mut terminal = Terminal::start("env", &args, 24, 80);
    terminal.expect("1  mi-0aaaaaaaaaaaaaaa6");
    terminal.expect("4  i-0123456789abcdef0");
    terminal.expect("target (1-4, a name, or Enter: login names select): ");
    terminal.keys("5\r");
    terminal.expect("target (1-4, a name, or Enter: login names select): ");
    terminal.keys("4\r");
    terminal.expect("ready: i-0123456789abcdef0 is at 127.0.0.1:");
    terminal.keys("\x03");
    terminal.expect("stopping");
    assert_eq!(terminal.finish(), 0);
}

/// An sshd that takes no key but those that Instance Connect has pushed for the user.
fn sshd_with_pushed_keys(fleet: &Fleet) -> Option<Sshd> {
    let keys = fleet.path("keys");
    std::fs::create_dir_all(&keys).expect("our own directory");
    let extra = format!("AuthorizedKeysFile {}/%u", keys.display());
    Sshd::start_with(&fleet.path("sshd"), &extra)
}

#[test]
fn a_pushed_key_logs_in_where_no_other_does() {
    let fleet = Fleet::start();
    let Some(sshd) = sshd_with_pushed_keys(&fleet) else {
        return;
    };
    let user = user();
    let useless = sshd.identity.display().to_string();
    let login = ["--user", &user, "--identity", &useless];
    let daemon = fleet.serve(&sshd, WEB, &login, "");
    let keys = pushed(&fleet.path("keys").join(&user));
    assert!(!keys.is_empty(), "{}", daemon.stderr());
    assert!(
        keys.iter().all(|key| key.starts_with("ssh-ed25519 ")),
        "{keys:?}"
    );
    let accepted = sshd.log().matches("Accepted publickey").count();
    assert!(
        accepted <= keys.len(),
        "each transport has a key of its own: {}",
        sshd.log()
    );
    drop(daemon);
    // A machine that is not EC2's has no Instance Connect.
    let daemon = fleet.launch(&sshd, NODE, &login, &fleet.environment(""));
    let output = daemon.told("error: ");
    assert!(!output.contains("Instance Connect"), "{output}");
    assert!(output.starts_with("cannot log in to mi-"), "{output}");
}

#[test]
fn a_push_that_is_not_permitted_is_told_once() {
    let fleet = Fleet::start();
    let Some(sshd) = sshd_with_pushed_keys(&fleet) else {
        return;
    };
    let useless = sshd.identity.display().to_string();
    let user = user();
    let daemon = fleet.launch(
        &sshd,
        WEB,
        &["--user", &user, "--identity", &useless],
        &fleet.environment("DENY.SendSSHPublicKey"),
    );
    let said = daemon.told("error: ");
    assert!(said.contains("of EC2 Instance Connect"), "{said}");
    assert!(said.contains("(not available)"), "{said}");
    let stderr = daemon.stderr();
    assert_eq!(
        stderr
            .matches("no key is pushed by EC2 Instance Connect")
            .count(),
        1,
        "{stderr}"
    );
    assert!(
        stderr.contains("the policy must allow ec2-instance-connect:SendSSHPublicKey"),
        "{stderr}"
    );
}

fn pushed(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_platforms_user_is_tried_first_and_then_ones_own() {
    let fleet = Fleet::start();
    let Some(sshd) = Sshd::start(&fleet.path("sshd")) else {
        return;
    };
    let identity = sshd.identity.display().to_string();
    // Debian's names are no users here, or have no such key; on a node of ours our own name comes first.
    let daemon = fleet.serve(&sshd, NODE, &["--identity", &identity], "");
    let accepted = format!("Accepted publickey for {}", user());
    until("the login is logged", || {
        sshd.log().contains(&accepted).then_some(())
    });
    drop(daemon);
    // Where the environment does not tell it, as in a job of cron, the password file does.
    let mut environment = fleet.environment("");
    environment.push(("USER".into(), String::new()));
    let port = sshd.port.to_string();
    let args = ["serve", NODE, "--ssh-port", &port, "--identity", &identity];
    drop(Daemon::start(&fleet.path("home"), &args, &environment));
    // In EC2 it is the image's.
    let mut environment = fleet.environment("DENY.SendSSHPublicKey");
    environment.push(("USER".into(), "nobody-here".into()));
    for (target, users) in [
        (WEB, "`ubuntu`, `nobody-here`: "),
        (NODE, "`nobody-here`, `admin`, `debian`: "),
    ] {
        let daemon = fleet.launch(&sshd, target, &["--identity", &identity], &environment);
        let said = daemon.told("error: ");
        assert!(
            said.contains(&format!("the server refused user {users}")),
            "{said}"
        );
        assert!(
            daemon
                .told("hint: ")
                .starts_with("name the user with --user")
        );
    }
}
