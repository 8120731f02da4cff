//! Signatures with keys of files.

use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{Algorithm, PrivateKey};

/// Signs `data` with `key` by the algorithm called `algorithm` (its signature name); the result is
/// a signature blob. None when the key does not sign in that way.
pub(crate) fn sign(key: &PrivateKey, algorithm: &str, data: &[u8]) -> Option<Vec<u8>> {
    use russh::keys::signature::Signer as _;
    use russh::keys::ssh_key::Signature;

    let algorithm = Algorithm::new(algorithm).ok()?;
    let signature: Signature = match (key.key_data(), &algorithm) {
        (KeypairData::Rsa(pair), Algorithm::Rsa { hash: Some(hash) }) => {
            (pair, Some(*hash)).try_sign(data).ok()?
        }
        (KeypairData::Rsa(_), _) => return None,
        (pair, _) => pair.try_sign(data).ok()?,
    };
    if signature.algorithm() != algorithm {
        return None;
    }
    Vec::try_from(signature).ok()
}
