//! Noticing that the computer has slept, at once.
//!
//! The monotonic clock, by which all timers go, stands still during a sleep: nothing times out, and
//! the socket is probably dead without knowing it. Other clocks go on, and tell when compared.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep, sleep};

/// The clocks are compared at least this often; on Linux the kernel tells at once besides.
const TICK: Duration = Duration::from_secs(1);
/// What the clocks may differ by from one comparison to the next, and it was not a sleep.
const TOLERANCE: Duration = Duration::from_secs(2);

/// What the clocks say, each from its own beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ssm) struct Reading {
    /// Stands still while the computer sleeps.
    pub(in crate::ssm) running: Duration,
    /// The date: goes on, and may also be set, forwards and backwards.
    pub(in crate::ssm) date: Duration,
    /// Goes on and is never set, where there is such a clock.
    pub(in crate::ssm) elapsed: Option<Duration>,
}

impl Reading {
    /// How long the computer has slept since `earlier`, if it has.
    ///
    /// A virtual machine that was paused learns of it by its date only. A date that was merely set
    /// looks the same; that costs a ping.
    fn slept_since(self, earlier: Self) -> Option<Duration> {
        let running = self.running.saturating_sub(earlier.running);
        let beyond = |clock: Duration, before: Duration| {
            clock.saturating_sub(before).saturating_sub(running)
        };
        let by_date = beyond(self.date, earlier.date);
        let by_elapsed = match (self.elapsed, earlier.elapsed) {
            (Some(clock), Some(before)) => beyond(clock, before),
            _ => Duration::ZERO,
        };
        let slept = by_date.max(by_elapsed);
        (slept >= TOLERANCE).then_some(slept)
    }
}

/// Where the time is read, so that tests can send a computer to sleep.
pub(in crate::ssm) trait Clocks: fmt::Debug + Send {
    /// All clocks, now.
    fn read(&self) -> Reading;

    /// Ready, perhaps more than once, when it is time to read the clocks again. May never be.
    fn poll_set(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Tells when the computer has slept.
#[derive(Debug)]
pub(super) struct Wakeups {
    clocks: Box<dyn Clocks>,
    last: Reading,
    tick: Pin<Box<Sleep>>,
}

impl Wakeups {
    pub(super) fn new(clocks: Box<dyn Clocks>) -> Self {
        Self {
            last: clocks.read(),
            clocks,
            tick: Box::pin(sleep(TICK)),
        }
    }

    /// Ready with the length of a sleep that has ended since the last call.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        loop {
            let is_told = self.clocks.poll_set(cx).is_ready();
            let is_due = self.tick.as_mut().poll(cx).is_ready();
            let now = self.clocks.read();
            let slept = now.slept_since(self.last);
            self.last = now;
            if let Some(slept) = slept {
                return Poll::Ready(slept);
            }
            if is_due {
                self.tick.as_mut().reset(Instant::now() + TICK);
            } else if !is_told {
                return Poll::Pending;
            }
        }
    }

    /// Waits until the computer has slept and is awake again, and says how long it has slept.
    ///
    /// May be dropped at any time; nothing is missed.
    pub(super) async fn woken(&mut self) -> Duration {
        poll_fn(|cx| self.poll(cx)).await
    }
}

/// The clocks of this computer.
pub(in crate::ssm) fn system() -> Box<dyn Clocks> {
    Box::new(System::new())
}

/// Monotonic clock and date, and on Linux also the clock since boot and word from the kernel.
#[derive(Debug)]
struct System {
    start: std::time::Instant,
    #[cfg(target_os = "linux")]
    alarm: Option<linux::Alarm>,
}

impl System {
    fn new() -> Self {
        Self {
            start: std::time::Instant::now(),
            #[cfg(target_os = "linux")]
            alarm: linux::Alarm::new()
                .inspect_err(|error| tracing::debug!(%error, "no word from the kernel on wake-up"))
                .ok(),
        }
    }
}

impl Clocks for System {
    fn read(&self) -> Reading {
        Reading {
            running: self.start.elapsed(),
            date: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
            #[cfg(target_os = "linux")]
            elapsed: Some(linux::since_boot()),
            #[cfg(not(target_os = "linux"))]
            elapsed: None,
        }
    }

