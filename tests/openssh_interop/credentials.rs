//! Keys of every origin against a real sshd: encrypted files of all formats, a real ssh-agent, and agents that are odd.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use russh::keys::PublicKey;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use ssmshim::ssh::credential::{AgentKeys, Authorize, Authorized, load_certificate, load_identity};
use ssmshim::ssh::person::{Answer, Answers, Inquiry, Unanswered};
use ssmshim::ssh::wire::{Reader, WriteExt as _};
use ssmshim::ssh::{Attendance, Connection, Credential, Error, Memory};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use zeroize::Zeroizing;

use crate::client::Agent;
use crate::sshd::Sshd;
use crate::{copy_key, has};

const PASSPHRASE: &str = "open sesame";

/// Types the passphrase, and counts how often.
#[derive(Default)]
struct Typist {
    asked: AtomicUsize,
}

impl Answer for Typist {
    fn answer<'a>(&'a self, _inquiry: &'a Inquiry<'a>) -> Answers<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = vec![Zeroizing::new(PASSPHRASE.to_owned())];
        Box::pin(std::future::ready(Ok(answer)))
    }
}

/// Runs a command that is to succeed, and hear and say nothing.
fn run(command: &mut Command) {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    let status = quiet.stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}");
}

fn authorize(sshd: &Sshd, line: &str) {
    use std::io::Write as _;
    let path = sshd.path().join("authorized_keys");
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    writeln!(file, "{}", line.trim_end()).unwrap();
}

/// A new key of ssh-keygen, admitted by `sshd`.
fn make_key(sshd: &Sshd, name: &str, options: &[&str], passphrase: &str) -> PathBuf {
    let path = sshd.path().join(name);
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-a", "1", "-N", passphrase])
        .args(options);
    run(command.arg("-f").arg(&path));
    let public = std::fs::read_to_string(sshd.path().join(format!("{name}.pub")));
    authorize(sshd, &public.unwrap());
    path
}

async fn log_in(
    sshd: &Sshd,
    credentials: &[Credential],
) -> Result<Connection<tokio::net::TcpStream>, Error> {
    let config = sshd.config(credentials.to_vec());
    Connection::connect(sshd.dial().await, config).await
}

/// Logs in over as many connections as it takes, by what `memory` knows.
async fn log_in_knowing(
    sshd: &Sshd,
    credentials: &[Credential],
    memory: &Memory,
) -> Result<Connection<tokio::net::TcpStream>, Error> {
    let mut config = sshd.config(credentials.to_vec());
    config.memory = memory.clone();
    let dial = async || Ok::<_, std::convert::Infallible>(sshd.dial().await);
    Connection::connect_over(dial, config)
        .await
        .unwrap_or_else(|never| match never {})
}

#[tokio::test]
async fn encrypted_keys_of_every_format_log_in() {
    let Some(sshd) = Sshd::new(&[], "") else {
        return;
    };
    if !has("ssh-keygen") || !has("openssl") {
        return;
    }
    let types: [&[&str]; 6] = [
        &["-t", "rsa", "-b", "2048"],
        &["-t", "rsa", "-b", "3072"],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "384"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "ed25519"],
    ];
    let mut keys = Vec::new();
    for (index, options) in types.iter().enumerate() {
        for format in ["RFC4716", "PEM", "PKCS8"] {
            if options[1] == "ed25519" && format != "RFC4716" {
                continue;
            }
            let options = [options, &["-m", format][..]].concat();
            keys.push(make_key(
                &sshd,
                &format!("{format}{index}"),
                &options,
                PASSPHRASE,
            ));
        }
    }
    // What OpenSSL wrote before PKCS#8.
    let (rsa, ec) = (keys[1].clone(), keys[7].clone());
    for (program, cipher, source) in [
        ("rsa", "-aes256", &rsa),
        ("rsa", "-aes192", &rsa),
        ("ec", "-aes256", &ec),
    ] {
        let path = sshd.path().join(format!("{program}{cipher}"));
        let mut command = Command::new("openssl");
        command.args([program, cipher]);
        if program == "rsa" {
            command.arg("-traditional");
        }
        let secret = format!("pass:{PASSPHRASE}");
        command.args(["-passin", &secret, "-passout", &secret]);
        run(command.arg("-in").arg(source).arg("-out").arg(&path));
        keys.push(path);
    }
    for path in keys {
        for has_public in [true, false] {
            if !has_public {
                let _ = std::fs::remove_file(format!("{}.pub", path.display()));
            }
            let typist = Arc::new(Typist::default());
            let answer: Arc<dyn Answer> = typist.clone();
            let credentials = load_identity(&path, &answer);
            let credentials = credentials.unwrap_or_else(|error| panic!("{error}"));
            for _ in 0..2 {
                let connection = log_in(&sshd, &credentials).await;
                connection.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
            assert_eq!(
                typist.asked.load(Ordering::Relaxed),
                1,
                "{}",
                path.display()
            );
        }
    }
}

