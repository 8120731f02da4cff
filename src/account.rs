//! The user this process runs as, which is also who every client of the embedded server becomes.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The password file.
const PASSWD: &str = "/etc/passwd";

/// What the password file says of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: OsString,
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
}

impl Account {
    /// The account of the effective user.
    ///
    /// Where the password file does not know it (directory services, arbitrary ids of containers), the environment tells.
    pub(crate) fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        fs::read(PASSWD)
            .ok()
            .and_then(|passwd| Self::with_uid(&passwd, uid))
            .unwrap_or_else(|| Self::from_environment(uid))
    }

    /// The account called `name`, if the password file knows it or it is the current one.
    pub(crate) fn named(name: &OsStr) -> Option<Self> {
        let passwd = fs::read(PASSWD).ok();
        passwd
            .and_then(|passwd| Self::with_name(&passwd, name))
            .or_else(|| Some(Self::current()).filter(|account| account.name == name))
    }

    /// Finds `uid` in the text of a password file.
    fn with_uid(passwd: &[u8], uid: u32) -> Option<Self> {
        let uid = uid.to_string();
        Self::find(passwd, |_, id| id == uid.as_bytes())
    }

    /// Finds `name` in the text of a password file.
    fn with_name(passwd: &[u8], name: &OsStr) -> Option<Self> {
        Self::find(passwd, |known, _| known == name.as_bytes())
    }

    /// The first account in the text of a password file whose name and id are meant.
    fn find(passwd: &[u8], is_meant: impl Fn(&[u8], &[u8]) -> bool) -> Option<Self> {
        passwd.split(|byte| *byte == b'\n').find_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
            let [name, _password, id, _group, _comment, home, shell] = fields[..] else {
                return None;
            };
            if !is_meant(name, id) {
                return None;
            }
            let or = |field: &[u8], default: &str| {
                PathBuf::from(if field.is_empty() {
                    OsStr::new(default)
                } else {
                    OsStr::from_bytes(field)
                })
            };
            Some(Self {
                name: OsString::from_vec(name.to_vec()),
                home: or(home, "/"),
                shell: or(shell, "/bin/sh"),
            })
        })
    }

    fn from_environment(uid: u32) -> Self {
        Self {
            name: env::var_os("USER").unwrap_or_else(|| uid.to_string().into()),
            home: env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from),
            shell: env::var_os("SHELL").map_or_else(|| PathBuf::from("/bin/sh"), PathBuf::from),
        }
    }

    /// The name of the shell without its directory.
    pub(crate) fn shell_name(&self) -> &OsStr {
        self.shell.file_name().unwrap_or(self.shell.as_os_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_password_file() {
        let passwd = b"# comment\n\
            root:x:0:0:root:/root:/bin/bash\n\
            short:x:1000\n\
            \xff\xfe:x:1001:1001::/home/\xff:/bin/zsh\n\
            bare:x:1002:1002:::\n";
        let account = |uid| Account::with_uid(passwd, uid);
        assert_eq!(account(0).unwrap().shell_name(), "bash");
        assert_eq!(account(1000), None);
        assert_eq!(
            account(1001).unwrap().home.as_os_str().as_bytes(),
            b"/home/\xff"
        );
        let bare = account(1002).unwrap();
        assert_eq!(
            (bare.home.as_os_str(), bare.shell.as_os_str()),
            (OsStr::new("/"), OsStr::new("/bin/sh"))
        );
        assert_eq!(account(7), None);
        let named = |name: &str| Account::with_name(passwd, name.as_ref());
        assert_eq!(named("root"), account(0));
        assert_eq!(
            (named("roo"), named(""), named("short")),
            (None, None, None)
        );
    }
}
