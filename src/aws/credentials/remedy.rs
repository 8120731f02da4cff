//! Failures of a source in words that name what is configured, and what to type. Pure, but for the environment.
//!
//! The SDK keeps the types of its sources' errors to itself, so some of this goes by their texts: never what is to be
//! done, only what is said about it.

use std::error::Error;
use std::time::Duration;

use aws_config::profile::{Profile, ProfileSet};
use aws_credential_types::provider::error::CredentialsError;

use super::account::{Selected, flag, list, variable};
use super::chain::{Base, Chain, Link};
use crate::report::one_line;
use crate::ssm::api::{Unavailable, blames_network, spoken};

/// Of the words of another program.
const QUOTED_CHARS: usize = 200;
/// Words as long as this, of letters and digits, may be secrets.
const SECRET_CHARS: usize = 16;
/// Characters of a secret access key, which may begin with a slash.
const SECRET_KEY_CHARS: usize = 40;
/// What the SDK says of a source profile without credentials.
const NOTHING_IN_PROFILE: &str = "did not contain credential information";
/// What the SDK says of a process that has failed.
const PROCESS_FAILED: &str = "exited with code ";

/// A role that wants the code of `serial`, and `why` there is none.
pub(super) fn of_need(role_arn: &str, serial: &str, selected: &Selected, why: &str) -> Unavailable {
    Unavailable::new(
        format!("role {role_arn} wants the code of MFA device {serial}: {why}"),
        format!(
            "start ssmshim on a terminal, which asks for it, or run `aws sts get-caller-identity{}` \
             first: what the AWS CLI keeps is used",
            selected.flag()
        ),
    )
}

/// A role whose credentials are over when they come.
pub(super) fn of_no_time(role_arn: &str) -> Unavailable {
    Unavailable::new(
        format!("the credentials of role {role_arn} have expired as soon as they are given"),
        "check the clock of this computer",
    )
}

/// A source that does not answer.
pub(super) fn of_silence(selected: &Selected, patience: Duration) -> Unavailable {
    Unavailable::new(
        format!(
            "no AWS credentials within {} s from profile `{}`",
            patience.as_secs(),
            selected.name
        ),
        format!(
            "see whether `aws sts get-caller-identity{}` answers",
            selected.flag()
        ),
    )
}

/// A role that may not be assumed; `said` is the service's own text, which names who asked.
pub(super) fn of_denied_role(role_arn: &str, profile: &str, said: &str) -> Unavailable {
    Unavailable::new(
        format!("role {role_arn} of profile `{profile}` may not be assumed: {said}"),
        "the role's trust policy must name who asks, that one's own policies must allow sts:AssumeRole on it, and \
         external_id and mfa_serial must be those that the trust policy wants",
    )
}

/// How credentials are renewed that the service takes for expired.
pub(super) fn renewal(selected: &Selected) -> String {
    if !selected.uses_environment() {
        return format!(
            "renew them, for example with `aws sso login{}`",
            selected.flag()
        );
    }
    match variable("AWS_SESSION_TOKEN") {
        Some(_) => {
            "AWS_SESSION_TOKEN in the environment has expired: export new ones and start again, or unset \
             them and name a profile, whose credentials are renewed while ssmshim runs"
        }
        None => "check the clock of this computer",
    }
    .to_owned()
}

/// `error` as it is where it has the right words already, or else an [`Unavailable`].
///
/// `is_logged_in` tells whether the SSO login of this name (a session's, or a start URL) has ever been.
pub(super) fn explain(
    error: CredentialsError,
    selected: &Selected,
    profiles: Option<&ProfileSet>,
    is_logged_in: impl Fn(&str) -> bool,
) -> CredentialsError {
    let told = Told::new(&error);
    let found = match (&error, profiles) {
        (CredentialsError::CredentialsNotLoaded(_), _) => Some(nothing(selected, profiles)),
        (_, Some(profiles)) if !selected.uses_environment() => {
            let of_profile = of_profile(&told, selected, profiles, is_logged_in);
            let is_nothing = told.has(NOTHING_IN_PROFILE) || has_nothing(&error);
            of_profile.or_else(|| is_nothing.then(|| nothing(selected, Some(profiles))))
        }
        _ => None,
    };
    found.map_or(error, CredentialsError::provider_error)
}

