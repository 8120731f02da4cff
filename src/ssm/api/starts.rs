//! Whose turn it is to start an SSM session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep_until};

/// Sessions started at the same instant stall for seconds in the agent; these far apart they do not.
const SPACING: Duration = Duration::from_millis(50);

/// Lets one StartSession at a time through for each target, 50 ms after the one before was answered.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// A gate for each target that is being started or was just now; the others are forgotten.
    gates: Mutex<BTreeMap<String, Gate>>,
}

/// When the last start was answered.
type Gate = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// The right to call StartSession; ends with the call.
#[derive(Debug)]
pub(super) struct Turn(OwnedMutexGuard<Option<Instant>>);

impl Starts {
    /// Waits for one's turn. May be dropped at any time.
    pub(super) async fn turn(&self, target: &str) -> Turn {
        let turn = Turn(self.gate(target).lock_owned().await);
        if let Some(last) = *turn.0 {
            sleep_until(last + SPACING).await;
        }
        turn
    }

    fn gate(&self, target: &str) -> Gate {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| {
            // Who is not there cannot lock it: somebody has it, or waits.
            let last = gate.try_lock();
            let is_recent = |last: &Option<Instant>| last.is_some_and(|at| at.elapsed() < SPACING);
            Arc::strong_count(gate) > 1 || last.is_ok_and(|last| is_recent(&last))
        });
        Arc::clone(gates.entry(target.to_owned()).or_default())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0 = Some(Instant::now());
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
}
