//! curl's `scp://` and `sftp://`, which are libssh2 as most people meet it.

use crate::common::files::write_file;
use crate::common::have;
use crate::common::process::Run;
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        copies,
        commands,
        pieces,
        failures,
    }
}

/// `curl OPTIONS… SCHEME://HOST/PATH`, or `None` where it is not installed or lacks the scheme.
fn curl(world: &World, seen: &mut Seen, scheme: &str, path: &str, options: &[&str]) -> Option<Run> {
    if !have("curl") {
        return None;
    }
    let version = Run::new("curl").arg("-V").ok().text();
    if !version.split_whitespace().any(|known| known == scheme) {
        super::missing(seen, &format!("curl with {scheme}"));
        return None;
    }
    let identity = world.target.identity.display().to_string();
    let url = format!(
        "{scheme}://{}:{}{path}",
        world.target.host(),
        world.target.port
    );
    let run = Run::new("curl")
        .args([
            "-q",
            "-sS",
            "--insecure",
            "--max-time",
            "60",
            "--key",
            &identity,
        ])
        .args(["--pubkey", &format!("{identity}.pub")])
        .args(options)
        .arg(url)
        .env("HOME", world.path(""));
    Some(run)
}

/// Runs it and records what is seen; nothing where it is not installed.
fn run(world: &World, seen: &mut Seen, label: &str, scheme: &str, path: &str, options: &[&str]) {
    match curl(world, seen, scheme, path, options) {
        Some(run) => drop(seen.run(label, run)),
        None => seen.note("skipped", label),
    }
}

fn copies(world: &World, seen: &mut Seen) {
    write_file(&world.path("here"), 3_000_001, 9);
    let here = world.text("here");
    for scheme in ["scp", "sftp"] {
        let there = format!("there.{scheme}");
        run(
            world,
            seen,
            "up",
            scheme,
            &world.text(&there),
            &["-T", &here],
        );
        seen.file("there", &world.path(&there));
        run(world, seen, "down", scheme, &world.text(&there), &[]);
    }
}

/// Commands before and after a transfer, and a listing.
fn commands(world: &World, seen: &mut Seen) {
    let here = world.text("here");
    write_file(&world.path("here"), 1000, 9);
    let options = [
        "--ftp-create-dirs",
        "-T",
        &here,
        "-Q",
        &format!("-rename {0}/a/b {0}/a/c", world.text("top")),
        "-Q",
        &format!("-chmod 600 {}/a/c", world.text("top")),
        "-Q",
        &format!("-ln {0}/a/c {0}/a/link", world.text("top")),
    ];
    run(world, seen, "up", "sftp", &world.text("top/a/b"), &options);
    seen.tree("top", &world.path("top"));
    let listing = format!("{}/", world.text("top/a"));
    let Some(names) = curl(world, seen, "sftp", &listing, &["-l"]) else {
        return;
    };
    // In the order of the directory, which is that of no two.
    let names = names.ok().text();
    let mut names: Vec<_> = names.lines().collect();
    names.sort_unstable();
    seen.note("names", names.join(" "));
}

/// Resumed in both directions, and ranges.
fn pieces(world: &World, seen: &mut Seen) {
    write_file(&world.path("here"), 200_000, 9);
    let bytes = std::fs::read(world.path("here")).expect("our own file");
    std::fs::write(world.path("there"), &bytes[..70_000]).expect("our own directory");
    let (here, there) = (world.text("here"), world.text("there"));
    run(
        world,
        seen,
        "resumed",
        "sftp",
        &there,
        &["-C", "70000", "-T", &here],
    );
    seen.file("there", &world.path("there"));
    run(world, seen, "range", "sftp", &there, &["-r", "1000-50999"]);
    run(world, seen, "end", "sftp", &there, &["-r", "-500"]);
    run(world, seen, "rest", "sftp", &there, &["-C", "150000"]);
}

fn failures(world: &World, seen: &mut Seen) {
    for scheme in ["scp", "sftp"] {
        run(world, seen, "missing", scheme, &world.text("none"), &[]);
        run(
            world,
            seen,
            "nowhere",
            scheme,
            &world.text("no/where"),
            &["-T", "/dev/null"],
        );
    }
}
