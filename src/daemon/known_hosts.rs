//! Where host keys of targets are known from.

use std::path::{Path, PathBuf};

use crate::config;

/// `own`, which is written, and the files of the user and the system, as OpenSSH reads them.
pub(super) fn files(own: &Path) -> Vec<PathBuf> {
    let of_user = config::home().map(|home| home.join(".ssh"));
    let of_user = of_user
        .iter()
        .flat_map(|directory| ["known_hosts", "known_hosts2"].map(|name| directory.join(name)));
    let of_system = ["ssh_known_hosts", "ssh_known_hosts2"];
    let of_system = of_system.map(|name| Path::new("/etc/ssh").join(name));
    let own = std::iter::once(own.to_owned());
    own.chain(of_user).chain(of_system).collect()
}
