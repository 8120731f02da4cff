//! What the two ends say to each other, as JSON; pure.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::journal::Place;

/// The version of what is said here. An end that speaks another is no match.
pub(super) const VERSION: u32 = 1;

/// Characters of a text that is passed on for a person to read.
const TEXT_CHARS: usize = 2_000;

/// Environment variables that decide who we are at AWS, whatever the profile; by the last one, where its files are.
const IDENTITY: [&str; 7] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_ROLE_ARN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "HOME",
];

/// The first line of a client: which machine it wants to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) demand: Demand,
}

/// A port of a machine, as seen from an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::daemon) struct Demand {
    /// The machine, as its user names it, or its id.
    pub(in crate::daemon) target: String,
    /// The port on it.
    pub(in crate::daemon) port: u16,
    /// Where it is looked for.
    pub(in crate::daemon) place: Place,
    /// As whom.
    pub(in crate::daemon) identity: Identity,
}

/// Tells one set of credentials in the environment from another, without naming them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::daemon) struct Identity(String);

impl Identity {
    /// What the environment of this process says.
    pub(in crate::daemon) fn of_environment() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for name in IDENTITY {
            let value = variable(name).unwrap_or_default();
            digest.update(value.as_bytes());
            // In no variable.
            digest.update(&[0]);
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.finish().as_ref()[..16]);
        Self(Uuid::from_bytes(bytes).to_string())
    }
}

/// What a daemon has to offer: one machine that it keeps a way to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::daemon) struct Offer {
    /// How its user named it.
    pub(in crate::daemon) named: String,
    /// What that turned out to be.
    pub(in crate::daemon) id: String,
    /// The port that its streams lead to.
    pub(in crate::daemon) port: u16,
    /// Where it is.
    pub(in crate::daemon) place: Place,
    /// As whom it is reached.
    pub(in crate::daemon) identity: Identity,
}

impl Offer {
    /// Whether it is what is wanted.
    ///
    /// A name may mean another machine to somebody else, so it counts only between those who are the same to AWS. An
    /// id means one machine, whoever says it.
    pub(in crate::daemon) fn is(&self, demand: &Demand) -> bool {
        let is_named = self.named == demand.target && self.identity == demand.identity;
        (self.id == demand.target || is_named)
            && self.port == demand.port
            && self.place == demand.place
    }
}

/// The only line of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Answer {
    /// There is a way to that machine here; frames follow.
    Mine {
        /// How long it may take until [`Notice::Opened`] or [`Notice::Ended`] comes.
        hold_seconds: u32,
    },
    /// There is none.
    Elsewhere,
}

/// What is said between the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "snake_case")]
pub(super) enum Notice {
    /// By the daemon: the stream is open. Before this nobody sends bytes.
    Opened,
    /// By the daemon: something that a person waits to hear of.
    Told {
        /// In words.
        text: String,
    },
    /// By the daemon: the stream is over, after all its bytes.
    Ended {
        /// Why, unless it was the target's own wish.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    /// By the client: it has no more bytes to send, and takes those that still come.
    Eof,
}

/// Why there is no stream, or no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// What went wrong.
    pub(super) error: String,
    /// What the user may do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
    /// Whether waiting cannot heal it, so that another way is worth a try.
    #[serde(default, rename = "final")]
    pub(super) is_final: bool,
}

impl Failure {
    /// Of texts, which may be the words of others and of any length.
    pub(super) fn new(error: &str, hint: Option<&str>, is_final: bool) -> Self {
        Self {
            error: plain(error),
            hint: hint.map(plain),
            is_final,
        }
    }
}

/// `text` as far as it can be sent, and without what would steer a terminal.
pub(super) fn plain(text: &str) -> String {
    let chars = text.chars().take(TEXT_CHARS);
    chars
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(profile: Option<&str>) -> Place {
        Place {
            region: "eu-central-1".into(),
            endpoint: None,
            profile: profile.map(str::to_owned),
        }
    }

    fn identity(key: &str) -> Identity {
        Identity::of(|name| (name == "AWS_ACCESS_KEY_ID").then(|| key.to_owned()))
    }

    fn demand(target: &str) -> Demand {
        Demand {
            target: target.into(),
            port: 22,
            place: place(None),
            identity: identity("a"),
        }
    }

    fn offer() -> Offer {
        Offer {
            named: "web".into(),
            id: "i-0123456789abcdef0".into(),
            port: 22,
            place: place(None),
            identity: identity("a"),
        }
    }

    #[test]
    fn a_machine_is_wanted_by_its_id_or_its_very_name() {
        let id = demand("i-0123456789abcdef0");
        let name = demand("web");
        assert!(offer().is(&id) && offer().is(&name));
        assert!(!offer().is(&demand("web-2")));
        for elsewhere in [
            Demand {
                port: 2222,
                ..id.clone()
            },
            Demand {
                place: place(Some("work")),
                ..id.clone()
            },
            Demand {
                identity: identity("b"),
                ..name
            },
        ] {
            assert!(!offer().is(&elsewhere), "{elsewhere:?}");
        }
        // With another key of the same account, say. An id is an id.
        assert!(offer().is(&Demand {
            identity: identity("b"),
            ..id
        }));
    }

    #[test]
    fn an_identity_does_not_name_its_credentials() {
        let text = serde_json::to_string(&identity("AKIDEXAMPLE")).unwrap();
        assert!(!text.contains("AKID"), "{text}");
        assert_eq!(identity("x"), identity("x"));
        assert_ne!(Identity::of(|_| None), identity("x"));
    }

    #[test]
    fn what_is_said_is_stable() {
        let request = Request {
            version: VERSION,
            demand: Demand {
                identity: Identity(Uuid::nil().to_string()),
                ..demand("web")
            },
        };
        let text = r#"{"version":1,"target":"web","port":22,"place":{"region":"eu-central-1","endpoint":null,"profile":null},"identity":"00000000-0000-0000-0000-000000000000"}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        for (notice, text) in [
            (Notice::Opened, r#"{"notice":"opened"}"#),
            (Notice::Eof, r#"{"notice":"eof"}"#),
            (Notice::Ended { failure: None }, r#"{"notice":"ended"}"#),
            (
                Notice::Ended {
                    failure: Some(Failure::new("a\u{1b}[2J", None, true)),
                },
                r#"{"notice":"ended","failure":{"error":"a [2J","final":true}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&notice).unwrap(), text);
            assert_eq!(serde_json::from_str::<Notice>(text).unwrap(), notice);
        }
        let answer = Answer::Mine { hold_seconds: 30 };
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"answer":"mine","hold_seconds":30}"#
        );
    }

    #[test]
    fn the_longest_failure_fits_a_frame() {
        let text = "\u{1f980}".repeat(TEXT_CHARS * 2);
        let failure = Failure::new(&text, Some(&text), false);
        let notice = Notice::Ended {
            failure: Some(failure),
        };
        let length = serde_json::to_string(&notice).unwrap().len();
        assert!(length < super::super::wire::FRAME_BYTES, "{length}");
    }
}
