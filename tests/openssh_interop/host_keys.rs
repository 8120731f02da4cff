//! Host keys: what we read and write, judged by ssh-keygen, and the choice among a real sshd's keys.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ssmshim::ssh::known_hosts::{KnownHosts, Mode};
use ssmshim::ssh::verifier::HostKeyVerifier as _;
use ssmshim::ssh::{Connection, Error, HostKeyError};

use crate::sshd::{Sshd, blob_of};
use crate::{copy_key, has, public};

const TARGET: &str = "i-0123456789abcdef0";

fn ssh_keygen(args: &[&str], file: &Path) -> std::process::Output {
    let mut command = Command::new("ssh-keygen");
    command.args(args).arg("-f").arg(file);
    command.stdin(Stdio::null()).output().unwrap()
}

/// Whether ssh-keygen finds a key of `name`.
fn finds(name: &str, file: &Path) -> bool {
    let found = ssh_keygen(&["-F", name], file);
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    // It lists revoked keys and authorities too.
    text.lines()
        .any(|line| !line.starts_with('#') && !line.starts_with('@'))
}

#[test]
fn names_are_found_as_ssh_keygen_finds_them() {
    if !has("ssh-keygen") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known_hosts");
    let key = public("ed25519.pub");
    let lists = [
        "host",
        "HOST",
        "a,host,b",
        "h?st",
        "h*",
        "*",
        "*,!host",
        "!host,*",
        "!other,h*t",
        "!other",
        "[host]:2022",
        "[host]:22",
        "[*]:2022",
        "*.example,host.example",
        "i-0123456789abcdef0,web-1",
        "@cert-authority host",
        "@revoked host",
        "# host",
        "|1|bad|worse",
        "|1|",
        ",",
        ",host",
    ];
    let names = [
        "host",
        "Host",
        "[host]:2022",
        "a.example",
        "host.example",
        "web-1",
        "b",
        "x",
    ];
    let mut hashed_too = 0;
    for list in lists {
        for is_hashed in [false, true] {
            std::fs::write(&file, format!("{list} {key}\n")).unwrap();
            if is_hashed && !ssh_keygen(&["-H"], &file).status.success() {
                continue;
            }
            for name in names {
                let (plain, port) = match name.strip_prefix('[') {
                    Some(_) => ("host", 2022),
                    None => (name, 22),
                };
                let known = KnownHosts::new(vec![file.clone()], plain, Mode::Yes).on_port(port);
                let is_known = known.verify(&blob_of(&key)).is_ok();
                // The fallback to a name without port is ssh's, not ssh-keygen's.
                // It hashes a name as it is given; ssh gives it in lower case.
                let name = name.to_ascii_lowercase();
                let is_found = finds(&name, &file) || (port != 22 && finds(plain, &file));
                let text = std::fs::read_to_string(&file).unwrap();
                let revoked = list.starts_with("@revoked") && name == "host";
                assert_eq!(is_known, is_found && !revoked, "{name} in {text}");
                hashed_too += usize::from(is_found && text.starts_with("|1|"));
            }
        }
    }
    assert!(hashed_too > 8, "hashed names were found: {hashed_too}");
}

#[test]
fn what_is_written_is_found_and_removed_by_the_command_given() {
    if !has("ssh-keygen") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("it's known");
    let known = |mode| {
        KnownHosts::new(vec![file.clone()], TARGET, mode)
            .also_named("web-1")
            .on_port(2022)
    };
    let (old, new) = (public("ed25519.pub"), public("rsa2048.pub"));
    for is_hashed in [false, true] {
        let _ = std::fs::remove_file(&file);
        known(Mode::AcceptNew).verify(&blob_of(&old)).unwrap();
        for name in [TARGET, "web-1"] {
            assert!(finds(&format!("[{name}]:2022"), &file), "{name}");
            assert!(!finds(name, &file), "{name}");
        }
        if is_hashed {
            assert!(ssh_keygen(&["-H"], &file).status.success());
            known(Mode::Yes).verify(&blob_of(&old)).unwrap();
        }
        let changed = known(Mode::AcceptNew).verify(&blob_of(&new)).unwrap_err();
        let fingerprint = |name: &str| {
            let path = copy_key(name, directory.path());
            let listed = ssh_keygen(&["-l"], &path.with_extension("pub"));
            let text = String::from_utf8(listed.stdout).unwrap();
            text.split_whitespace().nth(1).unwrap().to_owned()
        };
        for part in [fingerprint("ed25519"), fingerprint("rsa2048")] {
            assert!(changed.to_string().contains(&part), "{changed}");
        }
        // To the letter, as somebody would paste it.
        let hint = changed.hint().unwrap();
        let command = &hint[hint.find("ssh-keygen").unwrap()..];
        let mut shell = Command::new("sh");
        shell.args(["-ec", command]).stderr(Stdio::null());
        assert!(shell.stdout(Stdio::null()).status().unwrap().success());
        known(Mode::AcceptNew).verify(&blob_of(&new)).unwrap();
        known(Mode::Yes).verify(&blob_of(&new)).unwrap();
    }
}

