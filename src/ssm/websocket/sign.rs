//! SigV4 of the upgrade request, as the official client does it since 1.2.764.0.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SigningParams, SigningSettings, sign as sign_request,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use http::header::HOST;
use http::{Request, Uri};

use super::BoxError;

const SERVICE: &str = "ssmmessages";

/// Query parameters that say a URL is signed already.
const SIGNATURE_PARAMETERS: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
];

/// Whether the URL brings its own signature, as those of other services do.
pub(super) fn has_signature(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    query
        .split('&')
        .filter_map(|parameter| parameter.split('=').next())
        .any(|name| SIGNATURE_PARAMETERS.contains(&name))
}

/// Adds Authorization, X-Amz-Date and X-Amz-Security-Token to `request`.
///
/// Signed are Host and the x-amz-* headers, over an empty body.
pub(super) fn sign(
    request: &mut Request<()>,
    region: &str,
    credentials: &Credentials,
) -> Result<(), BoxError> {
    sign_at(request, region, credentials, SystemTime::now())
}

fn sign_at(
    request: &mut Request<()>,
    region: &str,
    credentials: &Credentials,
    time: SystemTime,
) -> Result<(), BoxError> {
    let identity: Identity = credentials.clone().into();
    let parameters: SigningParams<'_> = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(time)
        .settings(SigningSettings::default())
        .build()?
        .into();
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.ok_or("the request has no host")?.to_owned();
    let uri = request.uri().to_string();
    let signable = SignableRequest::new(
        request.method().as_str(),
        &uri,
        [(HOST.as_str(), host.as_str())].into_iter(),
        SignableBody::Bytes(&[]),
    )?;
    let (instructions, _signature) = sign_request(signable, &parameters)?.into_parts();
    instructions.apply_to_request_http1x(request);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_lc_rs::{digest, hmac};
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn hmac(key: &[u8], text: &str) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    }

    fn sha256(text: &str) -> String {
        hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
    }

    /// The signature put together by hand from the SigV4 documentation.
    #[test]
    fn signs_host_date_and_token_and_nothing_else() {
        let uri: Uri = "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/user-0a?role=publish_subscribe&cell-number=AAE%3D"
            .parse()
            .unwrap();
        let mut request = uri.into_client_request().unwrap();
        let credentials = Credentials::new("AKID", "secret", Some("session".into()), None, "test");
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        sign_at(&mut request, "eu-west-1", &credentials, time).unwrap();

        let canonical = format!(
            "GET\n/v1/data-channel/user-0a\ncell-number=AAE%3D&role=publish_subscribe\n\
             host:ssmmessages.eu-west-1.amazonaws.com\nx-amz-date:20231114T221320Z\n\
             x-amz-security-token:session\n\nhost;x-amz-date;x-amz-security-token\n{}",
            sha256("")
        );
        let scope = "20231114/eu-west-1/ssmmessages/aws4_request";
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n20231114T221320Z\n{scope}\n{}",
            sha256(&canonical)
        );
        let key = ["20231114", "eu-west-1", "ssmmessages", "aws4_request"]
            .iter()
            .fold(b"AWS4secret".to_vec(), |key, part| hmac(&key, part));
        let expected = format!(
            "AWS4-HMAC-SHA256 Credential=AKID/{scope}, \
             SignedHeaders=host;x-amz-date;x-amz-security-token, Signature={}",
            hex(&hmac(&key, &to_sign))
        );
        let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("authorization"), expected);
        assert_eq!(header("x-amz-date"), "20231114T221320Z");
        assert_eq!(header("x-amz-security-token"), "session");
    }

    #[test]
    fn a_signed_url_is_recognized() {
        let signed: Uri = "wss://x/y?X-Amz-Signature=abc&z=1".parse().unwrap();
        let unsigned: Uri = "wss://x/y?role=publish_subscribe&cell-number=X-Amz-Date"
            .parse()
            .unwrap();
        assert!(has_signature(&signed));
        assert!(!has_signature(&unsigned));
    }
}
