//! Against the OpenSSH client and server of this machine, with every algorithm both have.
//!
//! Just enough of authentication and channels to move bytes through `cat`.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::blocking::{Blocking, DEADLINE, echo_server, message};
use super::*;
use crate::ssh::host_key::{Algorithm, Scheme};

/// Those key exchange methods that OpenSSH 9.2 has, too.
const SHARED_KEX: &[Kex] = &[
    Kex::Curve25519,
    Kex::Curve25519Libssh,
    Kex::EcdhP256,
    Kex::EcdhP384,
    Kex::EcdhP521,
];

/// Bytes that compress somewhat and betray a missing or repeated piece.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i / 3 + i / 4096 * 7) as u8).collect()
}

/// Whether `program` is here; says so when it is not, and fails where it must be.
fn is_installed(program: &str) -> bool {
    let found = Path::new(program).exists();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "{program} is missing"
    );
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

#[test]
fn openssh_client() {
    if !is_installed("/usr/bin/ssh") {
        return;
    }
    let key = Arc::new(HostKey::generate().unwrap());
    let input = pattern(300_000);
    for (index, (cipher, mac)) in suites().into_iter().enumerate() {
        let kex = SHARED_KEX[index % SHARED_KEX.len()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let compression = if index % 2 == 0 { "yes" } else { "no" };
        let child = Command::new("/usr/bin/ssh")
            .args(["-F", "none", "-T", "-p", &port.to_string()])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args([
                "-o",
                "RekeyLimit=64K",
                "-o",
                &format!("Compression={compression}"),
            ])
            .args(["-o", &format!("Ciphers={}", cipher.name())])
            .args(["-o", &format!("MACs={}", mac.name())])
            .args(["-o", &format!("KexAlgorithms={}", kex.name())])
            .args(["-o", "LogLevel=ERROR", "-o", "BatchMode=yes"])
            .args(["anyone@127.0.0.1", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stream = listener.accept().unwrap().0;
        let config = Config {
            rekey_bytes: 100_000,
            ..Config::default()
        };
        let server = std::thread::spawn({
            let key = key.clone();
            move || echo_server(stream, config, key)
        });
        let (status, output) = feed(child, &input);
        assert_eq!(
            (status, output.len()),
            (Some(7), input.len()),
            "{cipher:?} {mac:?} {kex:?}"
        );
        assert!(output == input);
        assert!(server.join().unwrap() >= 3);
    }
}

/// Runs a command to its end with `input`; its status and output.
fn feed(mut child: Child, input: &[u8]) -> (Option<i32>, Vec<u8>) {
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.is_empty(), "{stderr}");
        (output.status.code(), output.stdout)
    })
}

/// The files of an sshd of our own.
struct Sshd {
    directory: tempfile::TempDir,
    user_key: HostKey,
}

impl Sshd {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let user_key = HostKey::generate().unwrap();
        let sshd = Self {
            directory,
            user_key,
        };
        let private = sshd.user_key.to_openssh().unwrap();
        let public = ::russh::keys::PrivateKey::from_openssh(private.as_bytes()).unwrap();
        let public = public.public_key().to_openssh().unwrap();
        std::fs::write(sshd.path("authorized_keys"), public).unwrap();
        sshd.keygen(&["-t", "ed25519", "-f", "ca"]);
        for (name, arguments) in [
            ("ed25519", &["-t", "ed25519"][..]),
            ("p256", &["-t", "ecdsa", "-b", "256"]),
            ("p384", &["-t", "ecdsa", "-b", "384"]),
            ("p521", &["-t", "ecdsa", "-b", "521"]),
            ("rsa", &["-t", "rsa", "-b", "2048"]),
        ] {
            sshd.keygen(&[arguments, &["-f", name]].concat());
            let public = format!("{name}.pub");
            sshd.keygen(&["-s", "ca", "-I", "host", "-h", "-n", "localhost", &public]);
        }
        sshd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn keygen(&self, arguments: &[&str]) {
        let made = Command::new("ssh-keygen")
            .current_dir(self.directory.path())
            .args(["-q", "-N", ""])
            .args(arguments)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// Starts one for one connection, and gives our end of it.
    fn start(&self, options: &[(&str, &str)]) -> (Child, UnixStream) {
        let mut config = String::new();
        for name in ["ed25519", "p256", "p384", "p521", "rsa"] {
            let path = self.path(name);
            config += &format!(
                "HostKey {0}\nHostCertificate {0}-cert.pub\n",
                path.display()
            );
        }
        let authorized = self.path("authorized_keys");
        config += &format!("AuthorizedKeysFile {}\n", authorized.display());
        config += "UsePAM no\nStrictModes no\nPermitRootLogin yes\nPidFile none\n";
        // No start-up files of the person at the desk.
        config += &format!("SetEnv HOME={}\n", self.directory.path().display());
        for (key, value) in options {
            config += &format!("{key} {value}\n");
        }
        std::fs::write(self.path("sshd_config"), config).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(DEADLINE)).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-i", "-e", "-f"])
            .arg(self.path("sshd_config"))
            .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        (child, ours)
    }

