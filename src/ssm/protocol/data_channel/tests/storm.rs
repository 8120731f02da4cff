//! Seeded storms: thousands of bad days of one SSM session, each against a reference model.
//!
//! `SSMSHIM_FULL=1` runs a hundred thousand, `SSMSHIM_SEED=n` the one that failed.

use super::*;

const SEEDS: u64 = 1_000;
const FULL_SEEDS: u64 = 100_000;

/// Which agent is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    /// Resends one message per tick.
    Recent,
    /// Likewise, and does not acknowledge a message again.
    Old,
    /// Resends all, as ours does.
    Backlog,
}

/// What happens to the link, or at its ends.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// An end loses its socket.
    Lose(usize),
    /// It has a new one.
    Restore,
    /// The service says `pause_publication` or `start_publication` to an end.
    Publication(usize, bool),
    /// The agent's handler is not ready, or ready again.
    Ready(bool),
    /// So many of the messages still to come are handed to an end.
    Speak(usize, usize),
    /// The service sends a client something that is none of its business, with the short header.
    Curiosity,
}

#[derive(Debug)]
struct Storm {
    agent: Agent,
    weather: Weather,
    client: Config,
    far: Config,
    payloads: [Vec<Vec<u8>>; 2],
    troubles: BTreeMap<(u64, u32), Trouble>,
}

