//! asyncssh (Python); the cases are in `with_asyncssh.py`.

use crate::common::world::World;
use crate::seen::Seen;

super::scripted! {
    run,
    // The embedded server delivers the signals that sshd refuses where it runs as root, has displays, and takes the
    // file of a socket away when its forward ends.
    compared: {
        signals,
        refusals,
        unix_connections,
    }
    everywhere: {
        commands,
        bulk,
        redirection,
        half_close,
        environment,
        terminal,
        sftp_files,
        sftp_parallel,
        copies,
        connections,
        local_forwards,
        remote_forwards,
        socks,
        agent,
        rekey,
        every_algorithm,
        keepalives,
        many_sessions,
        disconnect,
    }
}

fn run(world: &World, seen: &mut Seen, case: &str) {
    super::python(world, seen, "with_asyncssh.py", "asyncssh", case);
}
