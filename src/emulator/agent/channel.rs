//! The agent's end of a data channel: the protocol core, its pace, and the Port session behind it.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncRead as _, ReadBuf, ReadHalf, SimplexStream, simplex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::PollSender;

use super::Settings;
use super::port::{Input, Pipe};
use super::version::Ways;
use crate::emulator::fault::Board;
use crate::emulator::frame;
use crate::emulator::socket::Leg;
use crate::emulator::{Pacing, Resend};
use crate::ssm::protocol::data_channel::{
    AgentOptions, Config, DataChannel, Established, Event, Origin, SendError,
};
use crate::ssm::protocol::handshake::HandshakeRequest;
use crate::ssm::protocol::payload::{Flag, PayloadType};
use crate::ssm::protocol::reliability::outgoing::Strategy;
use crate::ssm::protocol::reliability::{incoming, outgoing};

/// Unacknowledged bytes at which the sources are no longer read.
///
/// The real agent goes by 100 000 messages and then sends on without tracking; losing data is not
/// a way of its that anybody needs.
const UNACKNOWLEDGED_BYTES: usize = 4 << 20;

/// Received bytes held for a target that does not take them; beyond it the client's messages are
/// dropped without an acknowledgement, and it sends them again.
const HELD_BYTES: usize = 8 << 20;

/// Messages of either direction, as in the real agent.
const MESSAGES: usize = 100_000;

/// Messages on their way to the Port session.
const INPUT_MESSAGES: usize = 32;

/// Bytes on their way from the Port session, as in a socket pair.
const OUTPUT_BYTES: usize = 64 * 1024;

/// How a session ended, for the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The service ended it.
    Closed,
    /// The client ended it, by flag.
    Terminated,
    /// No session came about.
    HandshakeFailed(String),
    /// The Port session ended, well or with a text for the user.
    PortEnded(Result<(), String>),
}

/// One session's data channel; outlives its sockets.
pub(super) struct Channel {
    session_id: String,
    ways: Ways,
    core: DataChannel,
    /// Tells the Port session that it may begin.
    established: Option<oneshot::Sender<Established>>,
    /// To the Port session.
    input: PollSender<Input>,
    /// From the Port session.
    output: ReadHalf<SimplexStream>,
    /// Whether the last look at `output` found nothing.
    is_output_dry: bool,
    flags: mpsc::Receiver<Flag>,
    /// A flag that found the core full.
    held_flag: Option<Flag>,
    /// The end of the Port session.
    port_ended: Option<oneshot::Receiver<Result<(), String>>>,
    pause: Option<Pause>,
    pulse: Pulse,
    payload: Box<[u8]>,
    state: State,
    /// What to send outside the sequence.
    announcement: Option<Message>,
    /// Tells whether to repeat itself.
    faults: Arc<Board>,
    /// The last message handed on before the socket was lost, whose acknowledgement may be lost too.
    doubtful: Option<u64>,
    /// Its payload, when it came again: to be written again.
    repeated: Option<Bytes>,
    /// The Port session begins then, and is not ready before.
    unready: Option<(Instant, Established)>,
    /// What came too early has killed its reader; all else goes on.
    is_deaf: bool,
    timer: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum State {
    Running,
    /// The Port session has ended; what it said is still being sent.
    Draining {
        deadline: Instant,
        result: Result<(), String>,
    },
    Over(Verdict),
}

/// The Port session's end of a new channel.
pub(super) struct PortEnd {
    /// Resolves when the handshake is complete.
    pub(super) established: oneshot::Receiver<Established>,
    pub(super) pipe: Pipe,
    /// Takes the result of the Port session.
    pub(super) ended: oneshot::Sender<Result<(), String>>,
}

impl Channel {
    /// A channel that will ask for a Port session with `properties`.
    pub(super) fn new(
        session_id: String,
        properties: Value,
        settings: &Settings,
    ) -> (Self, PortEnd) {
        let ways = settings.version.ways();
        let request = HandshakeRequest::port(settings.version.to_string(), properties);
        let mut options = AgentOptions::new(Some(request));
        options.processes_first = ways.processes_first;
        options.acknowledges_duplicates = ways.acknowledges_duplicates;
        options.strategy = match settings.resend {
            Resend::HeadOnly => Strategy::HeadOnly,
            Resend::Backlog => Strategy::Recover,
        };
        let config = Config {
            outgoing: outgoing::Limits {
                messages: MESSAGES,
                bytes: UNACKNOWLEDGED_BYTES,
            },
            incoming: incoming::Limits {
                messages: MESSAGES,
                bytes: HELD_BYTES,
            },
            ..Config::agent(options)
        };
        let now = Instant::now();
        let (established_sender, established) = oneshot::channel();
        let (input_sender, input) = mpsc::channel(INPUT_MESSAGES);
        let (output, output_writer) = simplex(OUTPUT_BYTES.max(2 * settings.payload_bytes));
        let (flag_sender, flags) = mpsc::channel(1);
        let (ended, port_ended) = oneshot::channel();
        let channel = Self {
            session_id,
            ways,
            core: DataChannel::new(config, Origin::system(), now),
            established: Some(established_sender),
            input: PollSender::new(input_sender),
            output,
            is_output_dry: true,
            flags,
            held_flag: None,
            port_ended: Some(port_ended),
            pause: (settings.pacing == Pacing::Real).then(|| Pause::new(now)),
            pulse: Pulse::new(now, settings.ping),
            payload: vec![0; settings.payload_bytes].into_boxed_slice(),
            state: State::Running,
            announcement: None,
            faults: Arc::clone(&settings.faults),
            doubtful: None,
            repeated: None,
            unready: None,
            is_deaf: false,
            timer: Box::pin(sleep_until(now.into())),
        };
        let port = PortEnd {
            established,
            pipe: Pipe {
                input,
                output: output_writer,
                flags: flag_sender,
            },
            ended,
        };
        (channel, port)
    }

