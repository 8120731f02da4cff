//! What becomes of the targets, told once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::output::{Event, Output};
use crate::daemon::{Report, What};
use crate::report::one_line;
use crate::upstream::News;

/// Tells reports as events and in words.
///
/// As long as there is no target but the usual one, words do not name it.
#[derive(Debug, Default)]
pub(super) struct Herald {
    usual: Option<String>,
    has_others: bool,
    /// One for each target that is up, and for each port of one.
    tellers: BTreeMap<(String, u16), Teller>,
}

impl Herald {
    /// For an endpoint that leads to `usual` where nothing is selected.
    pub(super) fn new(usual: Option<&str>) -> Self {
        Self {
            usual: usual.map(str::to_owned),
            ..Self::default()
        }
    }

    /// Tells `report`, unless it is none.
    pub(super) fn tell(&mut self, report: &Report, output: Output) {
        let Report {
            target,
            port,
            title,
            what,
        } = report;
        let way = (target.clone(), *port);
        self.has_others |= self.usual.as_ref() != Some(target);
        let voice = Voice {
            target,
            heading: match self.has_others {
                true => format!("{title}: "),
                false => String::new(),
            },
            output,
        };
        match what {
            What::Started => {
                output.event(&Event::Started { target });
                voice.say("selected by a login name, reaching it …");
                let teller = Teller {
                    is_new: true,
                    ..Teller::default()
                };
                self.tellers.insert(way, teller);
            }
            What::News(news) => {
                let teller = self.tellers.entry(way).or_default();
                teller.tell(news, &voice);
            }
            What::Idle => {
                output.event(&Event::Idle { target });
                voice.say("not in use any more, session ended");
                self.tellers.remove(&way);
            }
        }
    }
}

/// Speaks of one target.
struct Voice<'a> {
    target: &'a str,
    heading: String,
    output: Output,
}

impl Voice<'_> {
    fn say(&self, text: &str) {
        self.output.say(&format!("{}{text}", self.heading));
    }
}

/// Tells news of one target, and nothing twice.
#[derive(Debug, Default)]
pub(super) struct Teller {
    /// It has never been up.
    is_new: bool,
    is_down: bool,
    /// What was wrong when it was told last; none once all was well.
    told: Option<String>,
    /// Why somebody was not let in where others are, when it was told last.
    refused: Option<String>,
}

impl Teller {
    /// Whether `trouble` has not been told yet.
    pub(super) fn is_new(&mut self, trouble: &str) -> bool {
        let is_new = self.told.as_deref() != Some(trouble);
        self.told = Some(trouble.to_owned());
        is_new
    }

    fn tell(&mut self, news: &News, voice: &Voice<'_>) {
        let Voice { target, output, .. } = voice;
        match news {
            News::Lost {
                reason,
                is_resuming,
            } => {
                output.event(&Event::Lost {
                    target,
                    reason,
                    resuming: *is_resuming,
                });
                voice.say(&match is_resuming {
                    true => format!("connection lost ({reason}), resuming"),
                    false => format!("the SSM session is over ({reason}), starting another"),
                });
            }
            News::Silent { lasted } => {
                output.event(&Event::Silent {
                    target,
                    silent_seconds: seconds(*lasted),
                });
                voice.say(&format!(
                    "the SSM agent on the target has not answered for {:.0} s, waiting",
                    lasted.as_secs_f64()
                ));
            }
            News::Heard { lasted } => {
                output.event(&Event::Heard {
                    target,
                    silent_seconds: seconds(*lasted),
                });
                voice.say(&format!(
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
                        target,
                        attempt: *attempt,
                        error,
                        hint: hint.as_deref(),
                    });
                    let text = format!("{}not resumed yet: {error}", voice.heading);
                    output.warn(&text, hint.as_deref());
                }
            }
            News::Resumed { gap, attempts } => {
                self.told = None;
                output.event(&Event::Resumed {
                    target,
                    gap_seconds: seconds(*gap),
                    attempts: *attempts,
                });
                voice.say(&format!("resumed after {:.1} s", gap.as_secs_f64()));
            }
            News::Down(error) => {
                let (text, hint) = (one_line(error), error.hint());
                self.is_down = true;
                if self.is_new(&text) {
                    let hint = hint.as_deref();
                    output.event(&Event::Down {
                        target,
                        error: &text,
                        hint,
                    });
                    // It names the target.
                    output.error(&text, hint);
                }
            }
            // Of the usual target that was told with `ready`, and this is late.
            News::Up { gap: None } if !self.is_new && !self.is_down => {}
            News::Up { gap } => {
                let is_new = self.is_new;
                self.up(*gap, voice);
                voice.say(&match gap {
                    Some(gap) => format!("reached again after {:.1} s", gap.as_secs_f64()),
                    None if is_new => "reached".into(),
                    None => "reached again".into(),
                });
            }
            News::LoggedIn => {
                if self.is_down {
                    self.up(None, voice);
                    voice.say("logging in works again");
                }
            }
            News::LoginRefused(error) => {
                let (error, hint) = (one_line(error), error.hint());
                if self.refused.as_ref() != Some(&error) {
                    output.event(&Event::LoginRefused {
                        target,
                        error: &error,
                        hint: hint.as_deref(),
                    });
                    // It names the target.
                    output.warn(&error, hint.as_deref());
                    self.refused = Some(error);
                }
            }
        }
    }

    fn up(&mut self, gap: Option<Duration>, voice: &Voice<'_>) {
        *self = Self::default();
        voice.output.event(&Event::Up {
            target: voice.target,
            gap_seconds: gap.map(seconds),
        });
    }
}

/// To the millisecond.
fn seconds(gap: Duration) -> f64 {
    (gap.as_secs_f64() * 1000.0).round() / 1000.0
}
