//! sftp in batch mode: transfers, resumption, listings, and many at once.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::{SIZES, make_odd, odd_names, set_time};
use crate::common::files::{make_tree, sha256_of, write_file};
use crate::common::have;
use crate::common::process::Run;
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {
        // The embedded server does not tell the names of users and groups.
        long_listing,
        large_listing,
    }
    everywhere: {
        transfers_with_options,
        resumed_transfers,
        trees_with_times,
        odd_names_in_batch,
        several_on_one_connection,
        server_program_by_path,
    }
}

/// `sftp OPTIONS… -b - HOST` with `script` on standard input.
pub(super) fn sftp(world: &World, options: &[&str], script: impl AsRef<[u8]>) -> Run {
    Run::new("sftp")
        .args(options)
        .args(world.target.options("-P"))
        .args(["-b", "-"])
        .arg(world.target.host())
        .stdin(script)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
}

fn transfers_with_options(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    let options: [&[&str]; 7] = [
        &[],
        &["-R", "1"],
        &["-B", "32768"],
        &["-B", "1000", "-R", "200"],
        &["-f"],
        &["-p", "-C"],
        &["-B", "300000"],
    ];
    for (index, options) in options.into_iter().enumerate() {
        let directory = world.path(&format!("run {index}"));
        fs::create_dir_all(directory.join("there")).expect("our own directory");
        fs::create_dir(directory.join("back")).expect("our own directory");
        let mut script = format!("lcd \"{0}\"\ncd \"{0}/there\"\n", directory.display());
        // Requests of a thousand bytes, or one after another, are slow: the small sizes will do.
        let count = if index == 0 { SIZES.len() } else { 6 };
        for size in SIZES.into_iter().take(count) {
            write_file(&directory.join(size.to_string()), size, size as u64);
            set_time(&directory.join(size.to_string()), 1_000_000_000);
            script += &format!("put {size}\nget {size} back/{size}\n");
        }
        let output = seen.run(&format!("{options:?}"), sftp(world, options, script));
        assert_eq!(output.code, 0);
        seen.tree(&format!("{options:?}"), &directory);
        if options.contains(&"-p") {
            seen.times("times", &directory.join("there").join("1"));
            seen.times("times", &directory.join("back").join("1"));
        }
    }
}

fn resumed_transfers(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    let here = world.path("whole");
    write_file(&here, 700_001, 9);
    let whole = fs::read(&here).expect("our own file");
    for (name, length) in [("half", 350_000), ("equal", 700_001), ("none", 0)] {
        fs::write(world.path(name), &whole[..length]).expect("our own directory");
    }
    let mut longer = whole.clone();
    longer.extend_from_slice(b"more");
    fs::write(world.path("longer"), &longer).expect("our own directory");
    // sftp does not look at what is there already.
    fs::write(world.path("other"), vec![b'x'; 1000]).expect("our own directory");

    let mut script = format!("lcd {0}\ncd {0}\n", world.text(""));
    let mut copies = Vec::new();
    for name in ["half", "equal", "none", "longer", "other", "missing"] {
        for command in ["reput", "put -a", "reget", "get -a", "get -af", "put -af"] {
            let copy = format!("copy {name} {command}");
            let _missing = fs::copy(world.path(name), world.path(&copy));
            script += &format!("-{command} whole \"{copy}\"\n");
            copies.push(copy);
        }
    }
    seen.run("resumed", sftp(world, &[], script));
    for copy in copies {
        seen.file(&copy, &world.path(&copy));
    }
}

