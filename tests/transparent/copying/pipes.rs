//! Streams through `ssh HOST COMMAND`: bytes of known number, and many small files as one tar stream.

use std::fs::{self, File};
use std::path::Path;

use super::SIZES;
use crate::common::files::{describe_tree, sha256, sha256_of, write_file};
use crate::common::process::Run;
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        both_ends_agree_on_bytes,
        zeros,
        pieces_of_dd,
        small_files_up,
        small_files_down,
        small_files_to_and_fro,
        archive_that_breaks_off,
    }
}

/// Each size up and down at once, with the digest that the far end found.
fn both_ends_agree_on_bytes(world: &World, seen: &mut Seen) {
    for size in SIZES.into_iter().chain([(9 << 20) + 3]) {
        let (here, back) = (world.path("here"), world.path("back"));
        write_file(&here, size, size as u64);
        let open = File::open(&here).expect("our own file");
        let kept = File::create(&back).expect("our own directory");
        let command = format!("tee {}; sha256sum < {0} >&2", world.text("there"));
        let run = world.ssh(&[], &command).stdin_from(open).stdout_to(kept);
        let output = seen.run(&size.to_string(), run);
        assert_eq!(output.code, 0);
        assert_eq!(output.stderr.split(' ').next(), Some(&*sha256(&here)));
        seen.file(&format!("{size} back"), &back);
        seen.file(&format!("{size} there"), &world.path("there"));
    }
}

/// What compresses best, and what a reader of a part does to the writer.
fn zeros(world: &World, seen: &mut Seen) {
    for (options, count) in [
        (&[][..], 20_000_000),
        (&["-C"][..], 20_000_000),
        (&["-C"][..], 1),
    ] {
        let command = format!("head -c {count} /dev/zero");
        let output = world.ssh(options, &command).output();
        seen.note(&format!("{options:?} {count}: status"), output.code);
        seen.note(&format!("{options:?} {count}"), sha256_of(&output.stdout));
        assert_eq!(output.stdout.len(), count);
    }
    seen.run(
        "part of what is endless",
        world.ssh(
            &[],
            "head -c 5000000 /dev/zero | sha256sum; cat /dev/zero | head -c 10",
        ),
    );
    let zero = File::open("/dev/zero").expect("every system has it");
    // The far end takes what it wants of an endless stream, and its end is the end.
    let endless = world
        .ssh(&[], "head -c 3000000 | sha256sum; exit 4")
        .stdin_from(zero);
    assert_eq!(seen.run("endless input", endless).code, 4);
}

/// Blocks of odd sizes, written one by one at either end.
fn pieces_of_dd(world: &World, seen: &mut Seen) {
    let here = world.path("here");
    write_file(&here, 300_000, 8);
    for block in [1, 4095, 65_537, 1_000_000] {
        let count = (300_000 / block).clamp(1, 5000);
        let there = world.text("there");
        let up =
            format!("dd of={there} bs={block} iflag=fullblock status=none; stat -c %s {there}");
        let open = File::open(&here).expect("our own file");
        seen.run(&format!("up {block}"), world.ssh(&[], &up).stdin_from(open));
        let down = format!(
            "dd if={} bs={block} count={count} status=none",
            here.display()
        );
        let output = world.ssh(&[], &down).output();
        seen.note(&format!("down {block}: status"), output.code);
        seen.note(&format!("down {block}"), sha256_of(&output.stdout));
        seen.file("there", &world.path("there"));
    }
}

/// How many files there are: `SSMSHIM_FULL=1` makes it the hundred thousand that somebody has in `node_modules`.
fn count() -> usize {
    if std::env::var_os("SSMSHIM_FULL").is_some() {
        100_000
    } else {
        3_000
    }
}

fn make_many(directory: &Path) {
    for number in 0..count() {
        let sub = directory.join(format!("{:02}", number % 50));
        if number < 50 {
            fs::create_dir_all(&sub).expect("our own directory");
        }
        let text = "x".repeat(number % 700);
        fs::write(
            sub.join(format!("file {number}")),
            format!("{number} {text}"),
        )
        .expect("our own directory");
    }
}

fn record_tree(seen: &mut Seen, label: &str, directory: &Path) {
    let lines = describe_tree(directory);
    assert_eq!(lines.len(), count() + 50);
    seen.note(label, sha256_of(lines.join("\n").as_bytes()));
}

fn tar(world: &World, action: &str, directory: &str) -> Run {
    let archive = world.text("archive");
    Run::new("tar").args(["-C", directory, action, &archive, "."])
}

fn small_files_up(world: &World, seen: &mut Seen) {
    let (here, there) = (world.text("here"), world.text("there"));
    make_many(&world.path("here"));
    fs::create_dir(&there).expect("our own directory");
    tar(world, "-cf", &here).ok();
    let archive = File::open(world.path("archive")).expect("tar has made it");
    let up = world
        .ssh(&[], &format!("tar -C {there} -xpf - && echo done"))
        .stdin_from(archive);
    assert_eq!(seen.run("up", up).code, 0);
    record_tree(seen, "there", &world.path("there"));
}

fn small_files_down(world: &World, seen: &mut Seen) {
    let (here, back) = (world.text("here"), world.text("back"));
    make_many(&world.path("here"));
    fs::create_dir(&back).expect("our own directory");
    let archive = File::create(world.path("archive")).expect("our own directory");
    let down = world
        .ssh(&["-C"], &format!("tar -C {here} -cf - ."))
        .stdout_to(archive);
    assert_eq!(seen.run("down", down).code, 0);
    tar(world, "-xf", &back).ok();
    record_tree(seen, "back", &world.path("back"));
}

/// Unpacked and packed again by one command, both streams at once.
fn small_files_to_and_fro(world: &World, seen: &mut Seen) {
    let (here, there, back) = (world.text("here"), world.text("there"), world.text("back"));
    make_many(&world.path("here"));
    for directory in [&there, &back] {
        fs::create_dir(directory).expect("our own directory");
    }
    tar(world, "-cf", &here).ok();
    let archive = File::open(world.path("archive")).expect("tar has made it");
    let returned = File::create(world.path("returned")).expect("our own directory");
    let both = world
        .ssh(&[], &format!("tee {there}/archive"))
        .stdin_from(archive)
        .stdout_to(returned);
    assert_eq!(seen.run("both ways", both).code, 0);
    fs::rename(world.path("returned"), world.path("archive")).expect("our own file");
    tar(world, "-xf", &back).ok();
    record_tree(seen, "back", &world.path("back"));
}

fn archive_that_breaks_off(world: &World, seen: &mut Seen) {
    let here = world.path("here");
    fs::create_dir(&here).expect("our own directory");
    write_file(&here.join("file"), 200_000, 1);
    tar(world, "-cf", &world.text("here")).ok();
    let mut archive = fs::read(world.path("archive")).expect("tar has made it");
    archive.truncate(100_000);
    fs::create_dir(world.path("there")).expect("our own directory");
    let there = world.text("there");
    let up = world
        .ssh(&[], &format!("tar -C {there} -xf -"))
        .env("LC_ALL", "C")
        .stdin(&archive);
    assert_ne!(seen.run("up", up).code, 0);
}
