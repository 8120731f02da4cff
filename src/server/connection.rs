//! One local connection, from its first byte to its last.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::access::Access;
use super::redial::Redial;
use super::{Arrival, Refusal, Shared, Targets};
use crate::relay::{Parting, Relay};
use crate::ssh::{self, Admission, Connection, Doorman};
use crate::upstream::{self, State, Transport, Upstream, Visit};

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
    let early = match &usual {
        Some(_) => shared.early_leases.try_acquire().ok(),
        None => None,
    };
    let mut lease = Box::pin(lease_of(usual.as_ref()));
    let mut leased = None;
    let mut guide = Guide {
        targets: &*shared.targets,
        found: None,
    };
    let local = {
        let login = Connection::accept_by(stream, &shared.login, &mut access, &mut guide);
        let mut login = pin!(login);
        loop {
            tokio::select! {
                () = place.lost() => break None,
                result = &mut login => break Some(result),
                result = &mut lease, if early.is_some() && leased.is_none() => leased = Some(result),
            }
        }
    };
    drop(early);
    drop(place);
    let (local, upstream) = match (local, guide.found) {
        (Some(Ok(local)), Some(found)) => (local, found),
        (not_let_in, _) => {
            give_back(usual.as_ref(), leased);
            return not_let_in.map_or(Ok(()), |refused| refused.map(drop));
        }
    };
    let span = info_span!(
        "connection",
        user = local.user(),
        target = upstream.link().target()
    );
    if usual.as_ref().is_some_and(|usual| usual.is_same(&upstream)) {
        let lease = async {
            match leased {
                Some(result) => result,
                None => lease.await,
            }
        };
        let served = serve_relay(&shared, &upstream, local, lease, &stop);
        served.instrument(span).await;
    } else {
        // Nobody waits at the usual one any more.
        drop(lease);
        give_back(usual.as_ref(), leased);
        drop(usual);
        let served = serve_relay(&shared, &upstream, local, upstream.lease(), &stop);
        served.instrument(span).await;
    }
    Ok(())
}

/// A transport of `upstream`; without one it never comes.
async fn lease_of(upstream: Option<&Visit>) -> Result<Transport, upstream::Error> {
    match upstream {
        Some(upstream) => upstream.lease().await,
        None => pending().await,
    }
}

/// Gives a transport back that was sought ahead, and not needed.
fn give_back(upstream: Option<&Visit>, leased: Option<Result<Transport, upstream::Error>>) {
    if let (Some(upstream), Some(Ok(unused))) = (upstream, leased) {
        upstream.give_back(unused);
    }
}

/// Finds the target for the client's login name.
struct Guide<'a> {
    targets: &'a dyn Targets,
    found: Option<Visit>,
}

impl Doorman for Guide<'_> {
    async fn admit(&mut self, user: &str) -> Admission {
        match self.targets.find(user).await {
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
    let local = stream
        .set_nodelay(true)
        .and_then(|()| stream.local_addr())
        .ok()?;
    match shared.access.of_client(peer, local).await {
        Ok(access) => Some(access),
        Err(error) => {
            warn!(%peer, %error, "cannot tell who is connecting");
            None
        }
    }
}

async fn serve_relay(
    shared: &Shared,
    upstream: &Upstream,
    local: Connection<TcpStream>,
    lease: impl Future<Output = Result<Transport, upstream::Error>>,
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
    lease: impl Future<Output = Result<Transport, upstream::Error>>,
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