    /// Logs in as the user of this process and begins `command` on channel 0.
    fn log_in(&self, connection: &mut Blocking<UnixStream>, command: &str) {
        connection.send(message(msg::SERVICE_REQUEST, |m| {
            m.put_string("ssh-userauth");
        }));
        connection.expect(msg::SERVICE_ACCEPT);
        let id = Command::new("id").arg("-un").output().unwrap();
        let user = String::from_utf8(id.stdout).unwrap();
        let request = message(msg::USERAUTH_REQUEST, |m| {
            m.put_string(user.trim())
                .put_string("ssh-connection")
                .put_string("publickey")
                .put_bool(true)
                .put_string("ssh-ed25519")
                .put_string(self.user_key.public_blob());
        });
        let mut signed = Vec::new();
        signed.put_string(connection.transport.session_id());
        signed.put_raw(&request);
        let signature = self.user_key.sign(&signed).unwrap();
        let mut request = request;
        request.put_string(signature);
        connection.send(request);
        connection.expect(msg::USERAUTH_SUCCESS);
        connection.send(message(msg::CHANNEL_OPEN, |m| {
            m.put_string("session")
                .put_uint32(0)
                .put_uint32(1 << 30)
                .put_uint32(32 * 1024);
        }));
        connection.expect(msg::CHANNEL_OPEN_CONFIRMATION);
        connection.send(message(msg::CHANNEL_REQUEST, |m| {
            m.put_uint32(0)
                .put_string("exec")
                .put_bool(true)
                .put_string(command);
        }));
    }
}

/// Sends `input` through `cat` at the other end; within the 2 MiB window of sshd, so none is kept.
fn through_cat(connection: &mut Blocking<UnixStream>, input: &[u8]) -> Vec<u8> {
    for piece in input.chunks(30_000) {
        connection.send(message(msg::CHANNEL_DATA, |m| {
            m.put_uint32(0).put_string(piece);
        }));
    }
    connection.send(message(msg::CHANNEL_EOF, |m| {
        m.put_uint32(0);
    }));
    let mut output = Vec::new();
    while let Some(received) = connection.receive() {
        match received[0] {
            msg::CHANNEL_DATA => {
                output.extend_from_slice(Reader::new(&received[5..]).string().unwrap());
            }
            msg::CHANNEL_CLOSE => break,
            _ => {}
        }
    }
    output
}

#[test]
fn openssh_server() {
    if !is_installed("/usr/sbin/sshd") {
        return;
    }
    let sshd = Sshd::new();
    let input = pattern(300_000);
    for (index, (cipher, mac)) in suites().into_iter().enumerate() {
        let kex = SHARED_KEX[index % SHARED_KEX.len()];
        let host_key = Algorithm::ALL[index % Algorithm::ALL.len()];
        let compression = [Compression::ZlibDelayed, Compression::None][index % 2];
        let config = Config {
            kex: vec![kex],
            host_keys: vec![host_key],
            ciphers: vec![cipher],
            macs: vec![mac],
            compression: vec![compression],
            rekey_bytes: 100_000,
            ..Config::default()
        };
        let (mut child, stream) = sshd.start(&[
            ("RekeyLimit", "64K"),
            ("Compression", "yes"),
            ("Ciphers", cipher.name()),
            ("MACs", mac.name()),
            ("KexAlgorithms", kex.name()),
            ("HostKeyAlgorithms", host_key.name()),
        ]);
        let transport = Transport::client(config, Instant::now());
        let mut connection = Blocking::new(transport, stream);
        sshd.log_in(&mut connection, "cat");
        let output = through_cat(&mut connection, &input);
        let context = format!("{cipher:?} {mac:?} {kex:?} {host_key:?} {compression:?}");
        assert_eq!(output.len(), input.len(), "{context}");
        assert!(output == input);
        assert!(connection.rekeyed >= 3, "{context}");
        assert!(connection.transport.strict);
        assert!(
            connection
                .transport
                .peer_version()
                .starts_with("SSH-2.0-OpenSSH")
        );
        let algorithms = connection.transport.server_sig_algs().unwrap();
        assert!(
            algorithms
                .iter()
                .any(|name| name == Scheme::RsaSha512.name())
        );
        drop(connection);
        child.wait().unwrap();
    }
}
