//! What the requests do to the file system, where one call of the standard library is not enough.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::attributes::Attributes;

/// Links that lead on to what does not exist, before it is said to be too many.
const MAX_LINKS: usize = 40;

/// The absolute path without links; the last component need not exist, as in sftp-server.
pub(super) fn real_path(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match (fs::canonicalize(&path), path.parent(), path.file_name()) {
            (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
                let parent = fs::canonicalize(parent)?;
                match fs::read_link(&path) {
                    Ok(target) => path = parent.join(target),
                    Err(_) => return Ok(parent.join(name)),
                }
            }
            (result, _, _) => return result,
        }
    }
    Err(Errno::LOOP.into())
}

/// Renames, but never onto what exists (section 6.5 of the draft).
///
/// Files go through a hard link, which fails where the name is taken, without a moment in between; directories, and files
/// where no links can be made, are looked at first, as in sftp-server.
pub(super) fn rename_without_overwriting(old: &Path, new: &Path) -> io::Result<()> {
    if fs::symlink_metadata(old)?.is_file() {
        match rustix::fs::linkat(CWD, old, CWD, new, AtFlags::empty()) {
            Ok(()) => return fs::remove_file(old),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV | Errno::PERM | Errno::MLINK) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if fs::symlink_metadata(new).is_ok() {
        return Err(Errno::EXIST.into());
    }
    fs::rename(old, new)
}

/// Sets what is given of a path; `flags` says whether a link is followed. The size always is that of the target.
pub(super) fn set_path_attributes(
    path: &Path,
    attributes: &Attributes,
    flags: AtFlags,
) -> io::Result<()> {
    if let Some(size) = attributes.size {
        truncate(path, size)?;
    }
    if let Some(permissions) = attributes.permissions {
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(permissions as _), flags)?;
    }
    if let Some(times) = attributes.times {
        rustix::fs::utimensat(CWD, path, &timestamps(times), flags)?;
    }
    if let Some((user, group)) = attributes.owner {
        rustix::fs::chownat(
            CWD,
            path,
            Some(Uid::from_raw(user)),
            Some(Gid::from_raw(group)),
            flags,
        )?;
    }
    Ok(())
}

/// Does what truncate(2) does: what has no size, such as a FIFO that nobody reads, is refused and not waited for.
fn truncate(path: &Path, size: u64) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NXIO) => Err(Errno::INVAL),
        opened => rustix::fs::ftruncate(opened?, size),
    }
}

/// Sets what is given of an open file.
pub(super) fn set_file_attributes(file: &File, attributes: &Attributes) -> io::Result<()> {
    let file = file.as_fd();
    if let Some(size) = attributes.size {
        rustix::fs::ftruncate(file, size)?;
    }
    if let Some(permissions) = attributes.permissions {
        rustix::fs::fchmod(file, Mode::from_raw_mode(permissions as _))?;
    }
    if let Some(times) = attributes.times {
        rustix::fs::futimens(file, &timestamps(times))?;
    }
    if let Some((user, group)) = attributes.owner {
        rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    Ok(())
}

fn timestamps((access, modification): (u32, u32)) -> Timestamps {
    let time = |seconds: u32| Timespec {
        tv_sec: i64::from(seconds),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time(access),
        last_modification: time(modification),
    }
}
