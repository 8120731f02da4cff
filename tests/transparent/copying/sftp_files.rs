//! What sftp does to files without moving them, and each failure in the server's words.
//!
//! Tests may run as root: outside of its own directory a case only reads, and writes into `/dev/full`. Nothing
//! there may be renamed, removed, or have its mode changed, for that would succeed.

use std::fs;
use std::os::unix::fs::symlink;

use super::sftp::sftp;
use crate::common::files::write_file;
use crate::common::have;
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server has no copy-data extension.
        failures,
        copies_at_the_far_end,
    }
    everywhere: {
        links_and_renames,
        modes_and_owners,
        directories,
        first_failure_ends_the_batch,
        file_system_statistics,
        homes_and_paths,
        devices,
    }
}

/// Runs `script` in a directory of its own and records all there is afterwards.
fn in_directory(world: &World, seen: &mut Seen, script: &str) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    let directory = world.path("far");
    fs::create_dir(&directory).expect("our own directory");
    fs::create_dir(directory.join("sub")).expect("our own directory");
    fs::create_dir(directory.join("full")).expect("our own directory");
    fs::write(directory.join("full/file"), "in full").expect("our own directory");
    fs::write(directory.join("one"), "first").expect("our own directory");
    fs::write(directory.join("two"), "second").expect("our own directory");
    symlink("one", directory.join("link")).expect("our own directory");
    symlink("nowhere", directory.join("dangling")).expect("our own directory");
    symlink("loop", directory.join("loop")).expect("our own directory");
    let script = format!("cd {0}\nlcd {0}\n{script}", directory.display());
    seen.run("batch", sftp(world, &[], script));
    seen.tree("afterwards", &directory);
}

fn links_and_renames(world: &World, seen: &mut Seen) {
    in_directory(
        world,
        seen,
        "ln one hard
-ln one two
-ln missing hard2
-ln sub hard3
ln -s one soft
ln -s /no/such/place far-away
-ln -s one soft
ln link hard-of-link
rename one sub/moved
rename two hard
-rename missing other
-rename full sub
rename full fresh
-rename fresh hard
-rename fresh fresh/below
-rename -l hard link
rename -l hard legacy
rename dangling dangling2
",
    );
}

fn modes_and_owners(world: &World, seen: &mut Seen) {
    in_directory(
        world,
        seen,
        "chmod 0 one
chmod 7777 two
chmod 1755 sub
chmod 600 link
-chmod -h 600 link
-chmod 600 dangling
-chmod 600 missing
-chmod 600 loop
-chmod 999 one
-chown 0 one
-chgrp 0 one
-chown -h 0 dangling
-chown 0 missing
-chgrp -h 0 missing
-chmod 644 f* o*
",
    );
}

fn directories(world: &World, seen: &mut Seen) {
    in_directory(
        world,
        seen,
        "mkdir new
mkdir new/deep
-mkdir new
-mkdir one
-mkdir missing/deep
-mkdir one/deep
rmdir new/deep
-rmdir full
-rmdir one
-rmdir missing
-rmdir .
-rmdir link
-rm sub
-rm missing
-rm full/*
rm link
rm dangling
-cd one
-cd missing
-cd loop
-cd /usr/../proc/self/nothing
cd ..
pwd
",
    );
}

fn failures(world: &World, seen: &mut Seen) {
    write_file(&world.path("bulk"), 400_000, 4);
    let long = "n".repeat(256);
    let bulk = world.text("bulk");
    in_directory(
        world,
        seen,
        &format!(
            "-get missing
-get loop
-get dangling
-get sub
-get one/below
-get {long}
-get /proc/self/mem memory
-put {bulk} /dev/full
-put {bulk} /proc/nothing
-put {bulk} sub/none/file
-put {bulk} one/below
-put {bulk} {long}
-put {bulk} full
-put {bulk} loop
-put missing-here
-put {bulk} dangling
-get one /dev/full
-get one /no/such/place
-ls missing
-ls one/below
-ls loop
-ls {long}
-df missing
-cp missing other
-symlink
-nonsense
"
        ),
    );
}

fn first_failure_ends_the_batch(world: &World, seen: &mut Seen) {
    in_directory(
        world,
        seen,
        "get one one-back\nget missing\nget two two-back\n",
    );
}

/// What is in use differs from moment to moment; of the file system of processes all is zero.
fn file_system_statistics(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    seen.run(
        "/proc",
        sftp(
            world,
            &[],
            "df /proc\ndf -h /proc\ndf -i /proc\ndf -hi /proc\n",
        ),
    );
    let script = format!("df {0}\ndf -i {0}\n", world.text(""));
    let output = sftp(world, &[], script).ok();
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    for line in lines {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_figures = words
            .first()
            .is_some_and(|word| word.parse::<u64>().is_ok());
        // The size, and in how many columns the rest comes.
        let shown = if is_figures { words[0] } else { line };
        seen.note("df", format!("{shown} {}", words.len()));
    }
}

fn copies_at_the_far_end(world: &World, seen: &mut Seen) {
    write_file(&world.path("bulk"), 3_000_001, 5);
    in_directory(
        world,
        seen,
        "cp one copy
cp ../bulk bulk
cp bulk two
cp link copy-of-link
-cp one one
-cp sub copy-of-sub
-cp one sub
-cp one /dev/full
-cp one /proc/nothing
-cp /proc/version version
",
    );
}

fn homes_and_paths(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    let directory = world.text("");
    let script = format!(
        "pwd\ncd /\npwd\ncd /usr/../tmp/./\npwd\ncd {directory}\npwd\ncd ~\npwd\n-cd ~root\n-pwd\n-cd ~no-such-user\npwd\n\
         -ls -d ~\n-cd \"\"\npwd\nlpwd\nversion\nhelp\n"
    );
    let run = sftp(world, &[], script).directory(&world.path(""));
    seen.run("paths", run);
}

fn devices(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    let directory = world.text("");
    let script = format!(
        "lcd {directory}\nls -ln /dev/null\n-get /dev/null null\n-get /proc/version\n-get /proc/self/cmdline none\n\
         -put {directory}/null /dev/null\n-ls -1 /proc/self/task/none\n"
    );
    let output = sftp(world, &[], script).output();
    seen.note("status", output.code);
    seen.bytes("stderr", output.stderr.as_bytes());
    seen.file("version", &world.path("version"));
    seen.file("null", &world.path("null"));
}
