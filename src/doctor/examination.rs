//! Checks one after another: each is timed, told at once, and followed by those that it makes possible.

use std::future::Future;
use std::time::{Duration, Instant};

use super::check::Verdict;
use super::check::{Check, Found, Report, Subject};

/// What later checks build on, or the check without which there is nothing to build on.
pub(super) type Step<T> = Result<T, Subject>;

/// A run of checks.
pub(super) struct Examination<'a> {
    tell: &'a mut dyn FnMut(&Check),
    report: Report,
}

impl<'a> Examination<'a> {
    /// Tells each check as soon as it is made.
    pub(super) fn new(tell: &'a mut dyn FnMut(&Check)) -> Self {
        Self {
            tell,
            report: Report::default(),
        }
    }

    /// Makes a check.
    pub(super) async fn check<T>(
        &mut self,
        subject: Subject,
        work: impl Future<Output = Found<T>>,
    ) -> Step<T> {
        let began = Instant::now();
        let found = work.await;
        self.note(subject, found, began.elapsed())
    }

    /// Makes a check with what an earlier one has brought, or says which one stands in its way.
    pub(super) async fn after<A, T>(
        &mut self,
        subject: Subject,
        earlier: Step<A>,
        work: impl AsyncFnOnce(A) -> Found<T>,
    ) -> Step<T> {
        match earlier {
            Ok(value) => self.check(subject, work(value)).await,
            Err(because) => self.skip(subject, because),
        }
    }

    /// Notes a check that was made elsewhere.
    pub(super) fn note<T>(&mut self, subject: Subject, found: Found<T>, took: Duration) -> Step<T> {
        let check = Check {
            subject,
            verdict: found.verdict,
            detail: found.detail,
            remedy: found.remedy,
            took,
        };
        (self.tell)(&check);
        self.report.add(check);
        found.value.ok_or(subject)
    }

    /// Says that a check cannot be made because of another one.
    pub(super) fn skip<T>(&mut self, subject: Subject, because: Subject) -> Step<T> {
        let found = Found {
            value: None,
            verdict: Verdict::Skipped,
            detail: format!("because of {because}"),
            remedy: None,
        };
        let _: Step<()> = self.note(subject, found, Duration::ZERO);
        Err(because)
    }

    /// Says of all that was not checked yet, up to `last`, that it cannot be because of another one.
    pub(super) fn skip_through(&mut self, last: Subject, because: Subject) {
        let done = self.report.checks().last().map(|check| check.subject);
        for subject in Subject::ALL {
            if Some(subject) > done && subject <= last {
                let _: Step<()> = self.skip(subject, because);
            }
        }
    }

    /// All that was found.
    pub(super) fn into_report(self) -> Report {
        self.report
    }
}

/// Two results as one; the first that is missing stands in the way.
pub(super) fn both<A, B>(a: Step<A>, b: Step<B>) -> Step<(A, B)> {
    Ok((a?, b?))
}

/// A result to look at and keep.
pub(super) fn seen<T>(step: &Step<T>) -> Step<&T> {
    step.as_ref().map_err(|because| *because)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_checked_names_the_first_cause() {
        let mut told = Vec::new();
        let mut tell = |check: &Check| told.push((check.subject, check.detail.clone()));
        let mut examination = Examination::new(&mut tell);
        let region = examination
            .check(Subject::Region, async { Found::<u8>::failed("none", None) })
            .await;
        let way = examination
            .after(Subject::Proxy, region, async |_| Found::ok((), "direct"))
            .await;
        assert_eq!(way, Err(Subject::Region));
        let name = examination
            .check(Subject::ApiName, async { Found::ok(1, "") })
            .await;
        assert_eq!(both(name, way), Err(Subject::Region));
        examination.skip_through(Subject::ApiTls, Subject::ApiName);
        let report = examination.into_report();
        assert_eq!(report.with(Verdict::Failed), [Subject::Region]);
        assert_eq!(told[1], (Subject::Proxy, "because of region".into()));
        let last: Vec<_> = told[3..].iter().map(|(subject, _)| *subject).collect();
        assert_eq!(last, [Subject::ApiTcp, Subject::ApiTls]);
    }
}
