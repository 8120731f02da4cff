//! Proxies as they are in the world: Squid and microsocks.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::net::free_port;
use crate::common::process::Running;
use crate::common::{have, until, which};
use crate::front::Identity;

/// Names that only our Squid knows, all for this computer.
pub(crate) const API: &str = "ssm.shim.example";
pub(crate) const GATEWAY: &str = "ssmmessages.shim.example";

/// Who Squid lets in, and how that is written in a URL.
pub(crate) const PASSWORD: &str = "open@sesame:7";
pub(crate) const LOGIN: &str = "ann:open%40sesame%3A7";

/// Squid as users and companies run it, with a password.
pub(crate) struct Squid {
    pub(crate) port: u16,
    /// Begins the names of its shared memory, which all users of a computer share: no two may have the same.
    name: String,
    directory: PathBuf,
    running: Option<Running>,
}

impl Squid {
    /// Prepares one in `directory`; TLS towards its clients as `identity`.
    pub(crate) fn new(directory: &Path, identity: Option<&Identity>) -> Option<Self> {
        if !have("squid") {
            return None;
        }
        let port = free_port();
        let squid = Self {
            port,
            name: format!("ssmshim{}port{port}", std::process::id()),
            directory: directory.join("squid"),
            running: None,
        };
        squid.configure(identity);
        Some(squid)
    }

    fn configure(&self, identity: Option<&Identity>) {
        let directory = self.directory.display();
        fs::create_dir_all(&self.directory).expect("our own directory");
        // Started by root, Squid becomes somebody else.
        for path in [self.directory.parent().expect("a parent"), &self.directory] {
            fs::set_permissions(path, Permissions::from_mode(0o777)).expect("our own directory");
        }
        let write = |name: &str, text: &str, mode| {
            let path = self.directory.join(name);
            fs::write(&path, text).expect("our own directory");
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own file");
        };
        write("hosts", &format!("127.0.0.1 {API} {GATEWAY}\n"), 0o644);
        // Is given a user and a password in each line.
        write(
            "authenticate",
            &format!(
                "#!/bin/sh\nwhile read -r line; do\n\
                 case \"$line\" in \"ann {PASSWORD}\") echo OK;; *) echo ERR;; esac\ndone\n"
            ),
            0o755,
        );
        let mut port = format!("http_port 127.0.0.1:{}", self.port);
        if let Some(identity) = identity {
            write(
                "identity.pem",
                &format!("{}{}", identity.certificate, identity.key),
                0o644,
            );
            port = format!(
                "https_port 127.0.0.1:{} tls-cert={directory}/identity.pem",
                self.port
            );
        }
        let configuration = format!(
            "{port}\n\
             hosts_file {directory}/hosts\n\
             access_log stdio:{directory}/access.log\n\
             cache_log {directory}/cache.log\n\
             coredump_dir {directory}\n\
             pid_filename none\n\
             netdb_filename none\n\
             visible_hostname proxy.example\n\
             cache deny all\n\
             pinger_enable off\n\
             shutdown_lifetime 0 seconds\n\
             auth_param basic program {directory}/authenticate\n\
             auth_param basic children 1 startup=1\n\
             acl known proxy_auth REQUIRED\n\
             http_access allow known\n\
             http_access deny all\n"
        );
        write("squid.conf", &configuration, 0o644);
    }

    /// Starts it and waits until it takes connections.
    pub(crate) fn start(&mut self) {
        let program = which("squid").expect("it was there before");
        let mut command = Command::new(program);
        command
            .args(["-N", "-n", &self.name, "-f"])
            .arg(self.directory.join("squid.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let log = self.directory.join("cache.log");
        let running = self.running.insert(Running::start(command));
        let port = self.port;
        until("squid", || {
            let ended = running.try_wait(std::time::Duration::ZERO);
            let log = || fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "squid: {}{}", running.stderr(), log());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
    }

    /// Takes it away, and every connection through it.
    pub(crate) fn stop(&mut self) {
        self.running = None;
        // Killed, it leaves its shared memory behind.
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let is_ours = |name: &str| name.starts_with(&format!("{}-", self.name));
            if entry.file_name().to_str().is_some_and(is_ours) {
                let _gone = fs::remove_file(entry.path());
            }
        }
    }

    /// A request it has written down; a tunnel is written down when it ends.
    ///
    /// # Panics
    /// When there is none at the deadline.
    pub(crate) fn logged(&self, request: &str) -> String {
        until(request, || {
            let log = fs::read_to_string(self.directory.join("access.log")).ok()?;
            log.lines()
                .find(|line| line.contains(request))
                .map(str::to_owned)
        })
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        self.stop();
    }
}

/// microsocks with the same password.
pub(crate) struct Socks {
    pub(crate) port: u16,
    _running: Running,
}

impl Socks {
    pub(crate) fn start() -> Option<Self> {
        if !have("microsocks") {
            return None;
        }
        let port = free_port();
        let mut command = Command::new("microsocks");
        command
            .args([
                "-i",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-u",
                "ann",
                "-P",
                PASSWORD,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let running = Running::start(command);
        until("microsocks", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(Self {
            port,
            _running: running,
        })
    }
}