#[tokio::test]
async fn nobody_is_asked_for_a_login_that_nobody_waits_for() {
    let Some(sshd) = Sshd::new(&[], "") else {
        return;
    };
    if !has("ssh-keygen") {
        return;
    }
    let path = make_key(&sshd, "key", &["-t", "ed25519"], PASSPHRASE);
    let typist = Arc::new(Typist::default());
    let answer: Arc<dyn Answer> = typist.clone();
    let mut config = sshd.config(load_identity(&path, &answer).unwrap());
    config.attendance = None;
    let refused = Connection::connect(sshd.dial().await, config.clone()).await;
    let Err(Error::AuthenticationFailed(failed)) = refused else {
        panic!("it logged in");
    };
    assert!(failed.needs_person(), "{failed}");
    assert_eq!(typist.asked.load(Ordering::Relaxed), 0);
    // With the key open, it goes without.
    config.attendance = Some(Attendance::default());
    let attended = Connection::connect(sshd.dial().await, config.clone()).await;
    assert!(!attended.unwrap().took_person(), "a passphrase fits again");
    config.attendance = None;
    Connection::connect(sshd.dial().await, config)
        .await
        .unwrap();
    assert_eq!(typist.asked.load(Ordering::Relaxed), 1);
}

fn ssh_add(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("ssh-add");
    command.env("SSH_AUTH_SOCK", socket).args(args);
    command
}

#[tokio::test]
async fn agents_that_will_not_are_passed_over() {
    let Some(sshd) = Sshd::new(&["ed25519", "rsa2048"], "") else {
        return;
    };
    let Some(agent) = Agent::start(sshd.path()).await else {
        return;
    };
    let key = copy_key("ed25519", sshd.path()).display().to_string();
    let credentials = |socket: &Path| {
        let mut credentials = vec![Credential::Agent(AgentKeys::new(socket))];
        credentials.extend(sshd.credentials("rsa2048"));
        credentials
    };
    // Of the agent, and of the file.
    let accepted = |expected| until_logged(&sshd, logins, expected);
    // Its key must be confirmed, and there is nobody who could.
    run(&mut ssh_add(&agent.socket, &["-c", &key]));
    log_in(&sshd, &credentials(&agent.socket)).await.unwrap();
    accepted((0, 1));
    // It is locked, and so has no keys.
    run(&mut ssh_add(&agent.socket, &["-D"]));
    run(&mut ssh_add(&agent.socket, &[&key]));
    let ask = sshd.path().join("ask");
    std::fs::write(&ask, "#!/bin/sh\necho lock\n").unwrap();
    run(Command::new("chmod").arg("700").arg(&ask));
    run(ssh_add(&agent.socket, &["-x"])
        .env("SSH_ASKPASS", &ask)
        .env("SSH_ASKPASS_REQUIRE", "force"));
    log_in(&sshd, &credentials(&agent.socket)).await.unwrap();
    accepted((0, 2));
    run(ssh_add(&agent.socket, &["-X"])
        .env("SSH_ASKPASS", &ask)
        .env("SSH_ASKPASS_REQUIRE", "force"));
    log_in(&sshd, &credentials(&agent.socket)).await.unwrap();
    accepted((1, 2));
    // It takes connections and says nothing: not for as long as a login may take.
    let silent = sshd.path().join("silent");
    let _listener = UnixListener::bind(&silent).unwrap();
    log_in(&sshd, &credentials(&silent)).await.unwrap();
    // It is no agent.
    log_in(&sshd, &credentials(&sshd.path().join("config")))
        .await
        .unwrap();
    accepted((1, 4));
}

