//! One signed call: a POST to a service's endpoint, and its answer or the error that it spells.

use std::convert::Infallible;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SigningParams, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime::client::orchestrator::operation::Operation as Exchange;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::interceptors::context::{Error as ErasedError, Output};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::ser_de::DeserializeResponse;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use backon::{ExponentialBuilder, Retryable as _};
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::timeout;
use tracing::debug;

use super::endpoint::Service;
use super::{Error, Operation};
use crate::ssm::Ssm;
use crate::ssm::api::{CALL_TIMEOUT, retry_after, spoken, timeouts};
use crate::ssm::secret::Secret;

/// Largest answer taken: a page of 100 instances with all their tags has about 1 MiB.
const ANSWER_BYTES: usize = 8 << 20;
/// Longest text of an error that is passed on.
const MESSAGE_CHARS: usize = 500;
/// Repetitions of a call that was throttled or failed in the service.
const REPEATS: usize = 2;
const REPEAT_PAUSE: Duration = Duration::from_millis(250);
/// A service that asks for more patience is taken at its word: the call fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What to ask.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) protocol: Protocol,
    /// Some contain a one-time code.
    pub(super) body: Secret,
}

/// How a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// JSON 1.1; the operation is named by `X-Amz-Target`.
    Json { target: &'static str },
    /// A form asks, XML answers.
    Query,
}

/// A service in a region, with its connections.
#[derive(Debug)]
pub(super) struct Endpoint {
    service: Service,
    region: String,
    uri: Uri,
    exchange: Exchange<Prepared, HttpResponse, Infallible>,
}

