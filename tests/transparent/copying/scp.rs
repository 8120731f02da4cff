//! scp, by SFTP (`-s`) and by its own old protocol (`-O`).

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::{SIZES, far, make_odd, odd_names, set_time};
use crate::common::files::{make_tree, write_file};
use crate::common::have;
use crate::common::process::Run;
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        sizes,
        options,
        times_and_modes,
        trees,
        odd_names_up_and_down,
        odd_names_one_by_one,
        globs,
        links_and_holes,
        failures_up,
        failures_down,
        partial_failures,
        between_two_remote_paths,
    }
}

const PROTOCOLS: [&str; 2] = ["-s", "-O"];

fn scp(world: &World, options: &[&str]) -> Run {
    // Names are shown as they are on this terminal, so which one it is must not matter.
    world.scp(options).env("LC_ALL", "C.UTF-8")
}

/// Runs `case` by each protocol in a directory of its own, and records the directory afterwards.
fn by_each_protocol(world: &World, seen: &mut Seen, mut case: impl FnMut(&mut Seen, &str, &Path)) {
    if !have("scp") {
        seen.note("scp", "missing");
        return;
    }
    for protocol in PROTOCOLS {
        let directory = world.path(&format!("by{protocol}"));
        fs::create_dir(&directory).expect("our own directory");
        case(seen, protocol, &directory);
        seen.tree(protocol, &directory);
    }
}

fn sizes(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let [here, there, back] = ["here", "there", "back"].map(|name| directory.join(name));
        for path in [&here, &there, &back] {
            fs::create_dir(path).expect("our own directory");
        }
        let files = SIZES.map(|size| here.join(size.to_string()));
        for (file, size) in files.iter().zip(SIZES) {
            write_file(file, size, size as u64);
        }
        let up = scp(world, &[protocol]).args(&files).arg(far(world, &there));
        assert_eq!(seen.run(&format!("{protocol} up"), up).code, 0);
        let there = SIZES.map(|size| far(world, there.join(size.to_string())));
        let down = scp(world, &[protocol]).args(there).arg(&back);
        assert_eq!(seen.run(&format!("{protocol} down"), down).code, 0);
    });
}

/// Compression, a rate limit, and SFTP requests of odd sizes and numbers.
fn options(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let here = directory.join("here");
        write_file(&here, 300_001, 1);
        let options: [&[&str]; 6] = [
            &["-C"],
            &["-l", "20000"],
            &["-q"],
            &["-X", "nrequests=1"],
            &["-X", "buffer=1000"],
            &["-C", "-p", "-X", "nrequests=500"],
        ];
        for (index, options) in options.into_iter().enumerate() {
            let there = directory.join(format!("there {index}"));
            let back = directory.join(format!("back {index}"));
            let options = [&[protocol], options].concat();
            let up = scp(world, &options).arg(&here).arg(far(world, &there));
            seen.run(&format!("{options:?} up"), up);
            let down = scp(world, &options).arg(far(world, &there)).arg(&back);
            seen.run(&format!("{options:?} down"), down);
        }
    });
}

fn times_and_modes(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let here = directory.join("here");
        fs::create_dir(&here).expect("our own directory");
        for (seconds, mode) in [
            (0, 0o400),
            (1, 0o755),
            (1_000_000_000, 0o4755),
            (2_147_483_648, 0o2470),
            (4_000_000_000, 0o666),
        ] {
            let file = here.join(format!("{mode:o}"));
            fs::write(&file, "text").expect("our own directory");
            set_time(&file, seconds);
            fs::set_permissions(&file, Permissions::from_mode(mode)).expect("our own file");
        }
        fs::create_dir(here.join("sub")).expect("our own directory");
        set_time(&here.join("sub"), 86_400);
        fs::set_permissions(here.join("sub"), Permissions::from_mode(0o1705))
            .expect("our own directory");
        set_time(&here, 1_234_567_890);

        let [there, back] = ["there", "back"].map(|name| directory.join(name));
        let up = scp(world, &[protocol, "-rp"])
            .arg(&here)
            .arg(far(world, &there));
        seen.run(&format!("{protocol} up"), up);
        let down = scp(world, &[protocol, "-rp"])
            .arg(far(world, &there))
            .arg(&back);
        seen.run(&format!("{protocol} down"), down);
        for path in [&here, &there, &back] {
            seen.times(protocol, path);
        }
        // Without -p the far end's umask decides.
        let up = scp(world, &[protocol, "-r"])
            .arg(&here)
            .arg(far(world, directory.join("plain")));
        seen.run(&format!("{protocol} without times"), up);
    });
}

