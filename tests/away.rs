//! Targets that are named while AWS cannot be asked, and names that pass to another machine.

mod common;

use std::path::PathBuf;

use common::daemon::{Daemon, PROGRAM, aws_environment, environment};
use common::net::free_port;
use common::process::Run;
use common::sshd::Sshd;
use common::world::{Target, serve_args, user};
use serde_json::json;
use tempfile::TempDir;

const FIRST: &str = "i-0aaaaaaaaaaaaaaa1";
const SECOND: &str = "i-0aaaaaaaaaaaaaaa2";

/// A place for an emulator, which need not be there, and an sshd, which every machine has.
struct Site {
    endpoint: String,
    sshd: Sshd,
    directory: TempDir,
}

impl Site {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Some(Self {
            endpoint: format!("127.0.0.1:{}", free_port()),
            sshd: Sshd::start(&directory.path().join("sshd"))?,
            directory,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An emulator with the machine `id`, whose name is `web`.
    fn emulator(&self, id: &str) -> Daemon {
        let machines =
            json!([{ "id": id, "name": "web", "details": { "tags": { "Name": "web" } } }]);
        let file = self.path("machines.json");
        std::fs::write(&file, machines.to_string()).expect("our own directory");
        let file = file.display().to_string();
        let args = [
            "emulator",
            "--instances",
            &file,
            "--json",
            "--listen",
            &self.endpoint,
        ];
        let emulator = Daemon::launch(&self.path("aws"), &args, &[]);
        emulator.expect("ready");
        emulator
    }

    /// `ssmshim serve web`, not waited for.
    fn serve(&self) -> Daemon {
        let args = serve_args("web", &self.sshd.port.to_string(), &self.sshd.identity);
        let mut args: Vec<_> = args.iter().map(String::as_str).collect();
        args.extend(["--json", "--listen", "127.0.0.1:0"]);
        Daemon::launch(&self.path("home"), &args, &self.environment())
    }

    fn environment(&self) -> Vec<(String, String)> {
        aws_environment(&format!("http://{}", self.endpoint))
    }

    fn ssh(&self, port: u16, options: &[&str]) -> Run {
        let target = Target {
            port,
            user: user(),
            identity: self.sshd.identity.clone(),
        };
        Run::new("ssh")
            .args(options)
            .args(target.options("-p"))
            .args(["127.0.0.1", "echo inside"])
    }
}

/// The port of the `ready` event.
fn port(ready: &serde_json::Value) -> u16 {
    let listen = ready["listen"].as_str().unwrap_or_default();
    let address: std::net::SocketAddr = listen.parse().expect("an address");
    address.port()
}

/// The network comes after `serve`, as after a log-in at a laptop.
#[test]
fn a_name_is_looked_for_until_aws_can_be_asked() {
    let Some(site) = Site::new() else { return };
    let daemon = site.serve();
    let said = daemon.told("error: ");
    assert!(said.starts_with("cannot look for `web`: "), "{said}");
    let _emulator = site.emulator(FIRST);
    let ready = daemon.expect("ready");
    assert_eq!(ready["target"], FIRST);
    assert_eq!(site.ssh(port(&ready), &[]).ok().text(), "inside");
    let stderr = daemon.stderr();
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
}

/// The same for `connect`, which waits as long as `--hold` says.
#[test]
fn connect_looks_for_a_name_until_aws_can_be_asked() {
    let Some(site) = Site::new() else { return };
    let mut proxy: Vec<String> = vec!["env".into(), "-i".into()];
    let mut variables = environment(&site.path("home"));
    variables.extend(site.environment());
    // What it logs at this level tells that it has begun.
    let log = site.path("log");
    variables.push(("SSMSHIM_LOG".into(), "debug".into()));
    proxy.extend(
        variables
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    let port = site.sshd.port.to_string();
    proxy.extend([PROGRAM, "connect", "web", &port, "2>>"].map(str::to_owned));
    proxy.push(log.display().to_string());
    let proxy = format!("ProxyCommand={}", proxy.join(" "));
    let ssh = site.ssh(22, &["-o", &proxy]).piped();
    common::until("it is tried again", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("trying again").then_some(())
    });
    let _emulator = site.emulator(FIRST);
    let mut ssh = ssh;
    let status = ssh.wait(common::DEADLINE);
    assert_eq!(status.code(), Some(0), "{}", ssh.stderr());
}

/// As where a group of machines replaces one that is terminated.
#[test]
fn a_machine_of_the_same_name_takes_the_place_of_one_that_is_gone() {
    let Some(site) = Site::new() else { return };
    let emulator = site.emulator(FIRST);
    let daemon = site.serve();
    let ready = daemon.expect("ready");
    assert_eq!(site.ssh(port(&ready), &[]).ok().text(), "inside");
    drop(emulator);
    let _emulator = site.emulator(SECOND);
    loop {
        let event = daemon.next_event();
        if event["event"] == "down" {
            assert_eq!(event["target"], FIRST);
            break;
        }
    }
    assert_eq!(site.ssh(port(&ready), &[]).ok().text(), "inside");
    loop {
        let event = daemon.next_event();
        if event["event"] == "started" {
            assert_eq!(event["target"], SECOND);
            break;
        }
    }
}
