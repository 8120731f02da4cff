//! Where host keys of targets are known from.

use std::path::{Path, PathBuf};

use crate::config::{self, Serve, StrictHostKey};
use crate::ssh::known_hosts::{KnownHosts, Mode};
use crate::target::Selector;

/// Judges the host key of the machine `id`, which is known by the name that it was asked for, too. A tag
/// or an address is no such name: others have them as well, or will.
pub(super) fn of(config: &Serve, id: &str) -> KnownHosts {
    let mode = match config.strict_host_key {
        StrictHostKey::Yes => Mode::Yes,
        StrictHostKey::AcceptNew => Mode::AcceptNew,
        StrictHostKey::Off => Mode::Off,
    };
    let known = KnownHosts::new(files(&config.known_hosts), id, mode).on_port(config.ssh_port);
    match name(config) {
        Some(name) => known.also_named(&name),
        None => known,
    }
}

/// What the machine is known by besides its id.
pub(super) fn name(config: &Serve) -> Option<String> {
    match Selector::parse(&config.target) {
        Selector::Name(name) => Some(name),
        Selector::Id(_) | Selector::Tag { .. } | Selector::Address(_) => None,
    }
}

/// `own`, which is written, and the files of the user and the system, as OpenSSH reads them.
fn files(own: &Path) -> Vec<PathBuf> {
    let of_user = config::home().map(|home| home.join(".ssh"));
    let of_user = of_user
        .iter()
        .flat_map(|directory| ["known_hosts", "known_hosts2"].map(|name| directory.join(name)));
    let of_system = ["ssh_known_hosts", "ssh_known_hosts2"];
    let of_system = of_system.map(|name| Path::new("/etc/ssh").join(name));
    let own = std::iter::once(own.to_owned());
    own.chain(of_user).chain(of_system).collect()
}