    /// Prepares for a new socket.
    pub(super) fn on_connected(&mut self) {
        let now = Instant::now();
        self.core.on_reconnected(now);
        self.pulse = Pulse::new(now, self.pulse.interval);
        self.announcement = Some(frame::session_state(&self.session_id, "Connected"));
    }

    /// Notes that the socket is gone.
    pub(super) fn on_lost(&mut self) {
        self.doubtful = self.core.consumed().checked_sub(1);
    }

    /// Looks whether `message` is one that the real agent would write to its port again.
    ///
    /// It counts a message as received once its acknowledgement is sent, and it has written it by
    /// then: when the socket fails between the two, the client's resend is written as well (sheet
    /// §12).
    fn repeat(&mut self, message: &Bytes) {
        let Some(doubtful) = self.doubtful else {
            return;
        };
        if self.faults.repeats()
            && self.ways.processes_first
            && frame::message_type(message) == Some("input_stream_data")
            && frame::sequence_number(message) == Some(doubtful)
            && frame::payload_type(message) == Some(PayloadType::Output.code())
        {
            self.doubtful = None;
            self.repeated = frame::payload(message).map(|payload| message.slice_ref(payload));
        }
    }

    /// Lets the Port session begin.
    fn begin(&mut self, established: Established) {
        if let Some(waiting) = self.established.take() {
            // Without a Port session there is nobody to tell.
            let _ = waiting.send(established);
        }
    }

    /// How the session ended, once it has.
    pub(super) fn verdict(&self) -> Option<&Verdict> {
        match &self.state {
            State::Over(verdict) => Some(verdict),
            _ => None,
        }
    }

    /// Ends the session; the first verdict stands.
    fn conclude(&mut self, verdict: Verdict) {
        if self.verdict().is_none() {
            self.announcement = Some(frame::session_state(&self.session_id, "Terminating"));
            self.state = State::Over(verdict);
        }
    }