    #[cfg(target_os = "linux")]
    fn poll_set(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(alarm) = &mut self.alarm else {
            return Poll::Pending;
        };
        alarm.poll_set(cx).map(|armed| {
            if let Err(error) = armed {
                tracing::debug!(%error, "no more word from the kernel on wake-up");
                self.alarm = None;
            }
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn poll_set(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::AsFd;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};
    use std::time::Duration;

    use rustix::time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
        clock_gettime, timerfd_create, timerfd_settime,
    };
    use tokio::io::{AsyncRead, ReadBuf};
    use tokio::net::unix::pipe;

    /// A date far beyond the life of this process, within what the kernel takes.
    const NEVER_S: i64 = 1 << 32;

    /// CLOCK_BOOTTIME: goes on during a sleep.
    pub(super) fn since_boot() -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        Duration::try_from(time).unwrap_or_default()
    }

    /// A timer by the date that never expires, but is cancelled when the date jumps
    /// (`TFD_TIMER_CANCEL_ON_SET`), which it does also when the computer wakes up.
    ///
    /// To the runtime it is the reading end of a pipe: something to read from when it is ready.
    #[derive(Debug)]
    pub(super) struct Alarm {
        timer: pipe::Receiver,
    }

    impl Alarm {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
            arm(&timer)?;
            let timer = pipe::Receiver::from_owned_fd_unchecked(timer)?;
            Ok(Self { timer })
        }

        /// Ready when the date has jumped; armed again by then.
        pub(super) fn poll_set(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let mut expirations = [0; 8];
            let mut buffer = ReadBuf::new(&mut expirations);
            // An error, which is ECANCELED, is the very message.
            let _ = ready!(Pin::new(&mut self.timer).poll_read(cx, &mut buffer));
            Poll::Ready(arm(&self.timer))
        }
    }

    fn arm(timer: &impl AsFd) -> io::Result<()> {
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        let time = |tv_sec| Timespec { tv_sec, tv_nsec: 0 };
        let never = Itimerspec {
            it_interval: time(0),
            it_value: time(NEVER_S),
        };
        timerfd_settime(timer, flags, &never)?;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::poll;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Clocks of a computer that sleeps, and whose date is set, when a test says so.
    #[derive(Debug, Clone)]
    pub(in crate::ssm::driver) struct TestClocks {
        start: Instant,
        ahead: Arc<Mutex<Duration>>,
    }

    impl TestClocks {
        pub(in crate::ssm::driver) fn new() -> Self {
            Self {
                start: Instant::now(),
                ahead: Arc::default(),
            }
        }

        /// Lets the date go on by `duration` while nothing else does.
        pub(in crate::ssm::driver) fn sleep(&self, duration: Duration) {
            *self.ahead.lock().unwrap() += duration;
        }
    }

    impl Clocks for TestClocks {
        fn read(&self) -> Reading {
            let running = self.start.elapsed();
            Reading {
                running,
                date: running + *self.ahead.lock().unwrap(),
                elapsed: None,
            }
        }

        fn poll_set(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }
    }

    fn reading(running: u64, date: u64, elapsed: Option<u64>) -> Reading {
        Reading {
            running: SECOND * running as u32,
            date: SECOND * date as u32,
            elapsed: elapsed.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_sleep_is_what_other_clocks_went_on_for() {
        let before = reading(10, 1000, Some(50));
        for (after, slept) in [
            // An ordinary second.
            (reading(11, 1001, Some(51)), None),
            // A sleep of an hour.
            (reading(11, 4601, Some(3651)), Some(3600)),
            // A paused virtual machine, or a date set forwards.
            (reading(11, 4601, Some(51)), Some(3600)),
            // A sleep while the date was set back.
            (reading(11, 900, Some(3651)), Some(3600)),
            // A date set back, and one corrected a little.
            (reading(11, 900, Some(51)), None),
            (reading(11, 1002, Some(51)), None),
            // No clock since boot.
            (reading(11, 4601, None), Some(3600)),
        ] {
            let slept = slept.map(Duration::from_secs);
            assert_eq!(after.slept_since(before), slept, "{after:?}");
        }
    }

    #[tokio::test]
    async fn a_sleep_is_told_once_and_without_being_asked() {
        let clocks = TestClocks::new();
        let mut wakeups = Wakeups::new(Box::new(clocks.clone()));
        let mut woken = Box::pin(wakeups.woken());
        assert!(poll!(&mut woken).is_pending());
        clocks.sleep(SECOND * 60);
        assert_eq!(woken.await, SECOND * 60);
        assert!(poll!(Box::pin(wakeups.woken())).is_pending());
    }

    #[tokio::test]
    async fn the_clocks_of_this_computer_agree_while_it_is_awake() {
        let mut wakeups = Wakeups::new(system());
        assert!(poll!(std::pin::pin!(wakeups.woken())).is_pending());
        let first = wakeups.clocks.read();
        assert!(wakeups.clocks.read().running >= first.running);
        #[cfg(target_os = "linux")]
        assert!(linux::Alarm::new().is_ok());
    }
}
