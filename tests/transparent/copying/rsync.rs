//! rsync, whose both ends talk at once: what it did, what it sent, and its exit codes.

use std::fs;
use std::path::Path;

use super::{far, make_odd, set_time};
use crate::common::files::{make_tree, write_file};
use crate::common::have;
use crate::common::process::{Output, Run};
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        changes_are_little,
        trees_both_ways,
        odd_names_both_ways,
        deletions,
        options,
        many_small_files,
        failures,
    }
}

fn rsync(world: &World, options: &[&str]) -> Run {
    Run::new("rsync")
        .args(["-e", &world.ssh_command()])
        .args(options)
        .env("LC_ALL", "C.UTF-8")
}

/// Records what does not depend on how fast it went.
fn record(seen: &mut Seen, label: &str, run: Run) -> Output {
    let output = run.output();
    seen.note(&format!("{label}: status"), output.code);
    seen.bytes(&format!("{label}: stderr"), output.stderr.as_bytes());
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        // How long it took, how fast it was, and what the times of the files add to the list of them.
        if ![
            "bytes/sec",
            "seconds",
            "Total bytes",
            "speedup",
            "File list size",
        ]
        .iter()
        .any(|word| line.contains(word))
        {
            seen.bytes(label, line.as_bytes());
        }
    }
    output
}

/// The delta algorithm: signatures one way, blocks and the bytes between them the other way.
fn changes_are_little(world: &World, seen: &mut Seen) {
    if !have("rsync") {
        return seen.note("rsync", "missing");
    }
    let (here, there) = (world.path("here"), world.path("there"));
    write_file(&here, 5_000_011, 5);
    let options = ["-a", "--stats", "-i", "--no-whole-file"];
    let up = || rsync(world, &options).arg(&here).arg(far(world, &there));
    record(seen, "first", up());
    record(seen, "again", up());
    for change in 1..4_u64 {
        let mut bytes = fs::read(&here).expect("our own file");
        let at = bytes.len() / 3;
        match change {
            1 => bytes[at] ^= 0xff,
            2 => {
                bytes.splice(at..at, *b"bytes that move all that follows");
            }
            _ => bytes.truncate(at * 2),
        }
        fs::write(&here, bytes).expect("our own file");
        set_time(&here, 1_000_000_000 + change);
        let output = record(seen, &format!("change {change}"), up());
        let text = output.text();
        let literal = text.lines().find(|line| line.starts_with("Literal data"));
        let literal: String = literal
            .unwrap_or_default()
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        let literal: u64 = literal.parse().expect("--stats tells");
        assert!(literal < 10_000, "{text}");
        seen.file("there", &there);
        let down = rsync(world, &options)
            .arg(far(world, &there))
            .arg(world.path("back"));
        record(seen, &format!("change {change} down"), down);
        seen.file("back", &world.path("back"));
    }
}

fn trees_both_ways(world: &World, seen: &mut Seen) {
    if !have("rsync") {
        return seen.note("rsync", "missing");
    }
    make_tree(&world.path("here"));
    set_time(&world.path("here/a directory/tool.sh"), 1_000_000_000);
    fs::hard_link(world.path("here/empty"), world.path("here/also empty")).expect("our own file");
    for options in [&["-aH"][..], &["-az"], &["-rlt", "--chmod=F600"]] {
        let (there, back) = (
            format!("there {}", options.concat()),
            format!("back {}", options.concat()),
        );
        let options = [options, &["-i", "--stats"]].concat();
        let up = rsync(world, &options)
            .arg(world.path("here/"))
            .arg(far(world, world.path(&there)));
        record(seen, &format!("{options:?} up"), up);
        let down = rsync(world, &options)
            .arg(far(world, world.path(&there).join("")))
            .arg(world.path(&back));
        record(seen, &format!("{options:?} down"), down);
        seen.tree(&there, &world.path(&there));
        seen.tree(&back, &world.path(&back));
        seen.times(&back, &world.path(&back).join("a directory/tool.sh"));
    }
}

fn odd_names_both_ways(world: &World, seen: &mut Seen) {
    if !have("rsync") {
        return seen.note("rsync", "missing");
    }
    make_odd(&world.path("odd"));
    let up = rsync(world, &["-ai"])
        .arg(world.path("odd"))
        .arg(far(world, world.path("there here's")));
    record(seen, "up", up);
    let down = rsync(world, &["-ai", "-8"])
        .arg(far(world, world.path("there here's/odd")))
        .arg(world.path("back"));
    record(seen, "down", down);
    seen.tree("there", &world.path("there here's"));
    seen.tree("back", &world.path("back"));
}

