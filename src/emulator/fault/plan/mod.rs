//! What is to go wrong, as data: the same from Rust and as JSON.

mod check;
mod millis;

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::check::PlanError;
use crate::emulator::session::Peer;

/// Faults to inject, and the seed of their chances.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Seed of every random choice from here on; without one the present seed stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// In this order.
    pub faults: Vec<Fault>,
}

impl FromStr for Plan {
    type Err = serde_json::Error;

    /// Reads a plan, or a single fault, from JSON.
    fn from_str(json: &str) -> Result<Self, Self::Err> {
        // A list could be taken for a plan without names.
        let value: Map<String, Value> = serde_json::from_str(json)?;
        let value = Value::Object(value);
        if value.get("fault").is_none() {
            return serde_json::from_value(value);
        }
        Ok(Self {
            seed: None,
            faults: vec![serde_json::from_value(value)?],
        })
    }
}

/// One fault of each kind, with what it does: for help texts.
pub const EXAMPLES: [(&str, &str); 15] = [
    (
        r#"{"fault": "cut", "side": "client", "how": "bye", "after": {"ms": 3600000}, "extent": "always"}"#,
        "every socket of clients is closed after an hour, as the service does",
    ),
    (
        r#"{"fault": "messages", "pick": {"probability": 0.05}, "effect": "drop"}"#,
        "messages are lost, doubled, late or out of order",
    ),
    (
        r#"{"fault": "link", "latency_ms": 40, "bytes_per_second": 500000}"#,
        "the link is slow",
    ),
    (
        r#"{"fault": "publication", "side": "agent", "paused": true}"#,
        "the service pauses an end",
    ),
    (
        r#"{"fault": "terminate", "text": "by the administrator"}"#,
        "the service ends the sessions",
    ),
    (
        r#"{"fault": "api", "operation": "StartSession", "answer": {"throttled": {"retry_after": 1}}}"#,
        "a call is refused",
    ),
    (
        r#"{"fault": "gateway", "refusal": {"status": 403}}"#,
        "a WebSocket is refused",
    ),
    (
        r#"{"fault": "expire", "extent": "always"}"#,
        "credentials count as expired",
    ),
    (
        r#"{"fault": "network", "how": "refuse", "ms": 5000}"#,
        "the service cannot be reached",
    ),
    (
        r#"{"fault": "agent", "away_ms": 3000}"#,
        "agents stop and come back",
    ),
    (
        r#"{"fault": "repeat", "on": true}"#,
        "agents that have lost their socket write a message to the port twice",
    ),
    (
        r#"{"fault": "unready", "ms": 300}"#,
        "agents refuse, or old ones lose, what comes right after the handshake",
    ),
    (
        r#"{"fault": "unheard", "extent": {"times": 2}}"#,
        "sessions start and no agent is told",
    ),
    (
        r#"{"fault": "headers", "short": true}"#,
        "the service's own messages have headers of 112 bytes",
    ),
    (
        r#"{"fault": "clock", "ahead_seconds": 900}"#,
        "the service's clock is another one, and refuses signatures by it",
    ),
];

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// A data channel's WebSocket ends.
    Cut(Cut),
    /// Single messages are lost, late, doubled or out of order.
    Messages(Messages),
    /// Every message is slow.
    Link(Link),
    /// The service pauses an end, or lets it go on.
    Publication(Publication),
    /// The service ends sessions.
    Terminate(Terminate),
    /// The AWS API refuses calls.
    Api(Api),
    /// The message gateway refuses clients' WebSockets.
    Gateway(Gateway),
    /// Credentials count as expired.
    Expire(Expire),
    /// The network between the clients and the service is away.
    Network(Network),
    /// An embedded agent stops and comes back.
    Agent(Agent),
    /// An embedded agent writes to its port twice what it could not acknowledge (sheet §12).
    Repeat(Repeat),
    /// An embedded agent is not ready for what comes right after the handshake (sheet §12).
    Unready(Unready),
    /// Sessions are started and no agent hears of them (sheet §9.2).
    Unheard(Unheard),
    /// The service's own messages have the short header (sheet §1).
    Headers(Headers),
    /// The service's clock is another one than ours.
    Clock(Clock),
}

