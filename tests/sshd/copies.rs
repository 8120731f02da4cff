//! Files by scp in both of its protocols, sftp, rsync and git.

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tokio::process::Command;

use crate::world::{World, client, have, noise, run, run_with, stdout};

/// An OpenSSH program of the copying kind.
fn copier(world: &World, program: &str) -> Command {
    let mut command = client(program);
    command.arg("-F").arg(world.config());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn scp_copies_both_ways_by_both_protocols() {
    if !have(&["scp"]) {
        return;
    }
    let world = World::start().await;
    let bytes = world.write_file("original", (8 << 20) + 12345);
    for protocol in ["-O", "-s"] {
        let there = world.path(format!("there{protocol}"));
        let back = world.path(format!("back{protocol}"));
        let far = format!("sshd:{}", there.display());
        stdout(
            copier(&world, "scp")
                .arg(protocol)
                .arg("-p")
                .arg(world.path("original"))
                .arg(&far),
        )
        .await;
        stdout(copier(&world, "scp").arg(protocol).arg(&far).arg(&back)).await;
        assert!(std::fs::read(&there).unwrap() == bytes);
        assert!(std::fs::read(&back).unwrap() == bytes);
        let (original, copy) = (
            world.path("original").metadata().unwrap(),
            there.metadata().unwrap(),
        );
        assert_eq!(
            (original.mtime(), original.mode()),
            (copy.mtime(), copy.mode())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scp_copies_trees_and_reports_what_is_missing() {
    if !have(&["scp"]) {
        return;
    }
    let world = World::start().await;
    std::fs::create_dir_all(world.path("tree/a/b")).unwrap();
    for number in 0..250 {
        std::fs::write(
            world.path(format!("tree/a/b/file {number}")),
            format!("{number}"),
        )
        .unwrap();
    }
    let far = format!("sshd:{}", world.path("tree").display());
    stdout(
        copier(&world, "scp")
            .arg("-r")
            .arg(&far)
            .arg(world.path("copy")),
    )
    .await;
    let count = std::fs::read_dir(world.path("copy/a/b")).unwrap().count();
    assert_eq!(count, 250);
    assert_eq!(
        std::fs::read(world.path("copy/a/b/file 249")).unwrap(),
        b"249"
    );

    let missing = run(copier(&world, "scp")
        .arg("sshd:/no/such/file")
        .arg(world.path("x")))
    .await;
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("No such file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_does_all_that_files_can() {
    if !have(&["sftp"]) {
        return;
    }
    let world = World::start().await;
    world.write_file("local", 300_000);
    let base = world.path("far");
    let batch = format!(
        "mkdir {base}\ncd {base}\npwd\nput {local} one\nchmod 640 one\nln one hard\nln -s one soft\nrename one two\n\
         ls -la\ndf -h\nmkdir sub\nrmdir sub\n-rename -l two hard\nls -l two\nget -a two {back}\n\
         rm hard\n!rm -f {base}/gone\n-rm gone\n-get gone\n",
        base = base.display(),
        local = world.path("local").display(),
        back = world.path("back").display(),
    );
    let output = run_with(
        copier(&world, "sftp").args(["-b", "-", "sshd"]),
        batch.as_bytes(),
    )
    .await;
    let (text, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{text}\n{log}");
    assert!(
        text.contains(&format!("Remote working directory: {}", base.display())),
        "{text}"
    );
    assert!(text.contains("-rw-r-----   2"), "{text}");
    assert!(
        text.lines()
            .any(|line| line.starts_with('l') && line.ends_with("soft")),
        "{text}"
    );
    assert!(text.contains("%Capacity"), "{text}");
    assert!(log.contains("No such file"), "{log}");
    assert_eq!(
        std::fs::read_link(base.join("soft")).unwrap().as_os_str(),
        "one"
    );
    assert!(
        std::fs::read(base.join("two")).unwrap() == std::fs::read(world.path("local")).unwrap()
    );
    assert!(
        std::fs::read(world.path("back")).unwrap() == std::fs::read(world.path("local")).unwrap()
    );
    assert!(!base.join("hard").exists() && !base.join("one").exists());
    assert_eq!(
        base.join("two").metadata().unwrap().permissions().mode() & 0o777,
        0o640
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_takes_names_that_are_no_text() {
    if !have(&["sftp"]) {
        return;
    }
    let world = World::start().await;
    world.write_file("local", 10);
    let name = std::ffi::OsString::from_vec(b"caf\xe9".to_vec());
    let far = world.path("names");
    std::fs::create_dir(&far).unwrap();
    let mut batch = format!(
        "cd {}\nput {} caf",
        far.display(),
        world.path("local").display()
    )
    .into_bytes();
    batch.extend_from_slice(b"\xe9\nrename caf\xe9 caf\xe8\n");
    let output = run_with(copier(&world, "sftp").args(["-b", "-", "sshd"]), &batch).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!far.join(name).exists());
    let name = std::ffi::OsString::from_vec(b"caf\xe8".to_vec());
    assert!(far.join(name).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_resumes_and_uses_large_requests() {
    if !have(&["sftp"]) {
        return;
    }
    let world = World::start().await;
    let bytes = world.write_file("far", 3 << 20);
    std::fs::write(world.path("near"), &bytes[..1_000_000]).unwrap();
    let batch = format!(
        "reget {} {}\n",
        world.path("far").display(),
        world.path("near").display()
    );
    let mut command = copier(&world, "sftp");
    let output = run_with(
        command.args(["-B", "261120", "-R", "8", "-b", "-", "sshd"]),
        batch.as_bytes(),
    )
    .await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(std::fs::read(world.path("near")).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn rsync_brings_trees_up_to_date() {
    if !have(&["rsync", "ssh"]) {
        return;
    }
    let world = World::start().await;
    std::fs::create_dir_all(world.path("tree/deep")).unwrap();
    world.write_file("tree/deep/large", 4 << 20);
    for number in 0..50 {
        std::fs::write(world.path(format!("tree/{number}")), format!("{number}")).unwrap();
    }
    let shell = format!("ssh -F {}", world.config().display());
    let near = format!("{}/", world.path("tree").display());
    let far = format!("sshd:{}/", world.path("copy").display());
    for _ in 0..2 {
        stdout(client("rsync").args(["-a", "--delete", "-e", &shell, &near, &far])).await;
        let same = run(client("diff")
            .arg("-r")
            .arg(world.path("tree"))
            .arg(world.path("copy")))
        .await;
        assert!(
            same.status.success(),
            "{}",
            String::from_utf8_lossy(&same.stdout)
        );
        // A change in the middle, for the delta algorithm.
        let mut bytes = std::fs::read(world.path("tree/deep/large")).unwrap();
        bytes.splice(1_000_000..1_000_100, noise(5000));
        std::fs::write(world.path("tree/deep/large"), bytes).unwrap();
        std::fs::remove_file(world.path("tree/7")).ok();
    }
    let back = format!("{}/", world.path("back").display());
    stdout(client("rsync").args(["-az", "-e", &shell, &far, &back])).await;
    let same = run(client("diff")
        .arg("-r")
        .arg(world.path("copy"))
        .arg(world.path("back")))
    .await;
    assert!(same.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_and_pushes() {
    if !have(&["git", "ssh"]) {
        return;
    }
    let world = World::start().await;
    let git = |directory: &str| {
        let mut command = client("git");
        command
            .arg("-C")
            .arg(world.path(directory))
            .env(
                "GIT_SSH_COMMAND",
                format!("ssh -F {}", world.config().display()),
            )
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args([
                "-c",
                "user.name=n",
                "-c",
                "user.email=e@example",
                "-c",
                "init.defaultBranch=main",
            ]);
        command
    };
    std::fs::create_dir(world.path("work")).unwrap();
    stdout(git("work").args(["init", "-q"])).await;
    world.write_file("work/blob", 2 << 20);
    stdout(git("work").args(["add", "."])).await;
    stdout(git("work").args(["commit", "-qm", "one"])).await;
    let bare = world.path("bare.git");
    stdout(git("").args(["init", "-q", "--bare"]).arg(&bare)).await;
    let url = format!("ssh://sshd{}", bare.display());
    stdout(git("work").args(["push", "-q", &url, "HEAD:main"])).await;
    stdout(
        git("")
            .args(["clone", "-q", "-b", "main", &url])
            .arg(world.path("clone")),
    )
    .await;
    let (original, clone) = (world.path("work/blob"), world.path("clone/blob"));
    assert!(std::fs::read(original).unwrap() == std::fs::read(clone).unwrap());
    let nothing = run(git("").args(["ls-remote", "ssh://sshd/no/such/repository"])).await;
    assert_eq!(nothing.status.code(), Some(128));
}
