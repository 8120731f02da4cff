//! Credentials, region, clock, and each permission.

use serde_json::json;

use crate::patient::{Patient, WEB};

#[test]
fn credentials_and_region_are_named_when_they_are_missing() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let visit = || patient.visit(WEB);
    let report = visit()
        .without_env("AWS_ACCESS_KEY_ID")
        .without_env("AWS_SECRET_ACCESS_KEY")
        .fails("credentials", "no AWS credentials", "AWS_ACCESS_KEY_ID");
    // What needs none was checked all the same.
    assert_eq!(report.line("ssm-tcp")["verdict"], "ok", "{report}");
    assert_eq!(report.line("clock")["verdict"], "ok", "{report}");
    report.skips("identity", "credentials");
    report.skips("authentication", "credentials");

    let config = patient.text("aws-config");
    std::fs::write(&config, "[profile work]\nregion = eu-west-1\n").expect("our own directory");
    let report = visit()
        .with("--profile", "wrok")
        .env("AWS_CONFIG_FILE", &config)
        .fails("credentials", "wrok", "work");
    report.skips("region", "credentials");
    report.skips("identity", "credentials");

    let sso = "[profile work]\nregion = eu-central-1\nsso_start_url = https://x.awsapps.com/start\n\
        sso_region = eu-central-1\nsso_account_id = 000000000000\nsso_role_name = reader\n";
    std::fs::write(&config, sso).expect("our own directory");
    visit()
        .with("--profile", "work")
        .env("AWS_CONFIG_FILE", &config)
        .without_env("AWS_ACCESS_KEY_ID")
        .without_env("AWS_SECRET_ACCESS_KEY")
        .fails(
            "credentials",
            "nobody is logged in to SSO for profile `work`",
            "aws sso login --profile work",
        );

    for without in [
        visit().without_env("AWS_REGION"),
        visit().env("AWS_REGION", ""),
    ] {
        let report = without.fails("region", "no AWS region", "--region");
        assert_eq!(report.line("credentials")["verdict"], "ok", "{report}");
        report.skips("ssm-tcp", "region");
    }

    let report = visit().refused("EXPIRED").fails(
        "identity",
        "credentials have expired",
        "AWS_SESSION_TOKEN",
    );
    report.skips("StartSession", "identity");
    assert_eq!(report.line("credentials")["verdict"], "ok", "{report}");
}

#[test]
fn a_clock_that_is_off_is_named_with_its_minutes() {
    let Some(patient) = Patient::new() else {
        return;
    };
    for (ahead_seconds, words) in [(900, "15 min behind"), (-7200, "2 h 0 min ahead of")] {
        patient.inject(&json!({ "fault": "clock", "ahead_seconds": ahead_seconds }));
        let report = patient.visit(WEB).fails("clock", words, "timedatectl");
        report.skips("identity", "clock");
        patient.clear_faults();
    }
    // Within what AWS takes.
    patient.inject(&json!({ "fault": "clock", "ahead_seconds": 150 }));
    patient.visit(WEB).warns("clock", "behind", "timedatectl");
}

#[test]
fn each_permission_that_is_missing_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let denied = |operation: &str| patient.visit(WEB).refused(&format!("DENY.{operation}"));
    denied("StartSession").fails(
        "StartSession",
        "access denied",
        "must allow ssm:StartSession",
    );
    denied("OpenDataChannel")
        .fails(
            "OpenDataChannel",
            "status 403",
            "ssmmessages:OpenDataChannel",
        )
        .skips("handshake", "OpenDataChannel");
    // `ssh` works without these.
    denied("ResumeSession").warns(
        "ResumeSession",
        "a lost connection ends what is open",
        "must allow ssm:ResumeSession",
    );
    denied("TerminateSession").leaving_sessions().warns(
        "TerminateSession",
        "may last until they idle out",
        "must allow ssm:TerminateSession",
    );
}

#[test]
fn permissions_that_one_can_do_without_are_warnings() {
    let Some(patient) = Patient::new() else {
        return;
    };
    for (operation, hint) in [
        ("SendSSHPublicKey", "ec2-instance-connect:SendSSHPublicKey"),
        (
            "DescribeInstanceInformation",
            "ssm:DescribeInstanceInformation",
        ),
        ("DescribeInstances", "ec2:DescribeInstances"),
        ("DescribeSessions", "ssm:DescribeSessions"),
        ("GetConnectionStatus", "ssm:GetConnectionStatus"),
    ] {
        let visit = patient.visit(WEB).refused(&format!("DENY.{operation}"));
        visit.warns(operation, &format!("access denied for {operation}"), hint);
    }
    let visit = patient.visit(WEB).refused("DENY.GetCallerIdentity");
    visit.warns("identity", "cannot be told", "sts:GetCallerIdentity");
    let general = patient.visit(WEB).in_general();
    let general = general.refused("DENY.DescribeInstanceInformation");
    general.warns(
        "DescribeInstanceInformation",
        "by their ids only",
        "ssm:DescribeInstanceInformation",
    );
    // Nor does it matter to an id why there is no answer.
    let throttled = patient.visit(WEB);
    let throttled = throttled.refused("THROTTLE.DescribeInstanceInformation");
    throttled.warns("DescribeInstanceInformation", "an id will do", "wait");
    // A name has to be looked up, an id has not.
    let report = patient
        .visit("web")
        .refused("DENY.DescribeInstanceInformation")
        .report();
    let failed = report.with("failed");
    assert_eq!(
        failed,
        ["DescribeInstanceInformation", "target"],
        "{report}"
    );
}

#[test]
fn throttling_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let visit = patient.visit(WEB).refused("THROTTLE.StartSession");
    visit.fails("StartSession", "throttled", "wait a little");
}
