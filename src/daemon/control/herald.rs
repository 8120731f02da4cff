//! What a person at a client wants to hear of the way to the target; pure.
//!
//! Who uses `connect` sees what it writes to standard error in the midst of what they do. So a pause is told when it has
//! lasted for a while, and its end only if it was told.

use std::time::{Duration, Instant};

use crate::tunnel;
use crate::upstream::News;

/// The longest pause that nobody needs to hear of.
const PATIENCE: Duration = Duration::from_secs(3);

/// Something that concerns a stream which stays open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::daemon) enum Happening {
    /// Nothing moves any more, and there is no link.
    Lost { reason: String },
    /// An attempt to resume has failed.
    Hindered { error: String, hint: Option<String> },
    /// Nothing moves any more, for the agent does not answer.
    Silent,
    /// All goes on.
    Resumed,
}

/// Waits to see whether a pause is worth a word.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Herald {
    pause: Option<Pause>,
}

#[derive(Debug)]
struct Pause {
    since: Instant,
    /// What is to be told, if the pause lasts; none once it was.
    news: Option<String>,
    /// What hindered last.
    hindrance: Option<String>,
    is_told: bool,
}

impl Herald {
    /// Takes in what has happened; the answer is to be told at once.
    pub(in crate::daemon) fn handle(
        &mut self,
        now: Instant,
        happened: Happening,
    ) -> Option<String> {
        match happened {
            Happening::Lost { reason } => {
                self.begin(now, format!("connection lost ({reason}), resuming"));
                None
            }
            Happening::Silent => {
                self.begin(
                    now,
                    "the SSM agent on the target does not answer, waiting".into(),
                );
                None
            }
            Happening::Hindered { error, hint } => {
                let pause = self.pause.as_mut()?;
                if pause.hindrance.as_ref() == Some(&error) {
                    return None;
                }
                let hint = hint.map_or_else(String::new, |hint| format!(" (hint: {hint})"));
                let told = format!("not resumed yet: {error}{hint}");
                pause.hindrance = Some(error);
                pause.news = Some(told);
                self.handle_timeout(now)
            }
            Happening::Resumed => {
                let pause = self.pause.take()?;
                let lasted = now.saturating_duration_since(pause.since).as_secs_f64();
                pause
                    .is_told
                    .then(|| format!("resumed after {lasted:.1} s"))
            }
        }
    }

    /// Says what is due.
    pub(in crate::daemon) fn handle_timeout(&mut self, now: Instant) -> Option<String> {
        let pause = self.pause.as_mut()?;
        if now < pause.since + PATIENCE {
            return None;
        }
        pause.is_told |= pause.news.is_some();
        pause.news.take()
    }

    /// When something will be due.
    pub(in crate::daemon) fn poll_timeout(&self) -> Option<Instant> {
        let pause = self.pause.as_ref()?;
        pause.news.is_some().then_some(pause.since + PATIENCE)
    }

    fn begin(&mut self, now: Instant, news: String) {
        match &mut self.pause {
            // It goes from bad to worse, and the pause is the same.
            Some(pause) => pause.news = Some(news),
            None => {
                self.pause = Some(Pause {
                    since: now,
                    news: Some(news),
                    hindrance: None,
                    is_told: false,
                });
            }
        }
    }
}

impl Happening {
    /// What `news` mean to a stream that stays open. The end of one is told with its reason.
    pub(super) fn of_news(news: News) -> Option<Self> {
        Some(match news {
            News::Lost {
                reason,
                is_resuming: true,
            } => Self::Lost { reason },
            News::Retrying { error, hint, .. } => Self::Hindered { error, hint },
            News::Silent { .. } => Self::Silent,
            News::Resumed { .. } | News::Heard { .. } => Self::Resumed,
            News::Lost { .. }
            | News::Down(_)
            | News::Up { .. }
            | News::LoggedIn
            | News::LoginRefused(_) => return None,
        })
    }

    /// As [`Happening::of_news`], for a tunnel that nobody else looks after.
    pub(in crate::daemon) fn of_tunnel(event: tunnel::Event) -> Option<Self> {
        Some(match event {
            tunnel::Event::Lost { reason } => Self::Lost { reason },
            tunnel::Event::Retrying { error, hint } => Self::Hindered { error, hint },
            tunnel::Event::Silent { .. } => Self::Silent,
            tunnel::Event::Resumed | tunnel::Event::Heard => Self::Resumed,
            tunnel::Event::Over { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Happening {
        Happening::Lost {
            reason: "reset".into(),
        }
    }

    fn hindered(error: &str) -> Happening {
        Happening::Hindered {
            error: error.into(),
            hint: Some("aws sso login".into()),
        }
    }

    #[test]
    fn a_short_pause_is_not_told() {
        let (mut herald, start) = (Herald::default(), Instant::now());
        assert_eq!(herald.handle(start, lost()), None);
        assert_eq!(herald.poll_timeout(), Some(start + PATIENCE));
        let soon = start + PATIENCE / 2;
        assert_eq!(herald.handle(soon, hindered("x")), None);
        assert_eq!(herald.handle_timeout(soon), None);
        assert_eq!(herald.handle(soon, Happening::Resumed), None);
        assert_eq!(herald.poll_timeout(), None);
        assert_eq!(herald.handle_timeout(start + PATIENCE), None);
    }

    #[test]
    fn a_long_one_is_told_with_its_hindrances_and_its_end() {
        let (mut herald, start) = (Herald::default(), Instant::now());
        assert_eq!(herald.handle(start, lost()), None);
        let due = start + PATIENCE;
        let told = herald.handle_timeout(due);
        assert_eq!(told.as_deref(), Some("connection lost (reset), resuming"));
        assert_eq!(herald.poll_timeout(), None);
        let told = herald.handle(due, hindered("expired"));
        let text = "not resumed yet: expired (hint: aws sso login)";
        assert_eq!(told.as_deref(), Some(text));
        assert_eq!(herald.handle(due, hindered("expired")), None, "once");
        let end = start + Duration::from_secs(9);
        let told = herald.handle(end, Happening::Resumed);
        assert_eq!(told.as_deref(), Some("resumed after 9.0 s"));
        assert_eq!(herald.handle(end, Happening::Resumed), None);
    }

    #[test]
    fn what_hinders_early_is_told_when_it_lasts() {
        let (mut herald, start) = (Herald::default(), Instant::now());
        assert_eq!(herald.handle(start, Happening::Silent), None);
        assert_eq!(herald.handle(start, lost()), None);
        assert_eq!(herald.handle(start, hindered("expired")), None);
        let told = herald.handle_timeout(start + PATIENCE);
        let told = told.unwrap();
        assert!(told.starts_with("not resumed yet: expired"), "{told}");
    }
}
