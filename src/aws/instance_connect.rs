//! SendSSHPublicKey of EC2 Instance Connect: a key that the instance's sshd accepts for a minute.

use std::time::Duration;

use serde_json::json;

use super::signed::{Call, Protocol};
use super::{Aws, Error, Operation};
use crate::ssm::secret::Secret;

/// How long a pushed key is accepted.
pub const VALIDITY: Duration = Duration::from_secs(60);

impl Aws {
    /// Has `instance` accept `public_key`, a line as in `authorized_keys`, for `user` during
    /// [`VALIDITY`].
    ///
    /// # Errors
    /// [`enum@Error`]; an instance without Instance Connect does not show here, but in the login.
    pub async fn send_ssh_public_key(
        &self,
        instance: &str,
        user: &str,
        public_key: &str,
    ) -> Result<(), Error> {
        let body = json!({
            "InstanceId": instance,
            "InstanceOSUser": user,
            "SSHPublicKey": public_key,
        });
        let call = Call {
            operation: Operation::SendKey,
            protocol: Protocol::Json {
                target: "AWSEC2InstanceConnectService.SendSSHPublicKey",
            },
            body: Secret::new(body.to_string()),
        };
        let answer = self
            .endpoints
            .instance_connect
            .call_unattended(&self.ssm, &call)
            .await?;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        match answer["Success"].as_bool() {
            Some(true) => Ok(()),
            Some(false) => Err(Error::Service {
                operation: Operation::SendKey,
                retry_after: None,
                source: "the key was not taken".into(),
            }),
            None => Err(Error::Incomplete {
                operation: Operation::SendKey,
                field: "Success",
            }),
        }
    }
}
