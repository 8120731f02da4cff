use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use russh::keys::HashAlg;

use super::*;
use crate::ssh::host_key;
use crate::ssh::transport::algorithm::Named as _;

/// A copy of a test key that nobody else can read, as Git does not keep that mode.
struct Copy {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Copy {
    fn of(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("keys");
        let path = directory.path().join(name);
        std::fs::copy(keys.join(name), &path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let certificate = format!("{name}-cert.pub");
        if keys.join(&certificate).exists() {
            std::fs::copy(keys.join(&certificate), directory.path().join(certificate)).unwrap();
        }
        Self {
            _directory: directory,
            path,
        }
    }
}

fn no_passphrase(path: &Path) -> Option<Zeroizing<String>> {
    panic!("{} is not encrypted", path.display())
}

fn passphrase(_: &Path) -> Option<Zeroizing<String>> {
    Some(Zeroizing::new("ssmshim".to_owned()))
}

fn key_of(credential: &Credential) -> &PrivateKey {
    match credential {
        Credential::Key { key, .. } => key,
        other => panic!("{other:?}"),
    }
}

fn public(name: &str) -> PublicKey {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("keys")
        .join(name);
    PublicKey::read_openssh_file(path).unwrap()
}

#[test]
fn every_format_is_loaded_and_signs() {
    let cases = [
        ("ed25519", "ed25519.pub", "ssh-ed25519"),
        (
            "ed25519_passphrase",
            "ed25519_passphrase.pub",
            "ssh-ed25519",
        ),
        ("rsa2048", "rsa2048.pub", "rsa-sha2-512"),
        ("rsa2048_pkcs1.pem", "rsa2048.pub", "rsa-sha2-256"),
        (
            "rsa2048_pkcs1_passphrase.pem",
            "rsa2048.pub",
            "rsa-sha2-512",
        ),
        ("rsa2048_pkcs8.pem", "rsa2048.pub", "rsa-sha2-512"),
        (
            "rsa2048_pkcs8_passphrase.pem",
            "rsa2048.pub",
            "rsa-sha2-512",
        ),
        ("rsa3072", "rsa3072.pub", "rsa-sha2-512"),
        ("ecdsa_p256", "ecdsa_p256.pub", "ecdsa-sha2-nistp256"),
        (
            "ecdsa_p256_sec1.pem",
            "ecdsa_p256.pub",
            "ecdsa-sha2-nistp256",
        ),
        (
            "ecdsa_p256_pkcs8.pem",
            "ecdsa_p256.pub",
            "ecdsa-sha2-nistp256",
        ),
        ("ecdsa_p384", "ecdsa_p384.pub", "ecdsa-sha2-nistp384"),
        (
            "ecdsa_p384_sec1.pem",
            "ecdsa_p384.pub",
            "ecdsa-sha2-nistp384",
        ),
        ("ecdsa_p521", "ecdsa_p521.pub", "ecdsa-sha2-nistp521"),
        (
            "ecdsa_p521_sec1.pem",
            "ecdsa_p521.pub",
            "ecdsa-sha2-nistp521",
        ),
    ];
    for (name, public_name, algorithm) in cases {
        let copy = Copy::of(name);
        let credentials = if name.contains("passphrase") {
            load_identity(&copy.path, &mut passphrase)
        } else {
            load_identity(&copy.path, &mut no_passphrase)
        };
        let credentials = credentials.unwrap();
        assert_eq!(credentials.len(), 1, "{name}");
        let key = key_of(&credentials[0]);
        let public = public(public_name);
        assert_eq!(key.public_key().key_data(), public.key_data(), "{name}");

        // Checked by another implementation than the one that signs.
        let signature = sign(key, algorithm, b"data").unwrap();
        let known = host_key::Algorithm::from_name(algorithm.as_bytes()).unwrap();
        let blob = public.to_bytes().unwrap();
        host_key::verify(&blob, known, b"data", &signature).unwrap();
    }
    let copy = Copy::of("ed25519_pkcs8.pem");
    let credentials = load_identity(&copy.path, &mut no_passphrase).unwrap();
    assert_eq!(key_of(&credentials[0]).algorithm(), Algorithm::Ed25519);
}

#[test]
fn a_key_signs_in_its_own_way_only() {
    let copy = Copy::of("rsa2048");
    let credentials = load_identity(&copy.path, &mut no_passphrase).unwrap();
    let rsa = key_of(&credentials[0]);
    for algorithm in ["ssh-rsa", "ssh-ed25519", "rsa-sha2-1024", ""] {
        assert_eq!(sign(rsa, algorithm, b"data"), None, "{algorithm}");
    }
}

#[test]
fn the_certificate_beside_a_key_is_offered_first() {
    for name in ["user_cert", "rsa_user_cert"] {
        let copy = Copy::of(name);
        let credentials = load_identity(&copy.path, &mut no_passphrase).unwrap();
        let [
            Credential::Key {
                certificate: Some(certificate),
                ..
            },
            Credential::Key {
                certificate: None, ..
            },
        ] = credentials.as_slice()
        else {
            panic!("{credentials:?}");
        };
        assert_eq!(certificate.valid_principals(), ["tester", "root"]);
    }
}

#[test]
fn a_certificate_of_another_key_is_refused() {
    let copy = Copy::of("user_cert");
    let beside = copy.path.with_file_name("user_cert-cert.pub");
    for text in [
        include_str!("../../keys/rsa_user_cert-cert.pub"),
        include_str!("../../keys/ed25519.pub"),
        "nonsense",
    ] {
        std::fs::write(&beside, text).unwrap();
        let error = load_identity(&copy.path, &mut no_passphrase).unwrap_err();
        assert!(matches!(error, LoadError::BadCertificate { .. }), "{error}");
    }
}

#[test]
fn passphrases_are_asked_for_three_times() {
    for name in [
        "ed25519_passphrase",
        "rsa2048_pkcs1_passphrase.pem",
        "rsa2048_pkcs8_passphrase.pem",
    ] {
        let copy = Copy::of(name);
        let mut asked = 0;
        let mut third_is_right = |path: &Path| {
            asked += 1;
            if asked == 3 {
                passphrase(path)
            } else {
                Some(Zeroizing::new("wrong".to_owned()))
            }
        };
        load_identity(&copy.path, &mut third_is_right).unwrap();

        let mut wrong = |_: &Path| Some(Zeroizing::new("wrong".to_owned()));
        let error = load_identity(&copy.path, &mut wrong).unwrap_err();
        assert!(
            matches!(error, LoadError::WrongPassphrase { .. }),
            "{error}"
        );

        let error = load_identity(&copy.path, &mut |_| None).unwrap_err();
        assert!(
            matches!(error, LoadError::PassphraseMissing { .. }),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("ssh-add"));
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let copy = Copy::of("ed25519");
    for mode in [0o644, 0o640, 0o604] {
        std::fs::set_permissions(&copy.path, Permissions::from_mode(mode)).unwrap();
        let error = load_identity(&copy.path, &mut no_passphrase).unwrap_err();
        assert!(matches!(error, LoadError::TooOpen { .. }), "{error}");
        assert!(error.hint().unwrap().starts_with("chmod 600"));
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        load_identity(&path, &mut passphrase).unwrap_err()
    };
    let pem = |label: &str, headers: &str| {
        format!("-----BEGIN {label}-----\n{headers}AAAA\n-----END {label}-----\n")
    };
    assert!(matches!(load(""), LoadError::Unknown { .. }));
    assert!(matches!(load("\u{0}\u{1}"), LoadError::Unknown { .. }));
    assert!(matches!(
        load(&pem("OPENSSH PRIVATE KEY", "")),
        LoadError::Unknown { .. }
    ));
    let error = load(&pem(
        "RSA PRIVATE KEY",
        "Proc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,0011\n\n",
    ));
    assert!(
        matches!(&error, LoadError::UnsupportedEncryption { cipher, .. } if cipher == "DES-EDE3-CBC"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("ssh-keygen -p"));
    let missing = load_identity(Path::new("/nonexistent"), &mut passphrase).unwrap_err();
    assert!(matches!(missing, LoadError::Unreadable { .. }));
}

#[test]
fn secrets_are_not_printed() {
    let copy = Copy::of("ed25519");
    let credentials = load_identity(&copy.path, &mut no_passphrase).unwrap();
    let password = Credential::Password(Arc::new(Zeroizing::new("hunter2".to_owned())));
    let shown = format!("{credentials:?} {password:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(!shown.contains("private"), "{shown}");
    let _ = key_of(&credentials[0]).fingerprint(HashAlg::Sha256);
}