/// A data channel's WebSocket ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Whose WebSocket.
    pub side: Peer,
    /// How it ends.
    pub how: Ending,
    /// How much of its life each socket has, counted anew on each. Absent: the sockets that are
    /// open now are cut at once, and no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Amount>,
    /// What counts for `after`: messages from this end, or from both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Peer>,
    /// Share of `after` by which each socket's life may be shorter or longer, from 0 to 1.
    #[serde(default)]
    pub jitter: f64,
    /// How many sockets of each session, or for how long.
    #[serde(default)]
    pub extent: Extent,
    /// Which sessions.
    #[serde(default)]
    pub sessions: Sessions,
}

/// How a WebSocket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ending {
    /// A TCP reset: what is under way is lost, and the peer knows at once.
    Reset,
    /// The TCP connection is closed, without a word of the WebSocket.
    Fin,
    /// Close frame 1000 `Bye`, as the service says hourly (sheet §2).
    Bye,
    /// Nothing is read or written any more and nothing fails. New sockets work.
    BlackHole {
        /// After this time the socket goes on as if nothing had been, if it is still wanted.
        #[serde(default, with = "millis::option", rename = "heals_ms")]
        heals: Option<Duration>,
    },
}

/// A measure of a socket's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// So many data messages and acknowledgements.
    Messages(u64),
    /// So many bytes of them, headers included.
    Bytes(u64),
    /// So much time since it opened.
    #[serde(rename = "ms", with = "millis")]
    Time(Duration),
}

/// How often a fault strikes, or how long it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// So often.
    Times(u32),
    /// From now on for so long.
    #[serde(rename = "ms", with = "millis")]
    For(Duration),
    /// Until the faults are cleared.
    Always,
}

impl Default for Extent {
    fn default() -> Self {
        Self::Times(1)
    }
}

/// Which sessions a fault is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sessions {
    /// Those that are open and those to come.
    #[default]
    All,
    /// Those that are started from now on.
    Coming,
    /// The one with this id.
    Only(String),
}

/// Single messages are lost, late, doubled or out of order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// Messages of this end; absent: of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Peer>,
    /// Messages of this kind; absent: of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<MessageKind>,
    /// Which of them.
    pub pick: Pick,
    /// What happens to those.
    pub effect: Effect,
    /// How many in each session and direction, or for how long.
    #[serde(default = "always")]
    pub extent: Extent,
    /// Which sessions.
    #[serde(default)]
    pub sessions: Sessions,
}

fn always() -> Extent {
    Extent::Always
}

/// The two kinds of messages that are relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// `input_stream_data` and `output_stream_data`.
    Data,
    /// `acknowledge`.
    Acknowledge,
}

/// Which messages are struck.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pick {
    /// Each with this probability, from 0 to 1.
    Probability(f64),
    /// Those with these sequence numbers; of an acknowledgement, the number acknowledged. A message
    /// that is sent again is struck again, within the extent.
    Sequence(Vec<u64>),
    /// Every n-th.
    Nth(u64),
}

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// It is lost.
    Drop,
    /// It arrives twice.
    Duplicate,
    /// It arrives later; those behind it overtake it.
    Delay {
        /// How much later.
        #[serde(rename = "ms", with = "millis")]
        time: Duration,
    },
    /// It arrives after the next `places` messages, or after 200 ms when fewer come.
    Reorder {
        /// How many overtake it.
        places: u32,
    },
}

/// Every message is slow; the order is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// Messages of this end; absent: of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Peer>,
    /// Time on the way.
    #[serde(rename = "latency_ms", with = "millis")]
    pub latency: Duration,
    /// Up to so much more, at random.
    #[serde(rename = "jitter_ms", with = "millis")]
    pub jitter: Duration,
    /// What it carries; more than 1 MiB under way is back-pressure to the sender. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Which sessions.
    pub sessions: Sessions,
}

