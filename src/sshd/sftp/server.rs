//! The requests of SFTP version 3, each answered from the file system.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, ReadDir};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatVfs, StatVfsMountFlags};
use rustix::io::Errno;

use super::attributes::{self, Attributes, put_uint64, read_uint64};
use super::{Error, MAX_PACKET, files};
use crate::account::Account;
use crate::ssh::wire::{Reader, Truncated, WriteExt};

const VERSION: u32 = 3;

/// Most bytes of one read or write: a packet without its other fields, as OpenSSH has it.
const MAX_DATA: usize = MAX_PACKET - 1024;

/// Open files and directories; what OpenSSH clients use is one for each transfer.
const MAX_HANDLES: usize = 1024;

/// Names in one answer to `SSH_FXP_READDIR`; OpenSSH's number.
const NAMES_PER_READDIR: usize = 100;

/// Extensions with their versions (PROTOCOL of OpenSSH, section 4).
const EXTENSIONS: [(&str, &str); 8] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

#[rustfmt::skip]
mod fxp {
    pub(super) const INIT: u8 = 1;
    pub(super) const VERSION: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const FSTAT: u8 = 8;
    pub(super) const SETSTAT: u8 = 9;
    pub(super) const FSETSTAT: u8 = 10;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const REALPATH: u8 = 16;
    pub(super) const STAT: u8 = 17;
    pub(super) const RENAME: u8 = 18;
    pub(super) const READLINK: u8 = 19;
    pub(super) const SYMLINK: u8 = 20;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
    pub(super) const EXTENDED: u8 = 200;
    pub(super) const EXTENDED_REPLY: u8 = 201;
}

/// Codes of `SSH_FXP_STATUS` (section 7 of the draft).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

impl Status {
    /// What sftp-server says with it, whatever the system said.
    fn text(self) -> &'static str {
        match self {
            Self::Ok => "Success",
            Self::Eof => "End of file",
            Self::NoSuchFile => "No such file",
            Self::PermissionDenied => "Permission denied",
            Self::Failure => "Failure",
            Self::BadMessage => "Bad message",
            Self::Unsupported => "Operation unsupported",
        }
    }
}

/// Why a request has no other answer than a status.
enum Failure {
    Status(Status),
    /// No file, in sftp-server's words for a home that nobody has.
    NoSuchUser,
    Protocol(Truncated),
}

impl Failure {
    /// The status of the requests for which sftp-server looks on a handle that is none as on a missing file.
    fn without_file(self) -> Self {
        match self {
            Self::Status(Status::Failure) => Status::NoSuchFile.into(),
            other => other,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        status(&error).into()
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl From<Truncated> for Failure {
    fn from(error: Truncated) -> Self {
        Self::Protocol(error)
    }
}

/// The status that sftp-server gives for an error of the system.
fn status(error: &io::Error) -> Status {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP) => Status::NoSuchFile,
        Some(Errno::PERM | Errno::ACCESS | Errno::FAULT) => Status::PermissionDenied,
        Some(Errno::NAMETOOLONG | Errno::INVAL) => Status::BadMessage,
        Some(Errno::NOSYS) => Status::Unsupported,
        _ => Status::Failure,
    }
}

enum Handle {
    File(File),
    Directory {
        path: PathBuf,
        entries: ReadDir,
        dots: bool,
    },
}

/// The state of one client: what it has opened.
pub(super) struct Server {
    home: PathBuf,
    initialized: bool,
    handles: BTreeMap<u32, Handle>,
}

impl Server {
    pub(super) fn new(home: &Path) -> Self {
        Self {
            home: home.to_path_buf(),
            initialized: false,
            handles: BTreeMap::new(),
        }
    }

    /// Answers one packet by exactly one, appended to `output`.
    pub(super) fn handle(&mut self, packet: &[u8], output: &mut Vec<u8>) -> Result<(), Error> {
        let mut fields = Reader::new(packet);
        let kind = fields.u8()?;
        if (kind == fxp::INIT) == self.initialized {
            return Err(Error::Unexpected(kind));
        }
        if kind == fxp::INIT {
            let _version = fields.u32()?;
            self.initialized = true;
            frame(output, fxp::VERSION, |output| {
                output.put_uint32(VERSION);
                for (name, version) in EXTENSIONS {
                    output.put_string(name).put_string(version);
                }
            });
            return Ok(());
        }
        let id = fields.u32()?;
        let start = output.len();
        let (status, text) = match self.answer(kind, id, fields, output) {
            // An answer of its own.
            Ok(()) if output.len() > start => return Ok(()),
            Ok(()) => (Status::Ok, Status::Ok.text()),
            Err(Failure::Status(status)) => (status, status.text()),
            Err(Failure::NoSuchUser) => (Status::NoSuchFile, "no such user"),
            Err(Failure::Protocol(error)) => return Err(error.into()),
        };
        output.truncate(start);
        frame(output, fxp::STATUS, |output| {
            output
                .put_uint32(id)
                .put_uint32(status as u32)
                .put_string(text)
                .put_string(b"");
        });
        Ok(())
    }

