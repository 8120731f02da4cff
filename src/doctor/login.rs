//! The target's sshd: what to log in with, whether it answers, who it is, and whether it lets us in.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use russh::keys::{Algorithm, PrivateKey};
use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::account::optional;
use super::check::{Found, Subject};
use super::examination::{Examination, Step, both, seen};
use super::witness::{Seen, Standing, Witness};
use crate::aws::Aws;
use crate::config::Serve;
use crate::daemon::parts;
use crate::report::one_line;
use crate::ssh::{self, Attendance, Connection, Credential};
use crate::target::{Machine, printable};
use crate::tunnel::{Event, Stream, Tunnel};
use crate::upstream::{Error, Login};

/// What a login is made of.
pub(super) struct Means<'a> {
    pub(super) config: &'a Serve,
    pub(super) aws: &'a Aws,
    pub(super) machine: &'a Machine,
}

/// Checks what there is to log in with; the second permission is one of several ways in.
pub(super) async fn examine_keys(
    examination: &mut Examination<'_>,
    means: Step<Means<'_>>,
) -> Step<Vec<Credential>> {
    let keys = examination
        .after(Subject::Keys, seen(&means), async |means: &Means<'_>| {
            keys(means)
        })
        .await;
    let _: Step<()> = examination
        .after(Subject::SendKey, seen(&means), async |means: &Means<'_>| {
            send_key(means).await
        })
        .await;
    keys
}

fn keys(means: &Means<'_>) -> Found<Vec<Credential>> {
    match parts::credentials(means.config, means.aws, means.machine) {
        Ok(credentials) => {
            let names: Vec<_> = credentials.iter().map(named).collect();
            Found::ok(credentials, format!("in this order: {}", names.join(", ")))
        }
        Err(error) => Found::failed(one_line(&error), error.hint()),
    }
}

fn named(credential: &Credential) -> String {
    match credential {
        Credential::Key { label, .. } => printable(label),
        Credential::Locked { label, .. } => format!("{} (encrypted)", printable(label)),
        Credential::Agent(_) => "ssh-agent".to_owned(),
        Credential::Ephemeral(authorize) => format!("a key {}", authorize.name()),
        Credential::Password(_) => "a password".to_owned(),
        Credential::Person(_) => "what you type".to_owned(),
    }
}

/// Has EC2 Instance Connect push a key for a minute, as each login would that needs one.
async fn send_key(means: &Means<'_>) -> Found<()> {
    let id = &means.machine.id;
    if !id.starts_with("i-") {
        return Found::needless((), "this is no instance of EC2");
    }
    let users = parts::users(means.config, means.machine);
    let user = users.in_order().first().copied().unwrap_or_default();
    let line = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)
        .and_then(|key| key.public_key().to_openssh());
    let line = match line {
        Ok(line) => line,
        Err(error) => return Found::warning((), one_line(&error), None),
    };
    match means.aws.send_ssh_public_key(id, user, &line).await {
        Ok(()) => Found::ok(
            (),
            format!("allowed: a key was pushed for {}", printable(user)),
        ),
        Err(error) => optional(&error, "a key of yours has to be there"),
    }
}

