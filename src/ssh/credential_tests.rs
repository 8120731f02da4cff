use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use std::sync::atomic::{AtomicUsize, Ordering};

use russh::keys::ssh_key::certificate::Builder;
use russh::keys::{Algorithm, Certificate, HashAlg};

use super::*;
use crate::ssh::auth::client::{Offer, Outcome};
use crate::ssh::host_key;
use crate::ssh::memory::Memory;
use crate::ssh::person::{Answer, Answers, Attendance, Inquiry, Nobody, Topic, Unanswered};
use crate::ssh::transport::algorithm::Named as _;
use crate::ssh::wallet::Wallet;

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

/// Types the same passphrases, one after the other, and counts how often it was asked.
struct Typist {
    passphrases: Vec<&'static str>,
    asked: AtomicUsize,
}

impl Typist {
    fn new(passphrases: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            passphrases: passphrases.to_vec(),
            asked: AtomicUsize::new(0),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Answer for Typist {
    fn answer<'a>(&'a self, inquiry: &'a Inquiry<'a>) -> Answers<'a> {
        assert!(matches!(inquiry.topic, Topic::Key { .. }));
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        let passphrase = self.passphrases.get(turn).ok_or(Unanswered::GaveUp);
        let answer = passphrase.map(|text| vec![Zeroizing::new((*text).to_owned())]);
        Box::pin(std::future::ready(answer))
    }
}

fn nobody() -> Arc<dyn Answer> {
    Arc::new(Nobody)
}

fn load(path: &Path) -> Result<Vec<Credential>, LoadError> {
    load_identity(path, &nobody())
}

fn key_of(credential: &Credential) -> &Arc<PrivateKey> {
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

#[tokio::test]
async fn every_format_is_loaded_and_signs() {
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
        let typist = Typist::new(&["ssmshim"]);
        let credentials = load_identity(&copy.path, &(typist.clone() as Arc<dyn Answer>));
        let credentials = credentials.unwrap();
        assert_eq!(credentials.len(), 1, "{name}");
        let key = match &credentials[0] {
            Credential::Locked { key, .. } => {
                let here = Attendance::default();
                let opened = key.open(Some(&here)).await.unwrap();
                // Once: then it is open, for those nobody waits for as well.
                assert!(key.open(None).await.is_ok());
                opened
            }
            other => Arc::clone(key_of(other)),
        };
        assert_eq!(
            typist.asked(),
            usize::from(name.contains("passphrase")),
            "{name}"
        );
        let public = public(public_name);
        assert_eq!(key.public_key().key_data(), public.key_data(), "{name}");

        // Checked by another implementation than the one that signs.
        let signature = sign(&key, algorithm, b"data").unwrap();
        let known = host_key::Algorithm::from_name(algorithm.as_bytes()).unwrap();
        let blob = public.to_bytes().unwrap();
        host_key::verify(&blob, known, b"data", &signature).unwrap();
    }
    let copy = Copy::of("ed25519_pkcs8.pem");
    let credentials = load(&copy.path).unwrap();
    assert_eq!(key_of(&credentials[0]).algorithm(), Algorithm::Ed25519);
}

#[test]
fn a_key_signs_in_its_own_way_only() {
    let copy = Copy::of("rsa2048");
    let credentials = load(&copy.path).unwrap();
    let rsa = key_of(&credentials[0]);
    for algorithm in ["ssh-rsa", "ssh-ed25519", "rsa-sha2-1024", ""] {
        assert_eq!(sign(rsa, algorithm, b"data"), None, "{algorithm}");
    }
}

#[test]
fn the_certificate_beside_a_key_is_offered_first() {
    for name in ["user_cert", "rsa_user_cert"] {
        let copy = Copy::of(name);
        let credentials = load(&copy.path).unwrap();
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
        let certificate = certificate.current();
        assert_eq!(certificate.valid_principals(), ["tester", "root"]);
    }
}

/// The keys that a login by `credentials` would offer now, in this order.
async fn offered(credentials: &[Credential]) -> Vec<Vec<u8>> {
    let here = Some(Attendance::default());
    let wallet = Wallet::open(credentials, "tester", here, &Memory::default()).await;
    let blob = |offer| match offer {
        Offer::PublicKey { blob, .. } => blob,
        other => panic!("{other:?}"),
    };
    wallet.offers().into_iter().map(blob).collect()
}

#[tokio::test]
async fn a_certificate_is_read_again_for_each_login() {
    let authority = PrivateKey::from_openssh(include_str!("../../keys/user_ca")).unwrap();
    let sign = |key: &PublicKey, serial| {
        let mut certificate = Builder::new([0; 16], key.clone(), 0, 4_000_000_000).unwrap();
        certificate.serial(serial).unwrap();
        certificate.all_principals_valid().unwrap();
        certificate.sign(&authority).unwrap()
    };
    for name in ["ed25519", "ed25519_passphrase"] {
        let copy = Copy::of(name);
        let key = public(&format!("{name}.pub"));
        let beside = copy.path.with_file_name(format!("{name}-cert.pub"));
        let write = |text: &str| std::fs::write(&beside, text).unwrap();
        let (first, second) = (sign(&key, 1), sign(&key, 2));
        write(&first.to_openssh().unwrap());
        let typist: Arc<dyn Answer> = Typist::new(&["ssmshim"]);
        let credentials = load_identity(&copy.path, &typist).unwrap();
        let with = |certificate: &Certificate| {
            vec![certificate.to_bytes().unwrap(), key.to_bytes().unwrap()]
        };
        assert_eq!(offered(&credentials).await, with(&first), "{name}");
        write(&second.to_openssh().unwrap());
        assert_eq!(offered(&credentials).await, with(&second), "{name}");

        // Half written, of another key, not there: better the old one than none.
        for text in [
            "ssh-ed25519-cert-v01@openssh.com AAAA",
            include_str!("../../keys/user_cert-cert.pub"),
        ] {
            write(text);
            assert_eq!(offered(&credentials).await, with(&first), "{name}");
        }
        std::fs::remove_file(&beside).unwrap();
        assert_eq!(offered(&credentials).await, with(&first), "{name}");
    }
}

