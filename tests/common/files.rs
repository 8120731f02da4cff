//! Files with known contents, and their digests.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::flow::{CHUNK, Pattern};

/// Writes a file of `bytes` incompressible bytes that differ for each `seed`.
pub(crate) fn write_file(path: &Path, bytes: usize, seed: u64) {
    let pattern = Pattern::new(seed);
    let mut file = File::create(path).expect("a file in our own directory");
    let mut left = bytes;
    for index in 0.. {
        if left == 0 {
            break;
        }
        let count = left.min(CHUNK);
        file.write_all(&pattern.chunk(index)[..count])
            .expect("the disk takes the file");
        left -= count;
    }
}

/// The SHA-256 of a file, in hexadecimal as `sha256sum` prints it.
pub(crate) fn sha256(path: &Path) -> String {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = file.read(&mut chunk).expect("the file reads");
        if count == 0 {
            break;
        }
        digest.update(&chunk[..count]);
    }
    hexadecimal(digest.finish().as_ref())
}

/// The SHA-256 of `bytes`, as [`sha256`] gives it.
pub(crate) fn sha256_of(bytes: &[u8]) -> String {
    hexadecimal(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asserts that two files are equal, byte for byte, by their digests.
#[track_caller]
pub(crate) fn assert_same(left: &Path, right: &Path) {
    assert_eq!(
        sha256(left),
        sha256(right),
        "{} and {} differ",
        left.display(),
        right.display()
    );
}

/// Makes a small tree with what copies get wrong: empty files, spaces, an executable, a link, depth.
pub(crate) fn make_tree(root: &Path) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    fs::create_dir_all(root.join("a directory/deep/er")).expect("our own directory");
    fs::write(root.join("empty"), b"").expect("our own directory");
    fs::write(root.join("a directory/mit Umlaut \u{e4}"), "text\n").expect("our own directory");
    write_file(&root.join("a directory/deep/er/big.bin"), 3 * CHUNK + 17, 7);
    let tool = root.join("a directory/tool.sh");
    fs::write(&tool, "#!/bin/sh\nexit 0\n").expect("our own directory");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o750)).expect("our own file");
    symlink("a directory/tool.sh", root.join("link")).expect("our own directory");
}

/// Everything below `root`, as sorted lines of path, mode and contents or link.
pub(crate) fn describe_tree(root: &Path) -> Vec<String> {
    fn visit(root: &Path, directory: &Path, lines: &mut Vec<String>) {
        use std::os::unix::fs::PermissionsExt;
        for entry in fs::read_dir(directory).expect("a directory reads") {
            let path = entry.expect("a directory reads").path();
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .display()
                .to_string();
            let meta = fs::symlink_metadata(&path).expect("what is listed exists");
            let mode = meta.permissions().mode() & 0o777;
            if meta.is_symlink() {
                let to = fs::read_link(&path).expect("a link reads");
                lines.push(format!("{name} -> {}", to.display()));
            } else if meta.is_dir() {
                lines.push(format!("{name}/"));
                visit(root, &path, lines);
            } else {
                lines.push(format!("{name} {mode:o} {}", sha256(&path)));
            }
        }
    }
    let mut lines = Vec::new();
    visit(root, root, &mut lines);
    lines.sort();
    lines
}

/// Makes a named pipe: the far end's program reads or writes it, the test holds the other end.
pub(crate) fn fifo(path: PathBuf) -> PathBuf {
    super::process::Run::new("mkfifo").arg(&path).ok();
    path
}