/// What an error of the SDK says.
struct Told {
    text: String,
    is_network: bool,
}

impl Told {
    fn new(error: &CredentialsError) -> Self {
        const EMPTY: &str = "an error occurred while loading credentials: ";
        Self {
            text: one_line(error).replace(EMPTY, ""),
            is_network: blames_network(error),
        }
    }

    /// What a service says, out of the way in which the SDK shows it.
    fn message(&self) -> String {
        let message = self.text.rsplit_once("message: \"").map(|(_, rest)| rest);
        let message = message.and_then(|rest| rest.split('"').next());
        let message = message.unwrap_or(&self.text).replace(r"\n", " ");
        quoted(spoken(&message))
    }

    fn has(&self, word: &str) -> bool {
        self.text.contains(word)
    }
}

/// Whether the source that was named, and is among the causes of `error`, has no credentials.
fn has_nothing(error: &CredentialsError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = cause {
        let found = current.downcast_ref::<CredentialsError>();
        if let Some(CredentialsError::CredentialsNotLoaded(_)) = found {
            return true;
        }
        cause = current.source();
    }
    false
}

/// No source has anything.
fn nothing(selected: &Selected, profiles: Option<&ProfileSet>) -> Unavailable {
    let profiles = profiles.filter(|profiles| !profiles.is_empty());
    let has_it = |profiles: &&ProfileSet| profiles.get_profile(&selected.name).is_some();
    let chain = profiles
        .filter(has_it)
        .map(|profiles| Chain::of(profiles, &selected.name));
    let problem = match chain {
        Some(Ok(Chain {
            base: Base::Source(source),
            links,
        })) => {
            let profile = links.first().map_or(&selected.name, |link| &link.profile);
            format!(
                "no AWS credentials: profile `{profile}` has them from {source}, which has none"
            )
        }
        Some(Ok(Chain {
            base: Base::Profile(name) | Base::KeysOf(name),
            ..
        })) => {
            format!("no AWS credentials: profile `{name}` has none")
        }
        Some(Err(_)) => format!("no AWS credentials: profile `{}` has none", selected.name),
        None => "no AWS credentials found".to_owned(),
    };
    let others = profiles.and_then(list);
    let remedy = match others {
        Some(names) => format!(
            "pass --profile NAME or set AWS_PROFILE (there are: {names}), or export AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY"
        ),
        None => "`aws configure sso` or `aws configure` sets up a profile; or export AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY"
            .to_owned(),
    };
    Unavailable::new(problem, remedy)
}

fn of_profile(
    told: &Told,
    selected: &Selected,
    profiles: &ProfileSet,
    is_logged_in: impl Fn(&str) -> bool,
) -> Option<Unavailable> {
    let chain = Chain::of(profiles, &selected.name).ok()?;
    let (name, source) = match &chain.base {
        Base::Profile(name) | Base::KeysOf(name) => (name, None),
        Base::Source(source) => (&selected.name, Some(source)),
    };
    // The roles come last: what STS refuses is not the fault of what is before it.
    if let Some(link) = refused_role(told, &chain.links) {
        return Some(of_denied_role(
            &link.role_arn,
            &link.profile,
            &told.message(),
        ));
    }
    if let Some(source) = source {
        return of_machine(told, source);
    }
    let profile = profiles.get_profile(name)?;
    if told.is_network {
        return None;
    }
    let has = |key| profile.get(key).is_some();
    if has("sso_session") || has("sso_start_url") || has("sso_account_id") {
        let login = profile.get("sso_session").or(profile.get("sso_start_url"));
        Some(of_sso(told, profile, login.is_some_and(is_logged_in)))
    } else if has("credential_process") {
        Some(of_process(told, profile))
    } else if has("login_session") {
        Some(Unavailable::new(
            format!("profile `{name}` is a console login, which is not supported"),
            format!(
                "put `credential_process = aws configure export-credentials{} --format process` into another profile \
                 and name that one",
                flag(name)
            ),
        ))
    } else {
        let file = profile.get("web_identity_token_file")?;
        Some(Unavailable::new(
            format!(
                "the web identity of profile `{name}` gives no credentials: {}",
                told.message()
            ),
            format!(
                "see whether {file} holds a valid token and the trust policy of the role names who issues it"
            ),
        ))
    }
}

