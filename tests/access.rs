//! Who may use the endpoint, and whose host key the target may show.

mod common;

use std::fs;
use std::path::Path;

use common::daemon::{Daemon, aws_environment};
use common::process::Run;
use common::sshd::make_key;
use common::world::{World, serve_args};
use common::{have, until};

/// Restarts the daemon of `world` with `extra` arguments.
fn restart(world: &mut World, extra: &[&str]) {
    world.daemon = None;
    let daemon = launch(world, extra, true);
    world.target.port = daemon.port();
    world.daemon = Some(daemon);
}

fn launch(world: &World, extra: &[&str], to_be_ready: bool) -> Daemon {
    let (Some(emulator), Some(sshd)) = (&world.emulator, &world.sshd) else {
        panic!("a served world has both");
    };
    let args = serve_args(
        &emulator.text("target"),
        &sshd.port.to_string(),
        &sshd.identity,
    );
    let args: Vec<_> = args
        .iter()
        .map(String::as_str)
        .chain(extra.iter().copied())
        .collect();
    let environment = aws_environment(&emulator.text("endpoint"));
    let home = world.path("home");
    if to_be_ready {
        Daemon::start(&home, &args, &environment)
    } else {
        Daemon::launch(
            &home,
            &[&args[..], &["--listen", "127.0.0.1:0"]].concat(),
            &environment,
        )
    }
}

/// The kernel says whose socket it is; no other user gets in, whatever they offer.
#[test]
fn owner_only() {
    if !rustix::process::geteuid().is_root() {
        return common::skip("only root can become another user");
    }
    if !have("setpriv") {
        return;
    }
    let Some(world) = World::demo() else { return };
    world.ssh(&[], "true").ok();
    let stranger = ["--reuid=65534", "--regid=65534", "--clear-groups", "ssh"];
    let output = Run::new("setpriv")
        .args(stranger)
        .args(world.target.options("-p"))
        .arg(world.target.host())
        .arg("echo inside")
        .output();
    assert_eq!(output.code, 255, "{output:?}");
    assert_eq!(output.text(), "");
    assert!(output.stderr.contains("Permission denied"), "{output:?}");
}

#[test]
fn any_login_name_is_the_owner() {
    let Some(mut world) = World::serve() else {
        return;
    };
    for name in ["anything", "root", "nobody", "i-0123456789abcdef0"] {
        world.target.user = name.to_owned();
        assert_eq!(
            world.ssh(&[], "id -un").ok().text(),
            common::world::user(),
            "{name}"
        );
    }
}

#[test]
fn keys_admit_their_holders_and_nobody_else() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let (member, stranger) = (world.path("member"), world.path("stranger"));
    make_key(&member);
    make_key(&stranger);
    let list = world.path("members");
    let key = std::fs::read_to_string(member.with_extension("pub")).expect("ssh-keygen made it");
    let restricted = std::fs::read_to_string(stranger.with_extension("pub"));
    let restricted = restricted.expect("ssh-keygen made it");
    let lines = format!("# those who may\n\n{key}from=\"10.0.0.1\" {restricted}");
    std::fs::write(&list, lines).expect("our own directory");
    restart(
        &mut world,
        &[
            "--access",
            "keys",
            "--authorized-keys",
            &list.display().to_string(),
        ],
    );

    world.target.identity = member;
    assert_eq!(world.ssh(&[], "echo inside").ok().text(), "inside");
    world.target.identity = stranger;
    stays_outside(&world);
    let daemon = world.daemon.as_ref().expect("it runs");
    until("the line that grants nothing is told", || {
        daemon
            .stderr()
            .contains("line 4: option `from`")
            .then_some(())
    });
}

