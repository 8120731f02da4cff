//! What becomes of the way to the target, told once.

use std::time::Duration;

use super::super::output::{Event, Output};
use crate::report::one_line;
use crate::upstream::News;

/// Tells news as events and in words, and nothing twice.
#[derive(Debug, Default)]
pub(super) struct Teller {
    is_down: bool,
    /// What was wrong when it was told last; none once all was well.
    told: Option<String>,
}

impl Teller {
    /// Whether `trouble` has not been told yet.
    pub(super) fn is_new(&mut self, trouble: &str) -> bool {
        let is_new = self.told.as_deref() != Some(trouble);
        self.told = Some(trouble.to_owned());
        is_new
    }

    /// Tells `news`, unless it is none.
    pub(super) fn tell(&mut self, news: &News, output: Output) {
        match news {
            News::Lost {
                reason,
                is_resuming,
            } => {
                output.event(&Event::Lost {
                    reason,
                    resuming: *is_resuming,
                });
                output.say(&match is_resuming {
                    true => format!("connection lost ({reason}), resuming"),
                    false => format!("the SSM session is over ({reason}), starting another"),
                });
            }
            News::Silent { lasted } => {
                output.event(&Event::Silent {
                    silent_seconds: seconds(*lasted),
                });
                output.say(&format!(
                    "the SSM agent on the target has not answered for {:.0} s, waiting",
                    lasted.as_secs_f64()
                ));
            }
            News::Heard { lasted } => {
                output.event(&Event::Heard {
                    silent_seconds: seconds(*lasted),
                });
                output.say(&format!(
                    "it answers again after {:.1} s",
                    lasted.as_secs_f64()
                ));
            }
            News::Retrying {
                attempt,
                error,
                hint,
            } => {
                if self.is_new(error) {
                    output.event(&Event::Retrying {
                        attempt: *attempt,
                        error,
                        hint: hint.as_deref(),
                    });
                    output.warn(&format!("not resumed yet: {error}"), hint.as_deref());
                }
            }
            News::Resumed { gap, attempts } => {
                self.told = None;
                output.event(&Event::Resumed {
                    gap_seconds: seconds(*gap),
                    attempts: *attempts,
                });
                output.say(&format!("resumed after {:.1} s", gap.as_secs_f64()));
            }
            News::Down(error) => {
                let (text, hint) = (one_line(error), error.hint());
                self.is_down = true;
                if self.is_new(&text) {
                    let hint = hint.as_deref();
                    output.event(&Event::Down { error: &text, hint });
                    output.error(&text, hint);
                }
            }
            News::Up { gap } => {
                self.up(*gap, output);
                output.say(&match gap {
                    Some(gap) => format!("reached again after {:.1} s", gap.as_secs_f64()),
                    None => "reached again".into(),
                });
            }
            News::LoggedIn => {
                if self.is_down {
                    self.up(None, output);
                    output.say("logging in works again");
                }
            }
        }
    }

    fn up(&mut self, gap: Option<Duration>, output: Output) {
        *self = Self::default();
        output.event(&Event::Up {
            gap_seconds: gap.map(seconds),
        });
    }
}

/// To the millisecond.
fn seconds(gap: Duration) -> f64 {
    (gap.as_secs_f64() * 1000.0).round() / 1000.0
}