/// The service says `pause_publication` or `start_publication`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    /// To whom.
    pub side: Peer,
    /// Pause, or start.
    pub paused: bool,
    /// Which of the open sessions.
    #[serde(default)]
    pub sessions: Sessions,
}

/// The service ends sessions, with `channel_closed` to both ends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terminate {
    /// What the client is told.
    pub text: String,
    /// Which of the open sessions.
    pub sessions: Sessions,
}

/// The AWS API refuses calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// Which operation; absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// With what.
    pub answer: Answer,
    /// How many calls, or for how long.
    #[serde(default)]
    pub extent: Extent,
}

/// The operations of AWS that are emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// StartSession.
    StartSession,
    /// ResumeSession.
    ResumeSession,
    /// TerminateSession.
    TerminateSession,
    /// DescribeSessions.
    DescribeSessions,
    /// GetConnectionStatus.
    GetConnectionStatus,
    /// DescribeInstanceInformation.
    DescribeInstanceInformation,
    /// DescribeInstances of EC2.
    DescribeInstances,
    /// SendSSHPublicKey of EC2 Instance Connect.
    #[serde(rename = "SendSSHPublicKey")]
    SendSshPublicKey,
    /// GetCallerIdentity of STS.
    GetCallerIdentity,
}

impl Operation {
    /// The operation's name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StartSession => "StartSession",
            Self::ResumeSession => "ResumeSession",
            Self::TerminateSession => "TerminateSession",
            Self::DescribeSessions => "DescribeSessions",
            Self::GetConnectionStatus => "GetConnectionStatus",
            Self::DescribeInstanceInformation => "DescribeInstanceInformation",
            Self::DescribeInstances => "DescribeInstances",
            Self::SendSshPublicKey => "SendSSHPublicKey",
            Self::GetCallerIdentity => "GetCallerIdentity",
        }
    }
}

/// What a refused call is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// ThrottlingException.
    Throttled {
        /// Seconds in a `Retry-After` header, if there is to be one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u32>,
    },
    /// InternalServerError with this HTTP status, 500 to 599.
    Failed {
        /// The HTTP status.
        status: u16,
    },
    /// ExpiredTokenException.
    Expired,
    /// AccessDeniedException.
    Denied,
    /// DoesNotExistException: the session is gone.
    DoesNotExist,
    /// TargetNotConnected: the machine is offline.
    TargetNotConnected,
    /// ResumeSession succeeds without a token, which is how the service says that it is too late.
    NoToken,
}

/// The message gateway refuses clients' WebSockets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// With what.
    pub refusal: Refusal,
    /// How many WebSockets, or for how long.
    #[serde(default)]
    pub extent: Extent,
}

/// How the message gateway refuses a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The upgrade is answered with this HTTP status, 400 to 599: 403 for a refused token.
    Status(u16),
    /// The WebSocket opens and is closed after its opening message.
    Close,
}

/// Credentials count as expired, at the API, at the gateway, or both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expire {
    /// Whether the API answers ExpiredTokenException.
    #[serde(default = "yes")]
    pub api: bool,
    /// Whether the gateway answers 403.
    #[serde(default = "yes")]
    pub gateway: bool,
    /// This access key id is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless_access_key: Option<String>,
    /// How many requests, or for how long.
    #[serde(default)]
    pub extent: Extent,
}

fn yes() -> bool {
    true
}

/// The network between the clients and the service is away. Open WebSockets are left alone: cut
/// them as well, or let them be black holes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// What becomes of new requests.
    pub how: Outage,
    /// For how long.
    #[serde(rename = "ms", with = "millis")]
    pub time: Duration,
}

/// What becomes of requests while the network is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outage {
    /// Connections are refused: by the whole port, so that agents cannot connect either, and this
    /// is over only when its time is.
    Refuse,
    /// Requests of clients get no answer.
    Hang,
}

