//! Upstream is away: what is said in its place meanwhile, and to whom.

use std::time::{Duration, Instant};

use crate::upstream;

/// How long upstream may be away before its keepalives are answered here.
///
/// Shorter than any interval at which clients send them, and longer than the absences that nobody notices: during
/// those, what the client hears is upstream's own.
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(1);

/// How long upstream may be away before a person who types is told.
const TYPING_PATIENCE: Duration = Duration::from_secs(3);

/// A time in which nothing can be heard of upstream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Absence {
    since: Instant,
    /// There is a link, and it is the agent at its end that does not answer.
    is_silence: bool,
    /// The keepalives that waited have been answered, and the next are answered at once.
    answers_keepalives: bool,
}

impl Absence {
    pub(super) fn new(since: Instant) -> Self {
        Self {
            since,
            is_silence: false,
            answers_keepalives: false,
        }
    }

    /// Notes what is known of it now. When it began stays as it was.
    pub(super) fn update(&mut self, known: upstream::Absence) {
        self.is_silence = known.is_silence;
    }

    /// When a wish that was uttered at `asked_at` has waited for `hold` because of it.
    pub(super) fn overdue_at(&self, asked_at: Instant, hold: Duration) -> Instant {
        self.since.max(asked_at) + hold
    }

    /// Whether keepalives are answered in upstream's place.
    pub(super) fn answers_keepalives(&self) -> bool {
        self.answers_keepalives
    }

    /// When it has lasted so long that keepalives are to be answered; none once they are.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (!self.answers_keepalives).then(|| self.since + KEEPALIVE_PATIENCE)
    }

    /// True when keepalives are to be answered from now on.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_due = self.poll_timeout().is_some_and(|at| at <= now);
        self.answers_keepalives |= is_due;
        is_due
    }

    /// What a person who types `now` is told, once it has lasted a while.
    pub(super) fn notice(&self, now: Instant) -> Option<String> {
        let lasted = self.lasted(now);
        let seconds = lasted.as_secs();
        (lasted >= TYPING_PATIENCE).then(|| match self.is_silence {
            true => format!(
                "the SSM agent on the target has not answered for {seconds} s; what you type is kept"
            ),
            false => format!(
                "the connection to the target was lost {seconds} s ago and is being resumed; \
                 what you type is kept"
            ),
        })
    }

    /// What those are told who were told of it, now that it is over.
    pub(super) fn end_notice(&self, now: Instant) -> String {
        let seconds = self.lasted(now).as_secs();
        match self.is_silence {
            true => format!("it answers again after {seconds} s"),
            false => format!("resumed after {seconds} s"),
        }
    }

    fn lasted(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

/// A line of ours on the standard error of a channel, which may be a terminal, in the middle of a line.
pub(super) fn line(text: &str, is_terminal: bool) -> String {
    // A person reads it, and a terminal obeys control characters.
    let mut text = text.replace(char::is_control, " ");
    if text.len() > MAX_NOTICE_BYTES {
        let end = (0..=MAX_NOTICE_BYTES).rfind(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    if is_terminal {
        format!("\r\n[ssmshim: {text}]\r\n")
    } else {
        format!("ssmshim: {text}\n")
    }
}

/// The longest notice, in bytes without its frame: causes may be the words of others.
const MAX_NOTICE_BYTES: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalives_are_answered_after_a_while() {
        let now = Instant::now();
        let mut absence = Absence::new(now);
        assert!(!absence.handle_timeout(now));
        let at = absence.poll_timeout().unwrap();
        assert!(absence.handle_timeout(at));
        assert!(absence.answers_keepalives());
        assert!(!absence.handle_timeout(at), "once");
        assert_eq!(absence.poll_timeout(), None);
    }

    #[test]
    fn a_person_is_told_after_a_while() {
        let now = Instant::now();
        let absence = Absence::new(now);
        assert_eq!(absence.notice(now + Duration::from_millis(2999)), None);
        let notice = absence.notice(now + Duration::from_secs(12)).unwrap();
        assert!(notice.contains("lost 12 s ago"), "{notice}");
        let end = absence.end_notice(now + Duration::from_secs(42));
        assert_eq!(end, "resumed after 42 s");
    }

    #[test]
    fn notices_are_one_line_of_bounded_length() {
        assert_eq!(line("a\r\n\x1bb", false), "ssmshim: a   b\n");
        assert_eq!(line("a", true), "\r\n[ssmshim: a]\r\n");
        let long = line(&"ü".repeat(1000), false);
        assert!(long.len() < MAX_NOTICE_BYTES + 20, "{}", long.len());
    }
}
