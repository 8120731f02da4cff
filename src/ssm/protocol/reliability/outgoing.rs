//! Messages sent and not yet acknowledged, and when to send them again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use super::doubts::Doubts;
use super::rtt::RttEstimator;

/// How much may wait for acknowledgement: a full buffer refuses more, and that is back-pressure.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Messages from the oldest unacknowledged one on.
    pub messages: usize,
    /// Bytes of unacknowledged messages, headers included.
    pub bytes: usize,
}

/// How lost messages are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Ours. A time-out resends the oldest message as a probe; once the answer shows that what was
    /// sent with it was lost too, all of it is resent in order. A message whose successors are
    /// acknowledged is resent after tens of milliseconds.
    Recover,
    /// The agent's: every 100 ms the oldest message, if it is overdue, and nothing else.
    HeadOnly,
}

/// The peer acknowledged a message that was never sent: it is wrong, not the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("message {0} was acknowledged and never sent")]
pub struct AcknowledgedUnsent(pub i64);

/// Messages sent and not yet acknowledged, oldest first, then those not yet sent.
///
/// Acknowledgements are selective. Frames are kept encoded: a resend is byte-identical, as both
/// official ends have it. Survives a resume; dies with the SSM session.
#[derive(Debug)]
pub struct Outgoing {
    strategy: Strategy,
    limits: Limits,
    /// From the oldest unacknowledged message on.
    entries: VecDeque<Entry>,
    /// Number of the first entry.
    base: u64,
    /// How many entries were sent at least once.
    sent: usize,
    /// Bytes of unacknowledged frames.
    bytes: usize,
    /// Bytes of acknowledged frames, since the beginning.
    acknowledged: u64,
    /// Numbers to send again, ascending; those acknowledged meanwhile are skipped.
    resend: VecDeque<u64>,
    rtt: RttEstimator,
    /// When an acknowledgement last told something new.
    progress_at: Option<Instant>,
    /// Consecutive time-outs without progress.
    timeouts: u32,
    probe: Option<Probe>,
    /// Where the turns of messages that are probed with the oldest go on.
    next_probe: u64,
    /// The latest message known to have arrived in its only transmission.
    passed: Option<Passed>,
    /// When messages overtaken by `passed` count as lost.
    gap_at: Option<Instant>,
    /// Wait before the first resends while the peer has taken no data yet, shorter than the RTO.
    is_prompt: bool,
    head_tick: Option<Instant>,
    /// Counts transmissions, so that their order is known exactly.
    turn: u64,
    /// Set for a peer that acknowledges a message once and never again.
    once: Option<Once>,
    /// What it has been found to have, as far as silence tells: neither in `entries` nor limited with them.
    doubts: Doubts,
    /// Whether one of them was to go last, and not something new.
    is_turn_of_doubts: bool,
}

#[derive(Debug)]
struct Entry {
    /// `None` once acknowledged.
    frame: Option<Bytes>,
    sent_at: Option<Instant>,
    transmissions: u32,
    /// Already in the resend queue.
    is_queued: bool,
    /// Turns of the first and of the last transmission.
    first_turn: u64,
    last_turn: u64,
    /// Resends that were passed over in silence.
    silences: u32,
    /// Turn of the oldest resend of which that is not known yet.
    unjudged: Option<u64>,
}

impl Entry {
    /// Counts resends as passed over in silence if a message first sent in `turn` came after them:
    /// those before it as one, for one loss may have taken all of them.
    fn note_silence(&mut self, turn: u64) {
        if self.unjudged.is_some_and(|resend| resend < turn) {
            self.silences += 1;
            self.unjudged = (self.last_turn > turn).then_some(self.last_turn);
        }
    }

    /// When this counts as lost if `passed`, sent no earlier, has arrived; each try waits longer.
    fn overtaken_due(&self, passed: Passed) -> Option<Instant> {
        let sent_at = self.sent_at.filter(|sent_at| *sent_at <= passed.sent_at)?;
        let tries = self.transmissions.saturating_sub(1).min(6);
        self.frame
            .as_ref()
            .map(|_| sent_at + GAP_WAIT * (1 << tries))
    }
}

/// The oldest message, sent once more, and what was sent once more with it.
#[derive(Debug)]
struct Probe {
    seq: u64,
    sent_at: Instant,
    /// One of them was acknowledged, which leaves open whether as original or as resend.
    is_acknowledged: bool,
}

