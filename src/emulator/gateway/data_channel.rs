//! The life of one data-channel WebSocket, of a client or an agent.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::relay::DataLeg;
use super::{OpenChannel, Socket};
use crate::emulator::fault::healed;
use crate::emulator::fault::plan::Ending;
use crate::emulator::frame;
use crate::emulator::hub::Hub;
use crate::emulator::session::{Peer, Session};
use crate::emulator::socket::{self, End};

/// Time for an end to read the last messages once the session is over.
const LINGER: Duration = Duration::from_secs(2);

/// Time for a peer to close its half after ours was.
const FIN_DEADLINE: Duration = Duration::from_secs(2);

/// Serves a data channel until its socket or the session ends.
///
/// # Errors
/// Gives the socket back with the reason when the session or the token is not valid.
pub(super) async fn serve(
    hub: &Hub,
    id: &str,
    opening: OpenChannel,
    mut socket: Socket,
) -> Result<(), (Socket, &'static str)> {
    let Some(session) = hub.session(id) else {
        return Err((socket, "no such session"));
    };
    // Whose socket this is, the token alone tells.
    let Some(peer) = session.redeem(&opening.token_value) else {
        return Err((socket, "wrong or used token"));
    };
    let Some(receiver) = session.outbox(peer).attach() else {
        return Err((socket, "the session is ending"));
    };
    tracing::debug!(
        session_id = id,
        ?peer,
        version = opening.client_version,
        "data channel open"
    );
    // First of all, so that whoever is told of the socket can cut it.
    let number = session.wire(peer).attached();
    session.attached(peer);
    announce_arrival(hub, &session, peer, number > 1);
    hub.faults.note(|counters| match peer {
        Peer::Client => {
            counters.client_sockets += 1;
            counters.resumes += u64::from(number > 1);
        }
        Peer::Agent => counters.agent_sockets += 1,
    });
    let mut leg = DataLeg::new(Arc::clone(&hub.faults), session.clone(), peer, receiver);
    let end = loop {
        let end = tokio::select! {
            end = socket::drive(&mut socket, &mut leg) => Over::Ended(end),
            how = session.wire(peer).cut(number) => Over::Cut(how),
            () = linger(&session) => Over::Unread,
        };
        let Over::Cut(how) = end else {
            break end;
        };
        tracing::debug!(session_id = id, ?peer, ?how, "fault: data channel cut");
        hub.faults.note_cut(peer);
        if !matches!(how, Ending::BlackHole { .. }) {
            break end;
        }
        tokio::select! {
            () = leg.replaced() => break end,
            () = linger(&session) => break end,
            () = healed(how) => {}
            () = hub.faults.cleared() => {}
        }
    };
    let replaced = leg.is_replaced();
    drop(leg);
    session.wire(peer).detached(number);
    if !replaced {
        announce_departure(hub, &session, peer);
        session.detached(peer);
    }
    match end {
        Over::Cut(how) => sever(socket, how).await,
        Over::Ended(End::Refused(problem)) => {
            tracing::warn!(
                session_id = id,
                ?peer,
                problem,
                "data channel closed: bad message"
            );
            socket::close(socket, CloseCode::Protocol, &problem).await;
        }
        Over::Ended(End::Finished | End::Closed) => {
            socket::close(socket, CloseCode::Normal, "").await
        }
        Over::Ended(end) => tracing::debug!(session_id = id, ?peer, %end, "data channel lost"),
        Over::Unread => tracing::debug!(
            session_id = id,
            ?peer,
            "data channel cut: its end did not read"
        ),
    }
    Ok(())
}

/// Why a data channel is over.
enum Over {
    /// By itself.
    Ended(End),
    /// By a fault.
    Cut(Ending),
    /// The session is over and its end does not read what it is told.
    Unread,
}

/// Ends a socket as a fault would have it.
async fn sever(mut socket: Socket, how: Ending) {
    match how {
        // Where the option is refused, the end is an orderly one.
        Ending::Reset | Ending::BlackHole { .. } => {
            let _ = socket.get_ref().set_zero_linger();
        }
        Ending::Bye => socket::close(socket, CloseCode::Normal, "Bye").await,
        Ending::Fin => {
            let stream = socket.get_mut();
            // To drop what has come and is unread would be a reset.
            let drained = async {
                stream.shutdown().await?;
                tokio::io::copy(stream, &mut tokio::io::sink()).await
            };
            let _ = tokio::time::timeout(FIN_DEADLINE, drained).await;
        }
    }
}

/// Lets both ends publish, now that one has come, or is back.
fn announce_arrival(hub: &Hub, session: &Session, peer: Peer, is_back: bool) {
    let start = |end| frame::publication(true, hub.faults.header_to(end));
    match peer {
        Peer::Client => {
            session.client.push(start(Peer::Client));
            if session.agent.is_attached() {
                session.agent.push(start(Peer::Agent));
            }
        }
        Peer::Agent => {
            session.agent.push(start(Peer::Agent));
            if is_back {
                session.client.push(start(Peer::Client));
            }
        }
    }
}

/// Pauses the other end while there is nobody to listen (sheet §3.5). Clients need not obey: what they send is
/// dropped while the agent is away, and they resend it.
fn announce_departure(hub: &Hub, session: &Session, peer: Peer) {
    let other = session.outbox(peer.other());
    if other.is_attached() {
        other.push(frame::publication(
            false,
            hub.faults.header_to(peer.other()),
        ));
    }
}

/// Waits until the session is over and its ends have had their time.
async fn linger(session: &Session) {
    session.gone().await;
    tokio::time::sleep(LINGER).await;
}
