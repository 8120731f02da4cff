//! The task that owns a [`Lifecycle`]: dials, listens to the tunnel, publishes.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::lifecycle::{Action, Event, Lifecycle};
use super::state::{Absence, News, State};
use crate::report::one_line;
use crate::tunnel::{self, Tunnel};

/// Where the others read what is going on.
pub(super) struct Outlets {
    pub(super) state: watch::Sender<State>,
    pub(super) absence: watch::Sender<Option<Absence>>,
    pub(super) news: broadcast::Sender<News>,
}

type Dial<'a> = Pin<Box<dyn Future<Output = Result<Tunnel, tunnel::Error>> + Send + 'a>>;

/// Keeps a tunnel up as well as it can be, until `stop`. What is being terminated then goes on in the tracker
/// of `options`.
pub(super) async fn run(
    options: tunnel::Options,
    outlets: Outlets,
    wanted: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut lifecycle: Lifecycle<Arc<Tunnel>, _> =
        Lifecycle::new(now(), StdRng::from_rng(&mut rand::rng()));
    let mut dial: Option<Dial<'_>> = None;
    let mut tunnel: Option<Arc<Tunnel>> = None;
    loop {
        while let Some(action) = lifecycle.poll_action() {
            match action {
                Action::Dial => dial = Some(Box::pin(Tunnel::dial(&options))),
                // What the dial has started is ended by the tasks it has left behind.
                Action::Abandon => dial = None,
                Action::Terminate(lost) => {
                    tunnel = None;
                    options.tracker.spawn(async move { lost.terminate().await });
                }
            }
        }
        outlets.publish(&options.target, &mut lifecycle);
        if lifecycle.is_stopped() {
            return;
        }
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => Event::Stop,
            dialled = dialled(&mut dial) => match dialled {
                Ok(new) => {
                    let new = Arc::new(new);
                    tunnel = Some(Arc::clone(&new));
                    Event::Dialled(new)
                }
                Err(error) => Event::DialFailed(error.into()),
            },
            event = happened(tunnel.as_deref()) => event,
            () = wanted.notified() => Event::Wanted,
            () = due(lifecycle.poll_timeout()) => {
                lifecycle.handle_timeout(now());
                continue;
            }
        };
        lifecycle.handle_event(now(), event);
    }
}

impl Outlets {
    fn publish(&self, target: &str, lifecycle: &mut Lifecycle<Arc<Tunnel>, StdRng>) {
        let present = lifecycle.absence();
        self.absence.send_if_modified(|absence| {
            let is_news = *absence != present;
            *absence = present;
            is_news
        });
        if let Some(state) = lifecycle.poll_state() {
            if let State::Up(tunnel) = &state {
                info!(target, session_id = tunnel.session_id(), "up");
            }
            self.state.send_replace(state);
        }
        while let Some(news) = lifecycle.poll_news() {
            log(target, &news);
            // Nobody needs to listen.
            let _ = self.news.send(news);
        }
    }
}

/// The answer of the dial under way.
async fn dialled(dial: &mut Option<Dial<'_>>) -> Result<Tunnel, tunnel::Error> {
    let Some(under_way) = dial else {
        return pending().await;
    };
    let result = under_way.await;
    *dial = None;
    result
}

/// The next event of the tunnel, if there is one.
async fn happened(tunnel: Option<&Tunnel>) -> Event<Arc<Tunnel>> {
    let Some(tunnel) = tunnel else {
        return pending().await;
    };
    match tunnel.next_event().await {
        tunnel::Event::Lost { reason } => Event::LinkLost { reason },
        tunnel::Event::Retrying { error, hint } => Event::ResumeFailed { error, hint },
        tunnel::Event::Resumed => Event::LinkResumed,
        tunnel::Event::Silent { since } => Event::Silenced { since },
        tunnel::Event::Heard => Event::Heard,
        tunnel::Event::Over { reason } => Event::TunnelLost { reason },
    }
}

async fn due(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(Instant::from_std(at)).await,
        None => pending().await,
    }
}

/// The clock of the runtime, which tests may hold.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn log(target: &str, news: &News) {
    match news {
        News::Down(error) => info!(target, reason = one_line(error), "down"),
        News::Lost {
            reason,
            is_resuming: false,
        } => info!(target, reason, "the SSM session is over, starting another"),
        // The tunnel tells the rest itself.
        _ => {}
    }
}