/// What is known of a peer that acknowledges each message once.
#[derive(Debug, Clone, Copy)]
struct Once {
    /// The first message, which it refuses while it is not ready, and acknowledges those behind it.
    first: u64,
    /// Whether it has shown that it is ready, so that silence about the first message tells something.
    is_ready: bool,
    /// Whether something new is to be sent behind the resends, for its answer.
    wants_fresh: bool,
}

#[derive(Debug, Clone, Copy)]
struct Passed {
    seq: u64,
    sent_at: Instant,
}

/// The agent looks at its queue this often.
const HEAD_TICK: Duration = Duration::from_millis(100);
/// Back-off of probes ends here, so that a peer that is back is noticed soon; a probe is one message.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Time-outs that probe the oldest message alone; then some others take turns.
const HEAD_PROBES: u32 = 3;
/// How many of them at each further time-out: few enough not to flood a peer that is only slow.
const NEXT_PROBES: usize = 3;
/// A message overtaken by later ones is resent after this long; again after twice, four times …
const GAP_WAIT: Duration = Duration::from_millis(20);
/// First resend to an agent that has just completed the handshake and may not be ready yet.
const PROMPT_WAIT: Duration = Duration::from_millis(30);
/// Resends passed over in silence after which a peer that answers once is taken to have the message.
///
/// One is not enough: it may have been lost together with the peer's socket, of which we are not told. Even three may
/// have been, by a peer that loses one socket after the other; so the message is kept, see [`Doubts`].
const SILENCES: u32 = 3;
/// Transmissions of a message after which its answer is rather lost than late.
const TELLING: u32 = 3;

impl Outgoing {
    /// An empty buffer; the first message will be number 0.
    pub fn new(strategy: Strategy, limits: Limits, rtt: RttEstimator) -> Self {
        Self {
            strategy,
            limits,
            entries: VecDeque::new(),
            base: 0,
            sent: 0,
            bytes: 0,
            acknowledged: 0,
            resend: VecDeque::new(),
            rtt,
            progress_at: None,
            timeouts: 0,
            probe: None,
            next_probe: 0,
            passed: None,
            gap_at: None,
            is_prompt: false,
            head_tick: None,
            turn: 0,
            once: None,
            doubts: Doubts::new(limits.bytes),
            is_turn_of_doubts: false,
        }
    }

    /// The number of the next message pushed.
    pub fn next_sequence(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// Bytes that may still be pushed; 0 when either limit is reached.
    pub fn capacity(&self) -> usize {
        if self.entries.len() >= self.limits.messages {
            return 0;
        }
        self.limits.bytes.saturating_sub(self.bytes)
    }

    /// Messages not yet sent at all.
    pub fn unsent(&self) -> usize {
        self.entries.len() - self.sent
    }

    /// Messages from the oldest unacknowledged one on.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether all that was pushed has been acknowledged, or passed over in silence as what the peer has.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a message was sent, to the wire or before a pause, and is not acknowledged.
    pub fn is_awaiting(&self) -> bool {
        self.sent > 0
    }

    /// Bytes of unacknowledged messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of messages acknowledged so far, since the beginning.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The round trip as measured so far.
    pub fn rtt(&self) -> &RttEstimator {
        &self.rtt
    }

    /// Appends the encoded message with number [`next_sequence`](Self::next_sequence).
    ///
    /// The caller has looked at [`capacity`](Self::capacity); control messages may exceed it.
    pub fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.entries.push_back(Entry {
            frame: Some(frame),
            sent_at: None,
            transmissions: 0,
            is_queued: false,
            first_turn: 0,
            last_turn: 0,
            silences: 0,
            unjudged: None,
        });
    }

    /// Resends soon, not after a full time-out, until the first acknowledgement of what follows.
    ///
    /// For the moment after HandshakeComplete, when the agent may refuse a message silently.
    pub fn expect_refusal(&mut self) {
        self.is_prompt = true;
    }

    /// Draws conclusions from silence: the peer acknowledges a message once, never again.
    ///
    /// What it has and whose acknowledgement was lost would take up room for ever. But links keep the
    /// order: when a message that was sent later is acknowledged, and a resend before it is not, then
    /// that resend was a duplicate, or lost with a socket. After a few the message makes room for others,
    /// and is still sent again for a while. The owner sends something new when
    /// [`takes_wish`](Self::takes_wish) says so, since otherwise there may be nothing to acknowledge.
    pub fn expect_single_answers(&mut self) {
        self.once = Some(Once {
            first: self.next_sequence(),
            is_ready: false,
            wants_fresh: false,
        });
    }

