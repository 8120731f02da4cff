//! What becomes of the targets, told once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::output::{About, Event, Output};
use crate::daemon::{Report, What};
use crate::report::one_line;
use crate::upstream::{Link, News};

/// A machine, and the port of its sshd: by another one it is another target.
type Target = (String, u16);

/// Tells reports as events and in words.
///
/// As long as there is no target but the usual one, words do not name it; and the port only where there are two of one
/// machine.
#[derive(Debug, Default)]
pub(super) struct Herald {
    usual: Option<Target>,
    has_others: bool,
    /// One for each target that is up.
    tellers: BTreeMap<Target, Teller>,
}

impl Herald {
    /// For an endpoint that leads to `usual`, which is up, where nothing is selected.
    pub(super) fn new(usual: Option<&Link>) -> Self {
        let usual = usual.map(|link| (link.target().to_owned(), link.port()));
        let up = usual.clone().map(|target| (target, Teller::default()));
        Self {
            usual,
            has_others: false,
            tellers: up.into_iter().collect(),
        }
    }

    /// Tells `report`, unless it is none.
    pub(super) fn tell(&mut self, report: &Report, output: Output) {
        let target = (report.target.clone(), report.port);
        self.has_others |= self.usual.as_ref() != Some(&target);
        let voice = Voice {
            about: About {
                target: &report.target,
                ssh_port: report.port,
            },
            heading: self.heading(report),
            output,
        };
        match &report.what {
            What::Started => {
                output.event(&Event::Started { about: voice.about });
                voice.say("selected by a login name, reaching it …");
                let teller = Teller {
                    is_new: true,
                    ..Teller::default()
                };
                self.tellers.insert(target, teller);
            }
            What::News(news) => {
                let teller = self.tellers.entry(target).or_default();
                teller.tell(news, &voice);
            }
            What::Idle => {
                output.event(&Event::Idle { about: voice.about });
                voice.say("not in use any more, session ended");
                self.tellers.remove(&target);
            }
        }
    }

    /// What words about the target of `report` begin with.
    fn heading(&self, report: &Report) -> String {
        let Report {
            target,
            port,
            title,
            ..
        } = report;
        let mut others = self.tellers.keys();
        if others.any(|(other, by)| other == target && by != port) {
            format!("{title}, port {port}: ")
        } else if self.has_others {
            format!("{title}: ")
        } else {
            String::new()
        }
    }
}

/// Speaks of one target.
struct Voice<'a> {
    about: About<'a>,
    heading: String,
    output: Output,
}

impl Voice<'_> {
    fn say(&self, text: &str) {
        self.output.say(&format!("{}{text}", self.heading));
    }
}

/// Troubles remembered as told.
const TOLD: usize = 8;

/// Tells news of one target, and nothing twice.
#[derive(Debug, Default)]
pub(super) struct Teller {
    /// It has never been up.
    is_new: bool,
    is_down: bool,
    /// What was told to be wrong since all was well, the latest last: hindrances may take turns.
    told: VecDeque<String>,
    /// Why somebody was not let in where others are, when it was told last.
    refused: Option<String>,
}

impl Teller {
    /// Whether `trouble` has not been told yet.
    pub(super) fn is_new(&mut self, trouble: &str) -> bool {
        if self.told.iter().any(|told| told == trouble) {
            return false;
        }
        if self.told.len() == TOLD {
            self.told.pop_front();
        }
        self.told.push_back(trouble.to_owned());
        true
    }

    fn tell(&mut self, news: &News, voice: &Voice<'_>) {
        let Voice { about, output, .. } = voice;
        let about = *about;
        match news {
            News::Lost {
                reason,
                is_resuming,
            } => {
                output.event(&Event::Lost {
                    about,
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
                    about,
                    silent_seconds: seconds(*lasted),
                });
                voice.say(&format!(
                    "the SSM agent on the target has not answered for {:.0} s, waiting",
                    lasted.as_secs_f64()
                ));
            }
            News::Heard { lasted } => {
                output.event(&Event::Heard {
                    about,
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
                        about,
                        attempt: *attempt,
                        error,
                        hint: hint.as_deref(),
                    });
                    let text = format!("{}not resumed yet: {error}", voice.heading);
                    output.warn(&text, hint.as_deref());
                }
            }
            News::Resumed { gap, attempts } => {
                self.told.clear();
                output.event(&Event::Resumed {
                    about,
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
                        about,
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
                        about,
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
            about: voice.about,
            gap_seconds: gap.map(seconds),
        });
    }
}

/// To the millisecond.
fn seconds(gap: Duration) -> f64 {
    (gap.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_that_take_turns_are_told_once_each() {
        let mut teller = Teller::default();
        let mut tell = |troubles: &[&str]| troubles.iter().map(|it| teller.is_new(it)).collect();
        let told: Vec<_> = tell(&["no route", "timed out", "no route", "timed out"]);
        assert_eq!(told, [true, true, false, false]);
        let others: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        assert!(others.iter().all(|other| teller.is_new(other)));
        assert_eq!(teller.told.len(), TOLD);
        assert!(teller.is_new("no route"), "long ago");
    }

    #[test]
    fn words_say_as_much_as_it_takes_to_know_the_target() {
        let report = |target: &str, port| Report {
            target: target.into(),
            port,
            title: format!("{target} (name)"),
            what: What::Idle,
        };
        let target = |target: &str, port| (target.to_owned(), port);
        let mut herald = Herald::default();
        herald.tellers.insert(target("i-1", 22), Teller::default());
        assert_eq!(herald.heading(&report("i-1", 22)), "");
        herald.has_others = true;
        herald.tellers.insert(target("i-2", 22), Teller::default());
        assert_eq!(herald.heading(&report("i-1", 22)), "i-1 (name): ");
        let second = report("i-1", 2022);
        assert_eq!(herald.heading(&second), "i-1 (name), port 2022: ");
        herald
            .tellers
            .insert(target("i-1", 2022), Teller::default());
        assert_eq!(herald.heading(&report("i-1", 22)), "i-1 (name), port 22: ");
        assert_eq!(herald.heading(&report("i-2", 22)), "i-2 (name): ");
    }
}
