//! Why a side is gone, and what that means for the other.

use super::pair;
use crate::report::one_line;
use crate::ssh::transport::reason::{MAC_ERROR, PROTOCOL_ERROR};
use crate::ssh::{Error, Farewell};

/// Why a side was left.
#[derive(Debug)]
pub(super) enum End {
    /// It said goodbye, closed, or broke.
    Gone(Option<Error>),
    /// It does not keep to the protocol.
    Misbehaved(pair::Error),
}

/// Words by which servers tell that what reached them was not what we have sent. They have no reason code of their own:
/// OpenSSH and others call it a protocol error.
const WORDS_OF_DAMAGE: [&str; 7] = [
    "packet corrupt",
    "bad packet length",
    "bad packet size",
    "corrupted mac",
    "corrupted padlen",
    "padding error",
    "integrity error",
];

/// Whether sshd left because bytes were damaged, doubled or lost on their way to it: not its decision, nor the client's
/// doing.
pub(super) fn is_of_damage(farewell: &Farewell) -> bool {
    let words = farewell.description.to_ascii_lowercase();
    farewell.reason == MAC_ERROR
        || farewell.reason == PROTOCOL_ERROR
            && WORDS_OF_DAMAGE.iter().any(|damage| words.contains(damage))
}

/// Why upstream is gone, for the person at the client.
pub(super) fn cause(end: &End, farewell: Option<&Farewell>) -> String {
    match (end, farewell) {
        (_, Some(farewell)) => format!(
            "the connection to the target was damaged on its way: {}",
            farewell.description
        ),
        (End::Misbehaved(error), None) => format!("the target's sshd broke the protocol: {error}"),
        // How streams end is of no use to a person.
        (End::Gone(Some(Error::Io { .. } | Error::ConnectionLost { .. } | Error::Ended)), None) => {
            "the connection to the target was lost".to_owned()
        }
        (End::Gone(Some(error)), None) => {
            format!("the connection to the target was lost: {}", one_line(error))
        }
        (End::Gone(None), None) => "the target's sshd closed the connection".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::Phase;
    use crate::ssh::transport::reason::BY_APPLICATION;

    #[test]
    fn only_words_of_damage_are_no_goodbye() {
        let cases = [
            (PROTOCOL_ERROR, "Packet corrupt", true),
            (PROTOCOL_ERROR, "Bad packet length 1349676916.", true),
            (PROTOCOL_ERROR, "Corrupted MAC on input.", true),
            (MAC_ERROR, "", true),
            (PROTOCOL_ERROR, "Too many authentication failures", false),
            (BY_APPLICATION, "Packet corrupt", false),
        ];
        for (reason, words, is_damage) in cases {
            let farewell = Farewell {
                reason,
                description: words.to_owned(),
            };
            assert_eq!(is_of_damage(&farewell), is_damage, "{words}");
        }
    }

    #[test]
    fn a_person_is_told_what_a_person_can_use() {
        let lost = Error::Io {
            phase: Phase::Connection,
            source: std::io::ErrorKind::BrokenPipe.into(),
        };
        let cases = [
            (None, "the target's sshd closed the connection"),
            (Some(lost), "the connection to the target was lost"),
        ];
        for (error, text) in cases {
            assert_eq!(cause(&End::Gone(error), None), text);
        }
    }
}