    /// Hands to the Port session what it has room for.
    ///
    /// The rest stays in the core, unacknowledged; the socket is read on, because the
    /// acknowledgements in it are what lets our own data move.
    fn deliver(&mut self, cx: &mut Context<'_>) {
        loop {
            let has_port = match self.input.poll_reserve(cx) {
                Poll::Ready(reserved) => reserved.is_ok(),
                Poll::Pending => return,
            };
            // All before it has been handed on, and all that waits comes after it.
            if let Some(repeated) = self.repeated.take().filter(|_| has_port) {
                self.faults.note(|counters| counters.repeated += 1);
                let _ = self.input.send_item(Input::Data(repeated));
                continue;
            }
            let Some(event) = self.core.poll_event() else {
                return;
            };
            let input = match event {
                Event::Data(PayloadType::Output, data) => Some(Input::Data(data)),
                Event::Flag(Flag::DisconnectToPort) => Some(Input::Disconnect),
                Event::Flag(Flag::TerminateSession) if self.ways.takes_terminate_flag => {
                    self.conclude(Verdict::Terminated);
                    None
                }
                Event::Established(established) => {
                    match self.faults.unready() {
                        Some(time) => {
                            self.unready = Some((Instant::now() + time, established));
                            self.core.set_ready(false);
                        }
                        None => self.begin(established),
                    }
                    None
                }
                Event::HandshakeFailed(error) => {
                    self.conclude(Verdict::HandshakeFailed(error.to_string()));
                    None
                }
                Event::Closed(_) => {
                    self.conclude(Verdict::Closed);
                    None
                }
                other => {
                    tracing::trace!(event = ?other, "ignored");
                    None
                }
            };
            if let Some(input) = input.filter(|_| has_port) {
                // The slot is reserved: this fails only when the Port session has just ended.
                let _ = self.input.send_item(input);
            }
        }
    }

    /// Takes one payload and all flags from the Port session; false when there was nothing, or no
    /// leave to take it.
    fn collect(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if !self.core.is_established() {
            return false;
        }
        // The bytes are taken before the flags are looked at: a flag sent before some bytes were
        // written is then seen with them at the latest, and goes first.
        let length = self.read_output(cx, now);
        let mut collected = length > 0;
        while let Some(flag) = self.next_flag(cx) {
            match self.core.send(now, PayloadType::Flag, &flag.encode()) {
                Ok(()) => collected = true,
                Err(SendError::Full) => {
                    self.held_flag = Some(flag);
                    break;
                }
                Err(_) => break,
            }
        }
        if length > 0 {
            let payload = &self.payload[..length];
            if let Err(error) = self.core.send(now, PayloadType::Output, payload) {
                // `read_output` has seen that there is capacity, so the session is over.
                tracing::debug!(%error, "output lost");
            }
            if let Some(pause) = &mut self.pause {
                pause.on_sent(now);
            }
        }
        collected
    }

    fn next_flag(&mut self, cx: &mut Context<'_>) -> Option<Flag> {
        match self.held_flag.take() {
            Some(flag) => Some(flag),
            None => match self.flags.poll_recv(cx) {
                Poll::Ready(flag) => flag,
                Poll::Pending => None,
            },
        }
    }

    /// Reads up to one payload, if the session may send now.
    fn read_output(&mut self, cx: &mut Context<'_>, now: Instant) -> usize {
        let may_send = self.core.capacity() > 0
            && self.core.unsent() == 0
            && !(self.core.is_paused() && self.ways.pauses_sources)
            && self.pause.as_ref().is_none_or(|pause| pause.next <= now);
        if !may_send {
            self.is_output_dry = false;
            return 0;
        }
        let mut buffer = ReadBuf::new(&mut self.payload);
        let length = match Pin::new(&mut self.output).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => buffer.filled().len(),
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        self.is_output_dry = length == 0;
        length
    }

