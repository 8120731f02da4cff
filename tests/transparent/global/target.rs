//! A target that makes difficulties, of which a direct connection would show something else: what a person sees
//! through us. These cannot be compared; the direct outcome is asserted beside ours where there is one.

use rustix::process::{Pid, Signal};

use crate::common::until;
use crate::common::world::World;
use crate::raw::{Heard, Raw};

/// The processes of sshd that serve a connection each, spare ones among them.
fn sessions_of(sshd: u32) -> Vec<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{sshd}/task/{sshd}/children"));
    let children = children.unwrap_or_default();
    children.split_whitespace().map(super::pid).collect()
}

/// Ends every connection to the target, those that wait for a client too.
fn end_all_sessions(world: &World) {
    let sshd = world.sshd.as_ref().expect("a real sshd").id();
    for pid in sessions_of(sshd) {
        let _gone = rustix::process::kill_process(pid, Signal::KILL);
        until("a session ends", || {
            (!sessions_of(sshd).contains(&pid)).then_some(())
        });
    }
}

/// sshd has lost every connection between two clients: the second one does not notice.
#[test]
fn sessions_killed_between_two_clients() {
    let Some([direct, shim]) = World::both("") else {
        return;
    };
    for world in [&direct, &shim] {
        for status in 0..3 {
            let output = world.ssh(&[], &format!("exit {status}")).output();
            assert_eq!(output.code, status, "{}", output.stderr);
            end_all_sessions(world);
        }
    }
}

/// The key is not taken any more: the client is told whose refusal it is, and of what.
#[test]
fn login_refused_by_the_target() {
    let Some([direct, shim]) = World::both("") else {
        return;
    };
    shim.ssh(&[], "true").ok();
    let keys = direct.target.identity.with_file_name("authorized_keys");
    std::fs::write(&keys, "").expect("our own file");
    end_all_sessions(&shim);

    let refused = direct.ssh(&[], "true").output();
    assert_eq!(refused.code, 255);
    assert!(
        refused.stderr.contains("Permission denied"),
        "{}",
        refused.stderr
    );
    // OpenSSH says why a channel was refused at its usual level of messages only.
    let refused = shim.ssh(&["-o", "LogLevel=INFO"], "true").output();
    assert_eq!(refused.code, 255);
    for words in ["ssmshim: ", "cannot log in", "hint: "] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
}

/// A login that works again is used by the next client, without a restart.
#[test]
fn login_restored_by_the_target() {
    let Some([direct, shim]) = World::both("") else {
        return;
    };
    let keys = direct.target.identity.with_file_name("authorized_keys");
    let permitted = std::fs::read_to_string(&keys).expect("our own file");
    shim.ssh(&[], "true").ok();
    std::fs::write(&keys, "").expect("our own file");
    end_all_sessions(&shim);
    assert_eq!(shim.ssh(&[], "true").output().code, 255);
    std::fs::write(&keys, permitted).expect("our own file");
    let output = shim.ssh(&[], "exit 3").output();
    assert_eq!(output.code, 3, "{}", output.stderr);
}

/// The keys that the target's sshd announces are not those that clients know us by.
#[test]
fn host_keys_of_the_target_are_not_announced() {
    let Some([direct, shim]) = World::both("") else {
        return;
    };
    for (world, is_announced) in [(&direct, true), (&shim, false)] {
        let mut client = Raw::connect(world);
        client.global("keepalive@openssh.com", true, |_| {});
        let mut heard = Vec::new();
        while heard.last() != Some(&Heard::GlobalFailure) {
            heard.push(client.next_of_all());
        }
        let announced = heard.iter().any(|message| {
            matches!(message, Heard::Global { name, .. } if name == "hostkeys-00@openssh.com")
        });
        assert_eq!(announced, is_announced, "{heard:?}");
    }
}

/// A client that runs far ahead of a window is sent away, before what it sends fills the memory; sshd throws the
/// rest away.
#[test]
fn overrun_window() {
    let Some([_direct, shim]) = World::both("") else {
        return;
    };
    let mut client = Raw::connect(&shim);
    let channel = client.session(0);
    // A session has no window until there is a command, and we hold 2 MiB all the same.
    for _ in 0..65 {
        client.data(channel, &[b'x'; 32 << 10]);
    }
    let end = client.next();
    let Heard::End(Some((2, text))) = &end else {
        panic!("not sent away: {end:?}");
    };
    assert!(text.contains("peer ignored channel window"), "{text}");
}
