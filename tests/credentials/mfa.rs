//! Roles that want the code of an MFA device.

use std::fs;

use crate::account::{Account, CODE, ROLES};
use crate::common::daemon::PROGRAM;
use crate::common::process::Run;
use crate::common::pty::Terminal;
use crate::common::sshd::Sshd;
use crate::common::world::user;
use crate::common::{have, until};

const QUESTION: &str = "[work] Enter MFA code for arn:aws:iam::123456789012:mfa/ann: ";
const ROLE: &str = "arn:aws:iam::123456789012:role/admin-mfa";
const LIST: [&str; 3] = ["targets", "--profile", "work"];

fn hint(profile: &str) -> String {
    format!(
        "start ssmshim on a terminal, which asks for it, or run `aws sts get-caller-identity --profile {profile}` \
         first: what the AWS CLI keeps is used"
    )
}

#[test]
fn a_code_is_asked_for_once_and_then_kept() {
    let account = Account::new(ROLES);
    let mut terminal = account.attended(&LIST, &[]);
    terminal.expect(&format!("[work] a code is needed to assume {ROLE}\r\n"));
    terminal.expect(QUESTION);
    terminal.keys(&format!("{CODE}\r"));
    let shown = terminal.expect("i-0123456789abcdef0");
    assert!(!shown.contains(CODE), "it is not shown: {shown}");
    assert_eq!(terminal.finish(), 0);
    account.until_called("DescribeInstanceInformation", "assumed-role/admin-mfa/ann");
    // The second start finds what the first has kept, and so does a role that is assumed with it.
    account.lists(&["--profile", "work"], &[]);
    account.until_calls("DescribeInstances", 2);
    assert_eq!(account.calls("AssumeRole"), 1);
    account.lists(&["--profile", "over"], &[]);
    account.until_called("AssumeRole", "assumed-role/admin-mfa/ann");
}

#[test]
fn wrong_codes_may_be_mended_twice() {
    let account = Account::new(ROLES);
    let again = "[work] that was not a code which is valid now";
    let mut terminal = account.attended(&LIST, &[]);
    for code in ["000000", "12 34"] {
        terminal.expect(QUESTION);
        terminal.keys(&format!("{code}\r"));
        terminal.expect(again);
    }
    terminal.expect(QUESTION);
    terminal.keys(&format!(" {CODE} \r"));
    terminal.expect("i-0123456789abcdef0");
    assert_eq!(terminal.finish(), 0);

    fs::remove_dir_all(account.home().join(".aws/cli")).expect("it was kept there");
    let mut terminal = account.attended(&LIST, &[]);
    for _ in 0..3 {
        terminal.expect(QUESTION);
        terminal.keys("000000\r");
    }
    terminal.expect(&format!(
        "error: role {ROLE} wants the code of MFA device arn:aws:iam::123456789012:mfa/ann: no code was right\r\n"
    ));
    terminal.expect(&format!("hint: {}", hint("work")));
    assert_eq!(terminal.finish(), 1);
}

#[test]
fn who_gives_up_is_not_asked_again() {
    let account = Account::new(ROLES);
    let mut terminal = account.attended(&LIST, &[]);
    terminal.expect(QUESTION);
    // Ctrl-D.
    terminal.keys("\x04");
    let shown = terminal.expect("nobody has typed it");
    assert!(!shown.contains("Enter MFA code"), "{shown}");
    assert_eq!(terminal.finish(), 1);
}

#[test]
fn nobody_is_asked_without_a_terminal() {
    let account = Account::new(ROLES);
    let problem = format!(
        "role {ROLE} wants the code of MFA device arn:aws:iam::123456789012:mfa/ann: no terminal to ask on"
    );
    account.refuses(&["--profile", "work"], &[], [&problem, &hint("work")]);
    account.refuses(&["--profile", "over"], &[], [&problem, &hint("over")]);
}

/// As the AWS CLI has it: keys and a role under one name are the keys, where others start from it.
#[test]
fn keys_come_before_the_role_beside_them() {
    let account = Account::new(
        "[profile work]\nrole_arn = arn:aws:iam::123456789012:role/admin-mfa\nsource_profile = both\n\
         mfa_serial = arn:aws:iam::123456789012:mfa/ann\n\
         [profile both]\naws_access_key_id = AKIDUSER\naws_secret_access_key = secret\n\
         role_arn = arn:aws:iam::123456789012:role/DENIED\nsource_profile = both\n",
    );
    let mut terminal = account.attended(&LIST, &[]);
    terminal.expect(QUESTION);
    terminal.keys(&format!("{CODE}\r"));
    terminal.expect("i-0123456789abcdef0");
    assert_eq!(terminal.finish(), 0);
    account.until_calls("DescribeInstances", 1);
    assert_eq!(account.calls("AssumeRole"), 1);
    account.until_called("AssumeRole", "user/emulator");
}

#[test]
fn no_code_is_wasted_on_a_source_that_fails() {
    let account = Account::new(
        "[profile work]\nrole_arn = arn:aws:iam::123456789012:role/admin-mfa\nsource_profile = base\n\
         mfa_serial = arn:aws:iam::123456789012:mfa/ann\n[profile base]\ncredential_process = exit 7\n",
    );
    let mut terminal = account.attended(&LIST, &[]);
    let shown =
        terminal.expect("error: the credential_process of profile `base` failed (exit status: 7)");
    assert!(!shown.contains("Enter MFA code"), "{shown}");
    assert_eq!(terminal.finish(), 1);
}

