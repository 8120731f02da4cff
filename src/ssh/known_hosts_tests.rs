use std::os::unix::fs::MetadataExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::line::Line;
use super::*;

const ED25519: &str = include_str!("../../keys/ed25519.pub");
const RSA: &str = include_str!("../../keys/rsa2048.pub");
const OTHER: &str = include_str!("../../keys/user_cert.pub");
const HOST_CA: &str = include_str!("../../keys/host_ca.pub");
const HOST_CERTIFICATE: &str = include_str!("../../keys/host_cert-cert.pub");
const USER_CERTIFICATE: &str = include_str!("../../keys/user_cert-cert.pub");
const TARGET: &str = "i-0123456789abcdef0";

fn blob(public: &str) -> Vec<u8> {
    STANDARD
        .decode(public.split_whitespace().nth(1).unwrap())
        .unwrap()
}

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if !text.is_empty() {
            std::fs::write(directory.path().join("known_hosts"), text).unwrap();
        }
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("known_hosts")
    }

    fn verify(&self, name: &str, mode: Mode, key: &str) -> Result<(), HostKeyError> {
        KnownHosts::new(vec![self.path()], name, mode).verify(&blob(key))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap_or_default()
    }
}

#[test]
fn a_new_host_is_remembered_once_and_pinned() {
    let files = Files::new("");
    let unknown = files.verify(TARGET, Mode::Yes, ED25519).unwrap_err();
    assert!(matches!(unknown, HostKeyError::Unknown { .. }), "{unknown}");
    assert!(!files.path().exists());

    for _ in 0..2 {
        files.verify(TARGET, Mode::AcceptNew, ED25519).unwrap();
    }
    let key = ED25519.split_whitespace().nth(1).unwrap();
    assert_eq!(files.text(), format!("{TARGET} ssh-ed25519 {key}\n"));
    assert_eq!(
        std::fs::metadata(files.path()).unwrap().mode() & 0o777,
        0o600
    );
    files.verify(TARGET, Mode::Yes, ED25519).unwrap();

    for (mode, key) in [
        (Mode::AcceptNew, OTHER),
        (Mode::Yes, OTHER),
        (Mode::AcceptNew, RSA),
    ] {
        let changed = files.verify(TARGET, mode, key).unwrap_err();
        let HostKeyError::Changed { line: 1, .. } = &changed else {
            panic!("{changed}");
        };
        let text = changed.to_string();
        for part in [
            &fingerprint(&blob(key)),
            &fingerprint(&blob(ED25519)),
            "known_hosts:1",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(
            changed
                .hint()
                .unwrap()
                .contains(&format!("ssh-keygen -R '{TARGET}'"))
        );
    }
    files.verify(TARGET, Mode::Off, OTHER).unwrap();
    assert_eq!(files.text().lines().count(), 1);
}

#[test]
fn lines_are_added_to_files_of_any_ending() {
    let files = Files::new("other ssh-ed25519 AAAA");
    files.verify(TARGET, Mode::AcceptNew, ED25519).unwrap();
    assert_eq!(files.text().lines().count(), 2);
    files.verify("second", Mode::AcceptNew, ED25519).unwrap();
    assert_eq!(files.text().lines().count(), 3);
}

#[test]
fn names_are_matched_as_in_openssh() {
    let hashed = "|1|JfKTdBh7rNbXkVAQCRp4OQoPfmI=|USECr3SWf1JUPsms5AqfD5QfxkM=";
    let cases = [
        ("host", "host", true),
        ("Host", "hOST", true),
        ("a,host,b", "host", true),
        ("host2", "host", false),
        ("h?st", "host", true),
        ("*", "host", true),
        ("*,!host", "host", false),
        ("!host,*", "host", false),
        ("!other,h*t", "host", true),
        ("!other", "host", false),
        ("*.example", "a.b.example", true),
        ("[host]:22", "[host]:22", true),
        (hashed, "host", false),
        ("|1|nonsense", "host", false),
    ];
    for (hosts, name, expected) in cases {
        let line = Line::parse(&format!("{hosts} {ED25519}")).unwrap();
        assert_eq!(
            line.names(&name.to_ascii_lowercase()),
            expected,
            "{hosts} {name}"
        );
    }
}

#[test]
fn hashed_names_are_found() {
    // Made with `ssh-keygen -H`.
    let hashed = "|1|vH3HrHRxHd9oqnKxDGZh2L5ol8M=|iSKJVbRh2ZyDi4xWhOK/5DcTx+I=";
    let text = format!("{hashed} {ED25519}");
    let files = Files::new(&text);
    files.verify(TARGET, Mode::Yes, ED25519).unwrap();
    assert!(files.verify("other", Mode::Yes, ED25519).is_err());
}

#[test]
fn revoked_keys_are_refused_in_every_mode() {
    for text in [
        format!("{TARGET} {ED25519}@revoked * {ED25519}"),
        format!("@revoked {TARGET} {ED25519}"),
    ] {
        let files = Files::new(&text);
        for mode in [Mode::Yes, Mode::AcceptNew, Mode::Off] {
            let error = files.verify(TARGET, mode, ED25519).unwrap_err();
            assert!(matches!(error, HostKeyError::Revoked { .. }), "{error}");
        }
    }
    // The authority of a certificate too.
    let files = Files::new(&format!("@cert-authority * {HOST_CA}@revoked * {HOST_CA}"));
    let error = files
        .verify(TARGET, Mode::Off, HOST_CERTIFICATE)
        .unwrap_err();
    assert!(matches!(error, HostKeyError::Revoked { .. }), "{error}");
}

#[test]
fn certificates_are_accepted_by_authority_and_name() {
    let files = Files::new(&format!("@cert-authority * {HOST_CA}"));
    files.verify(TARGET, Mode::Yes, HOST_CERTIFICATE).unwrap();
    files
        .verify("TEST.example", Mode::Yes, HOST_CERTIFICATE)
        .unwrap();
    for (text, name, certificate) in [
        (files.text(), "other.example", HOST_CERTIFICATE),
        (files.text(), "root", USER_CERTIFICATE),
        (
            format!("@cert-authority other {HOST_CA}"),
            TARGET,
            HOST_CERTIFICATE,
        ),
        (
            format!("@cert-authority * {ED25519}"),
            TARGET,
            HOST_CERTIFICATE,
        ),
        (format!("* {HOST_CA}"), TARGET, HOST_CERTIFICATE),
    ] {
        let files = Files::new(&text);
        let refused = files.verify(name, Mode::Yes, certificate);
        assert!(refused.is_err(), "{name} by {text}");
    }
    // Without a trusted authority the plain key counts, and is what is remembered.
    let files = Files::new("");
    files
        .verify(TARGET, Mode::AcceptNew, HOST_CERTIFICATE)
        .unwrap();
    files
        .verify(TARGET, Mode::Yes, include_str!("../../keys/host_cert.pub"))
        .unwrap();
}

#[test]
fn algorithms_of_known_keys_are_preferred() {
    let expected = |text: &str| -> Vec<&str> {
        let files = Files::new(text);
        let known = KnownHosts::new(vec![files.path()], TARGET, Mode::Yes);
        let names = known.expected_algorithms().into_iter();
        names.map(|algorithm| algorithm.name()).collect()
    };
    assert_eq!(expected(""), [""; 0]);
    assert_eq!(expected(&format!("{TARGET} {ED25519}")), ["ssh-ed25519"]);
    assert_eq!(
        expected(&format!("{TARGET} {RSA}")),
        ["rsa-sha2-512", "rsa-sha2-256"]
    );
    let certified = expected(&format!("@cert-authority {TARGET} {HOST_CA}"));
    assert!(certified.iter().all(|name| name.contains("-cert-")));
    assert_eq!(certified.len(), 6);
}

#[test]
fn certificates_go_before_keys_and_keys_in_our_order() {
    let text = format!("{TARGET} {RSA}{TARGET} {ED25519}@cert-authority * {HOST_CA}");
    let files = Files::new(&text);
    let known = KnownHosts::new(vec![files.path()], TARGET, Mode::Yes);
    let names: Vec<_> = known.expected_algorithms();
    let names: Vec<_> = names.iter().map(|algorithm| algorithm.name()).collect();
    assert!(names[..6].iter().all(|name| name.contains("-cert-")));
    assert_eq!(names[6..], ["ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256"]);
}

#[test]
fn what_a_trusted_authority_says_wrongly_is_told() {
    let files = Files::new(&format!("@cert-authority * {HOST_CA}"));
    for mode in [Mode::Yes, Mode::AcceptNew] {
        let error = files
            .verify("other.example", mode, HOST_CERTIFICATE)
            .unwrap_err();
        let HostKeyError::OtherPrincipals { principals, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(principals, "test.example, i-0123456789abcdef0");
        assert!(error.hint().unwrap().contains("-n other.example"));
    }
    assert_eq!(files.text().lines().count(), 1, "nothing is remembered");
}

#[test]
fn a_host_is_pinned_under_all_its_names() {
    let files = Files::new("");
    let known = |id: &str, names: &[&str], mode| {
        let known = KnownHosts::new(vec![files.path()], id, mode);
        names
            .iter()
            .fold(known, |known, name| known.also_named(name))
    };
    let first = known(TARGET, &["Web-1", "two words", TARGET], Mode::AcceptNew);
    first.verify(&blob(ED25519)).unwrap();
    let key = ED25519.split_whitespace().nth(1).unwrap();
    assert_eq!(files.text(), format!("{TARGET},web-1 ssh-ed25519 {key}\n"));

    // Known by either name alone, and then written under the pin that was missing.
    known(TARGET, &[], Mode::Yes)
        .verify(&blob(ED25519))
        .unwrap();
    let another = known("i-2", &["web-1"], Mode::Yes);
    another.verify(&blob(ED25519)).unwrap();
    assert_eq!(files.text().lines().count(), 1);
    for _ in 0..2 {
        let another = known("i-2", &["web-1"], Mode::AcceptNew);
        another.verify(&blob(ED25519)).unwrap();
        assert_eq!(files.text().lines().count(), 2);
    }
    assert!(files.text().ends_with(&format!("i-2 ssh-ed25519 {key}\n")));

    // A name that goes over to a machine with another key is a change.
    let error = known("i-3", &["web-1"], Mode::AcceptNew)
        .verify(&blob(OTHER))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the host key of web-1 has changed"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("ssh-keygen -R 'web-1' -f "));
}

#[test]
fn each_port_has_keys_of_its_own() {
    let files = Files::new("");
    let on = |port, mode| KnownHosts::new(vec![files.path()], TARGET, mode).on_port(port);
    on(22, Mode::AcceptNew).verify(&blob(ED25519)).unwrap();
    // What is known without a port is good enough, and what is not is no change.
    on(2022, Mode::Yes).verify(&blob(ED25519)).unwrap();
    assert!(matches!(
        on(2022, Mode::Yes).verify(&blob(OTHER)),
        Err(HostKeyError::Unknown { .. })
    ));
    on(2022, Mode::AcceptNew).verify(&blob(OTHER)).unwrap();
    let line = format!("[{TARGET}]:2022 ssh-ed25519 ");
    assert!(files.text().lines().nth(1).unwrap().starts_with(&line));
    let error = on(2022, Mode::AcceptNew)
        .verify(&blob(HOST_CA))
        .unwrap_err();
    let remedy = format!("ssh-keygen -R '[{TARGET}]:2022' -f ");
    assert!(error.hint().unwrap().contains(&remedy), "{error}");
    on(22, Mode::Yes).verify(&blob(ED25519)).unwrap();

    // An authority is one for every port, and names in certificates have none.
    let files = Files::new(&format!("@cert-authority {TARGET} {HOST_CA}"));
    let known = KnownHosts::new(vec![files.path()], TARGET, Mode::Yes).on_port(2022);
    known.verify(&blob(HOST_CERTIFICATE)).unwrap();
}

#[test]
fn the_remedy_names_every_file_that_has_another_key() {
    let first = Files::new(&format!("{TARGET} {ED25519}"));
    let second = Files::new(&format!("*,!x {RSA}{TARGET} {OTHER}"));
    let known = KnownHosts::new(vec![first.path(), second.path()], TARGET, Mode::AcceptNew);
    let error = known.verify(&blob(HOST_CA)).unwrap_err();
    let command = |files: &Files| {
        let path = files.path();
        format!("ssh-keygen -R '{TARGET}' -f '{}'", path.display())
    };
    let both = format!("{} && {}", command(&first), command(&second));
    assert!(error.hint().unwrap().ends_with(&both), "{error}");
    assert_eq!(quoted("it's"), r"'it'\''s'");
}

#[test]
fn files_of_others_are_only_read() {
    let own = Files::new("");
    let others = Files::new(&format!("{TARGET} {ED25519}"));
    // A directory cannot be read as a file, whoever asks.
    let unreadable = others.directory.path().to_owned();
    let files = vec![own.path(), unreadable.clone(), others.path()];
    let known = KnownHosts::new(files, TARGET, Mode::AcceptNew);
    known.verify(&blob(ED25519)).unwrap();
    assert!(!own.path().exists());
    let known = KnownHosts::new(vec![unreadable], TARGET, Mode::AcceptNew);
    let error = known.verify(&blob(ED25519)).unwrap_err();
    assert!(matches!(error, HostKeyError::File { .. }), "{error}");
}

#[test]
fn several_files_are_read_and_the_first_is_written() {
    let first = Files::new("");
    let second = Files::new(&format!("{TARGET} {ED25519}"));
    let known =
        |name: &str| KnownHosts::new(vec![first.path(), second.path()], name, Mode::AcceptNew);
    known(TARGET).verify(&blob(ED25519)).unwrap();
    assert!(!first.path().exists());
    known("new").verify(&blob(ED25519)).unwrap();
    assert_eq!(first.text().lines().count(), 1);
}

#[test]
fn first_connections_at_once_accept_one_key() {
    let files = Files::new("");
    let accepted = std::thread::scope(|scope| {
        let tries: Vec<_> = [ED25519, RSA, OTHER, HOST_CA]
            .map(|key| scope.spawn(|| files.verify(TARGET, Mode::AcceptNew, key).is_ok()))
            .into_iter()
            .collect();
        tries
            .into_iter()
            .filter_map(|one| one.join().ok())
            .filter(|ok| *ok)
            .count()
    });
    assert_eq!(accepted, 1);
    assert_eq!(files.text().lines().count(), 1);
}

#[test]
fn names_that_would_say_more_are_not_written() {
    for name in [
        "", "a b", "a,b", "*", "!a", "a\nb", "|1|a", "@revoked", "#a",
    ] {
        let files = Files::new("");
        let error = files.verify(name, Mode::AcceptNew, ED25519).unwrap_err();
        assert!(
            matches!(error, HostKeyError::InvalidName { .. }),
            "{name}: {error}"
        );
        assert_eq!(files.text(), "");
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let files = Files::new("text");
    let known = KnownHosts::new(vec![files.path().join("x")], TARGET, Mode::AcceptNew);
    let error = known.verify(&blob(ED25519)).unwrap_err();
    assert!(matches!(error, HostKeyError::File { .. }), "{error}");
}

#[test]
fn fingerprints_are_those_of_ssh_keygen() {
    // ssh-keygen -lf keys/ed25519.pub
    let expected = "SHA256:SH+unftRyjcU4jx0Xt1fEPdyCnQFByKdsPs0jfF41pI";
    assert_eq!(fingerprint(&blob(ED25519)), expected);
}

/// The textbook definition, exponential in the worst case.
fn reference_match(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', pattern_rest)), _) => {
            reference_match(pattern_rest, name)
                || name
                    .split_first()
                    .is_some_and(|(_, name_rest)| reference_match(pattern, name_rest))
        }
        (Some((p, pattern_rest)), Some((n, name_rest))) => {
            (*p == b'?' || p == n) && reference_match(pattern_rest, name_rest)
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn patterns_match_as_defined(pattern in "[ab*?]{0,7}", name in "[ab]{0,7}") {
        prop_assert_eq!(
            matches_pattern(&pattern, &name),
            reference_match(pattern.as_bytes(), name.as_bytes())
        );
    }

    #[test]
    fn no_file_and_no_key_make_it_panic(
        text in prop::collection::vec(any::<u8>(), 0..200),
        key in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let known = parse(Path::new("x"), &text);
        let hosts = KnownHosts::new(vec![], "x", Mode::Yes);
        let _ = hosts.judge(&known, &key, SystemTime::now());
        let mut certificate = blob(HOST_CERTIFICATE);
        certificate.truncate(key.len() * 4);
        let _ = hosts.judge(&known, &certificate, SystemTime::now());
    }
}
