//! Killed in the midst of it, at either end of a daemon's socket: the other end knows at once, and keeps nothing.

use std::fs;
use std::io::Write as _;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::process::{Running, code, read_until};
use crate::common::{DEADLINE, have, until};
use crate::{Near, Way, text, three, until_ended};

#[test]
fn a_copy_ends_with_a_killed_daemon() {
    if !have("scp") {
        return;
    }
    for is_upload in [true, false] {
        let Some(mut near) = Near::start(Way::Shared) else {
            return;
        };
        let [here, there, _] = three(&near, 16 << 20);
        near.faulty
            .inject(r#"{"fault": "link", "bytes_per_second": 200000}"#);
        let world = &near.faulty.world;
        let (from, to) = match is_upload {
            true => (text(&here), world.remote(&there)),
            false => (world.remote(&here), text(&there)),
        };
        let scp = world.scp(&[&near.option()]);
        let mut scp = scp.args([from, to]).background();
        until("it has begun", || {
            let copied = fs::metadata(&there).ok()?;
            (copied.len() > 0).then_some(())
        });
        let mut daemon = near.faulty.world.daemon.take().expect("it is shared");
        daemon.signal(Signal::KILL);
        daemon.wait();
        assert_ne!(code(scp.wait(DEADLINE)), 0);
        let said = scp.stderr();
        let text =
            "error: the ssmshim daemon that carried the connection is gone\nhint: connect again";
        assert!(said.contains(text), "upload {is_upload}: {said}");
        until_ended(near.latest());
    }
}

/// A session with more under way than ever ends, and the process at the far end that has a part in it.
struct Transfer {
    ssh: Running,
    far: Pid,
}

impl Transfer {
    fn start(near: &Near, is_upload: bool) -> Self {
        let command = match is_upload {
            true => "echo $$ established; exec cat > /dev/null",
            false => "echo $$ established; exec cat /dev/zero",
        };
        let mut ssh = near.ssh(&[], command).piped();
        let mut stdin = ssh.take_stdin();
        let said = read_until(ssh.take_stdout(), "established");
        let far = said.as_deref().and_then(|said| {
            let id = said.split_whitespace().next()?;
            Pid::from_raw(id.parse().ok()?)
        });
        let Some(far) = far else {
            panic!("not established: {said:?} {}", ssh.stderr());
        };
        if is_upload {
            thread::spawn(move || while stdin.write_all(&[0; 1 << 16]).is_ok() {});
        }
        Self { ssh, far }
    }
}

/// An ssh that is killed leaves its `connect` behind for a moment, and the other way round.
#[test]
fn a_daemon_keeps_nothing_of_killed_clients() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    near.ssh(&[], "true").ok();
    let before = near.daemon().descriptors();
    let mut killed = 0;
    for is_upload in [true, false] {
        for is_ssh in [true, false] {
            let mut transfers = [(); 2].map(|()| {
                let transfer = Transfer::start(&near, is_upload);
                (transfer, near.latest())
            });
            for (transfer, connect) in &mut transfers {
                match is_ssh {
                    true => transfer.ssh.signal(Signal::KILL),
                    false => kill_process(*connect, Signal::KILL).expect("it runs"),
                }
                killed += 1;
            }
            for (mut transfer, connect) in transfers {
                transfer.ssh.wait(DEADLINE);
                until_ended(connect);
                until_ended(transfer.far);
            }
        }
    }
    // But for what it has opened for itself meanwhile.
    until("its connections are closed", || {
        (near.daemon().descriptors() < before + killed / 2).then_some(())
    });
    assert_eq!(near.ssh(&[], "echo works").ok().text(), "works");
    near.until_tidy();
    assert_eq!(near.all_sessions(), 1, "it was shared");
}
