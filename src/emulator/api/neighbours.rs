//! The services beside Systems Manager, as far as reaching a machine needs them: DescribeInstances of
//! EC2, STS (a form asks, XML answers; see `identity`), SendSSHPublicKey of EC2 Instance Connect (JSON 1.1).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use russh::keys::PublicKey;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{ApiError, JSON, Kind, admit, identity, page, parse};
use crate::emulator::Instance;
use crate::emulator::http::BODY_LIMIT;
use crate::emulator::hub::Hub;

const XML: HeaderValue = HeaderValue::from_static("text/xml;charset=UTF-8");
const FORM: &str = "application/x-www-form-urlencoded";
const SEND_KEY: &str = "AWSEC2InstanceConnectService.SendSSHPublicKey";

/// How long a pushed key is accepted, as by the service.
const KEY_VALIDITY: Duration = Duration::from_secs(60);

/// The emulated account.
pub(super) const ACCOUNT: &str = "000000000000";

/// Whether the request is for one of these services.
pub(super) fn is_meant(headers: &HeaderMap) -> bool {
    let starts_with = |name: &str, start: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.starts_with(start))
    };
    starts_with("content-type", FORM) || starts_with("x-amz-target", "AWSEC2InstanceConnect")
}

/// Answers one request.
pub(super) async fn handle(hub: &Arc<Hub>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        let error = ApiError::new(Kind::Serialization, "the request body cannot be read");
        return error.into_response();
    };
    let body = body.to_bytes();
    let target = head.headers.get("x-amz-target").map(HeaderValue::as_bytes);
    match target {
        Some(target) => send_key(hub, &head.headers, target, &body),
        None => query(hub, &head.headers, &body),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendKey {
    instance_id: String,
    #[serde(rename = "InstanceOSUser")]
    user: String,
    #[serde(rename = "SSHPublicKey")]
    public_key: String,
}

fn send_key(
    hub: &Arc<Hub>,
    headers: &HeaderMap,
    target: &[u8],
    body: &[u8],
) -> Response<Full<Bytes>> {
    let pushed = if target == SEND_KEY.as_bytes() {
        admit(hub, headers, "SendSSHPublicKey")
            .map_err(|error| match error.kind() {
                Kind::AccessDenied => ApiError::new(Kind::Auth, error.message()),
                _ => error,
            })
            .and_then(|_| push(hub, parse(body)?))
    } else {
        Err(ApiError::new(Kind::UnknownOperation, "it is not emulated"))
    };
    let mut response = match pushed {
        Ok(()) => {
            let answer = json!({ "RequestId": Uuid::new_v4().to_string(), "Success": true });
            Response::new(Full::new(answer.to_string().into()))
        }
        Err(error) => error.into_response(),
    };
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn push(hub: &Arc<Hub>, request: SendKey) -> Result<(), ApiError> {
    let is_user = (1..=32).contains(&request.user.len())
        && request.user.bytes().enumerate().all(|(at, byte)| {
            matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'_')
                || (at > 0 && matches!(byte, b'0'..=b'9' | b'-' | b'.'))
        });
    let key = PublicKey::from_openssh(&request.public_key)
        .ok()
        .filter(|_| (80..=4096).contains(&request.public_key.len()))
        .and_then(|key| key.to_openssh().ok());
    let (true, Some(line)) = (is_user, key) else {
        return Err(ApiError::new(
            Kind::InvalidArgs,
            "InstanceOSUser or SSHPublicKey is not valid",
        ));
    };
    let node = hub.nodes.get(&request.instance_id);
    let Some(node) = node.filter(|node| node.instance.is_ec2()) else {
        return Err(ApiError::new(
            Kind::Ec2InstanceNotFound,
            format!("Instance not found: {}", request.instance_id),
        ));
    };
    if node.instance.details.state != "running" {
        return Err(ApiError::new(
            Kind::Ec2InstanceStateInvalid,
            "The instance is not running",
        ));
    }
    hub.pushed_keys
        .add(&request.user, &line)
        .map_err(|error| ApiError::new(Kind::Service, format!("the key is not kept: {error}")))?;
    tracing::info!(
        instance = request.instance_id,
        user = request.user,
        "a key was pushed"
    );
    let keeper = Arc::clone(hub);
    hub.tasks.spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(KEY_VALIDITY) => {}
            () = keeper.stop.cancelled() => {}
        }
        if let Err(error) = keeper.pushed_keys.remove(&request.user, &line) {
            tracing::warn!(%error, "a pushed key outlives its time");
        }
    });
    Ok(())
}

