//! Region, credentials, who they are, and what they may ask about.

use std::time::{Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature as Feature;

use super::check::{Found, Subject};
use super::examination::{Examination, Step, seen};
use super::network::endpoints;
use crate::aws::{self, Aws};
use crate::config::Serve;
use crate::daemon;
use crate::report::one_line;
use crate::target::selector::Id;
use crate::target::{Selector, printable, roughly};

/// An id that no machine has: to ask whether one may ask.
const NOBODY: &str = "i-00000000000000000";
/// Where credentials are asked for when no region is known: they are the same everywhere.
const ANY_REGION: &str = "us-east-1";
/// A Reason that no session has: to ask whether one may ask.
const NO_REASON: &str = "ssmshim doctor";

/// Checks region and credentials.
pub(super) async fn examine(
    examination: &mut Examination<'_>,
    config: &Serve,
) -> (Step<Aws>, Step<()>) {
    let began = Instant::now();
    let opened = open(config, config.region.as_deref()).await;
    let took = began.elapsed();
    // There may be no such profile, and what region it would name nobody knows.
    let opened = match opened {
        Err(error) if error.is_credentials() => {
            let aws = examination.skip(Subject::Region, Subject::Credentials);
            let credentials = examination.note(Subject::Credentials, failed(&error), took);
            return (aws, credentials);
        }
        opened => opened,
    };
    let found = match opened {
        Ok(aws) => match endpoints(config, &aws) {
            Ok(_known) => {
                let region = aws.region().to_owned();
                Found::ok(aws, region)
            }
            Err(error) => failed(&error),
        },
        Err(error) => failed(&error),
    };
    let aws = examination.note(Subject::Region, found, took);
    let of_anywhere = match &aws {
        Ok(_) => None,
        Err(_) => open(config, Some(ANY_REGION)).await.ok(),
    };
    let credentials = match aws.as_ref().ok().or(of_anywhere.as_ref()) {
        Some(aws) => {
            examination
                .check(Subject::Credentials, credentials(aws))
                .await
        }
        None => examination.skip(Subject::Credentials, Subject::Region),
    };
    (aws, credentials)
}

async fn open(config: &Serve, region: Option<&str>) -> Result<Aws, aws::Error> {
    daemon::aws(config.profile.as_deref(), region).await
}

async fn credentials(aws: &Aws) -> Found<()> {
    // A person may be asked for a code, and has the time that it takes.
    if let Err(error) = aws.prepare().await {
        return failed(&error);
    }
    match aws.ssm().credentials().await {
        Ok(credentials) => Found::ok((), described(&credentials, SystemTime::now())),
        Err(error) => failed(&error),
    }
}

/// Where the credentials come from and how long they last; the key id is public, the rest is not told.
fn described(credentials: &Credentials, now: SystemTime) -> String {
    let source = credentials
        .get_property::<Vec<Feature>>()
        .and_then(|features| features.iter().find_map(source_of));
    let key = printable(credentials.access_key_id());
    let mut text = match source {
        Some(source) => format!("{key} from {source}"),
        None => key,
    };
    if let Some(expiry) = credentials.expiry() {
        text.push_str(&match expiry.duration_since(now) {
            Ok(left) => format!(", for another {}", roughly(left)),
            Err(_) => ", which have expired".to_owned(),
        });
    } else if credentials.session_token().is_some() {
        text.push_str(", temporary ones");
    }
    text
}

fn source_of(feature: &Feature) -> Option<&'static str> {
    Some(match feature {
        Feature::CredentialsEnvVars => "the environment",
        Feature::CredentialsEnvVarsStsWebIdToken | Feature::CredentialsProfileStsWebIdToken => {
            "a web identity"
        }
        Feature::CredentialsStsAssumeRole => "an assumed role",
        Feature::CredentialsProfile | Feature::CredentialsProfileSourceProfile => "a profile",
        Feature::CredentialsProfileSso | Feature::CredentialsSso => "IAM Identity Center (SSO)",
        Feature::CredentialsProfileProcess | Feature::CredentialsProcess => "credential_process",
        Feature::CredentialsHttp => "the container",
        Feature::CredentialsImds => "the instance's role",
        _ => return None,
    })
}

