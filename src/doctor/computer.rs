//! What this computer itself has to offer: configuration, state directory, the port to listen on, and the files without
//! which nobody is let in there.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use rustix::fs::{Access, access};
use tokio::net::TcpSocket;

use super::check::{Found, Subject};
use super::examination::{Examination, Step};
use super::listener::{Holder, holder_of};
use super::{Config, Order};
use crate::config::{self, Serve, UsageError};
use crate::report::one_line;
use crate::server::authorized_keys::AuthorizedKeys;
use crate::server::{ListenError, host_key};

/// Our own name in the kernel's list of processes.
const OURSELVES: &str = env!("CARGO_PKG_NAME");

/// Checks all of it; the configuration is what everything else builds on.
pub(super) async fn examine(examination: &mut Examination<'_>, order: &Order) -> Step<Serve> {
    let config = examination
        .check(Subject::Configuration, async {
            configuration(&order.config, order.file.as_deref())
        })
        .await?;
    let state = examination
        .check(Subject::StateDirectory, async { state_directory() })
        .await;
    let _: Step<()> = examination
        .check(Subject::LocalPort, async { local_port(config.listen) })
        .await;
    let is_kept_there =
        config::state_directory().is_ok_and(|directory| config.host_key.starts_with(directory));
    let place = if is_kept_there { state } else { Ok(()) };
    let _: Step<()> = examination
        .after(Subject::LocalHostKey, place, async |()| {
            local_host_key(&config.host_key)
        })
        .await;
    let _: Step<()> = examination
        .check(Subject::AuthorizedKeys, async { authorized_keys(&config) })
        .await;
    Ok(config.serve)
}

fn configuration(config: &Result<Config, UsageError>, file: Option<&Path>) -> Found<Config> {
    match (config, file) {
        (Ok(config), Some(file)) => Found::ok(config.clone(), file.display().to_string()),
        (Ok(config), None) => Found::ok(config.clone(), "no file: flags, environment and defaults"),
        (Err(error), _) => Found::failed(one_line(error), error.hint()),
    }
}

fn state_directory() -> Found<()> {
    let directory = match config::state_directory() {
        Ok(directory) => directory,
        Err(error) => return Found::failed(one_line(&error), error.hint()),
    };
    let shown = directory.display().to_string();
    let existing = existing(&directory);
    if !existing.is_dir() {
        return Found::failed(
            format!("{} is no directory", existing.display()),
            Some("move it away, or set XDG_STATE_HOME".to_owned()),
        );
    }
    match access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Found::ok((), shown),
        Err(error) => Found::failed(
            format!("cannot write to {}: {error}", existing.display()),
            Some(format!(
                "ls -ld '{}'; or set XDG_STATE_HOME to a directory of yours",
                existing.display()
            )),
        ),
    }
}

/// What there is of `directory`: what is not there yet is made in that.
fn existing(directory: &Path) -> &Path {
    let mut paths = directory.ancestors();
    let existing = paths.find(|path| path.exists());
    // Relative ones begin here.
    existing.unwrap_or(Path::new("."))
}

/// Looks at the host key that clients see, as `serve` does but for making it.
fn local_host_key(path: &Path) -> Found<()> {
    let shown = path.display();
    let error = match host_key::is_made(path) {
        Ok(true) => return Found::ok((), shown.to_string()),
        Ok(false) => {
            let directory = existing(path.parent().unwrap_or(path));
            match access(directory, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => return Found::ok((), format!("{shown}, which the first start makes")),
                Err(error) => host_key::Error::File {
                    path: directory.to_owned(),
                    source: error.into(),
                },
            }
        }
        Err(error) => error,
    };
    Found::failed(one_line(&error), error.hint())
}

/// Looks at who may log in, where that takes a key.
fn authorized_keys(config: &Config) -> Found<()> {
    if config.access == config::Access::Owner {
        return Found::needless((), "you log in without a key: --access owner");
    }
    let shown = config.authorized_keys.display();
    match AuthorizedKeys::load(&config.authorized_keys) {
        Ok(keys) if keys.is_empty() => Found::failed(
            format!("{shown} lets nobody in"),
            Some(format!("put public keys into '{shown}'")),
        ),
        Ok(_) => Found::ok((), shown.to_string()),
        Err(error) => Found::failed(one_line(&error), Some(error.hint())),
    }
}

fn local_port(address: SocketAddr) -> Found<()> {
    let error = match bind(address) {
        Ok(()) => return Found::ok((), format!("{address} is free")),
        Err(error) => error,
    };
    let is_taken = error.kind() == io::ErrorKind::AddrInUse;
    let holder = is_taken.then(|| holder_of(address)).flatten();
    let error = ListenError::new(address, error);
    match holder {
        Some(Holder { pid, name }) if name == OURSELVES => {
            Found::ok((), format!("{OURSELVES} listens on {address} (pid {pid})"))
        }
        Some(Holder { pid, name }) => Found::failed(
            format!("{}: {name} has it (pid {pid})", one_line(&error)),
            Some(format!(
                "stop that, or choose another port with --listen {}",
                SocketAddr::new(address.ip(), 0)
            )),
        ),
        None => Found::failed(one_line(&error), error.hint()),
    }
}

/// Whether one could listen on `address`. Does not: no client is to find a door that closes at once, and a `serve` that
/// starts at this moment gets the port.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // As `serve` does. Who listens is in the way all the same.
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}
