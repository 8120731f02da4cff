//! `/faults`: the control endpoint.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::{Faults, Plan};
use crate::emulator::http::{BODY_LIMIT, text};
use crate::emulator::hub::Hub;

/// Path of the endpoint.
pub(crate) const PATH: &str = "/faults";

/// Answers one request: `GET` tells how things stand, `POST` injects a plan, `DELETE` clears; the
/// latter two tell how things stand afterwards.
pub(crate) async fn handle(hub: &Arc<Hub>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let faults = Faults::new(Arc::clone(hub));
    match *request.method() {
        Method::GET => {}
        Method::DELETE => faults.clear(),
        Method::POST => {
            let injected = match read(request).await {
                Ok(plan) => faults.apply(plan).map_err(|error| error.to_string()),
                Err(problem) => Err(problem),
            };
            if let Err(problem) = injected {
                return refuse(&problem);
            }
        }
        _ => return text(StatusCode::METHOD_NOT_ALLOWED, "GET, POST or DELETE\n"),
    }
    match serde_json::to_string(&faults.report()) {
        Ok(report) => answer(StatusCode::OK, report),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn read(request: Request<Incoming>) -> Result<Plan, String> {
    let body = Limited::new(request.into_body(), BODY_LIMIT)
        .collect()
        .await
        .map_err(|_| format!("the body cannot be read, or is longer than {BODY_LIMIT} bytes"))?;
    let body = body.to_bytes();
    let json = std::str::from_utf8(&body).map_err(|_| "the body is not UTF-8".to_owned())?;
    json.parse().map_err(|error: serde_json::Error| {
        format!("not a plan ({error}): see the examples in emulator::fault")
    })
}

fn refuse(problem: &str) -> Response<Full<Bytes>> {
    let example = r#"{"fault": "cut", "side": "client", "how": "reset"}"#;
    let body = json!({ "error": problem, "example": example });
    answer(StatusCode::BAD_REQUEST, body.to_string())
}

fn answer(status: StatusCode, mut body: String) -> Response<Full<Bytes>> {
    body.push('\n');
    let mut response = text(status, body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
