//! Certificates instead of keys: of the user, in a file and in an ssh-agent, and of the target, by OpenSSH's files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::agents::Agent;
use crate::common::process::Run;
use crate::common::sshd::{Sshd, make_key};
use crate::common::world::user;
use crate::common::{have, until};
use crate::far::Far;

/// An sshd with a certified host key that admits whom its authority has certified, and no plain key.
struct Certified {
    far: Far,
    sshd: Sshd,
    authority: PathBuf,
    /// The user's key; its certificate lies beside it.
    key: PathBuf,
}

impl Certified {
    fn new() -> Option<Self> {
        if !have("ssh-keygen") {
            return None;
        }
        let mut started = None;
        let far = Far::new(|directory| {
            let at = directory.join("sshd");
            fs::create_dir_all(&at).expect("our own directory");
            let authority = at.join("authority");
            let host_key = at.join("host_key");
            make_key(&authority);
            make_key(&host_key);
            certify(&authority, &["-h", "-n", "i-0123456789abcdef0"], &host_key);
            let here = at.display();
            let extra = format!(
                "HostCertificate {here}/host_key-cert.pub\nTrustedUserCAKeys {here}/authority.pub\n\
                 AuthorizedKeysFile none"
            );
            let sshd = Sshd::start_with(&at, &extra);
            let port = sshd.as_ref().map_or(0, |sshd| sshd.port);
            started = sshd.map(|sshd| (sshd, authority));
            port
        });
        let (sshd, authority) = started?;
        let key = sshd.identity.clone();
        certify(&authority, &["-n", &user()], &key);
        Some(Self {
            far,
            sshd,
            authority,
            key,
        })
    }

    fn accepted(&self) -> usize {
        self.sshd.log().matches("Accepted publickey").count()
    }

    /// The authority in the user's known_hosts, marked with each of `markers`.
    fn known_hosts(&self, markers: &[&str]) {
        let public = fs::read_to_string(public(&self.authority)).expect("ssh-keygen made it");
        let lines: String = markers
            .iter()
            .map(|marker| format!("{marker} * {public}"))
            .collect();
        let directory = self.far.home().join(".ssh");
        fs::create_dir_all(&directory).expect("our own directory");
        fs::write(directory.join("known_hosts"), lines).expect("our own directory");
    }
}

fn public(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// Makes a certificate of `key` beside it.
fn certify(authority: &Path, options: &[&str], key: &Path) {
    Run::new("ssh-keygen")
        .args(["-q", "-I", "test", "-s"])
        .arg(authority)
        .args(options)
        .arg(public(key))
        .ok();
}

#[test]
fn a_certificate_logs_in_from_a_file_and_from_the_agent() {
    let Some(certified) = Certified::new() else {
        return;
    };
    let far = &certified.far;
    let user = user();
    let key = certified.key.display().to_string();
    let beside = ["--user", &user, "--identity", &key, "--json"];
    far.launch(&beside, &[]).expect("ready");

    let elsewhere = far.directory.path().join("certificate");
    let in_place = certified.key.with_file_name("id_ed25519-cert.pub");
    fs::copy(&in_place, &elsewhere).expect("our own file");
    let agent = have("ssh-agent").then(|| Agent::start(far.directory.path()));
    if let Some(agent) = &agent {
        // With it the agent takes the certificate that lies beside the key.
        agent.add(&certified.key);
        let before = certified.accepted();
        let nothing = ["--user", &user, "--json"];
        far.launch(&nothing, &[agent.variable()]).expect("ready");
        until("the login is logged", || {
            (certified.accepted() > before).then_some(())
        });
    }
    fs::remove_file(&in_place).expect("our own file");
    let elsewhere = elsewhere.display().to_string();
    let named = [&beside[..], &["--certificate", &elsewhere]].concat();
    far.launch(&named, &[]).expect("ready");
    // The plain key alone is not enough.
    let mut daemon = far.launch(&beside, &[]);
    assert_eq!(daemon.wait().0, 1);
}

/// As those who hand out certificates for a day do.
#[test]
fn a_renewed_certificate_is_shown_by_the_next_login() {
    let Some(certified) = Certified::new() else {
        return;
    };
    let user = user();
    let key = certified.key.display().to_string();
    let login = ["--user", &user, "--identity", &key, "--json"];
    let daemon = certified.far.launch(&login, &[]);
    daemon.expect("ready");
    certify(
        &certified.authority,
        &["-z", "2222", "-n", &user],
        &certified.key,
    );
    certified.sshd.end_sessions();
    until("the login with the renewed one is logged", || {
        certified.sshd.log().contains("(serial 2222)").then_some(())
    });
}

#[test]
fn a_certified_host_key_is_known_and_a_revoked_one_refused() {
    let Some(certified) = Certified::new() else {
        return;
    };
    let user = user();
    let key = certified.key.display().to_string();
    let strict = ["--strict-host-key", "yes", "--json"];
    let login = ["--user", &user, "--identity", &key];
    let login = [&login[..], &strict].concat();
    let refused = |words: &str| {
        let mut daemon = certified.far.launch(&login, &[]);
        assert_eq!(daemon.wait().0, 1);
        assert!(daemon.stderr().contains(words), "{}", daemon.stderr());
    };
    refused("is not known");
    certified.known_hosts(&["@cert-authority"]);
    certified.far.launch(&login, &[]).expect("ready");
    certified.known_hosts(&["@cert-authority", "@revoked"]);
    refused("revoked");
}
