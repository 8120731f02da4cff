//! Who somebody is, and who they may become: STS, and the SSO portal with its tokens.
//!
//! A role or account whose name contains `DENIED` is given to nobody, and a role whose name contains `mfa` to nobody
//! without the code of a device.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::neighbours::{ACCOUNT, Form, escape};
use super::{ApiError, Kind, access_key, rfc3339};
use crate::emulator::http::BODY_LIMIT;
use crate::emulator::hub::Hub;
use crate::emulator::issued::{Fault, Issue};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
const HOUR: Duration = Duration::from_secs(3600);

/// Whose the credentials of a request are.
///
/// # Errors
/// They were given out here and must not be used any more.
pub(in crate::emulator) fn caller(hub: &Hub, headers: &HeaderMap) -> Result<String, ApiError> {
    let token = headers.get("x-amz-security-token");
    let token = token.and_then(|token| token.to_str().ok());
    let known = match access_key(headers) {
        Some(access_key) => hub.issued.check(access_key, token),
        None => Ok(None),
    };
    match known {
        Ok(Some(arn)) => Ok(arn),
        Ok(None) => Ok(format!("arn:aws:iam::{ACCOUNT}:user/emulator")),
        Err(Fault::Expired) => Err(ApiError::new(
            Kind::ExpiredToken,
            "The security token included in the request is expired",
        )),
        Err(Fault::Token) => Err(ApiError::new(
            Kind::UnrecognizedClient,
            "The security token included in the request is invalid.",
        )),
    }
}

/// GetCallerIdentity.
pub(super) fn caller_identity(hub: &Hub, headers: &HeaderMap) -> Result<String, ApiError> {
    let arn = caller(hub, headers)?;
    let account = arn.split(':').nth(4).unwrap_or(ACCOUNT);
    Ok(answer(
        "GetCallerIdentity",
        &format!(
            "<Arn>{}</Arn><UserId>AIDAEMULATOR</UserId><Account>{account}</Account>",
            escape(&arn)
        ),
    ))
}

/// AssumeRole.
pub(super) fn assume_role(hub: &Hub, headers: &HeaderMap, form: &Form) -> Result<String, ApiError> {
    let caller = caller(hub, headers)?;
    let role = Role::of(form)?;
    let unauthorized = || {
        let message = format!(
            "User: {caller} is not authorized to perform: sts:AssumeRole on resource: {}",
            role.arn
        );
        ApiError::new(Kind::AccessDenied, message)
    };
    match form.get("SerialNumber") {
        Some(_)
            if !form
                .get("TokenCode")
                .is_some_and(|code| hub.issued.is_code(code)) =>
        {
            return Err(ApiError::new(
                Kind::AccessDenied,
                "MultiFactorAuthentication failed with invalid MFA one time pass code. ",
            ));
        }
        None if role.name.contains("mfa") => return Err(unauthorized()),
        _ => {}
    }
    if role.name.contains("DENIED") {
        return Err(unauthorized());
    }
    Ok(role.give(hub, "AssumeRole"))
}

/// AssumeRoleWithWebIdentity, which is not signed: the token is who asks.
pub(super) fn assume_role_with_web_identity(hub: &Hub, form: &Form) -> Result<String, ApiError> {
    let role = Role::of(form)?;
    let token = form.get("WebIdentityToken").unwrap_or_default();
    if token.len() < 4 || role.name.contains("DENIED") {
        return Err(ApiError::new(
            Kind::AccessDenied,
            "Not authorized to perform sts:AssumeRoleWithWebIdentity",
        ));
    }
    if token.contains("EXPIRED") {
        let message = "Token expired: current date/time must be before the expiration date/time";
        return Err(ApiError::new(Kind::ExpiredToken, message));
    }
    Ok(role.give(hub, "AssumeRoleWithWebIdentity"))
}

/// A role, and the session that is asked for.
struct Role {
    arn: String,
    account: String,
    name: String,
    session: String,
    duration: Duration,
}

impl Role {
    fn of(form: &Form) -> Result<Self, ApiError> {
        let invalid = |what: &str| ApiError::new(Kind::Validation, format!("{what} is not valid"));
        let arn = form.get("RoleArn").unwrap_or_default();
        let parts: Vec<_> = arn.splitn(6, ':').collect();
        let [_, _, "iam", "", account, role] = parts[..] else {
            return Err(invalid("RoleArn"));
        };
        let name = role
            .strip_prefix("role/")
            .ok_or_else(|| invalid("RoleArn"))?;
        let session = form.get("RoleSessionName").unwrap_or_default();
        if !(2..=64).contains(&session.len()) {
            return Err(invalid("RoleSessionName"));
        }
        let seconds = form.get("DurationSeconds").map_or(Ok(3600), str::parse);
        let seconds = seconds
            .ok()
            .filter(|seconds| (900..=43_200).contains(seconds));
        Ok(Self {
            arn: arn.to_owned(),
            account: account.to_owned(),
            name: name.to_owned(),
            session: session.to_owned(),
            duration: Duration::from_secs(seconds.ok_or_else(|| invalid("DurationSeconds"))?),
        })
    }

