//! What is checked, what came of it, and what that means for the whole; pure.

use std::fmt;
use std::time::Duration;

/// What is checked, in the order in which a connection needs it. Names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "`Subject::name` says it")]
pub enum Subject {
    Configuration,
    StateDirectory,
    LocalPort,
    LocalHostKey,
    AuthorizedKeys,
    Region,
    Credentials,
    Proxy,
    ApiName,
    ApiTcp,
    ApiTls,
    GatewayName,
    GatewayTcp,
    GatewayTls,
    Clock,
    Identity,
    DescribeManaged,
    DescribeInstances,
    DescribeSessions,
    Target,
    ConnectionStatus,
    Agent,
    StartSession,
    ResumeSession,
    TerminateSession,
    OpenDataChannel,
    Handshake,
    Keys,
    SendKey,
    Sshd,
    HostKey,
    Authentication,
    RoundTrip,
    Download,
    Upload,
}

impl Subject {
    /// All of them, in order.
    pub const ALL: [Self; 35] = [
        Self::Configuration,
        Self::StateDirectory,
        Self::LocalPort,
        Self::LocalHostKey,
        Self::AuthorizedKeys,
        Self::Region,
        Self::Credentials,
        Self::Proxy,
        Self::ApiName,
        Self::ApiTcp,
        Self::ApiTls,
        Self::GatewayName,
        Self::GatewayTcp,
        Self::GatewayTls,
        Self::Clock,
        Self::Identity,
        Self::DescribeManaged,
        Self::DescribeInstances,
        Self::DescribeSessions,
        Self::Target,
        Self::ConnectionStatus,
        Self::Agent,
        Self::StartSession,
        Self::ResumeSession,
        Self::TerminateSession,
        Self::OpenDataChannel,
        Self::Handshake,
        Self::Keys,
        Self::SendKey,
        Self::Sshd,
        Self::HostKey,
        Self::Authentication,
        Self::RoundTrip,
        Self::Download,
        Self::Upload,
    ];

    /// The stable name; a permission has that of its operation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::StateDirectory => "state-directory",
            Self::LocalPort => "local-port",
            Self::LocalHostKey => "local-host-key",
            Self::AuthorizedKeys => "authorized-keys",
            Self::Region => "region",
            Self::Credentials => "credentials",
            Self::Proxy => "proxy",
            Self::ApiName => "ssm-dns",
            Self::ApiTcp => "ssm-tcp",
            Self::ApiTls => "ssm-tls",
            Self::GatewayName => "ssmmessages-dns",
            Self::GatewayTcp => "ssmmessages-tcp",
            Self::GatewayTls => "ssmmessages-tls",
            Self::Clock => "clock",
            Self::Identity => "identity",
            Self::DescribeManaged => "DescribeInstanceInformation",
            Self::DescribeInstances => "DescribeInstances",
            Self::DescribeSessions => "DescribeSessions",
            Self::Target => "target",
            Self::ConnectionStatus => "GetConnectionStatus",
            Self::Agent => "agent",
            Self::StartSession => "StartSession",
            Self::ResumeSession => "ResumeSession",
            Self::TerminateSession => "TerminateSession",
            Self::OpenDataChannel => "OpenDataChannel",
            Self::Handshake => "handshake",
            Self::Keys => "keys",
            Self::SendKey => "SendSSHPublicKey",
            Self::Sshd => "sshd",
            Self::HostKey => "host-key",
            Self::Authentication => "authentication",
            Self::RoundTrip => "round-trip",
            Self::Download => "download",
            Self::Upload => "upload",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// `ssh` works, and something is missing, slower or sooner over than it could be.
    Warning,
    /// `ssh` does not work.
    Failed,
    /// It was not checked; the detail says why.
    Skipped,
}

impl Verdict {
    /// The stable word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One check and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub subject: Subject,
    /// What came of it.
    pub verdict: Verdict,
    /// What was seen; one line. Of a skipped one, why.
    pub detail: String,
    /// What to do about it, often a command to type; one line.
    pub remedy: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// What a check has found, and what those after it go on with.
#[derive(Debug)]
pub(super) struct Found<T> {
    /// None when nothing can be built on it.
    pub(super) value: Option<T>,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    pub(super) remedy: Option<String>,
}

impl<T> Found<T> {
    pub(super) fn ok(value: T, detail: impl Into<String>) -> Self {
        Self {
            value: Some(value),
            verdict: Verdict::Ok,
            detail: detail.into(),
            remedy: None,
        }
    }

    pub(super) fn warning(value: T, detail: impl Into<String>, remedy: Option<String>) -> Self {
        Self {
            value: Some(value),
            verdict: Verdict::Warning,
            detail: detail.into(),
            remedy,
        }
    }

    pub(super) fn failed(detail: impl Into<String>, remedy: Option<String>) -> Self {
        Self {
            value: None,
            verdict: Verdict::Failed,
            detail: detail.into(),
            remedy,
        }
    }

    /// Not needed here, and so no hindrance.
    pub(super) fn needless(value: T, because: impl fmt::Display) -> Self {
        Self {
            value: Some(value),
            verdict: Verdict::Skipped,
            detail: format!("because {because}"),
            remedy: None,
        }
    }

    /// A failure that stops nothing after it.
    pub(super) fn and_yet(mut self, value: T) -> Self {
        self.value = Some(value);
        self
    }
}

/// All checks so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    checks: Vec<Check>,
}

impl Report {
    /// The checks, in the order in which they were made.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// The subjects of the checks that ended with `verdict`.
    pub fn with(&self, verdict: Verdict) -> Vec<Subject> {
        let checks = self.checks.iter();
        checks
            .filter(|check| check.verdict == verdict)
            .map(|check| check.subject)
            .collect()
    }

    /// Whether `ssh` would work, as far as was checked.
    pub fn is_ok(&self) -> bool {
        self.with(Verdict::Failed).is_empty()
    }

    pub(super) fn add(&mut self, check: Check) {
        self.checks.push(check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_that_a_program_can_rely_on() {
        let mut names: Vec<_> = Subject::ALL.iter().map(|subject| subject.name()).collect();
        for name in &names {
            let is_plain = |byte: u8| byte.is_ascii_alphabetic() || byte == b'-';
            assert!(name.bytes().all(is_plain), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Subject::ALL.len());
        assert!(
            Subject::ALL.is_sorted(),
            "the order of checks is that of the type"
        );
    }

    #[test]
    fn only_failures_count() {
        let mut report = Report::default();
        for (subject, verdict) in [
            (Subject::Region, Verdict::Ok),
            (Subject::SendKey, Verdict::Warning),
            (Subject::Proxy, Verdict::Skipped),
        ] {
            report.add(Check {
                subject,
                verdict,
                detail: String::new(),
                remedy: None,
                took: Duration::ZERO,
            });
        }
        assert!(report.is_ok());
        assert_eq!(report.with(Verdict::Warning), [Subject::SendKey]);
        let mut failed = report.checks()[0].clone();
        failed.verdict = Verdict::Failed;
        report.add(failed);
        assert!(!report.is_ok());
    }
}
