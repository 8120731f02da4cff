//! GetCallerIdentity: who the credentials are, which needs no permission; and AssumeRole: to become somebody else.

use std::fmt;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use aws_smithy_xml::decode::{Document, try_data};

use super::ec2::Form;
use super::signed::{Call, Endpoint, Protocol};
use super::{Aws, Error, Operation};
use crate::ssm::secret::Secret;

const VERSION: &str = "2011-06-15";

/// Who calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The account's number.
    pub account: String,
    /// The ARN of the user or of the assumed role with its session.
    pub arn: String,
    /// The unique id, `AROA…:session` for a role.
    pub user_id: String,
}

impl Aws {
    /// Who the credentials of this moment are.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub async fn caller_identity(&self) -> Result<Caller, Error> {
        let call = Call {
            operation: Operation::CallerIdentity,
            protocol: Protocol::Query,
            body: Secret::new(Form::new("GetCallerIdentity", VERSION).0),
        };
        let answer = self.endpoints.sts.call(&self.ssm, &call).await?;
        let caller = read(&answer);
        let field = match &caller {
            Caller { account, .. } if account.is_empty() => "Account",
            Caller { arn, .. } if arn.is_empty() => "Arn",
            _ => return Ok(caller),
        };
        Err(Error::Incomplete {
            operation: Operation::CallerIdentity,
            field,
        })
    }
}

/// What is asked for when a role is assumed.
pub(super) struct Assumption<'a> {
    pub(super) role_arn: &'a str,
    /// 2 to 64 characters; stands in the logs of the account.
    pub(super) session_name: &'a str,
    pub(super) external_id: Option<&'a str>,
    pub(super) duration_seconds: Option<u32>,
    pub(super) second_factor: Option<SecondFactor<'a>>,
}

/// A device, and the code that it shows now.
#[derive(Clone, Copy)]
pub(super) struct SecondFactor<'a> {
    pub(super) serial: &'a str,
    pub(super) code: &'a str,
}

/// Credentials of a role, and the role as it was assumed.
pub(super) struct Assumed {
    pub(super) credentials: Credentials,
    /// `arn:aws:sts::…:assumed-role/role/session`.
    pub(super) arn: String,
    /// `AROA…:session`.
    pub(super) role_id: String,
}

impl fmt::Debug for Assumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assumed")
            .field("arn", &self.arn)
            .finish_non_exhaustive()
    }
}

/// Becomes the role that `wanted` names, as whom `credentials` are.
///
/// # Errors
/// [`enum@Error`], within 15 s in any case. A wrong code is an [`Error::AccessDenied`]: see [`is_wrong_code`].
pub(super) async fn assume_role(
    endpoint: &Endpoint,
    credentials: &Credentials,
    wanted: &Assumption<'_>,
) -> Result<Assumed, Error> {
    let mut form = Form::new("AssumeRole", VERSION);
    form.put("RoleArn", wanted.role_arn);
    form.put("RoleSessionName", wanted.session_name);
    if let Some(id) = wanted.external_id {
        form.put("ExternalId", id);
    }
    if let Some(seconds) = wanted.duration_seconds {
        form.put("DurationSeconds", &seconds.to_string());
    }
    if let Some(factor) = wanted.second_factor {
        form.put("SerialNumber", factor.serial);
        form.put("TokenCode", factor.code);
    }
    let call = Call {
        operation: Operation::AssumeRole,
        protocol: Protocol::Query,
        body: Secret::new(form.0),
    };
    let answer = Secret::new(endpoint.call_as(credentials, &call).await?);
    read_assumed(answer.expose()).map_err(|field| Error::Incomplete {
        operation: Operation::AssumeRole,
        field,
    })
}

/// Whether the service has refused nothing but the code. Its only word for that is in the message.
pub(super) fn is_wrong_code(error: &Error) -> bool {
    matches!(
        error,
        Error::AccessDenied { source, .. }
            if source.to_string().contains("MultiFactorAuthentication failed with invalid MFA one time pass code")
    )
}

