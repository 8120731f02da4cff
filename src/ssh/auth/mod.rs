//! SSH user authentication (RFC 4252), both roles, as pure cores.
//!
//! A core takes the payloads of messages 5, 6 and 50–79 and yields the payloads to send and what
//! has come of them; [`Connection`](crate::ssh::Connection) drives it. Secrets stay outside: the
//! client core asks for a signature or an answer and is given it.

pub mod client;
mod failure;
pub mod server;
mod verify;

pub use self::verify::CertificateFault;
pub(crate) use self::verify::check_host_certificate;
use super::wire::{WriteExt as _, msg};

/// The service that authenticates users (RFC 4252 §3).
pub(crate) const USERAUTH_SERVICE: &str = "ssh-userauth";
/// The service that follows authentication (RFC 4254 §1).
pub(crate) const CONNECTION_SERVICE: &str = "ssh-connection";

/// The part of an algorithm name that marks an OpenSSH certificate (PROTOCOL.certkeys).
const CERTIFICATE_SUFFIX: &str = "-cert-v01@openssh.com";

/// One public key algorithm as it is named in an authentication request.
///
/// For most, the three names agree; they differ for RSA, where one key type has several signature
/// algorithms (RFC 8332 §3), and for certificates, which are signed with the plain key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Algorithm {
    /// The name in the request.
    pub(crate) name: &'static str,
    /// The type at the start of the public key blob.
    pub(crate) key_type: &'static str,
    /// The name at the start of the signature.
    pub(crate) signature: &'static str,
}

const fn same(name: &'static str) -> Algorithm {
    certified(name, name, name)
}

const fn certified(
    name: &'static str,
    key_type: &'static str,
    signature: &'static str,
) -> Algorithm {
    Algorithm {
        name,
        key_type,
        signature,
    }
}

/// Every algorithm offered and accepted, the preferred one of a key type first.
///
/// `ssh-rsa` (SHA-1) and `ssh-dss` are absent on purpose.
const ALGORITHMS: [Algorithm; 16] = [
    same("ssh-ed25519"),
    same("ecdsa-sha2-nistp256"),
    same("ecdsa-sha2-nistp384"),
    same("ecdsa-sha2-nistp521"),
    same("sk-ssh-ed25519@openssh.com"),
    same("sk-ecdsa-sha2-nistp256@openssh.com"),
    certified("rsa-sha2-512", "ssh-rsa", "rsa-sha2-512"),
    certified("rsa-sha2-256", "ssh-rsa", "rsa-sha2-256"),
    certified(
        "ssh-ed25519-cert-v01@openssh.com",
        "ssh-ed25519-cert-v01@openssh.com",
        "ssh-ed25519",
    ),
    certified(
        "ecdsa-sha2-nistp256-cert-v01@openssh.com",
        "ecdsa-sha2-nistp256-cert-v01@openssh.com",
        "ecdsa-sha2-nistp256",
    ),
    certified(
        "ecdsa-sha2-nistp384-cert-v01@openssh.com",
        "ecdsa-sha2-nistp384-cert-v01@openssh.com",
        "ecdsa-sha2-nistp384",
    ),
    certified(
        "ecdsa-sha2-nistp521-cert-v01@openssh.com",
        "ecdsa-sha2-nistp521-cert-v01@openssh.com",
        "ecdsa-sha2-nistp521",
    ),
    certified(
        "sk-ssh-ed25519-cert-v01@openssh.com",
        "sk-ssh-ed25519-cert-v01@openssh.com",
        "sk-ssh-ed25519@openssh.com",
    ),
    certified(
        "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
        "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ),
    certified(
        "rsa-sha2-512-cert-v01@openssh.com",
        "ssh-rsa-cert-v01@openssh.com",
        "rsa-sha2-512",
    ),
    certified(
        "rsa-sha2-256-cert-v01@openssh.com",
        "ssh-rsa-cert-v01@openssh.com",
        "rsa-sha2-256",
    ),
];

impl Algorithm {
    /// The algorithm called `name` in a request.
    fn from_name(name: &[u8]) -> Option<Self> {
        let known = |algorithm: &&Self| algorithm.name.as_bytes() == name;
        ALGORITHMS.iter().find(known).copied()
    }

    /// Whether the key comes in an OpenSSH certificate.
    fn is_certificate(self) -> bool {
        self.name.ends_with(CERTIFICATE_SUFFIX)
    }
}

/// The bytes a client signs to prove that it holds a key (RFC 4252 §7).
fn signed_data(
    session_id: &[u8],
    user: &str,
    service: &str,
    algorithm: &str,
    key_blob: &[u8],
) -> Vec<u8> {
    let mut data = Vec::with_capacity(128 + session_id.len() + user.len() + key_blob.len());
    data.put_string(session_id);
    put_publickey_request(&mut data, user, service, algorithm, key_blob, true);
    data
}

/// Appends a `publickey` request up to, and without, its signature.
fn put_publickey_request(
    out: &mut Vec<u8>,
    user: &str,
    service: &str,
    algorithm: &str,
    key_blob: &[u8],
    signed: bool,
) {
    out.put_byte(msg::USERAUTH_REQUEST)
        .put_string(user)
        .put_string(service)
        .put_string("publickey")
        .put_bool(signed)
        .put_string(algorithm)
        .put_string(key_blob);
}

/// Text of the peer made fit for a terminal: no control characters but newline and tab, and at
/// most `limit` bytes (RFC 4252 §5.4 asks for the filter).
pub(crate) fn printable(text: &[u8], limit: usize) -> String {
    let text = &text[..text.len().min(limit)];
    String::from_utf8_lossy(text)
        .chars()
        .filter(|character| !character.is_control() || matches!(character, '\n' | '\t'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_the_peer_are_dropped() {
        assert_eq!(
            printable(b"hi\x1b[2J\r\n\tyou\xff", 64),
            "hi[2J\n\tyou\u{fffd}"
        );
        assert_eq!(printable(b"abcdef", 3), "abc");
    }

    #[test]
    fn certificate_algorithms_sign_with_the_plain_key() {
        for algorithm in ALGORITHMS {
            assert!(!algorithm.signature.contains("-cert-"), "{algorithm:?}");
            assert_eq!(
                algorithm.name.ends_with(CERTIFICATE_SUFFIX),
                algorithm.key_type.ends_with(CERTIFICATE_SUFFIX)
            );
        }
    }
}
