//! The target: which machine it is, whether it is online, and how old its agent is.

use super::account::optional;
use super::check::{Found, Subject};
use super::examination::{Examination, Step, seen};
use crate::aws::Aws;
use crate::report::one_line;
use crate::ssm::protocol::version;
use crate::target::{self, Machine, Ping, printable};
use crate::tunnel;

/// Checks the machine that `wanted` means.
pub(super) async fn examine(
    examination: &mut Examination<'_>,
    aws: Step<&Aws>,
    wanted: &str,
) -> Step<Machine> {
    let machine = examination
        .after(Subject::Target, aws, async |aws: &Aws| {
            find(aws, wanted).await
        })
        .await;
    let asked = aws.and_then(|aws| seen(&machine).map(|machine| (aws, machine)));
    let _: Step<()> = examination
        .after(
            Subject::ConnectionStatus,
            asked,
            async |(aws, machine): (&Aws, &Machine)| connection_status(aws, &machine.id).await,
        )
        .await;
    let _: Step<()> = examination
        .after(
            Subject::Agent,
            asked,
            async |(aws, machine): (&Aws, &Machine)| {
                let flags = aws.ssm().flags();
                agent(&machine.id, machine.agent_version.as_deref(), &flags)
            },
        )
        .await;
    machine
}

async fn find(aws: &Aws, wanted: &str) -> Found<Machine> {
    match target::resolve(aws, wanted).await {
        Ok(machine) => {
            let standing = match machine.ping {
                Some(Ping::Online) => "online",
                Some(_) => "not online by the list, which may be some minutes behind",
                None => "nothing is known of it but its id",
            };
            let platform = machine.platform().map(|platform| printable(&platform));
            let words = [Some(standing.to_owned()), platform];
            let words: Vec<_> = words.into_iter().flatten().collect();
            let text = format!("{}: {}", machine.title(), words.join(", "));
            Found::ok(machine, text)
        }
        Err(error) => Found::failed(one_line(&error), error.hint()),
    }
}

async fn connection_status(aws: &Aws, id: &str) -> Found<()> {
    match aws.is_connected(id).await {
        Ok(true) => Found::ok((), "connected"),
        Ok(false) => Found::warning(
            (),
            format!(
                "Systems Manager has no connection to the agent of {}",
                printable(id)
            ),
            Some("see there: systemctl status amazon-ssm-agent".to_owned()),
        ),
        Err(error) => optional(
            &error,
            "whether a machine is online is known some minutes late",
        ),
    }
}

/// What an agent of this version cannot do (protocol sheet, "Version gates").
fn agent(id: &str, version: Option<&str>, flags: &str) -> Found<()> {
    let Some(version) = version else {
        return Found::needless((), "the list does not tell its version; the handshake does");
    };
    let told = printable(version);
    let update = || Some(tunnel::update(&printable(id), flags));
    if !version::agent_has_ports(version) {
        return Found::failed(
            format!("{told} is too old: before 2.3.672.0 it connects to no port"),
            update(),
        )
        .and_yet(());
    }
    match shortcoming(version) {
        Some(lack) => Found::warning((), format!("{told} is old: {lack}"), update()),
        None => Found::ok((), told),
    }
}

/// What an agent of this version makes slower or leaves out, if anything.
pub(super) fn shortcoming(version: &str) -> Option<&'static str> {
    if !version::agent_multiplexes(version) {
        return Some(
            "each connection takes an SSM session of its own (from 3.0.222.0 on they share one)",
        );
    }
    if !version::agent_needs_no_keepalive(version) {
        return Some("it has to be kept awake, so an idle session never times out there");
    }
    if !version::agent_acknowledges_duplicates(version) {
        return Some("after a lost connection it may resend for a while before it goes on");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;

    #[test]
    fn agents_are_judged_by_what_they_lack() {
        for (version, verdict) in [
            (Some("2.3.662.0"), Verdict::Failed),
            (Some("2.3.672.0"), Verdict::Warning),
            (Some("3.0.196.0"), Verdict::Warning),
            (Some("3.0.222.0"), Verdict::Warning),
            (Some("3.1.1511.0"), Verdict::Warning),
            (Some("3.1.1575.0"), Verdict::Warning),
            (Some("3.2.1041.0"), Verdict::Ok),
            (Some("3.3.3572.0"), Verdict::Ok),
            (Some("nonsense"), Verdict::Failed),
            (None, Verdict::Skipped),
        ] {
            let found = agent("i-1", version, "");
            assert_eq!(found.verdict, verdict, "{version:?}");
            let has_remedy = found.remedy.is_some();
            assert_eq!(
                has_remedy,
                matches!(verdict, Verdict::Failed | Verdict::Warning)
            );
        }
    }
}