/// Into a directory that exists and into one that does not, and over itself.
fn trees(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let here = directory.join("here");
        make_tree(&here);
        let there = directory.join("there");
        for time in ["first", "second"] {
            let up = scp(world, &[protocol, "-r"])
                .arg(&here)
                .arg(far(world, &there));
            seen.run(&format!("{protocol} up, {time}"), up);
            let down = scp(world, &[protocol, "-r"])
                .arg(far(world, &there))
                .arg(directory.join("back"));
            seen.run(&format!("{protocol} down, {time}"), down);
        }
    });
}

fn odd_names_up_and_down(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        make_odd(&directory.join("odd"));
        let up = scp(world, &[protocol, "-r"])
            .arg(directory.join("odd"))
            .arg(far(world, directory.join("there")));
        seen.run(&format!("{protocol} up"), up);
        let down = scp(world, &[protocol, "-r"])
            .arg(far(world, directory.join("there")))
            .arg(directory.join("back"));
        seen.run(&format!("{protocol} down"), down);
    });
}

/// The old protocol has the far shell read the name, SFTP has the client expand its patterns.
fn odd_names_one_by_one(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        make_odd(&directory.join("odd"));
        let troublesome = odd_names().into_iter().filter(|name| {
            let shown = name.escape_ascii().to_string();
            ["'", "new", "HOME", "star", "not", "-rf"]
                .iter()
                .any(|part| shown.contains(part))
        });
        for (index, name) in troublesome.enumerate() {
            let path = directory
                .join("odd")
                .join(std::ffi::OsString::from_vec(name));
            let down = scp(world, &[protocol])
                .arg(far(world, &path))
                .arg(directory.join(format!("down {index}")));
            let mut output = down.output();
            // A name with a line end is a command of its own for `-O`, and either may speak first.
            let mut lines: Vec<_> = output.stderr.lines().collect();
            lines.sort_unstable();
            output.stderr = lines.join("\n");
            seen.output(&format!("{protocol} down {index}"), &output);
            let up = scp(world, &[protocol])
                .arg(&path)
                .arg(far(world, directory.join(format!("up {index}"))));
            seen.run(&format!("{protocol} up {index}"), up);
        }
    });
}

fn globs(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let odd = directory.join("odd");
        make_odd(&odd);
        for (index, pattern) in ["*[ ]*", "{plain,-rf,none}", "n?*", "none*", "\\*"]
            .into_iter()
            .enumerate()
        {
            let to = directory.join(format!("pattern {index}"));
            fs::create_dir(&to).expect("our own directory");
            let down = scp(world, &[protocol])
                .arg(far(world, odd.join(pattern)))
                .arg(&to);
            seen.run(&format!("{protocol} {pattern}"), down);
        }
    });
}

/// Links are followed, dangling and circular ones are failures, and holes become zeros.
fn links_and_holes(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let here = directory.join("here");
        fs::create_dir_all(here.join("sub")).expect("our own directory");
        fs::write(here.join("file"), "text").expect("our own directory");
        for (to, name) in [
            ("file", "a link"),
            ("sub", "b directory link"),
            ("nowhere", "c dangling"),
            ("d itself", "d itself"),
        ] {
            symlink(to, here.join(name)).expect("our own directory");
        }
        let sparse = File::create(here.join("sparse")).expect("our own directory");
        sparse.set_len(3 << 20).expect("our own file");
        sparse
            .write_at(b"island", (1 << 20) + 5)
            .expect("our own file");

        let there = directory.join("there");
        let up = scp(world, &[protocol, "-r"])
            .arg(&here)
            .arg(far(world, &there));
        seen.run(&format!("{protocol} up"), up);
        let down = scp(world, &[protocol, "-r"])
            .arg(far(world, &here))
            .arg(directory.join("back"));
        seen.run(&format!("{protocol} down"), down);
    });
}

