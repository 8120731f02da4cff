//! `ssmshim doctor`: prints what was checked, and what to do about it.

use std::io::IsTerminal as _;

use serde::Serialize;

use super::super::args::ServeArgs;
use super::super::exit::Exit;
use super::super::output::Output;
use super::super::table::width_of;
use super::serve::overrides;
use super::signals::Signals;
use super::{fail, finish};
use crate::doctor::{Check, Doctor, Order, Report, Subject, Verdict};

/// Examines, and says whether `ssh` would work.
pub(in crate::cli) async fn run(arguments: ServeArgs, output: Output) -> Exit {
    let is_json = arguments.output.json;
    let order = Order::new(overrides(arguments));
    let has_target = order.has_target();
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(output, &error, None),
    };
    let page = Page::on_stdout();
    let doctor = Doctor::new(order);
    let examined = tokio::select! {
        report = doctor.examine(|check| output.data(&match is_json {
            true => line(check),
            false => page.check(check),
        })) => Some(report),
        () = signals.next() => None,
    };
    let exit = match &examined {
        Some(report) => {
            output.data(&match is_json {
                true => summary_line(report),
                false => page.summary(report, has_target),
            });
            match report.is_ok() {
                true => Exit::Done,
                false => Exit::Failed,
            }
        }
        None => {
            output.say("stopping; press Ctrl-C again to stop at once");
            Exit::Failed
        }
    };
    finish(exit, doctor.finish(), &mut signals).await
}

/// The report as people read it.
#[derive(Debug, Clone, Copy)]
struct Page {
    is_coloured: bool,
    /// Columns of the terminal, where it is one.
    width: Option<usize>,
}

/// Of verdicts, in columns.
const VERDICT: usize = "skipped".len();
/// Between two columns.
const GAP: &str = "  ";
/// Details are not folded into less.
const NARROWEST: usize = 24;

/// Colours of verdicts (ECMA-48); they carry no meaning that the word does not.
const RESET: &str = "\u{1b}[0m";

fn colour(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "\u{1b}[32m",
        Verdict::Warning => "\u{1b}[33m",
        Verdict::Failed => "\u{1b}[1;31m",
        Verdict::Skipped => "\u{1b}[2m",
    }
}

impl Page {
    /// With colours where somebody sees them and wants them (<https://no-color.org>).
    fn on_stdout() -> Self {
        let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            is_coloured: std::io::stdout().is_terminal() && !wants_none && !is_dumb,
            width: width_of(std::io::stdout()),
        }
    }

    /// One line, folded where it does not fit, and the remedy below it where there is one: unfolded, for who copies it.
    fn check(self, check: &Check) -> String {
        let names = Subject::ALL.iter().map(|subject| subject.name().len());
        let names = names.max().unwrap_or_default();
        let word = format!("{:<VERDICT$}", check.verdict.word());
        let word = match self.is_coloured {
            true => format!("{}{word}{RESET}", colour(check.verdict)),
            false => word,
        };
        let name = check.subject.name();
        let time = time_of(check).map(|time| format!("({time} ms)"));
        let words = check.detail.split(' ').chain(time.as_deref());
        let indent = VERDICT + GAP.len();
        let detail = folded(words, indent + names + GAP.len(), self.width);
        let mut text = format!("{word}{GAP}{name:<names$}{GAP}{detail}\n");
        if let Some(remedy) = &check.remedy {
            text.push_str(&format!("{:indent$}hint: {remedy}\n", ""));
        }
        text
    }

    /// What it comes to.
    fn summary(self, report: &Report, has_target: bool) -> String {
        let names = |verdict| {
            let subjects = report.with(verdict);
            let names: Vec<_> = subjects.iter().map(|subject| subject.name()).collect();
            names.join(", ")
        };
        let mut text = String::from("\n");
        text.push_str(&match (report.is_ok(), has_target) {
            (true, true) => "ssh would work".to_owned(),
            (true, false) => "so far all is well; with a TARGET it goes on to a machine".to_owned(),
            (false, _) => format!("ssh would not work: {}", names(Verdict::Failed)),
        });
        let warnings = names(Verdict::Warning);
        if !warnings.is_empty() {
            text.push_str(&format!("; to be looked at: {warnings}"));
        }
        text.push('\n');
        text
    }
}

