//! Keeping the tunnel up: dial, watch, dial again.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::Error;
use crate::tunnel::{self, Link, Tunnel};

/// What the tunnel is doing.
#[derive(Debug, Clone)]
pub enum State {
    /// The first attempt, or another one after a loss, is under way.
    Dialing,
    /// Streams can be opened.
    Up(Arc<Tunnel>),
    /// The last attempt failed; another follows in a while, or as soon as somebody asks.
    Down(Error),
    /// It has been shut down.
    Stopped,
}

/// However often it is asked for, the tunnel is not dialled more often than this.
const DIAL_PAUSE: Duration = Duration::from_secs(1);

/// Attempts that nobody asks for come ever more rarely, down to this.
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Dials until `stop`, and again whenever the tunnel is lost. Publishes each state.
pub(super) async fn run(
    options: tunnel::Options,
    publish: watch::Sender<State>,
    absence: watch::Sender<Option<Instant>>,
    wanted: Arc<Notify>,
    stop: CancellationToken,
) {
    let policy = ExponentialBuilder::new()
        .with_min_delay(DIAL_PAUSE)
        .with_max_delay(DIAL_PAUSE_MAX)
        .with_jitter()
        .without_max_times();
    let mut pauses = policy.build();
    loop {
        publish.send_replace(State::Dialing);
        let began = Instant::now();
        let dialled = tokio::select! {
            () = stop.cancelled() => break,
            dialled = Tunnel::dial(&options) => dialled,
        };
        match dialled {
            Ok(tunnel) => {
                info!(
                    target = options.target,
                    session_id = tunnel.session_id(),
                    "up"
                );
                let tunnel = Arc::new(tunnel);
                publish.send_replace(State::Up(Arc::clone(&tunnel)));
                let lost = tokio::select! {
                    () = stop.cancelled() => None,
                    lost = tunnel.lost() => Some(lost),
                    () = follow(&tunnel, &absence) => None,
                };
                absence.send_if_modified(away_since(Some(Instant::now())));
                match lost {
                    Some(reason) => {
                        warn!(
                            target = options.target,
                            reason, "the SSM session is over, starting another"
                        );
                        publish.send_replace(State::Dialing);
                        tunnel.terminate().await;
                        if began.elapsed() > DIAL_PAUSE_MAX {
                            pauses = policy.build();
                        }
                        // One that ends as soon as it is up is not dialled in a tight loop.
                        let pause = pauses.next().unwrap_or(DIAL_PAUSE_MAX);
                        tokio::select! {
                            () = stop.cancelled() => break,
                            () = tokio::time::sleep_until(began + pause) => {}
                        }
                    }
                    None => {
                        publish.send_replace(State::Stopped);
                        tunnel.terminate().await;
                        return;
                    }
                }
            }
            Err(error) => {
                let error = Error::from(error);
                info!(
                    target = options.target,
                    error = &error as &dyn std::error::Error,
                    "down"
                );
                publish.send_replace(State::Down(error));
                let pause = pauses.next().unwrap_or(DIAL_PAUSE_MAX);
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                    () = wanted.notified() => {}
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(began + DIAL_PAUSE) => {}
        }
    }
    publish.send_replace(State::Stopped);
}

/// Publishes since when `tunnel` has had no link; does not return.
async fn follow(tunnel: &Tunnel, absence: &watch::Sender<Option<Instant>>) {
    let mut link = tunnel.link();
    loop {
        let since = match &*link.borrow_and_update() {
            Link::Connected { .. } => None,
            Link::Resuming { since, .. } => Some(*since),
        };
        absence.send_if_modified(away_since(since));
        if link.changed().await.is_err() {
            // The tunnel is about to tell that it is lost.
            std::future::pending::<()>().await;
        }
    }
}

/// An absence that goes on has begun when it was first noticed.
fn away_since(since: Option<Instant>) -> impl FnOnce(&mut Option<Instant>) -> bool {
    move |away| {
        let is_news = away.is_some() != since.is_some();
        if is_news {
            *away = since;
        }
        is_news
    }
}