fn deletions(world: &World, seen: &mut Seen) {
    if !have("rsync") {
        return seen.note("rsync", "missing");
    }
    let (here, there) = (world.path("here"), world.path("there"));
    make_tree(&here);
    make_tree(&there);
    fs::remove_dir_all(here.join("a directory/deep")).expect("the tree has it");
    fs::remove_file(here.join("empty")).expect("the tree has it");
    fs::write(there.join("extra"), "more").expect("our own directory");
    let run = |options: &[&str]| {
        rsync(
            world,
            &[&["-ai", "--stats", "--size-only"], options].concat(),
        )
        .arg(here.join(""))
        .arg(far(world, &there))
    };
    record(seen, "dry run", run(&["--delete", "-n"]));
    seen.tree("after the dry run", &there);
    let output = record(seen, "too many", run(&["--delete", "--max-delete=1"]));
    assert_eq!(output.code, 25);
    record(seen, "all", run(&["--delete-after"]));
    seen.tree("after all", &there);
}

fn options(world: &World, seen: &mut Seen) {
    if !have("rsync") {
        return seen.note("rsync", "missing");
    }
    let here = world.path("here");
    write_file(&here, 2_000_003, 6);
    for (index, options) in [
        &["--partial", "--append"][..],
        &["--inplace", "--no-whole-file"],
        &["--compress-level=9", "-z"],
        &["--checksum", "--no-whole-file"],
        &["--bwlimit=20000"],
        &["--sparse"],
        &["--blocking-io"],
        &["--protocol=29", "--no-whole-file"],
        &["--files-from=-", "--from0"],
    ]
    .into_iter()
    .enumerate()
    {
        let there = world.path(&format!("there {index}"));
        let mut half = fs::read(&here).expect("our own file");
        half.truncate(1_000_000);
        let names = options[0].starts_with("--files");
        if !names {
            fs::write(&there, &half).expect("our own directory");
        }
        let from = if names { world.path("") } else { here.clone() };
        let run = rsync(world, &[options, &["-i", "--stats"]].concat())
            .arg(from)
            .arg(far(world, &there))
            .stdin(b"here\0missing\0");
        record(seen, &format!("{options:?}"), run);
        seen.tree(&format!("{options:?}"), &there);
    }
}

fn many_small_files(world: &World, seen: &mut Seen) {
    if !have("rsync") {
        return seen.note("rsync", "missing");
    }
    let here = world.path("here");
    fs::create_dir(&here).expect("our own directory");
    for number in 0..1500 {
        let text = "y".repeat(number % 300);
        fs::write(here.join(format!("{number:04}")), text).expect("our own directory");
    }
    let up = rsync(world, &["-a", "--stats"])
        .arg(&here)
        .arg(far(world, world.path("there")));
    record(seen, "up", up);
    let down = rsync(world, &["-az", "--stats"])
        .arg(far(world, world.path("there/here")))
        .arg(world.path("back"));
    record(seen, "down", down);
    let names = |path: &Path| crate::common::files::describe_tree(path).join("\n");
    seen.bytes("back", names(&world.path("back/here")).as_bytes());
}

fn failures(world: &World, seen: &mut Seen) {
    if !have("rsync") {
        return seen.note("rsync", "missing");
    }
    let here = world.path("here");
    write_file(&here, 200_000, 7);
    fs::create_dir(world.path("directory")).expect("our own directory");
    fs::create_dir_all(world.path("taken/here/below")).expect("our own directory");
    let to = |name: &str| far(world, world.path("").join(name));
    let local = |name: &str| world.path(name).into_os_string();
    let local_here = || here.clone().into_os_string();
    for (label, options, from, to) in [
        ("missing down", &["-a"][..], to("missing"), local("x")),
        ("missing up", &["-a"], local("missing"), to("x")),
        (
            "no far program",
            &["--rsync-path=/no/such"],
            local_here(),
            to("x"),
        ),
        (
            "far program fails",
            &["--rsync-path=exit 7;"],
            local_here(),
            to("x"),
        ),
        (
            "far program is none",
            &["--rsync-path=/bin/cat"],
            local_here(),
            to("x"),
        ),
        (
            "far program talks",
            &["--rsync-path=echo hello;"],
            local_here(),
            to("x"),
        ),
        ("no ssh", &["-e", "/no/such/ssh"], local_here(), to("x")),
        ("no directory", &["-a"], local_here(), to("none/none/x")),
        (
            "below a file",
            &["--inplace"],
            local_here(),
            to("here/below"),
        ),
        ("directory without -r", &[], to("directory"), local("x")),
        (
            "a directory is there",
            &["-a", "--no-recursive"],
            local_here(),
            to("taken"),
        ),
        (
            "silence",
            &["--timeout=1", "--rsync-path=exec sleep 30;"],
            local_here(),
            to("x"),
        ),
        ("bad option", &["--no-such-option"], local_here(), to("x")),
    ] {
        let run = rsync(world, options).arg(from).arg(to);
        // rsync looks at its ssh's status without waiting for it, and leaves with the far end's last words unread.
        let is_chance = ["far", "no", "below"]
            .iter()
            .any(|start| label.starts_with(start));
        let output = if is_chance {
            let output = run.output();
            seen.note(label, output.code != 0);
            output
        } else {
            record(seen, label, run)
        };
        assert_eq!(output.code == 0, options.is_empty(), "{label}: {output:?}");
    }
}
