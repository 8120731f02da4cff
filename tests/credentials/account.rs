//! An emulated AWS account, and a home with the files of its configuration.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::common::daemon::{Daemon, PROGRAM, environment, ssmshim};
use crate::common::process::Output;
use crate::common::pty::Terminal;
use crate::common::until;

/// The profile of a user with keys, and roles that are assumed with them.
pub(crate) const ROLES: &str = "
[profile user]
aws_access_key_id = AKIDUSER
aws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY

[profile work]
role_arn = arn:aws:iam::123456789012:role/admin-mfa
source_profile = user
mfa_serial = arn:aws:iam::123456789012:mfa/ann
role_session_name = ann

[profile one]
role_arn = arn:aws:iam::123456789012:role/one
source_profile = user

[profile two]
role_arn = arn:aws:iam::123456789012:role/two
source_profile = one

[profile over]
role_arn = arn:aws:iam::123456789012:role/over
source_profile = work

[profile denied]
role_arn = arn:aws:iam::123456789012:role/DENIED
source_profile = user
";

/// What the emulated MFA device shows.
pub(crate) const CODE: &str = "314159";

pub(crate) struct Account {
    pub(crate) directory: TempDir,
    pub(crate) emulator: Daemon,
}

impl Account {
    pub(crate) fn new(config: &str) -> Self {
        Self::with(config, &[])
    }

    /// With more arguments for the emulator.
    pub(crate) fn with(config: &str, more: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("ssmshim-")
            .tempdir()
            .expect("a temporary directory");
        let arguments = [
            "emulator",
            "--pacing",
            "off",
            "--mfa-code",
            CODE,
            "--log",
            "ssmshim::emulator::api=debug",
        ];
        let arguments = [&arguments[..], more].concat();
        let emulator = Daemon::start(&directory.path().join("aws"), &arguments, &[]);
        let account = Self {
            directory,
            emulator,
        };
        account.write(".aws/config", config);
        account
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Writes a file below the home.
    pub(crate) fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.home().join(path);
        let directory = path.parent().expect("it is below the home");
        fs::create_dir_all(directory).expect("our own directory");
        // A daemon that reads it finds all of it, or what was there before.
        let new = path.with_extension("new");
        fs::write(&new, text).expect("our own directory");
        fs::rename(&new, &path).expect("our own directory");
        path
    }

    /// No keys: those come from where the test says. An empty value takes a variable away.
    pub(crate) fn environment(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut variables = environment(&self.home());
        let endpoint = self.emulator.text("endpoint");
        let usual = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        for (name, value) in usual.iter().chain(more) {
            variables.retain(|(known, _)| known != name);
            if !value.is_empty() {
                variables.push(((*name).to_owned(), (*value).to_owned()));
            }
        }
        variables
    }

    /// `ssmshim targets` to its end.
    pub(crate) fn targets(&self, arguments: &[&str], more: &[(&str, &str)]) -> Output {
        let arguments = [&["targets"], arguments].concat();
        let variables = self.environment(more);
        let run = variables
            .into_iter()
            .fold(ssmshim(&self.home(), &arguments), |run, (name, value)| {
                run.env(&name, value)
            });
        run.output()
    }

    /// The machines are listed.
    pub(crate) fn lists(&self, arguments: &[&str], more: &[(&str, &str)]) {
        let output = self.targets(arguments, more);
        assert_eq!(output.code, 0, "{output:?}");
        assert!(output.text().contains("i-0123456789abcdef0"), "{output:?}");
    }

    /// The error and its hint, and nothing else.
    pub(crate) fn refuses(&self, arguments: &[&str], more: &[(&str, &str)], told: [&str; 2]) {
        let output = self.targets(arguments, more);
        let expected = format!("error: {}\nhint: {}\n", told[0], told[1]);
        assert_eq!((output.code, output.stderr), (1, expected));
    }

    /// `ssmshim` with somebody at its terminal.
    pub(crate) fn attended(&self, arguments: &[&str], more: &[(&str, &str)]) -> Terminal {
        let arguments: Vec<_> = arguments.iter().map(|text| (*text).to_owned()).collect();
        Terminal::start_with(PROGRAM, &arguments, &self.environment(more))
    }

    /// Waits until somebody whose ARN contains `who` has called `operation`.
    pub(crate) fn until_called(&self, operation: &str, who: &str) {
        let call = format!("called operation=\"{operation}\"");
        until(&format!("{operation} by {who}"), || {
            let log = self.emulator.stderr();
            log.lines()
                .any(|line| line.contains(&call) && line.contains(who))
                .then_some(())
        });
    }

    /// Waits until `operation` was called `count` times, so that all that was called before is known as well.
    pub(crate) fn until_calls(&self, operation: &str, count: usize) {
        until(&format!("{count} calls of {operation}"), || {
            (self.calls(operation) >= count).then_some(())
        });
    }

    /// How often `operation` was called, as far as is known: the emulator's log comes a little later than its answers.
    pub(crate) fn calls(&self, operation: &str) -> usize {
        let call = format!("called operation=\"{operation}\"");
        self.emulator.stderr().matches(&call).count()
    }

    /// Lets the emulator fail.
    pub(crate) fn inject(&self, fault: &str) {
        let mut socket =
            TcpStream::connect(("127.0.0.1", self.emulator.port())).expect("the emulator listens");
        let length = fault.len();
        write!(
            socket,
            "POST /faults HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{fault}"
        )
        .expect("the emulator reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
