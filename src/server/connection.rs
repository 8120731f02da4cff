//! One local connection, from its first byte to its last.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::access::Access;
use super::{Arrival, Shared};
use crate::relay::{Parting, Relay};
use crate::ssh::{self, Connection};
use crate::upstream::{self, Transport};

/// Logs the client in, joins it to an upstream transport, and gives that one back if the client never used it.
///
/// When the client will probably be let in, the transport is sought while it logs in, so that the two
/// key exchanges overlap.
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
    let early = match access.is_promising() {
        true => shared.early_leases.try_acquire().ok(),
        false => None,
    };
    let mut lease = pin!(shared.upstream.lease());
    let mut leased = None;
    let local = {
        let mut login = pin!(Connection::accept(stream, &shared.login, &mut access));
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
    let local = match local {
        Some(Ok(local)) => local,
        not_let_in => {
            if let Some(Ok(unused)) = leased {
                shared.upstream.give_back(unused);
            }
            return not_let_in.map_or(Ok(()), |refused| refused.map(drop));
        }
    };
    let span = info_span!("connection", user = local.user());
    let lease = async {
        match leased {
            Some(result) => result,
            None => lease.await,
        }
    };
    serve_relay(&shared, local, lease, &stop)
        .instrument(span)
        .await;
    Ok(())
}

/// Who is at the other end, and what that allows; none when it cannot be told or the client has left.
async fn identify(shared: &Shared, stream: &TcpStream, peer: SocketAddr) -> Option<Access> {
    let local = stream
        .set_nodelay(true)
        .and_then(|()| stream.local_addr())
        .ok()?;
    let greeting = shared.upstream.banner();
    match shared.access.of_client(peer, local, greeting).await {
        Ok(access) => Some(access),
        Err(error) => {
            warn!(%peer, %error, "cannot tell who is connecting");
            None
        }
    }
}

async fn serve_relay(
    shared: &Shared,
    local: Connection<TcpStream>,
    lease: impl Future<Output = Result<Transport, upstream::Error>>,
    stop: &CancellationToken,
) {
    let mut relay = Relay::new(local, shared.limits);
    let stopped = tokio::select! {
        () = serve_until_gone(shared, &mut relay, lease) => false,
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

/// Joins the client to a transport. As long as there is none, each of its requests is held for a while
/// and then refused, and the next one is another try. A transport that turns out to have died before
/// its first use is replaced, once.
async fn serve_until_gone(
    shared: &Shared,
    relay: &mut Relay<TcpStream>,
    lease: impl Future<Output = Result<Transport, upstream::Error>>,
) {
    let mut held = relay.hold(lease).await;
    let mut may_be_stale = true;
    loop {
        held = match held {
            None => return,
            Some(Ok(mut transport)) => {
                match relay.join(&mut transport.connection, may_be_stale).await {
                    Parting::Untouched => return shared.upstream.give_back(transport),
                    Parting::Over => return,
                    Parting::Unheard => {
                        info!("the transport was dead, logging in again");
                        may_be_stale = false;
                        relay.hold(shared.upstream.lease_new()).await
                    }
                }
            }
            Some(Err(error)) => {
                info!(%error, "no upstream for this client");
                if !relay.refuse(&error.for_client()).await {
                    return;
                }
                relay.hold(shared.upstream.lease()).await
            }
        };
    }
}
