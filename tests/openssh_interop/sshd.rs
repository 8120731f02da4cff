//! A real sshd, one process for each connection.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use ssmshim::ssh::credential::load_identity;
use ssmshim::ssh::person::{Answer, Nobody};
use ssmshim::ssh::{ClientConfig, Connection, Credential, Error, PinnedKey};
use tokio::net::{TcpListener, TcpStream};

use crate::{copy_key, has, public};

/// A configured sshd. Every connection gets a process of its own (`sshd -i`) on a loopback
/// socket, so that no port is taken and nothing is left running.
pub(crate) struct Sshd {
    directory: tempfile::TempDir,
    user: String,
    processes: Mutex<Vec<Child>>,
}

impl Sshd {
    /// An sshd that accepts `keys` (names of test keys) and certificates of `user_ca`, configured
    /// with `extra` lines, which come first and so prevail. None when there is no sshd.
    pub(crate) fn new(keys: &[&str], extra: &str) -> Option<Self> {
        if !has("sshd") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for key in [
            "host_cert",
            "rsa3072",
            "ecdsa_p256",
            "ecdsa_p384",
            "ecdsa_p521",
        ] {
            copy_key(key, path);
        }
        let authorized: Vec<String> = keys
            .iter()
            .map(|key| public(&format!("{key}.pub")))
            .collect();
        std::fs::write(path.join("authorized_keys"), authorized.join("\n") + "\n").unwrap();
        std::fs::write(path.join("user_ca.pub"), public("user_ca.pub")).unwrap();
        // The certificates are for this name, whoever runs the tests.
        std::fs::write(path.join("principals"), "tester\n").unwrap();
        let here = path.display();
        let defaults = format!(
            "HostKey {here}/host_cert\nHostKey {here}/rsa3072\nHostKey {here}/ecdsa_p256\n\
             HostKey {here}/ecdsa_p384\nHostKey {here}/ecdsa_p521\n\
             HostCertificate {here}/host_cert-cert.pub\n\
             AuthorizedKeysFile {here}/authorized_keys\nTrustedUserCAKeys {here}/user_ca.pub\n\
             AuthorizedPrincipalsFile {here}/principals\n\
             SetEnv HOME={here}\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n"
        );
        std::fs::write(path.join("config"), format!("{extra}\n{defaults}")).unwrap();
        if rustix::process::getuid().is_root() {
            // Where it confines the process that talks to strangers.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let user = Command::new("id").arg("-un").output().unwrap();
        Some(Self {
            user: String::from_utf8(user.stdout)
                .unwrap()
                .trim_end()
                .to_owned(),
            directory,
            processes: Mutex::default(),
        })
    }

    /// A directory for the test.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What sshd has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A socket with sshd at the other end.
    pub(crate) async fn dial(&self) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let server = server.into_std().unwrap();
        server.set_nonblocking(false).unwrap();
        client.set_nodelay(true).unwrap();
        let socket = OwnedFd::from(server);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-i", "-e", "-f"])
            .arg(self.path().join("config"))
            .stdin(Stdio::from(socket.try_clone().unwrap()))
            .stdout(Stdio::from(socket))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.processes.lock().unwrap().push(child);
        client
    }

    /// The configuration to log in with `credentials`, the host key being the expected one.
    pub(crate) fn config(&self, credentials: Vec<Credential>) -> ClientConfig {
        let blob = blob_of(&public("host_cert.pub"));
        let mut config = ClientConfig::new(&self.user, Arc::new(PinnedKey::new(blob)));
        config.credentials = credentials;
        config
    }

    /// Logs in with the test key `name` and what lies beside it.
    pub(crate) async fn log_in(&self, name: &str) -> Result<Connection<TcpStream>, Error> {
        let config = self.config(self.credentials(name));
        Connection::connect(self.dial().await, config).await
    }

    /// The credentials of the test key `name`.
    pub(crate) fn credentials(&self, name: &str) -> Vec<Credential> {
        let path = copy_key(name, self.path());
        load_identity(&path, &nobody()).unwrap()
    }

    /// Where that is.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.path().join("log")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for child in self.processes.lock().unwrap().iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            println!("sshd said:\n{}", self.log());
        }
    }
}

/// Nobody to ask.
pub(crate) fn nobody() -> Arc<dyn Answer> {
    Arc::new(Nobody)
}

/// The blob of a public key line.
pub(crate) fn blob_of(line: &str) -> Vec<u8> {
    use base64::Engine as _;
    let field = line.split_whitespace().nth(1).unwrap();
    base64::engine::general_purpose::STANDARD
        .decode(field)
        .unwrap()
}