/// An agent with keys that no server knows.
async fn agent_of_strangers(sshd: &Sshd, count: usize) -> Option<Agent> {
    let agent = Agent::start(sshd.path()).await?;
    for index in 0..count {
        let path = sshd.path().join(format!("stranger{index}"));
        let mut command = Command::new("ssh-keygen");
        run(command
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&path));
        run(&mut ssh_add(&agent.socket, &[&path.display().to_string()]));
    }
    Some(agent)
}

/// How often an Ed25519 key was accepted, and how often an RSA key.
fn logins(sshd: &Sshd) -> (usize, usize) {
    let log = sshd.log();
    let count = |key| {
        let is_meant = |line: &&str| line.contains("Accepted publickey") && line.contains(key);
        log.lines().filter(is_meant).count()
    };
    (count("ED25519"), count("RSA"))
}

/// How often a key was refused, and how often a connection was ended for it.
fn refusals(sshd: &Sshd) -> (usize, usize) {
    let log = sshd.log();
    let count = |words| log.matches(words).count();
    (
        count("Failed publickey"),
        count("Too many authentication failures"),
    )
}

/// Waits for [`refusals`] to be `expected`.
fn refused(sshd: &Sshd, expected: (usize, usize)) {
    until_logged(sshd, refusals, expected);
}

/// Waits until the log shows `expected`: a process of sshd logs what another one has told us, a little later.
fn until_logged(sshd: &Sshd, shown: impl Fn(&Sshd) -> (usize, usize), expected: (usize, usize)) {
    let log = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .expect("inotify");
    inotify::add_watch(&log, sshd.log_file(), inotify::WatchFlags::MODIFY).expect("a log");
    let minute = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    while shown(sshd) != expected {
        let mut written = [PollFd::new(&log, PollFlags::IN)];
        let count = poll(&mut written, Some(&minute)).expect("the log is waited for");
        assert!(count > 0, "{:?}", shown(sshd));
        // Only the news; what was written is read next.
        let _news = rustix::io::read(&log, &mut [0; 4096]);
    }
}

#[tokio::test]
async fn more_keys_than_tries_cost_connections_once() {
    let Some(sshd) = Sshd::new(&[], "") else {
        return;
    };
    let Some(agent) = agent_of_strangers(&sshd, 12).await else {
        return;
    };
    let right = make_key(&sshd, "right", &["-t", "ed25519"], "");
    run(&mut ssh_add(&agent.socket, &[&right.display().to_string()]));
    let keys = [Credential::Agent(AgentKeys::new(&agent.socket))];
    let memory = Memory::default();
    // Twelve that are refused use up two connections.
    log_in_knowing(&sshd, &keys, &memory).await.unwrap();
    refused(&sshd, (12, 2));
    log_in_knowing(&sshd, &keys, &memory).await.unwrap();
    assert_eq!(refusals(&sshd), (12, 2), "the right one is first now");

    // On one connection who does not know yet has no chance, and a way out.
    let error = log_in(&sshd, &keys).await.unwrap_err();
    assert!(error.to_string().contains("Too many"), "{error}");
    assert!(error.hint().unwrap().contains("--identity FILE.pub"));
    let public = std::fs::read_to_string(right.with_extension("pub")).unwrap();
    let public = PublicKey::from_openssh(&public).unwrap();
    let first = AgentKeys::new(&agent.socket).only(&public);
    let keys = [Credential::Agent(first), keys[0].clone()];
    log_in(&sshd, &keys).await.unwrap();
}

