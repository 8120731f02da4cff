//! Keys pushed by EC2 Instance Connect, where an sshd finds them for a minute.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A directory with a file of authorized keys for each user: `AuthorizedKeysFile DIRECTORY/%u`.
///
/// It stands for the `AuthorizedKeysCommand` that EC2 Instance Connect puts on an instance.
#[derive(Debug, Default)]
pub(crate) struct PushedKeys {
    directory: OnceLock<PathBuf>,
    lock: Mutex<()>,
}

/// Most keys kept for a user, so that a file stays small whatever is pushed.
const KEYS: usize = 1000;

impl PushedKeys {
    /// Writes keys into `directory` from now on; without one they are forgotten at once.
    pub(crate) fn keep_in(&self, directory: PathBuf) {
        // Set once, at the start.
        let _ = self.directory.set(directory);
    }

    /// Has `line` accepted for `user`. Both are checked already: the name is no path, the line one key.
    pub(crate) fn add(&self, user: &str, line: &str) -> io::Result<()> {
        self.edit(user, |lines| {
            lines.truncate(KEYS - 1);
            lines.push(line.to_owned());
        })
    }

    /// Has `line` accepted no longer.
    pub(crate) fn remove(&self, user: &str, line: &str) -> io::Result<()> {
        self.edit(user, |lines| {
            if let Some(at) = lines.iter().position(|known| known == line) {
                lines.remove(at);
            }
        })
    }

    fn edit(&self, user: &str, edit: impl FnOnce(&mut Vec<String>)) -> io::Result<()> {
        let Some(directory) = self.directory.get() else {
            return Ok(());
        };
        let _one_at_a_time = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(directory)?;
        let path = directory.join(user);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        edit(&mut lines);
        replace(&path, &lines)
    }
}

/// An sshd that reads at the same time sees the old file or the new one.
fn replace(path: &Path, lines: &[String]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&name)?;
    for line in lines {
        writeln!(file, "{line}")?;
    }
    drop(file);
    fs::rename(name, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let keys = PushedKeys::default();
        keys.add("nobody", "forgotten").unwrap();
        keys.keep_in(directory.path().join("keys"));
        keys.add("ubuntu", "one").unwrap();
        keys.add("ubuntu", "two").unwrap();
        keys.remove("ubuntu", "one").unwrap();
        let text = fs::read_to_string(directory.path().join("keys/ubuntu")).unwrap();
        assert_eq!(text, "two\n");
        assert!(!directory.path().join("keys/nobody").exists());
    }
}