/// Logs in, and tells sshd's part from that of its key and of ours.
pub(super) async fn examine(
    examination: &mut Examination<'_>,
    means: Step<Means<'_>>,
    tunnel: Step<&Tunnel>,
    keys: Step<Vec<Credential>>,
) -> Step<Connection<Stream>> {
    // Without keys of ours it still shows who is there.
    let (reached, without_keys) = match &keys {
        Ok(_) => (both(means, tunnel), None),
        Err(because) => (both(means, tunnel), Some(*because)),
    };
    let (means, tunnel) = match reached {
        Ok(reached) => reached,
        Err(because) => {
            examination.skip_through(Subject::Authentication, because);
            return Err(because);
        }
    };
    let known = parts::known_hosts(means.config, means.machine);
    let witness = Witness::new(known, means.config.strict_host_key);
    let login = Login {
        users: parts::users(means.config, means.machine),
        credentials: keys.unwrap_or_default(),
        verifier: Arc::clone(&witness) as _,
    };
    let began = Instant::now();
    let outcome = attended(tunnel, login.run(tunnel, Some(Attendance::default()))).await;
    let took = began.elapsed();
    let seen = witness.seen();

    let sshd = examination.note(Subject::Sshd, sshd(&outcome, seen.is_some()), took);
    let host_key = match (sshd, seen) {
        (Ok(()), Some(seen)) => {
            let file = &means.config.known_hosts;
            let found = host_key(&seen, file, outcome.as_ref().err());
            examination.note(Subject::HostKey, found, Duration::ZERO)
        }
        (Ok(()), None) => examination.skip(Subject::HostKey, Subject::Sshd),
        (Err(because), _) => examination.skip(Subject::HostKey, because),
    };
    if let Err(because) = host_key {
        return examination.skip(Subject::Authentication, because);
    }
    let found = match (outcome, without_keys) {
        (Ok(transport), _) => {
            let connection = transport.connection;
            let text = format!(
                "as {} by {}",
                printable(connection.user()),
                printable(connection.accepted())
            );
            Found::ok(connection, text)
        }
        (Err(_), Some(because)) => return examination.skip(Subject::Authentication, because),
        (Err(error), None) => failed(&error),
    };
    examination.note(Subject::Authentication, found, Duration::ZERO)
}

/// Runs `work` on the tunnel, whose events somebody has to take meanwhile.
pub(super) async fn attended<T>(tunnel: &Tunnel, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            event = tunnel.next_event() => if let Event::Over { .. } = event {
                // The work notices for itself.
                return work.await;
            },
        }
    }
}

/// Whether an SSH server answers; once it has shown its key, it does.
fn sshd<T: Answered>(outcome: &Result<T, Error>, has_key: bool) -> Found<()> {
    match outcome {
        Ok(answered) => {
            let version = answered.version();
            let software = version.strip_prefix("SSH-2.0-").unwrap_or(version);
            Found::ok((), printable(software))
        }
        Err(_) if has_key => Found::ok((), "it speaks SSH"),
        Err(error) => failed(error),
    }
}

/// A server that has said who it is.
trait Answered {
    fn version(&self) -> &str;
}

impl Answered for crate::upstream::Transport {
    fn version(&self) -> &str {
        self.connection.peer_version()
    }
}

fn host_key(seen: &Seen, known_hosts: &Path, error: Option<&Error>) -> Found<()> {
    let print = &seen.fingerprint;
    match (seen.standing, error) {
        (Standing::Known, _) => Found::ok((), format!("{print}, known")),
        (Standing::New, _) => new_host_key(print, known_hosts),
        (Standing::Unchecked, _) => Found::warning(
            (),
            format!("{print}, not checked"),
            Some("--strict-host-key accept-new checks it".to_owned()),
        ),
        (Standing::Refused, Some(error)) => match error {
            Error::Login { source, .. } if matches!(**source, ssh::Error::HostKey(_)) => {
                Found::failed(one_line(&**source), source.hint())
            }
            error => failed(error),
        },
        (Standing::Refused, None) => Found::failed(format!("{print} is not accepted"), None),
    }
}

/// A key that nobody knows: the first connection writes it down, or fails.
fn new_host_key(print: &str, known_hosts: &Path) -> Found<()> {
    match access(known_hosts, Access::WRITE_OK) {
        // What is not there yet is made.
        Ok(()) | Err(Errno::NOENT) => Found::ok(
            (),
            format!("{print}, new: the first connection writes it down (accept-new)"),
        ),
        Err(error) => {
            let file = known_hosts.display();
            Found::failed(
                format!("{print}, new, and cannot be written to {file}: {error}"),
                Some(format!("check the owner and mode of {file}")),
            )
        }
    }
}

fn failed<T>(error: &Error) -> Found<T> {
    Found::failed(one_line(error), error.hint())
}