#[tokio::test]
async fn keys_without_end_are_not_tried_without_end() {
    let Some(sshd) = Sshd::new(&[], "MaxAuthTries 2") else {
        return;
    };
    let Some(agent) = agent_of_strangers(&sshd, 9).await else {
        return;
    };
    let keys = [Credential::Agent(AgentKeys::new(&agent.socket))];
    let error = log_in_knowing(&sshd, &keys, &Memory::default()).await;
    let error = error.unwrap_err();
    refused(&sshd, (8, 4));
    assert_eq!(error.to_string().matches("(refused)").count(), 9, "{error}");
    assert!(error.hint().unwrap().contains("--identity FILE.pub"));
}

/// What EC2 Instance Connect does: the server takes the key from now on.
struct Pusher {
    authorized_keys: PathBuf,
    pushed: AtomicUsize,
}

impl Authorize for Pusher {
    fn name(&self) -> &str {
        "of a pusher"
    }

    fn authorize<'a>(&'a self, _user: &'a str, key: &'a PublicKey) -> Authorized<'a> {
        self.pushed.fetch_add(1, Ordering::Relaxed);
        let line = key.to_openssh().unwrap();
        std::fs::write(&self.authorized_keys, line + "\n").unwrap();
        Box::pin(std::future::ready(true))
    }
}

#[tokio::test]
async fn a_pushed_key_does_not_wait_for_a_full_agent() {
    // As hardening guides have it.
    let Some(sshd) = Sshd::new(&[], "MaxAuthTries 4") else {
        return;
    };
    let Some(agent) = agent_of_strangers(&sshd, 12).await else {
        return;
    };
    let pusher = Arc::new(Pusher {
        authorized_keys: sshd.path().join("authorized_keys"),
        pushed: AtomicUsize::new(0),
    });
    let memory = Memory::default();
    let keys = [
        Credential::Agent(AgentKeys::new(&agent.socket)),
        Credential::Ephemeral(pusher.clone()),
    ];
    log_in_knowing(&sshd, &keys, &memory).await.unwrap();
    refused(&sshd, (3, 0));
    // A new key each time, and nothing before it.
    log_in_knowing(&sshd, &keys, &memory).await.unwrap();
    assert_eq!(refusals(&sshd), (3, 0));
    assert_eq!(pusher.pushed.load(Ordering::Relaxed), 2);
    // What somebody has named keeps its place.
    let mut named = sshd.credentials("rsa2048");
    named.extend(keys.clone());
    log_in_knowing(&sshd, &named, &Memory::default())
        .await
        .unwrap();
    // The one named, and two strangers.
    refused(&sshd, (6, 0));
    let log = sshd.log();
    let failed = |line: &&str| line.contains("Failed publickey");
    let fourth = log.lines().filter(failed).nth(3);
    assert!(fourth.is_some_and(|line| line.contains("RSA")), "{log}");
}

#[tokio::test]
async fn certificates_that_the_agent_does_not_hold_log_in() {
    // The plain keys are not authorized.
    let Some(sshd) = Sshd::new(&[], "") else {
        return;
    };
    let Some(agent) = Agent::start(sshd.path()).await else {
        return;
    };
    let authority = copy_key("user_ca", sshd.path());
    for name in ["user_cert", "rsa_user_cert"] {
        let path = copy_key(name, sshd.path());
        let beside = sshd.path().join(format!("{name}-cert.pub"));
        let elsewhere = sshd.path().join("certificate");
        std::fs::rename(&beside, &elsewhere).unwrap();
        run(&mut ssh_add(&agent.socket, &[&path.display().to_string()]));
        let good = std::fs::read(&elsewhere).unwrap();
        let public = sshd.path().join(format!("{name}.pub"));
        let expired = ["-q", "-I", "old", "-n", "tester", "-V", "20200101:20200102"];
        let mut sign = Command::new("ssh-keygen");
        run(sign.args(expired).arg("-s").arg(&authority).arg(&public));
        std::fs::rename(&beside, &elsewhere).unwrap();

        let certificate = load_certificate(&elsewhere).unwrap();
        let keys = AgentKeys::new(&agent.socket).certified(certificate);
        let keys = [Credential::Agent(keys)];
        assert!(log_in(&sshd, &keys).await.is_err(), "it has expired");
        std::fs::write(&elsewhere, good).unwrap();
        log_in(&sshd, &keys).await.unwrap();
    }
}