fn trees_with_times(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    let here = world.path("here");
    make_tree(&here);
    symlink("nowhere", here.join("dangling")).expect("our own directory");
    for (index, name) in ["empty", "a directory/tool.sh", "a directory"]
        .into_iter()
        .enumerate()
    {
        set_time(&here.join(name), 1_000_000_000 + index as u64);
    }
    let script = format!(
        "lcd {0}\ncd {0}\nput -Rp here there\nget -Rp there back\nput -R here plain\n-put here none\n-get there none\n",
        world.text("")
    );
    let output = seen.run("trees", sftp(world, &[], script));
    assert_eq!(output.code, 0);
    for name in ["there", "back", "plain"] {
        seen.tree(name, &world.path(name));
    }
    for name in ["empty", "a directory/tool.sh"] {
        seen.times(name, &world.path("there").join(name));
        seen.times(name, &world.path("back").join(name));
    }
}

/// All kinds of files, old and new, as `ls -l` shows them: by the server's own words and by the client's.
fn long_listing(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    let parent = world.path("parent");
    let directory = parent.join("listed");
    fs::create_dir_all(&directory).expect("our own directory");
    make_kinds(&directory);
    set_time(&directory, 1_000_000_100);
    set_time(&parent, 1_000_000_200);
    let mut script = format!("cd {}\n", directory.display());
    for options in [
        "", "-1", "-a", "-l", "-la", "-lh", "-ln", "-lS", "-lt", "-ltr", "-lf", "-lSr", "-1r",
    ] {
        script += &format!("pwd\nls {options}\n");
    }
    script += "ls -l old\nls -l sub\nls -l s*\nls -ln link\n-ls -d .\n-ls missing\n-ls none*\n";
    let output = seen.run("listings", sftp(world, &[], script));
    assert_eq!(output.code, 0, "{output:?}");
}

/// Files of each kind that need no chance to be the same in each run.
fn make_kinds(directory: &Path) {
    let files = [
        ("old", 100, 0o644, 1_000_000_000),
        ("older", 12_345_678, 0o4711, 5_000),
        ("sticky", 0, 0o1600, 1_100_000_000),
        ("unreadable", 5, 0o000, 1_200_000_000),
        // Later than now: a listing shows the year.
        ("future", 1, 0o666, 4_000_000_000),
    ];
    for (name, size, mode, time) in files {
        let file = File::create(directory.join(name)).expect("our own directory");
        file.set_len(size).expect("our own file");
        set_time(&directory.join(name), time);
        fs::set_permissions(directory.join(name), Permissions::from_mode(mode))
            .expect("our own file");
    }
    fs::hard_link(directory.join("old"), directory.join("second name")).expect("our own file");
    fs::create_dir(directory.join("sub")).expect("our own directory");
    set_time(&directory.join("sub"), 1_300_000_000);
    symlink("old", directory.join("link")).expect("our own directory");
    // A link's own time is that of now, so only its target is listed with one: see the batch's `ls -ln link`.
    Run::new("touch")
        .args(["-h", "-d", "@1400000000"])
        .arg(directory.join("link"))
        .ok();
}

fn large_listing(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    let parent = world.path("many");
    let directory = parent.join("many");
    fs::create_dir_all(&directory).expect("our own directory");
    for number in 0..2000_u64 {
        let path = directory.join(format!(
            "file number {:04} {}",
            number * 7919 % 2000,
            "x".repeat(40)
        ));
        fs::write(&path, vec![b'x'; (number % 97) as usize]).expect("our own directory");
        set_time(&path, 1_000_000_000 + number * 1000);
    }
    set_time(&directory, 1_000_000_000);
    set_time(&parent, 1_000_000_000);
    for options in ["-1", "-la", "-ltr", "-lnS"] {
        let script = format!("ls {options} {}\n", directory.display());
        let output = seen.run(&format!("ls {options}"), sftp(world, &[], script));
        assert_eq!(output.code, 0);
        let lines = output.text().lines().count();
        assert!(lines >= 2000, "{lines} lines");
    }
    // In the order of the directory: the same names, whatever their order.
    let output = sftp(world, &[], format!("ls -f1 {}\n", directory.display())).ok();
    let mut lines: Vec<_> = output.text().lines().map(str::to_owned).collect();
    lines.sort();
    seen.note("unsorted", sha256_of(lines.concat().as_bytes()).len());
}

