//! Our host keys: made at the first start, the same ever after.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tracing::{info, warn};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::ssh::host_key::{self, Algorithm, HostKey, Scheme};

/// Largest key file read; our own take about 500 bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// What is appended to the name of the host key's file for the ECDSA key beside it.
const ECDSA_SUFFIX: &str = "_ecdsa";
/// The algorithm of that key.
const ECDSA: Algorithm = Algorithm::plain(Scheme::EcdsaP256);

/// Why there is no host key.
#[derive(Debug, Error)]
pub enum Error {
    /// The file or its directory cannot be read or made.
    #[error("host key {path}", path = .path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others than the owner can read the key.
    #[error("permissions {mode:04o} of host key {path} are too open", path = .path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key of ours.
    #[error("host key {path} is unusable", path = .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: host_key::Error,
    },
    /// No key could be made.
    #[error("cannot make a host key")]
    Generation(#[source] host_key::Error),
}

impl Error {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { path, .. } => Some(format!(
                "check owner and mode of '{}' and of its directory, or name another file for the host key",
                path.display()
            )),
            Self::TooOpen { path, .. } => Some(format!("chmod 600 '{}'", path.display())),
            Self::Unusable { path, .. } => Some(format!(
                "name an unencrypted OpenSSH key of type Ed25519 or ECDSA P-256, or remove '{}' and a new one is made",
                path.display()
            )),
            Self::Generation(_) => None,
        }
    }
}

/// Loads the host key at `path`, or makes an Ed25519 key there: mode 0600, in a directory of mode
/// 0700.
///
/// Of several processes that start at once, all end up with the same key.
///
/// # Errors
/// An [`enum@Error`] names the file and the cause. A key that others may read is refused.
pub fn load_or_create(path: &Path) -> Result<HostKey, Error> {
    load_or_make(path, HostKey::generate)
}

/// Loads or makes the host key at `path` as [`load_or_create`] does, and beside it, with `_ecdsa`
/// at the end of the name, an ECDSA key for clients that have no Ed25519: those held to FIPS 186-4,
/// and old ones of libssh2, JSch and Dropbear.
///
/// The keys are of different algorithms, the one at `path` first; if that is one of ECDSA, it is
/// enough. The second is left out, with a warning, when its file can be neither read nor made, as
/// in a directory that is only for reading.
///
/// # Errors
/// As [`load_or_create`], and for the second file when it is too open or no key.
pub fn load_or_create_all(path: &Path) -> Result<Vec<HostKey>, Error> {
    let mut keys = vec![load_or_create(path)?];
    if keys[0].algorithm() == ECDSA {
        return Ok(keys);
    }
    match load_or_make(&beside(path), HostKey::generate_ecdsa) {
        Ok(second) if second.algorithm() == ECDSA => keys.push(second),
        Ok(_) => {}
        Err(error @ Error::File { .. }) => {
            let error: &dyn std::error::Error = &error;
            warn!(error, "no ECDSA host key");
        }
        Err(error) => return Err(error),
    }
    Ok(keys)
}

/// Whether the host key at `path` is there; without making any.
///
/// # Errors
/// What is wrong with the files that are there, as [`load_or_create_all`] would have it.
pub fn is_made(path: &Path) -> Result<bool, Error> {
    let first = load(path)?;
    let is_enough = first.as_ref().is_some_and(|key| key.algorithm() == ECDSA);
    if !is_enough
        && let Err(error @ (Error::TooOpen { .. } | Error::Unusable { .. })) = load(&beside(path))
    {
        return Err(error);
    }
    Ok(first.is_some())
}

/// The file of the ECDSA key that goes with the one at `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ECDSA_SUFFIX);
    name.into()
}

fn load_or_make(
    path: &Path,
    make: impl FnOnce() -> Result<HostKey, host_key::Error>,
) -> Result<HostKey, Error> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    let key = make().map_err(Error::Generation)?;
    let text = key.to_openssh().map_err(Error::Generation)?;
    if publish(path, &text)? {
        info!(path = %path.display(), "host key made");
        return Ok(key);
    }
    // Another process was faster, and its key is complete.
    load(path)?.ok_or_else(|| Error::File {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })
}

fn load(path: &Path) -> Result<Option<HostKey>, Error> {
    let failed = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(failed)?;
    match HostKey::from_openssh(&text) {
        Ok(key) => Ok(Some(key)),
        Err(source) => Err(Error::Unusable {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Puts `text` at `path` whole, unless something is there already; says whether it did.
fn publish(path: &Path, text: &str) -> Result<bool, Error> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| Error::File {
            path: directory.to_owned(),
            source,
        })?;
    let draft = directory.join(format!(".host_key.{}", Uuid::new_v4()));
    let result = write_new(&draft, text).and_then(|()| {
        // Unlike a rename, a link never replaces what another process has put there.
        match std::fs::hard_link(&draft, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    });
    // Best effort: what is left of a failed write is a draft with no name of note.
    let _ = std::fs::remove_file(&draft);
    result.map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_key_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/ssmshim/host_key");
        let first = load_or_create(&path).unwrap();
        let second = load_or_create(&path).unwrap();
        assert_eq!(first.public_blob(), second.public_blob());
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let files = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "no draft is left");
    }

    #[test]
    fn a_key_of_each_algorithm_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/host_key");
        // Those who have started an earlier version keep their key.
        let first = load_or_create(&path).unwrap();
        let blobs = || -> Vec<Vec<u8>> {
            let keys = load_or_create_all(&path).unwrap();
            keys.iter().map(|key| key.public_blob().to_vec()).collect()
        };
        let made = blobs();
        assert_eq!(made[0], first.public_blob());
        assert!(made[1].starts_with(b"\0\0\0\x13ecdsa-sha2-nistp256"));
        assert_eq!(blobs(), made);
        assert_eq!(mode(&directory.path().join("state/host_key_ecdsa")), 0o600);
    }

    #[test]
    fn a_second_key_differs_or_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host_key");
        let put = |path: &Path, key: HostKey| {
            assert!(publish(path, &key.to_openssh().unwrap()).unwrap());
        };
        let count = || load_or_create_all(&path).unwrap().len();
        put(&path, HostKey::generate_ecdsa().unwrap());
        assert_eq!(count(), 1);
        assert!(!beside(&path).exists());

        std::fs::remove_file(&path).unwrap();
        put(&path, HostKey::generate().unwrap());
        put(&beside(&path), HostKey::generate().unwrap());
        assert_eq!(count(), 1);

        // Something that cannot be read; permissions would not stop root.
        std::fs::remove_file(beside(&path)).unwrap();
        let directory = DirBuilder::new().mode(0o700).create(beside(&path));
        directory.unwrap();
        assert_eq!(count(), 1);
    }

    #[test]
    fn many_first_starts_agree() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host_key");
        let keys: BTreeSet<Vec<u8>> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| load_or_create(&path).unwrap().public_blob().to_vec()))
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host_key");

        std::fs::write(&path, "nonsense").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = load_or_create(&path).err().unwrap();
        assert!(
            matches!(error, Error::TooOpen { mode: 0o644, .. }),
            "{error}"
        );
        assert!(error.hint().unwrap().starts_with("chmod 600"));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = load_or_create(&path).err().unwrap();
        assert!(matches!(error, Error::Unusable { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"nonsense", "never replaced");

        let error = load_or_create(&path.join("below")).err().unwrap();
        assert!(matches!(error, Error::File { .. }), "{error}");
    }
}
