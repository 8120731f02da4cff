//! The programs that copy over ssh: scp (both protocols), sftp, rsync, git.

mod common;

use std::fs;

use common::files::{assert_same, describe_tree, make_tree, write_file};
use common::have;
use common::process::Run;
use common::world::World;

cases! {
    scp_both_ways,
    scp_with_the_old_protocol_both_ways,
    scp_of_a_tree,
    scp_failure_is_told,
    sftp_batch,
    rsync_both_ways,
    rsync_of_changes,
    git_push_and_clone,
    tar_through_a_pipe,
}

/// Larger than every window and buffer between the ends, and no round number.
const SIZE: usize = (12 << 20) + 4321;

fn scp_both_ways(world: &World) {
    copy_both_ways(world, &[]);
}

fn scp_with_the_old_protocol_both_ways(world: &World) {
    copy_both_ways(world, &["-O"]);
}

fn copy_both_ways(world: &World, options: &[&str]) {
    if !have("scp") {
        return;
    }
    let (here, there, back) = (
        world.path("here.bin"),
        world.path("there.bin"),
        world.path("back.bin"),
    );
    write_file(&here, SIZE, 2);
    world.scp(options).arg(&here).arg(world.remote(&there)).ok();
    assert_same(&here, &there);
    world.scp(options).arg(world.remote(&there)).arg(&back).ok();
    assert_same(&here, &back);
}

fn scp_of_a_tree(world: &World) {
    if !have("scp") {
        return;
    }
    let here = world.path("tree");
    make_tree(&here);
    // scp follows links, so the copies are compared with each other and not with a link.
    fs::remove_file(here.join("link")).expect("the tree has it");
    for (option, name) in [("-s", "new protocol"), ("-O", "old protocol")] {
        let there = world.path(name);
        world
            .scp(&[option, "-rp"])
            .arg(&here)
            .arg(world.remote(&world.path("copied")))
            .ok();
        world
            .scp(&[option, "-rp"])
            .arg(world.remote(&world.path("copied")))
            .arg(&there)
            .ok();
        assert_eq!(describe_tree(&there), describe_tree(&here), "{name}");
        fs::remove_dir_all(world.path("copied")).expect("scp made it");
    }
}

fn scp_failure_is_told(world: &World) {
    if !have("scp") {
        return;
    }
    for option in ["-s", "-O"] {
        let missing = world.remote(&world.path("missing"));
        let output = world
            .scp(&[option])
            .arg(missing)
            .arg(world.path("back"))
            .output();
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains("No such file"), "{output:?}");
    }
}

fn sftp_batch(world: &World) {
    if !have("sftp") {
        return;
    }
    let (here, back) = (world.text("here.bin"), world.text("back.bin"));
    write_file(&world.path("here.bin"), SIZE, 3);
    fs::create_dir(world.path("far")).expect("our own directory");
    let far = world.text("far");
    let script = format!(
        "cd {far}
mkdir sub
put {here} sub/file.bin
rename sub/file.bin sub/renamed.bin
ln -s renamed.bin sub/link
chmod 640 sub/renamed.bin
ls -l sub
get sub/renamed.bin {back}
put {here} sub/second.bin
rename sub/second.bin sub/renamed.bin
put {here} gone.bin
rm gone.bin
mkdir empty
rmdir empty
df
pwd
"
    );
    let output = world.sftp(&script).ok();
    let text = output.text();
    assert!(text.contains("renamed.bin"), "{text}");
    assert!(
        text.contains(&format!("Remote working directory: {far}")),
        "{text}"
    );
    assert_same(&world.path("here.bin"), &world.path("back.bin"));

    let lines = describe_tree(&world.path("far"));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], "sub/");
    assert_eq!(lines[1], "sub/link -> renamed.bin");
    assert!(lines[2].starts_with("sub/renamed.bin "), "{lines:?}");

    // Each failure has its own status, which the client puts into words.
    let output = world.sftp("get /no/such/file\n").output();
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("not found") || output.stderr.contains("No such file"),
        "{output:?}"
    );
}

fn rsync(world: &World) -> Run {
    Run::new("rsync").args(["-a", "--delete", "-e", &world.ssh_command()])
}

fn rsync_both_ways(world: &World) {
    if !have("rsync") {
        return;
    }
    let (here, there, back) = (world.path("tree"), world.path("there"), world.path("back"));
    make_tree(&here);
    write_file(&here.join("large.bin"), SIZE, 4);
    rsync(world)
        .arg(here.join(""))
        .arg(world.remote(&there))
        .ok();
    assert_eq!(describe_tree(&there), describe_tree(&here));
    rsync(world)
        .arg(world.remote(&there.join("")))
        .arg(&back)
        .ok();
    assert_eq!(describe_tree(&back), describe_tree(&here));
}

/// The delta algorithm talks both ways at once: signatures against blocks.
fn rsync_of_changes(world: &World) {
    if !have("rsync") {
        return;
    }
    let (here, there) = (world.path("tree"), world.path("there"));
    make_tree(&here);
    write_file(&here.join("large.bin"), SIZE, 5);
    rsync(world)
        .arg("-z")
        .arg(here.join(""))
        .arg(world.remote(&there))
        .ok();
    let mut bytes = fs::read(here.join("large.bin")).expect("our own file");
    bytes[SIZE / 2] ^= 0xff;
    bytes.extend_from_slice(b"one more line\n");
    fs::write(here.join("large.bin"), bytes).expect("our own file");
    fs::remove_file(here.join("empty")).expect("the tree has it");
    rsync(world)
        .args(["--no-whole-file", "--checksum"])
        .arg(here.join(""))
        .arg(world.remote(&there))
        .ok();
    assert_eq!(describe_tree(&there), describe_tree(&here));
}

fn git_push_and_clone(world: &World) {
    if !have("git") {
        return;
    }
    let (here, bare, clone) = (
        world.path("here"),
        world.path("bare.git"),
        world.path("clone"),
    );
    let url = format!(
        "ssh://{}:{}{}",
        world.target.host(),
        world.target.port,
        bare.display()
    );
    let git = |args: &[&str]| {
        // The person's own settings, signing and hooks stay out.
        Run::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
            .args(args)
            .env("GIT_SSH_COMMAND", world.ssh_command())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
    };
    fs::create_dir(&here).expect("our own directory");
    make_tree(&here.join("tree"));
    write_file(&here.join("large.bin"), SIZE, 6);
    git(&["init", "-q", "--bare", "-b", "main"]).arg(&bare).ok();
    git(&["init", "-q", "-b", "main"]).directory(&here).ok();
    git(&["add", "."]).directory(&here).ok();
    git(&["commit", "-q", "-m", "all"]).directory(&here).ok();
    git(&["push", "-q", &url, "main"]).directory(&here).ok();
    git(&["clone", "-q", &url]).arg(&clone).ok();
    assert_same(&here.join("large.bin"), &clone.join("large.bin"));
    let heads = [&here, &clone].map(|at| git(&["rev-parse", "HEAD"]).directory(at).ok().text());
    assert_eq!(heads[0], heads[1]);
}

fn tar_through_a_pipe(world: &World) {
    let (here, there) = (world.path("tree"), world.path("there"));
    make_tree(&here);
    fs::create_dir(&there).expect("our own directory");
    let packed = Run::new("tar")
        .arg("-C")
        .arg(&here)
        .args(["-cf", "-", "."])
        .ok()
        .stdout;
    world
        .ssh(&[], &format!("tar -C {} -xpf -", there.display()))
        .stdin(packed)
        .ok();
    assert_eq!(describe_tree(&there), describe_tree(&here));
}
