//! The AWS API: JSON 1.1 over `POST /`, as far as Session Manager needs it.

mod clock;
mod error;
pub(super) mod identity;
mod instances;
mod neighbours;
mod sessions;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Request, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

pub(crate) use clock::date;
pub(crate) use error::{ApiError, Kind};

use super::http::BODY_LIMIT;
use super::hub::Hub;

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");

/// Prefix of `X-Amz-Target`.
const SERVICE: &str = "AmazonSSM.";

/// Whether `target` is one that StartSession's model lets through (sheet §10).
pub(crate) fn is_target(target: &str) -> bool {
    (1..=400).contains(&target.len())
        && target
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte))
}

/// Answers one API request.
pub(crate) async fn handle(hub: &Arc<Hub>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if neighbours::is_meant(request.headers()) {
        return neighbours::handle(hub, request).await;
    }
    let answer = answer(hub, request).await;
    let mut response = match answer {
        Ok(value) => Response::new(Full::new(value.to_string().into())),
        Err(error) => {
            tracing::debug!(kind = %error.kind(), error = error.message(), "request refused");
            error.into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    if let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string()) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}

async fn answer(hub: &Arc<Hub>, request: Request<Incoming>) -> Result<Value, ApiError> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_LIMIT)
        .collect()
        .await
        .map_err(|_| ApiError::new(Kind::Serialization, "the request body cannot be read"))?
        .to_bytes();
    let operation = head
        .headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok())
        .and_then(|target| target.strip_prefix(SERVICE))
        .ok_or_else(|| {
            ApiError::new(
                Kind::UnknownOperation,
                "X-Amz-Target names no operation of AmazonSSM",
            )
        })?;
    if admit(hub, &head.headers, operation)? == Admitted::WithoutToken {
        return sessions::resume_without_token(parse(&body)?);
    }
    let host = gateway_host(hub, &head.headers);
    match operation {
        "StartSession" => sessions::start(hub, &host, parse(&body)?),
        "ResumeSession" => sessions::resume(hub, &host, parse(&body)?),
        "TerminateSession" => sessions::terminate(hub, parse(&body)?),
        "DescribeSessions" => sessions::describe(hub, parse(&body)?),
        "GetConnectionStatus" => instances::connection_status(hub, parse(&body)?),
        "DescribeInstanceInformation" => instances::describe(hub, parse(&body)?),
        _ => Err(ApiError::new(
            Kind::UnknownOperation,
            format!("{operation} is not emulated"),
        )),
    }
}

/// What a caller who may call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admitted {
    /// What the operation answers.
    Fully,
    /// A success without the token that it should have, as a fault wants it.
    WithoutToken,
}

/// Whether the caller may call `operation`: signed, with credentials that do not ask to be refused, and with no fault
/// in the way.
fn admit(hub: &Hub, headers: &HeaderMap, operation: &str) -> Result<Admitted, ApiError> {
    if !headers.contains_key(AUTHORIZATION) {
        return Err(ApiError::new(
            Kind::UnrecognizedClient,
            "The security token included in the request is invalid.",
        ));
    }
    clock::check(headers, clock::now(&hub.faults))?;
    check_knobs(headers)?;
    let caller = identity::caller(hub, headers)?;
    tracing::debug!(operation, caller, "called");
    check_operation(headers, operation)?;
    match hub.faults.on_call(operation, access_key(headers)) {
        None => Ok(Admitted::Fully),
        Some(answer) => ApiError::injected(answer).map_or(Ok(Admitted::WithoutToken), Err),
    }
}

/// Where a client is to open its data channel: where it has sent its request, so that whatever it went through, such
/// as a proxy, is in that way too. A name that is not of this machine is not ours to promise.
fn gateway_host(hub: &Hub, headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    let is_loopback = |authority: &Authority| {
        let name = authority.host().trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    match authority.filter(is_loopback) {
        Some(authority) => authority.to_string(),
        None => hub.addr.to_string(),
    }
}

/// The access key id that a request is signed with.
pub(crate) fn access_key(headers: &HeaderMap) -> Option<&str> {
    let (_, scope) = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once("Credential=")?;
    scope.split('/').next()
}

/// Refuses the credentials that ask to be refused: see the test knobs in [`crate::emulator`].
pub(crate) fn check_knobs(headers: &HeaderMap) -> Result<(), ApiError> {
    let contains = |word: &str| {
        let token = headers
            .get("x-amz-security-token")
            .and_then(|value| value.to_str().ok());
        [access_key(headers), token]
            .into_iter()
            .flatten()
            .any(|text| text.contains(word))
    };
    if contains("EXPIRED") {
        Err(ApiError::new(
            Kind::ExpiredToken,
            "The security token included in the request is expired",
        ))
    } else if contains("DENIED") {
        Err(ApiError::new(
            Kind::AccessDenied,
            "User: arn:aws:iam::000000000000:user/emulator is not authorized to perform this action",
        ))
    } else {
        Ok(())
    }
}

/// Refuses what the session token asks to be refused for `operation`, as in `DENY.StartSession`.
pub(crate) fn check_operation(headers: &HeaderMap, operation: &str) -> Result<(), ApiError> {
    let token = headers.get("x-amz-security-token");
    let token = token.and_then(|token| token.to_str().ok());
    let words: Vec<_> = token.unwrap_or_default().split(',').collect();
    let asks_for = |verb: &str| words.contains(&format!("{verb}.{operation}").as_str());
    let (kind, message) = if asks_for("DENY") {
        (Kind::AccessDenied, "is not authorized to perform")
    } else if asks_for("EXPIRE") {
        (Kind::ExpiredToken, "the security token is expired for")
    } else if asks_for("THROTTLE") {
        (Kind::Throttling, "Rate exceeded for")
    } else {
        return Ok(());
    };
    Err(ApiError::new(
        kind,
        format!("User: emulator {message}: {operation}"),
    ))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(Kind::Validation, format!("malformed request: {error}")))
}