impl Endpoint {
    /// Sets up `service` in `region`; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when there can be no such endpoint.
    pub(super) fn new(config: &SdkConfig, region: &str, service: Service) -> Result<Self, Error> {
        let invalid = |error: BoxError| Error::InvalidRequest(error);
        let url = service
            .url(config, region)
            .ok_or_else(|| invalid(format!("`{region}` is no region").into()))?;
        let uri: Uri = url.parse().map_err(|_| {
            invalid(format!("the endpoint URL of {} is no URL", service.signing_name()).into())
        })?;
        if uri.host().is_none() {
            let text = format!("the endpoint URL of {} has no host", service.signing_name());
            return Err(invalid(text.into()));
        }
        let mut builder = Exchange::builder()
            .service_name(service.signing_name())
            .operation_name("call")
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&url)
            .no_auth()
            // Whoever signs decides on repeating: a repeated request needs a new signature.
            .no_retry()
            .timeout_config(timeouts());
        if let Some(client) = config.http_client() {
            builder = builder.http_client(client);
        }
        if let Some(sleep) = config.sleep_impl() {
            builder = builder.sleep_impl(sleep);
        }
        let exchange = builder
            .serializer(|Prepared(request)| Ok::<HttpRequest, BoxError>(request))
            .deserializer_impl(AsItIs)
            .build();
        Ok(Self {
            service,
            region: region.to_owned(),
            uri,
            exchange,
        })
    }

    /// Calls with the credentials of `ssm`, and again with a growing pause where the service asks for patience.
    ///
    /// # Errors
    /// [`enum@Error`], within 15 s but for a person who is asked for credentials.
    pub(super) async fn call(&self, ssm: &Ssm, call: &Call) -> Result<String, Error> {
        ssm.prepare().await?;
        self.call_unattended(ssm, call).await
    }

    /// As [`call`](Self::call), without asking anybody.
    ///
    /// # Errors
    /// [`enum@Error`], within 15 s in any case.
    pub(super) async fn call_unattended(&self, ssm: &Ssm, call: &Call) -> Result<String, Error> {
        let answer = self.repeat(call.operation, || async {
            self.attempt(&ssm.credentials().await?, call).await
        });
        answer.await.map_err(|error| ssm.concluded(error))
    }

    /// As [`call`](Self::call), with these credentials.
    ///
    /// # Errors
    /// [`enum@Error`], within 15 s in any case.
    pub(super) async fn call_as(
        &self,
        credentials: &Credentials,
        call: &Call,
    ) -> Result<String, Error> {
        self.repeat(call.operation, || self.attempt(credentials, call))
            .await
    }

    async fn repeat<F>(
        &self,
        operation: Operation,
        attempt: impl FnMut() -> F,
    ) -> Result<String, Error>
    where
        F: Future<Output = Result<String, Error>>,
    {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(REPEAT_PAUSE)
            .with_jitter()
            .with_max_times(REPEATS);
        let answer = attempt
            .retry(pauses)
            .when(|error| matches!(error, Error::Throttled { .. } | Error::Service { .. }))
            .adjust(pause);
        match timeout(CALL_TIMEOUT, answer).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(Error::unanswered(operation, elapsed)),
        }
    }

    async fn attempt(&self, credentials: &Credentials, call: &Call) -> Result<String, Error> {
        let prepared = self
            .prepare(call, credentials, SystemTime::now())
            .map_err(Error::InvalidRequest)?;
        let response = match self.exchange.invoke(prepared).await {
            Ok(response) => response,
            Err(SdkError::ConstructionFailure(error)) => {
                return Err(Error::InvalidRequest(
                    SdkError::<Infallible, HttpResponse>::ConstructionFailure(error).into(),
                ));
            }
            Err(error) => return Err(Error::unanswered(call.operation, error)),
        };
        let status = response.status();
        debug!(operation = %call.operation, status = status.as_u16(), "answered");
        let kind = response
            .headers()
            .get("x-amzn-errortype")
            .map(str::to_owned);
        let retry_after = retry_after(response.headers());
        let body = Limited::new(response.into_body(), ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| Error::unanswered(call.operation, error))?
            .to_bytes();
        let body = String::from_utf8(body.into())
            .map_err(|error| Error::unanswered(call.operation, error))?;
        if status.is_success() {
            return Ok(body);
        }
        let Problem { code, message } = match call.protocol {
            Protocol::Json { .. } => Problem::of_json(kind, &body),
            Protocol::Query => Problem::of_xml(&body),
        };
        let source: BoxError = if message.is_empty() {
            format!("HTTP status {}", status.as_u16()).into()
        } else {
            message.into()
        };
        Err(Error::classify_answer(
            call.operation,
            status.as_u16(),
            retry_after,
            code,
            source,
        ))
    }

    fn prepare(
        &self,
        call: &Call,
        credentials: &Credentials,
        time: SystemTime,
    ) -> Result<Prepared, BoxError> {
        let host = self.uri.authority().ok_or("the endpoint has no host")?;
        let uri = format!("{}://{host}/", self.uri.scheme_str().unwrap_or("https"));
        let mut builder = Request::post(&uri).header(HOST, host.as_str());
        builder = match call.protocol {
            Protocol::Json { target } => builder
                .header(CONTENT_TYPE, "application/x-amz-json-1.1")
                .header("x-amz-target", target),
            Protocol::Query => builder.header(
                CONTENT_TYPE,
                "application/x-www-form-urlencoded; charset=utf-8",
            ),
        };
        let mut request = builder.body(SdkBody::from(call.body.expose().as_str()))?;
        let identity: Identity = credentials.clone().into();
        let parameters: SigningParams<'_> = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service.signing_name())
            .time(time)
            .settings(SigningSettings::default())
            .build()?
            .into();
        let headers: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| Ok((name.as_str(), value.to_str()?)))
            .collect::<Result<_, http::header::ToStrError>>()?;
        let body = SignableBody::Bytes(call.body.expose().as_bytes());
        let signable = SignableRequest::new("POST", &uri, headers.into_iter(), body)?;
        let (instructions, _signature) = sign(signable, &parameters)?.into_parts();
        instructions.apply_to_request_http1x(&mut request);
        Ok(Prepared(HttpRequest::try_from(request)?))
    }
}

/// How long to wait before a call is repeated: as the service asks, but no longer than somebody waits.
fn pause(error: &Error, usual: Option<Duration>) -> Option<Duration> {
    let asked = error.retry_after().unwrap_or_default();
    usual
        .map(|usual| usual.max(asked))
        .filter(|_| asked <= LONGEST_PAUSE)
}

/// A request with its signature, which must not reach a log.
struct Prepared(HttpRequest);

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared([redacted])")
    }
}

/// Hands the answer over unread, so that it can be read with a bound.
#[derive(Debug)]
struct AsItIs;

