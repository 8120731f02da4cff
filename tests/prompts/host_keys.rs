//! Host keys of the target, in our file and in those of OpenSSH.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::common::have;
use crate::common::process::Run;
use crate::common::sshd::{Sshd, make_key};
use crate::common::world::user;
use crate::far::Far;

/// The daemon learns a key from the user's file, adds new ones to its own, and stops at another one.
#[test]
fn host_keys_are_known_from_the_files_of_openssh() {
    if !have("ssh-keygen") {
        return;
    }
    let mut sshd = None;
    let far = Far::new(|directory| {
        sshd = Sshd::start(&directory.join("sshd"));
        sshd.as_ref().map_or(0, |sshd| sshd.port)
    });
    let Some(sshd) = sshd else { return };
    let identity = sshd.identity.display().to_string();
    let user = user();
    let serve = |more: &[&str]| {
        let first = ["--user", &user, "--identity", &identity, "--json"];
        far.launch(&[&first, more].concat(), &[])
    };
    let own = far.home().join("state/ssmshim/known_hosts");
    let of_user = far.home().join(".ssh/known_hosts");
    let name = format!("[{}]:{}", far.target(), far.port);
    let finds = |file: &Path| {
        let find = Run::new("ssh-keygen").args(["-F", &name, "-f"]).arg(file);
        find.output().code == 0
    };

    let strict = ["--strict-host-key", "yes"];
    let mut daemon = serve(&strict);
    assert_eq!(daemon.wait().0, 1);
    assert!(
        daemon.stderr().contains("is not known"),
        "{}",
        daemon.stderr()
    );
    let daemon = serve(&[]);
    assert_eq!(daemon.next_event()["event"], "ready");
    drop(daemon);
    assert!(finds(&own));
    let mode = fs::metadata(&own).expect("it was written").mode();
    assert_eq!(mode & 0o777, 0o600);

    // Hashed, and with the user alone.
    fs::create_dir_all(far.home().join(".ssh")).expect("our own directory");
    fs::rename(&own, &of_user).expect("our own file");
    Run::new("ssh-keygen").arg("-Hf").arg(&of_user).ok();
    let daemon = serve(&strict);
    assert_eq!(daemon.next_event()["event"], "ready");
    drop(daemon);
    assert!(!own.exists());

    // Somebody else, or the machine was set up anew.
    let other = far.directory.path().join("other");
    make_key(&other);
    let public = fs::read_to_string(other.with_extension("pub")).expect("ssh-keygen made it");
    fs::write(&of_user, format!("{name} {public}")).expect("our own file");
    let mut daemon = serve(&[]);
    assert_eq!(daemon.wait().0, 1);
    let remedy = format!("ssh-keygen -R '{name}' -f '{}'", of_user.display());
    for part in [&remedy, &format!("{}:1 has SHA256:", of_user.display())] {
        assert!(
            daemon.stderr().contains(part),
            "{part}: {}",
            daemon.stderr()
        );
    }
    Run::new("sh").args(["-c", &remedy]).ok();
    let daemon = serve(&[]);
    assert_eq!(daemon.next_event()["event"], "ready");
}