    /// Notes that the peer has sent data of its own, as only one that is ready does.
    pub fn on_peer_data(&mut self) {
        if let Some(once) = &mut self.once {
            once.is_ready = true;
        }
    }

    /// Whether a new message is to be sent now, whatever is in it; asked once for each.
    pub fn takes_wish(&mut self) -> bool {
        let has_none = self.unsent() == 0;
        let wish = self.once.as_mut().map(|once| &mut once.wants_fresh);
        wish.is_some_and(std::mem::take) && has_none
    }

    /// Whether [`transmit`](Self::transmit) would return a message.
    pub fn has_transmit(&mut self) -> bool {
        while let Some(seq) = self.resend.front() {
            if self.entry(*seq).is_some_and(|entry| entry.frame.is_some()) {
                return true;
            }
            self.resend.pop_front();
        }
        self.doubts.has_transmit() || self.unsent() > 0
    }

    /// The next message for the wire: resends first, then what was not sent yet and what is in doubt.
    pub fn transmit(&mut self, now: Instant) -> Option<(Bytes, bool)> {
        if !self.has_transmit() {
            return None;
        }
        if self.resend.is_empty() && self.takes_doubts_turn() {
            self.turn += 1;
            return Some((self.doubts.transmit(self.turn, now)?, true));
        }
        let (index, is_resend) = match self.resend.pop_front() {
            Some(seq) => (usize::try_from(seq - self.base).ok()?, true),
            None => {
                self.sent += 1;
                (self.sent - 1, false)
            }
        };
        self.turn += 1;
        let entry = self.entries.get_mut(index)?;
        entry.sent_at = Some(now);
        entry.transmissions += 1;
        entry.is_queued = false;
        entry.last_turn = self.turn;
        match is_resend {
            true => entry.unjudged = entry.unjudged.or(Some(self.turn)),
            false => entry.first_turn = self.turn,
        }
        Some((entry.frame.clone()?, is_resend))
    }

    /// Whether a message in doubt goes next: by turns with what is new, which is not to wait for many of them.
    fn takes_doubts_turn(&mut self) -> bool {
        self.is_turn_of_doubts = !self.is_turn_of_doubts || self.unsent() == 0;
        self.is_turn_of_doubts && self.doubts.has_transmit()
    }

    /// Marks everything not yet sent as sent, without sending it: what a paused agent does.
    ///
    /// Such messages leave by the resend loop only.
    pub fn withhold(&mut self, now: Instant) {
        for entry in self.entries.iter_mut().skip(self.sent) {
            entry.sent_at = Some(now);
            entry.transmissions += 1;
        }
        self.sent = self.entries.len();
    }

