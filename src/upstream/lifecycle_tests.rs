//! The life cycle against a model of a few lines, and by example.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::ssm;
use crate::tunnel;

type Tunnel = u32;

const SECOND: Duration = Duration::from_secs(1);

/// What the service answers to somebody who may not start sessions.
fn denied() -> Error {
    session_error(ssm::api::Error::AccessDenied {
        operation: ssm::api::Operation::Start,
        source: "no".into(),
    })
}

fn offline() -> Error {
    session_error(ssm::api::Error::TargetNotConnected("off".into()))
}

fn unreachable() -> Error {
    let call = ssm::api::Operation::Start;
    session_error(ssm::api::Error::unanswered(call, "no route"))
}

fn session_error(error: ssm::api::Error) -> Error {
    Error::Tunnel(Arc::new(tunnel::Error::Session {
        target: "i-1".into(),
        flags: String::new(),
        source: error.into(),
    }))
}

/// A life cycle, and what a world around it knows of it.
struct World {
    core: Lifecycle<Tunnel, StdRng>,
    now: Instant,
    /// A dial is under way.
    is_dialing: bool,
    last_dial: Option<Instant>,
    dials: usize,
    /// The tunnel that was handed in and not out again, and how it is.
    live: Option<(Tunnel, Link)>,
    next_tunnel: Tunnel,
    /// How often each tunnel was handed out to be terminated.
    terminated: BTreeMap<Tunnel, usize>,
    is_stopped: bool,
    was_up: bool,
    /// Since when the model knows of no progress.
    absent_since: Option<Instant>,
    /// The soonest and the latest time at which the next dial is right, while none is under way.
    due: Option<(Instant, Instant)>,
    news: Vec<News>,
    state: Option<State<Tunnel>>,
}