    /// Notes the Port session's end.
    fn follow_end(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some(ended) = &mut self.port_ended else {
            return;
        };
        let Poll::Ready(result) = Pin::new(ended).poll(cx) else {
            return;
        };
        self.port_ended = None;
        if let (State::Running, Ok(result)) = (&self.state, result) {
            self.state = State::Draining {
                deadline: now + self.ways.drain,
                result,
            };
        }
    }

    /// Ends the draining when all is acknowledged, or when its time is up and no output waits for the pause alone.
    ///
    /// The real agent comes upon the end behind the last bytes, and has sent them by then.
    fn finish_drain(&mut self, now: Instant) {
        if let State::Draining { deadline, result } = &self.state {
            let is_dry = self.is_output_dry && self.core.unacknowledged() == 0;
            let is_pausing = self.pause.as_ref().is_some_and(|pause| pause.next > now);
            let is_held_back = !self.is_output_dry && is_pausing;
            if is_dry || (*deadline <= now && !is_held_back) {
                let result = result.clone();
                self.conclude(Verdict::PortEnded(result));
            }
        }
    }

    /// When something is due that no waker tells.
    fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let pause = self.pause.as_ref().map(|pause| pause.next);
        let drain = match self.state {
            State::Draining { deadline, .. } => Some(deadline).filter(|deadline| *deadline > now),
            _ => None,
        };
        [
            self.unready.as_ref().map(|(until, _)| *until),
            self.core.poll_timeout(),
            pause.filter(|next| *next > now),
            drain,
            Some(self.pulse.poll_timeout(self.ways.awaits_pongs)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Sets the timer; ready when it is due already.
    ///
    /// An armed timer is left alone while it is early enough: the core's time-outs move with every
    /// acknowledgement, and to wake for nothing now and then is cheaper than to follow them.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(due) = self.next_timeout(now) else {
            return Poll::Pending;
        };
        let due = tokio::time::Instant::from_std(due);
        if self.timer.is_elapsed() || due < self.timer.deadline() {
            self.timer.as_mut().reset(due);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl Leg for Channel {
    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn receive(&mut self, message: Message) -> ControlFlow<String> {
        let Message::Binary(message) = message else {
            return ControlFlow::Continue(());
        };
        // Cancels at once, whatever the Port session has not taken yet.
        let is_closed = frame::message_type(&message) == Some("channel_closed");
        if self.is_deaf && !is_closed {
            return ControlFlow::Continue(());
        }
        self.repeat(&message);
        if let Some((_, established)) = &self.unready
            && frame::message_type(&message) == Some("input_stream_data")
        {
            self.faults.note(|counters| counters.unready += 1);
            // With smux, and before 3.0.655.0, it is handed to what is not there yet.
            self.is_deaf = established.is_multiplexed && !self.ways.processes_first;
        }
        if let Err(error) = self.core.handle_input(Instant::now(), message) {
            tracing::debug!(session_id = self.session_id, %error, "ignored a message");
        }
        if is_closed {
            self.conclude(Verdict::Closed);
        }
        ControlFlow::Continue(())
    }

    fn pong(&mut self) {
        self.pulse.on_pong(Instant::now());
    }

    fn advance(&mut self, cx: &mut Context<'_>) {
        self.deliver(cx);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            let now = Instant::now();
            if let Some((_, established)) = self.unready.take_if(|(until, _)| *until <= now) {
                self.core.set_ready(true);
                self.begin(established);
            }
            if self.core.poll_timeout().is_some_and(|due| due <= now) {
                self.core.handle_timeout(now);
                self.deliver(cx);
            }
            if let Some(announcement) = self.announcement.take() {
                return Poll::Ready(Some(announcement));
            }
            let is_dead = self.ways.awaits_pongs && self.pulse.is_dead(now);
            if self.verdict().is_some() || is_dead {
                return Poll::Ready(None);
            }
            if self.pulse.takes_ping(now) {
                return Poll::Ready(Some(Message::Ping(Bytes::from_static(b"keepalive"))));
            }
            if let Some(frame) = self.core.poll_transmit(now) {
                return Poll::Ready(Some(Message::Binary(frame)));
            }
            // The end is looked at before the last bytes are: they were written before it.
            self.follow_end(cx, now);
            if self.collect(cx, now) {
                continue;
            }
            self.finish_drain(now);
            if self.verdict().is_none() && self.poll_timer(cx, now).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// The real agent's sleep of one millisecond after every message.
///
/// A schedule and not a sleep: the timer here is coarser than the pause, and a late wake-up is made
/// good by the next messages, so that the rate is the real one.
#[derive(Debug)]
struct Pause {
    next: Instant,
}

impl Pause {
    const INTERVAL: Duration = Duration::from_millis(1);

    /// Lateness that is made good; what is beyond is lost, as time that nothing was sent in.
    const SLACK: Duration = Duration::from_millis(5);

    fn new(now: Instant) -> Self {
        Self { next: now }
    }

    fn on_sent(&mut self, now: Instant) {
        let earliest = now.checked_sub(Self::SLACK).unwrap_or(now);
        self.next = self.next.max(earliest) + Self::INTERVAL;
    }
}

/// The real agent's watch over its socket: a ping every 54 s, and silence for a little longer than
/// that means that it is dead (sheet §2).
#[derive(Debug)]
struct Pulse {
    interval: Duration,
    next: Instant,
    dead: Instant,
}

impl Pulse {
    /// What a pong may be late.
    const GRACE: Duration = Duration::from_secs(6);

    /// For a socket opened `now`; the first pong has twice the time.
    fn new(now: Instant, interval: Duration) -> Self {
        Self {
            interval,
            next: now + interval,
            dead: now + 2 * interval + Self::GRACE,
        }
    }

    /// Whether a ping is due; it counts as sent then.
    fn takes_ping(&mut self, now: Instant) -> bool {
        let is_due = self.next <= now;
        if is_due {
            self.next = now + self.interval;
        }
        is_due
    }

    fn on_pong(&mut self, now: Instant) {
        self.dead = now + self.interval + Self::GRACE;
    }

    fn is_dead(&self, now: Instant) -> bool {
        self.dead <= now
    }

    fn poll_timeout(&self, awaits_pongs: bool) -> Instant {
        match awaits_pongs {
            true => self.next.min(self.dead),
            false => self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_lives_while_pongs_come() {
        let start = Instant::now();
        let seconds = Duration::from_secs;
        let mut pulse = Pulse::new(start, seconds(54));
        assert!(!pulse.takes_ping(start + seconds(53)));
        assert!(pulse.takes_ping(start + seconds(54)));
        assert!(!pulse.takes_ping(start + seconds(54)));
        assert!(!pulse.is_dead(start + seconds(113)));
        assert!(pulse.is_dead(start + seconds(114)));
        pulse.on_pong(start + seconds(55));
        assert!(!pulse.is_dead(start + seconds(114)));
        assert!(pulse.is_dead(start + seconds(115)));
        assert_eq!(pulse.poll_timeout(true), start + seconds(108));
    }

    #[test]
    fn the_pause_keeps_its_rate_with_a_coarse_timer() {
        let start = Instant::now();
        let mut pause = Pause::new(start);
        let mut sent = 0;
        // Wakes every 2.3 ms and sends what is due.
        for tick in 0..1000 {
            let now = start + Duration::from_micros(2300) * tick;
            while pause.next <= now {
                pause.on_sent(now);
                sent += 1;
            }
        }
        assert!((2290..=2310).contains(&sent), "{sent}");
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut pause = Pause::new(start);
        let now = start + Duration::from_secs(10);
        let mut burst = 0;
        while pause.next <= now {
            pause.on_sent(now);
            burst += 1;
        }
        assert!(burst <= 6, "{burst}");
    }
}