impl DeserializeResponse for AsItIs {
    fn deserialize_streaming_with_config(
        &self,
        response: &mut HttpResponse,
        _config: &ConfigBag,
    ) -> Option<Result<Output, OrchestratorError<ErasedError>>> {
        let status = StatusCode::try_from(200).ok()?;
        let taken = std::mem::replace(response, HttpResponse::new(status, SdkBody::empty()));
        Some(Ok(Output::erase(taken)))
    }

    fn deserialize_nonstreaming_with_config(
        &self,
        _response: &HttpResponse,
        _config: &ConfigBag,
    ) -> Result<Output, OrchestratorError<ErasedError>> {
        Err(OrchestratorError::other("the answer was taken already"))
    }
}

/// What an error answer says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Problem {
    code: String,
    message: String,
}

impl Problem {
    fn new(code: &str, message: &str) -> Self {
        // `namespace#Code:http://…` is Code.
        let code = code.rsplit('#').next().unwrap_or_default();
        let code = code.split(':').next().unwrap_or_default().trim();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
        Self {
            code: code.chars().filter(|c| is_word(*c)).take(100).collect(),
            message: spoken(message).chars().take(MESSAGE_CHARS).collect(),
        }
    }

    fn of_json(kind: Option<String>, body: &str) -> Self {
        let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        let text = |name: &str| json.get(name).and_then(serde_json::Value::as_str);
        let code = kind
            .as_deref()
            .or_else(|| text("__type"))
            .or_else(|| text("code"));
        let message = text("message").or_else(|| text("Message"));
        Self::new(code.unwrap_or_default(), message.unwrap_or_default())
    }

    /// `Response/Errors/Error` of EC2, `ErrorResponse/Error` of the others.
    fn of_xml(body: &str) -> Self {
        use aws_smithy_xml::decode::{Document, try_data};

        let mut document = Document::new(body);
        let (mut code, mut message) = (String::new(), String::new());
        while let Some(start) = document.next_start_element() {
            let target = match start.local() {
                "Code" if code.is_empty() => &mut code,
                "Message" if message.is_empty() => &mut message,
                _ => continue,
            };
            if let Ok(text) = try_data(&mut document.scoped_to(start)) {
                *target = text.into_owned();
            }
        }
        Self::new(&code, &message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(code: &str, message: &str) -> Problem {
        Problem {
            code: code.into(),
            message: message.into(),
        }
    }

    #[test]
    fn errors_are_read_in_every_shape() {
        let ec2 = "<?xml version=\"1.0\"?>\n<Response><Errors><Error><Code>UnauthorizedOperation</Code>\
            <Message>You are not authorized &amp; so on.</Message></Error></Errors>\
            <RequestID>1</RequestID></Response>";
        assert_eq!(
            Problem::of_xml(ec2),
            problem("UnauthorizedOperation", "You are not authorized & so on")
        );
        let sts = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
            <Type>Sender</Type><Code>ExpiredToken</Code><Message>expired</Message></Error></ErrorResponse>";
        assert_eq!(Problem::of_xml(sts), problem("ExpiredToken", "expired"));
        let json = r#"{"__type":"com.amazonaws#AuthException","Message":"no"}"#;
        assert_eq!(Problem::of_json(None, json), problem("AuthException", "no"));
        let kind = Some("ThrottlingException:http://internal.amazon.com/".to_owned());
        assert_eq!(
            Problem::of_json(kind, "{}"),
            problem("ThrottlingException", "")
        );
        let sts = "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>It does not match.\n\n\
            The Canonical String for this request should have been\n'POST\nx-amz-security-token:FwoGZXIvYXdz'\
            </Message></Error></ErrorResponse>";
        assert_eq!(
            Problem::of_xml(sts),
            problem("SignatureDoesNotMatch", "It does not match")
        );
        assert_eq!(Problem::of_xml("<html>bad gateway"), Problem::default());
        assert_eq!(Problem::of_json(None, "\u{1b}["), Problem::default());
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(text in "(<[a-zA-Z/!?&;]{0,9}>|<Code>|</Error>|[ -~]{0,8}){0,40}") {
            let _ = Problem::of_xml(&text);
            let _ = Problem::of_json(None, &text);
        }
    }
}