    /// Does what is asked; writes the answer unless it is a status.
    fn answer(
        &mut self,
        kind: u8,
        id: u32,
        mut fields: Reader<'_>,
        output: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let fields = &mut fields;
        match kind {
            fxp::OPEN => self.open(id, fields, output)?,
            fxp::CLOSE => {
                let number = handle_number(fields).map_err(Failure::without_file)?;
                self.handles.remove(&number).ok_or(Status::NoSuchFile)?;
            }
            fxp::READ => self.read(id, fields, output)?,
            fxp::WRITE => {
                let (file, offset) = (self.file(fields)?, read_uint64(fields)?);
                file.write_all_at(fields.string()?, offset)?;
            }
            fxp::LSTAT => put_attributes(output, id, &fs::symlink_metadata(self.path(fields)?)?),
            fxp::STAT => put_attributes(output, id, &fs::metadata(self.path(fields)?)?),
            fxp::FSTAT => {
                let metadata = match self.open_handle(fields)? {
                    Handle::File(file) => file.metadata()?,
                    Handle::Directory { path, .. } => fs::metadata(path)?,
                };
                put_attributes(output, id, &metadata);
            }
            fxp::SETSTAT => {
                let path = self.path(fields)?;
                files::set_path_attributes(&path, &Attributes::read(fields)?, AtFlags::empty())?;
            }
            fxp::FSETSTAT => match self.open_handle(fields)? {
                Handle::File(file) => files::set_file_attributes(file, &Attributes::read(fields)?)?,
                Handle::Directory { path, .. } => {
                    files::set_path_attributes(path, &Attributes::read(fields)?, AtFlags::empty())?;
                }
            },
            fxp::OPENDIR => {
                let path = self.path(fields)?;
                let entries = fs::read_dir(&path)?;
                self.put_handle(
                    id,
                    Handle::Directory {
                        path,
                        entries,
                        dots: false,
                    },
                    output,
                )?;
            }
            fxp::READDIR => self.read_directory(id, fields, output)?,
            fxp::REMOVE => fs::remove_file(self.path(fields)?)?,
            fxp::MKDIR => {
                let path = self.path(fields)?;
                let mode = Attributes::read(fields)?.permissions.unwrap_or(0o777);
                rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(mode as _))?;
            }
            fxp::RMDIR => fs::remove_dir(self.path(fields)?)?,
            fxp::REALPATH => {
                let path = self.home.join(OsStr::from_bytes(fields.string()?));
                put_name(output, id, files::real_path(&path)?.as_os_str());
            }
            fxp::RENAME => {
                files::rename_without_overwriting(&self.path(fields)?, &self.path(fields)?)?
            }
            fxp::READLINK => put_name(output, id, fs::read_link(self.path(fields)?)?.as_os_str()),
            fxp::SYMLINK => {
                // OpenSSH has the two the other way round than the draft, and everybody follows it.
                let target = OsStr::from_bytes(fields.string()?);
                std::os::unix::fs::symlink(target, self.path(fields)?)?;
            }
            fxp::EXTENDED => self.extended(id, fields, output)?,
            _ => return Err(unsupported()),
        }
        Ok(())
    }

