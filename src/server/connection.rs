//! One local connection, from its first byte to its last.

use std::future::{Future, pending, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use rustix::net::sockopt::set_socket_keepalive;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::access::Access;
use super::early::{Early, Leased};
use super::half_open::Place;
use super::redial::Redial;
use super::{Arrival, Refusal, Shared, Targets};
use crate::relay::{Parting, Relay};
use crate::ssh::{self, Admission, Connection, Doorman};
use crate::upstream::{State, Upstream, Visit};

/// Logs the client in, joins it to an upstream transport, and gives that one back if the client never used it.
///
/// When the client will probably be let in, a transport of the usual target is sought while it logs in, so that the
/// two key exchanges overlap.
///
/// # Errors
/// When the client did not get as far as being logged in.
pub(super) async fn serve(
    shared: Arc<Shared>,
    arrival: Arrival,
    stop: CancellationToken,
) -> Result<(), ssh::Error> {
    let Arrival {
        stream,
        peer,
        lookup,
        place,
    } = arrival;
    let Some(mut access) = identify(&shared, &stream, peer).await else {
        return Ok(());
    };
    drop(lookup);
    let usual = match access.is_promising() {
        true => shared.targets.usual(),
        false => None,
    };
    let mut early = usual.as_deref().and_then(|usual| {
        let permit = shared.early_leases.try_acquire().ok()?;
        Some(Early::seek(usual, permit))
    });
    let elsewhere = Notify::new();
    let mut guide = Guide {
        targets: &*shared.targets,
        elsewhere: &elsewhere,
        place: &place,
        found: None,
    };
    let local = {
        let login = Connection::accept_by(stream, &shared.login, &mut access, &mut guide);
        let mut login = pin!(login);
        loop {
            tokio::select! {
                () = place.lost() => break None,
                result = &mut login => break Some(result),
                () = elsewhere.notified() => Early::abandon(early.take()),
                () = Early::progress(&mut early) => {}
            }
        }
    };
    let found = guide.found;
    drop(place);
    let (local, upstream) = match (local, found) {
        (Some(Ok(local)), Some(found)) => (local, found),
        (not_let_in, _) => {
            Early::abandon(early);
            return not_let_in.map_or(Ok(()), |refused| refused.map(drop));
        }
    };
    let span = info_span!(
        "connection",
        user = local.user(),
        target = upstream.link().target()
    );
    let lease = Early::lease_of(early, &upstream);
    serve_relay(&shared, &upstream, local, lease, &stop)
        .instrument(span)
        .await;
    Ok(())
}

/// Finds the target for the client's login name.
struct Guide<'a> {
    targets: &'a dyn Targets,
    /// Is told when the name does not lead to the usual target.
    elsewhere: &'a Notify,
    /// The client's place among those who have not logged in.
    place: &'a Place,
    found: Option<Visit>,
}

impl Doorman for Guide<'_> {
    async fn admit(&mut self, user: &str) -> Admission {
        self.place.settle();
        let mut finding = self.targets.select(user);
        let found = tokio::select! {
            biased;
            found = &mut finding => found,
            // The usual one would have been there.
            () = ready(()) => {
                self.elsewhere.notify_one();
                finding.await
            }
        };
        match found {
            Ok(upstream) => {
                let banner = upstream.banner();
                self.found = Some(upstream);
                Admission::Welcome { banner }
            }
            Err(Refusal { banner, reason }) => {
                info!(user, reason, "a login name leads nowhere");
                Admission::TurnedAway { banner, reason }
            }
        }
    }
}

/// Who is at the other end, and what that allows; none when it cannot be told or the client has left.
async fn identify(shared: &Shared, stream: &TcpStream, peer: SocketAddr) -> Option<Access> {
    prepare(stream).ok()?;
    let local = stream.local_addr().ok()?;
    match shared.access.of_client(peer, local).await {
        Ok(access) => Some(access),
        Err(error) => {
            warn!(%peer, %error, "cannot tell who is connecting");
            None
        }
    }
}

/// Has the kernel send at once what is written, and notice a client that is gone without a word (`TCPKeepAlive` of sshd):
/// one that is only silent answers.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    Ok(())
}

async fn serve_relay(
    shared: &Shared,
    upstream: &Upstream,
    local: Connection<TcpStream>,
    lease: impl Future<Output = Leased>,
    stop: &CancellationToken,
) {
    let mut relay = Relay::new(local, shared.limits, upstream.hold());
    let stopped = tokio::select! {
        () = serve_until_gone(upstream, &mut relay, lease) => false,
        () = stop.cancelled() => true,
    };
    let traffic = relay.observer().traffic();
    info!(
        to_local = traffic.to_local,
        to_upstream = traffic.to_upstream,
        "closed"
    );
    if stopped {
        relay.dismiss("ssmshim is stopping").await;
    }
}

/// Joins the client to one transport after another, until the client leaves or sshd says goodbye to it.
///
/// While there is none, each of its requests is held for a while and then refused, and the next one is another
/// try. A client that has listeners at the target gets another transport without asking; others do when they
/// want something of it, so that idle ones cost the target no logins.
async fn serve_until_gone(
    upstream: &Upstream,
    relay: &mut Relay<TcpStream>,
    lease: impl Future<Output = Leased>,
) {
    let mut redial = Redial::new();
    // Whether the client has waited for an upstream as long as one was sought.
    let mut is_awaited = true;
    let mut held = relay.hold(lease).await;
    loop {
        held = match held {
            None => return,
            Some(Ok(mut transport)) => {
                redial.on_joined(now());
                let parting = relay
                    .join(
                        &mut transport.connection,
                        upstream.absence(),
                        || upstream.round_trip(),
                        || upstream.why_not().for_client(),
                    )
                    .await;
                match parting {
                    Parting::Untouched => return upstream.give_back(transport),
                    Parting::Over => return,
                    Parting::Lost => {}
                }
                drop(transport);
                let not_before = Instant::now() + redial.on_lost(now());
                if !relay.has_forwards() && !relay.idle().await {
                    return;
                }
                if relay.hold(sleep_until(not_before)).await.is_none() {
                    return;
                }
                is_awaited = relay.is_asking();
                // A spare one may have died of the same.
                relay.hold(upstream.lease_new()).await
            }
            // It was not for that question that the time was spent.
            Some(Err(error)) if !is_awaited && relay.is_asking() && !error.is_final() => {
                is_awaited = true;
                relay.hold(upstream.lease_new()).await
            }
            Some(Err(error)) => {
                info!(%error, "no upstream for this client");
                relay.refuse(&error.for_client());
                let stays = if relay.has_forwards() {
                    tokio::select! {
                        stays = relay.idle() => stays,
                        () = sleep(redial.on_lost(now())) => true,
                        () = comes_up(upstream) => true,
                    }
                } else {
                    relay.idle().await
                };
                if !stays {
                    return;
                }
                is_awaited = relay.is_asking();
                relay.hold(upstream.lease()).await
            }
        };
    }
}

/// Waits until the tunnel, which may be up already, comes up again.
async fn comes_up(upstream: &Upstream) {
    let mut state = upstream.state();
    state.mark_unchanged();
    while state.changed().await.is_ok() {
        if matches!(*state.borrow_and_update(), State::Up(_)) {
            return;
        }
    }
    // It is stopped, and so is this client soon.
    pending().await
}

/// Now, on the clock of the runtime.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::socket_keepalive;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_looks_after_clients_that_vanish() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.unwrap();
        prepare(&stream).unwrap();
        assert!(socket_keepalive(&stream).unwrap() && stream.nodelay().unwrap());
    }
}
