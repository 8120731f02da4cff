//! Streams of known bytes: sources that report progress, sinks that verify and can stand still.

use std::io::{Read, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::DEADLINE;

/// The unit of a [`Pattern`]; every stream of one is a whole number of chunks.
pub(crate) const CHUNK: usize = 64 << 10;

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// How long nothing may move before a stream counts as stalled.
pub(crate) const QUIET: Duration = Duration::from_secs(1);

/// An incompressible stream in which every chunk differs from every other.
#[derive(Clone)]
pub(crate) struct Pattern {
    base: Arc<Vec<u8>>,
    seed: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        // xorshift64*: fast without optimisation, since it fills one chunk only.
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut base = Vec::with_capacity(CHUNK);
        while base.len() < CHUNK {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            base.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        Self {
            base: Arc::new(base),
            seed,
        }
    }

    /// Chunk number `index`: the base rotated by the index and marked with it.
    pub(crate) fn chunk(&self, index: u64) -> Vec<u8> {
        let mut chunk = self.base.as_ref().clone();
        chunk.rotate_left(
            usize::try_from(index.wrapping_mul(4099) % CHUNK as u64).expect("below 64 KiB"),
        );
        chunk[..8].copy_from_slice(&index.to_be_bytes());
        chunk[8..16].copy_from_slice(&self.seed.to_be_bytes());
        chunk
    }
}

/// Bytes moved so far, observable while a stream runs.
pub(crate) struct Progress {
    moved: u64,
    steps: Receiver<u64>,
}

impl Progress {
    /// Bytes moved, as far as known without waiting.
    pub(crate) fn now(&mut self) -> u64 {
        while let Ok(step) = self.steps.try_recv() {
            self.moved += step;
        }
        self.moved
    }

    /// Waits until at least `bytes` have moved.
    pub(crate) fn reach(&mut self, bytes: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.now() < bytes {
            match self
                .steps
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(step) => self.moved += step,
                Err(error) => panic!("{} of {bytes} bytes moved: {error}", self.moved),
            }
        }
    }

    /// Waits until nothing has moved for `quiet`, and returns the bytes moved by then.
    ///
    /// # Panics
    /// When the stream ends instead, or keeps moving past the deadline.
    pub(crate) fn stalled(&mut self, quiet: Duration) -> u64 {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.steps.recv_timeout(quiet) {
                Ok(step) => self.moved += step,
                Err(RecvTimeoutError::Timeout) => return self.moved,
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended after {} bytes instead of stalling", self.moved)
                }
            }
            assert!(
                Instant::now() < deadline,
                "still moving after {} bytes",
                self.moved
            );
        }
    }

    /// Asserts that nothing moves for `period`.
    pub(crate) fn stays(&mut self, period: Duration) {
        let before = self.now();
        match self.steps.recv_timeout(period) {
            Err(RecvTimeoutError::Timeout) => {}
            other => panic!("moved after standing at {before} bytes: {other:?}"),
        }
    }
}

/// A thread that writes a pattern into a stream and closes it.
pub(crate) struct Source {
    pub(crate) progress: Progress,
    thread: JoinHandle<std::io::Result<u64>>,
}

impl Source {
    /// Writes `bytes` (whole chunks) of the pattern `seed` into what `open` returns, which may block.
    pub(crate) fn start<W: Write>(
        open: impl FnOnce() -> W + Send + 'static,
        seed: u64,
        bytes: u64,
    ) -> Self {
        let (step, steps) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut stream = open();
            let pattern = Pattern::new(seed);
            for index in 0..bytes / CHUNK as u64 {
                let chunk = pattern.chunk(index);
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let count = stream.write(rest)?;
                    rest = &rest[count..];
                    let _ = step.send(count as u64);
                }
            }
            stream.flush()?;
            Ok(bytes)
        });
        Self {
            progress: Progress { moved: 0, steps },
            thread,
        }
    }

    /// Waits until everything is written and the stream closed.
    pub(crate) fn finish(self) -> u64 {
        self.try_finish().expect("the stream takes every byte")
    }

    /// Waits until everything is written or the stream takes no more.
    pub(crate) fn try_finish(self) -> std::io::Result<u64> {
        join(self.thread, "source")
    }
}

/// Lets a sink read, makes it stand still, or limits its rate.
#[derive(Clone)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open() -> Self {
        Self(Arc::new((Mutex::new(true), Condvar::new())))
    }

    pub(crate) fn closed() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    pub(crate) fn set(&self, open: bool) {
        *self.0.0.lock().expect("no panic under the lock") = open;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let guard = self.0.0.lock().expect("no panic under the lock");
        drop(
            self.0
                .1
                .wait_while(guard, |open| !*open)
                .expect("no panic under the lock"),
        );
    }
}

/// A thread that reads a stream to its end and verifies that it is a pattern.
pub(crate) struct Sink {
    pub(crate) progress: Progress,
    thread: JoinHandle<u64>,
}

impl Sink {
    /// Reads what `open` returns (which may block) while `gate` is open, at most `rate` bytes a second.
    pub(crate) fn start<R: Read>(
        open: impl FnOnce() -> R + Send + 'static,
        seed: u64,
        gate: Gate,
        rate: Option<u64>,
    ) -> Self {
        let (step, steps) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut stream = open();
            let pattern = Pattern::new(seed);
            let mut chunk = vec![0; CHUNK];
            let (mut total, started) = (0, Instant::now());
            loop {
                gate.pass();
                if let Some(rate) = rate {
                    pace(started, total, rate);
                }
                let mut filled = 0;
                while filled < CHUNK {
                    let count = stream.read(&mut chunk[filled..]).expect("the stream reads");
                    if count == 0 {
                        break;
                    }
                    let _ = step.send(count as u64);
                    filled += count;
                }
                let expected = pattern.chunk(total / CHUNK as u64);
                if chunk[..filled] != expected[..filled] {
                    let at = (0..filled)
                        .find(|&at| chunk[at] != expected[at])
                        .unwrap_or_default();
                    panic!("wrong byte at offset {}", total + at as u64);
                }
                total += filled as u64;
                if filled < CHUNK {
                    return total;
                }
            }
        });
        Self {
            progress: Progress { moved: 0, steps },
            thread,
        }
    }

    /// Waits for the end of the stream and returns the number of bytes, all verified.
    pub(crate) fn finish(self) -> u64 {
        join(self.thread, "sink")
    }
}

/// Waits until `total` bytes since `started` keep to `rate` bytes a second: a slow link, not a wait.
pub(crate) fn pace(started: Instant, total: u64, rate: u64) {
    let due = Duration::from_secs_f64(total as f64 / rate as f64);
    thread::sleep(due.saturating_sub(started.elapsed()));
}

/// Joins a thread under the deadline and passes its panic on.
pub(crate) fn join<T: Send + 'static>(thread: JoinHandle<T>, what: &str) -> T {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let _ = ended.send(thread.join());
    });
    match end.recv_timeout(DEADLINE.saturating_mul(5)) {
        Ok(Ok(value)) => value,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(_) => panic!("the {what} has not finished"),
    }
}