/// An embedded agent stops and comes back; its connections to ports are closed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// The instance; absent: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How long it is away.
    #[serde(rename = "away_ms", with = "millis")]
    pub away: Duration,
    /// Whether the service does not notice: the sessions stay, and nobody answers in them. Otherwise
    /// they end with `channel_closed`.
    pub silent: bool,
}

/// For how long the embedded agents' Port sessions are not ready, from each handshake on.
///
/// Agents from 3.0.655.0 on leave what comes meanwhile unacknowledged, so that it comes again; those
/// before acknowledge it and lose it, and in a session with smux hear nothing more from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unready {
    /// For how long; 0 is the end of it.
    #[serde(rename = "ms", with = "millis")]
    pub time: Duration,
}

/// StartSession succeeds and the agent is never told, as by a real one that is just starting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Unheard {
    /// How many sessions, or for how long.
    pub extent: Extent,
}

/// Whether all messages that the service itself sends to clients lack the payload type, as
/// `channel_closed` always does: their header has 112 bytes and not 116.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// On, or off.
    pub short: bool,
}

/// The service's clock is another one than ours: its answers are dated by it, and a signature that is 5 minutes off by
/// it is refused, as by AWS. The last one counts; the emulator checks no other part of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// How much later it is there; negative where it is earlier.
    pub ahead_seconds: i32,
}