    fn extended(
        &mut self,
        id: u32,
        fields: &mut Reader<'_>,
        output: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match fields.string()? {
            b"posix-rename@openssh.com" => fs::rename(self.path(fields)?, self.path(fields)?)?,
            b"hardlink@openssh.com" => {
                let (old, new) = (self.path(fields)?, self.path(fields)?);
                // Not `fs::hard_link`, which may follow a symbolic link.
                rustix::fs::linkat(CWD, &old, CWD, &new, AtFlags::empty())?;
            }
            b"fsync@openssh.com" => self
                .file(fields)
                .map_err(Failure::without_file)?
                .sync_all()?,
            b"statvfs@openssh.com" => {
                put_statvfs(output, id, &rustix::fs::statvfs(&self.path(fields)?)?)
            }
            b"fstatvfs@openssh.com" => {
                let statvfs = match self.open_handle(fields)? {
                    Handle::File(file) => rustix::fs::fstatvfs(file)?,
                    Handle::Directory { path, .. } => rustix::fs::statvfs(path.as_path())?,
                };
                put_statvfs(output, id, &statvfs);
            }
            b"lsetstat@openssh.com" => {
                let path = self.path(fields)?;
                let attributes = Attributes::read(fields)?;
                if attributes.size.is_some() {
                    return Err(Errno::INVAL.into());
                }
                files::set_path_attributes(&path, &attributes, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            b"limits@openssh.com" => frame(output, fxp::EXTENDED_REPLY, |output| {
                output.put_uint32(id);
                for limit in [MAX_PACKET, MAX_DATA, MAX_DATA, MAX_HANDLES] {
                    put_uint64(output, limit as u64);
                }
            }),
            b"expand-path@openssh.com" => {
                let path = self.expand(Path::new(OsStr::from_bytes(fields.string()?)))?;
                put_name(output, id, files::real_path(&path)?.as_os_str());
            }
            _ => return Err(unsupported()),
        }
        Ok(())
    }

    fn open(
        &mut self,
        id: u32,
        fields: &mut Reader<'_>,
        output: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        const READ: u32 = 0x01;
        const WRITE: u32 = 0x02;
        const APPEND: u32 = 0x04;
        const CREATE: u32 = 0x08;
        const TRUNCATE: u32 = 0x10;
        const EXCLUDE: u32 = 0x20;

        let (path, wanted) = (self.path(fields)?, fields.u32()?);
        let mode = Attributes::read(fields)?.permissions.unwrap_or(0o666);
        let mut flags = match (wanted & READ != 0, wanted & WRITE != 0) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            (_, false) => OFlags::RDONLY,
        };
        for (bit, flag) in [
            (APPEND, OFlags::APPEND),
            (CREATE, OFlags::CREATE),
            (TRUNCATE, OFlags::TRUNC),
            (EXCLUDE, OFlags::EXCL),
        ] {
            flags.set(flag, wanted & bit != 0);
        }
        let file = rustix::fs::open(
            &path,
            // A FIFO must not hold up the thread until somebody opens its other end.
            flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
            Mode::from_raw_mode(mode as _),
        )?;
        self.put_handle(id, Handle::File(file.into()), output)
    }

    fn read(
        &mut self,
        id: u32,
        fields: &mut Reader<'_>,
        output: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let (file, offset) = (self.file(fields)?, read_uint64(fields)?);
        let wanted = (fields.u32()? as usize).min(MAX_DATA);
        // Straight into the answer, whose length is known afterwards: length, type, id, length of the data.
        let start = output.len();
        let data = start + 13;
        output.resize(data + wanted, 0);
        let length = file.read_at(&mut output[data..], offset)?;
        if length == 0 && wanted > 0 {
            return Err(Status::Eof.into());
        }
        output.truncate(data + length);
        let head = &mut output[start..data];
        head[..4].copy_from_slice(&(9 + length as u32).to_be_bytes());
        head[4] = fxp::DATA;
        head[5..9].copy_from_slice(&id.to_be_bytes());
        head[9..].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(())
    }

    fn read_directory(
        &mut self,
        id: u32,
        fields: &mut Reader<'_>,
        output: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let Handle::Directory {
            path,
            entries,
            dots,
        } = self.open_handle(fields)?
        else {
            return Err(no_such_handle());
        };
        let mut names = Vec::new();
        let mut count = 0_u32;
        if !std::mem::replace(dots, true) {
            for dot in [".", ".."] {
                if let Ok(metadata) = fs::symlink_metadata(path.join(dot)) {
                    put_entry(&mut names, OsStr::new(dot), &metadata);
                    count += 1;
                }
            }
        }
        for entry in entries.take(NAMES_PER_READDIR) {
            let entry = entry?;
            // What has gone since it was listed is left out.
            if let Ok(metadata) = entry.metadata() {
                put_entry(&mut names, &entry.file_name(), &metadata);
                count += 1;
            }
        }
        if count == 0 {
            return Err(Status::Eof.into());
        }
        frame(output, fxp::NAME, |output| {
            output.put_uint32(id).put_uint32(count).put_raw(&names);
        });
        Ok(())
    }

    fn put_handle(&mut self, id: u32, handle: Handle, output: &mut Vec<u8>) -> Result<(), Failure> {
        if self.handles.len() >= MAX_HANDLES {
            return Err(Errno::MFILE.into());
        }
        // The lowest that is free, as in sftp-server.
        let number = (0..)
            .find(|number| !self.handles.contains_key(number))
            .ok_or(Errno::MFILE)?;
        self.handles.insert(number, handle);
        frame(output, fxp::HANDLE, |output| {
            output.put_uint32(id).put_string(number.to_be_bytes());
        });
        Ok(())
    }

    fn open_handle(&mut self, fields: &mut Reader<'_>) -> Result<&mut Handle, Failure> {
        let number = handle_number(fields)?;
        self.handles.get_mut(&number).ok_or_else(no_such_handle)
    }

    fn file(&mut self, fields: &mut Reader<'_>) -> Result<&File, Failure> {
        match self.open_handle(fields)? {
            Handle::File(file) => Ok(file),
            Handle::Directory { .. } => Err(no_such_handle()),
        }
    }

    /// Replaces `~` at the beginning by home, and `~user` by that user's; relative paths begin at home.
    fn expand(&self, path: &Path) -> Result<PathBuf, Failure> {
        let mut components = path.components();
        let first = components.next().unwrap_or(Component::CurDir);
        Ok(match first.as_os_str().as_bytes() {
            b"~" => self.home.join(components.as_path()),
            [b'~', user @ ..] => {
                let account = Account::named(OsStr::from_bytes(user));
                let home = account.ok_or(Failure::NoSuchUser)?.home;
                home.join(components.as_path())
            }
            _ => self.home.join(path),
        })
    }

    /// Reads a path; relative ones begin at home.
    fn path(&self, fields: &mut Reader<'_>) -> Result<PathBuf, Truncated> {
        let path = fields.string()?;
        if path.is_empty() {
            // No file has that name, home neither.
            return Ok(PathBuf::new());
        }
        Ok(self.home.join(OsStr::from_bytes(path)))
    }
}

/// Reads a handle, a string of four bytes here; any other is no handle of ours.
fn handle_number(fields: &mut Reader<'_>) -> Result<u32, Failure> {
    let handle = fields.string()?;
    handle
        .try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| no_such_handle())
}