/// Names in quotes with what sftp wants escaped, by each command that takes names.
fn odd_names_in_batch(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    make_odd(&world.path("odd"));
    fs::create_dir(world.path("there")).expect("our own directory");
    fs::create_dir(world.path("back")).expect("our own directory");
    let mut script = format!("lcd {0}\ncd {0}\n", world.text("")).into_bytes();
    for name in odd_names() {
        // A batch is lines, so a line end cannot be part of a name.
        if name.contains(&b'\n') {
            continue;
        }
        let quoted: Vec<u8> = name
            .iter()
            .flat_map(|&byte| match byte {
                b'"' | b'\\' | b'*' | b'?' | b'[' | b'\'' => vec![b'\\', byte],
                _ => vec![byte],
            })
            .collect();
        let path = [b"\"odd/", &quoted[..], b"\""].concat();
        let far = [b"\"there/", &quoted[..], b"\""].concat();
        let back = [b"\"back/", &quoted[..], b"\""].concat();
        for (command, from, to) in [
            (&b"-put"[..], &path, &far),
            (b"-get", &far, &back),
            (b"-chmod 640", &far, &Vec::new()),
            (b"-ls -1", &far, &Vec::new()),
        ] {
            script.extend_from_slice(&[command, b" ", from, b" ", to, b"\n"].concat());
        }
    }
    script.extend_from_slice(b"ls -1 there\nls -1a odd\nget there/* back\n");
    seen.run("odd names", sftp(world, &[], script));
    for name in ["there", "back"] {
        seen.tree(name, &world.path(name));
    }
    let text = std::ffi::OsString::from_vec(b"not \xff UTF-8 \xc3".to_vec());
    seen.file("not UTF-8", &world.path("there").join(text));
}

/// Sixteen sessions of one connection, each moving a file up and down.
fn several_on_one_connection(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    let socket = world.text("control");
    let _master = world.master(&socket);
    let clients: Vec<_> = (0..16_u64)
        .map(|number| {
            let size = 200_000 + usize::try_from(number).expect("small") * 40_000;
            write_file(&world.path(&format!("file {number}")), size, number);
            let script = format!(
                "lcd {0}\ncd {0}\nput \"file {number}\" \"there {number}\"\nget \"there {number}\" \"back {number}\"\n",
                world.text("")
            );
            let path = format!("ControlPath={socket}");
            let client = sftp(world, &["-o", &path], script);
            std::thread::spawn(move || client.output())
        })
        .collect();
    let outputs: Vec<_> = clients
        .into_iter()
        .map(|client| client.join().expect("no panic"))
        .collect();
    for (number, output) in outputs.iter().enumerate() {
        seen.output(&format!("client {number}"), output);
        seen.file("there", &world.path(&format!("there {number}")));
        seen.file("back", &world.path(&format!("back {number}")));
    }
}

/// `sftp -s PATH`: a server that is a program, run by exec, and one that is none.
fn server_program_by_path(world: &World, seen: &mut Seen) {
    if !have("sftp") {
        return seen.note("sftp", "missing");
    }
    fs::write(world.path("file"), "text").expect("our own directory");
    let script = format!("get {0}/file {0}/back\n", world.path("").display());
    for server in [
        "/usr/lib/openssh/sftp-server",
        "/no/such/program",
        "none-such-subsystem",
        "/bin/true",
        "/bin/echo not sftp at all",
        "/bin/cat",
    ] {
        let run = sftp(world, &["-s", server], &script);
        seen.run(server, run);
    }
    seen.file("back", &world.path("back"));
    let sparse = File::create(world.path("sparse")).expect("our own directory");
    sparse.write_at(b"end", 1 << 22).expect("our own file");
    let script = format!("cd {0}\nlcd {0}\nget sparse sparse-back\n", world.text(""));
    seen.run("sparse", sftp(world, &[], script));
    seen.file("sparse", &world.path("sparse-back"));
}