/// A service of the Query protocol, and how its errors look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Ec2,
    Sts,
}

fn query(hub: &Arc<Hub>, headers: &HeaderMap, body: &[u8]) -> Response<Full<Bytes>> {
    let form = Form::read(body);
    let action = form.get("Action").unwrap_or_default();
    let service = match action {
        "GetCallerIdentity" | "AssumeRole" | "AssumeRoleWithWebIdentity" => Service::Sts,
        _ => Service::Ec2,
    };
    let admitted = match action {
        // Nobody signs it.
        "AssumeRoleWithWebIdentity" => Ok(()),
        _ => admit(hub, headers, action).map(drop),
    };
    let answer = admitted.and_then(|()| match action {
        "DescribeInstances" => describe_instances(hub, &form),
        "GetCallerIdentity" => identity::caller_identity(hub, headers),
        "AssumeRole" => identity::assume_role(hub, headers, &form),
        "AssumeRoleWithWebIdentity" => identity::assume_role_with_web_identity(hub, &form),
        _ => Err(ApiError::new(
            Kind::UnknownOperation,
            format!("{action} is not emulated"),
        )),
    });
    let mut response = match answer {
        Ok(text) => Response::new(Full::new(text.into())),
        Err(error) => service.refuse(&error),
    };
    response.headers_mut().insert(CONTENT_TYPE, XML);
    response
}

impl Service {
    /// The error in the words and the shape of the service.
    fn refuse(self, error: &ApiError) -> Response<Full<Bytes>> {
        let (status, code) = match (error.kind(), self) {
            (Kind::AccessDenied, Self::Ec2) => (StatusCode::FORBIDDEN, "UnauthorizedOperation"),
            (Kind::AccessDenied, Self::Sts) => (StatusCode::FORBIDDEN, "AccessDenied"),
            (Kind::ExpiredToken, Self::Ec2) => (StatusCode::BAD_REQUEST, "RequestExpired"),
            (Kind::ExpiredToken, Self::Sts) => (StatusCode::FORBIDDEN, "ExpiredToken"),
            (Kind::Throttling, Self::Ec2) => {
                (StatusCode::SERVICE_UNAVAILABLE, "RequestLimitExceeded")
            }
            (Kind::Throttling, Self::Sts) => (StatusCode::BAD_REQUEST, "Throttling"),
            (Kind::UnrecognizedClient, Self::Ec2) => (StatusCode::UNAUTHORIZED, "AuthFailure"),
            (Kind::UnrecognizedClient, Self::Sts) => {
                (StatusCode::FORBIDDEN, "InvalidClientTokenId")
            }
            (Kind::InvalidSignature, Self::Ec2) => (StatusCode::BAD_REQUEST, "RequestExpired"),
            (Kind::InvalidSignature, Self::Sts) => (StatusCode::FORBIDDEN, "SignatureDoesNotMatch"),
            (Kind::InternalServer, _) => (error.status(), "InternalFailure"),
            (Kind::Validation, Self::Sts) => (StatusCode::BAD_REQUEST, "ValidationError"),
            (Kind::UnknownOperation, _) => (StatusCode::BAD_REQUEST, "InvalidAction"),
            _ => (StatusCode::BAD_REQUEST, "InvalidParameterValue"),
        };
        let message = escape(error.message());
        let id = Uuid::new_v4();
        let text = match self {
            Self::Ec2 => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
                 <Message>{message}</Message></Error></Errors><RequestID>{id}</RequestID></Response>"
            ),
            Self::Sts => format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
                 <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                 <RequestId>{id}</RequestId></ErrorResponse>"
            ),
        };
        error.respond(status, text)
    }
}

