//! A bound on clients that have connected and not logged in.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// Clients that may be between connecting and logging in at the same time.
///
/// A login takes milliseconds, so only a flood gets here; it then pushes out its own oldest.
const CAPACITY: usize = 128;

/// The clients that have not logged in, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct HalfOpen {
    queue: Arc<Mutex<VecDeque<Arc<CancellationToken>>>>,
}

/// One client's place; given up by dropping it.
#[derive(Debug)]
pub(super) struct Place {
    token: Arc<CancellationToken>,
    queue: Arc<Mutex<VecDeque<Arc<CancellationToken>>>>,
}

impl HalfOpen {
    /// Takes a place, and the oldest one away when there is none left.
    ///
    /// The place also ends with `stop`.
    pub(super) fn enter(&self, stop: &CancellationToken) -> Place {
        let token = Arc::new(stop.child_token());
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.retain(|waiting| !waiting.is_cancelled());
        if queue.len() >= CAPACITY
            && let Some(oldest) = queue.pop_front()
        {
            oldest.cancel();
        }
        queue.push_back(Arc::clone(&token));
        Place {
            token,
            queue: Arc::clone(&self.queue),
        }
    }
}

impl Place {
    /// Waits until the place is taken away.
    pub(super) async fn lost(&self) {
        self.token.cancelled().await;
    }

    /// The client has proved who it is: no flood of others takes the place away any more.
    pub(super) fn settle(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.retain(|waiting| !Arc::ptr_eq(waiting, &self.token));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.token.cancel();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.retain(|waiting| !waiting.is_cancelled());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_pushes_out_its_oldest_and_leavers_make_room() {
        let half_open = HalfOpen::default();
        let stop = CancellationToken::new();
        let mut places: Vec<_> = (0..CAPACITY).map(|_| half_open.enter(&stop)).collect();
        drop(places.pop());
        let _last = half_open.enter(&stop);
        assert!(!places[0].token.is_cancelled());
        let _one_too_many = half_open.enter(&stop);
        assert!(places[0].token.is_cancelled());
        assert!(!places[1].token.is_cancelled());
        assert_eq!(half_open.queue.lock().unwrap().len(), CAPACITY);
    }

    #[test]
    fn who_has_proved_who_they_are_stay_until_the_end() {
        let half_open = HalfOpen::default();
        let stop = CancellationToken::new();
        let settled = half_open.enter(&stop);
        settled.settle();
        let _flood: Vec<_> = (0..=CAPACITY).map(|_| half_open.enter(&stop)).collect();
        assert!(!settled.token.is_cancelled());
        stop.cancel();
        assert!(settled.token.is_cancelled());
    }
}
