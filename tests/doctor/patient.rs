//! A set-up in which `ssh` would work, to be broken, and what the doctor says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::daemon::{Daemon, aws_environment, ssmshim};
use crate::common::have;
use crate::common::net::{call, call_ssm};
use crate::common::process::Run;
use crate::common::sshd::Sshd;
use crate::common::world::{serve_at, user};

/// What must never be said: the secret key of [`aws_environment`] and a proxy's password.
const SECRETS: [&str; 3] = ["wJalrXUtnFEMI", "open@sesame", "open%40sesame"];

pub(crate) const WEB: &str = "i-0123456789abcdef0";
pub(crate) const TOO_OLD: &str = "i-0aaaaaaaaaaaaaaa1";
pub(crate) const OLD: &str = "i-0aaaaaaaaaaaaaaa2";
pub(crate) const STOPPED: &str = "i-0aaaaaaaaaaaaaaa3";
pub(crate) const UNMANAGED: &str = "i-0aaaaaaaaaaaaaaa4";
pub(crate) const LOST: &str = "i-0aaaaaaaaaaaaaaa5";

pub(crate) const TASK: &str = "ecs:prod_0123456789abcdef_0123456789abcdef-1";

/// An emulator with some machines, an sshd, and a home.
pub(crate) struct Patient {
    pub(crate) emulator: Daemon,
    pub(crate) sshd: Sshd,
    directory: TempDir,
}

impl Patient {
    /// All is well; `None` where OpenSSH is missing.
    pub(crate) fn new() -> Option<Self> {
        Self::with_sshd("")
    }

    /// One whose sshd runs `cat` whatever is asked for, so that a download does not begin before the doctor gives it
    /// up: until then, an examination that has come so far is not over.
    pub(crate) fn with_endless_commands() -> Option<Self> {
        Self::with_sshd("# authorized_keys: command=\"cat\"")
    }