fn describe_instances(hub: &Hub, form: &Form) -> Result<String, ApiError> {
    let filters = form.filters();
    let mut found = Vec::new();
    let instances = hub.nodes.values().map(|node| &node.instance);
    'instances: for instance in instances.filter(|instance| instance.is_ec2()) {
        for (name, values) in &filters {
            if !matches(instance, name, values)? {
                continue 'instances;
            }
        }
        found.push(instance);
    }
    let size = form.get("MaxResults").map(str::parse).transpose();
    let size = size.map_err(|_| ApiError::new(Kind::Validation, "MaxResults is no number"))?;
    let page = page(found, form.get("NextToken"), size, 5..=1000)?;
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeInstancesResponse \
         xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>{}</requestId><reservationSet>",
        Uuid::new_v4()
    );
    for instance in page.items {
        write_instance(&mut text, instance);
    }
    text.push_str("</reservationSet>");
    if let Some(token) = page.next_token {
        let _ = write!(text, "<nextToken>{}</nextToken>", escape(&token));
    }
    text.push_str("</DescribeInstancesResponse>");
    Ok(text)
}

fn matches(instance: &Instance, filter: &str, values: &[String]) -> Result<bool, ApiError> {
    let value = match filter {
        "instance-id" => Some(instance.id.clone()),
        "private-ip-address" => Some(instance.details.address.to_string()),
        "private-dns-name" => Some(dns_name(instance)),
        "instance-state-name" => Some(instance.details.state.clone()),
        _ => match filter.strip_prefix("tag:") {
            Some(key) => instance.tags().remove(key),
            None => {
                return Err(ApiError::new(
                    Kind::Validation,
                    format!("The filter '{filter}' is invalid"),
                ));
            }
        },
    };
    Ok(value.is_some_and(|value| values.contains(&value)))
}

fn dns_name(instance: &Instance) -> String {
    instance.details.dns_name.clone().unwrap_or_else(|| {
        let address = instance.details.address.to_string();
        format!("ip-{}.ec2.internal", address.replace(['.', ':'], "-"))
    })
}

fn write_instance(text: &mut String, instance: &Instance) {
    let details = &instance.details;
    let mut tags = String::new();
    for (key, value) in instance.tags() {
        let (key, value) = (escape(&key), escape(&value));
        let _ = write!(tags, "<item><key>{key}</key><value>{value}</value></item>");
    }
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "<item><reservationId>r-0</reservationId><ownerId>{ACCOUNT}</ownerId><groupSet/><instancesSet><item>\
         <instanceId>{}</instanceId><instanceState><code>16</code><name>{}</name></instanceState>\
         <privateDnsName>{}</privateDnsName><privateIpAddress>{}</privateIpAddress>\
         <placement><availabilityZone>us-east-1a</availabilityZone></placement>\
         <platformDetails>Linux/UNIX</platformDetails><tagSet>{tags}</tagSet>\
         </item></instancesSet></item>",
        escape(&instance.id),
        escape(&details.state),
        escape(&dns_name(instance)),
        details.address,
    );
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The fields of a form, in their order.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) fn read(body: &[u8]) -> Self {
        let fields = body.split(|byte| *byte == b'&').map(|field| {
            let mut parts = field.splitn(2, |byte| *byte == b'=');
            let mut part = || decode(parts.next().unwrap_or_default());
            (part(), part())
        });
        Self(fields.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|(known, _)| known == name);
        field.map(|(_, value)| value.as_str())
    }

    /// `Filter.N.Name` with its `Filter.N.Value.M`.
    fn filters(&self) -> Vec<(String, Vec<String>)> {
        let named = (1..=self.0.len()).map_while(|number| {
            let name = self.get(&format!("Filter.{number}.Name"))?;
            let values = (1..=self.0.len())
                .map_while(|at| self.get(&format!("Filter.{number}.Value.{at}")))
                .map(str::to_owned);
            Some((name.to_owned(), values.collect()))
        });
        named.collect()
    }
}

/// Percent-decoding; what is no escape stays.
fn decode(text: &[u8]) -> String {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        let escaped = (byte == b'%')
            .then(|| Some(digit(text.get(at))? * 16 + digit(text.get(at + 1))?))
            .flatten()
            .and_then(|value| u8::try_from(value).ok());
        bytes.push(match escaped {
            Some(value) => {
                at += 2;
                value
            }
            None if byte == b'+' => b' ',
            None => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_decoded() {
        let form = Form::read(
            b"Action=X&Filter.1.Name=tag%3AName&Filter.1.Value.1=a%20b+c&Filter.1.Value.2=%zz%",
        );
        assert_eq!(form.get("Action"), Some("X"));
        let filters = form.filters();
        assert_eq!(
            filters,
            [("tag:Name".into(), vec!["a b c".into(), "%zz%".into()])]
        );
    }
}
