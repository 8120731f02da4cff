//! Our client against a real sshd.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use ssmshim::ssh::auth::client::Outcome;
use ssmshim::ssh::credential::AgentKeys;
use ssmshim::ssh::host_key;
use ssmshim::ssh::known_hosts::{KnownHosts, Mode};
use ssmshim::ssh::transport::algorithm::{Cipher, Compression, Kex, Mac, Named as _};
use ssmshim::ssh::{Connection, Credential, Error, HostKeyError, Phase, PinnedKey};

use crate::channel::exec;
use crate::sshd::{Sshd, blob_of};
use crate::{copy_key, has, noise, public};

/// Algorithms of one kind that OpenSSH here knows (`ssh -Q kind`).
fn known_to_openssh(kind: &str) -> Vec<String> {
    let list = Command::new("ssh").args(["-Q", kind]).output().unwrap();
    let text = String::from_utf8(list.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn each_kind_of_key_logs_in() {
    let keys = [
        "ed25519",
        "rsa2048",
        "rsa3072",
        "ecdsa_p256",
        "ecdsa_p384",
        "ecdsa_p521",
    ];
    let Some(sshd) = Sshd::new(&keys, "") else {
        return;
    };
    for key in keys {
        let mut connection = sshd
            .log_in(key)
            .await
            .unwrap_or_else(|error| panic!("{key}: {error}"));
        let output = exec(&mut connection, "echo hello; exit 7", b"").await;
        assert_eq!(
            (output.stdout.as_slice(), output.status),
            (&b"hello\n"[..], Some(7))
        );
        assert!(connection.peer_version().contains("OpenSSH"));
        connection.close().await;
    }
}

#[tokio::test]
async fn certificates_log_in() {
    // The plain keys are not authorized: only the certificates can have done it.
    let Some(sshd) = Sshd::new(&[], "") else {
        return;
    };
    for key in ["user_cert", "rsa_user_cert"] {
        let mut connection = sshd.log_in(key).await.unwrap();
        assert_eq!(exec(&mut connection, "echo", b"").await.status, Some(0));
    }
}

/// An ssh-agent that ends with the test.
pub(crate) struct Agent {
    process: Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    /// Starts one with its socket in `directory`; none where there is no ssh-agent. Nobody can be
    /// asked to confirm the use of a key.
    pub(crate) async fn start(directory: &Path) -> Option<Self> {
        if !has("ssh-agent") {
            return None;
        }
        let socket = directory.join("agent");
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        agent.env("SSH_ASKPASS", "/bin/false");
        let process = agent.spawn().unwrap();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            tokio::task::yield_now().await;
        }
        Some(Self { process, socket })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn keys_of_an_agent_log_in() {
    let keys = ["rsa2048", "ecdsa_p384"];
    let Some(sshd) = Sshd::new(&keys, "") else {
        return;
    };
    let Some(agent) = Agent::start(sshd.path()).await else {
        return;
    };
    let socket = &agent.socket;
    // The first is not authorized; `user_cert` brings its certificate.
    for added in [&["ed25519", "rsa2048"][..], &["ecdsa_p384"], &["user_cert"]] {
        let agent_command = |program: &str| {
            let mut command = Command::new(program);
            command.env("SSH_AUTH_SOCK", socket).stderr(Stdio::null());
            command
        };
        assert!(
            agent_command("ssh-add")
                .arg("-D")
                .status()
                .unwrap()
                .success()
        );
        for key in added {
            let path = copy_key(key, sshd.path());
            assert!(
                agent_command("ssh-add")
                    .arg(path)
                    .status()
                    .unwrap()
                    .success()
            );
        }
        let credential = Credential::Agent(AgentKeys::new(socket));
        let config = sshd.config(vec![credential]);
        let mut connection = Connection::connect(sshd.dial().await, config)
            .await
            .unwrap();
        assert_eq!(exec(&mut connection, "true", b"").await.status, Some(0));
    }
    // An agent that is gone is passed over.
    let nothing = AgentKeys::new(sshd.path().join("nothing"));
    let mut credentials = vec![Credential::Agent(nothing)];
    credentials.extend(sshd.credentials("rsa2048"));
    let config = sshd.config(credentials);
    Connection::connect(sshd.dial().await, config)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_wrong_key_is_said() {
    let Some(sshd) = Sshd::new(&["ed25519"], "") else {
        return;
    };
    let error = sshd.log_in("rsa2048").await.unwrap_err();
    let hint = error.hint().unwrap();
    let Error::AuthenticationFailed(failed) = error else {
        panic!("{error}");
    };
    assert_eq!(failed.methods_left, ["publickey"]);
    assert_eq!(failed.tried.len(), 2);
    assert_eq!(failed.tried[1].outcome, Outcome::Refused);
    assert!(
        failed.to_string().contains("rsa2048 ssh-rsa SHA256:"),
        "{failed}"
    );
    assert!(hint.contains("authorized_keys"), "{hint}");
}

#[tokio::test]
async fn too_many_keys_are_said() {
    let Some(sshd) = Sshd::new(&["ed25519"], "MaxAuthTries 2") else {
        return;
    };
    let credentials = ["rsa2048", "ecdsa_p256", "ecdsa_p384", "ed25519"]
        .iter()
        .flat_map(|key| sshd.credentials(key))
        .collect();
    let config = sshd.config(credentials);
    let error = Connection::connect(sshd.dial().await, config)
        .await
        .unwrap_err();
    let Error::AuthenticationFailed(failed) = error else {
        panic!("{error}");
    };
    assert!(
        failed
            .to_string()
            .contains("Too many authentication failures"),
        "{failed}"
    );
}

#[tokio::test]
async fn banners_are_collected() {
    let Some(sshd) = Sshd::new(&["ed25519"], "") else {
        return;
    };
    let banner = sshd.path().join("banner");
    std::fs::write(&banner, "Welcome,\nstranger\n").unwrap();
    let config = sshd.path().join("config");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("Banner {}\n{text}", banner.display())).unwrap();
    let connection = sshd.log_in("ed25519").await.unwrap();
    assert_eq!(connection.banners(), ["Welcome,\nstranger\n"]);
}

#[tokio::test]
async fn each_algorithm_in_common_works() {
    let Some(sshd) = Sshd::new(&["ed25519"], "") else {
        return;
    };
    if !has("ssh") {
        return;
    }
    let base = sshd.config(sshd.credentials("ed25519"));
    let mut cases = Vec::new();
    let known = known_to_openssh("kex");
    for kex in Kex::ALL
        .iter()
        .filter(|kex| known.iter().any(|name| name == kex.name()))
    {
        let mut config = base.clone();
        config.transport.kex = vec![*kex];
        cases.push((kex.name(), config));
    }
    let known = known_to_openssh("cipher");
    for cipher in Cipher::ALL
        .iter()
        .filter(|cipher| known.iter().any(|name| name == cipher.name()))
    {
        let mut config = base.clone();
        config.transport.ciphers = vec![*cipher];
        cases.push((cipher.name(), config));
    }
    for mac in Mac::ALL {
        let mut config = base.clone();
        config.transport.ciphers = vec![Cipher::Aes256Ctr];
        config.transport.macs = vec![*mac];
        cases.push((mac.name(), config));
    }
    let mut config = base.clone();
    config.transport.compression = vec![Compression::ZlibDelayed];
    cases.push((Compression::ZlibDelayed.name(), config));
    assert!(cases.len() > 12, "OpenSSH lists its algorithms");

    let mut input = noise(300_000);
    // What compresses well comes out of step soonest.
    input.extend(b"all work and no play\n".repeat(20_000));
    for (name, config) in cases {
        let connection = Connection::connect(sshd.dial().await, config).await;
        let mut connection = connection.unwrap_or_else(|error| panic!("{name}: {error}"));
        let output = exec(&mut connection, "cat", &input).await;
        assert!(
            output.stdout == input,
            "{name}: {} bytes",
            output.stdout.len()
        );
        assert_eq!(output.status, Some(0), "{name}");
    }
}

#[tokio::test]
async fn each_kind_of_host_key_is_verified() {
    let Some(sshd) = Sshd::new(&["ed25519"], "") else {
        return;
    };
    let cases = [
        ("ssh-ed25519", "host_cert.pub"),
        ("rsa-sha2-256", "rsa3072.pub"),
        ("rsa-sha2-512", "rsa3072.pub"),
        ("ecdsa-sha2-nistp256", "ecdsa_p256.pub"),
        ("ecdsa-sha2-nistp384", "ecdsa_p384.pub"),
        ("ecdsa-sha2-nistp521", "ecdsa_p521.pub"),
        ("ssh-ed25519-cert-v01@openssh.com", "host_cert-cert.pub"),
    ];
    for (algorithm, key) in cases {
        let mut config = sshd.config(sshd.credentials("ed25519"));
        let known = host_key::Algorithm::from_name(algorithm.as_bytes()).unwrap();
        config.transport.host_keys = vec![known];
        config.verifier = Arc::new(PinnedKey::new(blob_of(&public(key))));
        let connection = Connection::connect(sshd.dial().await, config).await;
        connection.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
    }
}

#[tokio::test]
async fn known_hosts_pin_the_target() {
    let Some(sshd) = Sshd::new(&["ed25519"], "") else {
        return;
    };
    let file = sshd.path().join("known_hosts");
    let name = "i-0123456789abcdef0";
    let connect = async |mode| {
        let mut config = sshd.config(sshd.credentials("ed25519"));
        config.verifier = Arc::new(KnownHosts::new(vec![file.clone()], name, mode));
        Connection::connect(sshd.dial().await, config).await
    };
    let error = connect(Mode::Yes).await.unwrap_err();
    assert!(
        matches!(error, Error::HostKey(HostKeyError::Unknown { .. })),
        "{error}"
    );
    connect(Mode::AcceptNew).await.unwrap();
    connect(Mode::Yes).await.unwrap();
    // ssh-keygen agrees on what was written.
    if has("ssh-keygen") {
        let mut find = Command::new("ssh-keygen");
        find.args(["-F", name, "-f"]).arg(&file);
        assert!(find.stdout(Stdio::null()).status().unwrap().success());
    }
    // The known type is asked for, though it is not the first in our list.
    std::fs::write(&file, format!("{name} {}\n", public("rsa3072.pub"))).unwrap();
    connect(Mode::Yes).await.unwrap();
    std::fs::write(&file, format!("{name} {}\n", public("rsa2048.pub"))).unwrap();
    let error = connect(Mode::AcceptNew).await.unwrap_err();
    assert!(
        matches!(error, Error::HostKey(HostKeyError::Changed { .. })),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("ssh-keygen -R"));
    // An authority vouches for the certificate.
    std::fs::write(
        &file,
        format!("@cert-authority * {}\n", public("host_ca.pub")),
    )
    .unwrap();
    connect(Mode::Yes).await.unwrap();
}

#[tokio::test]
async fn keys_change_while_data_flows() {
    // Both ends ask for it: sshd after 1 MiB, we after 700 kB.
    let Some(sshd) = Sshd::new(&["ed25519"], "RekeyLimit 1M\nLogLevel DEBUG1") else {
        return;
    };
    let input = noise(8 * 1024 * 1024);
    for rekey_bytes in [u64::MAX, 700_000] {
        let mut config = sshd.config(sshd.credentials("ed25519"));
        config.transport.rekey_bytes = rekey_bytes;
        let mut connection = Connection::connect(sshd.dial().await, config)
            .await
            .unwrap();
        let output = exec(&mut connection, "cat", &input).await;
        assert!(output.stdout == input, "{} bytes", output.stdout.len());
        assert_eq!(output.status, Some(0));
    }
    // Twice 8 MiB went through, and each direction says so.
    let changes = sshd.log().matches("set_newkeys: rekeying").count();
    assert!(changes >= 2 * 2 * 6, "{changes} key changes");
}

#[tokio::test]
async fn compression_survives_key_changes() {
    let Some(sshd) = Sshd::new(&["ed25519"], "RekeyLimit 1M") else {
        return;
    };
    let mut config = sshd.config(sshd.credentials("ed25519"));
    config.transport.compression = vec![Compression::ZlibDelayed];
    let mut connection = Connection::connect(sshd.dial().await, config)
        .await
        .unwrap();
    let mut input = noise(2 * 1024 * 1024);
    input.extend(b"all work and no play\n".repeat(100_000));
    let output = exec(&mut connection, "cat", &input).await;
    assert!(output.stdout == input, "{} bytes", output.stdout.len());
}

#[tokio::test]
async fn a_port_without_sshd_is_said() {
    use tokio::io::AsyncWriteExt as _;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cases: [(&[u8], &str); 4] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak SSH"),
        // As an sshd says it that has enough clients.
        (b"Exceeded MaxStartups\r\n", "it said: Exceeded MaxStartups"),
        (b"", "connection closed during the SSH key exchange"),
        (
            b"SSH-2.0-x\r\n",
            "connection closed during the SSH key exchange",
        ),
    ];
    for (greeting, expected) in cases {
        let verifier = Arc::new(PinnedKey::new(*b"none"));
        let config = ssmshim::ssh::ClientConfig::new("nobody", verifier);
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let login = tokio::spawn(Connection::connect(stream, config));
        server.write_all(greeting).await.unwrap();
        server.shutdown().await.unwrap();
        // Read what it says, so that closing does not reset the connection.
        let _ = tokio::io::copy(&mut server, &mut tokio::io::sink()).await;
        let error = login.await.unwrap().unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.hint().unwrap().contains("SSH server"));
        if let Error::ConnectionLost { phase } = error {
            assert_eq!(phase, Phase::KeyExchange);
        }
    }
}
