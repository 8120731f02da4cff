//! Logins that take somebody: passphrases, passwords and codes, asked for on the daemon's terminal.
//!
//! Passphrases are tried against a real sshd. Passwords and codes are not, since OpenSSH has them from the system's
//! accounts (PAM), which tests leave alone: there the far end is russh.

mod common;

use std::borrow::Cow;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use common::daemon::{Daemon, PROGRAM, aws_environment, environment, ssmshim};
use common::process::Run;
use common::pty::Terminal;
use common::sshd::{Sshd, make_key};
use common::world::user;
use common::{have, until};
use russh::keys::PrivateKey;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Response, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use rustix::process::Signal;
use tempfile::TempDir;

/// A directory, an emulator, and the port of a server that is not ours.
struct Far {
    directory: TempDir,
    emulator: Daemon,
    port: u16,
}

impl Far {
    fn new(start: impl FnOnce(&Path) -> u16) -> Self {
        Self::with_machine(r#"{ "id": "i-0123456789abcdef0" }"#, start)
    }

    /// Tells of `machine` what its JSON says.
    fn with_machine(machine: &str, start: impl FnOnce(&Path) -> u16) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("ssmshim-")
            .tempdir()
            .expect("a temporary directory");
        let machines = directory.path().join("machines.json");
        fs::write(&machines, format!("[{machine}]")).expect("our own directory");
        let machines = machines.display().to_string();
        let aws = directory.path().join("aws");
        let arguments = ["emulator", "--pacing", "off", "--instances", &machines];
        let emulator = Daemon::start(&aws, &arguments, &[]);
        let port = start(directory.path());
        Self {
            directory,
            emulator,
            port,
        }
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    fn target(&self) -> String {
        self.emulator.text("target")
    }

    fn environment(&self) -> Vec<(String, String)> {
        fs::create_dir_all(self.home()).expect("our own directory");
        let mut variables = environment(&self.home());
        variables.extend(aws_environment(&self.emulator.text("endpoint")));
        variables
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (target, port) = (self.target(), self.port.to_string());
        let first = ["serve", &target, "--ssh-port", &port];
        let listen = ["--listen", "127.0.0.1:0"];
        let all = [&first[..], &listen, more].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    /// `ssmshim serve` with somebody at its terminal.
    fn serve(&self, more: &[&str]) -> Attended {
        let terminal = Terminal::start_with(PROGRAM, &self.arguments(more), &self.environment());
        Attended {
            terminal: Some(terminal),
            port: 0,
        }
    }
}

/// A daemon on a terminal; terminated when dropped.
struct Attended {
    terminal: Option<Terminal>,
    port: u16,
}

impl Attended {
    fn terminal(&mut self) -> &mut Terminal {
        self.terminal.as_mut().expect("it runs")
    }

    fn expect(&mut self, text: &str) -> String {
        self.terminal().expect(text)
    }

    /// Waits for `question` and types `answer`.
    fn answer(&mut self, question: &str, answer: &str) {
        self.expect(question);
        self.terminal().keys(&format!("{answer}\r"));
    }

    /// Waits until ssh would work; nothing is asked before.
    fn ready(&mut self) {
        self.expect("ready: ");
        let line = self.expect("\n");
        let address = line.rsplit(" at ").next().unwrap_or_default().trim();
        let address: SocketAddr = address.parse().expect("the address of the endpoint");
        self.port = address.port();
        self.expect("Ctrl-C stops.");
    }

    fn ssh(&self, command: &str) -> Run {
        self.ssh_with(&[], command)
    }

    fn ssh_with(&self, more: &[&str], command: &str) -> Run {
        let port = self.port.to_string();
        let mut options = vec!["-p", &port, "-F", "none"];
        for option in [
            "-oIdentityAgent=none",
            "-oBatchMode=yes",
            "-oStrictHostKeyChecking=no",
            "-oUserKnownHostsFile=/dev/null",
            "-oGlobalKnownHostsFile=/dev/null",
        ] {
            options.push(option);
        }
        Run::new("ssh")
            .args(options)
            .args(more)
            .args(["127.0.0.1", command])
    }

    fn works(&self) {
        assert_eq!(self.ssh("echo works").ok().text(), "works");
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        if let Some(terminal) = self.terminal.take()
            && !std::thread::panicking()
        {
            terminal.signal(Signal::TERM);
            terminal.finish();
        }
    }
}

/// An sshd, and the key that it admits, encrypted with the passphrase `open sesame`.
struct Vault {
    far: Far,
    identity: PathBuf,
    _sshd: Sshd,
}

impl Vault {
    fn new(key_options: &[&str]) -> Option<Self> {
        if !have("ssh") {
            return None;
        }
        let mut sshd = None;
        let far = Far::new(|directory| {
            sshd = Sshd::start(&directory.join("sshd"));
            sshd.as_ref().map_or(0, |sshd| sshd.port)
        });
        let sshd = sshd?;
        let identity = sshd.identity.clone();
        Run::new("ssh-keygen")
            .args(["-q", "-p", "-P", "", "-N", "open sesame"])
            .args(key_options)
            .arg("-f")
            .arg(&identity)
            .ok();
        Some(Self {
            far,
            identity,
            _sshd: sshd,
        })
    }

    fn question(&self, path: &Path) -> String {
        format!(
            "[{}] passphrase for {}: ",
            self.far.target(),
            path.display()
        )
    }
}

#[test]
fn a_passphrase_is_asked_for_once() {
    let Some(vault) = Vault::new(&[]) else { return };
    let identity = vault.identity.display().to_string();
    let user = user();
    let mut daemon = vault.far.serve(&["--user", &user, "--identity", &identity]);
    let question = vault.question(&vault.identity);
    daemon.answer(&question, "wrong");
    daemon.expect("wrong passphrase, try again");
    daemon.answer(&question, "open sesame");
    daemon.ready();
    for _ in 0..6 {
        daemon.works();
    }
    // Nor for another user on the machine, who is not let in with it.
    let name = format!("no-such-user+{}", vault.far.target());
    let output = daemon.ssh_with(&["-l", &name], "true").output();
    assert_eq!(output.code, 255, "{output:?}");
    let screen = daemon.expect("refused user `no-such-user`: ");
    assert!(!screen.contains("passphrase"), "{screen}");
}

#[test]
fn what_is_typed_is_not_shown() {
    let Some(vault) = Vault::new(&[]) else { return };
    let identity = vault.identity.display().to_string();
    let user = user();
    let arguments = ["--user", &user, "--identity", &identity, "--log", "trace"];
    let mut daemon = vault.far.serve(&arguments);
    daemon.answer(&vault.question(&vault.identity), "open sesame");
    let shown = daemon.expect("ready: ");
    assert!(!shown.contains("sesame"), "{shown}");
    assert!(shown.contains('\n'), "the Enter key is: {shown:?}");
}

#[test]
fn a_password_is_in_no_log() {
    let foreign = Foreign::start(false);
    let far = Far::new(|_| foreign.port);
    let mut daemon = far.serve(&["--user", "alice", "--log", "trace"]);
    let question = format!("[alice on {}] password: ", far.target());
    daemon.answer(&question, "xyzzy-typo");
    let shown = daemon.expect(&question);
    daemon.terminal().keys("xyzzy-42\r");
    let shown = shown + &daemon.expect("ready: ");
    assert!(shown.contains("logged in"), "there is a log: {shown}");
    assert!(!shown.contains("xyzzy"), "{shown}");
}

#[test]
fn a_default_key_is_asked_for_too() {
    let Some(vault) = Vault::new(&[]) else { return };
    let directory = vault.far.home().join(".ssh");
    fs::create_dir_all(&directory).expect("our own directory");
    let path = directory.join("id_ed25519");
    fs::rename(&vault.identity, &path).expect("our own key");
    let mut daemon = vault.far.serve(&["--user", &user()]);
    daemon.answer(&vault.question(&path), "open sesame");
    daemon.ready();
    daemon.works();
}

#[test]
fn no_key_is_asked_for_that_the_target_does_not_want() {
    let Some(vault) = Vault::new(&[]) else { return };
    let other = vault.identity.with_file_name("other");
    Run::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-N", "never typed", "-f"])
        .arg(&other)
        .ok();
    let both = format!("{}:{}", other.display(), vault.identity.display());
    let mut daemon = vault.far.serve(&["--user", &user(), "--identity", &both]);
    daemon.answer(&vault.question(&vault.identity), "open sesame");
    daemon.ready();
}

#[test]
fn without_a_terminal_it_is_said() {
    let Some(vault) = Vault::new(&[]) else { return };
    let identity = vault.identity.display().to_string();
    let arguments = vault
        .far
        .arguments(&["--user", &user(), "--identity", &identity]);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let run = vault.far.environment().into_iter().fold(
        ssmshim(&vault.far.home(), &arguments),
        |run, (name, value)| run.env(&name, value),
    );
    let output = run.output();
    assert_eq!(output.code, 1, "{output:?}");
    for part in [
        "no terminal to ask on",
        "hint: run ssmshim on a terminal",
        "ssh-add",
    ] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
}

#[test]
fn who_gives_up_ends_the_wait() {
    let Some(vault) = Vault::new(&[]) else { return };
    let identity = vault.identity.display().to_string();
    let mut daemon = vault
        .far
        .serve(&["--user", &user(), "--identity", &identity]);
    daemon.expect(&vault.question(&vault.identity));
    // Ctrl-D.
    daemon.terminal().keys("\x04");
    daemon.expect("not answered");
    let terminal = daemon.terminal.take().expect("it runs");
    assert_eq!(terminal.finish(), 1);
}

#[test]
fn ctrl_c_stops_the_daemon_while_it_asks() {
    let Some(vault) = Vault::new(&[]) else { return };
    let identity = vault.identity.display().to_string();
    let mut daemon = vault
        .far
        .serve(&["--user", &user(), "--identity", &identity]);
    daemon.expect(&vault.question(&vault.identity));
    daemon.terminal().keys("\x03");
    let terminal = daemon.terminal.take().expect("it runs");
    assert_eq!(terminal.finish(), 0);
}

/// An ssh-agent that ends with the test.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(directory: &Path) -> Self {
        let socket = directory.join("agent");
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket);
        let process = command.stdout(Stdio::null()).spawn().expect("it starts");
        until("the agent listens", || UnixStream::connect(&socket).ok());
        Self { process, socket }
    }

    fn add(&self, key: &Path) {
        Run::new("ssh-add")
            .env("SSH_AUTH_SOCK", &self.socket)
            .arg(key)
            .ok();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The way of who starts the daemon as a service: an agent, and keys of it named by their public files.
#[test]
fn a_service_logs_in_with_the_agent() {
    let Some(vault) = Vault::new(&[]) else { return };
    if !have("ssh-agent") {
        return;
    }
    let agent = Agent::start(vault.far.directory.path());
    let keys = vault.far.directory.path().join("keys");
    fs::create_dir_all(&keys).expect("our own directory");
    // More keys than sshd gives tries.
    for index in 0..8 {
        let path = keys.join(format!("stranger{index}"));
        make_key(&path);
        agent.add(&path);
    }
    // The key that is admitted, in the clear for the agent alone.
    let plain = keys.join("plain");
    fs::copy(&vault.identity, &plain).expect("our own key");
    Run::new("ssh-keygen")
        .args(["-q", "-p", "-P", "open sesame", "-N", "", "-f"])
        .arg(&plain)
        .ok();
    agent.add(&plain);

    let mut environment = vault.far.environment();
    environment.push(("SSH_AUTH_SOCK".into(), agent.socket.display().to_string()));
    let encrypted = vault.identity.display().to_string();
    let public = format!("{encrypted}.pub");
    for identity in [&encrypted, &public] {
        let arguments = vault
            .far
            .arguments(&["--user", &user(), "--identity", identity, "--json"]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let daemon = Daemon::launch(&vault.far.home(), &arguments, &environment);
        assert_eq!(daemon.next_event()["event"], "ready");
    }
    // Without a hint which one fits, sshd hangs up first, and the remedy is named.
    let arguments = vault.far.arguments(&["--user", &user()]);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut daemon = Daemon::launch(&vault.far.home(), &arguments, &environment);
    assert_eq!(daemon.wait().0, 1);
    assert!(daemon.stderr().contains("Too many authentication failures"));
    assert!(daemon.stderr().contains("--identity FILE.pub"));
}

/// The daemon learns a key from the user's file, adds new ones to its own, and stops at another one.
#[test]
fn host_keys_are_known_from_the_files_of_openssh() {
    if !have("ssh-keygen") {
        return;
    }
    let mut sshd = None;
    let far = Far::new(|directory| {
        sshd = Sshd::start(&directory.join("sshd"));
        sshd.as_ref().map_or(0, |sshd| sshd.port)
    });
    let Some(sshd) = sshd else { return };
    let identity = sshd.identity.display().to_string();
    let user = user();
    let serve = |more: &[&str]| {
        let first = ["--user", &user, "--identity", &identity, "--json"];
        let arguments = far.arguments(&[&first, more].concat());
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Daemon::launch(&far.home(), &arguments, &far.environment())
    };
    let own = far.home().join("state/ssmshim/known_hosts");
    let of_user = far.home().join(".ssh/known_hosts");
    let name = format!("[{}]:{}", far.target(), far.port);
    let finds = |file: &Path| {
        let find = Run::new("ssh-keygen").args(["-F", &name, "-f"]).arg(file);
        find.output().code == 0
    };

    let strict = ["--strict-host-key", "yes"];
    let mut daemon = serve(&strict);
    assert_eq!(daemon.wait().0, 1);
    assert!(
        daemon.stderr().contains("is not known"),
        "{}",
        daemon.stderr()
    );
    let daemon = serve(&[]);
    assert_eq!(daemon.next_event()["event"], "ready");
    drop(daemon);
    assert!(finds(&own));
    let mode = fs::metadata(&own).expect("it was written").mode();
    assert_eq!(mode & 0o777, 0o600);

    // Hashed, and with the user alone.
    fs::create_dir_all(far.home().join(".ssh")).expect("our own directory");
    fs::rename(&own, &of_user).expect("our own file");
    Run::new("ssh-keygen").arg("-Hf").arg(&of_user).ok();
    let daemon = serve(&strict);
    assert_eq!(daemon.next_event()["event"], "ready");
    drop(daemon);
    assert!(!own.exists());

    // Somebody else, or the machine was set up anew.
    let other = far.directory.path().join("other");
    make_key(&other);
    let public = fs::read_to_string(other.with_extension("pub")).expect("ssh-keygen made it");
    fs::write(&of_user, format!("{name} {public}")).expect("our own file");
    let mut daemon = serve(&[]);
    assert_eq!(daemon.wait().0, 1);
    let remedy = format!("ssh-keygen -R '{name}' -f '{}'", of_user.display());
    for part in [&remedy, &format!("{}:1 has SHA256:", of_user.display())] {
        assert!(
            daemon.stderr().contains(part),
            "{part}: {}",
            daemon.stderr()
        );
    }
    Run::new("sh").args(["-c", &remedy]).ok();
    let daemon = serve(&[]);
    assert_eq!(daemon.next_event()["event"], "ready");
}

/// A russh server in a thread of its own: password `xyzzy-42` alone, or asked for
/// with a code that goes up with each use. With the password alone, some users may have a key.
struct Foreign {
    port: u16,
    state: Arc<State>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Who is let in with any key.
    with_key: Option<String>,
    /// Codes accepted.
    codes: AtomicUsize,
    /// Logins begun with a password or with answers.
    begun: AtomicUsize,
}

#[derive(Clone)]
struct Login {
    state: Arc<State>,
    has_password: bool,
}

impl Foreign {
    fn start(wants_code: bool) -> Self {
        let methods = if wants_code {
            MethodKind::KeyboardInteractive
        } else {
            MethodKind::Password
        };
        Self::start_with(&[methods], State::default())
    }

    fn start_with(methods: &[MethodKind], state: State) -> Self {
        let state = Arc::new(state);
        let config = Arc::new(russh::server::Config {
            keys: vec![PrivateKey::from_openssh(include_str!("../keys/host_cert")).expect("a key")],
            methods: MethodSet::from(methods),
            auth_rejection_time: std::time::Duration::ZERO,
            inactivity_timeout: None,
            ..Default::default()
        });
        let (tell, port) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let kept = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
                let listener = listener.expect("a port");
                let address = listener.local_addr().expect("it is bound");
                tell.send(address.port()).expect("somebody waits");
                let serve = async {
                    while let Ok((socket, _)) = listener.accept().await {
                        let login = Login {
                            state: Arc::clone(&state),
                            has_password: false,
                        };
                        tokio::spawn(russh::server::run_stream(
                            Arc::clone(&config),
                            socket,
                            login,
                        ));
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            port: port.recv().expect("it listens"),
            state: kept,
            _stop: stop,
        }
    }
}

impl Handler for Login {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(if self.state.with_key.as_deref() == Some(user) {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, Self::Error> {
        self.state.begun.fetch_add(1, Ordering::Relaxed);
        Ok(if password == "xyzzy-42" {
            Auth::Accept
        } else {
            Auth::Reject {
                proceed_with_methods: Some(MethodSet::from(&[MethodKind::Password][..])),
                partial_success: false,
            }
        })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let ask = |text: &'static str| Auth::Partial {
            name: Cow::Borrowed(""),
            instructions: Cow::Borrowed(""),
            prompts: Cow::Owned(vec![(Cow::Borrowed(text), false)]),
        };
        let Some(mut response) = response else {
            self.state.begun.fetch_add(1, Ordering::Relaxed);
            self.has_password = false;
            return Ok(ask("Password: "));
        };
        let answer = response.next().map(|answer| answer.to_vec());
        if !self.has_password {
            self.has_password = answer.as_deref() == Some(b"xyzzy-42");
            return Ok(if self.has_password {
                ask("Verification code: ")
            } else {
                Auth::reject()
            });
        }
        let expected = self.state.codes.load(Ordering::Relaxed).to_string();
        if answer.as_deref() != Some(expected.as_bytes()) {
            return Ok(Auth::reject());
        }
        self.state.codes.fetch_add(1, Ordering::Relaxed);
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let text = command.strip_prefix(b"echo ").unwrap_or(command).to_vec();
        session.channel_success(channel)?;
        session.data(channel, text)?;
        session.exit_status_request(channel, 0)?;
        session.eof(channel)?;
        session.close(channel)
    }
}

#[test]
fn a_password_is_asked_for_until_it_is_right_and_then_kept() {
    if !have("ssh") {
        return;
    }
    let foreign = Foreign::start(false);
    let far = Far::new(|_| foreign.port);
    let mut daemon = far.serve(&["--user", "alice"]);
    let question = format!("[alice on {}] password: ", far.target());
    daemon.answer(&question, "typo");
    daemon.answer(&question, "xyzzy-42");
    daemon.ready();
    for _ in 0..6 {
        daemon.works();
    }
    let screen = daemon.terminal().screen();
    assert!(!screen.contains("password"), "{screen}");
    assert!(foreign.state.begun.load(Ordering::Relaxed) >= 7);
}

#[test]
fn a_code_is_asked_for_each_time_and_only_for_who_waits() {
    if !have("ssh") {
        return;
    }
    let foreign = Foreign::start(true);
    let far = Far::new(|_| foreign.port);
    let mut daemon = far.serve(&["--user", "alice", "--hold", "5"]);
    let title = format!("[alice on {}]", far.target());
    let password = format!("{title} Password: ");
    let code = format!("{title} Verification code: ");
    daemon.answer(&password, "xyzzy-42");
    daemon.answer(&code, "0");
    daemon.ready();
    // That login is spare, and for the first client.
    daemon.works();
    let begun = foreign.state.begun.load(Ordering::Relaxed);
    assert_eq!(begun, 1, "no spare login was begun");

    // The next one waits for somebody: who answers is waited for.
    let mut ssh = daemon.ssh("echo second").piped();
    daemon.answer(&code, "1");
    let said = common::process::read_until(ssh.take_stdout(), "second");
    assert!(said.is_some(), "{}", ssh.stderr());
    let screen = daemon.terminal().screen();
    assert!(
        !screen.contains("Password"),
        "the password is kept: {screen}"
    );

    // Nobody answers: the client is told, and the next one can be helped.
    let output = daemon.ssh("echo third").output();
    assert_ne!(output.code, 0);
    let told = "waiting for an answer on the daemon's terminal";
    assert!(output.stderr.contains(told), "{}", output.stderr);
    daemon.expect(&code);
    let mut ssh = daemon.ssh("echo fourth").piped();
    daemon.answer(&code, "2");
    let said = common::process::read_until(ssh.take_stdout(), "fourth");
    assert!(said.is_some(), "{}", ssh.stderr());
}

/// A machine where whoever runs the test is tried first and `ubuntu` then, for it is not EC2's, and a server that
/// takes passwords, and any key of `with_key`.
fn elsewhere(with_key: Option<String>) -> (Far, Foreign, PathBuf) {
    let state = State {
        with_key,
        ..State::default()
    };
    let foreign = Foreign::start_with(&[MethodKind::PublicKey, MethodKind::Password], state);
    let machine = r#"{ "id": "mi-0123456789abcdef0", "details": { "platform_name": "Ubuntu" } }"#;
    let far = Far::with_machine(machine, |_| foreign.port);
    let identity = far.directory.path().join("key");
    make_key(&identity);
    (far, foreign, identity)
}

#[test]
fn nobody_is_asked_while_another_user_is_let_in_with_a_key() {
    if !have("ssh") {
        return;
    }
    let (far, foreign, identity) = elsewhere(Some("ubuntu".to_owned()));
    let identity = identity.display().to_string();
    let mut daemon = far.serve(&["--identity", &identity]);
    let shown = daemon.expect("ready: ");
    assert!(!shown.contains("password"), "{shown}");
    assert_eq!(foreign.state.begun.load(Ordering::Relaxed), 0);
}

#[test]
fn the_likeliest_user_is_asked_about_when_no_key_is_accepted() {
    if !have("ssh") {
        return;
    }
    let (far, _foreign, identity) = elsewhere(None);
    let identity = identity.display().to_string();
    let mut daemon = far.serve(&["--identity", &identity]);
    let question = format!("[{} on {}] password: ", user(), far.target());
    daemon.answer(&question, "xyzzy-42");
    daemon.ready();
    for _ in 0..3 {
        daemon.works();
    }
    let screen = daemon.terminal().screen();
    assert!(!screen.contains("password"), "{screen}");
}
