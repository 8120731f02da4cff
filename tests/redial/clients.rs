//! Clients besides OpenSSH: libraries that keep one connection for everything.

use std::path::Path;

use super::Loss;
use crate::common::process::Run;
use crate::common::{skip, until, which};

/// Runs `script` in `world`, and lets the loss happen when it asks for it.
///
/// It is called with where to log in and a directory; it makes the file `lose` there and waits until that is gone.
fn run(script: &str, module: &str, loss: Loss) {
    let python = std::env::var("SSMSHIM_TEST_PYTHON").unwrap_or("/usr/bin/python3".to_owned());
    let has_module = which(&python).is_some()
        && Run::new(&python)
            .args(["-c", &format!("import {module}")])
            .output()
            .code
            == 0;
    if !has_module {
        assert!(
            std::env::var_os("CI").is_none(),
            "{module} is not installed, and CI must not skip"
        );
        return skip(&format!("{python} with {module} is not installed"));
    }
    let Some(world) = crate::world("", &[]) else {
        return;
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/redial")
        .join(script);
    let mut client = Run::new(&python)
        .args(["-B", "-W", "ignore"])
        .arg(source)
        .arg(world.target.port.to_string())
        .args([
            &world.target.user,
            &world.target.identity.display().to_string(),
        ])
        .arg(world.text(""))
        .env("HOME", world.path(""))
        .env("SSH_AUTH_SOCK", "")
        .piped();
    let lose = world.path("lose");
    for _ in 0..2 {
        until("the client is ready", || {
            let ended = client.try_wait(std::time::Duration::ZERO);
            assert!(ended.is_none(), "{script}: {ended:?}: {}", client.stderr());
            lose.exists().then_some(())
        });
        loss.strike(&world);
        std::fs::remove_file(&lose).expect("the client made it");
    }
    let status = client.wait(crate::common::DEADLINE);
    assert!(status.success(), "{script}: {}", client.stderr());
}

#[test]
fn paramiko_keeps_its_connection() {
    for loss in [Loss::SessionsKilled, Loss::SessionTerminated] {
        run("with_paramiko.py", "paramiko", loss);
    }
}

#[test]
fn asyncssh_keeps_its_connection() {
    for loss in [Loss::SessionsKilled, Loss::SessionTerminated] {
        run("with_asyncssh.py", "asyncssh", loss);
    }
}
