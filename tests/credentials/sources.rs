//! Sources that need nobody: environment, profiles, roles, processes, web identities.

use std::fs;

use crate::account::{Account, ROLES};
use crate::common::daemon::Daemon;
use crate::common::sshd::Sshd;
use crate::common::world::user;

const KEYS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT"),
    ("AWS_SECRET_ACCESS_KEY", "secret"),
];

#[test]
fn the_environment_comes_first_unless_a_profile_is_named_for_us() {
    let account = Account::new(ROLES);
    account.lists(&[], &KEYS);
    account.until_called("DescribeInstanceInformation", "user/emulator");
    let [id, secret] = KEYS;
    account.lists(&[], &[id, secret, ("AWS_PROFILE", "two")]);
    account.until_calls("DescribeInstances", 2);
    assert_eq!(account.calls("AssumeRole"), 0);
    account.lists(&["--profile", "two"], &KEYS);
    account.until_called("DescribeInstanceInformation", "assumed-role/two/");
}

#[test]
fn keys_that_have_expired_are_those_of_the_environment() {
    let account = Account::new("");
    account.refuses(
        &[],
        &[
            ("AWS_ACCESS_KEY_ID", "EXPIRED"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "token"),
        ],
        [
            "AWS credentials have expired: The security token included in the request is expired",
            "AWS_SESSION_TOKEN in the environment has expired: export new ones and start again, or unset them and \
             name a profile, whose credentials are renewed while ssmshim runs",
        ],
    );
}

#[test]
fn roles_are_assumed_one_with_the_other() {
    let account = Account::new(ROLES);
    account.lists(&["--profile", "two"], &[]);
    account.until_called("AssumeRole", "user/emulator");
    account.until_called("AssumeRole", "assumed-role/one/");
    account.until_called("DescribeInstanceInformation", "assumed-role/two/");
    account.refuses(
        &["--profile", "denied"],
        &[],
        [
            "role arn:aws:iam::123456789012:role/DENIED of profile `denied` may not be assumed: User: \
             arn:aws:iam::000000000000:user/emulator is not authorized to perform: sts:AssumeRole on resource: \
             arn:aws:iam::123456789012:role/DENIED",
            "the role's trust policy must name who asks, that one's own policies must allow sts:AssumeRole on it, and \
             external_id and mfa_serial must be those that the trust policy wants",
        ],
    );
}

