//! `ssmshim connect` as a ProxyCommand: the client's own SSH from end to end, in an SSM session of its own or in that of
//! a daemon which runs already.

#[path = "../common/mod.rs"]
mod common;

mod alone;
mod clients;
mod cuts;
mod hold;
mod hostile;
mod killed;
mod shared;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::daemon::{PROGRAM, aws_environment, environment};
use common::faulty::Faulty;
use common::net::call_ssm;
use common::process::{Run, Running, read_until};
use common::until;
use common::world::user;
use rustix::process::Pid;
use ssmshim::emulator::{Options, Pacing};

/// Whether there is a daemon to share with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Alone,
    Shared,
}

/// A person with `ssmshim connect` in their ssh configuration, a far end, and a daemon or none.
struct Near {
    faulty: Faulty,
    way: Way,
    target: String,
    ssh_port: String,
}

impl Near {
    fn start(way: Way) -> Option<Self> {
        Self::with(way, Faulty::fast()?)
    }

    /// To an agent of this `version`.
    fn to_agent(way: Way, version: &str) -> Option<Self> {
        let options = Options {
            agent_version: version.parse().expect("a version"),
            pacing: Pacing::Off,
            ..Options::default()
        };
        Self::with(way, Faulty::with(options)?)
    }

    fn with(way: Way, mut faulty: Faulty) -> Option<Self> {
        if way == Way::Alone {
            drop(faulty.world.daemon.take());
        }
        let sshd = faulty.world.sshd.clone()?;
        faulty.world.target.user = user();
        faulty.world.target.identity.clone_from(&sshd.identity);
        let (_, target) = faulty.names();
        let near = Self {
            faulty,
            way,
            target,
            ssh_port: sshd.port.to_string(),
        };
        near.write_proxy();
        Some(near)
    }

    /// Writes a program that is `ssmshim connect`, to the usual target unless its arguments say otherwise. ssh gives its
    /// own environment to its ProxyCommand; this one has ours. It notes the ids of its processes.
    fn write_proxy(&self) {
        let variables = self.environment();
        let variables = variables
            .iter()
            .map(|(name, value)| format!("'{name}={value}'"));
        let variables: Vec<_> = variables.collect();
        let script = format!(
            "#!/bin/sh\n[ $# = 0 ] && set -- {} --ssh-port {}\necho $$ >> '{}'\n\
             exec env -i {} '{PROGRAM}' connect \"$@\"\n",
            self.target,
            self.ssh_port,
            self.path("processes").display(),
            variables.join(" "),
        );
        let path = self.proxy();
        fs::write(&path, script).expect("our own directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    }

    fn proxy(&self) -> PathBuf {
        self.path("connect")
    }

    /// The latest `connect` that an ssh has started.
    fn latest(&self) -> Pid {
        let noted = fs::read_to_string(self.path("processes")).unwrap_or_default();
        let latest = noted
            .lines()
            .last()
            .and_then(|id| Pid::from_raw(id.parse().ok()?));
        latest.expect("it notes itself")
    }

    fn environment(&self) -> Vec<(String, String)> {
        let (endpoint, _) = self.faulty.names();
        let mut variables = environment(&self.path("home"));
        variables.extend(aws_environment(&endpoint));
        variables
    }

    /// `-o ProxyCommand=…` for the usual target.
    fn option(&self) -> String {
        format!("-oProxyCommand={}", self.proxy().display())
    }

    fn ssh(&self, options: &[&str], command: &str) -> Run {
        let ours = self.option();
        let options = [options, &[ours.as_str()]].concat();
        self.faulty.world.ssh(&options, command)
    }

    /// The ssh command line, for programs that start ssh themselves.
    fn ssh_command(&self) -> String {
        format!("{} {}", self.faulty.world.ssh_command(), self.option())
    }

    /// An ssh whose remote command has started; the command goes on until the end of its input.
    fn session(&self, options: &[&str]) -> Running {
        started(self.ssh(options, "echo established; exec cat"))
    }

    /// `ssmshim connect ARGS…` by itself.
    fn connect(&self, args: &[&str]) -> Run {
        let run = Run::new(PROGRAM).env_clear().arg("connect").args(args);
        self.environment()
            .into_iter()
            .fold(run, |run, (name, value)| run.env(&name, value))
    }

    /// The arguments of `connect` for the usual target.
    fn usual(&self) -> [&str; 3] {
        [&self.target, "--ssh-port", &self.ssh_port]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.faulty.world.path(name)
    }

    /// How many SSM sessions there are, as the service tells.
    fn open_sessions(&self) -> usize {
        let (endpoint, _) = self.faulty.names();
        let (status, answer) = call_ssm(&endpoint, "DescribeSessions", r#"{"State":"Active"}"#);
        assert_eq!(status, 200, "{answer}");
        answer["Sessions"].as_array().map_or(0, Vec::len)
    }

    /// How many there have been.
    fn all_sessions(&self) -> u64 {
        self.faulty.faults().counters().sessions
    }

    /// Waits until no SSM session is left but that of the daemon.
    fn until_tidy(&self) {
        let left = match self.way {
            Way::Alone => 0,
            Way::Shared => 1,
        };
        until("the SSM sessions are ended", || {
            (self.open_sessions() == left).then_some(())
        });
    }

    fn daemon(&self) -> &common::daemon::Daemon {
        self.faulty.world.daemon.as_ref().expect("it is shared")
    }

    /// The sockets of daemons.
    fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.control()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Where the sockets of daemons are.
    fn control(&self) -> PathBuf {
        self.path("home/state/ssmshim/control")
    }

    /// Waits until what `connect` has written down is gone: it was the last thing to do.
    fn until_no_records(&self) {
        let records = self.path("home/state/ssmshim/sessions");
        until("its records are removed", || {
            let entries = fs::read_dir(&records).into_iter().flatten().count();
            (entries == 0).then_some(())
        });
    }
}

/// Starts `run`, which says `established` when it is.
fn started(run: Run) -> Running {
    let mut running = run.piped();
    let stdout = running.take_stdout();
    let said = read_until(stdout, "established");
    assert!(said.is_some(), "not established: {}", running.stderr());
    running
}

/// Makes two tests of each case: with an SSM session of its own, and with that of a daemon.
macro_rules! both_ways {
    ($($case:ident),* $(,)?) => {
        mod alone_ {
            $(#[test]
            fn $case() {
                if let Some(near) = crate::Near::start(crate::Way::Alone) {
                    super::$case(&near);
                    near.until_tidy();
                }
            })*
        }
        mod shared_ {
            $(#[test]
            fn $case() {
                if let Some(near) = crate::Near::start(crate::Way::Shared) {
                    super::$case(&near);
                    near.until_tidy();
                    assert_eq!(near.all_sessions(), 1, "it was shared");
                }
            })*
        }
    };
}
use both_ways;

/// Waits until the process `id` has ended. Whether anybody has noticed, such as an init that containers lack, is another
/// matter.
fn until_ended(id: Pid) {
    let program = format!("/proc/{id}/exe");
    until("the process has ended", || {
        fs::read_link(&program).is_err().then_some(())
    });
}

/// A file of `bytes`, and where it goes and comes back to.
fn three(near: &Near, bytes: usize) -> [PathBuf; 3] {
    let paths = ["here.bin", "there.bin", "back.bin"].map(|name| near.path(name));
    common::files::write_file(&paths[0], bytes, 5);
    paths
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