#[test]
fn a_certificate_from_elsewhere_goes_before_its_key() {
    let copy = Copy::of("user_cert");
    let elsewhere = copy.path.with_file_name("certificate");
    std::fs::rename(copy.path.with_file_name("user_cert-cert.pub"), &elsewhere).unwrap();
    let other = Copy::of("ed25519");
    let mut credentials = load(&other.path).unwrap();
    credentials.extend(load(&copy.path).unwrap());
    certify(&mut credentials, &elsewhere).unwrap();
    let is_certified = |credential: &Credential| {
        matches!(
            credential,
            Credential::Key {
                certificate: Some(_),
                ..
            }
        )
    };
    let certified: Vec<_> = credentials.iter().map(is_certified).collect();
    assert_eq!(certified, [false, true, false]);

    let no_certificate = certify(&mut credentials, &copy.path);
    assert!(matches!(
        no_certificate,
        Err(LoadError::NotCertificate { .. })
    ));
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
        let error = load(&copy.path).unwrap_err();
        assert!(matches!(error, LoadError::BadCertificate { .. }), "{error}");
    }
}

fn locked(path: &Path, answer: Arc<dyn Answer>) -> Arc<LockedKey> {
    match load_identity(path, &answer).unwrap().pop() {
        Some(Credential::Locked { key, .. }) => key,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn passphrases_are_asked_for_three_times() {
    let here = Attendance::default();
    for name in [
        "ed25519_passphrase",
        "rsa2048_pkcs1_passphrase.pem",
        "rsa2048_pkcs8_passphrase.pem",
    ] {
        let copy = Copy::of(name);
        let typist = Typist::new(&["wrong", "", "ssmshim"]);
        let key = locked(&copy.path, typist.clone());
        let unattended = Outcome::Unanswered(Unanswered::Unattended);
        assert_eq!(key.open(None).await.err(), Some(unattended));
        key.open(Some(&here)).await.unwrap();
        assert_eq!(typist.asked(), 3);

        let typist = Typist::new(&["wrong"; 9]);
        let refused = locked(&copy.path, typist.clone()).open(Some(&here)).await;
        assert_eq!(refused.err(), Some(Outcome::WrongPassphrase));
        assert_eq!(typist.asked(), 3);

        let refused = locked(&copy.path, nobody()).open(Some(&here)).await;
        let no_terminal = Outcome::Unanswered(Unanswered::NoTerminal);
        assert_eq!(refused.err(), Some(no_terminal));
    }
}

#[test]
fn the_public_part_of_an_encrypted_key_is_known() {
    let copy = Copy::of("ed25519_passphrase");
    let key = locked(&copy.path, nobody());
    let expected = public("ed25519_passphrase.pub");
    assert_eq!(key.public().unwrap().key_data(), expected.key_data());

    // PEM does not tell it, and a file beside it may.
    let copy = Copy::of("rsa2048_pkcs8_passphrase.pem");
    assert!(locked(&copy.path, nobody()).public().is_none());
    let beside = copy.path.with_file_name("rsa2048_pkcs8_passphrase.pem.pub");
    std::fs::write(&beside, include_str!("../../keys/rsa2048.pub")).unwrap();
    assert!(locked(&copy.path, nobody()).public().is_some());
}

#[tokio::test]
async fn a_public_key_of_another_is_noticed() {
    let copy = Copy::of("rsa2048_pkcs8_passphrase.pem");
    let beside = copy.path.with_file_name("rsa2048_pkcs8_passphrase.pem.pub");
    std::fs::write(&beside, include_str!("../../keys/ed25519.pub")).unwrap();
    let key = locked(&copy.path, Typist::new(&["ssmshim"]));
    let opened = key.open(Some(&Attendance::default())).await;
    assert_eq!(opened.err(), Some(Outcome::Declined));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let copy = Copy::of("ed25519");
    for mode in [0o644, 0o640, 0o604] {
        std::fs::set_permissions(&copy.path, Permissions::from_mode(mode)).unwrap();
        let error = load(&copy.path).unwrap_err();
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
        load(&path).unwrap_err()
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
    let missing = super::load_identity(Path::new("/nonexistent"), &nobody()).unwrap_err();
    assert!(matches!(missing, LoadError::Unreadable { .. }));
}

#[test]
fn secrets_are_not_printed() {
    let copy = Copy::of("ed25519");
    let credentials = load(&copy.path).unwrap();
    let password = Credential::Password(Arc::new(Zeroizing::new("hunter2".to_owned())));
    let shown = format!("{credentials:?} {password:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(!shown.contains("private"), "{shown}");
    let _ = key_of(&credentials[0]).fingerprint(HashAlg::Sha256);
}