/// An agent with a security key made of software, a key of a type that nobody knows, and comments that are no text.
struct Token {
    pair: Ed25519KeyPair,
    blob: Vec<u8>,
}

const SK_TYPE: &str = "sk-ssh-ed25519@openssh.com";

impl Token {
    fn new() -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let mut blob = Vec::new();
        blob.put_string(SK_TYPE)
            .put_string(pair.public_key().as_ref())
            .put_string("ssh:");
        Self { pair, blob }
    }

    fn line(&self) -> String {
        let encoded = base64::engine::general_purpose::STANDARD.encode(&self.blob);
        format!("{SK_TYPE} {encoded} token")
    }

    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        if request == [11] {
            let mut unknown = Vec::new();
            unknown.put_string("unknown@example").put_string("key");
            answer.put_byte(12).put_uint32(2);
            answer.put_string(&unknown[..]).put_string(&b"\xff"[..]);
            answer.put_string(&self.blob[..]).put_string(&b"\xfe"[..]);
            return answer;
        }
        let mut reader = Reader::new(&request[1..]);
        assert_eq!(reader.string().unwrap(), self.blob);
        let data = reader.string().unwrap();
        // PROTOCOL.u2f: somebody was present, and the counter.
        let trailer = [1, 0, 0, 0, 9];
        let mut signed = digest(&SHA256, b"ssh:").as_ref().to_vec();
        signed.extend_from_slice(&trailer);
        signed.extend_from_slice(digest(&SHA256, data).as_ref());
        let mut signature = Vec::new();
        signature
            .put_string(SK_TYPE)
            .put_string(self.pair.sign(&signed).as_ref());
        signature.extend_from_slice(&trailer);
        answer.put_byte(14).put_string(&signature[..]);
        answer
    }

    async fn serve(&self, mut client: UnixStream) {
        while let Ok(length) = client.read_u32().await {
            let mut request = vec![0; length as usize];
            client.read_exact(&mut request).await.unwrap();
            let answer = self.answer(&request);
            client.write_u32(answer.len() as u32).await.unwrap();
            client.write_all(&answer).await.unwrap();
        }
    }
}

#[tokio::test]
async fn security_keys_sign_through_their_agent_and_for_who_waits() {
    let Some(sshd) = Sshd::new(&[], "") else {
        return;
    };
    let token = Token::new();
    authorize(&sshd, &token.line());
    let socket = sshd.path().join("token");
    let listener = UnixListener::bind(&socket).unwrap();
    let serve = async {
        while let Ok((client, _)) = listener.accept().await {
            token.serve(client).await;
        }
    };
    let log_in = async {
        let mut config = sshd.config(vec![Credential::Agent(AgentKeys::new(&socket))]);
        let connection = Connection::connect(sshd.dial().await, config.clone()).await;
        assert!(connection.unwrap().took_person(), "a touch");
        config.attendance = None;
        let unattended = Connection::connect(sshd.dial().await, config).await;
        let Err(Error::AuthenticationFailed(failed)) = unattended else {
            panic!("somebody was asked to touch it");
        };
        assert!(failed.needs_person(), "{failed}");
        assert!(failed.to_string().contains(SK_TYPE), "{failed}");
        let waits_for_nobody = Unanswered::Unattended.to_string();
        assert!(failed.to_string().contains(&waits_for_nobody), "{failed}");
    };
    tokio::select! {
        () = serve => panic!("the agent ended"),
        () = log_in => {}
    }
}