    /// Forgets message `seq` and folds its round trip, ending at `now`, into the estimate.
    ///
    /// Repeats are normal after a resume and are ignored; the result says whether it was news.
    ///
    /// # Errors
    /// [`AcknowledgedUnsent`] when `seq` was never sent.
    pub fn on_acknowledge(&mut self, seq: i64, now: Instant) -> Result<bool, AcknowledgedUnsent> {
        let number = u64::try_from(seq).map_err(|_| AcknowledgedUnsent(seq))?;
        if self.doubts.remove(number) {
            return Ok(true);
        }
        if number < self.base {
            return Ok(false);
        }
        let index = usize::try_from(number - self.base).map_err(|_| AcknowledgedUnsent(seq))?;
        if index >= self.sent {
            return Err(AcknowledgedUnsent(seq));
        }
        let Some(entry) = self.entries.get_mut(index) else {
            return Err(AcknowledgedUnsent(seq));
        };
        let Some(frame) = entry.frame.take() else {
            return Ok(false);
        };
        self.bytes -= frame.len();
        self.acknowledged += frame.len() as u64;
        let (transmissions, turn) = (entry.transmissions, entry.first_turn);
        if let Some(sent_at) = entry.sent_at {
            self.learn(number, sent_at, transmissions, now);
        }
        self.conclude_from(turn, now);
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.frame.is_none())
        {
            self.entries.pop_front();
            self.base += 1;
            self.sent -= 1;
        }
        self.watch_gap(now);
        Ok(true)
    }

    /// Makes room where a peer that answers once seems to have what is there, now that it has acknowledged
    /// a message first sent in `turn`.
    fn conclude_from(&mut self, turn: u64, now: Instant) {
        let Some(once) = self.once else { return };
        self.doubts.judge(turn);
        for (seq, entry) in (self.base..).zip(self.entries.iter_mut().take(self.sent)) {
            if seq == once.first && !once.is_ready {
                continue;
            }
            entry.note_silence(turn);
            if entry.silences >= SILENCES
                && self.doubts.makes_room()
                && let Some(frame) = entry.frame.take()
            {
                self.bytes -= frame.len();
                self.acknowledged += frame.len() as u64;
                self.doubts.add(seq, frame, now);
            }
        }
    }

    /// Asks for something new to be sent, if the peer is one that answers once and owes no answer that
    /// could tell of the oldest message.
    fn wish(&mut self) {
        let resend = self.entries.front().and_then(|head| head.unjudged);
        let is_telling = |last: &Entry| {
            last.frame.is_some()
                && last.transmissions <= TELLING
                && resend.is_some_and(|resend| last.first_turn > resend)
        };
        let is_owing = self.entries.back().is_some_and(is_telling);
        if let Some(once) = self.once.as_mut().filter(|_| !is_owing) {
            once.wants_fresh = true;
        }
    }

    /// Resends what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        if self.strategy == Strategy::HeadOnly {
            self.head_tick = Some(now);
            self.queue(self.base);
            return;
        }
        if self.doubts.handle_timeout(now)
            && let Some(once) = &mut self.once
        {
            once.wants_fresh = true;
        }
        if self.gap_at.is_some_and(|due| due <= now) {
            self.resend_overtaken(now);
        }
        if self.recovery_due().is_some_and(|due| due <= now) {
            self.recover(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next needed.
    ///
    /// `None` while resends wait to be sent already: their time-outs begin when they are.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.resend.is_empty() {
            return None;
        }
        match self.strategy {
            Strategy::Recover => [self.gap_at, self.recovery_due(), self.doubts.poll_timeout()]
                .into_iter()
                .flatten()
                .min(),
            Strategy::HeadOnly => {
                let overdue = self.head_sent_at()? + self.rtt.timeout();
                Some(match self.head_tick {
                    Some(tick) => overdue.max(tick + HEAD_TICK),
                    None => overdue,
                })
            }
        }
    }

    /// Resends everything unacknowledged, in order: the peer may have received none of it.
    ///
    /// The agent's strategy does nothing special: its loop goes on.
    pub fn on_reconnected(&mut self, now: Instant) {
        if self.strategy == Strategy::HeadOnly {
            return;
        }
        self.probe = None;
        self.gap_at = None;
        self.passed = None;
        self.timeouts = 0;
        self.progress_at = Some(now);
        self.doubts.on_reconnected();
        self.resend.clear();
        let end = self.base + self.sent as u64;
        for seq in self.base..end {
            if let Some(entry) = self.entry_mut(seq) {
                entry.is_queued = false;
            }
            self.queue(seq);
        }
        if !self.resend.is_empty() {
            self.wish();
        }
    }

    /// Draws the conclusions from the first acknowledgement of message `seq`.
    fn learn(&mut self, seq: u64, sent_at: Instant, transmissions: u32, now: Instant) {
        self.progress_at = Some(now);
        self.is_prompt = false;
        if transmissions == 1 || self.strategy == Strategy::HeadOnly {
            self.rtt.sample(now.saturating_duration_since(sent_at));
        }
        if transmissions > 1 {
            // Whichever it was: the oldest may be one of those that the peer has and says nothing of.
            let is_probe = |probe: &&mut Probe| probe.seq == seq || probe.sent_at <= sent_at;
            if let Some(probe) = self.probe.as_mut().filter(is_probe) {
                probe.is_acknowledged = true;
            }
            return;
        }
        // The answer to an original: the path works, and all sent before it has had its chance.
        self.timeouts = 0;
        self.probe = None;
        if self.passed.is_none_or(|passed| passed.sent_at <= sent_at) {
            self.passed = Some(Passed { seq, sent_at });
        }
    }

    /// Starts the clock for messages that a later one has overtaken.
    fn watch_gap(&mut self, now: Instant) {
        let head = self.entries.front();
        let due = self
            .passed
            .filter(|passed| passed.seq > self.base)
            .and_then(|passed| head?.overtaken_due(passed));
        self.gap_at = due.map(|due| self.gap_at.unwrap_or(due.max(now + GAP_WAIT)));
    }

    /// Queues the messages overtaken for long enough, each with its own doubling wait.
    fn resend_overtaken(&mut self, now: Instant) {
        self.gap_at = None;
        self.wish();
        let Some(passed) = self.passed else { return };
        let mut next: Option<Instant> = None;
        for seq in self.base..passed.seq {
            let Some(due) = self
                .entry(seq)
                .and_then(|entry| entry.overtaken_due(passed))
            else {
                continue;
            };
            if due <= now {
                self.queue(seq);
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        self.gap_at = next;
    }

    /// When silence means loss: a time-out after the last progress, or after the last probe.
    fn recovery_due(&self) -> Option<Instant> {
        let head = self.head_sent_at()?;
        let since = self.progress_at.map_or(head, |progress| progress.max(head));
        if self
            .probe
            .as_ref()
            .is_some_and(|probe| probe.is_acknowledged)
        {
            return Some(self.progress_at? + self.probe_wait());
        }
        let wait = if self.is_prompt {
            self.probe_wait()
        } else {
            self.rtt.timeout()
        };
        let backed_off = wait * (1 << self.timeouts.min(10));
        Some(since + backed_off.min(MAX_BACKOFF.max(wait)))
    }

    /// How long the answers to originals may trail the answer to a probe.
    fn probe_wait(&self) -> Duration {
        let trail = if self.rtt.is_measured() {
            self.rtt.round_trip() * 2
        } else {
            PROMPT_WAIT
        };
        trail.clamp(PROMPT_WAIT, self.rtt.timeout().max(PROMPT_WAIT))
    }

    /// Sends a probe, or, when the last one was answered and nothing else was, all it stood for.
    fn recover(&mut self, now: Instant) {
        match self.probe.take() {
            Some(probe) if probe.is_acknowledged => {
                self.timeouts = 0;
                for seq in self.base..self.base + self.sent as u64 {
                    let was_before =
                        |entry: &Entry| entry.sent_at.is_some_and(|at| at <= probe.sent_at);
                    if self.entry(seq).is_some_and(was_before) {
                        self.queue(seq);
                    }
                }
            }
            _ => {
                self.timeouts += 1;
                self.probe = Some(Probe {
                    seq: self.base,
                    sent_at: now,
                    is_acknowledged: false,
                });
                self.queue(self.base);
                // A first answer may only be late; what is wished for then would be late as well, and so on.
                let head = self.entries.front();
                if head.is_some_and(|head| head.transmissions >= TELLING) {
                    self.wish();
                    self.queue_telling();
                }
                if self.timeouts > HEAD_PROBES {
                    self.queue_next_probes();
                }
            }
        }
    }

    /// Adds to the probe what was wished for and is not answered: it may be all that the peer has not got.
    fn queue_telling(&mut self) {
        if self.once.is_some() && self.sent > 0 {
            self.queue(self.base + self.sent as u64 - 1);
        }
    }

    /// Adds the next few messages to the probe, in turns: the oldest may be one that the peer has
    /// and will not acknowledge again, as agents before 3.2.1041.0 do, and another one lost.
    fn queue_next_probes(&mut self) {
        let behind = self.base + 1..self.base + self.sent as u64;
        let from = self.next_probe.max(behind.start);
        let turn: Vec<u64> = (from..behind.end)
            .chain(behind.start..from.min(behind.end))
            .filter(|seq| self.entry(*seq).is_some_and(|entry| entry.frame.is_some()))
            .take(NEXT_PROBES)
            .collect();
        for seq in turn {
            self.next_probe = seq + 1;
            self.queue(seq);
        }
    }

    /// Puts message `seq` into the resend queue, unless it is there or acknowledged.
    fn queue(&mut self, seq: u64) {
        let Some(entry) = self.entry_mut(seq) else {
            return;
        };
        if entry.frame.is_some() && !entry.is_queued {
            entry.is_queued = true;
            self.resend.push_back(seq);
        }
    }

    fn head_sent_at(&self) -> Option<Instant> {
        self.entries.front()?.sent_at
    }

    fn entry(&self, seq: u64) -> Option<&Entry> {
        let index = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.entries.get(index)
    }

    fn entry_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        let index = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.entries.get_mut(index)
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
