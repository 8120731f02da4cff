//! Errors as people read them.

use std::error::Error;

/// An error with its causes, on one line: `what: why: why that`.
///
/// A cause that is spelled out already is not said again.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    // Causes may be the words of others, who write lines and full stops.
    line.replace(char::is_control, " ")
        .trim_end_matches(['.', ' '])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    #[test]
    fn each_cause_is_said_once() {
        let innermost = Layer {
            text: "connection\nrefused",
            source: None,
        };
        let inner = Layer {
            text: "connection\nrefused",
            source: Some(Box::new(innermost)),
        };
        let outer = Layer {
            text: "cannot dial",
            source: Some(Box::new(inner)),
        };
        assert_eq!(one_line(&outer), "cannot dial: connection refused");
    }

    #[test]
    fn a_foreign_sentence_ends_without_its_full_stop() {
        let foreign = Layer {
            text: "it is not connected.\n",
            source: None,
        };
        assert_eq!(one_line(&foreign), "it is not connected");
    }
}