#[tokio::test]
async fn the_key_that_is_known_is_asked_for() {
    let Some(sshd) = Sshd::new(&["ed25519"], "") else {
        return;
    };
    let file = sshd.path().join("known_hosts");
    let system = sshd.path().join("ssh_known_hosts");
    for key in [
        "rsa3072",
        "ecdsa_p256",
        "ecdsa_p384",
        "ecdsa_p521",
        "host_cert",
    ] {
        for holder in [&file, &system] {
            let _ = std::fs::remove_file(&file);
            let _ = std::fs::remove_file(&system);
            let line = format!("{TARGET} {}\n", public(&format!("{key}.pub")));
            std::fs::write(holder, &line).unwrap();
            let mut config = sshd.config(sshd.credentials("ed25519"));
            let files = vec![file.clone(), system.clone()];
            config.verifier = Arc::new(KnownHosts::new(files, TARGET, Mode::AcceptNew));
            let connection = Connection::connect(sshd.dial().await, config).await;
            connection.unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(std::fs::read_to_string(holder).unwrap(), line, "{key}");
        }
    }
}

/// Certifies the host key of `sshd` with options of ssh-keygen, and says what comes of it.
async fn certified(options: &[&str], line: &str) -> Option<Result<(), Error>> {
    if !has("ssh-keygen") {
        return None;
    }
    let sshd = Sshd::new(&["ed25519"], "")?;
    let authority = copy_key("host_ca", sshd.path());
    let authority = authority.display().to_string();
    let key = sshd.path().join("host_cert.pub");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-s", &authority, "-I", "test"]);
    let made = command.args(options).arg(key).status().unwrap();
    assert!(made.success(), "{options:?}");
    let file = sshd.path().join("known_hosts");
    std::fs::write(&file, line).unwrap();
    let mut config = sshd.config(sshd.credentials("ed25519"));
    config.verifier = Arc::new(KnownHosts::new(vec![file], TARGET, Mode::AcceptNew));
    let connection = Connection::connect(sshd.dial().await, config).await;
    Some(connection.map(drop))
}

#[tokio::test]
async fn host_certificates_are_judged_as_by_openssh() {
    let trusted = format!("@cert-authority i-* {}\n", public("host_ca.pub"));
    let accepted: [&[&str]; 4] = [
        &["-h", "-n", TARGET],
        &["-h", "-n", "other,I-0123456789ABCDEF0"],
        &["-h", "-n", "i-*"],
        &["-h", "-n", TARGET, "-V", "-1h:+1h"],
    ];
    for options in accepted {
        let Some(result) = certified(options, &trusted).await else {
            return;
        };
        result.unwrap_or_else(|error| panic!("{options:?}: {error}"));
    }
    let refused: [(&[&str], &str); 4] = [
        (
            &["-h", "-n", "other"],
            "is not for i-0123456789abcdef0, but for: other",
        ),
        (&["-h", "-n", TARGET, "-V", "-2h:-1h"], "expired"),
        (&["-h", "-n", TARGET, "-V", "+1h:+2h"], "not valid yet"),
        (
            &["-h", "-n", TARGET, "-O", "critical:x@y=z"],
            "critical options",
        ),
    ];
    for (options, expected) in refused {
        let Some(result) = certified(options, &trusted).await else {
            return;
        };
        let error = anyhow::Error::from(result.unwrap_err());
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
    // A revoked authority, and a key that somebody wrote down before there was one.
    let revoked = format!("{trusted}@revoked * {}\n", public("host_ca.pub"));
    let stale = format!("{TARGET} {}\n{trusted}", public("ed25519.pub"));
    let options = ["-h", "-n", TARGET];
    let error = certified(&options, &revoked).await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::HostKey(HostKeyError::Revoked { .. })),
        "{error}"
    );
    certified(&options, &stale).await.unwrap().unwrap();
}
