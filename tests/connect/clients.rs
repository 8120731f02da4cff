//! Real clients, which notice nothing.

use std::fs::{self, File};

use crate::common::files::{assert_same, describe_tree, make_tree};
use crate::common::process::Run;
use crate::common::{have, until};
use crate::{Near, both_ways, text, three};

both_ways! {
    a_command_has_its_output_and_status,
    bytes_both_ways,
    scp_sftp_and_rsync,
    git_clones,
    a_master_and_its_sessions,
    a_jump_host,
}

fn a_command_has_its_output_and_status(near: &Near) {
    let output = near
        .ssh(&[], "cat; echo said >&2; exit 7")
        .stdin("heard")
        .output();
    assert_eq!((output.code, output.text().as_str()), (7, "heard"));
    assert_eq!(output.stderr, "said\n", "nothing of ours");
}

fn bytes_both_ways(near: &Near) {
    let [here, there, back] = three(near, 32 << 20);
    near.ssh(&[], &format!("cat > {}", text(&there)))
        .stdin_from(File::open(&here).expect("just written"))
        .ok();
    assert_same(&here, &there);
    near.ssh(&[], &format!("cat {}", text(&there)))
        .stdout_to(File::create(&back).expect("our own directory"))
        .ok();
    assert_same(&here, &back);
}

fn scp_sftp_and_rsync(near: &Near) {
    if !have("scp") || !have("rsync") || !have("sftp") {
        return;
    }
    let world = &near.faulty.world;
    let option = near.option();
    let [here, there, back] = three(near, (3 << 20) + 77);
    world
        .scp(&[&option])
        .arg(&here)
        .arg(world.remote(&there))
        .ok();
    assert_same(&here, &there);
    let batch = format!("get {} {}\n", text(&there), text(&back));
    let mut args = world.target.options("-P");
    args.extend([option, "-b".into(), "-".into(), world.target.host()]);
    Run::new("sftp").args(args).stdin(batch).ok();
    assert_same(&here, &back);

    let (tree, copy) = (near.path("tree"), near.path("copy"));
    make_tree(&tree);
    Run::new("rsync")
        .args(["-a", "-e", &near.ssh_command()])
        .arg(format!("{}/", text(&tree)))
        .arg(world.remote(&copy))
        .ok();
    assert_eq!(describe_tree(&tree), describe_tree(&copy));
}

fn git_clones(near: &Near) {
    if !have("git") {
        return;
    }
    let (origin, clone) = (near.path("origin"), near.path("clone"));
    let git = |args: &[&str]| {
        Run::new("git")
            .args(["-c", "user.name=T", "-c", "user.email=t@example.com"])
            .args(args)
            .env("GIT_SSH_COMMAND", near.ssh_command())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .ok()
    };
    git(&["init", "-q", &text(&origin)]);
    fs::write(origin.join("file"), "content").expect("our own directory");
    git(&["-C", &text(&origin), "add", "file"]);
    git(&["-C", &text(&origin), "commit", "-q", "-m", "first"]);
    let host = near.faulty.world.target.host();
    let url = format!("ssh://{host}{}", origin.display());
    git(&["clone", "-q", &url, &text(&clone)]);
    assert_eq!(fs::read(clone.join("file")).expect("cloned"), b"content");
}

/// The master goes to the background and stays there; the connection ends when it does.
fn a_master_and_its_sessions(near: &Near) {
    let socket = text(&near.path("master"));
    let of_master = ["-S", socket.as_str()];
    let persistent = ["-M", "-oControlPersist=yes"];
    let first = near.ssh(&[&of_master[..], &persistent].concat(), "echo first");
    assert_eq!(first.ok().text(), "first");
    // It needs no connection any more.
    let world = &near.faulty.world;
    for n in 0..3 {
        let said = world.ssh(&of_master, &format!("echo {n}")).ok().text();
        assert_eq!(said, n.to_string());
    }
    world.control(&socket, "exit", &[]).ok();
    until("the master is gone", || {
        (!near.path("master").exists()).then_some(())
    });
}

/// From the target on: `ssh -W` in one ssh, and a whole SSH connection in it.
fn a_jump_host(near: &Near) {
    let first_hop = near
        .ssh_command()
        .replace("-oLogLevel=ERROR", "-oLogLevel=QUIET");
    let second = format!(
        "-oProxyCommand={first_hop} -W 127.0.0.1:{} {}",
        near.ssh_port,
        near.faulty.world.target.host()
    );
    let world = &near.faulty.world;
    let output = world.ssh(&[&second], "echo through; exit 3").output();
    assert_eq!(
        (output.code, output.text().as_str()),
        (3, "through"),
        "{output:?}"
    );
}