#[test]
fn ctrl_c_leaves_the_terminal_as_it_was() {
    let account = Account::new(ROLES);
    let command = format!("{PROGRAM} targets --profile work; echo ended $?; stty -a");
    let shell = ["-c".to_owned(), format!("trap true INT; {command}")];
    let mut terminal = Terminal::start_with("/bin/sh", &shell, &account.environment(&[]));
    terminal.expect(QUESTION);
    terminal.keys("\x03");
    terminal.expect("ended 130");
    let settings = terminal.expect("echonl");
    assert!(
        settings.contains(" echo ") && settings.contains("isig"),
        "{settings}"
    );
    terminal.finish();
}

/// ssh gives `connect` pipes, and has the terminal itself.
#[test]
fn a_proxy_command_asks_at_the_terminal_behind_it() {
    let account = Account::new(ROLES);
    let Some(sshd) = Sshd::start(&account.directory.path().join("sshd")) else {
        return;
    };
    let (target, port) = (account.emulator.text("target"), sshd.port);
    let pipe = account.home().join("pipe");
    let shell = format!(
        "mkfifo {pipe}; {PROGRAM} connect {target} {port} --profile work <>{pipe} 2>/dev/null | head -c 7",
        pipe = pipe.display()
    );
    let shell = ["-c".to_owned(), shell];
    let mut terminal = Terminal::start_with("/bin/sh", &shell, &account.environment(&[]));
    terminal.expect(QUESTION);
    terminal.keys(&format!("{CODE}\r"));
    terminal.expect("SSH-2.0");
    assert_eq!(terminal.finish(), 0);
}

/// A daemon whose role's time is over asks again when its session is to be resumed, and what is open goes on.
#[test]
fn a_resume_asks_again() {
    if !have("ssh") {
        return;
    }
    let account = Account::new(ROLES);
    let Some(sshd) = Sshd::start(&account.directory.path().join("sshd")) else {
        return;
    };
    let (port, identity) = (sshd.port.to_string(), sshd.identity.display().to_string());
    let (target, user) = (account.emulator.text("target"), user());
    let mut daemon = account.attended(
        &[
            "serve",
            &target,
            "--profile",
            "work",
            "--ssh-port",
            &port,
            "--user",
            &user,
            "--identity",
            &identity,
            "--listen",
            "127.0.0.1:0",
            "--hold",
            "5",
            "--log",
            "trace",
        ],
        &[],
    );
    daemon.expect(QUESTION);
    daemon.keys(&format!("{CODE}\r"));
    let mut log = daemon.expect("ready: ");
    assert!(!log.contains("Enter MFA code"), "asked once: {log}");
    log += &daemon.expect(" -p ");
    let local = daemon.expect(" ");
    let ssh = |command: &str| {
        Run::new("ssh")
            .args([
                "-p",
                local.trim(),
                "-F",
                "none",
                "-oBatchMode=yes",
                "-oIdentityAgent=none",
            ])
            .args([
                "-oStrictHostKeyChecking=no",
                "-oUserKnownHostsFile=/dev/null",
            ])
            .args(["127.0.0.1", command])
    };
    let is_open = account.home().join("is-open");
    let mut open = ssh(&format!(
        ": > {}; read line; echo got $line",
        is_open.display()
    ))
    .piped();
    until("a command that runs", || is_open.exists().then_some(()));
    log += &daemon.expect("Ctrl-C stops.");
    fs::remove_dir_all(account.home().join(".aws/cli")).expect("it was kept there");
    account.inject(
        r#"{"faults": [{"fault": "api", "operation": "ResumeSession", "answer": "expired"},
                       {"fault": "cut", "side": "client", "how": "reset"}]}"#,
    );
    log += &daemon.expect(&format!(
        "[work] the credentials of {ROLE} have expired; what is connected goes on meanwhile"
    ));
    log += &daemon.expect(QUESTION);
    let told = ssh("true").output();
    assert!(
        told.stderr
            .contains("waiting for an answer on the daemon's terminal"),
        "{told:?}"
    );
    daemon.keys(&format!("{CODE}\r"));
    let resumed = daemon.expect("resumed after");
    assert!(!resumed.contains("Enter MFA code"), "asked once: {resumed}");
    log += &resumed;
    let mut stdin = open.take_stdin();
    std::io::Write::write_all(&mut stdin, b"through\n").expect("ssh reads");
    drop(stdin);
    let stdout = open.take_stdout();
    let answer = crate::common::process::read_until(stdout, "got through");
    assert!(answer.is_some(), "{}", open.stderr());
    assert_eq!(ssh("echo works").ok().text(), "works");
    daemon.signal(rustix::process::Signal::TERM);
    log += &daemon.expect("stopping");
    assert_eq!(daemon.finish(), 0);

    assert!(
        log.contains("TRACE") || log.contains("DEBUG"),
        "there is a log: {log}"
    );
    let kept = fs::read_dir(account.home().join(".aws/cli/cache")).expect("it is kept there");
    let kept: Vec<_> = kept.map(|entry| entry.expect("an entry").path()).collect();
    let [kept] = &kept[..] else {
        panic!("{kept:?}")
    };
    let kept = fs::read_to_string(kept).expect("our own file");
    let kept: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
    let secret = |name: &str| {
        kept["Credentials"][name]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    let user = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned();
    for secret in [
        CODE.to_owned(),
        secret("SecretAccessKey"),
        secret("SessionToken"),
        user,
    ] {
        assert!(!log.contains(&secret), "{secret} is in the log");
    }
}
