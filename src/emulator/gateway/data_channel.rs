//! The life of one data-channel WebSocket, of a client or an agent.

use std::time::Duration;

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::relay::DataLeg;
use super::{OpenChannel, Socket};
use crate::emulator::frame;
use crate::emulator::hub::Hub;
use crate::emulator::session::{Peer, Session};
use crate::emulator::socket::{self, End};

/// Time for an end to read the last messages once the session is over.
const LINGER: Duration = Duration::from_secs(2);

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
    let outbox = match peer {
        Peer::Client => &session.client,
        Peer::Agent => &session.agent,
    };
    let Some(receiver) = outbox.attach() else {
        return Err((socket, "the session is ending"));
    };
    tracing::debug!(
        session_id = id,
        ?peer,
        version = opening.client_version,
        "data channel open"
    );
    session.attached(peer);
    announce_arrival(&session, peer);

    let mut leg = DataLeg::new(session.clone(), peer, receiver);
    let end = tokio::select! {
        end = socket::drive(&mut socket, &mut leg) => Some(end),
        () = linger(&session) => None,
    };
    let replaced = leg.is_replaced();
    drop(leg);
    if !replaced {
        announce_departure(&session, peer);
        session.detached(peer);
    }
    match end {
        Some(End::Refused(problem)) => {
            tracing::warn!(
                session_id = id,
                ?peer,
                problem,
                "data channel closed: bad message"
            );
            socket::close(socket, CloseCode::Protocol, &problem).await;
        }
        Some(End::Finished | End::Closed) => socket::close(socket, CloseCode::Normal, "").await,
        Some(end) => tracing::debug!(session_id = id, ?peer, %end, "data channel lost"),
        None => tracing::debug!(
            session_id = id,
            ?peer,
            "data channel cut: its end did not read"
        ),
    }
    Ok(())
}

/// Lets both ends publish, now that one has come.
fn announce_arrival(session: &Session, peer: Peer) {
    let start = || frame::publication(true);
    match peer {
        Peer::Client => {
            session.client.push(start());
            if session.agent.is_attached() {
                session.agent.push(start());
            }
        }
        Peer::Agent => {
            session.agent.push(start());
        }
    }
}

/// Pauses the agent while there is nobody to listen. The client is told nothing: its messages are
/// dropped while the agent is away, and it resends them.
fn announce_departure(session: &Session, peer: Peer) {
    if peer == Peer::Client && session.agent.is_attached() {
        session.agent.push(frame::publication(false));
    }
}

/// Waits until the session is over and its ends have had their time.
async fn linger(session: &Session) {
    session.gone().await;
    tokio::time::sleep(LINGER).await;
}