fn no_such_handle() -> Failure {
    Status::Failure.into()
}

fn unsupported() -> Failure {
    Status::Unsupported.into()
}

/// Appends one packet.
fn frame(output: &mut Vec<u8>, kind: u8, format: impl FnOnce(&mut Vec<u8>)) {
    let start = output.len();
    output.put_uint32(0).put_byte(kind);
    format(output);
    let length = (output.len() - start - 4) as u32;
    output[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_attributes(output: &mut Vec<u8>, id: u32, metadata: &Metadata) {
    frame(output, fxp::ATTRS, |output| {
        output.put_uint32(id);
        attributes::put(output, metadata);
    });
}

/// Answers with a path alone.
fn put_name(output: &mut Vec<u8>, id: u32, name: &OsStr) {
    frame(output, fxp::NAME, |output| {
        output
            .put_uint32(id)
            .put_uint32(1)
            .put_string(name.as_bytes())
            .put_string(name.as_bytes());
        attributes::put_none(output);
    });
}

fn put_entry(names: &mut Vec<u8>, name: &OsStr, metadata: &Metadata) {
    let name = name.as_bytes();
    names
        .put_string(name)
        .put_string(attributes::long_name(name, metadata));
    attributes::put(names, metadata);
}

fn put_statvfs(output: &mut Vec<u8>, id: u32, statvfs: &StatVfs) {
    const READ_ONLY: u64 = 0x1;
    const NO_SETUID: u64 = 0x2;
    let has = |flag, value| {
        if statvfs.f_flag.contains(flag) {
            value
        } else {
            0
        }
    };
    let flags =
        has(StatVfsMountFlags::RDONLY, READ_ONLY) | has(StatVfsMountFlags::NOSUID, NO_SETUID);
    frame(output, fxp::EXTENDED_REPLY, |output| {
        output.put_uint32(id);
        for value in [
            statvfs.f_bsize,
            statvfs.f_frsize,
            statvfs.f_blocks,
            statvfs.f_bfree,
            statvfs.f_bavail,
            statvfs.f_files,
            statvfs.f_ffree,
            statvfs.f_favail,
            statvfs.f_fsid,
            flags,
            statvfs.f_namemax,
        ] {
            put_uint64(output, value);
        }
    });
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