/// The role that STS has refused, if that is what has happened; it names it where it does not allow it.
fn refused_role<'a>(told: &Told, links: &'a [Link]) -> Option<&'a Link> {
    // What comes before the roles may say the same word.
    let is_of_base = told.has("AssumeRoleWithWebIdentity") || told.has(PROCESS_FAILED);
    if !told.has("AssumeRole") || is_of_base || told.is_network {
        return None;
    }
    let named = links.iter().filter(|link| told.has(&link.role_arn));
    // One name may be the beginning of another.
    let named = named.max_by_key(|link| link.role_arn.len());
    named.or(links.last())
}

/// A machine or container that is asked for its role.
fn of_machine(told: &Told, source: &str) -> Option<Unavailable> {
    source.eq_ignore_ascii_case("Ec2InstanceMetadata").then(|| {
        Unavailable::new(
            format!("the metadata of this instance gives no credentials: {}", quoted(&told.text)),
            "see that the instance has a role; in a container the hop limit must be 2: \
             aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2 --instance-id …",
        )
    })
}

fn of_sso(told: &Told, profile: &Profile, is_logged_in: bool) -> Unavailable {
    let name = profile.name();
    let login = format!("aws sso login{}", flag(name));
    let role = profile.get("sso_role_name").unwrap_or_default();
    let account = profile.get("sso_account_id").unwrap_or_default();
    let is_misconfigured = told.has("ProfileFile provider could not be built");
    if is_misconfigured {
        let said = told.text.rsplit("could not be built: ").next();
        return Unavailable::new(
            format!(
                "SSO is not set up in profile `{name}`: {}",
                quoted(said.unwrap_or_default())
            ),
            format!("`aws configure sso{}` sets it up", flag(name)),
        );
    }
    if told.has("ForbiddenException") || told.has("No access") {
        return Unavailable::new(
            format!("SSO gives no role {role} in account {account}"),
            format!(
                "check sso_role_name and sso_account_id of profile `{name}`; `{login}` if it was given to you just now"
            ),
        );
    }
    let problem = match is_logged_in {
        true => format!("the SSO login of profile `{name}` has expired"),
        false => format!("nobody is logged in to SSO for profile `{name}`"),
    };
    Unavailable::new(problem, login)
}

fn of_process(told: &Told, profile: &Profile) -> Unavailable {
    let name = profile.name();
    let problem = match told.text.split_once(PROCESS_FAILED) {
        Some((_, rest)) => {
            let (status, words) = rest.split_once(". Stderr:").unwrap_or((rest, ""));
            let words = quoted(words);
            let colon = if words.is_empty() { "" } else { ": " };
            format!("the credential_process of profile `{name}` failed ({status}){colon}{words}")
        }
        // Its output is not quoted: it is made of secrets.
        None => format!("the credential_process of profile `{name}` gave no credentials"),
    };
    Unavailable::new(
        problem,
        format!(
            "run that command by hand: `aws configure get credential_process{}` shows it",
            flag(name)
        ),
    )
}

/// The end of what another program says, without what looks like a key or a token.
fn quoted(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match is_secret(word) {
        true => "…",
        false => word,
    });
    let text = words.collect::<Vec<_>>().join(" ");
    let skipped = text.chars().count().saturating_sub(QUOTED_CHARS);
    let end: String = text.chars().skip(skipped).collect();
    let end = end.trim_end_matches(['.', ' ']);
    match skipped {
        0 => end.to_owned(),
        _ => format!("… {end}"),
    }
}