#[test]
fn a_key_that_is_taken_off_the_list_opens_nothing_any_more() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let (first, second) = (world.path("first"), world.path("second"));
    make_key(&first);
    make_key(&second);
    let list = world.path("members");
    let admit = |key: &Path| {
        fs::copy(key.with_extension("pub"), &list).expect("our own directory");
    };
    admit(&first);
    let path = list.display().to_string();
    restart(
        &mut world,
        &["--access", "keys", "--authorized-keys", &path],
    );

    world.target.identity = first.clone();
    assert_eq!(world.ssh(&[], "echo inside").ok().text(), "inside");
    admit(&second);
    stays_outside(&world);
    world.target.identity = second;
    assert_eq!(world.ssh(&[], "echo inside").ok().text(), "inside");
    fs::remove_file(&list).expect("our own file");
    stays_outside(&world);
    let daemon = world.daemon.as_ref().expect("it runs");
    until("the missing list is told of", || {
        daemon.stderr().contains("nobody is let in").then_some(())
    });
}

/// Asserts that the key of `world` is refused.
fn stays_outside(world: &World) {
    let output = world.ssh(&[], "echo inside").output();
    assert_eq!(output.code, 255, "{output:?}");
    assert!(
        output.stderr.contains("Permission denied (publickey"),
        "{output:?}"
    );
}

#[test]
fn a_new_host_key_is_remembered_and_a_changed_one_refused() {
    let Some(mut world) = World::serve() else {
        return;
    };
    let known = std::fs::read_to_string(world.path("home/state/ssmshim/known_hosts"));
    assert!(
        known.is_ok_and(|text| text.contains("ssh-ed25519 ")),
        "the key is written down"
    );
    // The same key is fine, even strictly.
    restart(&mut world, &["--strict-host-key", "yes"]);
    world.ssh(&[], "true").ok();

    // Another one, at the same target and port, is not.
    world.daemon = None;
    let Some(first) = world.sshd.take() else {
        return;
    };
    let (port, identity) = (first.port, first.identity.clone());
    // Frees the port.
    drop(first);
    let directory = world.path("other-sshd");
    let same_port = format!("Port {port}");
    let Some(mut other) = common::sshd::Sshd::start_with(&directory, &same_port) else {
        return;
    };
    std::fs::copy(
        identity.with_extension("pub"),
        directory.join("authorized_keys"),
    )
    .expect("our own directory");
    (other.port, other.identity) = (port, identity);
    world.sshd = Some(std::sync::Arc::new(other));
    for mode in ["yes", "accept-new"] {
        let mut daemon = launch(&world, &["--strict-host-key", mode], false);
        let error = daemon.told("error: ");
        assert!(error.contains("host key"), "{error}");
        assert!(!daemon.told("hint: ").is_empty());
        assert_eq!(daemon.wait().0, 1, "{}", daemon.stderr());
    }
    restart(&mut world, &["--strict-host-key", "off"]);
    world.ssh(&[], "true").ok();
}

#[test]
fn an_unknown_host_key_is_refused_when_strict() {
    let Some(mut world) = World::serve() else {
        return;
    };
    world.daemon = None;
    std::fs::remove_file(world.path("home/state/ssmshim/known_hosts")).expect("it was written");
    let mut daemon = launch(&world, &["--strict-host-key", "yes"], false);
    let error = daemon.told("error: ");
    assert!(error.contains("host key"), "{error}");
    assert_eq!(daemon.wait().0, 1, "{}", daemon.stderr());
}

/// The target's own list of host keys would make clients distrust ours.
#[test]
fn the_targets_host_keys_are_not_announced_to_clients() {
    let Some(world) = World::serve() else { return };
    let known_hosts = format!("UserKnownHostsFile={}", world.text("known_hosts"));
    let options = [
        "-o",
        &known_hosts,
        "-o",
        "UpdateHostKeys=yes",
        "-o",
        "StrictHostKeyChecking=accept-new",
    ];
    let output = world.ssh(&[&options[..], &["-v"]].concat(), "true").ok();
    assert!(
        !output.stderr.contains("rtype hostkeys-00@openssh.com"),
        "{}",
        output.stderr
    );
    let text = std::fs::read_to_string(world.path("known_hosts")).expect("ssh wrote it");
    assert_eq!(text.lines().count(), 1, "{text}");
}