/// Checks who the credentials are, and whether they may ask what there is.
pub(super) async fn examine_permissions(
    examination: &mut Examination<'_>,
    config: &Serve,
    aws: Step<&Aws>,
    target: Option<&str>,
) -> Step<()> {
    let identity = examination
        .after(Subject::Identity, aws, async |aws: &Aws| {
            identity(config, aws).await
        })
        .await;
    let aws = aws.and_then(|aws| seen(&identity).map(|()| aws));
    let selector = target.map(Selector::parse);
    let id = match &selector {
        Some(Selector::Id(Id::Instance(id) | Id::Node(id))) => id,
        // Neither list has others, nor names all machines.
        _ => NOBODY,
    };
    let _: Step<()> = examination
        .after(
            Subject::DescribeManaged,
            aws,
            async |aws: &Aws| match &selector {
                None => machines(aws).await,
                Some(selector) => may_list(aws, id, selector).await,
            },
        )
        .await;
    let _: Step<()> = examination
        .after(Subject::DescribeInstances, aws, async |aws: &Aws| {
            let is_instance = id.starts_with("i-");
            let ids = [if is_instance { id } else { NOBODY }.to_owned()];
            match aws.describe_instances(&[("instance-id", &ids[..])]).await {
                Ok(_) => Found::ok((), "allowed: machines have names"),
                Err(error) => optional(
                    &error,
                    "machines are found by what Systems Manager knows of them only",
                ),
            }
        })
        .await;
    let _: Step<()> = examination
        .after(Subject::DescribeSessions, aws, async |aws: &Aws| match aws
            .ssm()
            .sessions_started_for(NO_REASON)
            .await
        {
            Ok(_) => Found::ok(
                (),
                "allowed: sessions of a killed process are found and ended",
            ),
            Err(error) => optional(
                &error,
                "sessions of a killed process may last until they idle out",
            ),
        })
        .await;
    identity
}

async fn identity(config: &Serve, aws: &Aws) -> Found<()> {
    match aws.caller_identity().await {
        Ok(caller) => {
            let profile = match &config.profile {
                Some(profile) => format!(", profile {}", printable(profile)),
                None => String::new(),
            };
            let text = format!("{} in account {}{profile}", caller.arn, caller.account);
            Found::ok((), printable(&text))
        }
        // These say something of the credentials; the others of the way to STS, which is not needed.
        Err(error) if error.is_credentials() => failed(&error),
        Err(error) => optional(&error, "who the credentials are cannot be told"),
    }
}

/// Whether the list that makes machines of what was typed may be asked for.
async fn may_list(aws: &Aws, id: &str, selector: &Selector) -> Found<()> {
    match aws.describe_managed(&[("InstanceIds", id)]).await {
        Ok(_) => Found::ok((), "allowed"),
        // An id is tried unseen, whatever the answer.
        Err(error) if matches!(selector, Selector::Id(_)) && !error.is_credentials() => {
            optional(&error, "an id will do without it")
        }
        Err(error) => failed(&error),
    }
}

/// How many machines there are.
async fn machines(aws: &Aws) -> Found<()> {
    match aws.describe_managed(&[]).await {
        Ok(listed) => {
            let online = listed
                .items
                .iter()
                .filter(|machine| machine.ping == aws::managed::Ping::Online);
            let (online, all) = (online.count(), listed.items.len());
            let at_least = if listed.is_complete { "" } else { "at least " };
            let machines = if all == 1 { "machine" } else { "machines" };
            let text = format!(
                "{at_least}{all} {machines} in {}, online: {online}",
                aws.region()
            );
            match online {
                0 => Found::warning(
                    (),
                    text,
                    Some("--region and --profile look elsewhere".to_owned()),
                ),
                _ => Found::ok((), text),
            }
        }
        Err(error @ aws::Error::AccessDenied { .. }) => {
            optional(&error, "machines are named by their ids only")
        }
        Err(error) => failed(&error),
    }
}

/// Something that is of use and not needed.
pub(super) fn optional(error: &aws::Error, consequence: &str) -> Found<()> {
    Found::warning(
        (),
        format!("{}; {consequence}", one_line(error)),
        error.hint().map(str::to_owned),
    )
}

/// Something without which it does not work.
pub(super) fn failed<T>(error: &aws::Error) -> Found<T> {
    Found::failed(one_line(error), error.hint().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn credentials_are_described_without_their_secrets() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let expiry = now + Duration::from_secs(3000);
        let mut credentials = Credentials::new(
            "AKIDEXAMPLE",
            "the-secret",
            Some("the-token".into()),
            Some(expiry),
            "x",
        );
        assert_eq!(
            described(&credentials, now),
            "AKIDEXAMPLE, for another 50 min"
        );
        credentials.set_property(vec![
            Feature::ResolvedAccountId,
            Feature::CredentialsProfileSso,
        ]);
        let told = described(&credentials, now);
        assert_eq!(
            told,
            "AKIDEXAMPLE from IAM Identity Center (SSO), for another 50 min"
        );
        *credentials.expiry_mut() = None;
        assert!(described(&credentials, now).ends_with("temporary ones"));
    }
}
