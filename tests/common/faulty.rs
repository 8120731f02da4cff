//! A far end that fails on demand: its emulator runs in this process, within reach of the test.

use std::time::{Duration, Instant};

use ssmshim::emulator::fault::plan::Ending;
use ssmshim::emulator::fault::{Counters, Fault, Faults};
use ssmshim::emulator::{Emulator, Options, Pacing, Peer, Resend};
use tokio::runtime::Runtime;

use super::DEADLINE;
use super::note;
use super::world::World;

/// A world with faults. The daemon ends before what it talks to.
pub(crate) struct Faulty {
    pub(crate) world: World,
    far: Far,
}

/// The emulator and what it runs on.
struct Far {
    runtime: Runtime,
    emulator: Option<Emulator>,
    faults: Faults,
}

impl Faulty {
    /// Agents without pauses that resend all at once, as no real one does: for bulk and many cuts.
    pub(crate) fn fast() -> Option<Self> {
        Self::with(Options {
            pacing: Pacing::Off,
            resend: Resend::Backlog,
            agent_ping: Duration::from_millis(500),
            ..Options::default()
        })
    }

    /// Agents as the real ones are.
    pub(crate) fn real() -> Option<Self> {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Option<Self> {
        let mut far = None;
        let world = World::serve_through(|| {
            let started = Far::start(options);
            let (endpoint, target) = started.names();
            far = Some(started);
            (endpoint, target)
        })?;
        let far = far?;
        note(&format!("seed of the faults: {}", far.faults.seed()));
        Some(Self { world, far })
    }

    /// The emulator's endpoint, and its first target.
    pub(crate) fn names(&self) -> (String, String) {
        self.far.names()
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.far.faults
    }

    /// Injects a fault, or a plan, given as JSON.
    pub(crate) fn inject(&self, json: &str) {
        let plan = json
            .parse()
            .unwrap_or_else(|error| panic!("{json}: {error}"));
        self.faults().apply(plan).expect("a fault that makes sense");
    }

    pub(crate) fn strike(&self, fault: Fault) {
        self.faults()
            .inject(fault)
            .expect("a fault that makes sense");
    }

    /// Waits until the counters are as asked for.
    pub(crate) fn until(&self, reached: impl Fn(&Counters) -> bool) -> Counters {
        self.within(DEADLINE, reached)
    }

    /// [`Faulty::until`] with a deadline that is part of the promise.
    pub(crate) fn within(
        &self,
        deadline: Duration,
        reached: impl Fn(&Counters) -> bool,
    ) -> Counters {
        let wait = self.faults().wait_until(reached);
        let waited = self
            .far
            .runtime
            .block_on(async { tokio::time::timeout(deadline, wait).await });
        waited.unwrap_or_else(|_| {
            panic!(
                "not within {deadline:?}: {:?}; the daemon says:\n{}",
                self.faults().report(),
                self.daemon_says()
            )
        })
    }

    /// Cuts the open data channels of `side` and waits until it has come back; returns how long it
    /// was away.
    pub(crate) fn cut(&self, side: Peer, how: Ending) -> Duration {
        let sockets = |counters: &Counters| match side {
            Peer::Client => counters.client_sockets,
            Peer::Agent => counters.agent_sockets,
        };
        let before = sockets(&self.faults().counters());
        let started = Instant::now();
        assert!(self.faults().cut(side, how) > 0, "{side:?} is away");
        self.until(|counters| sockets(counters) > before);
        started.elapsed()
    }

    /// Asserts that all that happened, happened to one SSM session.
    #[track_caller]
    pub(crate) fn assert_one_session(&self) {
        let counters = self.faults().counters();
        assert_eq!(
            (counters.sessions, counters.sessions_over),
            (1, 0),
            "{counters:?}; the daemon says:\n{}",
            self.daemon_says()
        );
    }

    fn daemon_says(&self) -> String {
        let daemon = self.world.daemon.as_ref();
        daemon
            .map(super::daemon::Daemon::stderr)
            .unwrap_or_default()
    }
}

impl Far {
    fn start(options: Options) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let emulator = runtime
            .block_on(Emulator::start(options))
            .expect("the emulator starts");
        let faults = emulator.faults();
        Self {
            runtime,
            emulator: Some(emulator),
            faults,
        }
    }

    fn names(&self) -> (String, String) {
        let emulator = self.emulator.as_ref().expect("it runs until it is dropped");
        (emulator.endpoint(), emulator.target().to_owned())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.faults.clear();
        if let Some(emulator) = self.emulator.take() {
            let shutdown = async { tokio::time::timeout(DEADLINE, emulator.shutdown()).await };
            // Whoever panics already needs no second reason.
            let _ = self.runtime.block_on(shutdown);
        }
    }
}
