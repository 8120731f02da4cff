//! Targets that are not there, and agents that are too old.

use crate::patient::{LOST, OLD, Patient, STOPPED, TASK, TOO_OLD, UNMANAGED, WEB};

#[test]
fn a_target_that_cannot_be_reached_is_named_as_what_it_is() {
    let Some(patient) = Patient::new() else {
        return;
    };
    for (target, words, hint) in [
        (
            "nobody",
            "no machine `nobody` in eu-central-1",
            "ssmshim targets",
        ),
        (
            "i-0bbbbbbbbbbbbbbbb",
            "no machine `i-0bbbbbbbbbbbbbbbb`",
            "--region",
        ),
        ("twin", "`twin` means 2 machines", TOO_OLD),
        (STOPPED, "is stopped", "aws ec2 start-instances"),
        (
            UNMANAGED,
            "does not know it",
            "AmazonSSMManagedInstanceCore",
        ),
        (LOST, "heard of 3 h ago", "amazon-ssm-agent"),
    ] {
        let report = patient.visit(target).fails("target", words, hint);
        for check in [
            "agent",
            "StartSession",
            "handshake",
            "keys",
            "sshd",
            "upload",
        ] {
            report.skips(check, "target");
        }
        // What needs no machine was told all the same.
        assert_eq!(report.line("identity")["verdict"], "ok", "{report}");
    }
    let report = patient.visit("web").report();
    assert_eq!(report.code, 0, "{report}");
    report.says("target", WEB, "");
}

/// Its id is no value for the filters of either list.
#[test]
fn a_container_is_on_no_list() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let report = patient.visit(TASK).report();
    assert_eq!(report.code, 0, "{report}");
    assert_eq!(report.with("warning"), [] as [&str; 0], "{report}");
    report.says("target", "nothing is known of it but its id", "");
    report.says("GetConnectionStatus", "connected", "");
}

#[test]
fn an_agent_is_judged_by_its_age() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let visit = patient.visit(TOO_OLD);
    visit.fails(
        "agent",
        "2.3.662.0 is too old",
        &format!("AWS-UpdateSSMAgent --instance-ids {TOO_OLD}"),
    );
    patient
        .visit(OLD)
        .warns("agent", "3.1.1188.0 is old", "AWS-UpdateSSMAgent");
    // Where the list does not tell, the agent does.
    let emulator = patient.emulator_of("3.0.100.0");
    let endpoint = emulator.text("endpoint");
    let visit = patient.visit(WEB).at(&endpoint);
    let report = visit.warns("agent", "3.0.100.0 is old", "AWS-UpdateSSMAgent");
    assert_eq!(report.line("handshake")["verdict"], "ok", "{report}");
    let output = visit.run(&[]).output();
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    let unlisted = visit.refused("DENY.DescribeInstanceInformation");
    unlisted.warns("handshake", "3.0.100.0, is old", "AWS-UpdateSSMAgent");
}
