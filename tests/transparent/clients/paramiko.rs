//! paramiko (Python); the cases are in `with_paramiko.py`.

use crate::common::world::World;
use crate::seen::Seen;

super::scripted! {
    run,
    // The embedded server has displays.
    compared: {
        failures,
    }
    everywhere: {
        commands,
        bulk,
        small_windows,
        half_close,
        unread_output,
        environment,
        terminal,
        shell,
        sftp_files,
        sftp_bulk,
        local_forward,
        remote_forward,
        global_requests,
        rekey,
        compression,
        every_cipher,
        many_channels,
    }
}

fn run(world: &World, seen: &mut Seen, case: &str) {
    super::python(world, seen, "with_paramiko.py", "paramiko", case);
}