/// Whether `word` may be a key: long, and of letters and digits that are no words. ARNs and paths are none.
fn is_secret(word: &str) -> bool {
    let parts = word.split(|c: char| "=:\"'`,;.()[]{}_".contains(c));
    let is_key = |part: &str| {
        let is_base64 = part
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"+/-".contains(&c));
        let has = |is: fn(&u8) -> bool| part.as_bytes().iter().any(is);
        part.len() >= SECRET_CHARS
            && is_base64
            && (!part.starts_with('/') || part.len() == SECRET_KEY_CHARS)
            && has(u8::is_ascii_digit)
            && has(u8::is_ascii_uppercase)
    };
    !word.starts_with("arn:") && parts.into_iter().any(is_key)
}

#[cfg(test)]
mod tests {
    use super::super::account::Account;
    use super::super::chain::tests::profiles;
    use super::*;

    const CONFIG: &str = "
[profile sso]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = Dev
[sso-session corp]
sso_region = eu-central-1
sso_start_url = https://corp.awsapps.com/start
[profile admin]
role_arn = arn:aws:iam::123456789012:role/admin
source_profile = sso
[profile owner]
role_arn = arn:aws:iam::123456789012:role/admin/owner
source_profile = admin
[profile process]
credential_process = fetch-credentials
[profile over-process]
role_arn = arn:aws:iam::123456789012:role/over
source_profile = process
[profile login]
login_session = arn:aws:iam::123456789012:user/ann
[profile web]
role_arn = arn:aws:iam::123456789012:role/web
web_identity_token_file = /run/token
[profile over-web]
role_arn = arn:aws:iam::123456789012:role/over
source_profile = web
[profile machine]
role_arn = arn:aws:iam::123456789012:role/x
credential_source = Ec2InstanceMetadata
[profile empty]
region = eu-west-1
[profile over-empty]
role_arn = arn:aws:iam::123456789012:role/over
source_profile = empty
";

    async fn told(profile: &str, error: CredentialsError) -> String {
        let account = Account {
            profile: Some(profile.into()),
            region: None,
        };
        let profiles = profiles(CONFIG).await;
        let selected = account.selected();
        let error = explain(error, &selected, Some(&profiles), |login| login == "corp");
        let error = crate::aws::Error::from(error);
        format!(
            "{} | {}",
            one_line(&error),
            error.hint().unwrap_or_default()
        )
    }

    fn failed(text: &str) -> CredentialsError {
        CredentialsError::provider_error(text.to_owned())
    }

    #[tokio::test]
    async fn a_login_is_named_with_its_profile() {
        let expired = || failed("the SSO token has expired and cannot be refreshed");
        assert_eq!(
            told("sso", expired()).await,
            "the SSO login of profile `sso` has expired | aws sso login --profile sso"
        );
        // The login is that of the source.
        assert_eq!(
            told("admin", expired()).await,
            "the SSO login of profile `sso` has expired | aws sso login --profile sso"
        );
        let forbidden = told(
            "sso",
            failed("service error: ForbiddenException: No access"),
        )
        .await;
        assert!(
            forbidden
                .starts_with("SSO gives no role Dev in account 123456789012 | check sso_role_name"),
            "{forbidden}"
        );
    }

    #[tokio::test]
    async fn a_process_is_quoted_without_its_secrets() {
        let failure = "Error retrieving credentials: external process exited with code exit status: 3. Stderr: \
            Traceback\nlogin first: SecretAccessKey=wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY AKIAIOSFODNN7EXAMPLE\n";
        let told = told("process", failed(failure)).await;
        assert_eq!(
            told,
            "the credential_process of profile `process` failed (exit status: 3): Traceback login first: … … | run that \
             command by hand: `aws configure get credential_process --profile process` shows it"
        );
    }