fn failures_up(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let [here, tree] = ["here", "tree"].map(|name| directory.join(name));
        write_file(&here, 200_000, 3);
        fs::create_dir(&tree).expect("our own directory");
        let long = "n".repeat(256);
        for to in [
            "/dev/full",
            "/proc/nothing",
            "/no/such/directory/file",
            "here/below-a-file",
            "tree/",
            "none/",
            &long,
            "",
        ] {
            // An absolute path replaces what it is joined to.
            let mut to_path = directory.join(to);
            if to.is_empty() {
                to_path.clone_from(&directory.join("tree"));
            }
            let up = scp(world, &[protocol]).arg(&here).arg(far(world, &to_path));
            seen.run(&format!("{protocol} to {to}"), up);
        }
        let up = scp(world, &[protocol])
            .arg(&tree)
            .arg(far(world, directory.join("copy")));
        let output = seen.run(&format!("{protocol} a directory without -r"), up);
        assert_eq!(output.code, 1);
        let up = scp(world, &[protocol, "-r"])
            .arg(&tree)
            .arg(far(world, &here));
        let output = seen.run(&format!("{protocol} a directory onto a file"), up);
        assert_ne!(output.code, 0);
    });
}

fn failures_down(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let [here, tree] = ["here", "tree"].map(|name| directory.join(name));
        write_file(&here, 200_000, 3);
        fs::create_dir(&tree).expect("our own directory");
        let long = "n".repeat(256);
        // Opens and does not read, even for root; sshd keeps its own from anybody else.
        let unreadable = match rustix::process::geteuid().is_root() {
            true => "/proc/self/mem",
            false => "missing",
        };
        for from in [
            "missing",
            "tree",
            "here/below-a-file",
            unreadable,
            // Says that it is empty, and is not.
            "/proc/version",
            "/dev/null",
            &long,
        ] {
            let down = scp(world, &[protocol])
                .arg(far(world, directory.join(from)))
                .arg(directory.join("down"));
            seen.run(&format!("{protocol} from {from}"), down);
        }
        for to in ["/dev/full", "/no/such/directory/file", "here/below"] {
            let down = scp(world, &[protocol])
                .arg(far(world, &here))
                .arg(directory.join(to));
            let output = seen.run(&format!("{protocol} to {to}"), down);
            assert_ne!(output.code, 0);
        }
    });
}

/// What can be copied is, and the status tells of the rest.
fn partial_failures(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let [here, there, back] = ["here", "there", "back"].map(|name| directory.join(name));
        for path in [&here, &there, &back] {
            fs::create_dir(path).expect("our own directory");
        }
        for name in ["first", "last"] {
            fs::write(here.join(name), name).expect("our own directory");
        }
        fs::create_dir(here.join("directory")).expect("our own directory");
        let names = ["first", "missing", "directory", "last"];
        let up = scp(world, &[protocol])
            .args(names.map(|name| here.join(name)))
            .arg(far(world, &there));
        let output = seen.run(&format!("{protocol} up"), up);
        assert_ne!(output.code, 0);
        let down = scp(world, &[protocol])
            .args(names.map(|name| far(world, here.join(name))))
            .arg(&back);
        let output = seen.run(&format!("{protocol} down"), down);
        assert_ne!(output.code, 0);
        // One file of a tree that cannot be replaced: a directory stands there.
        fs::create_dir_all(directory.join("blocked/here/first")).expect("our own directory");
        let up = scp(world, &[protocol, "-r"])
            .arg(&here)
            .arg(far(world, directory.join("blocked")));
        seen.run(&format!("{protocol} a blocked file"), up);
    });
}

fn between_two_remote_paths(world: &World, seen: &mut Seen) {
    by_each_protocol(world, seen, |seen, protocol, directory| {
        let here = directory.join("here");
        make_tree(&here);
        set_time(&here.join("a directory/tool.sh"), 1_000_000_001);
        let through = |options: &[&str], from: &str, to: &str| {
            scp(world, &[&[protocol, "-3"], options].concat())
                .arg(far(world, directory.join(from)))
                .arg(far(world, directory.join(to)))
        };
        let run = through(&["-p"], "here/a directory/tool.sh", "there");
        seen.run(&format!("{protocol} file"), run);
        // Both ends' old scp disagree about a tree with a link or a name with spaces; whatever they say counts.
        seen.run(
            &format!("{protocol} tree"),
            through(&["-rp"], "here", "there tree"),
        );
        seen.run(
            &format!("{protocol} missing"),
            through(&[], "missing", "none"),
        );
        let full = through(&[], "here/a directory/deep/er/big.bin", "/dev/full");
        seen.run(&format!("{protocol} full"), full);
    });
}
