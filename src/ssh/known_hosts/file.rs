//! The files: read in bounds, and added to without losing anything.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::FlockOperation;

/// Bytes read of one file: a hundred thousand hosts. What follows is not seen.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Times a file is opened that somebody replaces meanwhile, as `ssh-keygen -R` does.
const LOCK_TRIES: u32 = 8;

/// The bytes of the file; none when there is no such file.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(Some(text))
}

/// Opens the file for adding to it, with nobody else doing so until it is closed. Makes it, mode
/// 0600, and its directory, mode 0700, where they are missing.
pub(super) fn open_locked(path: &Path) -> io::Result<File> {
    if let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    for _ in 0..LOCK_TRIES {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        if is_still_at(&file, path)? {
            return Ok(file);
        }
    }
    Err(io::Error::other("the file is replaced again and again"))
}

/// Whether `path` still leads to `file`: a line added to one that was replaced would be lost.
fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Adds a line in one write, on a line of its own: a reader sees all of it or nothing.
pub(super) fn append(file: &mut File, line: &str) -> io::Result<()> {
    let mut text = String::with_capacity(line.len() + 1);
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            text.push('\n');
        }
    }
    text.push_str(line);
    file.write_all(text.as_bytes())
}
