//! A far end behind TLS, and daemons that go there one way or another.

use std::sync::Arc;

use tempfile::TempDir;

use crate::common::daemon::{Daemon, aws_environment};
use crate::common::have;
use crate::common::process::Run;
use crate::common::sshd::Sshd;
use crate::common::world::{Target, serve_args};
use crate::front::{Authority, Front, file};
use crate::proxy::{API, GATEWAY};

/// sshd, emulator and a front with TLS.
pub(crate) struct Far {
    pub(crate) front: Front,
    pub(crate) authority: Authority,
    pub(crate) emulator: Daemon,
    pub(crate) sshd: Arc<Sshd>,
    pub(crate) directory: TempDir,
}

impl Far {
    /// Behind TLS, as the names that the proxies know and as names of this computer.
    pub(crate) fn start() -> Option<Self> {
        let authority = Authority::new();
        let host = host_name();
        let identity = authority.identity(&[API, GATEWAY, "localhost", "127.0.0.1", &host]);
        Self::behind(authority, |emulator| {
            Front::start(emulator, Some(&identity))
        })
    }

    /// Behind a front without TLS.
    pub(crate) fn plain() -> Option<Self> {
        Self::behind(Authority::new(), |emulator| Front::start(emulator, None))
    }

    fn behind(authority: Authority, front: impl FnOnce(u16) -> Front) -> Option<Self> {
        if !have("ssh") || !have("ssh-keygen") {
            return None;
        }
        let directory = tempfile::Builder::new()
            .prefix("ssmshim-")
            .tempdir()
            .expect("a temporary directory");
        let sshd = Arc::new(Sshd::start(&directory.path().join("sshd"))?);
        let emulator = Daemon::start(
            &directory.path().join("aws"),
            &["emulator", "--pacing", "off"],
            &[],
        );
        Some(Self {
            front: front(emulator.port()),
            authority,
            emulator,
            sshd,
            directory,
        })
    }

    /// `scheme://host:PORT` of the front.
    pub(crate) fn url(&self, scheme: &str, host: &str) -> String {
        format!("{scheme}://{host}:{}", self.front.port)
    }

    /// The arguments and the environment of a daemon that goes to `endpoint` and trusts the authority.
    pub(crate) fn way(&self, endpoint: &str, gateway: Option<&str>) -> Way {
        let target = self.emulator.text("target");
        let port = self.sshd.port.to_string();
        let mut arguments = serve_args(&target, &port, &self.sshd.identity);
        if let Some(gateway) = gateway {
            arguments.extend(["--ssmmessages-endpoint".to_owned(), gateway.to_owned()]);
        }
        let bundle = file(self.directory.path(), "bundle.pem", &self.authority.pem);
        let mut environment = aws_environment(endpoint);
        environment.push(("AWS_CA_BUNDLE".to_owned(), bundle));
        Way {
            arguments,
            environment,
            home: self.directory.path().join("home"),
        }
    }

    /// What `echo` says at the far end, through `daemon`.
    pub(crate) fn echo(&self, daemon: &Daemon, text: &str) -> String {
        let target = Target {
            port: daemon.port(),
            user: "anything".to_owned(),
            identity: self.sshd.identity.clone(),
        };
        Run::new("ssh")
            .args(target.options("-p"))
            .arg(target.host())
            .arg(format!("echo {text}"))
            .ok()
            .text()
    }
}

/// How a daemon is to be started.
pub(crate) struct Way {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    home: std::path::PathBuf,
}

impl Way {
    /// With `name` set to `value` in the environment, or not set when that is empty.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(own, _)| own != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Starts the daemon and waits until it is ready.
    pub(crate) fn start(&self) -> Daemon {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        Daemon::start(&self.home, &arguments, &self.environment)
    }

    /// Starts the daemon, to be waited for by what it tells.
    pub(crate) fn launch(&self) -> Daemon {
        let mut arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        arguments.extend(["--json", "--listen", "127.0.0.1:0"]);
        Daemon::launch(&self.home, &arguments, &self.environment)
    }
}

/// The name of this computer, which its resolver may know or not.
pub(crate) fn host_name() -> String {
    Run::new("uname").arg("-n").ok().text().to_lowercase()
}
