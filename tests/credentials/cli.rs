//! The AWS CLI's cache of assumed roles: it reads ours and we read its.

use crate::account::{Account, CODE, ROLES};
use crate::common::process::{Output, Run};
use crate::common::{have, note};

/// Debian's Python, which Debian's botocore belongs to.
const PYTHON: &str = "/usr/bin/python3";

fn have_botocore() -> bool {
    if !have(PYTHON) {
        return false;
    }
    let found = Run::new(PYTHON)
        .args(["-c", "import botocore"])
        .output()
        .code
        == 0;
    assert!(
        found || std::env::var_os("CI").is_none(),
        "botocore is not installed, and CI must not skip"
    );
    if !found {
        note("skipped: botocore is not installed");
    }
    found
}

fn botocore(account: &Account, profile: &str, code: &str) -> Output {
    let endpoint = account.emulator.text("endpoint");
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/credentials/with_botocore.py"
    );
    let run = Run::new(PYTHON)
        .args([script, profile, &endpoint, code])
        .env_clear();
    account
        .environment(&[("AWS_DEFAULT_REGION", "eu-central-1")])
        .into_iter()
        .fold(run, |run, (name, value)| run.env(&name, value))
        .output()
}

#[test]
fn it_needs_no_code_after_us() {
    if !have_botocore() {
        return;
    }
    let account = Account::new(ROLES);
    let mut terminal = account.attended(&["targets", "--profile", "over"], &[]);
    terminal.expect("Enter MFA code");
    terminal.keys(&format!("{CODE}\r"));
    terminal.expect("i-0123456789abcdef0");
    assert_eq!(terminal.finish(), 0);
    for (profile, arn) in [
        (
            "work",
            "arn:aws:sts::123456789012:assumed-role/admin-mfa/ann",
        ),
        (
            "over",
            "arn:aws:sts::123456789012:assumed-role/over/ssmshim-",
        ),
    ] {
        let output = botocore(&account, profile, "");
        assert!(output.text().starts_with(arn), "{output:?}");
        assert!(!output.stderr.contains("asked"), "{output:?}");
    }
    account.until_calls("GetCallerIdentity", 2);
    assert_eq!(account.calls("AssumeRole"), 2);
}

#[test]
fn we_need_no_code_after_it() {
    if !have_botocore() {
        return;
    }
    let mut account = Account::new(ROLES);
    let output = botocore(&account, "work", CODE);
    assert!(
        output.stderr.contains("asked: Enter MFA code for arn:"),
        "{output:?}"
    );
    assert!(
        output.text().ends_with("assumed-role/admin-mfa/ann"),
        "{output:?}"
    );
    account.lists(&["--profile", "work"], &[]);
    account.until_calls("DescribeInstances", 1);
    assert_eq!(account.calls("AssumeRole"), 1);
    account.emulator.assert_up();
}
