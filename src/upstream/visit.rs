//! Who uses an upstream, so that one that nobody uses can be ended.

use std::ops::Deref;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Upstream;

/// An [`Upstream`] in use: as long as there is one of these, it is not taken for idle.
pub struct Visit {
    upstream: Upstream,
}

/// How many use it, and since when.
#[derive(Debug)]
pub(super) struct Visitors {
    present: watch::Sender<Present>,
}

#[derive(Debug, Clone, Copy)]
struct Present {
    count: usize,
    /// When the last one left, or when there could have been one first.
    left_at: Instant,
}

impl Visitors {
    pub(super) fn none() -> Self {
        let left_at = Instant::now();
        Self {
            present: watch::Sender::new(Present { count: 0, left_at }),
        }
    }

    /// Whether nobody uses it.
    pub(super) fn are_gone(&self) -> bool {
        self.present.borrow().count == 0
    }

    /// Since when nobody uses it; none while somebody does.
    pub(super) fn gone_since(&self) -> Option<Instant> {
        let Present { count, left_at } = *self.present.borrow();
        (count == 0).then_some(left_at)
    }

    /// Waits until nobody has used it for as long as `patience` says then.
    pub(super) async fn gone_for(&self, patience: impl Fn() -> Duration) {
        let mut present = self.present.subscribe();
        loop {
            let Present { count, left_at } = *present.borrow_and_update();
            // The sender is ours and lives.
            let changed = present.changed();
            // As good as never, where the clock does not go that far.
            match left_at.checked_add(patience()) {
                Some(end) if count == 0 => {
                    if timeout_at(end, changed).await.is_err() {
                        return;
                    }
                }
                _ => {
                    let _ = changed.await;
                }
            }
        }
    }

    fn enter(&self) {
        self.present.send_modify(|present| present.count += 1);
    }

    fn leave(&self) {
        self.present.send_modify(|present| {
            present.count -= 1;
            present.left_at = Instant::now();
        });
    }
}

impl Visit {
    pub(super) fn to(upstream: Upstream) -> Self {
        upstream.shared.visitors.enter();
        Self { upstream }
    }
}

impl Clone for Visit {
    fn clone(&self) -> Self {
        Self::to(self.upstream.clone())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.upstream.shared.visitors.leave();
    }
}

impl Deref for Visit {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        &self.upstream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: fn() -> Duration = || Duration::ZERO;
    const SOME_DAY: fn() -> Duration = || Duration::from_secs(3600);
    const NEVER: fn() -> Duration = || Duration::MAX;

    async fn is_idle(visitors: &Visitors, patience: fn() -> Duration) -> bool {
        let moment = Duration::from_millis(1);
        let gone = visitors.gone_for(patience);
        tokio::time::timeout(moment, gone).await.is_ok()
    }

    #[tokio::test]
    async fn it_is_idle_a_while_after_the_last_one_left() {
        let visitors = Visitors::none();
        assert!(is_idle(&visitors, AT_ONCE).await);
        visitors.enter();
        visitors.enter();
        visitors.leave();
        assert!(!visitors.are_gone() && !is_idle(&visitors, AT_ONCE).await);
        let waiting = visitors.gone_for(AT_ONCE);
        tokio::join!(waiting, async { visitors.leave() });
        assert!(visitors.are_gone() && is_idle(&visitors, AT_ONCE).await);
        for patience in [SOME_DAY, NEVER] {
            assert!(!is_idle(&visitors, patience).await);
        }
    }
}
