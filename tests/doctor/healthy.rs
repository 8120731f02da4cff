//! A set-up in which all is well, and an examination that is given up.

use rustix::process::Signal;

use crate::common::daemon::{PROGRAM, environment};
use crate::common::process::{Running, code, read_until};
use crate::common::pty::Terminal;
use crate::common::world::user;
use crate::patient::{Patient, WEB};

/// `text` without what is different in each run.
fn filtered(patient: &Patient, text: &str) -> String {
    let (user, mut filtered) = (user(), String::new());
    for line in text.lines() {
        let line = line
            .replace(&patient.text(""), "DIRECTORY/")
            .replace(&patient.emulator.port().to_string(), "PORT");
        let words = line.split_inclusive(' ').map(|word| {
            let bare = word.trim_end();
            let is_random = bare.starts_with("SHA256:") || bare.starts_with("emulator-");
            // A short name may be part of any word.
            let is_user = bare == user;
            match (is_random, is_user) {
                (true, _) => word.replace(bare.trim_end_matches(','), "RANDOM"),
                (_, true) => word.replace(bare, "USER"),
                _ => word.to_owned(),
            }
        });
        let mut line: String = words.collect();
        for check in ["clock", "sshd", "round-trip", "download", "upload"] {
            if let Some(start) = line.strip_prefix(&format!("ok       {check} ")) {
                let gap = start.len() - start.trim_start().len();
                line = format!("ok       {check} {}FIGURES", " ".repeat(gap));
            }
        }
        // `(12 ms)` at the end.
        if line.ends_with(" ms)")
            && let Some((rest, _)) = line.rsplit_once(" (")
        {
            line.truncate(rest.len());
        }
        filtered.push_str(&line);
        filtered.push('\n');
    }
    filtered
}

#[test]
fn a_healthy_set_up_is_told_line_by_line() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let output = patient.visit(WEB).run(&[]).output();
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stderr, "");
    assert_eq!(
        filtered(&patient, &String::from_utf8_lossy(&output.stdout)),
        "\
ok       configuration                no file: flags, environment and defaults
ok       state-directory              DIRECTORY/home/state/ssmshim
ok       local-port                   127.0.0.1:0 is free
ok       local-host-key               DIRECTORY/home/state/ssmshim/host_key, which the first start makes
skipped  authorized-keys              because you log in without a key: --access owner
ok       region                       eu-central-1
ok       credentials                  AKIDEXAMPLE from the environment
ok       proxy                        none, both endpoints are reached directly
skipped  ssm-dns                      because 127.0.0.1 is an address
ok       ssm-tcp                      connected to 127.0.0.1:PORT
skipped  ssm-tls                      because http://127.0.0.1:PORT is plain
skipped  ssmmessages-dns              because 127.0.0.1 is an address
ok       ssmmessages-tcp              connected to 127.0.0.1:PORT
skipped  ssmmessages-tls              because http://127.0.0.1:PORT is plain
ok       clock                        FIGURES
ok       identity                     arn:aws:iam::000000000000:user/emulator in account 000000000000
ok       DescribeInstanceInformation  allowed
ok       DescribeInstances            allowed: machines have names
ok       DescribeSessions             allowed: sessions of a killed process are found and ended
ok       target                       i-0123456789abcdef0 (web): online, ssmshim emulator 0.1.0
ok       GetConnectionStatus          connected
ok       agent                        3.3.1142.0
ok       StartSession                 allowed: RANDOM
ok       ResumeSession                allowed: a lost connection can be resumed
ok       TerminateSession             allowed: no session is left behind
ok       OpenDataChannel              allowed: the message gateway has opened the data channel
ok       handshake                    the agent answers, version 3.3.1142.0
ok       keys                         in this order: DIRECTORY/sshd/id_ed25519, a key of EC2 Instance Connect, what you type
ok       SendSSHPublicKey             allowed: a key was pushed for USER
ok       sshd                         FIGURES
ok       host-key                     RANDOM, new: the first connection writes it down (accept-new)
ok       authentication               as USER by publickey DIRECTORY/sshd/id_ed25519 ssh-ed25519 RANDOM
ok       round-trip                   FIGURES
ok       download                     FIGURES
ok       upload                       FIGURES

ssh would work
"
    );
    assert!(patient.sessions().is_empty());
    // The same as JSON; nothing of it is asserted twice.
    let report = patient.visit(WEB).report();
    assert_eq!(report.lines.len(), 35, "{report}");
    for check in ["round-trip", "download", "upload"] {
        assert_eq!(report.line(check)["verdict"], "ok", "{report}");
    }
    let general = patient.visit(WEB).in_general().report();
    assert_eq!(general.code, 0, "{general}");
    general.says(
        "DescribeInstanceInformation",
        "6 machines in eu-central-1, online: 4",
        "",
    );
    assert_eq!(general.lines.len(), 19, "{general}");
    let text = patient.visit(WEB).in_general().run(&[]).ok().text();
    assert!(
        text.ends_with("with a TARGET it goes on to a machine"),
        "{text}"
    );
}

/// The SSM session is ended when the examination is given up, wherever that is.
#[test]
fn a_signal_leaves_nothing_behind() {
    let Some(patient) = Patient::with_endless_commands() else {
        return;
    };
    for (check, signal) in [
        ("\"StartSession\"", Signal::INT),
        ("\"handshake\"", Signal::TERM),
        ("\"authentication\"", Signal::HUP),
    ] {
        let mut running: Running = patient.visit(WEB).run(&["--json"]).piped();
        let said = read_until(running.take_stdout(), check);
        assert!(said.is_some(), "{}", running.stderr());
        running.signal(signal);
        let status = running.wait(crate::common::DEADLINE);
        assert_eq!(code(status), 1, "{check}: {}", running.stderr());
        assert!(patient.sessions().is_empty(), "{check}");
    }
}

#[test]
fn colours_are_for_terminals_and_only_where_they_are_wanted() {
    let Some(patient) = Patient::new() else {
        return;
    };
    for (no_color, is_coloured) in [("", true), ("1", false)] {
        let (arguments, extra) = patient.visit(WEB).in_general().command(&[]);
        let mut variables = environment(&patient.path("home"));
        variables.extend(extra);
        variables.push(("TERM".into(), "xterm".into()));
        variables.push(("NO_COLOR".into(), no_color.into()));
        let mut terminal = Terminal::start_with(PROGRAM, &arguments, &variables);
        let shown = terminal.expect("goes on to a machine");
        assert_eq!(shown.contains("\u{1b}[32mok"), is_coloured, "{shown}");
        assert_eq!(terminal.finish(), 0);
    }
}