    #[tokio::test]
    async fn each_source_has_its_own_remedy() {
        for (profile, error, start, remedy) in [
            (
                "process",
                failed("could not parse response: {\"SecretAccessKey\":\"x\"}"),
                "the credential_process of profile `process` gave no credentials |",
                "by hand",
            ),
            (
                "login",
                failed("not enabled"),
                "profile `login` is a console login",
                "export-credentials --profile login",
            ),
            (
                "web",
                failed("No such file"),
                "the web identity of profile `web`",
                "/run/token",
            ),
            (
                "machine",
                failed("timeout"),
                "the metadata of this instance",
                "hop-limit 2",
            ),
            (
                "admin",
                failed(
                    "AssumeRoleError: Error { code: \"AccessDenied\", message: \"User: arn:x is not authorized\" }",
                ),
                "role arn:aws:iam::123456789012:role/admin of profile `admin` may not be assumed: User: arn:x is \
                 not authorized |",
                "trust policy",
            ),
            (
                "admin",
                failed(
                    "AssumeRoleError: Error { code: \"SignatureDoesNotMatch\", message: \"The signature does not match.\\n\\n\
                     The Canonical String for this request should have been\\n'POST\\nx-amz-security-token:fwogzx\" }",
                ),
                "role arn:aws:iam::123456789012:role/admin of profile `admin` may not be assumed: The signature does \
                 not match |",
                "trust policy",
            ),
            // Of two roles the first, and of a role what comes before it.
            (
                "owner",
                failed(
                    "AssumeRoleError: Error { code: \"AccessDenied\", message: \"User: arn:x is not authorized to perform: \
                     sts:AssumeRole on resource: arn:aws:iam::123456789012:role/admin\" }",
                ),
                "role arn:aws:iam::123456789012:role/admin of profile `admin` may not be assumed",
                "trust policy",
            ),
            (
                "owner",
                failed("AssumeRole on resource: arn:aws:iam::123456789012:role/admin/owner"),
                "role arn:aws:iam::123456789012:role/admin/owner of profile `owner` may not",
                "trust policy",
            ),
            (
                "over-web",
                failed("AssumeRoleWithWebIdentityError: ExpiredTokenException"),
                "the web identity of profile `web`",
                "/run/token",
            ),
            (
                "over-process",
                failed(
                    "external process exited with code exit status: 254. Stderr: AccessDenied when calling the AssumeRole \
                     operation",
                ),
                "the credential_process of profile `process` failed (exit status: 254): AccessDenied",
                "--profile process",
            ),
            (
                "empty",
                CredentialsError::not_loaded("no"),
                "no AWS credentials: profile `empty` has none |",
                "there are: admin, empty, login,",
            ),
            (
                "over-empty",
                CredentialsError::not_loaded("no"),
                "no AWS credentials: profile `empty` has none |",
                "--profile NAME",
            ),
            (
                "machine",
                CredentialsError::not_loaded("no"),
                "no AWS credentials: profile `machine` has them from Ec2InstanceMetadata, which has none |",
                "--profile NAME",
            ),
            (
                "empty",
                failed("whatever"),
                "AWS credentials could not be loaded",
                "",
            ),
        ] {
            let told = told(profile, error).await;
            assert!(told.starts_with(start) && told.contains(remedy), "{told}");
        }
    }

    #[test]
    fn words_that_may_be_secrets_are_left_out() {
        assert_eq!(
            quoted("token eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.x in ~/.cache/x-1/Y."),
            "token … in ~/.cache/x-1/Y"
        );
        assert_eq!(
            quoted(
                "key /JalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY of /usr/share/Corp/login2/bin/credentials-of-the-day"
            ),
            "key … of /usr/share/Corp/login2/bin/credentials-of-the-day"
        );
        let plain = "IMDS disabled by AWS_EC2_METADATA_DISABLED for arn:aws:iam::123456789012:role/Abcdefghijklmnop1";
        assert_eq!(quoted(plain), plain);
        let long = "word ".repeat(100);
        assert!(quoted(&long).starts_with("… ") && quoted(&long).chars().count() < 210);
    }
}
