//! git over ssh: clones, pushes, refusals, and what the far end's hooks have to say.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::common::files::{make_tree, write_file};
use crate::common::have;
use crate::common::process::Run;
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        clone_push_fetch,
        shallow_and_partial,
        refused_pushes,
        failures,
    }
}

/// Two repositories: `here` with a history, and `far.git`, bare, as the remote `origin`.
struct Git<'a> {
    world: &'a World,
}

impl<'a> Git<'a> {
    fn new(world: &'a World) -> Option<Self> {
        if !have("git") {
            return None;
        }
        let git = Self { world };
        let bare = world.path("far.git");
        for path in [&bare, &world.path("here")] {
            fs::create_dir(path).expect("our own directory");
        }
        git.run("far.git", &["init", "-q", "--bare", "-b", "main"])
            .ok();
        git.run("here", &["init", "-q", "-b", "main"]).ok();
        git.run("here", &["remote", "add", "origin", &git.url("far.git")])
            .ok();
        make_tree(&world.path("here/tree"));
        git.commit("first");
        for name in ["second", "third"] {
            fs::write(world.path("here").join(name), name).expect("our own directory");
            git.commit(name);
        }
        Some(git)
    }

    fn url(&self, name: &str) -> String {
        let target = &self.world.target;
        format!(
            "ssh://{}:{}{}",
            target.host(),
            target.port,
            self.world.path(name).display()
        )
    }

    /// `git ARGS…` in `directory`, with nothing of the person at the desk, and the same hashes each time.
    fn run(&self, directory: &str, args: &[&str]) -> Run {
        let run = Run::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
            .args([
                "-c",
                "protocol.version=2",
                "-c",
                "gc.auto=0",
                "-c",
                "advice.detachedHead=false",
            ])
            // How a pack is made depends on how many processors are free.
            .args(["-c", "pack.threads=1"])
            .args(args)
            .directory(&self.world.path(directory))
            .env("GIT_SSH_COMMAND", self.world.ssh_command())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("LC_ALL", "C");
        ["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"]
            .iter()
            .fold(run, |run, name| run.env(name, "2001-09-09T01:46:40Z"))
    }

    fn commit(&self, message: &str) {
        self.run("here", &["add", "."]).ok();
        self.run("here", &["commit", "-q", "-m", message]).ok();
    }

    fn record(&self, seen: &mut Seen, directory: &str, args: &[&str]) -> i32 {
        seen.run(
            &format!("{directory}: {}", args.join(" ")),
            self.run(directory, args),
        )
        .code
    }

    /// A hook of the far repository.
    fn hook(&self, name: &str, script: &str) {
        let path = self.world.path("far.git/hooks").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("our own directory");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("our own file");
    }
}

fn clone_push_fetch(world: &World, seen: &mut Seen) {
    let Some(git) = Git::new(world) else {
        return seen.note("git", "missing");
    };
    git.hook(
        "post-receive",
        "echo thank you; echo and well done >&2; cat",
    );
    let url = git.url("far.git");
    assert_eq!(
        git.record(seen, "here", &["push", "-u", "origin", "main"]),
        0
    );
    git.run("here", &["tag", "-a", "-m", "one", "v1"]).ok();
    git.record(seen, "here", &["push", "--porcelain", "--tags", "origin"]);
    git.record(seen, "here", &["push", "origin", "main"]);
    assert_eq!(git.record(seen, "", &["clone", &url, "clone"]), 0);
    git.record(seen, "clone", &["rev-parse", "HEAD", "v1"]);
    git.record(seen, "clone", &["fsck", "--full"]);

    write_file(&world.path("here/large"), 6_000_001, 6);
    git.commit("large");
    assert_eq!(git.record(seen, "here", &["push", "-q"]), 0);
    git.record(seen, "clone", &["fetch"]);
    git.record(seen, "clone", &["merge", "--ff-only", "origin/main"]);
    git.record(seen, "clone", &["pull", "--rebase"]);
    git.record(seen, "", &["ls-remote", "--symref", &url]);
    git.record(
        seen,
        "here",
        &["push", "origin", ":refs/tags/v1", "main:refs/heads/other"],
    );
    git.record(seen, "clone", &["fetch", "--prune", "--prune-tags"]);
    git.record(seen, "clone", &["-c", "protocol.version=0", "fetch"]);
    seen.tree("clone", &world.path("clone/tree"));
    seen.file("large", &world.path("clone/large"));
    let archive = format!("--remote={url}");
    git.record(
        seen,
        "",
        &[
            "archive",
            "--format=tar",
            "-o",
            "archive.tar",
            &archive,
            "main",
        ],
    );
    let listing = Run::new("tar").arg("-tvf").arg(world.path("archive.tar"));
    seen.run("archive", listing.env("TZ", "UTC"));
}

