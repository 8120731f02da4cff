//! Whose turn it is to start an SSM session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep_until};

/// Sessions started at the same instant stall for seconds in the agent; these far apart they do not.
const SPACING: Duration = Duration::from_millis(50);

/// Lets one StartSession at a time through for each target, 50 ms after the one before was answered, or later
/// when the service has asked for that.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// A gate for each target that is being started or may not be yet; the others are forgotten.
    gates: Mutex<BTreeMap<String, Gate>>,
}

/// When the next start may be.
type Gate = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// The right to call StartSession for a target once; ends with the call.
#[derive(Debug)]
pub struct Turn(OwnedMutexGuard<Option<Instant>>);

impl Starts {
    /// Waits for one's turn. May be dropped at any time.
    pub(super) async fn turn(&self, target: &str) -> Turn {
        let gate = self.gate(target).lock_owned().await;
        if let Some(due) = *gate {
            sleep_until(due).await;
        }
        Turn(gate)
    }

    fn gate(&self, target: &str) -> Gate {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        gates.retain(|_, gate| {
            // Who is not there cannot lock it: somebody has it, or waits.
            let due = gate.try_lock();
            Arc::strong_count(gate) > 1 || due.is_ok_and(|due| due.is_some_and(|due| due > now))
        });
        Arc::clone(gates.entry(target.to_owned()).or_default())
    }
}

impl Turn {
    /// Makes the next start for this target, whoever's it is, wait for so long.
    pub(in crate::ssm) fn put_off(&mut self, wait: Duration) {
        *self.0 = (*self.0).max(Some(Instant::now() + wait));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.put_off(SPACING);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn starts_of_a_target_wait_for_the_answer_and_a_little_longer() {
        let starts = Starts::default();
        let under_way = AtomicU32::new(0);
        let calls = (0..3).map(|_| async {
            let turn = starts.turn("i-1").await;
            let begun = Instant::now();
            assert_eq!(under_way.fetch_add(1, Ordering::Relaxed), 0);
            // The service takes its time.
            tokio::time::sleep(SPACING).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            let answered = Instant::now();
            drop(turn);
            (begun, answered)
        });
        let mut calls = join_all(calls).await;
        calls.sort_unstable();
        for pair in calls.windows(2) {
            assert!(pair[1].0 >= pair[0].1 + SPACING, "{pair:?}");
        }
    }

    #[tokio::test]
    async fn other_targets_do_not_wait_and_are_forgotten() {
        let starts = Starts::default();
        let first = starts.turn("i-1").await;
        let mut second = Box::pin(starts.turn("i-1"));
        assert!(poll!(&mut second).is_pending());
        assert!(poll!(Box::pin(starts.turn("i-2"))).is_ready());
        drop((first, second));
        tokio::time::sleep(SPACING).await;
        drop(starts.turn("i-3").await);
        assert_eq!(starts.gates.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_the_service_asks_of_one_is_obeyed_by_all() {
        let starts = Starts::default();
        let mut first = starts.turn("i-1").await;
        let wait = SPACING * 4;
        let due = Instant::now() + wait;
        first.put_off(wait);
        drop(first);
        // Who leaves while waiting takes nobody's wait away.
        assert!(poll!(Box::pin(starts.turn("i-1"))).is_pending());
        assert!(poll!(Box::pin(starts.turn("i-2"))).is_ready());
        drop(starts.turn("i-1").await);
        assert!(Instant::now() >= due);
    }
}
