//! GetCallerIdentity: who the credentials are. It needs no permission.

use aws_smithy_xml::decode::{Document, try_data};

use super::ec2::Form;
use super::signed::{Call, Protocol};
use super::{Aws, Error, Operation};

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
            body: Form::new("GetCallerIdentity", "2011-06-15").0,
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
}