#[test]
fn a_profile_that_does_not_exist_is_told_with_those_that_do() {
    let account = Account::new(ROLES);
    let told = [
        "there is no AWS profile `wrok`",
        "there are: denied, one, over, two, user, work",
    ];
    account.refuses(&["--profile", "wrok"], &[], told);
    account.refuses(&[], &[("AWS_PROFILE", "wrok")], told);
    account.refuses(
        &[],
        &[],
        [
            "no AWS credentials found",
            "pass --profile NAME or set AWS_PROFILE (there are: denied, one, over, two, user, work), or export \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ],
    );
    account.write(".aws/config", "");
    account.refuses(
        &[],
        &[],
        [
            "no AWS credentials found",
            "`aws configure sso` or `aws configure` sets up a profile; or export AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY",
        ],
    );
}

#[test]
fn profiles_that_lead_nowhere_are_named() {
    let account = Account::new(
        "[profile a]\nrole_arn = arn:a\nsource_profile = b\n[profile b]\nrole_arn = arn:b\nsource_profile = a\n",
    );
    let config = account.home().join(".aws/config");
    let hint = format!("mend it in {}", config.display());
    let error = "the source_profile of `b` leads back to itself";
    account.refuses(&["--profile", "a"], &[], [error, &hint]);
}

#[test]
fn a_source_that_has_nothing_is_named() {
    let account = Account::new(
        "[profile over]\nrole_arn = arn:aws:iam::123456789012:role/over\nsource_profile = empty\n\
         [profile empty]\nregion = eu-west-1\n\
         [profile shell]\nrole_arn = arn:aws:iam::123456789012:role/over\ncredential_source = Environment\n",
    );
    let hint = "pass --profile NAME or set AWS_PROFILE (there are: empty, over, shell), or export AWS_ACCESS_KEY_ID \
                and AWS_SECRET_ACCESS_KEY";
    for (profile, problem) in [
        ("over", "no AWS credentials: profile `empty` has none"),
        (
            "shell",
            "no AWS credentials: profile `shell` has them from Environment, which has none",
        ),
    ] {
        account.refuses(&["--profile", profile], &[], [problem, hint]);
    }
}

#[test]
fn a_region_that_does_not_exist_is_told_before_its_name_is_looked_up() {
    let account = Account::new("");
    let told = [
        "`eu-cental-1` is no AWS region",
        "is eu-central-1 meant? regions are named as in eu-central-1",
    ];
    let nowhere = [("AWS_ENDPOINT_URL", ""), KEYS[0], KEYS[1]];
    account.refuses(&["--region", "eu-cental-1"], &nowhere, told);
    // Where an endpoint is named, the region is none of its name.
    account.lists(&["--region", "local"], &KEYS);
}

#[test]
fn a_process_gives_credentials_for_as_long_as_it_says() {
    let account = Account::new("");
    let keys = r#"{"Version": 1, "AccessKeyId": "AKIDPROCESS", "SecretAccessKey": "secret"EXPIRY}"#;
    let config = |keys: &str| {
        let script = account.write(
            "give",
            &format!("#!/bin/sh\necho run >> \"$0.runs\"\necho '{keys}'\n"),
        );
        let script = script.display();
        account.write(
            ".aws/config",
            &format!(
                "[profile work]\ncredential_process = sh {script} --password hunter2hunter2\n"
            ),
        );
    };
    config(&keys.replace("EXPIRY", ""));
    account.lists(&["--profile", "work"], &[]);
    let runs = || {
        fs::read_to_string(account.home().join("give.runs"))
            .unwrap_or_default()
            .lines()
            .count()
    };
    assert_eq!(runs(), 1, "one command, one run");
    config(&keys.replace("EXPIRY", r#", "Expiration": "2020-01-01T00:00:00Z""#));
    // It is for the service to say what it thinks of them.
    account.lists(&["--profile", "work"], &[]);
    assert!(runs() > 2, "kept past their end");
}

#[test]
fn a_process_that_fails_is_quoted_without_secrets() {
    let account = Account::new("");
    let script = account.write(
        "give",
        "echo \"not logged in, token AKIAIOSFODNN7EXAMPLE\" >&2\nexit 3\n",
    );
    let script = script.display();
    account.write(
        ".aws/config",
        &format!("[profile work]\ncredential_process = sh {script} hunter2\n"),
    );
    let told = [
        "the credential_process of profile `work` failed (exit status: 3): not logged in, token …",
        "run that command by hand: `aws configure get credential_process --profile work` shows it",
    ];
    account.refuses(&["--profile", "work"], &[], told);
    let output = account.targets(&["--profile", "work", "--log", "trace"], &[]);
    for secret in ["hunter2", "AKIAIOSFODNN7EXAMPLE"] {
        assert!(!output.stderr.contains(secret), "{output:?}");
    }
}

#[test]
fn a_web_identity_becomes_a_role() {
    let account = Account::new("");
    let token = account.write("token", "eyJhbGciOiJSUzI1NiJ9.web.identity");
    let role = "arn:aws:iam::123456789012:role/web";
    let config = format!(
        "[profile web]\nrole_arn = {role}\nweb_identity_token_file = {}\n",
        token.display()
    );
    account.write(".aws/config", &config);
    account.lists(&["--profile", "web"], &[]);
    account.until_called("DescribeInstanceInformation", "assumed-role/web/");
    let token_file = token.display().to_string();
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token_file.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod"),
    ];
    account.lists(&[], &variables);
    account.until_called("DescribeInstanceInformation", "assumed-role/pod/");

    let hint = format!(
        "see whether {token_file} holds a valid token and the trust policy of the role names who issues it"
    );
    account.write("token", "eyJhbGciOiJSUzI1NiJ9.EXPIRED.identity");
    account.refuses(
        &["--profile", "web"],
        &[],
        [
            "the web identity of profile `web` gives no credentials: Token expired: current date/time must be before \
             the expiration date/time",
            &hint,
        ],
    );
    fs::remove_file(&token).expect("our own file");
    account.refuses(
        &["--profile", "web"],
        &[],
        [
            "the web identity of profile `web` gives no credentials: No such file or directory (os error 2)",
            &hint,
        ],
    );
}

/// Tools that log in for an hour write new keys into the file: a running daemon uses them.
#[test]
fn keys_that_are_renewed_in_the_file_are_used() {
    let account = Account::new("[profile work]\nregion = eu-central-1\n");
    let Some(sshd) = Sshd::start(&account.directory.path().join("sshd")) else {
        return;
    };
    let write = |key: &str| {
        let keys = format!("[work]\naws_access_key_id = {key}\naws_secret_access_key = secret\n");
        account.write(".aws/credentials", &keys);
    };
    write("AKIAOLD");
    let (port, identity) = (sshd.port.to_string(), sshd.identity.display().to_string());
    let (target, user) = (account.emulator.text("target"), user());
    let arguments = [
        "serve",
        &target,
        "--profile",
        "work",
        "--ssh-port",
        &port,
        "--user",
        &user,
        "--identity",
        &identity,
    ];
    let daemon = Daemon::start(&account.home(), &arguments, &account.environment(&[]));
    account.inject(
        r#"{"faults": [{"fault": "expire", "unless_access_key": "AKIAFRESH", "extent": "always"},
                       {"fault": "cut", "side": "client", "how": "reset"}]}"#,
    );
    assert_eq!(daemon.next_event()["event"], "lost");
    let retrying = daemon.next_event();
    assert_eq!(retrying["event"], "retrying", "{retrying}");
    write("AKIAFRESH");
    let resumed = daemon.next_event();
    assert_eq!(resumed["event"], "resumed", "{resumed}");
}
