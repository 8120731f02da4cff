//! Clients besides OpenSSH: libraries that keep one connection for everything.

use std::path::Path;

use super::Loss;
use crate::common::world::World;
use crate::common::{script, until};

/// Runs `script` in `world`, and lets the loss happen when it asks for it.
///
/// It is called with where to log in and a directory; it makes the file `lose` there and waits until that is gone.
fn run(name: &str, module: &str, loss: Loss) {
    let Ok(python) = script::python(module) else {
        return;
    };
    let Some(world) = World::serve_with("", &[]) else {
        return;
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/redial")
        .join(name);
    let mut client = script::log_in(&world, python.arg(source)).piped();
    let lose = world.path("lose");
    for _ in 0..2 {
        until("the client is ready", || {
            let ended = client.try_wait(std::time::Duration::ZERO);
            assert!(ended.is_none(), "{name}: {ended:?}: {}", client.stderr());
            lose.exists().then_some(())
        });
        loss.strike(&world);
        std::fs::remove_file(&lose).expect("the client made it");
    }
    let status = client.wait(crate::common::DEADLINE);
    assert!(status.success(), "{name}: {}", client.stderr());
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