/// How a tunnel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Good,
    Silent,
    Lost,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut world = Self {
            core: Lifecycle::new(now, StdRng::seed_from_u64(seed)),
            now,
            is_dialing: false,
            last_dial: None,
            dials: 0,
            live: None,
            next_tunnel: 0,
            terminated: BTreeMap::new(),
            is_stopped: false,
            was_up: false,
            absent_since: Some(now),
            due: Some((now, now)),
            news: Vec::new(),
            state: None,
        };
        world.settle();
        world
    }

    /// Carries out what the core asks for, and checks that it may.
    fn settle(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Dial => {
                    assert!(!self.is_stopped, "nothing is dialled after the end");
                    assert!(!self.is_dialing, "one dial at a time");
                    assert_eq!(self.live, None, "never two tunnels");
                    if let Some(last) = self.last_dial {
                        assert!(self.now >= last + SECOND, "at most one dial a second");
                    }
                    let (soonest, latest) = self.due.take().expect("a dial is due");
                    assert!(
                        soonest <= self.now && self.now <= latest,
                        "too early or too late"
                    );
                    self.is_dialing = true;
                    self.last_dial = Some(self.now);
                    self.dials += 1;
                }
                Action::Abandon => {
                    assert!(self.is_dialing && self.is_stopped);
                    self.is_dialing = false;
                }
                Action::Terminate(tunnel) => {
                    *self.terminated.entry(tunnel).or_default() += 1;
                    if self.live.is_some_and(|(live, _)| live == tunnel) {
                        self.live = None;
                    }
                }
            }
        }
        while let Some(news) = self.core.poll_news() {
            self.news.push(news);
        }
        if let Some(state) = self.core.poll_state() {
            self.state = Some(state);
        }
        self.compare();
    }

    /// Compares what the core tells of itself with what the world knows.
    fn compare(&self) {
        let absence = self.absent_since.map(|since| Absence {
            since,
            is_silence: matches!(self.live, Some((_, Link::Silent))),
        });
        assert_eq!(self.core.absence(), absence);
        let state = self.state.as_ref().expect("told at the beginning");
        let is_right = match state {
            State::Stopped => self.is_stopped,
            State::Up(tunnel) => self.live == Some((*tunnel, Link::Good)),
            State::Silent { tunnel, outage } => {
                self.live == Some((*tunnel, Link::Silent))
                    && Some(outage.since) == self.absent_since
            }
            State::Resuming { tunnel, outage } => {
                self.live == Some((*tunnel, Link::Lost)) && Some(outage.since) == self.absent_since
            }
            State::Dialing => self.is_dialing && !self.was_up,
            State::Redialing(outage) => {
                self.live.is_none() && self.was_up && Some(outage.since) == self.absent_since
            }
            State::Down { .. } => !self.is_dialing && self.live.is_none(),
        };
        assert!(is_right, "{state:?}");
        assert_eq!(
            self.core.poll_timeout().is_some(),
            !self.is_stopped && !self.is_dialing && self.live.is_none(),
            "a timer runs between dials and only then"
        );
    }

    fn event(&mut self, event: Event<Tunnel>) {
        self.core.handle_event(self.now, event);
        self.settle();
    }

    /// Lets time pass, timer by timer.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
        // A timer that comes early changes nothing.
        self.core.handle_timeout(self.now);
        self.settle();
        if let Some((_, latest)) = self.due {
            assert!(self.is_stopped || self.now <= latest, "a dial is overdue");
        }
    }

    fn dialled(&mut self) {
        let tunnel = self.next_tunnel;
        self.next_tunnel += 1;
        let is_welcome = self.is_dialing;
        if is_welcome {
            self.is_dialing = false;
            self.live = Some((tunnel, Link::Good));
            self.was_up = true;
            self.absent_since = None;
        }
        self.event(Event::Dialled(tunnel));
        let expected = (!is_welcome).then_some(&1);
        assert_eq!(self.terminated.get(&tunnel), expected);
    }

    fn dial_failed(&mut self, error: Error) {
        if self.is_dialing {
            self.is_dialing = false;
            let is_slow = error.is_final() && !(self.was_up && error.is_offline());
            let (least, most) = if is_slow { (15, 300) } else { (0, 20) };
            let soonest = self.last_dial.map_or(self.now, |last| last + SECOND);
            self.due = Some((
                soonest.max(self.now + least * SECOND),
                soonest.max(self.now + most * SECOND),
            ));
        }
        self.event(Event::DialFailed(error));
    }

    fn link(&mut self, has_link: bool) {
        match (&mut self.live, has_link) {
            (Some((_, link @ Link::Lost)), true) => {
                *link = Link::Good;
                self.absent_since = None;
            }
            (Some((_, link)), false) => {
                *link = Link::Lost;
                self.absent_since.get_or_insert(self.now);
            }
            _ => {}
        }
        self.event(match has_link {
            true => Event::LinkResumed,
            false => Event::LinkLost {
                reason: "cut".into(),
            },
        });
    }

    /// The agent has not answered for eight seconds, or does again.
    fn silence(&mut self, is_silent: bool) {
        let since = self.now - 8 * SECOND;
        match (&mut self.live, is_silent) {
            (Some((_, link @ Link::Good)), true) => {
                *link = Link::Silent;
                self.absent_since = Some(since);
            }
            (Some((_, link @ Link::Silent)), false) => {
                *link = Link::Good;
                self.absent_since = None;
            }
            _ => {}
        }
        self.event(match is_silent {
            true => Event::Silenced { since },
            false => Event::Heard,
        });
    }

    fn tunnel_lost(&mut self) {
        if self.live.take().is_some() {
            self.absent_since.get_or_insert(self.now);
            let last = self.last_dial.expect("there was a tunnel");
            let soonest = self.now.max(last + SECOND);
            self.due = Some((soonest, soonest.max(last + 20 * SECOND)));
        }
        self.event(Event::TunnelLost {
            reason: "gone".into(),
        });
    }

    fn wanted(&mut self) {
        if let (Some((soonest, _)), Some(last)) = (&mut self.due, self.last_dial) {
            *soonest = last + SECOND;
        }
        self.event(Event::Wanted);
        if let Some(last) = self.last_dial.filter(|_| self.due.is_some()) {
            assert!(self.now < last + SECOND, "who may dial does so");
            self.due = Some((last + SECOND, last + SECOND));
        }
    }

    fn stop(&mut self) {
        self.is_stopped = true;
        self.due = None;
        self.absent_since.get_or_insert(self.now);
        self.event(Event::Stop);
        assert!(!self.is_dialing, "the dial is abandoned");
        assert_eq!(self.live, None, "the tunnel is ended");
    }

    /// Ends everything and looks back.
    fn finish(mut self) {
        self.stop();
        self.dialled();
        self.dial_failed(denied());
        self.wanted_after_stop();
        self.advance(1000 * SECOND);
        assert_eq!(self.core.poll_timeout(), None);
        for tunnel in 0..self.next_tunnel {
            assert_eq!(self.terminated.get(&tunnel), Some(&1), "tunnel {tunnel}");
        }
    }

    fn wanted_after_stop(&mut self) {
        self.event(Event::Wanted);
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Advance(u64),
    Dialled,
    DialFailed(u8),
    LinkLost,
    ResumeFailed,
    LinkResumed,
    Silenced,
    Heard,
    TunnelLost,
    Wanted,
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..40_000).prop_map(Step::Advance),
        4 => (0_u64..1_500).prop_map(Step::Advance),
        6 => Just(Step::Dialled),
        4 => (0_u8..3).prop_map(Step::DialFailed),
        4 => Just(Step::LinkLost),
        2 => Just(Step::ResumeFailed),
        3 => Just(Step::LinkResumed),
        3 => Just(Step::Silenced),
        3 => Just(Step::Heard),
        3 => Just(Step::TunnelLost),
        4 => Just(Step::Wanted),
        1 => Just(Step::Stop),
    ]
}