/// Whether the embedded agents repeat themselves to their ports. Agents before 3.0.655.0 never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// On, or off.
    pub on: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: serde_json::Value) -> Result<Fault, String> {
        let fault: Fault = serde_json::from_value(value).map_err(|error| error.to_string())?;
        fault.check().map_err(|error| error.to_string())?;
        Ok(fault)
    }

    #[test]
    fn the_documented_forms_are_understood() {
        let hourly = parse(json!({
            "fault": "cut", "side": "client", "how": "bye", "after": { "ms": 3_600_000 },
            "jitter": 0.1, "extent": "always",
        }));
        assert_eq!(
            hourly,
            Ok(Fault::Cut(Cut {
                side: Peer::Client,
                how: Ending::Bye,
                after: Some(Amount::Time(Duration::from_secs(3600))),
                from: None,
                jitter: 0.1,
                extent: Extent::Always,
                sessions: Sessions::All,
            }))
        );
        for form in [
            json!({"fault": "cut", "side": "agent", "how": {"black_hole": {"heals_ms": 5}}}),
            json!({"fault": "cut", "side": "agent", "how": {"black_hole": {}}}),
            json!({"fault": "cut", "side": "agent", "how": "fin", "after": {"messages": 10}, "from": "client"}),
            json!({"fault": "messages", "pick": {"probability": 0.1}, "effect": "drop"}),
            json!({"fault": "messages", "pick": {"sequence": [3, 4]}, "effect": {"delay": {"ms": 40}},
                   "from": "agent", "kind": "data", "extent": {"times": 2}, "sessions": {"only": "s-1"}}),
            json!({"fault": "messages", "pick": {"nth": 3}, "effect": {"reorder": {"places": 2}}, "sessions": "coming"}),
            json!({"fault": "link", "latency_ms": 50, "jitter_ms": 10, "bytes_per_second": 100_000}),
            json!({"fault": "publication", "side": "agent", "paused": true}),
            json!({"fault": "terminate", "text": "by the administrator"}),
            json!({"fault": "api", "operation": "ResumeSession", "answer": "no_token"}),
            json!({"fault": "api", "answer": {"throttled": {"retry_after": 1}}, "extent": {"ms": 500}}),
            json!({"fault": "gateway", "refusal": {"status": 403}, "extent": {"times": 2}}),
            json!({"fault": "gateway", "refusal": "close"}),
            json!({"fault": "expire", "unless_access_key": "AKIANEW", "extent": "always"}),
            json!({"fault": "network", "how": "refuse", "ms": 2000}),
            json!({"fault": "agent", "away_ms": 1000}),
            json!({"fault": "repeat", "on": true}),
            json!({"fault": "unready", "ms": 300}),
            json!({"fault": "unheard", "extent": {"times": 2}}),
            json!({"fault": "headers", "short": true}),
            json!({"fault": "clock", "ahead_seconds": -900}),
        ] {
            let fault = parse(form.clone());
            let written = serde_json::to_value(fault.unwrap()).unwrap();
            let again: Fault = serde_json::from_value(written.clone()).unwrap();
            assert_eq!(serde_json::to_value(again).unwrap(), written, "{form}");
        }
    }

    #[test]
    fn there_is_a_right_example_of_each_kind() {
        let kinds: std::collections::BTreeSet<_> = EXAMPLES
            .iter()
            .map(|(example, _)| {
                let fault = parse(serde_json::from_str(example).unwrap()).unwrap();
                serde_json::to_value(fault).unwrap()["fault"].to_string()
            })
            .collect();
        // The parser lists all that there are.
        let problem = parse(json!({"fault": "cat"})).unwrap_err();
        let (_, expected) = problem.split_once("expected one of ").unwrap();
        let known = expected.split(", ").map(|kind| kind.replace('`', "\""));
        assert_eq!(kinds, known.collect());
        assert_eq!(kinds.len(), EXAMPLES.len());
    }

    /// Those of the module's documentation are right, and there is one of each kind as well.
    #[test]
    fn the_examples_in_the_documentation_are_right() {
        let lines = include_str!("../mod.rs").lines();
        let written = lines
            .filter_map(|line| line.strip_prefix("//! {"))
            .map(|line| format!("{{{line}"));
        let plans: Vec<Plan> = written
            .map(|line| {
                // What it means stands behind it.
                let mut values =
                    serde_json::Deserializer::from_str(&line).into_iter::<serde_json::Value>();
                let value = values.next().unwrap().unwrap();
                value.to_string().parse().unwrap()
            })
            .collect();
        let kind = |fault: &Fault| serde_json::to_value(fault).unwrap()["fault"].to_string();
        let documented: std::collections::BTreeSet<_> = plans
            .iter()
            .flat_map(|plan| &plan.faults)
            .map(kind)
            .collect();
        for (example, _) in EXAMPLES {
            let kind = kind(&serde_json::from_str(example).unwrap());
            assert!(documented.contains(&kind), "{kind}");
        }
    }

    #[test]
    fn a_fault_alone_is_a_plan() {
        let alone: Plan = r#"{"fault": "repeat", "on": true}"#.parse().unwrap();
        let listed: Plan = r#"{"faults": [{"fault": "repeat", "on": true}]}"#.parse().unwrap();
        assert_eq!(alone, listed);
        let seeded: Plan = r#"{"seed": 7}"#.parse().unwrap();
        assert_eq!((seeded.seed, seeded.faults.len()), (Some(7), 0));
        for wrong in ["[]", "7", "{", r#"{"falts": []}"#] {
            assert!(wrong.parse::<Plan>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (form, named) in [
            (
                json!({"fault": "cut", "side": "client", "how": "fin", "wen": 1}),
                "wen",
            ),
            (
                json!({"fault": "cut", "side": "clint", "how": "fin"}),
                "clint",
            ),
            (json!({"fault": "cat"}), "cat"),
            (
                json!({"fault": "cut", "side": "client", "how": "fin", "extent": "always"}),
                "after",
            ),
            (
                json!({"fault": "messages", "pick": {"probability": 2.0}, "effect": "drop"}),
                "probability",
            ),
            (
                json!({"fault": "link", "bytes_per_second": 0}),
                "bytes_per_second",
            ),
            (
                json!({"fault": "gateway", "refusal": {"status": 200}}),
                "200",
            ),
            (
                json!({"fault": "api", "answer": "no_token"}),
                "ResumeSession",
            ),
            (
                json!({"fault": "network", "how": "hang", "ms": 0}),
                "at least 1",
            ),
        ] {
            let problem = parse(form).unwrap_err();
            assert!(problem.contains(named), "{problem}");
        }
    }
}
