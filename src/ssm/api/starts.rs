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
    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn starts_of_a_target_wait_for_the_answer_and_a_little_longer() {
        let starts = Starts::default();
        let begin = Instant::now();
        let turns = (0..4).map(|_| async {
            let turn = starts.turn("i-1").await;
            let at = begin.elapsed();
            // The service takes its time.
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(turn);
            at.as_millis()
        });
        assert_eq!(join_all(turns).await, [0, 150, 300, 450]);
        // Others do not wait.
        let held = starts.turn("i-1").await;
        let mut second = Box::pin(starts.turn("i-1"));
        assert!(poll!(&mut second).is_pending());
        let other = starts.turn("i-2");
        assert!(poll!(Box::pin(other)).is_ready());
        drop((held, second));
        tokio::time::advance(SPACING * 2).await;
        drop(starts.turn("i-3").await);
        assert_eq!(
            starts.gates.lock().unwrap().len(),
            1,
            "the others are forgotten"
        );
    }
}