/// Part of a list, and where the next part begins.
struct Page<T> {
    items: Vec<T>,
    next_token: Option<String>,
}

/// Cuts a page out of `items`; the token is the number of items before it.
fn page<T>(
    items: Vec<T>,
    token: Option<&str>,
    max_results: Option<usize>,
    limits: std::ops::RangeInclusive<usize>,
) -> Result<Page<T>, ApiError> {
    let size = max_results.unwrap_or(*limits.end());
    if !limits.contains(&size) {
        return Err(ApiError::new(
            Kind::Validation,
            format!(
                "MaxResults must be from {} to {}",
                limits.start(),
                limits.end()
            ),
        ));
    }
    let start = match token {
        None => 0,
        Some(token) => token.parse().map_err(|_| {
            ApiError::new(Kind::InvalidNextToken, "the NextToken is not one of ours")
        })?,
    };
    let total = items.len();
    let items: Vec<T> = items.into_iter().skip(start).take(size).collect();
    let end = start.saturating_add(items.len());
    Ok(Page {
        items,
        next_token: (end < total).then(|| end.to_string()),
    })
}

/// Seconds since 1970, as JSON 1.1 writes times.
fn epoch_seconds(time: std::time::SystemTime) -> f64 {
    time.duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |age| (age.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// Text of an RFC 3339 time in UTC, such as `2026-01-31T12:00:00Z`, as a comparable string cut to
/// seconds; the service's filters take no other form.
fn rfc3339(time: std::time::SystemTime) -> String {
    let seconds = time
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |age| age.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970 (Howard Hinnant's algorithm), for years after 1970.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn targets_are_checked() {
        for valid in ["i-0123456789abcdef0", "mi-1", "ecs:cluster_task_runtime"] {
            assert!(is_target(valid), "{valid}");
        }
        for invalid in ["", "a b", "i-\u{e9}", &"x".repeat(401)] {
            assert!(!is_target(invalid), "{invalid}");
        }
    }

    #[test]
    fn lists_come_in_pages() {
        let first = page(vec![1, 2, 3], None, Some(2), 1..=50).unwrap();
        assert_eq!(
            (first.items, first.next_token.as_deref()),
            (vec![1, 2], Some("2"))
        );
        let second = page(vec![1, 2, 3], Some("2"), Some(2), 1..=50).unwrap();
        assert_eq!((second.items, second.next_token), (vec![3], None));
        assert!(page(vec![1], Some("x"), None, 1..=50).is_err());
        assert!(page(vec![1], None, Some(51), 1..=50).is_err());
        assert!(
            page(vec![1], Some(&usize::MAX.to_string()), None, 1..=50)
                .unwrap()
                .items
                .is_empty()
        );
    }

    #[test]
    fn times_are_written_in_utc() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn knobs_look_at_key_and_token_only() {
        let mut headers = HeaderMap::new();
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_static(
                "AWS4-HMAC-SHA256 Credential=AKIAEXPIRED/20260101/us-east-1/ssm/aws4_request",
            ),
        );
        assert_eq!(
            check_knobs(&headers).unwrap_err().kind(),
            Kind::ExpiredToken
        );
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_static("AWS4-HMAC-SHA256 Credential=AKIA/EXPIRED, Signature=DENIED"),
        );
        assert!(check_knobs(&headers).is_ok());
        headers.insert("x-amz-security-token", HeaderValue::from_static("xDENIEDx"));
        assert_eq!(
            check_knobs(&headers).unwrap_err().kind(),
            Kind::AccessDenied
        );
    }
}