    fn with_sshd(configuration: &str) -> Option<Self> {
        if !have("ssh-keygen") {
            return None;
        }
        let directory = tempfile::Builder::new()
            .prefix("ssmshim-")
            .tempdir()
            .expect("a temporary directory");
        let sshd = Sshd::start_with(&directory.path().join("sshd"), configuration)?;
        let machines = directory.path().join("machines.json");
        std::fs::write(&machines, fleet().to_string()).expect("our own directory");
        let machines = machines.display().to_string();
        let emulator = Daemon::start(
            &directory.path().join("aws"),
            &["emulator", "--pacing", "off", "--instances", &machines],
            &[],
        );
        Some(Self {
            emulator,
            sshd,
            directory,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Lets something go wrong in the emulator.
    pub(crate) fn inject(&self, fault: &Value) {
        let body = fault.to_string();
        let answer = call(self.emulator.port(), "POST", "/faults", "", body.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Another emulator, whose agent is of `version`.
    pub(crate) fn emulator_of(&self, version: &str) -> Daemon {
        let home = self.path("another");
        Daemon::start(
            &home,
            &["emulator", "--pacing", "off", "--agent-version", version],
            &[],
        )
    }

    pub(crate) fn clear_faults(&self) {
        call(self.emulator.port(), "DELETE", "/faults", "", b"");
    }

    /// `ssmshim doctor` for a machine, with all that makes it work.
    pub(crate) fn visit(&self, target: &str) -> Visit<'_> {
        let identity = self.sshd.identity.display().to_string();
        let options = [
            ("--user", user()),
            ("--identity", identity),
            ("--ssh-port", self.sshd.port.to_string()),
            ("--listen", "127.0.0.1:0".to_owned()),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value));
        Visit {
            patient: self,
            target: Some(target.to_owned()),
            options: options.into(),
            environment: aws_environment(&self.emulator.text("endpoint"))
                .into_iter()
                .collect(),
            leaves_sessions: false,
        }
    }

    /// A daemon of the same user that serves [`WEB`].
    pub(crate) fn serve(&self) -> Daemon {
        let endpoint = self.emulator.text("endpoint");
        serve_at(
            self.directory.path(),
            (&endpoint, WEB),
            &self.sshd.port.to_string(),
            &self.sshd.identity,
            &[],
        )
    }

    /// The ids of the SSM sessions that are open.
    pub(crate) fn sessions(&self) -> BTreeSet<String> {
        let endpoint = self.emulator.text("endpoint");
        let (status, answer) = call_ssm(&endpoint, "DescribeSessions", r#"{"State":"Active"}"#);
        assert_eq!(status, 200, "{answer}");
        let sessions = answer["Sessions"].as_array().expect("a list");
        let ids = sessions.iter().filter_map(|it| it["SessionId"].as_str());
        ids.map(str::to_owned).collect()
    }

    /// The host keys that have been written down.
    fn known_hosts(&self) -> Option<String> {
        std::fs::read_to_string(self.path("home/state/ssmshim/known_hosts")).ok()
    }
}

fn fleet() -> Value {
    json!([
        { "id": WEB, "name": "web" },
        { "id": TOO_OLD, "name": "twin", "details": { "agent_version": "2.3.662.0" } },
        { "id": OLD, "name": "twin", "details": { "agent_version": "3.1.1188.0" } },
        { "id": STOPPED, "name": "batch", "agent": false,
            "details": { "state": "stopped", "lost_seconds": 600 } },
        { "id": UNMANAGED, "name": "bare", "agent": false, "details": { "managed": false } },
        { "id": TASK },
        { "id": LOST, "name": "lost", "agent": false, "details": { "lost_seconds": 10_800 } },
    ])
}

/// One run of the doctor.
pub(crate) struct Visit<'a> {
    patient: &'a Patient,
    target: Option<String>,
    options: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    leaves_sessions: bool,
}

impl Visit<'_> {
    /// Without a target.
    pub(crate) fn in_general(mut self) -> Self {
        self.target = None;
        self
    }

    /// With `value` for the option, instead of what makes it work.
    pub(crate) fn with(mut self, option: &str, value: &str) -> Self {
        self.options.insert(option.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without(mut self, option: &str) -> Self {
        self.options.remove(option);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// At both endpoints instead of the emulator's.
    pub(crate) fn at(self, endpoint: &str) -> Self {
        self.env("AWS_ENDPOINT_URL", endpoint)
            .env("AWS_ENDPOINT_URL_SSM", endpoint)
    }

    /// With credentials that the emulator refuses for an operation, as in `DENY.StartSession`.
    pub(crate) fn refused(self, what: &str) -> Self {
        self.env("AWS_SESSION_TOKEN", what)
    }

    /// Nobody can end the sessions.
    pub(crate) fn leaving_sessions(mut self) -> Self {
        self.leaves_sessions = true;
        self
    }

    /// The arguments and the environment.
    pub(crate) fn command(&self, extra: &[&str]) -> (Vec<String>, Vec<(String, String)>) {
        let mut arguments = vec!["doctor".to_owned()];
        arguments.extend(self.target.clone());
        for (option, value) in &self.options {
            arguments.extend([option.clone(), value.clone()]);
        }
        arguments.extend(extra.iter().map(|&extra| extra.to_owned()));
        (arguments, self.environment.clone().into_iter().collect())
    }

    pub(crate) fn run(&self, extra: &[&str]) -> Run {
        let (arguments, environment) = self.command(extra);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let run = ssmshim(&self.patient.path("home"), &arguments);
        environment
            .iter()
            .fold(run, |run, (name, value)| run.env(name, value))
    }

    /// What the doctor says, once it is checked for what must be true of every report.
    #[track_caller]
    pub(crate) fn report(&self) -> Report {
        let known = self.patient.known_hosts();
        let sessions = self.patient.sessions();
        let output = self.run(&["--json"]).output();
        let text = output.text();
        let mut lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}: {output:?}")))
            .collect();
        let summary = lines.pop().unwrap_or_else(|| panic!("{output:?}"));
        let report = Report {
            code: output.code,
            lines,
            summary,
        };
        report.check();
        for secret in SECRETS {
            assert!(
                !text.contains(secret) && !output.stderr.contains(secret),
                "{output:?}"
            );
        }
        let left = self.patient.sessions();
        assert_eq!(self.leaves_sessions, left != sessions, "{left:?}");
        assert!(left.is_superset(&sessions), "others' sessions go on");
        assert_eq!(
            self.patient.known_hosts(),
            known,
            "host keys are not written down"
        );
        report
    }

    /// Expects that `check` fails and no other, with `words` in what it says and `hint` in its remedy.
    #[track_caller]
    pub(crate) fn fails(&self, check: &str, words: &str, hint: &str) -> Report {
        let report = self.report();
        assert_eq!(report.code, 1, "{report}");
        let failed = report.with("failed");
        assert_eq!(failed, [check], "{report}");
        report.says(check, words, hint);
        report
    }

    /// Expects that `check` warns and no other, and that nothing fails.
    #[track_caller]
    pub(crate) fn warns(&self, check: &str, words: &str, hint: &str) -> Report {
        let report = self.report();
        assert_eq!(report.code, 0, "{report}");
        assert_eq!(report.with("warning"), [check], "{report}");
        report.says(check, words, hint);
        report
    }
}

/// What the doctor has said.
pub(crate) struct Report {
    pub(crate) code: i32,
    pub(crate) lines: Vec<Value>,
    pub(crate) summary: Value,
}

impl Report {
    /// What is true of every report.
    #[track_caller]
    fn check(&self) {
        assert_eq!(self.summary["event"], "summary", "{self}");
        assert_eq!(self.summary["checks"], self.lines.len(), "{self}");
        let failed = self.with("failed");
        assert_eq!(self.summary["failed"], json!(failed), "{self}");
        assert_eq!(
            self.summary["warnings"],
            json!(self.with("warning")),
            "{self}"
        );
        assert_eq!(
            self.summary["skipped"],
            json!(self.with("skipped")),
            "{self}"
        );
        assert_eq!(self.summary["ok"], failed.is_empty(), "{self}");
        assert_eq!(self.code, i32::from(!failed.is_empty()), "{self}");
        for line in &self.lines {
            let detail = line["detail"].as_str().unwrap_or_default();
            assert!(!detail.is_empty() && !detail.contains('\n'), "{line}");
            assert!(line["milliseconds"].is_u64(), "{line}");
            // What is skipped because of a check names one that was not well.
            if let Some(because) = detail.strip_prefix("because of ") {
                assert!(failed.contains(&because.to_owned()), "{line} in {self}");
            }
        }
    }

    /// The checks with this verdict.
    pub(crate) fn with(&self, verdict: &str) -> Vec<String> {
        let lines = self.lines.iter();
        lines
            .filter(|line| line["verdict"] == verdict)
            .filter_map(|line| line["check"].as_str().map(str::to_owned))
            .collect()
    }

    /// The line of a check.
    #[track_caller]
    pub(crate) fn line(&self, check: &str) -> &Value {
        let mut lines = self.lines.iter().filter(|line| line["check"] == check);
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("no {check} in {self}"));
        assert!(lines.next().is_none(), "{check} twice in {self}");
        line
    }

    /// Expects `words` in the detail of a check and `hint` in its remedy.
    #[track_caller]
    pub(crate) fn says(&self, check: &str, words: &str, hint: &str) {
        let line = self.line(check);
        let has =
            |member: &str, part: &str| line[member].as_str().unwrap_or_default().contains(part);
        assert!(has("detail", words), "no {words:?} in {line}");
        assert!(has("remedy", hint), "no {hint:?} in {line}");
    }

    /// Expects that a check could not be made because of another one.
    #[track_caller]
    pub(crate) fn skips(&self, check: &str, because: &str) {
        let line = self.line(check);
        assert_eq!(line["verdict"], "skipped", "{self}");
        assert_eq!(line["detail"], format!("because of {because}"), "{self}");
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{}", self.summary)
    }
}
