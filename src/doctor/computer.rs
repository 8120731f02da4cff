//! What this computer itself has to offer: configuration, state directory, the port to listen on.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use tokio::net::TcpSocket;

use super::check::{Found, Subject};
use super::examination::{Examination, Step};
use super::listener::{Holder, holder_of};
use super::{Config, Order};
use crate::config::{self, Serve, UsageError};
use crate::report::one_line;
use crate::server::ListenError;

/// Our own name in the kernel's list of processes.
const OURSELVES: &str = env!("CARGO_PKG_NAME");

/// Checks all of it; the configuration is what everything else builds on.
pub(super) async fn examine(examination: &mut Examination<'_>, order: &Order) -> Step<Serve> {
    let config = examination
        .check(Subject::Configuration, async {
            configuration(&order.config, order.file.as_deref())
        })
        .await?;
    let _: Step<()> = examination
        .check(Subject::StateDirectory, async { state_directory() })
        .await;
    let _: Step<()> = examination
        .check(Subject::LocalPort, async { local_port(config.listen) })
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
    // What is not there yet is made in what is.
    let existing = directory.ancestors().find(|path| path.exists());
    let existing = existing.map_or_else(|| PathBuf::from("/"), Path::to_owned);
    if !existing.is_dir() {
        return Found::failed(
            format!("{} is no directory", existing.display()),
            Some("move it away, or set XDG_STATE_HOME".to_owned()),
        );
    }
    match access(&existing, Access::WRITE_OK | Access::EXEC_OK) {
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
