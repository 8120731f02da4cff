//! The TLS configuration: the system's certificates and those of `AWS_CA_BUNDLE`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Reads the certificates that are trusted, the system's and those in the file `bundle`, off the
/// runtime's threads: it takes a while.
///
/// # Errors
/// When the file cannot be read, or there is none at all.
pub(super) async fn config(bundle: Option<PathBuf>) -> Result<Arc<ClientConfig>, BoxError> {
    tokio::task::spawn_blocking(move || load(bundle)).await?
}

fn load(bundle: Option<PathBuf>) -> Result<Arc<ClientConfig>, BoxError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "some system certificates cannot be read");
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = bundle {
        add_bundle(&mut roots, &path)?;
    }
    if roots.is_empty() {
        return Err("no trusted certificates on this system".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Adds the certificates of the PEM file at `path`; odd ones do not keep the others out.
///
/// # Errors
/// When the file cannot be read, or none of it is a certificate.
fn add_bundle(roots: &mut RootCertStore, path: &Path) -> Result<(), BoxError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_file_iter(path)? {
        match certificate {
            Ok(certificate) => certificates.push(certificate),
            Err(error) => tracing::debug!(%error, "a section of AWS_CA_BUNDLE cannot be read"),
        }
    }
    let (added, ignored) = roots.add_parsable_certificates(certificates);
    if ignored > 0 {
        tracing::warn!(
            added,
            ignored,
            "AWS_CA_BUNDLE has certificates that are none"
        );
    }
    match added {
        0 => Err(format!("no certificate in {}", path.display()).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made for this test by `openssl req -x509`; its key was thrown away.
    const GOOD: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBdTCCARugAwIBAgIUQt+jz2BjonUoQaU7C2C2jBfWgh0wCgYIKoZIzj0EAwIw\n\
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjEwOTA4MjlaGA8yMTI2MTAyODA5MDgy\n\
OVowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFtp\n\
rtLk0uOWMkXIhRDoDjAB/pD0Q49mxkskZyoF1ExkTlJWQHlTE8BCry2mD42t8I9V\n\
ior+7jYGDcz/zW16tjijUzBRMB0GA1UdDgQWBBTAli9oJCWOuFl0czUurinUBmAp\n\
yTAfBgNVHSMEGDAWgBTAli9oJCWOuFl0czUurinUBmApyTAPBgNVHRMBAf8EBTAD\n\
AQH/MAoGCCqGSM49BAMCA0gAMEUCIQDr1V+eiIt2tEJFDDbYUjdATX8PP1fmegmp\n\
UstGBv4AfAIgHIkMotXieOl/WXBXg2h/86eVZvDTtg9e9+XSgwLGeFY=\n\
-----END CERTIFICATE-----\n";

    #[test]
    fn a_missing_bundle_is_an_error() {
        assert!(load(Some("/nonexistent/bundle.pem".into())).is_err());
    }

    /// The result for a bundle of `text`, and how many certificates it added.
    fn bundle(text: &str) -> (Result<(), BoxError>, usize) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut roots = RootCertStore::empty();
        let result = add_bundle(&mut roots, file.path());
        (result, roots.len())
    }

    #[test]
    fn an_odd_certificate_in_the_bundle_is_left_out() {
        let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let torn = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        let (result, count) = bundle(&format!("{odd}{torn}{GOOD}{odd}"));
        result.unwrap();
        assert_eq!(count, 1);
        for none in [odd, torn, ""] {
            assert!(bundle(none).0.is_err(), "{none:?}");
        }
    }
}