fn cases() -> u32 {
    match std::env::var_os("SSMSHIM_FULL") {
        Some(_) => 10_000,
        None => 500,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, also what cannot happen.
    #[test]
    fn it_does_what_the_model_does(seed: u64, steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new(seed);
        for step in steps {
            match step {
                Step::Advance(milliseconds) => world.advance(Duration::from_millis(milliseconds)),
                Step::Dialled => world.dialled(),
                Step::DialFailed(0) => world.dial_failed(denied()),
                Step::DialFailed(1) => world.dial_failed(offline()),
                Step::DialFailed(_) => world.dial_failed(unreachable()),
                Step::LinkLost => world.link(false),
                Step::ResumeFailed => world.event(Event::ResumeFailed {
                    error: "no".into(),
                    hint: None,
                }),
                Step::LinkResumed => world.link(true),
                Step::Silenced => world.silence(true),
                Step::Heard => world.silence(false),
                Step::TunnelLost => world.tunnel_lost(),
                Step::Wanted if world.is_stopped => world.wanted_after_stop(),
                Step::Wanted => world.wanted(),
                Step::Stop => world.stop(),
            }
        }
        world.finish();
    }
}

#[test]
fn a_resume_is_told_with_its_gap_and_its_attempts() {
    let mut world = World::new(1);
    world.dialled();
    world.news.clear();
    world.link(false);
    world.event(Event::ResumeFailed {
        error: "no route".into(),
        hint: Some("plug it in".into()),
    });
    world.advance(3 * SECOND);
    assert!(matches!(
        &world.state,
        Some(State::Resuming { outage, .. })
            if outage.reason == "cut" && outage.last_error.as_deref() == Some("no route")
    ));
    world.link(true);
    assert!(
        matches!(
            &world.news[..],
            [
                News::Lost { is_resuming: true, .. },
                News::Retrying { attempt: 1, hint: Some(hint), .. },
                News::Resumed { gap, attempts: 2 },
            ] if *gap == 3 * SECOND && hint == "plug it in"
        ),
        "{:?}",
        world.news
    );
    world.finish();
}

/// The absence of a tunnel that could not be resumed began with the loss of its link.
#[test]
fn a_redial_after_a_failed_resume_is_one_absence() {
    let mut world = World::new(2);
    world.dialled();
    world.advance(60 * SECOND);
    world.link(false);
    world.advance(5 * SECOND);
    world.news.clear();
    world.tunnel_lost();
    assert!(world.is_dialing, "the last dial was long ago: no pause");
    world.advance(2 * SECOND);
    world.dialled();
    assert!(
        matches!(
            &world.news[..],
            [
                News::Lost { is_resuming: false, .. },
                News::Up { gap: Some(gap) },
            ] if *gap == 7 * SECOND
        ),
        "{:?}",
        world.news
    );
    world.finish();
}

/// What was waited for is there again, or was lost after all: one absence.
#[test]
fn an_agent_that_is_silent_is_told_and_waited_for() {
    let mut world = World::new(5);
    world.dialled();
    world.advance(60 * SECOND);
    world.news.clear();
    world.silence(true);
    world.advance(20 * SECOND);
    world.silence(false);
    assert!(
        matches!(
            &world.news[..],
            [News::Silent { lasted: told }, News::Heard { lasted }]
                if (*told, *lasted) == (8 * SECOND, 28 * SECOND)
        ),
        "{:?}",
        world.news
    );
    world.silence(true);
    world.advance(112 * SECOND);
    world.news.clear();
    world.tunnel_lost();
    world.dialled();
    assert!(
        matches!(
            &world.news[..],
            [News::Lost { is_resuming: false, .. }, News::Up { gap: Some(gap) }]
                if *gap == 120 * SECOND
        ),
        "{:?}",
        world.news
    );
    world.finish();
}

#[test]
fn what_a_person_has_to_mend_is_told_at_once_and_tried_rarely() {
    let mut world = World::new(3);
    world.dial_failed(denied());
    assert!(matches!(
        world.state,
        Some(State::Down { is_final: true, .. })
    ));
    world.advance(14 * SECOND);
    assert_eq!(world.dials, 1);
    world.wanted();
    assert_eq!(world.dials, 2, "somebody asks: it may have been mended");
    world.dial_failed(denied());
    world.wanted();
    assert_eq!(world.dials, 2, "but not twice in a second");
    world.advance(SECOND);
    assert_eq!(world.dials, 3);
    world.finish();
}

/// An instance that reboots is offline for a minute; one that never was there is rather misspelt.
#[test]
fn a_machine_that_was_there_before_is_waited_for() {
    let mut world = World::new(4);
    world.dial_failed(offline());
    assert!(matches!(
        world.state,
        Some(State::Down { is_final: true, .. })
    ));
    world.advance(40 * SECOND);
    world.dialled();
    world.advance(60 * SECOND);
    world.tunnel_lost();
    for _ in 0..10 {
        world.dial_failed(offline());
        assert!(matches!(
            world.state,
            Some(State::Down {
                is_final: false,
                ..
            })
        ));
        world.advance(20 * SECOND);
    }
    world.finish();
}

/// A target that ends every session at once is not dialled in a tight loop; one session that lasted is forgiven.
#[test]
fn tunnels_that_do_not_last_are_dialled_ever_more_rarely() {
    let mut world = World::new(5);
    for _ in 0..100 {
        world.dialled();
        world.tunnel_lost();
        world.advance(20 * SECOND);
    }
    let hasty = world.dials;
    assert!(hasty <= 101);
    world.dialled();
    world.advance(60 * SECOND);
    world.tunnel_lost();
    assert_eq!(world.dials, hasty + 1, "at once");
    world.finish();
}
