//! SSO logins: in force, renewed, expired, and never made.

use crate::account::Account;
use crate::common::process::Run;

const CONFIG: &str = "
[profile work]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = Dev

[profile denied]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = DENIED

[profile admin]
role_arn = arn:aws:iam::123456789012:role/admin
source_profile = work

[sso-session corp]
sso_region = eu-central-1
sso_start_url = https://corp.example.com/start

[profile old]
sso_region = eu-central-1
sso_start_url = https://corp.example.com/start
sso_account_id = 123456789012
sso_role_name = Old
";

/// Writes the token of a login, valid until `expires`, with `more` members.
fn log_in(account: &Account, login: &str, token: &str, expires: &str, more: &str) {
    let sum = Run::new("sha1sum").stdin(login).ok().text();
    let name = sum.split_whitespace().next().expect("a sum").to_owned();
    account.write(
        &format!(".aws/sso/cache/{name}.json"),
        &format!(
            r#"{{"accessToken": "{token}", "expiresAt": "{expires}", "region": "eu-central-1", "startUrl": "https://corp.example.com/start"{more}}}"#
        ),
    );
}

const LATER: &str = "2099-01-01T00:00:00Z";
const EARLIER: &str = "2020-01-01T00:00:00Z";

#[test]
fn a_login_gives_its_role() {
    let account = Account::new(CONFIG);
    log_in(&account, "corp", "token", LATER, "");
    account.lists(&["--profile", "work"], &[]);
    account.until_called("DescribeInstanceInformation", "AWSReservedSSO_Dev");
    account.lists(&["--profile", "admin"], &[]);
    account.until_called("AssumeRole", "AWSReservedSSO_Dev");
    log_in(
        &account,
        "https://corp.example.com/start",
        "token",
        LATER,
        "",
    );
    account.lists(&["--profile", "old"], &[]);
    account.until_called("DescribeInstanceInformation", "AWSReservedSSO_Old");
    account.refuses(
        &["--profile", "denied"],
        &[],
        [
            "SSO gives no role DENIED in account 123456789012",
            "check sso_role_name and sso_account_id of profile `denied`; `aws sso login --profile denied` if it was \
             given to you just now",
        ],
    );
}

#[test]
fn a_login_that_can_be_renewed_is() {
    let account = Account::new(CONFIG);
    let renewable = format!(
        r#", "clientId": "client", "clientSecret": "secret", "refreshToken": "again", "registrationExpiresAt": "{LATER}""#
    );
    log_in(&account, "corp", "token", EARLIER, &renewable);
    account.lists(&["--profile", "work"], &[]);
    account.until_called("DescribeInstanceInformation", "AWSReservedSSO_Dev");
}

#[test]
fn the_command_that_logs_in_is_named_with_its_profile() {
    let account = Account::new(CONFIG);
    let never = [
        "nobody is logged in to SSO for profile `work`",
        "aws sso login --profile work",
    ];
    account.refuses(&["--profile", "work"], &[], never);
    let expired = [
        "the SSO login of profile `work` has expired",
        "aws sso login --profile work",
    ];
    log_in(&account, "corp", "token", EARLIER, "");
    account.refuses(&["--profile", "work"], &[], expired);
    account.refuses(&[], &[("AWS_PROFILE", "work")], expired);
    // The login is that of the role's source.
    account.refuses(&["--profile", "admin"], &[], expired);
    // Revoked before its time.
    log_in(&account, "corp", "EXPIRED", LATER, "");
    account.refuses(&["--profile", "work"], &[], expired);
    log_in(
        &account,
        "https://corp.example.com/start",
        "EXPIRED",
        LATER,
        "",
    );
    account.refuses(
        &["--profile", "old"],
        &[],
        [
            "the SSO login of profile `old` has expired",
            "aws sso login --profile old",
        ],
    );
}
