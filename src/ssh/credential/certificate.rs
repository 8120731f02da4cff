//! User certificates in files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::Certificate;
use russh::keys::ssh_key::public::KeyData;
use tracing::debug;

use super::error::LoadError;
use super::identity::{public_key_of, read};

/// A user certificate and the file that it is in.
///
/// Those that are valid for hours are replaced by whoever renews them, so the file is read again for each login, as by
/// OpenSSH for each connection.
#[derive(Clone)]
pub struct CertificateFile {
    path: PathBuf,
    /// As it was at first: what is shown when the file has nothing better.
    first: Arc<Certificate>,
}

/// Loads the OpenSSH user certificate at `path`.
///
/// # Errors
/// A [`LoadError`] when the file cannot be read or is something else.
pub fn load_certificate(path: &Path) -> Result<CertificateFile, LoadError> {
    Ok(CertificateFile::new(path, certificate_in(path)?))
}

impl CertificateFile {
    /// The certificate that was read at `path`.
    pub(super) fn new(path: &Path, first: Certificate) -> Self {
        Self {
            path: path.to_owned(),
            first: Arc::new(first),
        }
    }

    /// The key that it certifies, which stays the same.
    pub fn public_key(&self) -> &KeyData {
        self.first.public_key()
    }

    /// The certificate that is in the file now, or the one that was there at first if there is none of the same key.
    pub fn current(&self) -> Arc<Certificate> {
        // What was no file gave all that it had at first, and might be waited for without end.
        if !self.path.is_file() {
            return Arc::clone(&self.first);
        }
        match certificate_in(&self.path) {
            Ok(certificate) if certificate.public_key() == self.public_key() => {
                Arc::new(certificate)
            }
            Ok(_) => {
                debug!(path = %self.path.display(), "not read again: it is of another key now");
                Arc::clone(&self.first)
            }
            Err(error) => {
                debug!(%error, "a certificate cannot be read again");
                Arc::clone(&self.first)
            }
        }
    }
}

fn certificate_in(path: &Path) -> Result<Certificate, LoadError> {
    let text = read(path).map_err(|source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let certificate = public_key_of(&text).and_then(|key| KeyData::from(key).into_certificate());
    certificate.ok_or_else(|| LoadError::NotCertificate {
        path: path.to_owned(),
    })
}
