//! Our server against the real ssh.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ssmshim::peer;
use ssmshim::server::access::{Access, Keys, Owner};
use ssmshim::server::authorized_keys::AuthorizedKeys;
use ssmshim::ssh::auth::server;
use ssmshim::ssh::{Error, HostKey, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::endpoint::Endpoint;
use crate::{copy_key, has, key_file, noise, public};

const DEADLINE: Duration = Duration::from_secs(60);

/// Host keys of the endpoint, one of each algorithm.
const HOST_KEYS: [&str; 2] = ["host_cert", "ecdsa_p256"];

/// A directory with what ssh needs to know the endpoint.
struct Client {
    directory: tempfile::TempDir,
    address: SocketAddr,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lines = HOST_KEYS.map(|key| {
            let key = public(&format!("{key}.pub"));
            format!("[127.0.0.1]:{} {key}\n", address.port())
        });
        std::fs::write(directory.path().join("known_hosts"), lines.concat()).unwrap();
        Self { directory, address }
    }

    /// Runs ssh with `arguments`, giving it `input` to send.
    async fn ssh(&self, arguments: &[&str], input: &[u8]) -> Output {
        let known_hosts = self.directory.path().join("known_hosts");
        let mut command = Command::new("ssh");
        command
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=yes",
            ])
            .args(["-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known_hosts.display()))
            .args(["-p", &self.address.port().to_string()])
            .args(arguments)
            .args(["somebody@127.0.0.1", "a command"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let write = async move {
            // A refused ssh does not read.
            let _ = stdin.write_all(input).await;
        };
        let run = async { tokio::join!(write, child.wait_with_output()).1 };
        tokio::time::timeout(DEADLINE, run).await.unwrap().unwrap()
    }

    /// The option to use the test key `name`.
    fn identity(&self, name: &str) -> String {
        let path = copy_key(name, self.directory.path());
        format!("-i{}", path.display())
    }
}

fn owner() -> Access {
    let us = rustix::process::getuid().as_raw();
    Access::from(Owner {
        owner: us,
        peer: Some(us),
    })
}

fn keys(lines: &str) -> Access {
    Access::from(Keys {
        authorized: Arc::new(AuthorizedKeys::parse(lines)),
    })
}

#[tokio::test]
async fn the_owner_needs_no_proof() {
    if !has("ssh") {
        return;
    }
    let endpoint = Endpoint::new().await;
    let client = Client::new(endpoint.address());
    let served = endpoint.serve(1, owner());
    let output = client.ssh(&[], b"hello").await;
    assert_eq!(output.stdout, b"hello");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(served.await.unwrap()[0].as_ref().unwrap(), "somebody");
}

#[tokio::test]
async fn the_client_chooses_among_the_host_keys() {
    if !has("ssh") {
        return;
    }
    let mut endpoint = Endpoint::new().await;
    let keys = HOST_KEYS.map(|key| {
        let text = std::fs::read_to_string(key_file(key)).unwrap();
        Arc::new(HostKey::from_openssh(&text).unwrap())
    });
    endpoint.config = ServerConfig::with_keys(keys.to_vec());
    endpoint.config.transport.rekey_bytes = 700_000;
    let client = Client::new(endpoint.address());
    let served = endpoint.serve(3, owner());
    let input = noise(2 * 1024 * 1024);
    for (option, chosen) in [
        (
            "-oHostKeyAlgorithms=ecdsa-sha2-nistp256",
            "ecdsa-sha2-nistp256",
        ),
        ("-oHostKeyAlgorithms=ssh-ed25519", "ssh-ed25519"),
        // What ssh prefers by itself.
        ("-v", "ssh-ed25519"),
    ] {
        let output = client.ssh(&["-v", option], &input).await;
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{option}: {words}");
        assert!(output.stdout == input, "{option}: {words}");
        let expected = format!("Server host key: {chosen} ");
        assert!(words.contains(&expected), "{option}: {words}");
    }
    assert!(served.await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn others_are_refused_with_a_banner() {
    if !has("ssh") {
        return;
    }
    let endpoint = Endpoint::new().await;
    let client = Client::new(endpoint.address());
    let served = endpoint.serve(
        1,
        Access::from(Owner {
            owner: 1000,
            peer: Some(1001),
        }),
    );
    let output = client.ssh(&[], b"").await;
    assert_eq!(output.status.code(), Some(255));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        words.contains("this endpoint is for uid 1000, and you are uid 1001"),
        "{words}"
    );
    assert!(words.contains("Permission denied"), "{words}");
    assert!(served.await.unwrap()[0].is_err());
}

#[tokio::test]
async fn each_kind_of_key_and_certificates_are_accepted() {
    if !has("ssh") {
        return;
    }
    let names = [
        "ed25519",
        "rsa2048",
        "rsa3072",
        "ecdsa_p256",
        "ecdsa_p384",
        "ecdsa_p521",
    ];
    let mut lines: Vec<String> = names
        .iter()
        .map(|name| public(&format!("{name}.pub")))
        .collect();
    lines.push(format!(
        "cert-authority,principals=\"tester\" {}",
        public("user_ca.pub")
    ));
    let endpoint = Endpoint::new().await;
    let client = Client::new(endpoint.address());
    let served = endpoint.serve(8, keys(&lines.join("\n")));
    for name in names.iter().chain(&["user_cert", "rsa_user_cert"]) {
        let output = client.ssh(&[&client.identity(name)], b"x").await;
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{name}: {words}");
    }
    assert!(served.await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn other_keys_are_refused() {
    if !has("ssh") {
        return;
    }
    let endpoint = Endpoint::new().await;
    let client = Client::new(endpoint.address());
    let served = endpoint.serve(2, keys(&public("ed25519.pub")));
    for name in ["rsa2048", "user_cert"] {
        let output = client.ssh(&[&client.identity(name)], b"").await;
        assert_eq!(output.status.code(), Some(255));
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.contains("Permission denied (publickey)"), "{words}");
    }
    assert!(served.await.unwrap().iter().all(Result::is_err));
}

#[tokio::test]
async fn too_many_keys_end_the_connection() {
    if !has("ssh") {
        return;
    }
    let endpoint = Endpoint::new().await;
    let client = Client::new(endpoint.address());
    let served = endpoint.serve(1, keys(""));
    let names = [
        "ed25519",
        "rsa2048",
        "rsa3072",
        "ecdsa_p256",
        "ecdsa_p384",
        "ecdsa_p521",
        "user_ca",
    ];
    let identities = names.map(|name| client.identity(name));
    let output = client
        .ssh(&identities.each_ref().map(String::as_str), b"")
        .await;
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        words.contains("too many authentication failures"),
        "{words}"
    );
    assert!(matches!(
        served.await.unwrap()[0],
        Err(Error::Client(server::Error::TooManyFailures))
    ));
}

#[tokio::test]
async fn keys_change_while_data_flows() {
    if !has("ssh") {
        return;
    }
    let input = noise(8 * 1024 * 1024);
    for rekey_bytes in [u64::MAX, 700_000] {
        let mut endpoint = Endpoint::new().await;
        endpoint.config.transport.rekey_bytes = rekey_bytes;
        let client = Client::new(endpoint.address());
        let served = endpoint.serve(1, owner());
        let output = client.ssh(&["-v", "-oRekeyLimit=1M"], &input).await;
        let words = String::from_utf8_lossy(&output.stderr);
        let changes = words.matches("set_newkeys: rekeying").count();
        assert!(changes >= 2 * 6, "{changes} key changes: {words}");
        assert!(
            output.stdout == input,
            "{} bytes, {words}",
            output.stdout.len()
        );
        assert_eq!(output.status.code(), Some(7));
        served.await.unwrap().pop().unwrap().unwrap();
    }
}

#[tokio::test]
async fn each_algorithm_in_common_works() {
    if !has("ssh") {
        return;
    }
    let options = [
        "-oKexAlgorithms=curve25519-sha256",
        "-oKexAlgorithms=ecdh-sha2-nistp256",
        "-oKexAlgorithms=ecdh-sha2-nistp384",
        "-oKexAlgorithms=ecdh-sha2-nistp521",
        "-oCiphers=aes256-gcm@openssh.com",
        "-oCiphers=chacha20-poly1305@openssh.com",
        "-oCiphers=aes128-ctr",
        "-oCiphers=aes192-ctr",
        "-oMACs=hmac-sha2-512-etm@openssh.com",
        "-oMACs=hmac-sha2-256",
        "-oMACs=hmac-sha2-512",
        "-oCompression=yes",
    ];
    let endpoint = Endpoint::new().await;
    let client = Client::new(endpoint.address());
    let served = endpoint.serve(options.len(), owner());
    let mut input = noise(300_000);
    // What compresses well comes out of step soonest.
    input.extend(b"all work and no play\n".repeat(20_000));
    for option in options {
        let mut arguments = vec![option];
        if option.starts_with("-oMACs") {
            arguments.push("-oCiphers=aes256-ctr");
        }
        let output = client.ssh(&arguments, &input).await;
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.stdout == input,
            "{option}: {} bytes, {words}",
            output.stdout.len()
        );
    }
    assert!(served.await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn the_kernel_knows_who_connects() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _client = tokio::net::TcpStream::connect(address).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let uid = peer::uid(peer, stream.local_addr().unwrap()).await.unwrap();
    assert_eq!(uid, Some(rustix::process::getuid().as_raw()));
}