/// `words` in lines of `width` columns that begin below each other after `indent`; in one where that leaves no room.
fn folded<'a>(words: impl Iterator<Item = &'a str>, indent: usize, width: Option<usize>) -> String {
    let room = width.map(|width| width.saturating_sub(indent));
    let room = room.filter(|room| *room >= NARROWEST).unwrap_or(usize::MAX);
    let mut folded = String::new();
    let mut column = 0;
    for word in words {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > room {
            folded.push_str(&format!("\n{:indent$}", ""));
            column = 0;
        } else if column > 0 {
            folded.push(' ');
            column += 1;
        }
        folded.push_str(word);
        column += length;
    }
    folded
}

/// How long the check took in milliseconds, where that is worth a word and the detail has none for it.
fn time_of(check: &Check) -> Option<u128> {
    let is_measured = matches!(
        check.subject,
        Subject::RoundTrip | Subject::Download | Subject::Upload
    );
    let milliseconds = check.took.as_millis();
    (milliseconds > 0 && !is_measured && check.verdict != Verdict::Skipped).then_some(milliseconds)
}

/// A check in JSON. Members are added, never taken away or renamed; a check without a remedy has null.
#[derive(Debug, Serialize)]
struct Line<'a> {
    check: &'static str,
    verdict: &'static str,
    detail: &'a str,
    remedy: Option<&'a str>,
    milliseconds: u64,
}

/// The last line.
#[derive(Debug, Serialize)]
struct Summary {
    event: &'static str,
    ok: bool,
    checks: usize,
    failed: Vec<&'static str>,
    warnings: Vec<&'static str>,
    skipped: Vec<&'static str>,
}

fn line(check: &Check) -> String {
    written(&Line {
        check: check.subject.name(),
        verdict: check.verdict.word(),
        detail: &check.detail,
        remedy: check.remedy.as_deref(),
        milliseconds: u64::try_from(check.took.as_millis()).unwrap_or(u64::MAX),
    })
}

fn summary_line(report: &Report) -> String {
    let names = |verdict| -> Vec<_> {
        let subjects = report.with(verdict).into_iter();
        subjects.map(Subject::name).collect()
    };
    written(&Summary {
        event: "summary",
        ok: report.is_ok(),
        checks: report.checks().len(),
        failed: names(Verdict::Failed),
        warnings: names(Verdict::Warning),
        skipped: names(Verdict::Skipped),
    })
}

fn written(value: &impl Serialize) -> String {
    // Strings, numbers and lists only: this cannot fail.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check() -> Check {
        Check {
            subject: Subject::Agent,
            verdict: Verdict::Warning,
            detail: "3.0.1124.0 is old".into(),
            remedy: Some("update it".into()),
            took: Duration::from_millis(12),
        }
    }

    #[test]
    fn a_line_of_json_is_stable() {
        assert_eq!(
            line(&check()),
            "{\"check\":\"agent\",\"verdict\":\"warning\",\"detail\":\"3.0.1124.0 is old\",\
             \"remedy\":\"update it\",\"milliseconds\":12}\n"
        );
    }

    #[test]
    fn colour_carries_no_meaning() {
        let page = |is_coloured| Page {
            is_coloured,
            width: None,
        };
        let plain = page(false).check(&check());
        assert_eq!(
            plain,
            "warning  agent                        3.0.1124.0 is old (12 ms)\n         hint: update it\n"
        );
        let coloured = page(true).check(&check());
        let stripped = coloured
            .replace(colour(Verdict::Warning), "")
            .replace(RESET, "");
        assert_eq!(stripped, plain);
    }

    #[test]
    fn what_does_not_fit_goes_on_below() {
        let folded = |text: &str, indent, width| folded(text.split(' '), indent, width);
        let text = "the agent is old: it may resend for a while";
        assert_eq!(folded(text, 4, None), text);
        assert_eq!(folded(text, 4, Some(4 + text.len())), text);
        assert_eq!(
            folded(text, 4, Some(32)),
            "the agent is old: it may\n    resend for a while"
        );
        assert_eq!(folded(text, 4, Some(27)), text, "too narrow");
        let path = "/a/path/that/is/longer/than/the/room";
        assert_eq!(folded(path, 4, Some(32)), path);
    }
}