/// `AssumeRoleResponse/AssumeRoleResult/{Credentials/…, AssumedRoleUser/…}`, or the name of what is missing.
fn read_assumed(text: &str) -> Result<Assumed, &'static str> {
    const NAMES: [&str; 6] = [
        "AccessKeyId",
        "SecretAccessKey",
        "SessionToken",
        "Expiration",
        "Arn",
        "AssumedRoleId",
    ];
    let mut values: [String; NAMES.len()] = Default::default();
    let mut document = Document::new(text);
    while let Some(start) = document.next_start_element() {
        let Some(at) = NAMES.iter().position(|name| *name == start.local()) else {
            continue;
        };
        if let Ok(text) = try_data(&mut document.scoped_to(start)) {
            values[at] = text.into_owned();
        }
    }
    if let Some(missing) = values[..4].iter().position(String::is_empty) {
        return Err(NAMES[missing]);
    }
    let [access_key, secret_key, token, expiration, arn, role_id] = values;
    let expires = DateTime::from_str(&expiration, Format::DateTimeWithOffset);
    let expires = expires
        .ok()
        .and_then(|time| SystemTime::try_from(time).ok());
    let expires = expires.ok_or("Expiration")?;
    Ok(Assumed {
        credentials: Credentials::new(
            access_key,
            secret_key,
            Some(token),
            Some(expires),
            "ssmshim",
        ),
        arn,
        role_id,
    })
}

/// `GetCallerIdentityResponse/GetCallerIdentityResult/{Arn, UserId, Account}`.
fn read(text: &str) -> Caller {
    let mut caller = Caller::default();
    let mut document = Document::new(text);
    while let Some(start) = document.next_start_element() {
        let field = match start.local() {
            "Account" => &mut caller.account,
            "Arn" => &mut caller.arn,
            "UserId" => &mut caller.user_id,
            _ => continue,
        };
        if let Ok(text) = try_data(&mut document.scoped_to(start)) {
            *field = text.into_owned();
        }
    }
    caller
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the STS API reference.
    #[test]
    fn an_answer_is_read() {
        let caller = read(
            r#"<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
   <Arn>arn:aws:iam::123456789012:user/Alice</Arn>
    <UserId>AIDACKCEVSQ6C2EXAMPLE</UserId>
    <Account>123456789012</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata><RequestId>01234567-89ab-cdef</RequestId></ResponseMetadata>
</GetCallerIdentityResponse>"#,
        );
        assert_eq!(caller.account, "123456789012");
        assert_eq!(caller.arn, "arn:aws:iam::123456789012:user/Alice");
        assert_eq!(caller.user_id, "AIDACKCEVSQ6C2EXAMPLE");
        assert_eq!(read("{}"), Caller::default());
    }

    /// From the STS API reference.
    #[test]
    fn an_assumed_role_is_read() {
        let text = r#"<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleResult>
  <SourceIdentity>Alice</SourceIdentity>
    <AssumedRoleUser>
      <Arn>arn:aws:sts::123456789012:assumed-role/demo/TestAR</Arn>
      <AssumedRoleId>ARO123EXAMPLE123:TestAR</AssumedRoleId>
    </AssumedRoleUser>
    <Credentials>
      <AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId>
      <SecretAccessKey>wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY</SecretAccessKey>
      <SessionToken>AQoDYXdzEPT//////////wEXAMPLE</SessionToken>
      <Expiration>2019-11-09T13:34:41Z</Expiration>
    </Credentials>
    <PackedPolicySize>6</PackedPolicySize>
  </AssumeRoleResult>
</AssumeRoleResponse>"#;
        let assumed = read_assumed(text).unwrap();
        assert_eq!(assumed.role_id, "ARO123EXAMPLE123:TestAR");
        assert_eq!(assumed.credentials.access_key_id(), "ASIAIOSFODNN7EXAMPLE");
        let expires = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_573_306_481);
        assert_eq!(assumed.credentials.expiry(), Some(expires));
        assert!(!format!("{assumed:?}").contains("wJalr"));
        assert_eq!(read_assumed("<x/>").unwrap_err(), "AccessKeyId");
        let timeless = text.replace("2019-11-09T13:34:41Z", "then");
        assert_eq!(read_assumed(&timeless).unwrap_err(), "Expiration");
    }
}