impl Storm {
    fn brew(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5707_0000);
        let agent = match random.random_range(0..3) {
            0 => Agent::Recent,
            1 => Agent::Old,
            _ => Agent::Backlog,
        };
        let mut options = AgentOptions::new(Some(mux_request()));
        options.acknowledges_duplicates = agent != Agent::Old;
        if agent == Agent::Backlog {
            options.strategy = Strategy::Recover;
        }
        let mut client = Config::client("1.2.764.0");
        let mut far = Config::agent(options);
        // An old agent that has lost an acknowledgement leaves its place in our buffer taken.
        if agent != Agent::Old && random.random_bool(0.5) {
            client.outgoing.messages = random.random_range(1..40);
            client.incoming.messages = random.random_range(1..40);
            far.outgoing.messages = random.random_range(2..40);
            far.incoming.messages = random.random_range(1..40);
        }
        if random.random_bool(0.5) {
            client.pace = NonZeroU32::new(random.random_range(50..2000));
        }
        let is_rough = random.random_bool(0.5);
        let mut up_to = |limit: u64| random.random_range(0..=limit);
        let mut weather = Weather {
            delay_ms: up_to(150),
            ..Weather::default()
        };
        if is_rough {
            weather.loss = up_to(30) as u8;
            weather.duplication = up_to(30) as u8;
            weather.jitter_ms = up_to(100);
        }
        let payloads = [0_u8, 1].map(|end| {
            let count = random.random_range(0..60_u8);
            (0..count)
                .map(|n| vec![n ^ (end << 7); random.random_range(1..40)])
                .collect()
        });
        let mut storm = Self {
            agent,
            weather,
            client,
            far,
            payloads,
            troubles: BTreeMap::new(),
        };
        storm.invent_troubles(&mut random);
        storm
    }

    fn invent_troubles(&mut self, random: &mut StdRng) {
        let mut order = 0..;
        let mut add = |at: u64, trouble| {
            let tie = order.next().unwrap_or(u32::MAX);
            self.troubles.insert((at, tie), trouble);
        };
        for _ in 0..random.random_range(1..6) {
            let end = random.random_range(0..2);
            add(
                random.random_range(0..4000),
                Trouble::Speak(end, random.random_range(1..40)),
            );
        }
        let mut at = 0;
        for _ in 0..random.random_range(0..4) {
            at += random.random_range(0..1500);
            add(at, Trouble::Lose(random.random_range(0..2)));
            at += random.random_range(0..2000);
            add(at, Trouble::Restore);
        }
        for _ in 0..random.random_range(0..3) {
            let end = random.random_range(0..2);
            let at = random.random_range(0..4000);
            add(at, Trouble::Publication(end, false));
            let length = random.random_range(0..1000);
            add(at + length, Trouble::Publication(end, true));
        }
        if random.random_bool(0.3) {
            let at = random.random_range(0..100);
            add(at, Trouble::Ready(false));
            add(at + random.random_range(0..500), Trouble::Ready(true));
        }
        if random.random_bool(0.3) {
            add(random.random_range(0..4000), Trouble::Curiosity);
        }
    }

    /// Virtual time within which all is to be over, counted from the last trouble: the agent
    /// resends ten messages a second, each at most a second after it was lost once more.
    fn patience(&self) -> Duration {
        let messages = self.payloads.iter().map(Vec::len).sum::<usize>();
        Duration::from_secs(20) + MS * 1500 * u32::try_from(messages).unwrap()
    }

    fn rage(self, seed: u64) {
        let mut pair = Pair::new(self.client.clone(), self.far.clone(), self.weather, seed);
        while !pair.ends.iter().all(|end| end.is_established) {
            pair.settle();
            assert!(pair.advance(pair.start + Duration::from_secs(15)), "opens");
        }
        let patience = self.patience();
        let opened = pair.now;
        let mut rest = self.payloads.clone();
        for (&(at, _), trouble) in &self.troubles {
            let at = opened + MS * u32::try_from(at).unwrap();
            self.run_until(&mut pair, at);
            match *trouble {
                Trouble::Lose(end) => pair.lose(end),
                Trouble::Restore => pair.restore(),
                Trouble::Publication(end, is_started) => {
                    let name: &[u8] = match is_started {
                        true => b"start_publication",
                        false => b"pause_publication",
                    };
                    let now = pair.now;
                    let channel = &mut pair.ends[end].channel;
                    channel.handle_input(now, publication(name)).unwrap();
                }
                Trouble::Ready(is_ready) => pair.ends[AGENT].channel.set_ready(is_ready),
                Trouble::Speak(end, count) => {
                    let count = count.min(rest[end].len());
                    pair.ends[end].to_send.extend(rest[end].drain(..count));
                }
                Trouble::Curiosity => {
                    let now = pair.now;
                    let frame = short("agent_session_state");
                    let _ = pair.ends[CLIENT].channel.handle_input(now, frame);
                }
            }
        }
        for (end, rest) in rest.into_iter().enumerate() {
            pair.ends[end].to_send.extend(rest);
        }
        let deadline = pair.now + patience;
        while !self.is_over(&pair) {
            self.step(&mut pair);
            if !pair.advance(deadline) {
                break;
            }
        }
        assert!(
            self.is_over(&pair),
            "not over after {patience:?}: {:?}, {:?}, left {:?}",
            self.agent,
            self.troubles,
            pair.ends.each_ref().map(|end| (
                end.to_send.len(),
                end.channel.unacknowledged(),
                end.received.len()
            )),
        );
        for end in [CLIENT, AGENT] {
            let expected = self.payloads[end].concat();
            assert!(pair.ends[1 - end].received == expected, "from {end}");
        }
        let now = pair.now;
        let client = &mut pair.ends[CLIENT].channel;
        client.handle_input(now, short("channel_closed")).unwrap();
        let last: Vec<Event> = std::iter::from_fn(|| client.poll_event()).collect();
        assert!(!last.iter().any(|event| matches!(event, Event::Data(..))));
        assert!(matches!(last.last(), Some(Event::Closed(_))), "{last:?}");
    }

    fn run_until(&self, pair: &mut Pair, until: Instant) {
        self.step(pair);
        while pair.advance(until) {
            self.step(pair);
        }
    }

    /// Lets both ends act, and looks at their bounds.
    fn step(&self, pair: &mut Pair) {
        pair.settle();
        for (end, config) in [(CLIENT, &self.client), (AGENT, &self.far)] {
            let channel = &pair.ends[end].channel;
            // What the handshake needs is sent whatever the limit.
            assert!(channel.unacknowledged() <= config.outgoing.messages + 2);
            assert!(channel.held() <= config.incoming.messages);
            assert!(channel.acknowledges.len() <= 1000, "acknowledgements");
        }
    }

    /// Whether everything has arrived and both ends know it, as far as they can.
    fn is_over(&self, pair: &Pair) -> bool {
        let [client, agent] = &pair.ends;
        if self.agent != Agent::Old {
            return pair.is_done();
        }
        let expected = self.payloads[CLIENT].iter().map(Vec::len).sum::<usize>();
        client.to_send.is_empty()
            && agent.to_send.is_empty()
            && agent.channel.is_idle()
            && agent.received.len() == expected
    }
}

/// A message of the service, which omits the payload type.
fn short(name: &str) -> Bytes {
    let header = Header {
        message_type: match name {
            "channel_closed" => MessageType::ChannelClosed,
            _ => MessageType::AgentSessionState,
        },
        created_date: 1,
        sequence_number: 0,
        flags: 0,
        message_id: Uuid::nil(),
        payload_type: None,
    };
    header.encode(b"{}")
}

/// Says which seed it was when a storm has sunk the ship.
struct Log(u64);

impl Drop for Log {
    #[expect(clippy::print_stderr, reason = "told with the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat it with SSMSHIM_SEED={}", self.0);
        }
    }
}

#[test]
fn nothing_is_lost_doubled_or_stuck_in_any_storm() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match (number("SSMSHIM_SEED"), number("SSMSHIM_FULL")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(1)) => 0..FULL_SEEDS,
        (None, _) => 0..SEEDS,
    };
    for seed in seeds {
        let _log = Log(seed);
        Storm::brew(seed).rage(seed);
    }
}
