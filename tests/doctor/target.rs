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

/// A person pastes them, also into another shell than this one.
#[test]
fn commands_name_profile_and_region() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let config = patient.text("aws-config");
    let work = "[profile work]\nregion = eu-west-1\naws_access_key_id = AKIDEXAMPLE\n\
        aws_secret_access_key = any\n";
    std::fs::write(&config, work).expect("our own directory");
    let by_keys = |target: &str| patient.visit(target);
    let by_flags = |target: &str| {
        let visit = patient.visit(target).env("AWS_CONFIG_FILE", &config);
        visit
            .with("--profile", "work")
            .with("--region", "eu-central-1")
    };
    let by_environment = |target: &str| {
        let visit = patient.visit(target).env("AWS_CONFIG_FILE", &config);
        let visit = visit.without_env("AWS_ACCESS_KEY_ID");
        let visit = visit.without_env("AWS_SECRET_ACCESS_KEY");
        let visit = visit.without_env("AWS_REGION");
        visit.env("AWS_PROFILE", "work")
    };
    let start = format!("aws ec2 start-instances --instance-ids {STOPPED}");
    for (visit, flags) in [
        (by_keys(STOPPED), " --region eu-central-1"),
        (by_flags(STOPPED), " --profile work --region eu-central-1"),
        (
            by_environment(STOPPED),
            " --profile work --region eu-west-1",
        ),
    ] {
        let report = visit.fails("target", "is stopped", "");
        let remedy = report.line("target")["remedy"].clone();
        assert_eq!(remedy, format!("{start}{flags}"));
    }
    let flags = "--profile work --region eu-central-1";
    let listing = format!("`ssmshim targets {flags}`");
    by_flags("nobody").fails("target", "no machine `nobody`", &listing);
    let update = format!("AWS-UpdateSSMAgent --instance-ids {TOO_OLD} {flags}");
    by_flags(TOO_OLD).fails("agent", "2.3.662.0 is too old", &update);
    let gone = "ecs:prod_0123456789abcdef_fedcba9876543210-1";
    let report = by_flags(gone).fails("target", "is not connected", flags);
    let task = "aws ecs describe-tasks --cluster prod --tasks 0123456789abcdef ";
    report.says("target", "", task);
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
    let report = unlisted.report();
    let warnings = report.with("warning");
    assert_eq!(
        warnings,
        ["DescribeInstanceInformation", "handshake"],
        "{report}"
    );
    report.says("handshake", "3.0.100.0, is old", "AWS-UpdateSSMAgent");
}