fn shallow_and_partial(world: &World, seen: &mut Seen) {
    let Some(git) = Git::new(world) else {
        return seen.note("git", "missing");
    };
    let url = git.url("far.git");
    git.run("far.git", &["config", "uploadpack.allowFilter", "true"])
        .ok();
    git.run("here", &["push", "-q", "origin", "main"]).ok();
    assert_eq!(
        git.record(seen, "", &["clone", "--depth", "1", &url, "shallow"]),
        0
    );
    git.record(seen, "shallow", &["rev-list", "--count", "HEAD"]);
    git.record(seen, "shallow", &["fetch", "--deepen", "1"]);
    git.record(seen, "shallow", &["rev-list", "--count", "HEAD"]);
    git.record(seen, "shallow", &["fetch", "--unshallow"]);
    git.record(seen, "shallow", &["rev-list", "--count", "HEAD"]);
    git.record(
        seen,
        "",
        &[
            "clone",
            "--filter=blob:none",
            "--no-checkout",
            &url,
            "partial",
        ],
    );
    git.record(seen, "partial", &["checkout", "main"]);
    seen.tree("partial", &world.path("partial/tree"));
    git.record(seen, "", &["clone", "--mirror", &url, "mirror"]);
    git.record(seen, "", &["clone", "--branch", "none", &url, "none"]);
}

fn refused_pushes(world: &World, seen: &mut Seen) {
    let Some(git) = Git::new(world) else {
        return seen.note("git", "missing");
    };
    let url = git.url("far.git");
    git.run("here", &["push", "-q", "origin", "main"]).ok();
    git.run("", &["clone", "-q", &url, "other"]).ok();
    fs::write(world.path("here/more"), "more").expect("our own directory");
    git.commit("more");
    git.run("here", &["push", "-q"])
        .args(["origin", "main"])
        .ok();

    // Somebody was faster.
    fs::write(world.path("other/else"), "else").expect("our own directory");
    git.run("other", &["add", "."]).ok();
    git.run("other", &["commit", "-q", "-m", "else"]).ok();
    assert_eq!(git.record(seen, "other", &["push"]), 1);
    assert_eq!(
        git.record(seen, "other", &["push", "--force-with-lease=main:HEAD"]),
        1
    );

    git.run(
        "far.git",
        &["config", "receive.denyNonFastForwards", "true"],
    )
    .ok();
    assert_eq!(git.record(seen, "other", &["push", "--force"]), 1);
    git.run(
        "far.git",
        &["config", "receive.denyNonFastForwards", "false"],
    )
    .ok();
    git.hook(
        "pre-receive",
        "while read old new name; do echo \"not $name: \u{e4}\"; done; printf 'no line end' >&2; exit 1",
    );
    assert_eq!(git.record(seen, "other", &["push", "--force"]), 1);
    git.hook("pre-receive", "exit 0");
    git.hook(
        "update",
        "echo \"refused: $1\" >&2; test $1 = refs/heads/good",
    );
    let both = ["push", "--force", "origin", "main:good", "main:bad"];
    assert_eq!(git.record(seen, "other", &both), 1);
    let atomic = ["push", "--atomic", "origin", "main:good2", "main:good"];
    git.record(seen, "other", &atomic);
    git.record(seen, "", &["ls-remote", &url]);
}

fn failures(world: &World, seen: &mut Seen) {
    let Some(git) = Git::new(world) else {
        return seen.note("git", "missing");
    };
    let (missing, empty) = (git.url("missing.git"), git.url("far.git"));
    for (directory, args) in [
        ("", &["clone", &missing, "none"][..]),
        ("", &["ls-remote", &missing]),
        ("", &["clone", "-b", "main", &empty, "empty"]),
        ("here", &["fetch", "origin", "no-such-branch"]),
        ("here", &["push", "origin", "no-such-branch"]),
        ("", &["clone", "-u", "/no/such/program", &empty, "none"]),
        ("", &["clone", "-u", "echo not git;", &empty, "none"]),
        ("", &["clone", "-u", "kill -9 $$;", &empty, "none"]),
    ] {
        let label = args.join(" ");
        let output = git.run(directory, args).output();
        assert_ne!(output.code, 0, "{label}");
        seen.note(&format!("{label}: status"), output.code);
        // Both ends write there at once, and the far end's complaint that this one has gone may come too late.
        let mut lines: Vec<_> = output.stderr.lines().collect();
        lines.retain(|line| !line.contains("hung up unexpectedly"));
        lines.sort_unstable();
        seen.bytes(&label, lines.join("\n").as_bytes());
    }
}