    fn give(&self, hub: &Hub, action: &str) -> String {
        let Self {
            account,
            name,
            session,
            ..
        } = self;
        let arn = format!("arn:aws:sts::{account}:assumed-role/{name}/{session}");
        let issue = hub.issued.issue(&arn, self.duration);
        tracing::info!(arn, "a role was assumed");
        let text = format!(
            "<AssumedRoleUser><Arn>{}</Arn><AssumedRoleId>AROAEMULATOR:{}</AssumedRoleId></AssumedRoleUser>\
             <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
             <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>",
            escape(&arn),
            escape(session),
            issue.access_key,
            issue.secret_key,
            issue.token,
            rfc3339(issue.expires)
        );
        answer(action, &text)
    }
}

fn answer(action: &str, result: &str) -> String {
    format!(
        "<{action}Response xmlns=\"{NAMESPACE}\"><{action}Result>{result}</{action}Result>\
         <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></{action}Response>",
        Uuid::new_v4()
    )
}

/// Whether the request is for the SSO portal or the service that renews its tokens.
pub(in crate::emulator) fn is_meant(request: &Request<Incoming>) -> bool {
    matches!(
        (request.method(), request.uri().path()),
        (&Method::GET, "/federation/credentials") | (&Method::POST, "/token")
    )
}

/// GetRoleCredentials of SSO, and CreateToken of SSO OIDC.
pub(in crate::emulator) async fn handle(
    hub: &Arc<Hub>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let result = match request.method() {
        &Method::GET => role_credentials(hub, &request),
        _ => create_token(request).await,
    };
    let (status, code, body) = match result {
        Ok(body) => (StatusCode::OK, None, body),
        Err(Refusal(status, code)) => {
            let body = json!({ "message": "refused by the emulated SSO", "error": code });
            (status, Some(code), body)
        }
    };
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(code) = code {
        headers.insert("x-amzn-errortype", HeaderValue::from_static(code));
    }
    response
}

/// An error of these services: status and name.
struct Refusal(StatusCode, &'static str);

fn role_credentials(hub: &Hub, request: &Request<Incoming>) -> Result<Value, Refusal> {
    let token = request.headers().get("x-amz-sso_bearer_token");
    let token = token
        .and_then(|token| token.to_str().ok())
        .unwrap_or_default();
    if token.is_empty() || token.contains("EXPIRED") {
        return Err(Refusal(StatusCode::UNAUTHORIZED, "UnauthorizedException"));
    }
    let query = Form::read(request.uri().query().unwrap_or_default().as_bytes());
    let (Some(role), Some(account)) = (query.get("role_name"), query.get("account_id")) else {
        return Err(Refusal(StatusCode::BAD_REQUEST, "InvalidRequestException"));
    };
    if role.contains("DENIED") {
        return Err(Refusal(StatusCode::FORBIDDEN, "ForbiddenException"));
    }
    let arn = format!("arn:aws:sts::{account}:assumed-role/AWSReservedSSO_{role}/sso");
    let Issue {
        access_key,
        secret_key,
        token,
        expires,
        ..
    } = hub.issued.issue(&arn, HOUR);
    let expires = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(json!({ "roleCredentials": {
        "accessKeyId": access_key,
        "secretAccessKey": secret_key,
        "sessionToken": token,
        "expiration": u64::try_from(expires.as_millis()).unwrap_or(u64::MAX),
    } }))
}

async fn create_token(request: Request<Incoming>) -> Result<Value, Refusal> {
    let invalid = || Refusal(StatusCode::BAD_REQUEST, "InvalidRequestException");
    let body = Limited::new(request.into_body(), BODY_LIMIT)
        .collect()
        .await;
    let body = body.map_err(|_| invalid())?.to_bytes();
    let body: Value = serde_json::from_slice(&body).map_err(|_| invalid())?;
    let refresh = body["refreshToken"].as_str().unwrap_or_default();
    if body["grantType"] != "refresh_token" || refresh.is_empty() {
        return Err(invalid());
    }
    if refresh.contains("EXPIRED") {
        return Err(Refusal(StatusCode::BAD_REQUEST, "InvalidGrantException"));
    }
    Ok(json!({
        "accessToken": format!("renewed-{}", Uuid::new_v4().simple()),
        "expiresIn": 3600,
        "refreshToken": refresh,
        "tokenType": "Bearer",
    }))
}
