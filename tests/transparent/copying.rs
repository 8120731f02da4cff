//! The programs that copy over ssh, their outcomes and their words: scp, sftp, rsync, git, tar, pipes.
//!
//! Tests may run as root, so a case changes nothing outside of its own directory. What a client merely opens and writes
//! may be `/dev/full`; rsync, which replaces what it writes to, must never be given a device.

mod git;
mod pipes;
mod rsync;
mod scp;
mod sftp;
mod sftp_files;
mod sftp_packets;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::common::world::World;

/// Sizes around the packets, windows and buffers on the way.
const SIZES: [usize; 8] = [0, 1, 32_767, 32_768, 32_769, 65_537, 1 << 20, (2 << 20) + 1];

/// Names that get lost where a name is not passed on as the bytes it is.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "plain",
        "two  spaces",
        " leading and trailing ",
        "-rf",
        "--help",
        "single'quote",
        "double\"quote",
        "back\\slash",
        "new\nline",
        "tab\tand\x07bell",
        "$HOME `id` $(id)",
        "star*and?[a-z]",
        "*",
        "{a,b}",
        "semi;colon&and|pipe",
        "#comment",
        "~tilde",
        "colon:in:it",
        "\u{e4}\u{1f600}",
    ]
    .map(|name| name.as_bytes().to_vec())
    .into();
    names.push(b"not \xff UTF-8 \xc3".to_vec());
    names.push(b"control \x1b[31m\x7f\x01".to_vec());
    names.push(vec![b'n'; 255]);
    names
}

/// Makes `directory` with a file for each of [`odd_names`] that holds its name.
fn make_odd(directory: &Path) {
    fs::create_dir(directory).expect("our own directory");
    for name in odd_names() {
        fs::write(directory.join(OsString::from_vec(name.clone())), &name)
            .expect("a name that the file system takes");
    }
}

/// `HOST:PATH` of bytes that need not be text.
fn far(world: &World, path: impl AsRef<Path>) -> OsString {
    let mut far = format!("{}:", world.target.host()).into_bytes();
    far.extend_from_slice(path.as_ref().as_os_str().as_bytes());
    OsString::from_vec(far)
}

/// Sets the time of the last change, in seconds since 1970, so that it is the same in each run.
fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::open(path)
        .and_then(|file| file.set_modified(time))
        .expect("our own file");
}
